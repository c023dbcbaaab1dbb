//! What is wrong with a device of the host that was asked for, in libvirt's words.

/// Why a device can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It, or what the kernel says of it, is not as it has to be.
    #[error("{0}")]
    Odd(String),
    /// There is no such device.
    #[error("{0}")]
    Missing(String),
    /// It can't be used in this way.
    #[error("{0}")]
    Unsupported(String),
    /// The kernel refuses.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}
