//! Questions to a running guest that change nothing: statistics, addresses, screens, memory, the monitor.

pub mod addresses;
pub mod disks;
pub mod display;
pub mod guest_info;
pub mod monitor;
pub mod native;
pub mod peek;
pub mod stats;
