//! What the firmware says of the hardware (SMBIOS): `virsh sysinfo`.
//!
//! libvirt has dmidecode print the tables and picks lines of its output; here they are read as they are, and numbers
//! are told in dmidecode's words. One thing is done better: a structure too short to have a value has none, where
//! libvirt finds the next structure's.

mod names;
mod processor;
mod sysinfo;
mod table;

pub use sysinfo::{Sysinfo, SysinfoTable, sysinfo};
