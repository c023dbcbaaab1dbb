//! The block graph of a running guest: its images as QEMU's nodes, who owns them and how they change.
//!
//! The document of the run is the one list of a guest's images: their order, numbers and nodes
//! ([`qemu_plan::block::Chain`]). Block jobs, snapshots and backups change it through the parts here, each for one thing:
//!
//! * [`lookup`] finds disks and images by the names that clients give them, and refuses disks that take no job;
//! * [`images`] makes an image and its nodes for a running guest, and takes them away;
//! * [`bitmaps`] keeps dirty bitmaps whole when images are merged or put on each other;
//! * [`jobs`] runs a job of QEMU's to its end;
//! * [`truth`] is the graph as QEMU has it, for a daemon that comes later.
//!
//! Numbers are given by [`next_number`] and never again; whoever takes some says so to the guest
//! ([`Guest::gave_nodes`]) and writes them into the status file ([`took_numbers`]) with its commit.

pub(crate) mod bitmaps;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod lookup;
pub(crate) mod truth;

use std::sync::Arc;

use domxml::devices::Disk;

use crate::{
    domain::{Run, View},
    error::{Error, Result},
    ops::run::guest::Guest,
};

/// The first number of a block node that is free.
pub(crate) fn next_number(run: &Run, guest: &Guest) -> u32 {
    let known = u32::try_from(run.status.nodename.unwrap_or(0)).unwrap_or(u32::MAX);
    guest.first_node(known.saturating_add(1))
}

/// The numbers before `next` are given: the status file says so.
pub(crate) fn took_numbers(view: &mut View, next: u32) {
    let Some(run) = &mut view.run else { return };
    let last = u64::from(next.saturating_sub(1));
    if run.status.nodename.is_none_or(|known| known < last) {
        let mut status = domxml::StatusDocument::clone(&run.status);
        status.nodename = Some(last);
        run.status = Arc::new(status);
    }
}

/// The disk with this target of a document.
///
/// # Errors
/// There is none.
pub(crate) fn disk_mut<'a>(document: &'a mut domxml::Domain, target: &str) -> Result<&'a mut Disk> {
    let mut disks = document.devices.disks.iter_mut();
    disks
        .find(|disk| disk.target.dev == target)
        .ok_or_else(|| missing(target))
}

/// The disk with this target of a document.
///
/// # Errors
/// There is none.
pub(crate) fn disk<'a>(document: &'a domxml::Domain, target: &str) -> Result<&'a Disk> {
    let mut disks = document.devices.disks.iter();
    disks
        .find(|disk| disk.target.dev == target)
        .ok_or_else(|| missing(target))
}

fn missing(target: &str) -> Error {
    Error::argument(format!("disk '{target}' not found in domain"))
}

/// The job at work on the disk with this target, as the status file has it. One that QEMU has not begun does not count.
pub(crate) fn job_of<'a>(view: &'a View, target: &str) -> Option<&'a domxml::status::BlockJob> {
    use domxml::status::BlockJobState as S;
    let run = view.run.as_ref()?;
    let jobs = &run.status.blockjobs.as_ref()?.jobs;
    jobs.iter().find(|job| {
        job.disk.as_ref().is_some_and(|disk| disk.dst == target)
            && matches!(
                job.state.known(),
                Some(S::Running | S::Ready | S::Aborting | S::Pivoting) | None
            )
    })
}
