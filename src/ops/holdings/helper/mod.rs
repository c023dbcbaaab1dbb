//! Programs that run beside QEMU for one device.

pub mod tpm;
pub mod virtiofs;
