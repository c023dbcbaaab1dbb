//! Backups of a running guest's disks: copies as of one moment, which QEMU writes to targets (push) or serves to a client
//! over NBD (pull), whole or of what was written since a checkpoint.
//!
//! ```text
//!  begin: documents ─▶ long job ─▶ checks ─▶ intent ─▶ entries "new" ─▶ images ─▶ (server)
//!           ─▶ one transaction: bitmaps of a checkpoint, jobs ─▶ <backups> ─▶ (exports) ─▶ intent cleared, answer
//!  watch:   each job that has ended: dismissed ─▶ (server stopped) ─▶ nodes ─▶ its disk's state, event
//!           the last: files that are not to stay ─▶ <backups> and <job> go, event of the whole
//! ```
//!
//! From its commit on `<backups>` in the status file is the note of it: which disks are how far, and what QEMU has for them.
//! A daemon that finds it, ours or libvirt's, goes on there ([`recover`]). The operation that began it stays under way until
//! the end and holds the guest's long job, so clients follow and cancel it as any other; a daemon that ends leaves it to
//! the next. When the guest's run ends first, `ops::run::left_backup` sees to what is left.
//!
//! [`align`] completes a document, [`part`] plans what one disk takes, [`serve`] is the server, [`begin`] begins, [`watch`]
//! goes on to the end.

mod align;
pub mod begin;
mod part;
pub(crate) mod recover;
mod serve;
mod watch;

use std::sync::Arc;

use domxml::{
    devices::{Disk, StorageKind},
    moment::{Backup, BackupDisk},
    status::Backups,
};
use qemu_plan::block::Layer;

use crate::{
    domain::{Run, View},
    error::{Code, Error, Result},
};

/// The document of the backup that is under way.
///
/// # Errors
/// `NoDomainBackup` if none is; the guest does not run.
pub fn text(view: &View) -> Result<String> {
    view.running()?;
    let none = || Error::new(Code::NoDomainBackup, "no domain backup job present");
    Ok(under_way(view).ok_or_else(none)?.format())
}

/// The backup that is under way.
pub fn under_way(view: &View) -> Option<&Backup> {
    of(view.run.as_ref()?)
}

/// The backup of a run, as the status file has it.
fn of(run: &Run) -> Option<&Backup> {
    run.status.backups.as_ref()?.backups.first()
}

/// The backup of run `id`, if that is the one at present.
fn of_run(view: &View, id: i32) -> Option<&Backup> {
    of(view.run.as_ref().filter(|run| run.launched.id == id)?)
}

/// Changes the backup of a run; `None`: there is none any more.
fn change(view: &mut View, change: impl FnOnce(&mut Option<Backup>)) {
    let Some(run) = &mut view.run else { return };
    let mut status = domxml::StatusDocument::clone(&run.status);
    let mut all = status.backups.take().unwrap_or_default();
    let mut first = (!all.backups.is_empty()).then(|| all.backups.remove(0));
    change(&mut first);
    all.backups.splice(0..0, first);
    status.backups = (all != Backups::default()).then_some(all);
    run.status = Arc::new(status);
}

/// Changes a disk of the backup of a run.
fn change_disk(view: &mut View, target: &str, set: impl FnOnce(&mut BackupDisk)) {
    change(view, |backup| {
        let mut disks = backup.iter_mut().flat_map(|backup| &mut backup.disks);
        if let Some(disk) = disks.find(|disk| disk.name == target) {
            set(disk);
        }
    });
}

/// The image that a disk is written to.
fn store(part: &BackupDisk) -> Option<Layer> {
    Some(Layer {
        kind: part.kind.unwrap_or(StorageKind::File),
        format: part.format,
        cache: None,
        source: part.store()?.clone(),
        index: part.index,
        detected: false,
    })
}

/// A disk that has nothing but a name, for an image that is no guest's: what a guest's disk says of caches does not hold for
/// it.
fn bare(target: &str) -> Disk {
    let mut disk = Disk::default();
    target.clone_into(&mut disk.target.dev);
    disk
}
