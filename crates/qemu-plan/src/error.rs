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
    /// A disk without a source; the message stands alone.
    NoSource = 19,
    /// A device without a target; the message stands alone.
    NoTarget = 20,
    /// The document is wrong.
    Xml = 27,
    /// The document is wrong; the message stands alone.
    XmlDetail = 35,
    /// Something that nobody may do.
    OperationDenied = 29,
    /// The system refused something; the message stands alone.
    System = 38,
    /// The guest's state does not allow it.
    OperationInvalid = 55,
    /// The document is right but cannot be honoured here.
    ConfigUnsupported = 67,
    /// A value that QEMU does not take.
    ArgumentUnsupported = 74,
    /// A number that does not fit.
    Overflow = 82,
    /// Not offered.
    OperationUnsupported = 84,
    /// The guest has no such device.
    DeviceMissing = 99,
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
    /// Documents of devices.
    Device = 49,
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
            Self::XmlDetail | Self::System | Self::NoSource | Self::NoTarget => "",
            Self::OperationInvalid => "Requested operation is not valid: ",
            Self::DeviceMissing => "device not found: ",
            Self::ConfigUnsupported => "unsupported configuration: ",
            Self::ArgumentUnsupported => "argument unsupported: ",
            Self::Overflow => "numerical overflow: ",
            Self::OperationUnsupported => "Operation not supported: ",
            Self::OperationDenied => "operation forbidden: ",
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

    /// A property of a command line that libvirt has no value for.
    pub fn null(key: &str) -> Self {
        let text = format!("argument key '{key}' must not have null value");
        Self::new(Code::Internal, Area::None, text)
    }

    /// QEMU here cannot do what the document asks.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Code::ConfigUnsupported, Area::Qemu, message)
    }

    /// No hypervisor could do what the document asks.
    pub fn conflicting(message: impl Into<String>) -> Self {
        Self::new(Code::ConfigUnsupported, Area::Domain, message)
    }

    /// No running guest takes it, or gives it up.
    pub fn not_pluggable(message: impl Into<String>) -> Self {
        Self::new(Code::OperationUnsupported, Area::Qemu, message)
    }

    /// The document is wrong.
    pub fn xml(message: impl Into<String>) -> Self {
        Self::new(Code::Xml, Area::Domain, message)
    }

    /// The document is wrong; the message stands alone.
    pub fn detail(message: impl Into<String>) -> Self {
        Self::new(Code::XmlDetail, Area::Domain, message)
    }

    /// The document is wrong for QEMU.
    pub fn xml_qemu(message: impl Into<String>) -> Self {
        Self::new(Code::Xml, Area::Qemu, message)
    }

    /// The document is wrong for QEMU in a way that libvirt calls an internal error.
    pub fn internal_qemu(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, Area::Qemu, message)
    }

    /// A device has no target; what it is known by, if anything.
    pub fn no_target(device: impl AsRef<str>) -> Self {
        let text = format!("missing target information for device {}", device.as_ref());
        Self::new(Code::NoTarget, Area::Domain, text.trim_end())
    }

    /// A disk has no source.
    pub fn no_source(target: impl AsRef<str>) -> Self {
        let text = format!("missing source information for device {}", target.as_ref());
        Self::new(Code::NoSource, Area::Domain, text.trim_end())
    }

    /// A value that makes no sense.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArg, Area::Domain, message)
    }

    /// A value that makes no sense to QEMU.
    pub fn argument_qemu(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArg, Area::Qemu, message)
    }

    /// A number that is too large for anything.
    pub fn overflow(message: impl Into<String>) -> Self {
        Self::new(Code::Overflow, Area::None, message)
    }

    /// A number that is too large for QEMU.
    pub fn overflow_qemu(message: impl Into<String>) -> Self {
        Self::new(Code::Overflow, Area::Qemu, message)
    }

    /// A value that QEMU does not take.
    pub fn out_of_range(message: impl Into<String>) -> Self {
        Self::new(Code::ArgumentUnsupported, Area::Qemu, message)
    }

    /// Two features that exclude each other.
    pub fn not_offered(message: impl Into<String>) -> Self {
        Self::new(Code::OperationUnsupported, Area::Domain, message)
    }

    /// A wrong value that is found by a helper of many parts.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, Area::None, message)
    }

    /// An attribute is wrong or missing.
    pub fn attribute(message: impl Into<String>) -> Self {
        Self::new(Code::Xml, Area::Xml, message)
    }

    /// The CPU that the document asks for is wrong.
    pub fn xml_cpu(message: impl Into<String>) -> Self {
        Self::new(Code::Xml, Area::Cpu, message)
    }

    /// What libvirt calls an internal error about the CPU.
    pub fn internal_cpu(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, Area::Cpu, message)
    }

    /// No hypervisor could honour the CPU that the document asks for.
    pub fn conflicting_cpu(message: impl Into<String>) -> Self {
        Self::new(Code::ConfigUnsupported, Area::Cpu, message)
    }

    /// Something that should not be.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, Area::Domain, message)
    }
}

/// Short for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
