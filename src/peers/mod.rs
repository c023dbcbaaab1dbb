//! The daemons of the other drivers (networks, storage, node devices, secrets, filters), called by us for a guest.
//!
//! They are told for whom: the caller of ours whose call leads there ([`on_behalf`]), so that they decide about him.
//! `ops` calls it; what it asks for is typed, one file a driver. A connection is opened for a use and closed after it:
//! starts are rare, and a connection that is kept must be watched. Nobody waits for a daemon that hangs: opening and
//! every call have a deadline. An error keeps the code and the area that the other daemon gave it.

mod bus;
mod caller;
mod lock;
mod log;
pub mod logind;
pub mod machined;
mod network;
mod nodedev;
mod nwfilter;
mod secret;
mod storage;
mod token;

use std::{path::PathBuf, time::Duration};

use wire::{
    Owner, Procedure, WireError, client::Client, neighbour, remote::ConnectSetIdentity, typed::TypedParam,
};

pub use bus::Fault;
pub use caller::{current, on_behalf, track};
pub use lock::{Holder, Locks, Resource};
pub use log::{LogFile, LogStart};
pub use network::{Lease, Network, PortId};
pub use nodedev::NodeDevices;
pub use nwfilter::Nwfilter;
pub use secret::{SecretValue, Secrets};
pub use storage::{Storage, VolumePlace};

use crate::error::{Area, Code, Error, Result};

/// Where the other daemons are, and how long they may take.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Directory of their sockets.
    pub directory: PathBuf,
    /// They serve the whole host and not one user.
    pub system: bool,
    /// What daemons of one host share: the token that tells them from clients lies there.
    pub common: PathBuf,
    /// From connecting to the opened connection; systemd may have to start the daemon.
    pub opening: Duration,
    /// For one call.
    pub call: Duration,
}

/// An opened connection to one driver.
struct Connection {
    client: Client,
    /// For messages.
    uri: String,
    limit: Duration,
}

/// Whether somebody may have done what was asked.
///
/// An error that the other daemon told is its answer; where the connection failed there is none, and the same may be
/// tried again later.
pub fn is_unreachable(error: &Error) -> bool {
    error.reason == Some(UNREACHABLE)
}

/// Reason of errors that are no answer.
const UNREACHABLE: &str = "PEER_UNREACHABLE";

impl Peers {
    /// Daemons with sockets in `directory`, with the usual deadlines: 5 s to open, 30 s a call.
    pub fn new(directory: PathBuf, common: PathBuf, system: bool) -> Self {
        Self {
            directory,
            system,
            common,
            opening: Duration::from_secs(5),
            call: Duration::from_secs(30),
        }
    }

    /// The networks.
    ///
    /// # Errors
    /// Nobody serves them, or does so in time.
    pub async fn networks(&self) -> Result<Network> {
        self.open(Owner::Network).await.map(Network)
    }

    /// The storage pools.
    ///
    /// # Errors
    /// As [`Self::networks`].
    pub async fn storage(&self) -> Result<Storage> {
        self.open(Owner::Storage).await.map(Storage)
    }

    /// The devices of the host.
    ///
    /// # Errors
    /// As [`Self::networks`].
    pub async fn node_devices(&self) -> Result<NodeDevices> {
        self.open(Owner::Nodedev).await.map(NodeDevices)
    }

    /// The network filters.
    ///
    /// # Errors
    /// As [`Self::networks`].
    pub async fn nwfilters(&self) -> Result<Nwfilter> {
        self.open(Owner::Nwfilter).await.map(Nwfilter)
    }

    /// The secrets, also the private ones: we are one of the host's daemons.
    ///
    /// # Errors
    /// As [`Self::networks`].
    pub async fn secrets(&self) -> Result<Secrets> {
        let mut connection = self.open_as_daemon(Owner::Secret).await?;
        let (common, caller) = (self.common.clone(), current());
        let identity = move || token::identity(&common, caller.as_ref());
        let identity = crate::blocking::file("reading the token of the host's daemons", identity).await?;
        connection.introduce(identity).await?;
        Ok(Secrets(connection))
    }

    /// Opened for the caller at hand.
    async fn open(&self, owner: Owner) -> Result<Connection> {
        let mut connection = self.open_as_daemon(owner).await?;
        if let Some(caller) = current() {
            let identity =
                crate::blocking::file("asking for the name of a caller", move || Ok(caller.identity()))
                    .await?;
            connection.introduce(identity).await?;
        }
        Ok(connection)
    }

    async fn open_as_daemon(&self, owner: Owner) -> Result<Connection> {
        let uri = neighbour::uri(owner, self.system);
        let opened = tokio::time::timeout(self.opening, self.attempt(owner, &uri)).await;
        let client = opened.unwrap_or_else(|_| Err(late(&uri, "opening", self.opening)))?;
        Ok(Connection {
            client,
            uri,
            limit: self.call,
        })
    }

    async fn attempt(&self, owner: Owner, uri: &str) -> Result<Client> {
        let sockets = neighbour::sockets(&self.directory, owner, false);
        let (stream, _) = neighbour::find(&sockets)
            .await
            .map_err(|error| unanswered(error.into()))?;
        let mut client = Client::over(stream);
        neighbour::open(&mut client, uri, false).await.map_err(told)?;
        Ok(client)
    }
}

impl Connection {
    /// Says for whom the calls to come are.
    async fn introduce(&mut self, identity: Vec<TypedParam>) -> Result<()> {
        self.call(&ConnectSetIdentity {
            params: identity.into(),
            flags: 0,
        })
        .await
    }

    async fn call<P: Procedure>(&mut self, args: &P) -> Result<P::Reply> {
        let answer = tokio::time::timeout(self.limit, self.client.call(args)).await;
        answer.map_or_else(
            |_| Err(late(&self.uri, P::INFO.name, self.limit)),
            |result| result.map_err(told),
        )
    }

    /// A call whose reply is secret.
    async fn call_secret<P: Procedure>(&mut self, args: &P) -> Result<P::Reply> {
        let answer = tokio::time::timeout(self.limit, self.client.call_secret(args)).await;
        answer.map_or_else(
            |_| Err(late(&self.uri, P::INFO.name, self.limit)),
            |result| result.map_err(told),
        )
    }
}

/// Our error for that of a call.
fn told(error: wire::client::ClientError) -> Error {
    let is_answer = matches!(error, wire::client::ClientError::Remote(_));
    let error = Error::from(WireError::from(error));
    if is_answer { error } else { unanswered(error) }
}

/// One of several uses of a connection that could not be opened.
pub fn still_unreachable() -> Error {
    unanswered(Error::internal("the daemon did not answer a moment ago"))
}

fn unanswered(error: Error) -> Error {
    error.because(UNREACHABLE)
}

fn late(uri: &str, what: &str, limit: Duration) -> Error {
    let message = format!("no answer from {uri} to {what} within {} s", limit.as_secs());
    unanswered(Error::new(Code::OperationTimeout, message).in_area(Area::Rpc))
}

/// A UUID as it is on the wire.
fn wire_uuid(uuid: uuid::Uuid) -> wire::xdr::Uuid {
    wire::xdr::Uuid(*uuid.as_bytes())
}

#[cfg(test)]
mod tests;
