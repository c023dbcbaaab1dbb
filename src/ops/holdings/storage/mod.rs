//! What a disk has of the host and of other daemons: images and their owners, volumes, secrets, leases.

mod backing_name;
pub mod chain;
pub mod claim;
pub mod descriptors;
pub(crate) mod disk;
mod head;
pub mod lease;
pub mod look;
pub mod owners;
pub(crate) mod qemu_img;
pub mod secrets;
pub(crate) mod transient;
pub mod volumes;
