//! virtlogd: it writes what QEMU says into the guest's log, and rotates that, also while no other daemon runs.

use std::{os::fd::OwnedFd, path::Path};

use uuid::Uuid;
use wire::{
    Procedure,
    client::Client,
    log::{DomainAppendLogFile, DomainOpenLogFile, LogDomain},
};

use super::{Peers, late, told, unanswered, wire_uuid};
use crate::error::{Area, Error, Result};

/// Its socket, among the other daemons'.
const SOCKET: &str = "virtlogd-sock";
/// Whose logs they are.
const DRIVER: &str = "qemu";

/// A guest's log.
#[derive(Clone, Copy, Debug)]
pub struct LogFile<'a> {
    /// The guest.
    pub uuid: Uuid,
    /// Its name.
    pub name: &'a str,
    /// The file.
    pub path: &'a Path,
}

impl Peers {
    /// Whether there is a virtlogd, or systemd listens for it.
    pub fn has_logd(&self) -> bool {
        self.directory.join(SOCKET).exists()
    }

    /// Appends `text` to a guest's log, and opens it for QEMU to write to: what is written there comes into the log
    /// until the last copy of the descriptor is closed.
    ///
    /// # Errors
    /// `System` if nobody listens, what virtlogd says, or `OperationTimeout`.
    pub async fn open_log(&self, file: LogFile<'_>, text: &str) -> Result<OwnedFd> {
        let path = self.directory.join(SOCKET);
        let absent = |error| Error::system(format!("Failed to connect socket to '{}'", path.display()), error).in_area(Area::Rpc);
        let connected = tokio::time::timeout(self.opening, Client::connect(&path)).await;
        let mut client = connected.map_err(|_| late("virtlogd", "connecting", self.opening))?.map_err(absent).map_err(unanswered)?;
        let driver = || DRIVER.into();
        let dom = || LogDomain { uuid: wire_uuid(file.uuid), name: file.name.into() };
        let log = || file.path.to_string_lossy().into_owned().into();
        let open = DomainOpenLogFile { driver: driver(), dom: dom(), path: log(), flags: 0 };
        let (_, mut fds) = self.limited(&open, client.call_for_fds(&open)).await?;
        let pipe = fds.pop().ok_or_else(|| Error::internal("virtlogd sent no descriptor to write the log to").in_area(Area::Rpc))?;
        let head = DomainAppendLogFile { driver: driver(), dom: dom(), path: log(), message: text.into(), flags: 0 };
        self.limited(&head, client.call(&head)).await?;
        Ok(pipe)
    }

    async fn limited<P: Procedure, T>(&self, _: &P, call: impl Future<Output = Result<T, wire::client::ClientError>>) -> Result<T> {
        match tokio::time::timeout(self.call, call).await {
            Ok(answer) => answer.map_err(told),
            Err(_) => Err(late("virtlogd", P::INFO.name, self.call)),
        }
    }
}
