//! What the daemon refuses and why: a reason that a program can branch on.
//!
//! The daemon sends google.rpc.ErrorInfo with every error of its own. An error without one comes from the transport.

use std::collections::HashMap;
use std::fmt;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::proto::OperationError;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// Why a request was refused: the stable part of an error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            /// The error is not the daemon's: the connection broke, or a limit of time has passed.
            Transport,
            /// A reason that this version of the client does not know; [`Failure::text`] has it.
            Unknown,
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// Every reason that this version knows, with the daemon's word for it.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

reasons! {
    /// A fault of the daemon or of QEMU.
    InternalError = "INTERNAL_ERROR",
    /// The daemon does not serve this.
    NoSupport = "NO_SUPPORT",
    /// The URI does not name this daemon.
    NoConnect = "NO_CONNECT",
    /// An argument is out of its range; [`Failure::fields`] names it.
    InvalidArg = "INVALID_ARG",
    /// It was tried and failed.
    OperationFailed = "OPERATION_FAILED",
    /// A document is not what it has to be.
    XmlError = "XML_ERROR",
    /// Name or UUID are taken.
    DomExist = "DOM_EXIST",
    /// The caller may only read.
    OperationDenied = "OPERATION_DENIED",
    /// A file cannot be opened.
    OpenFailed = "OPEN_FAILED",
    /// A disk has no source.
    NoSource = "NO_SOURCE",
    /// A device has no target.
    NoTarget = "NO_TARGET",
    /// A document has no name.
    NoName = "NO_NAME",
    /// A configuration file has a wrong form.
    ConfSyntax = "CONF_SYNTAX",
    /// A document does not parse; the message has line and place.
    XmlDetail = "XML_DETAIL",
    /// The operating system refused.
    SystemError = "SYSTEM_ERROR",
    /// The request breaks the protocol.
    Rpc = "RPC",
    /// No such guest.
    NoDomain = "NO_DOMAIN",
    /// No such network.
    NoNetwork = "NO_NETWORK",
    /// Another daemon does not know this one.
    AuthFailed = "AUTH_FAILED",
    /// No such storage pool.
    NoStoragePool = "NO_STORAGE_POOL",
    /// No such storage volume.
    NoStorageVol = "NO_STORAGE_VOL",
    /// No such node device.
    NoNodeDevice = "NO_NODE_DEVICE",
    /// The guest's state does not allow it.
    OperationInvalid = "OPERATION_INVALID",
    /// No such network filter.
    NoNwfilter = "NO_NWFILTER",
    /// The secret cannot be used.
    InvalidSecret = "INVALID_SECRET",
    /// No such secret, or it has no value.
    NoSecret = "NO_SECRET",
    /// This host or QEMU cannot do what the document asks for.
    ConfigUnsupported = "CONFIG_UNSUPPORTED",
    /// It took too long.
    OperationTimeout = "OPERATION_TIMEOUT",
    /// An argument is not served.
    ArgumentUnsupported = "ARGUMENT_UNSUPPORTED",
    /// It was cancelled.
    OperationAborted = "OPERATION_ABORTED",
    /// The guest has no such metadata.
    NoDomainMetadata = "NO_DOMAIN_METADATA",
    /// No such snapshot.
    NoDomainSnapshot = "NO_DOMAIN_SNAPSHOT",
    /// Going back to a snapshot would lose something, and the request did not say that it may.
    SnapshotRevertRisky = "SNAPSHOT_REVERT_RISKY",
    /// A number does not fit.
    Overflow = "OVERFLOW",
    /// A copy of the disk is at work, or not far enough.
    BlockCopyActive = "BLOCK_COPY_ACTIVE",
    /// This QEMU or guest cannot do it.
    OperationUnsupported = "OPERATION_UNSUPPORTED",
    /// The guest's agent does not answer.
    AgentUnresponsive = "AGENT_UNRESPONSIVE",
    /// Something else has it.
    ResourceBusy = "RESOURCE_BUSY",
    /// The guest has no such checkpoint.
    NoDomainCheckpoint = "NO_DOMAIN_CHECKPOINT",
    /// No backup of the guest is under way.
    NoDomainBackup = "NO_DOMAIN_BACKUP",
    /// What records the writes since a checkpoint is not there, or of no use.
    CheckpointInconsistent = "CHECKPOINT_INCONSISTENT",
    /// Policy does not allow it.
    AccessDenied = "ACCESS_DENIED",
    /// The guest cannot have this CPU on this host.
    CpuIncompatible = "CPU_INCOMPATIBLE",
    /// The document does not fit the schema.
    XmlInvalidSchema = "XML_INVALID_SCHEMA",
    /// The daemon has no such server.
    NoServer = "NO_SERVER",
    /// The server has no such client.
    NoClient = "NO_CLIENT",
    /// A script of the administrator says no, or failed.
    HookScriptFailed = "HOOK_SCRIPT_FAILED",
    /// No such device in the guest.
    DeviceMissing = "DEVICE_MISSING",
    /// No filter is bound to that port.
    NoNwfilterBinding = "NO_NWFILTER_BINDING",
    /// No such port of a network.
    NoNetworkPort = "NO_NETWORK_PORT",
    /// No name of the guest is known.
    NoHostname = "NO_HOSTNAME",
    /// Several guests match where one was meant.
    MultipleDomains = "MULTIPLE_DOMAINS",
    /// The guest's agent is there but slow; the command may still be carried out.
    AgentCommandTimeout = "AGENT_COMMAND_TIMEOUT",
    /// The guest's agent refused.
    AgentCommandFailed = "AGENT_COMMAND_FAILED",
    /// The guest's agent does not know the command, or may not carry it out.
    AgentCommandUnknown = "AGENT_COMMAND_UNKNOWN",
    /// A document breaks a rule.
    DocumentInvalid = "DOCUMENT_INVALID",
    /// Another caller has the console.
    ConsoleInUse = "CONSOLE_IN_USE",
    /// The guest has changed since its etag was read: read it again.
    EtagMismatch = "ETAG_MISMATCH",
    /// The guest's process does not end.
    ProcessDoesNotEnd = "PROCESS_DOES_NOT_END",
    /// The daemon cannot reach the guest's QEMU.
    Unreachable = "UNREACHABLE",
    /// A different request was made with this request_id.
    RequestIdReused = "REQUEST_ID_REUSED",
    /// The daemon ended while it carried out the request with this request_id: look whether it was done.
    RequestInterrupted = "REQUEST_INTERRUPTED",
    /// The watch did not keep up: resume from the last version that it saw.
    SlowWatcher = "SLOW_WATCHER",
    /// The journal no longer reaches back to the version: list again.
    VersionExpired = "VERSION_EXPIRED",
    /// The daemon ends: resume when it is back.
    DaemonStops = "DAEMON_STOPS",
    /// There is no operation of that id, or it is kept no longer.
    NoOperation = "NO_OPERATION",
    /// The daemon ended in the middle of the operation, and the next one has undone it.
    OperationUndone = "OPERATION_UNDONE",
    /// The guest refuses to let the device go.
    UnplugRejected = "UNPLUG_REJECTED",
    /// QEMU refused a command; the message has its words.
    QemuRefused = "QEMU_REFUSED",
    /// QEMU's monitor cannot be reached.
    MonitorUnreachable = "MONITOR_UNREACHABLE",
    /// QEMU's monitor was closed while a command was under way: it may have been carried out.
    MonitorClosed = "MONITOR_CLOSED",
    /// QEMU did not answer a command in time: it may still carry it out.
    MonitorTimeout = "MONITOR_TIMEOUT",
    /// QEMU's monitor does not speak its protocol.
    MonitorProtocol = "MONITOR_PROTOCOL",
    /// The command is not one of QEMU's monitor.
    NotAQmpCommand = "NOT_A_QMP_COMMAND",
    /// QEMU ended before the guest was started; the message has its last words.
    QemuExited = "QEMU_EXITED",
    /// QEMU could not be started.
    QemuNotStarted = "QEMU_NOT_STARTED",
    /// What a QEMU binary can do could not be found out.
    QemuProbeFailed = "QEMU_PROBE_FAILED",
    /// A QEMU binary cannot be run.
    QemuBinaryUnusable = "QEMU_BINARY_UNUSABLE",
    /// A QEMU binary is too old or of a kind that is not supported.
    QemuBinaryUnsupported = "QEMU_BINARY_UNSUPPORTED",
    /// A QEMU binary was replaced while it was asked what it can do: try again.
    QemuBinaryChanged = "QEMU_BINARY_CHANGED",
    /// The emulator is none of those that the host's own search finds.
    EmulatorNotFoundByHost = "EMULATOR_NOT_FOUND_BY_HOST",
    /// A program that serves a guest does not end.
    HelperDoesNotEnd = "HELPER_DOES_NOT_END",
    /// The state of a TPM could not be made.
    TpmNotMade = "TPM_NOT_MADE",
    /// A TPM's emulator could not be started.
    TpmNotStarted = "TPM_NOT_STARTED",
    /// The guest's agent went away in the middle of a command.
    AgentGone = "AGENT_GONE",
    /// The stored configuration was replaced again and again while the request was prepared: try again.
    ConfigChangedMeanwhile = "CONFIG_CHANGED_MEANWHILE",
    /// The guest went away in the middle of the request.
    DomainGone = "DOMAIN_GONE",
    /// Another daemon that is needed cannot be reached.
    PeerUnreachable = "PEER_UNREACHABLE",
}

impl Reason {
    fn of(text: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, known)| *known == text);
        found.map_or(Self::Unknown, |(reason, _)| *reason)
    }
}

/// An error of a call.
#[derive(Clone, Debug)]
pub struct Failure {
    /// gRPC's code.
    pub code: Code,
    /// Why.
    pub reason: Reason,
    /// The daemon's word for the reason; empty for [`Reason::Transport`].
    pub text: String,
    /// The message, for people.
    pub message: String,
    /// Fields of the request that are refused, and why.
    pub fields: Vec<(String, String)>,
    /// More facts: `libvirt_code` and `libvirt_domain` (libvirt's numbers), `libvirt_detail`, `errno`.
    pub metadata: HashMap<String, String>,
    pub(crate) status: Box<Status>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details
            .bad_request()
            .into_iter()
            .flat_map(|bad| &bad.field_violations);
        Self {
            code: status.code(),
            reason: info.map_or(Reason::Transport, |info| Reason::of(&info.reason)),
            text: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            fields: violations
                .map(|bad| (bad.field.clone(), bad.description.clone()))
                .collect(),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            status: Box::new(status),
        }
    }
}

/// What the call would have failed with that the operation stands for.
impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        let details = ErrorDetails::with_error_info(error.reason, "virtqemud", error.metadata);
        Self::from(Status::with_error_details(
            Code::from_i32(error.code),
            error.message,
            details,
        ))
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        *failure.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.as_str() {
            "" => write!(f, "{} ({:?})", self.message, self.code),
            reason => write!(f, "{} ({reason})", self.message),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_the_daemon_has_a_reason_and_its_fields() {
        let mut details = ErrorDetails::with_error_info("NO_DOMAIN", "virtqemud", HashMap::new());
        details.add_bad_request_violation("domain", "there is none");
        let status = Status::with_error_details(Code::NotFound, "Domain not found: x", details);
        let failure = Failure::from(status);
        assert_eq!(
            (failure.reason, failure.text.as_str()),
            (Reason::NoDomain, "NO_DOMAIN")
        );
        assert_eq!(
            failure.fields,
            [("domain".to_owned(), "there is none".to_owned())]
        );
        assert_eq!(failure.to_string(), "Domain not found: x (NO_DOMAIN)");
    }

    #[test]
    fn a_failed_operation_is_told_as_a_call_is() {
        let error = OperationError {
            code: Code::NotFound.into(),
            message: "Domain not found: x".to_owned(),
            reason: "NO_DOMAIN".to_owned(),
            metadata: HashMap::from([("libvirt_code".to_owned(), "42".to_owned())]),
        };
        let failure = Failure::from(error);
        assert_eq!((failure.code, failure.reason), (Code::NotFound, Reason::NoDomain));
        let again = Failure::from(Status::from(failure));
        assert_eq!(again.metadata["libvirt_code"], "42");
    }

    #[test]
    fn other_errors_are_the_transports_or_of_a_later_version() {
        assert_eq!(
            Failure::from(Status::unavailable("gone")).reason,
            Reason::Transport
        );
        let details = ErrorDetails::with_error_info("NEWS", "virtqemud", HashMap::new());
        let failure = Failure::from(Status::with_error_details(Code::Internal, "x", details));
        assert_eq!((failure.reason, failure.text.as_str()), (Reason::Unknown, "NEWS"));
    }
}
