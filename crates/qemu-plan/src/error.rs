//! Why a document cannot be taken, in libvirt's vocabulary: clients switch on its numbers.

/// Libvirt's error code (`virErrorNumber`), as far as planning a guest needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// Something that should not be.
    Internal = 1,
    /// A value that makes no sense.
    InvalidArg = 8,
    /// Something that was tried and did not work.
    OperationFailed = 9,
    /// The document is wrong.
    Xml = 27,
    /// The document is wrong; the message stands alone.
    XmlDetail = 35,
    /// The system refused something; the message stands alone.
    System = 38,
    /// The document is right but cannot be honoured here.
    ConfigUnsupported = 67,
    /// Not offered.
    OperationUnsupported = 84,
}

/// Which part of libvirt an error would come from (`virErrorDomain`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Area {
    /// No part in particular.
    None = 0,
    /// XML helpers.
    Xml = 5,
    /// The QEMU driver.
    Qemu = 10,
    /// The domain document.
    Domain = 20,
    /// The CPU driver.
    Cpu = 31,
    /// Resource control.
    Resctrl = 67,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", code.prefix())]
pub struct Error {
    /// Libvirt's code.
    pub code: Code,
    /// Libvirt's domain.
    pub area: Area,
    /// What is wrong, without the code's prefix.
    pub message: String,
}

impl Code {
    /// Libvirt's number.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// What libvirt puts in front of the message of this code.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Internal => "internal error: ",
            Self::InvalidArg => "invalid argument: ",
            Self::OperationFailed => "operation failed: ",
            Self::Xml => "XML error: ",
            Self::XmlDetail | Self::System => "",
            Self::ConfigUnsupported => "unsupported configuration: ",
            Self::OperationUnsupported => "Operation not supported: ",
        }
    }
}

impl Area {
    /// Libvirt's number.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl Error {
    /// An error of any kind.
    pub fn new(code: Code, area: Area, message: impl Into<String>) -> Self {
        Self {
            code,
            area,
            message: message.into(),
        }
    }

    /// QEMU here cannot do what the document asks.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Code::ConfigUnsupported, Area::Qemu, message)
    }

    /// No hypervisor could do what the document asks.
    pub fn conflicting(message: impl Into<String>) -> Self {
        Self::new(Code::ConfigUnsupported, Area::Domain, message)
    }

    /// The document is wrong.
    pub fn xml(message: impl Into<String>) -> Self {
        Self::new(Code::Xml, Area::Domain, message)
    }

    /// The document is wrong; the message stands alone.
    pub fn detail(message: impl Into<String>) -> Self {
        Self::new(Code::XmlDetail, Area::Domain, message)
    }

    /// Something that should not be.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, Area::Domain, message)
    }
}

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
