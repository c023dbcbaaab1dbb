//! The host that guests run on: facts, capabilities, emulators, CPUs, the daemon's place.
//!
//! The lowest wing: it knows no guest. Called by every other wing, and by `api` for questions about the host.

pub mod about;
pub mod arch;
pub mod capabilities;
pub mod clock;
pub mod cpu;
pub mod cpu_survey;
pub mod domcaps;
pub mod emulator;
pub mod facts;
pub mod files;
pub(crate) mod hugepages;
pub mod identity;
pub mod legacy_firmware;
pub mod node;
pub mod place;
pub mod proc;
pub mod programs;
pub mod scratch;
pub mod suspend;
