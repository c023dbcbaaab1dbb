//! What a monitor's error means to a caller of ours, in libvirt's words where it has some.

use crate::error::{Code, Error};

impl From<qmp::Error> for Error {
    fn from(error: qmp::Error) -> Self {
        use qmp::Error as E;
        let (code, reason) = match &error {
            E::Refused { .. } => (Code::Internal, "QEMU_REFUSED"),
            E::Timeout { .. } => (Code::OperationTimeout, "MONITOR_TIMEOUT"),
            E::Closed { .. } => (Code::OperationFailed, "MONITOR_CLOSED"),
            E::Connect(_) => (Code::OperationFailed, "MONITOR_UNREACHABLE"),
            E::Reply { .. } | E::Malformed { .. } => (Code::Internal, "MONITOR_PROTOCOL"),
            E::NotACommand(_) => (Code::InvalidArg, "NOT_A_QMP_COMMAND"),
        };
        let message = match &error {
            E::Refused { command, desc, .. } => {
                format!("unable to execute QEMU command '{command}': {desc}")
            }
            E::Timeout { sent: true, .. } => format!("{error}; it may still be carried out"),
            E::Timeout { sent: false, .. } => format!("{error}; it was not sent"),
            other => other.to_string(),
        };
        Self::new(code, message).because(reason).caused_by(error)
    }
}
