//! Saved guests: their memory in files, written and found again.
//!
//! ```text
//!   save, dump ──▶ memory ──▶ QEMU's migration into a descriptor
//!       │             ╰────▶ pour: from a pipe, by way of a compressor, into the file
//!       ╰──▶ image: head of the file written, sealed at the end; read by `start`, which restores
//! ```
//!
//! Called by `api`, by `start` for images, by `recover` for what a killed daemon has left. The hard thing is that there is
//! never more than one of a guest: an image is whole before the guest ends, and it is gone, or no image any more, before
//! the guest's CPUs run beside it.

pub mod dump;
pub mod image;
pub(crate) mod left;
pub(crate) mod memory;
pub(crate) mod movable;
pub(crate) mod pour;
pub mod save;
