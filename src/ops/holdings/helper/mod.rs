//! Programs that run beside QEMU for one device.

pub mod passt;
pub mod tpm;
pub mod virtiofs;
