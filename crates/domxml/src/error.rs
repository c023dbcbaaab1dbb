//! Why a document is refused, in libvirt's vocabulary.

use thiserror::Error;
use xmlform::{Area, ErrorKind};

/// What kind of fault it is: libvirt's error numbers, as far as documents raise them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Something that a correct document would not cause, and much that libvirt calls so.
    Internal,
    /// An argument of the wrong form.
    InvalidArg,
    /// No operating system type.
    OsType,
    /// A device that does not say what is behind it; the message stands alone.
    NoSource,
    /// No name.
    NoName,
    /// A wrong value, or a wrong place for it.
    Xml,
    /// Not XML.
    XmlDetail,
    /// The system refused something; the message stands alone.
    System,
    /// A number too large.
    Overflow,
    /// Understood, but not to be had here.
    Unsupported,
    /// Not what the schema allows.
    XmlInvalidSchema,
}

impl Kind {
    /// libvirt's virErrorNumber.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Internal => 1,
            Self::InvalidArg => 8,
            Self::OsType => 16,
            Self::NoSource => 19,
            Self::NoName => 21,
            Self::Xml => 27,
            Self::XmlDetail => 35,
            Self::System => 38,
            Self::Overflow => 82,
            Self::Unsupported => 67,
            Self::XmlInvalidSchema => 92,
        }
    }
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of fault.
    pub kind: Kind,
    /// The part of libvirt it is counted to.
    pub area: Area,
    /// What is wrong, without libvirt's prefix for the kind.
    pub message: String,
}

impl Error {
    /// An error of any kind, of the part that such errors usually come from.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let area = match kind {
            Kind::InvalidArg | Kind::Overflow => Area::None,
            Kind::XmlInvalidSchema => Area::Xml,
            _ => Area::Domain,
        };
        Self {
            kind,
            area,
            message: message.into(),
        }
    }

    /// A wrong value, or a wrong place for it.
    pub fn xml(message: impl Into<String>) -> Self {
        Self::new(Kind::Xml, message)
    }

    /// Understood, but not to be had here.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// The same error, counted to another part.
    #[must_use]
    pub fn in_area(mut self, area: Area) -> Self {
        self.area = area;
        self
    }

    /// What libvirt calls an internal error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
}

impl From<xmlform::Error> for Error {
    fn from(error: xmlform::Error) -> Self {
        let kind = match error.kind {
            ErrorKind::Malformed => Kind::XmlDetail,
            ErrorKind::Invalid => Kind::Xml,
            ErrorKind::Unsupported => Kind::Unsupported,
            ErrorKind::Internal => Kind::Internal,
            ErrorKind::InvalidArgument => Kind::InvalidArg,
            ErrorKind::Overflow => Kind::Overflow,
        };
        Self::new(kind, error.message).in_area(error.area)
    }
}
