//! Programs that run beside QEMU for one device.

mod described;
pub mod message_bus;
pub mod passt;
pub mod reservations;
pub mod screen;
pub mod tpm;
pub mod virtiofs;
