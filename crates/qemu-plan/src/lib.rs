//! From a domain document to what QEMU is told: capabilities, defaults, addresses, checks, command line.
//! Pure: no clock, file or await.

pub mod address;
pub mod alias;
pub mod caps;
mod error;
pub mod postparse;
pub mod validate;

pub use error::{Area, Code, Error, Result};
