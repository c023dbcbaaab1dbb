//! What is left of a backup when the guest's run ends first: files that are of no use, and its end, which nobody was told.
//!
//! The status file says all of it, so this holds for a guest that is found ended as well.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use domxml::{
    devices::StorageKind,
    moment::{Backup, BackupDisk},
    status::AsyncJob,
};
use qemu_plan::block::Layer;

use super::long_job::kept;
use crate::{
    domain::{
        Domain, Effects, Run,
        long_job::{Ended, Kind, Outcome, Statistics},
    },
    error::Error,
    events::model::{EventKind, event::Detail},
    ops::{Driver, holdings::storage::disk, host::files::remove_image},
};

/// libvirt's flag of images that are there already: they stay.
pub(crate) const REUSE: u32 = 1;

/// The flags that the backup of a run was begun with.
pub(crate) fn flags(run: &Run) -> u32 {
    let job = run.status.job.as_ref();
    let job = job.filter(|job| job.async_kind.known() == Some(AsyncJob::Backup));
    let flags = job.and_then(|job| job.flags.as_deref()).unwrap_or_default();
    u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// Whether the images of a run's backup stay.
pub(crate) fn reuses(run: &Run) -> bool {
    flags(run) & REUSE != 0
}

/// How a disk takes part in the backup of a run; none if it does not, or is over.
pub(crate) fn part_of<'a>(run: &'a Run, target: &str) -> Option<&'a BackupDisk> {
    let mut parts = run
        .status
        .backups
        .iter()
        .flat_map(|all| &all.backups)
        .flat_map(Backup::parts);
    parts.find(|part| part.name == target && !part.is_over())
}

/// The files that a backup writes.
pub(crate) fn files(backup: &Backup) -> Vec<PathBuf> {
    let of_file = |part: &&BackupDisk| part.kind.unwrap_or(StorageKind::File) == StorageKind::File;
    let parts = backup.parts().filter(of_file);
    let stores = parts.filter_map(|part| part.store()?.file.as_deref());
    stores.map(PathBuf::from).collect()
}

/// Removes files; that one is left is logged.
pub(crate) async fn remove(files: Vec<PathBuf>) {
    let work = move || {
        for path in files {
            if let Err(error) = remove_image(&path) {
                tracing::warn!(path = %path.display(), %error, "a file of a backup is left");
            }
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = crate::blocking::file("removing the files of a backup", work).await {
        tracing::warn!(%error, "files of a backup are left");
    }
}

/// Sees to the images of a run that has ended.
pub(crate) async fn give_back(driver: &Driver, run: &Run) {
    let backups = run.status.backups.iter().flat_map(|all| &all.backups);
    for backup in backups {
        for part in backup.parts() {
            let Some(source) = part.store() else { continue };
            let layer = Layer {
                kind: part.kind.unwrap_or(StorageKind::File),
                format: part.format,
                source: source.clone(),
                ..Layer::default()
            };
            disk::release(driver, run, &layer.as_disk(&domxml::devices::Disk::default())).await;
        }
        if !reuses(run) {
            remove(files(backup)).await;
        }
    }
}

/// What is told of the backup of a run that has ended, before the end of the run is.
pub(crate) fn told(domain: &Domain, run: &Run) -> Effects {
    if run
        .status
        .backups
        .as_ref()
        .is_none_or(|all| all.backups.is_empty())
    {
        return Effects::none();
    }
    let current = domain
        .long_jobs()
        .current()
        .filter(|job| job.kind == Kind::Backup);
    let since = run.status.job.as_ref().and_then(|job| job.async_started);
    let by_file = || {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_millis(since.unwrap_or(0));
        SystemTime::now().duration_since(begun).unwrap_or_default()
    };
    let ended = Ended {
        kind: Kind::Backup,
        elapsed: current.as_ref().map_or_else(by_file, |job| job.since.elapsed()),
        statistics: Statistics::None,
        outcome: Outcome::Failed,
        cause: None,
    };
    let detail = Detail::Job(kept(&ended));
    if let Some(job) = current {
        domain.long_jobs().end(job.operation, Some(ended));
    }
    Effects::none().event(EventKind::JobCompleted, Some(detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_removed() {
        let text = "<domainbackup><disks><disk name='vda' backup='yes' type='file'><target file='/t/a'/></disk>
            <disk name='vdb' backup='yes' type='block'><target dev='/dev/b'/></disk><disk name='vdc' backup='no'/>
            </disks></domainbackup>";
        let backup = Backup::given(text).unwrap();
        assert_eq!(files(&backup), [PathBuf::from("/t/a")]);
    }
}
