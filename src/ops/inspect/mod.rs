//! Questions to a running guest that change nothing: statistics, addresses, screens, memory, the monitor.

pub mod addresses;
pub mod display;
pub mod monitor;
pub mod peek;
pub mod stats;
