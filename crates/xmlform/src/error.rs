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

    /// Any kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}
