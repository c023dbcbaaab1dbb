//! virtlockd: it keeps two guests from having one resource, on this host and, where hosts share a file system, on all.
//!
//! A resource is held for an owner, which is a process. It is held until it is given back, or until the connection closes
//! that the process itself has made: virtlockd knows that one by the number of who connected, takes back all that is
//! held for it, and kills it should it still live. So a guest's own connection is only registered and left to QEMU; what
//! it is to hold is asked for over connections of ours, which mean nothing when they close.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::UnixStream;
use uuid::Uuid;
use wire::{
    Procedure,
    client::Client,
    lock::{
        ACQUIRE_AUTOCREATE, ACQUIRE_SHARED, AcquireResource, CreateLockspace, LockOwner, Register,
        ReleaseResource, Restrict,
    },
};

use super::{Peers, late, told, unanswered, wire_uuid};
use crate::error::{Area, Error, Result};

/// Its socket, among the other daemons'.
const SOCKET: &str = "virtlockd-sock";
/// For messages.
const NAME: &str = "virtlockd";

/// For whom resources are held.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The guest.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Number of its run.
    pub id: i32,
    /// Its process.
    pub pid: i32,
}

/// What can be held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// The directory that its file is in; empty for a name that is a path itself.
    pub lockspace: String,
    /// The file.
    pub name: String,
    /// Others may hold it too, if they say so as well.
    pub shared: bool,
    /// The file is made for the time that it is held.
    pub create: bool,
}

/// A connection that is registered for one owner.
#[derive(Debug)]
pub struct Locks {
    client: Client,
    /// For one call.
    limit: Duration,
}

impl Peers {
    /// Where virtlockd listens.
    pub fn lock_socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    /// Registers the connection that the holder's process has made and inherits; nothing more can be asked over it then.
    ///
    /// # Errors
    /// What virtlockd says, or `OperationTimeout`.
    pub async fn register_own(&self, socket: OwnedFd, holder: &Holder) -> Result<()> {
        let failed = |error| Error::system("cannot use the connection to virtlockd", error);
        let socket = StdStream::from(socket);
        socket.set_nonblocking(true).map_err(failed)?;
        let client = Client::over(UnixStream::from_std(socket).map_err(failed)?);
        let mut locks = self.register(client, holder).await?;
        locks.call(&Restrict { flags: 0 }).await
    }

    /// A connection over which resources of a holder are taken and given back.
    ///
    /// # Errors
    /// `System` if nobody listens, what virtlockd says, or `OperationTimeout`.
    pub async fn locks(&self, holder: &Holder) -> Result<Locks> {
        let path = self.lock_socket();
        let connected = tokio::time::timeout(self.opening, Client::connect(&path)).await;
        let client = connected
            .map_err(|_| late(NAME, "connecting", self.opening))?
            .map_err(|error| absent(&path, error))?;
        self.register(client, holder).await
    }

    /// Registering is part of opening: who does not answer that is not asked for more.
    async fn register(&self, client: Client, holder: &Holder) -> Result<Locks> {
        let number = |n: i32| u32::try_from(n).unwrap_or(0);
        let owner = LockOwner {
            uuid: wire_uuid(holder.uuid),
            name: holder.name.as_str().into(),
            id: number(holder.id),
            pid: number(holder.pid),
        };
        let mut locks = Locks {
            client,
            limit: self.opening,
        };
        locks.call(&Register { owner, flags: 0 }).await?;
        Ok(Locks {
            limit: self.call,
            ..locks
        })
    }
}

impl Locks {
    /// Takes a resource for its holder. One that the holder has already is taken, too.
    ///
    /// # Errors
    /// `ResourceBusy` if somebody has it, what else virtlockd says, `OperationTimeout`.
    pub async fn acquire(&mut self, resource: &Resource) -> Result<()> {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let flags = flag(resource.shared, ACQUIRE_SHARED) | flag(resource.create, ACQUIRE_AUTOCREATE);
        let (path, name) = (resource.lockspace.as_str().into(), resource.name.as_str().into());
        self.call(&AcquireResource { path, name, flags }).await
    }

    /// Gives a resource of its holder back.
    ///
    /// # Errors
    /// `ResourceBusy` if nobody has it, what else virtlockd says, `OperationTimeout`.
    pub async fn release(&mut self, resource: &Resource) -> Result<()> {
        let (path, name) = (resource.lockspace.as_str().into(), resource.name.as_str().into());
        self.call(&ReleaseResource { path, name, flags: 0 }).await
    }

    /// Makes a directory of resources known, and makes it if need be.
    ///
    /// # Errors
    /// `OperationInvalid` if it is known, what else virtlockd says, `OperationTimeout`.
    pub async fn create_lockspace(&mut self, path: &str) -> Result<()> {
        self.call(&CreateLockspace { path: path.into() }).await
    }

    async fn call<P: Procedure>(&mut self, args: &P) -> Result<P::Reply> {
        match tokio::time::timeout(self.limit, self.client.call(args)).await {
            Ok(answer) => answer.map_err(told),
            Err(_) => Err(late(NAME, P::INFO.name, self.limit)),
        }
    }
}

/// Nobody listens at `path`.
fn absent(path: &Path, error: std::io::Error) -> Error {
    unanswered(
        Error::system(format!("Failed to connect socket to '{}'", path.display()), error).in_area(Area::Rpc),
    )
}
