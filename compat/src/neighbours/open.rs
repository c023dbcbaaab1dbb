//! Finds a neighbour and opens it for the caller: connect, authenticate, open, tell who calls.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use unixfd::QuietStream;
use wire::client::{Client, ClientError};
use wire::consts::VIR_CONNECT_RO;
use wire::io::Input;
use wire::procedure::Owner;
use wire::remote::{AuthList, AuthPolkit, AuthType, ConnectOpen, ConnectSetIdentity};
use wire::{ErrorCode, ErrorDomain, WireError};

use super::caller::Caller;
use super::place::Places;

/// How long to wait before a socket whose queue is full is tried again.
const FULL: Duration = Duration::from_millis(20);

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
            let text = format!("no answer to opening {} within {} seconds", places.uri(owner), limit.as_secs_f32());
            Err(WireError::new(ErrorCode::OPERATION_TIMEOUT, ErrorDomain::RPC, &text).into())
        }
    }
}

async fn attempt(owner: Owner, places: &Places, caller: Caller) -> Result<Channel, Failure> {
    let sockets = places.sockets(owner, caller.peer.read_only);
    let (stream, own) = find(&sockets).await?;
    let read_only = caller.peer.read_only;
    let identity = tokio::task::spawn_blocking(move || caller.identity());
    let mut client = Client::over(stream);
    let opened = open_at(&mut client, &places.uri(owner), read_only).await;
    match opened {
        Err(ClientError::Remote(error)) if error.code == ErrorCode::NO_CONNECT && !own => return Err(Failure::NoDriver),
        opened => opened.map_err(client_error)?,
    }
    let params = identity.await.unwrap_or_default().into();
    let told = client.call(&ConnectSetIdentity { params, flags: 0 }).await;
    told.map_err(client_error)?;
    let (stream, input) = client.into_parts();
    let stream = QuietStream::new(stream).map_err(|error| system_error("Cannot watch a socket", &error))?;
    Ok(Channel { stream, input })
}

/// Connects to the first that is there; whether that is the first of all. The error is that of the first.
async fn find(sockets: &[PathBuf]) -> Result<(UnixStream, bool), WireError> {
    let mut first = None;
    for (index, path) in sockets.iter().enumerate() {
        match connect(path).await {
            Ok(stream) => return Ok((stream, index == 0)),
            Err(error) => {
                let absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                let failed = system_error(&format!("Failed to connect socket to '{}'", path.display()), &error);
                if !absent {
                    return Err(failed);
                }
                first.get_or_insert(failed);
            }
        }
    }
    Err(first.unwrap_or_default())
}

/// Connects, however long it takes until the daemon has room in its queue.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL).await,
            result => return result,
        }
    }
}

async fn open_at(client: &mut Client, uri: &str, read_only: bool) -> Result<(), ClientError> {
    let types = client.call(&AuthList {}).await?.types;
    if !types.contains(&AuthType::NONE) && !types.is_empty() {
        if !types.contains(&AuthType::POLKIT) {
            let text = "the daemon asks for a way to authenticate that is not between daemons";
            let error = WireError::new(ErrorCode::AUTH_FAILED, ErrorDomain::RPC, text);
            return Err(ClientError::Remote(Box::new(error)));
        }
        client.call(&AuthPolkit {}).await?;
    }
    let flags = if read_only { VIR_CONNECT_RO } else { 0 };
    client.call(&ConnectOpen { name: Some(uri.into()), flags }).await
}

/// Why a neighbour cannot be used, in libvirt's words.
fn client_error(error: ClientError) -> WireError {
    match error {
        ClientError::Remote(error) => *error,
        ClientError::Closed => hung_up(),
        ClientError::Io(error) => system_error("Cannot recv data", &error),
        other => WireError::rpc(&other.to_string()),
    }
}

/// The neighbour closed the connection.
pub(super) fn hung_up() -> WireError {
    const EIO: i32 = 5;
    system_error("End of file while reading data", &io::Error::from_raw_os_error(EIO))
}

/// The neighbour answered no ping.
pub(super) fn silent() -> WireError {
    WireError::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, "connection closed due to keepalive timeout")
}

/// An error of the system while doing `what`.
pub(super) fn system_error(what: &str, error: &io::Error) -> WireError {
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or_default();
    let full = WireError::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, &format!("{what}: {reason}"));
    full.with_ints(error.raw_os_error().unwrap_or(-1), -1)
}
