//! libvirt's domain capabilities document: what one emulator can give a guest.

use std::sync::Arc;

use super::{Driver, host};
use crate::error::Result;

/// What is asked for; empty: the host's best.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Path of the emulator.
    pub emulator: String,
    /// Architecture.
    pub arch: String,
    /// Machine type.
    pub machine: String,
    /// "kvm" or "qemu".
    pub virt_type: String,
}

/// The document.
///
/// # Errors
/// `InvalidArg` for what the emulator does not have.
pub(super) async fn document(_driver: &Arc<Driver>, _asked: Asked) -> Result<String> {
    Err(host::not_yet("virConnectGetDomainCapabilities"))
}
