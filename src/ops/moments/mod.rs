//! Snapshots of guests: what is recorded of them, how they are made and removed.
//!
//! A guest's view has the tree of its snapshots ([`crate::domain::snapshots`]); their documents are in files, read by
//! [`records`] and changed in batches that are committed as a whole. A snapshot is made by [`create`]: which disks take
//! part and how is decided by pure functions ([`align`], [`choose`]) before anything happens. Parts of internal ones are
//! in the guest's own images: QEMU's jobs put them there and take them away while the guest runs ([`internal`]), qemu-img
//! does while it is off ([`images`]). External ones put new images on top of the guest's ([`external`]).
//!
//! Going back to a snapshot starts a guest, and so is a change of the guest as a whole ([`super::change::revert`]).

pub(crate) mod align;
pub mod back;
pub(crate) mod choose;
pub mod create;
pub mod delete;
pub(crate) mod external;
pub(crate) mod images;
pub(crate) mod internal;
pub(crate) mod left;
pub(crate) mod memory;
pub(crate) mod overlays;
pub mod records;
mod redefine;
pub(crate) mod resolve;

use domxml::devices::{Disk, SnapshotMode};

use crate::{
    domain::{View, snapshots::Entry},
    error::{Code, Error, Result},
};

/// A guest's snapshot of a name.
///
/// # Errors
/// `NoDomainSnapshot`.
pub fn find<'a>(view: &'a View, name: &str) -> Result<&'a Entry> {
    view.snapshots.get(name).ok_or_else(|| {
        let said = format!("no domain snapshot with matching name '{name}'");
        Error::new(Code::NoDomainSnapshot, said)
    })
}

/// How a disk takes part in snapshots that do not say it; none if the disk does not say it either.
pub(crate) fn mode_of(disk: &Disk) -> Option<SnapshotMode> {
    let said = disk.snapshot.filter(|mode| *mode != SnapshotMode::Default);
    said.or(disk.readonly.then_some(SnapshotMode::No))
}

/// Refuses what no other job of the guest's disks may be under way beside.
///
/// # Errors
/// `OperationInvalid` if one is.
pub(crate) fn without_block_jobs(view: &View) -> Result<()> {
    let jobs = view.run.as_ref().and_then(|run| run.status.blockjobs.as_ref());
    let of_disks = jobs
        .into_iter()
        .flat_map(|all| &all.jobs)
        .any(|job| job.disk.is_some());
    match of_disks {
        true => Err(Error::invalid("domain has active block job")),
        false => Ok(()),
    }
}
