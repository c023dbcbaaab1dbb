//! Devices that come and go: what libvirt checks, in its order and words, and where a new device goes.
//!
//! Pure. For an attach, [`complete`] is what libvirt does when it reads the device, [`check`] what it asks before it touches
//! anything, and [`place`] finds address and alias in the running guest. For a detach, [`find`] says which device is meant
//! and [`check_detach`] whether it can go. `command::plug` then has the monitor commands.
//!
//! A live document and a stored one are two guests: a device is completed, checked and placed in each.

mod attach;
mod detach;

pub use attach::{Placed, changes_medium, check, check_interface, complete, place};
pub use detach::{check_detach, find};

/// Which of a guest's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// That of the run.
    Live,
    /// The stored one.
    Stored,
}
