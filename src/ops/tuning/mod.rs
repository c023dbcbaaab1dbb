//! What guests may use of the host: where their threads run, and how much of CPUs, memory and disks they get.
//!
//! A change is a [`Change`], made by `configure` like any other: tried on the documents, then told to the kernel, then
//! committed. What the kernel refuses in the midst of one leaves nothing changed. One file a kind.

pub mod blocks;
pub(crate) mod cores;
pub mod disks;
pub mod enclose;
pub mod iothreads;
pub mod live;
pub(crate) mod locked;
pub mod memory;
pub mod numa;
pub mod perf;
pub mod pinning;
pub(crate) mod policy;
pub mod scheduler;
pub(crate) mod threads;
pub mod usage;
mod words;

use std::sync::Arc;

use confine::cgroup::{Controller, Group};
use domxml::Bitmap;

use crate::{
    domain::View,
    error::{Error, Result},
    events::model::{self as pb, EventKind, event::Detail, event::tunable},
    ops::{Driver, cgroup, holdings::cgroup::thread::Thread},
};

/// What to change.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Change {
    /// The host's CPUs that a thread may run on.
    Pin {
        /// The thread.
        thread: Thread,
        /// The CPUs.
        #[serde(with = "words::text")]
        cpus: Bitmap,
    },
    /// How much of the host's CPUs it gets.
    Scheduler(scheduler::Scheduler),
    /// How much memory its process may use.
    Memory(memory::Limits),
    /// Which nodes its memory comes from.
    Numa(numa::Placement),
    /// What it gets of block devices.
    Blocks(blocks::Limits),
    /// A thread for I/O.
    IoThread(iothreads::Change),
    /// What a disk of its own may do.
    Disk(Box<disks::Change>),
    /// What a group of disks may do.
    DiskGroup(Box<disks::GroupChange>),
    /// What is counted for it.
    Perf(perf::Change),
}

/// The change in a document.
///
/// # Errors
/// `InvalidArg`: the guest has no such thread, or a value is out of its range.
pub(crate) fn apply(domain: &mut domxml::Domain, change: &Change) -> Result<()> {
    match change {
        Change::Pin { thread, cpus } => pinning::apply(domain, *thread, cpus),
        Change::Scheduler(wanted) => scheduler::apply(domain, wanted),
        Change::Memory(limits) => memory::apply(domain, *limits),
        Change::Numa(placement) => numa::apply(domain, placement),
        Change::Blocks(limits) => blocks::apply(domain, limits),
        Change::IoThread(change) => iothreads::apply(domain, change),
        Change::Disk(change) => disks::apply(domain, change),
        Change::DiskGroup(change) => disks::apply_group(domain, change),
        Change::Perf(change) => perf::apply(domain, change),
    }
}

/// Whether a document says that the change was made.
pub(crate) fn is_in(document: &domxml::Domain, change: &Change) -> bool {
    match change {
        Change::IoThread(change) => return iothreads::is_in(document, change),
        Change::DiskGroup(change) => return disks::is_in(document, change),
        _ => {}
    }
    let mut changed = document.clone();
    apply(&mut changed, change).is_ok() && changed == *document
}

/// A running guest, for whom a change is told to QEMU.
type Told<'a> = (&'a Arc<Driver>, &'a View);

/// Tells QEMU something.
///
/// # Errors
/// What it refuses, or that it does not answer.
async fn tell<C: qmp::Command>((driver, view): Told<'_>, command: C) -> Result<C::Reply> {
    driver.guests.of(view)?.execute(command).await
}

/// The change that takes this one back in a running guest; none: nothing would be changed.
///
/// # Errors
/// The kernel does not tell what the guest has now.
pub(crate) async fn before(driver: &Arc<Driver>, view: &View, change: &Change) -> Result<Option<Change>> {
    match change {
        Change::Pin { thread, .. } => {
            let cpus = pinning::before(driver, view, *thread).await?;
            let thread = *thread;
            return Ok(cpus.map(|cpus| Change::Pin { thread, cpus }));
        }
        Change::IoThread(change) => {
            return Ok(Some(Change::IoThread(
                iothreads::before(driver, view, change).await?,
            )));
        }
        Change::Disk(change) => return Ok(Some(Change::Disk(Box::new(disks::before(view, change)?)))),
        Change::DiskGroup(change) => {
            let before = disks::before_group(view, change)?;
            return Ok(before.map(|before| Change::DiskGroup(Box::new(before))));
        }
        Change::Perf(change) => return Ok(Some(Change::Perf(perf::before(view, change)?))),
        _ => {}
    }
    let (driver, view, change) = (Arc::clone(driver), view.clone(), change.clone());
    let work = move || {
        Ok(match &change {
            Change::Scheduler(wanted) => Some(Change::Scheduler(scheduler::before(&driver, &view, wanted)?)),
            Change::Memory(limits) => Some(Change::Memory(memory::before(&driver, &view, *limits)?)),
            Change::Numa(placement) => Some(Change::Numa(numa::before(&driver, &view, placement)?)),
            Change::Blocks(limits) => Some(Change::Blocks(blocks::before(&driver, &view, limits)?)),
            _ => None,
        })
    };
    crate::blocking::file("asking what the guest has", work).await
}

/// The change in a running guest.
///
/// # Errors
/// What the kernel or QEMU refuses.
pub(crate) async fn carry_out(driver: &Arc<Driver>, view: &View, change: &Change) -> Result<()> {
    match change {
        Change::Pin { thread, cpus } => return pinning::carry_out(driver, view, *thread, cpus).await,
        Change::IoThread(change) => return iothreads::carry_out(driver, view, change).await,
        Change::Disk(change) => return disks::carry_out(driver, view, change).await,
        Change::DiskGroup(change) => return disks::carry_out_group(driver, view, change).await,
        Change::Perf(change) => return perf::carry_out((driver, view), change),
        _ => {}
    }
    let (driver, view, change) = (Arc::clone(driver), view.clone(), change.clone());
    // The kernel may first have to take memory back, or to move it.
    let work = move || match &change {
        Change::Scheduler(wanted) => scheduler::carry_out(&driver, &view, wanted),
        Change::Memory(limits) => memory::carry_out(&driver, &view, *limits),
        Change::Numa(placement) => numa::carry_out(&driver, &view, placement),
        Change::Blocks(limits) => blocks::carry_out(&driver, &view, limits),
        _ => Ok(()),
    };
    crate::blocking::file("tuning the guest", work).await
}

/// The event that tells of a change in a running guest; libvirt has none of memory and of disks.
pub(crate) fn event_of(document: &domxml::Domain, change: &Change) -> Option<(EventKind, Detail)> {
    let values: Vec<(String, tunable::value::Value)> = match change {
        Change::Pin { thread, cpus } => vec![(
            pinning::event_name(*thread),
            tunable::value::Value::Text(cpus.to_string()),
        )],
        Change::Scheduler(wanted) => scheduler::told(wanted),
        Change::Disk(change) => disks::told(document, change),
        Change::DiskGroup(change) => disks::group_told(change),
        Change::Memory(_) | Change::Numa(_) | Change::Blocks(_) | Change::IoThread(_) | Change::Perf(_) => {
            return None;
        }
    };
    let value = |(name, value): (String, tunable::value::Value)| tunable::Value {
        name,
        value: Some(value),
    };
    let values: Vec<tunable::Value> = values.into_iter().map(value).collect();
    if values.is_empty() {
        return None;
    }
    Some((EventKind::Tunable, Detail::Tunable(pb::event::Tunable { values })))
}

/// The group of a running guest, which must have `controller`.
///
/// # Errors
/// `OperationInvalid` if it is in no such group: `missing` says so.
fn group_with(driver: &Driver, view: &View, controller: Controller, missing: &'static str) -> Result<Group> {
    let group = cgroup::of_run(driver, view.running()?)?;
    group
        .filter(|group| group.has(controller))
        .ok_or_else(|| Error::invalid(missing))
}

/// Refuses what a daemon of a user's can't do.
///
/// # Errors
/// `OperationUnsupported`.
fn not_in_session(driver: &Driver, what: &str) -> Result<()> {
    if driver.host.scope == crate::paths::Scope::System {
        return Ok(());
    }
    let message = format!("{what} is not available in session mode");
    Err(Error::new(crate::error::Code::OperationUnsupported, message))
}
