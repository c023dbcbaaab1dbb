//! From a domain document to what QEMU is told: capabilities, defaults, addresses, checks, command line.
//! Pure: no clock, file or await.

pub mod caps;
