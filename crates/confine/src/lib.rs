//! What surrounds a guest's process: the limits of what it may use.
//!
//! Pure: the numbers are computed here, and set between fork and exec by `unixfd::Launch`.

mod limits;
mod memlock;

pub use limits::Limits;
pub use memlock::{LockedMemory, memlock};
