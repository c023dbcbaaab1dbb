//! Finds a neighbour and opens it for the caller: connect, authenticate, open, tell who calls.

use unixfd::QuietStream;
use wire::client::{Client, ClientError};
use wire::io::Input;
use wire::neighbour::{self, system_error};
use wire::procedure::Owner;
use wire::remote::ConnectSetIdentity;
use wire::{Caller, ErrorCode, ErrorDomain, WireError};

use super::place::Places;

/// An opened connection.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) stream: QuietStream,
    pub(super) input: Input,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Failure {
    /// The daemon that has every driver does not have this one.
    NoDriver,
    /// For another reason.
    Error(Box<WireError>),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Error(Box::new(error))
    }
}

/// Finds and opens the daemon of `owner` for `caller`.
///
/// # Errors
/// When there is none, when it refuses, and when it takes longer than `places` allows.
pub(super) async fn open(owner: Owner, places: Places, caller: Caller) -> Result<Channel, Failure> {
    let limit = places.patience.opening;
    match tokio::time::timeout(limit, attempt(owner, &places, caller)).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!(
                "no answer to opening {} within {} seconds",
                neighbour::uri(owner, places.system),
                limit.as_secs_f32()
            );
            Err(WireError::new(ErrorCode::OPERATION_TIMEOUT, ErrorDomain::RPC, &text).into())
        }
    }
}

async fn attempt(owner: Owner, places: &Places, caller: Caller) -> Result<Channel, Failure> {
    let sockets = neighbour::sockets(&places.directory, owner, caller.peer.read_only);
    let (stream, own) = neighbour::find(&sockets).await?;
    let read_only = caller.peer.read_only;
    let identity = tokio::task::spawn_blocking(move || caller.identity());
    let mut client = Client::over(stream);
    let opened = neighbour::open(&mut client, &neighbour::uri(owner, places.system), read_only).await;
    match opened {
        Err(ClientError::Remote(error)) if error.code == ErrorCode::NO_CONNECT && !own => {
            return Err(Failure::NoDriver);
        }
        opened => opened.map_err(WireError::from)?,
    }
    let params = identity.await.unwrap_or_default().into();
    let told = client.call(&ConnectSetIdentity { params, flags: 0 }).await;
    told.map_err(WireError::from)?;
    let (stream, input) = client.into_parts();
    let stream = QuietStream::new(stream).map_err(|error| system_error("Cannot watch a socket", &error))?;
    Ok(Channel { stream, input })
}

/// The neighbour answered no ping.
pub(super) fn silent() -> WireError {
    WireError::new(
        ErrorCode::INTERNAL_ERROR,
        ErrorDomain::RPC,
        "connection closed due to keepalive timeout",
    )
}
