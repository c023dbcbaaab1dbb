//! virtqemud: the daemon that manages the QEMU guests of a host.
//!
//! ARCHITECTURE.md is the map. A layer calls only those below it: `daemon`, `access`, `api`, `ops`, then `domain` and
//! `qemu`, which do not know each other, then `events` and `error`.

pub mod access;
pub mod config;
pub mod daemon;
pub mod error;
pub mod events;
pub mod logging;
pub mod options;
pub mod paths;
pub mod pb;
pub mod qemu;
pub mod version;
