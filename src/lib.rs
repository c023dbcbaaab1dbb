//! virtqemud: the daemon that manages the QEMU guests of a host.
//!
//! ARCHITECTURE.md is the map. A layer calls only those below it: `daemon`, `access`, `api`, `ops`, then `domain` and
//! `qemu`, which do not know each other, then `events` and `error`.

pub mod access;
pub mod admin;
pub mod api;
mod blocking;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod error;
pub mod events;
pub mod hooks;
pub mod logging;
pub mod ops;
pub mod options;
pub mod paths;
pub mod pb;
pub mod peers;
pub mod qemu;
pub mod service;
mod tasks;
pub mod version;
