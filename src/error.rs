//! The one error type of the daemon, in libvirt's vocabulary, and its two faces: gRPC status and log line.
//!
//! Made in every layer, turned into a status by `api`. libvirt's codes are finer than gRPC's and clients switch on
//! them, so they are the truth; one exhaustive match gives the gRPC code. The hard thing is saying each thing once:
//! the code's own prefix ("Domain not found: ") is added here and nowhere else.

use std::{borrow::Cow, error::Error as StdError, fmt, io};

use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What a fallible operation of the daemon gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $num:literal, $reason:literal, $prefix:literal, $grpc:ident;)*) => {
        /// What went wrong, by libvirt's number (virErrorNumber).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Code { $($(#[doc = $doc])* $name = $num,)* }

        impl Code {
            /// Every code that this daemon gives.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code of libvirt's number.
            pub fn of_number(number: i32) -> Option<Self> {
                Self::ALL.iter().copied().find(|c| *c as i32 == number)
            }
            /// The stable reason of `google.rpc.ErrorInfo`.
            pub fn reason(self) -> &'static str {
                match self { $(Code::$name => $reason,)* }
            }
            /// What libvirt writes before the message; empty if nothing.
            pub fn prefix(self) -> &'static str {
                match self { $(Code::$name => $prefix,)* }
            }
            /// The gRPC code.
            pub fn grpc(self) -> Grpc {
                match self { $(Code::$name => Grpc::$grpc,)* }
            }
        }
    };
}

codes! {
    /// A fault of the daemon or of QEMU that no finer code describes.
    Internal = 1, "INTERNAL_ERROR", "internal error", Internal;
    /// A call that this daemon does not serve.
    NoSupport = 3, "NO_SUPPORT", "this function is not supported by the connection driver", Unimplemented;
    /// The URI does not name this daemon.
    NoConnect = 5, "NO_CONNECT", "no connection driver available for", InvalidArgument;
    /// An argument is out of its range.
    InvalidArg = 8, "INVALID_ARG", "invalid argument", InvalidArgument;
    /// The operation was tried and failed.
    OperationFailed = 9, "OPERATION_FAILED", "operation failed", Internal;
    /// A disk of a document has no source; the message says of which.
    NoSource = 19, "NO_SOURCE", "", InvalidArgument;
    /// A device of a document has no target; the message says which.
    NoTarget = 20, "NO_TARGET", "", InvalidArgument;
    /// A document has no name; the message stands alone.
    NoName = 21, "NO_NAME", "", InvalidArgument;
    /// A document is not what it has to be.
    Xml = 27, "XML_ERROR", "XML error", InvalidArgument;
    /// Name or UUID are taken.
    DomExist = 28, "DOM_EXIST", "domain already exists", AlreadyExists;
    /// The caller may only read.
    OperationDenied = 29, "OPERATION_DENIED", "operation forbidden", PermissionDenied;
    /// A file can't be opened.
    OpenFailed = 30, "OPEN_FAILED", "failed to open file", FailedPrecondition;
    /// A configuration file has a wrong form.
    ConfSyntax = 33, "CONF_SYNTAX", "configuration file syntax error", InvalidArgument;
    /// A document does not parse; the message has line and place.
    XmlDetail = 35, "XML_DETAIL", "", InvalidArgument;
    /// The operating system refused; the message ends with its reason.
    System = 38, "SYSTEM_ERROR", "", Internal;
    /// A request breaks the protocol.
    Rpc = 39, "RPC", "", InvalidArgument;
    /// No such guest.
    NoDomain = 42, "NO_DOMAIN", "Domain not found", NotFound;
    /// No such network.
    NoNetwork = 43, "NO_NETWORK", "Network not found", NotFound;
    /// A neighbour does not know us.
    AuthFailed = 45, "AUTH_FAILED", "authentication failed", PermissionDenied;
    /// No such storage pool.
    NoStoragePool = 49, "NO_STORAGE_POOL", "Storage pool not found", NotFound;
    /// No such storage volume.
    NoStorageVol = 50, "NO_STORAGE_VOL", "Storage volume not found", NotFound;
    /// No such node device.
    NoNodeDevice = 53, "NO_NODE_DEVICE", "Node device not found", NotFound;
    /// The guest's state does not allow it.
    OperationInvalid = 55, "OPERATION_INVALID", "Requested operation is not valid", FailedPrecondition;
    /// No such network filter.
    NoNwfilter = 62, "NO_NWFILTER", "Network filter not found", NotFound;
    /// A secret that is private, or is no secret.
    InvalidSecret = 65, "INVALID_SECRET", "Invalid secret", FailedPrecondition;
    /// No such secret, or it has no value.
    NoSecret = 66, "NO_SECRET", "Secret not found", NotFound;
    /// The document asks for what this host or QEMU can't give.
    ConfigUnsupported = 67, "CONFIG_UNSUPPORTED", "unsupported configuration", FailedPrecondition;
    /// It took too long.
    OperationTimeout = 68, "OPERATION_TIMEOUT", "Timed out during operation", DeadlineExceeded;
    /// A script of the administrator says no, or failed.
    HookScriptFailed = 70, "HOOK_SCRIPT_FAILED", "Hook script execution failed", FailedPrecondition;
    /// No such snapshot.
    NoDomainSnapshot = 72, "NO_DOMAIN_SNAPSHOT", "Domain snapshot not found", NotFound;
    /// A flag or parameter is not served.
    ArgumentUnsupported = 74, "ARGUMENT_UNSUPPORTED", "argument unsupported", Unimplemented;
    /// Going back to a snapshot would lose something, and the caller did not say that it may.
    SnapshotRevertRisky = 77, "SNAPSHOT_REVERT_RISKY", "revert requires force", FailedPrecondition;
    /// Somebody cancelled it.
    OperationAborted = 78, "OPERATION_ABORTED", "operation aborted", Aborted;
    /// The guest has no such metadata.
    NoDomainMetadata = 80, "NO_DOMAIN_METADATA", "metadata not found", NotFound;
    /// A number does not fit.
    Overflow = 82, "OVERFLOW", "numerical overflow", OutOfRange;
    /// A copy of the disk is at work, or not far enough.
    BlockCopyActive = 83, "BLOCK_COPY_ACTIVE", "block copy still active", FailedPrecondition;
    /// This QEMU or guest can't do it.
    OperationUnsupported = 84, "OPERATION_UNSUPPORTED", "Operation not supported", Unimplemented;
    /// The guest's agent does not answer.
    AgentUnresponsive = 86, "AGENT_UNRESPONSIVE", "Guest agent is not responding", Unavailable;
    /// Another has it.
    ResourceBusy = 87, "RESOURCE_BUSY", "resource busy", ResourceExhausted;
    /// Policy says no.
    AccessDenied = 88, "ACCESS_DENIED", "access denied", PermissionDenied;
    /// The guest CPU cannot be had on this host.
    CpuIncompatible = 91, "CPU_INCOMPATIBLE", "the CPU is incompatible with host CPU", FailedPrecondition;
    /// The document does not fit the schema.
    XmlInvalidSchema = 92, "XML_INVALID_SCHEMA", "XML document failed to validate against schema", InvalidArgument;
    /// The daemon has no such server.
    NoServer = 95, "NO_SERVER", "Server not found", NotFound;
    /// The server has no such client.
    NoClient = 96, "NO_CLIENT", "Client not found", NotFound;
    /// No such device in the guest.
    DeviceMissing = 99, "DEVICE_MISSING", "device not found", NotFound;
    /// No filter is bound to that port.
    NoNwfilterBinding = 101, "NO_NWFILTER_BINDING", "Network filter binding not found", NotFound;
    /// No such checkpoint.
    NoDomainCheckpoint = 103, "NO_DOMAIN_CHECKPOINT", "Domain checkpoint not found", NotFound;
    /// No backup is under way.
    NoDomainBackup = 104, "NO_DOMAIN_BACKUP", "Domain backup job id not found", NotFound;
    /// No such port of a network.
    NoNetworkPort = 107, "NO_NETWORK_PORT", "network port not found", NotFound;
    /// Nobody knows a name of the guest.
    NoHostname = 108, "NO_HOSTNAME", "no hostname found", NotFound;
    /// What records the writes since a checkpoint is not there, or of no use.
    CheckpointInconsistent = 109, "CHECKPOINT_INCONSISTENT", "checkpoint inconsistent", FailedPrecondition;
    /// Several guests match where one was meant.
    MultipleDomains = 110, "MULTIPLE_DOMAINS", "multiple matching domains found", FailedPrecondition;
    /// The guest's agent is there but slow.
    AgentCommandTimeout = 112, "AGENT_COMMAND_TIMEOUT", "guest agent command timed out", DeadlineExceeded;
    /// The guest's agent refused.
    AgentCommandFailed = 113, "AGENT_COMMAND_FAILED", "guest agent command failed", Internal;
}

macro_rules! areas {
    ($($(#[doc = $doc:literal])* $name:ident = $num:literal,)*) => {
        /// Where in libvirt's house it went wrong (virErrorDomain).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Area { $($(#[doc = $doc])* $name = $num,)* }

        impl Area {
            /// The area of libvirt's number.
            pub fn of_number(number: i32) -> Option<Self> {
                [$(Area::$name),*].into_iter().find(|a| *a as i32 == number)
            }
        }
    };
}

areas! {
    /// No place in particular: argument checks.
    None = 0,
    /// The XML reader.
    Xml = 5,
    /// A guest, seen from outside.
    Dom = 6,
    /// The protocol.
    Rpc = 7,
    /// Configuration files.
    Conf = 9,
    /// The QEMU driver.
    Qemu = 10,
    /// Virtual ports of switches.
    Net = 11,
    /// Files that hold disks.
    Storage = 18,
    /// Networks and their ports.
    Network = 19,
    /// A guest's document.
    Domain = 20,
    /// Node devices.
    Nodedev = 22,
    /// Security labels.
    Security = 24,
    /// Secrets.
    Secret = 30,
    /// CPU models.
    Cpu = 31,
    /// Network filters.
    Nwfilter = 33,
    /// Scripts of the administrator.
    Hook = 34,
    /// Snapshots.
    Snapshot = 35,
    /// Byte streams.
    Streams = 38,
    /// Watches and journal.
    Event = 40,
    /// Leases of disks.
    Locking = 42,
    /// Capabilities.
    Capabilities = 44,
    /// Device documents.
    Device = 49,
    /// What leases are taken on.
    LockSpace = 51,
    /// Control groups.
    Cgroup = 54,
    /// Who may do what.
    Access = 55,
    /// The host's firewall.
    Firewall = 59,
    /// Counters of performance.
    Perf = 65,
    /// Shares of caches and memory bandwidth.
    Resctrl = 67,
    /// Checkpoints.
    Checkpoint = 69,
}

/// An error: what, where, on whom, and what to do about it.
#[derive(Debug)]
pub struct Error {
    /// What went wrong.
    pub code: Code,
    /// Where.
    pub area: Area,
    /// The message without the code's prefix.
    pub message: Cow<'static, str>,
    /// A reason finer than the code's own, for clients of the gRPC service; the code's if none.
    pub reason: Option<&'static str>,
    /// The field of the request that it is about, as a path such as "options.etag".
    pub field: Option<Cow<'static, str>>,
    /// The operating system's error number, if it gave one.
    pub errno: Option<i32>,
    /// What it came from; for the log.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of the QEMU driver, the usual area.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            area: Area::Qemu,
            message: message.into(),
            reason: None,
            field: None,
            errno: None,
            source: None,
        }
    }
    /// A fault that no finer code describes.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Internal, message)
    }
    /// The guest's state does not allow it.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::OperationInvalid, message)
    }
    /// The guest does not run, and would have to.
    pub fn not_running() -> Self {
        Self::invalid("domain is not running").in_area(Area::Domain)
    }
    /// Whether it can't be known if what QEMU was told to do, and gave this error, was done.
    pub fn is_unknown(&self) -> bool {
        self.code == Code::OperationTimeout || matches!(self.reason, Some("UNREACHABLE" | "MONITOR_CLOSED"))
    }
    /// An argument is out of its range.
    pub fn argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidArg, message)
    }
    /// What the operating system refused.
    pub fn system(what: impl fmt::Display, error: io::Error) -> Self {
        let reason = os_text(&error);
        Self {
            errno: error.raw_os_error(),
            ..Self::new(Code::System, format!("{what}: {reason}")).caused_by(error)
        }
    }
    /// The same error in another area.
    #[must_use]
    pub fn in_area(mut self, area: Area) -> Self {
        self.area = area;
        self
    }
    /// The same error with what it came from.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
    /// The same error with more to say.
    #[must_use]
    pub fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        self.message = format!("{}; {detail}", self.message).into();
        self
    }
    /// The same error about a field of the request.
    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }
    /// The same error with a finer reason.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}

/// The operating system's words for an error, without Rust's "(os error N)".
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.prefix() {
            "" => f.write_str(&self.message),
            prefix if self.message.is_empty() => f.write_str(prefix),
            prefix => write!(f, "{prefix}: {}", self.message),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Reasons finer than their code, that gRPC has a code of its own for.
const FINER: &[(&str, Grpc)] = &[
    ("CONSOLE_IN_USE", Grpc::FailedPrecondition),
    ("DOCUMENT_INVALID", Grpc::InvalidArgument),
    ("DOM_EXIST", Grpc::AlreadyExists),
    ("ETAG_MISMATCH", Grpc::Aborted),
    ("NO_OPERATION", Grpc::NotFound),
    ("PROCESS_DOES_NOT_END", Grpc::DeadlineExceeded),
    ("SLOW_WATCHER", Grpc::ResourceExhausted),
    ("UNREACHABLE", Grpc::Unavailable),
    ("VERSION_EXPIRED", Grpc::OutOfRange),
];

/// The gRPC face. Reason, libvirt's numbers and the bare message travel in the details.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        let mut metadata = vec![
            ("libvirt_code".to_owned(), (error.code as i32).to_string()),
            ("libvirt_domain".to_owned(), (error.area as i32).to_string()),
            ("libvirt_detail".to_owned(), error.message.to_string()),
        ];
        if let Some(errno) = error.errno {
            metadata.push(("errno".to_owned(), errno.to_string()));
        }
        let reason = error.reason.unwrap_or(error.code.reason());
        let finer = FINER.iter().find(|(name, _)| *name == reason);
        let grpc = finer.map_or(error.code.grpc(), |(_, grpc)| *grpc);
        let mut details = ErrorDetails::with_error_info(
            reason,
            "virtqemud",
            metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
        if let Some(field) = &error.field {
            details.add_bad_request_violation(field.clone(), error.message.clone());
        }
        Status::with_error_details(grpc, error.to_string(), details)
    }
}

/// Document errors keep libvirt's numbers.
impl From<domxml::Error> for Error {
    fn from(error: domxml::Error) -> Self {
        let number = i32::try_from(error.kind.number()).unwrap_or(0);
        let code = Code::of_number(number).unwrap_or(Code::Xml);
        let area = Area::of_number(error.area.number()).unwrap_or(Area::Domain);
        Self {
            area,
            // libvirt counts some mistakes in a document as its own; they are the caller's all the same.
            reason: (code == Code::Internal).then_some("DOCUMENT_INVALID"),
            ..Self::new(code, error.message)
        }
    }
}

/// So do those of planning a guest.
impl From<qemu_plan::Error> for Error {
    fn from(error: qemu_plan::Error) -> Self {
        let code = Code::of_number(error.code.number()).unwrap_or(Code::Internal);
        let area = Area::of_number(error.area.number()).unwrap_or(Area::Qemu);
        Self {
            area,
            ..Self::new(code, error.message)
        }
    }
}

/// And those of a neighbour, as it told them. A code that is not ours keeps its whole message.
impl From<wire::WireError> for Error {
    fn from(error: wire::WireError) -> Self {
        let area = Area::of_number(error.domain.0).unwrap_or(Area::None);
        let errno = (error.code == wire::ErrorCode::SYSTEM_ERROR && error.int1 > 0).then_some(error.int1);
        let whole = error
            .message
            .map(|text| text.to_str().into_owned())
            .unwrap_or_default();
        let told = |code: Code| match code.prefix() {
            "" => Some((code, whole.clone())),
            prefix if whole == prefix => Some((code, String::new())),
            prefix => Some((code, whole.strip_prefix(prefix)?.strip_prefix(": ")?.to_owned())),
        };
        let (code, message) = Code::of_number(error.code.0)
            .and_then(told)
            .unwrap_or((Code::Internal, whole));
        Self {
            area,
            errno,
            ..Self::new(code, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_added_once() {
        let error = Error::new(Code::NoDomain, "no domain with matching name 'x'");
        assert_eq!(
            error.to_string(),
            "Domain not found: no domain with matching name 'x'"
        );
        let status = Status::from(error);
        assert_eq!(status.code(), Grpc::NotFound);
        assert_eq!(
            status.message(),
            "Domain not found: no domain with matching name 'x'"
        );
        let info = status.get_details_error_info().expect("error info");
        assert_eq!(info.reason, "NO_DOMAIN");
        assert_eq!(info.metadata["libvirt_code"], "42");
        assert_eq!(
            info.metadata["libvirt_detail"],
            "no domain with matching name 'x'"
        );
    }

    #[test]
    fn system_errors_end_with_the_systems_words() {
        let error = Error::system("cannot open '/x'", io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "cannot open '/x': No such file or directory");
        assert_eq!(error.errno, Some(2));
    }

    #[test]
    fn a_neighbours_error_stays_what_it_is() {
        use wire::{ErrorCode, ErrorDomain, WireError};
        let told = WireError::new(
            ErrorCode::NO_NETWORK,
            ErrorDomain::NETWORK,
            "no network with matching name 'x'",
        );
        let error = Error::from(told.clone());
        assert_eq!((error.code, error.area), (Code::NoNetwork, Area::Network));
        assert_eq!(error.to_string(), told.to_string());
        let told = WireError::new(ErrorCode::HTTP_ERROR, ErrorDomain::XENXM, "7");
        let error = Error::from(told);
        assert_eq!(
            (error.code, error.area, &*error.message),
            (Code::Internal, Area::None, "got unknown HTTP error code 7")
        );
    }

    #[test]
    fn reasons_are_unique() {
        let mut reasons: Vec<_> = Code::ALL.iter().map(|c| c.reason()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), Code::ALL.len());
    }
}
