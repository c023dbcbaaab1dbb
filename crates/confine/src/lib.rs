//! What surrounds a guest's process: the limits of what it may use, and where it runs.
//!
//! The numbers are computed here; limits are set between fork and exec by `unixfd::Launch`, all else by callers from
//! outside of the process.

mod affinity;
pub mod cgroup;
mod limits;
mod memlock;

pub use affinity::{affinity, set_affinity};
pub use limits::Limits;
pub use memlock::{LockedMemory, memlock};
