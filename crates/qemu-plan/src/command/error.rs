//! What can go wrong when a document is turned into a command line, in libvirt's vocabulary: the
//! caller puts the library's prefix in front and hands code and text to the client.

use std::fmt;

/// Result of building a part of a command line.
pub type Result<T> = std::result::Result<T, Error>;

/// A document that cannot be expressed as a QEMU command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Which of libvirt's error numbers it is.
    pub code: Code,
    /// What is wrong, without the library's prefix ("unsupported configuration: ").
    pub message: String,
}

/// libvirt's error numbers that this module answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// `VIR_ERR_INTERNAL_ERROR`: the document lacks what an earlier pass should have filled in.
    Internal = 1,
    /// `VIR_ERR_XML_ERROR`: a value that is not to be read.
    Xml = 27,
    /// `VIR_ERR_CONFIG_UNSUPPORTED`: QEMU, or this daemon, cannot do it.
    Unsupported = 67,
}

impl Error {
    /// An unsupported configuration (67).
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self { code: Code::Unsupported, message: message.into() }
    }

    /// Something an earlier pass should have filled in is missing (1).
    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: Code::Internal, message: message.into() }
    }

    /// A malformed value (27).
    pub fn xml(message: impl Into<String>) -> Self {
        Self { code: Code::Xml, message: message.into() }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as i32)
    }
}
