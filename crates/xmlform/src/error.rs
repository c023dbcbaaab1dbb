//! Why a document cannot be read, in libvirt's words.

use thiserror::Error;

/// Which kind of fault it is; callers map it to libvirt's error numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not XML, or over a limit.
    Malformed,
    /// XML, but a value or its place is wrong.
    Invalid,
    /// Understood, but not to be had here.
    Unsupported,
    /// libvirt calls it an internal error, so clients expect that.
    Internal,
    /// An argument's form, such as a unit or a set of CPUs.
    InvalidArgument,
    /// A number beyond its type.
    Overflow,
}

/// The part of libvirt that an error is counted to: its `virErrorDomain`. Clients are told it beside the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Area {
    /// No part: the helpers that all of libvirt shares.
    None = 0,
    /// The reader of attributes, and the schema.
    Xml = 5,
    /// QEMU's own namespace.
    Qemu = 10,
    /// Virtual ports of switches.
    Net = 11,
    /// Storage sources, their secrets and encryption.
    Storage = 18,
    /// Addresses and routes.
    Network = 19,
    /// The guest's document: what has no finer part.
    Domain = 20,
    /// CPU models.
    Cpu = 31,
    /// Snapshots' documents.
    Snapshot = 35,
    /// Addresses of devices.
    Device = 49,
    /// Shares of caches and memory bandwidth.
    Resctrl = 67,
    /// Checkpoints' documents.
    Checkpoint = 69,
}

impl Area {
    /// libvirt's number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// The prefixes that libvirt prints, which tell the kinds apart in error templates.
const PREFIXES: &[(&str, ErrorKind)] = &[
    ("XML error: ", ErrorKind::Invalid),
    ("unsupported configuration: ", ErrorKind::Unsupported),
    ("internal error: ", ErrorKind::Internal),
    ("invalid argument: ", ErrorKind::InvalidArgument),
    ("numerical overflow: ", ErrorKind::Overflow),
];

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of fault.
    pub kind: ErrorKind,
    /// The part of libvirt it is counted to.
    pub area: Area,
    /// What is wrong, without a prefix.
    pub message: String,
}

impl Error {
    /// A document that is no XML, or too big.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// A wrong value.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// The error of a template: libvirt's prefix says the kind, `{}` stands for the text.
    #[must_use]
    pub fn worded(template: &str, text: &str) -> Self {
        let known = PREFIXES.iter().find_map(|(prefix, kind)| {
            let rest = template.strip_prefix(prefix)?;
            Some((*kind, rest))
        });
        let (kind, rest) = known.unwrap_or((ErrorKind::Invalid, template));
        Self::new(kind, rest.replace("{}", text))
    }

    /// Any kind, of the part that such errors usually come from.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let area = match kind {
            ErrorKind::InvalidArgument | ErrorKind::Overflow => Area::None,
            _ => Area::Domain,
        };
        Self {
            kind,
            area,
            message: message.into(),
        }
    }

    /// The same error, counted to another part.
    #[must_use]
    pub fn in_area(mut self, area: Area) -> Self {
        self.area = area;
        self
    }
}
