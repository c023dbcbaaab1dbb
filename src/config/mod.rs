//! The daemon's configuration files in libvirt's format: `virtqemud.conf`, `qemu.conf`, and `qemu-lockd.conf` where that asks for it.
//!
//! [`key`] says what a key is; [`daemon_keys`], [`qemu_keys`] and [`lockd`] are the tables of all of them, from
//! which reading, checking, reloading and the shipped files in `conf/` follow. [`DaemonConfig`], [`QemuConfig`] and
//! [`LockdConfig`] are what the rest of the program reads: plain values, checked, with defaults filled in.
//!
//! The hard thing is the file format: it looks like TOML and is not (see [`syntax`]).

mod daemon;
mod daemon_keys;
mod document;
mod key;
mod lockd;
mod qemu;
mod qemu_keys;
mod render;
mod syntax;

pub use daemon::{AdminLimits, DaemonConfig, HostUuid, Keepalive, Limits, Logging, Sockets, Workers};
pub use daemon_keys::DAEMON;
pub use document::{Changes, Document, Error, Notice, Presence};
pub use key::{Default, Key, Kind, Section, Support, Table};
pub use lockd::{LOCKD, LockdConfig};
pub use qemu::{
    Audio, Auto, AutoShutdown, CoreLimit, Guard, GuestsAtEnd, HelperIdentity, Identity, Paths as QemuPaths,
    PortRange, ProcessLimits, QemuConfig, SaveFormat, SaveFormats, SchedCore, StdioHandler, Tls, Vnc,
};
pub use qemu_keys::QEMU;
pub use render::render;
pub use syntax::{Entry, SyntaxError, Value, parse};

#[cfg(test)]
mod tests;
