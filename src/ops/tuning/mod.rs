//! What guests may use of the host: where their threads run, and how much of CPUs, memory and disks they get.
//!
//! A change is a [`Change`], made by `configure` like any other: tried on the documents, then told to the kernel, then
//! committed. One file a kind: [`pinning`].

pub mod blocks;
pub mod pinning;

use domxml::Bitmap;
use std::sync::Arc;

use super::Driver;
use crate::{
    domain::View,
    error::{Error, Result},
    pb::{self, EventKind, event::Detail, event::tunable},
};

/// What to change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The host's CPUs that a thread may run on.
    Pin {
        /// The thread.
        thread: Thread,
        /// The CPUs.
        cpus: Bitmap,
    },
}

/// A thread of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// A CPU's, by its number.
    Vcpu(u32),
    /// QEMU's own.
    Emulator,
    /// A thread for I/O, by its number.
    Io(u32),
}

/// The change in a document.
///
/// # Errors
/// `InvalidArg`: the guest has no such thread, or a value is out of its range.
pub(super) fn apply(domain: &mut domxml::Domain, change: &Change) -> Result<()> {
    match change {
        Change::Pin { thread, cpus } => pinning::apply(domain, *thread, cpus),
    }
}

/// The change in a running guest.
///
/// # Errors
/// What the kernel or QEMU refuses.
pub(super) async fn carry_out(driver: &Arc<Driver>, view: &View, change: &Change) -> Result<()> {
    match change {
        Change::Pin { thread, cpus } => pinning::carry_out(driver, view, *thread, cpus).await,
    }
}

/// The event that tells of a change in a running guest.
pub(super) fn event_of(change: &Change) -> Option<(EventKind, Detail)> {
    use tunable::value::Value as V;
    let values: Vec<(String, V)> = match change {
        Change::Pin { thread, cpus } => vec![(pinning::event_name(*thread), V::Text(cpus.to_string()))],
    };
    let value = |(name, value): (String, V)| tunable::Value { name, value: Some(value) };
    let values = values.into_iter().map(value).collect();
    Some((EventKind::Tunable, Detail::Tunable(pb::event::Tunable { values })))
}

/// The error of a guest's thread or file that the kernel refused to change.
fn refused(what: impl std::fmt::Display, error: std::io::Error) -> Error {
    Error::system(what, error)
}
