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
/// The file is to begin empty.
const TRUNCATE: u32 = 1;

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

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStart {
    /// It is emptied.
    Empty,
    /// It goes on.
    Kept,
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
        let (mut client, pipe) = self.open_one(file, 0).await?;
        let dom = LogDomain {
            uuid: wire_uuid(file.uuid),
            name: file.name.into(),
        };
        let path = file.path.to_string_lossy().into_owned().into();
        let head = DomainAppendLogFile {
            driver: DRIVER.into(),
            dom,
            path,
            message: text.into(),
            flags: 0,
        };
        self.limited(&head, client.call(&head)).await?;
        Ok(pipe)
    }

    /// Opens a file that a guest's device writes to: what is written there comes into the file until the last copy of the
    /// descriptor is closed.
    ///
    /// # Errors
    /// As [`Self::open_log`].
    pub async fn open_log_file(&self, file: LogFile<'_>, start: LogStart) -> Result<OwnedFd> {
        let flags = if start == LogStart::Empty { TRUNCATE } else { 0 };
        Ok(self.open_one(file, flags).await?.1)
    }

    async fn open_one(&self, file: LogFile<'_>, flags: u32) -> Result<(Client, OwnedFd)> {
        let socket = self.directory.join(SOCKET);
        let absent = |error| {
            Error::system(
                format!("Failed to connect socket to '{}'", socket.display()),
                error,
            )
            .in_area(Area::Rpc)
        };
        let connected = tokio::time::timeout(self.opening, Client::connect(&socket)).await;
        let mut client = connected
            .map_err(|_| late("virtlogd", "connecting", self.opening))?
            .map_err(absent)
            .map_err(unanswered)?;
        let dom = LogDomain {
            uuid: wire_uuid(file.uuid),
            name: file.name.into(),
        };
        let path = file.path.to_string_lossy().into_owned().into();
        let open = DomainOpenLogFile {
            driver: DRIVER.into(),
            dom,
            path,
            flags,
        };
        let (_, mut fds) = self.limited(&open, client.call_for_fds(&open)).await?;
        let pipe = fds.pop().ok_or_else(|| {
            Error::internal("virtlogd sent no descriptor to write the log to").in_area(Area::Rpc)
        })?;
        Ok((client, pipe))
    }

    async fn limited<P: Procedure, T>(
        &self,
        _: &P,
        call: impl Future<Output = Result<T, wire::client::ClientError>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.call, call).await {
            Ok(answer) => answer.map_err(told),
            Err(_) => Err(late("virtlogd", P::INFO.name, self.call)),
        }
    }
}
