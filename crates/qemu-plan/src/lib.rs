//! From a domain document to what QEMU is told: capabilities, defaults, addresses, checks, command line.
//! Pure: no clock, file or await.

pub mod abi;
pub mod address;
pub mod alias;
pub mod block;
pub mod caps;
pub mod command;
mod error;
pub mod facts;
pub mod hotplug;
pub mod keys;
pub mod passt;
pub mod postparse;
mod props;
mod resources;
pub mod save_image;
pub mod swtpm;
pub mod validate;
pub mod virtiofsd;

pub use error::{Area, Code, Error, Result};
