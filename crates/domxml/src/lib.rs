//! Libvirt's domain documents as types. Pure.
//!
//! One struct an element, and both directions from it: [`Domain::parse`] knows shapes only and
//! fills in nothing, [`Domain::format`] writes libvirt's bytes. What a document means (defaults,
//! limits, what goes with what) is decided elsewhere, on these types.
//!
//! [`StatusDocument`] is the same guest as a daemon keeps it while it runs.

pub mod bitmap;
pub mod capabilities;
pub mod clock;
pub mod cpu;
mod cpu_document;
pub mod devices;
pub mod domain;
pub mod domcaps;
pub mod error;
pub mod features;
pub mod inet;
pub mod metadata;
mod migratable;
pub mod moment;
pub mod node_device;
mod normal;
mod number;
pub mod os;
pub mod parse;
pub mod ports;
pub mod qemu;
mod reading;
mod save_cookie;
mod schema;
pub mod security;
mod settle;
pub mod status;
pub mod sysinfo;
pub mod tuning;
pub mod units;

pub use bitmap::Bitmap;
pub use cpu_document::{CpuDocument, WantedCpu};
pub use domain::{Domain, VirtType};
pub use error::{Error, Kind};
pub use save_cookie::SaveCookie;
pub use schema::Grammar;
pub use status::StatusDocument;
pub use xmlform::{Area, FormatFlags, ParseFlags};
