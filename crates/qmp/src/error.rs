//! What can go wrong on a monitor, and the words of an end.

use std::sync::Arc;
use std::time::Duration;

use crate::line::TooLong;
use crate::open_enum::open_enum;

/// A command that was not answered as hoped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// Command's name.
        command: String,
        /// Kind of refusal.
        class: ErrorClass,
        /// QEMU's words.
        desc: String,
    },
    /// QEMU did not answer in time. A command that was `sent` may still be carried out.
    #[error("QEMU did not answer {command} within {after:?}")]
    Timeout {
        /// Command's name.
        command: String,
        /// How long was waited.
        after: Duration,
        /// It was written to the monitor; if not, it never will be.
        sent: bool,
    },
    /// The connection ended before the answer.
    #[error("monitor closed before {command} was answered: {closed}")]
    Closed {
        /// Command's name.
        command: String,
        /// Why it ended.
        closed: Closed,
    },
    /// An answer came that is not of the command's shape.
    #[error("QEMU's answer to {command} is not understood: {why}")]
    Reply {
        /// Command's name.
        command: String,
        /// What is wrong with it.
        why: String,
    },
    /// A line came that is no QMP.
    #[error("monitor sent no QMP: {why}: {start:?}")]
    Malformed {
        /// What is wrong with it.
        why: String,
        /// How the line begins.
        start: String,
    },
    /// The command cannot be sent: it is no JSON object with `execute`.
    #[error("not a QMP command: {0}")]
    NotACommand(String),
    /// No connection or no handshake.
    #[error("cannot connect to the monitor: {0}")]
    Connect(String),
}

impl Error {
    /// Class of a refusal.
    #[must_use]
    pub fn class(&self) -> Option<&ErrorClass> {
        match self {
            Self::Refused { class, .. } => Some(class),
            _ => None,
        }
    }
}

open_enum! {
    /// Kind of a refusal, QAPI's `QapiErrorClass`.
    ErrorClass {
        /// All but a few.
        GenericError = "GenericError",
        /// This QEMU has no such command.
        CommandNotFound = "CommandNotFound",
        /// The device is not in use.
        DeviceNotActive = "DeviceNotActive",
        /// There is no such device.
        DeviceNotFound = "DeviceNotFound",
        /// KVM lacks what the command needs.
        KvmMissingCap = "KVMMissingCap",
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Closed {
    /// QEMU closed it, or is gone.
    #[error("end of file from QEMU")]
    EndOfFile,
    /// The socket failed.
    #[error("monitor socket: {0}")]
    Io(Arc<std::io::Error>),
    /// QEMU sent what cannot be understood.
    #[error("{0}")]
    Protocol(String),
    /// Nobody here uses it any more.
    #[error("closed by the daemon")]
    Dropped,
}

impl From<std::io::Error> for Closed {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionReset => Self::EndOfFile,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

impl From<TooLong> for Closed {
    fn from(error: TooLong) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<Error> for Closed {
    fn from(error: Error) -> Self {
        Self::Protocol(error.to_string())
    }
}
