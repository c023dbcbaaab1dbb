//! The disks of a guest one by one: their sizes and the jobs at work on them.

use std::{path::Path, sync::Arc};

use domxml::{
    devices::{Disk, StorageFormat, StorageKind},
    status::BlockJobKind,
};
use qmp::{commands, types};

use super::peek;
use crate::{
    domain::{
        self, Domain, View,
        jobs::{Kind as Job, Want},
    },
    error::{Area, Code, Error, Result},
    ops::{
        Driver, graph,
        holdings::storage::chain,
        run::{guest::Guest, react},
    },
};

/// Sizes of an image, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// As the guest sees it.
    pub capacity: u64,
    /// Taken on the storage.
    pub allocation: u64,
    /// Of the file or device that holds it.
    pub physical: u64,
}

/// What a job does to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Copies blocks of the images below into the top image.
    Pull,
    /// Copies the disk elsewhere.
    Copy,
    /// Writes an image into one below it.
    Commit,
    /// Writes the top image into one below it.
    ActiveCommit,
    /// Saves blocks as they were.
    Backup,
}

/// A job that is at work on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskJob {
    /// What it does.
    pub kind: Option<JobKind>,
    /// Bytes a second at most; 0: no limit.
    pub bandwidth: u64,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do in all.
    pub total: u64,
}

/// The sizes of a disk's image.
///
/// # Errors
/// `InvalidArg` if there is no such disk or its drive is empty, `System` if its file cannot be read.
pub async fn sizes(driver: &Arc<Driver>, domain: &Domain, name: &str) -> Result<Sizes> {
    let view = domain.view();
    let disk = disk_of(&view, name, || {
        format!("invalid path {name} not assigned to domain")
    })?;
    if disk.kind == StorageKind::VhostUser {
        let text = "block info is not supported for vhostuser disk";
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    if qemu_plan::block::is_empty(&disk) {
        let text = format!("disk '{name}' does not currently have a source assigned");
        return Err(Error::argument(text));
    }
    if disk
        .source
        .as_ref()
        .is_some_and(|source| source.fdgroup.is_some())
    {
        let text = "block info is not supported for FD passed disk image";
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    let path = chain::local_path(disk.kind, disk.source.as_ref());
    let told = match view.active() {
        true => told(driver, domain, &disk).await?,
        false => None,
    };
    let format = disk.driver.as_ref().and_then(|driver| driver.kind);
    let file = match path {
        Some(path) if told.is_none() || disk.kind != StorageKind::Block => {
            Some(of_file(&path, format.unwrap_or_default()).await)
        }
        _ => None,
    };
    match (told, file) {
        (Some(told), file) => Ok(running(told, disk.kind, file.and_then(Result::ok))),
        (None, Some(file)) => file,
        (None, None) => Err(Error::internal(format!(
            "the sizes of disk '{name}' are not known"
        ))),
    }
}

async fn of_file(path: &Path, format: StorageFormat) -> Result<Sizes> {
    let path = path.to_owned();
    crate::blocking::file("looking at an image", move || {
        let sizes = chain::sizes(&path, format).map_err(|error| error.in_area(Area::Storage))?;
        let [allocation, capacity, physical] = sizes;
        Ok(Sizes {
            capacity,
            allocation,
            physical,
        })
    })
    .await
}

/// What QEMU tells of an image: the highest byte written, what the guest sees, what the image takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    highest: u64,
    capacity: u64,
    taken: u64,
}

/// The sizes of a running guest's image. QEMU's number for what a block device takes is of no use, and the
/// highest byte written to a file says nothing of the file.
fn running(told: Told, kind: StorageKind, file: Option<Sizes>) -> Sizes {
    let capacity = told.capacity;
    match kind {
        StorageKind::Block => Sizes {
            capacity,
            allocation: told.highest,
            physical: told.taken,
        },
        _ => Sizes {
            capacity,
            allocation: told.taken,
            physical: file.map_or(told.taken, |file| file.physical),
        },
    }
}

async fn told(driver: &Arc<Driver>, domain: &Domain, disk: &Disk) -> Result<Option<Told>> {
    let (_job, guest) = asked(driver, domain).await?;
    let backends = guest.execute(commands::QueryBlock {}).await?;
    let Some(backend) = backends.iter().find(|backend| is_of(backend, disk)) else {
        return Ok(None);
    };
    let Some(inserted) = &backend.inserted else {
        return Ok(None);
    };
    let stats = guest
        .execute(commands::QueryBlockstats { query_nodes: true })
        .await?;
    let node = stats
        .iter()
        .find(|entry| entry.node_name.is_some() && entry.node_name == inserted.node_name);
    let highest = node.map_or(0, |entry| {
        let own = entry.stats.wr_highest_offset;
        entry
            .parent
            .as_ref()
            .map_or(own, |parent| parent.stats.wr_highest_offset)
    });
    Ok(inserted.image.as_ref().map(|image| Told {
        highest,
        capacity: image.virtual_size,
        taken: image.actual_size.unwrap_or(0),
    }))
}

/// A guest that runs and is to be asked. One that hangs costs one caller a wait, not each.
async fn asked(driver: &Driver, domain: &Domain) -> Result<(domain::Job, Arc<Guest>)> {
    let hangs = |view: &View| -> Result<()> {
        let is_silent = view.running()?.seen.unreachable.is_some();
        match driver.guests.of(view) {
            Ok(guest) if !is_silent && !guest.counters.overdue() => Ok(()),
            _ => {
                let text = format!("domain '{}' does not answer", view.name);
                Err(Error::new(Code::OperationTimeout, text))
            }
        }
    };
    driver.guests.reached(domain).await?;
    hangs(&domain.view())?;
    let job = domain.job(Want::Plain(Job::Query)).await?;
    let view = job.view();
    hangs(&view)?;
    let guest = driver.guests.of(&view)?;
    Ok((job, guest))
}

fn is_of(backend: &types::BlockInfo, disk: &Disk) -> bool {
    let alias = disk.info.alias.as_deref();
    alias.is_some() && backend.qdev.as_deref().map(react::alias_of).as_deref() == alias
}

/// The target of a running guest's disk, and the job at work on it.
///
/// # Errors
/// `OperationInvalid` if it does not run, `InvalidArg` if there is no such disk, what QEMU refuses.
pub async fn job(driver: &Arc<Driver>, domain: &Domain, name: &str) -> Result<(String, Option<DiskJob>)> {
    let (held, guest) = asked(driver, domain).await?;
    let view = held.view();
    let disk = disk_of(&view, name, || format!("disk '{name}' not found in domain"))?;
    let Some(job) = graph::job_of(&view, &disk.target.dev) else {
        return Ok((disk.target.dev, None));
    };
    let known = guest.execute(commands::QueryBlockJobs {}).await?;
    let told = known.iter().find(|known| known.device == job.name);
    Ok((disk.target.dev, Some(shown(job.kind.known(), told))))
}

/// A job as clients see it: done and total say also whether it is ready, as with libvirt.
fn shown(kind: Option<BlockJobKind>, told: Option<&types::BlockJobInfo>) -> DiskJob {
    let kind = match kind {
        Some(BlockJobKind::Pull) => Some(JobKind::Pull),
        Some(BlockJobKind::Copy) => Some(JobKind::Copy),
        Some(BlockJobKind::Commit) => Some(JobKind::Commit),
        Some(BlockJobKind::ActiveCommit) => Some(JobKind::ActiveCommit),
        Some(BlockJobKind::Backup) => Some(JobKind::Backup),
        _ => None,
    };
    let Some(told) = told else {
        // QEMU has it no more, and what follows from its end is not done yet.
        return DiskJob {
            kind,
            bandwidth: 0,
            done: 0,
            total: 1,
        };
    };
    let (done, total) = match (told.offset, told.len) {
        (0, 0) => (u64::from(told.ready), 1),
        (done, total) if done == total && !told.ready => (done - 1, total),
        both => both,
    };
    DiskJob {
        kind,
        bandwidth: told.speed,
        done,
        total,
    }
}

/// A copy of the disk in the configuration in force.
fn disk_of(view: &View, name: &str, missing: impl FnOnce() -> String) -> Result<Disk> {
    let document = view
        .current()
        .ok_or_else(|| Error::internal("the domain has no document"))?
        .domain()?;
    let found = peek::find(&document.devices.disks, name);
    found.cloned().map_err(|_| Error::argument(missing()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_of_qemus_numbers_depends_on_where_the_image_is() {
        let told = Told {
            highest: 393_216,
            capacity: 1 << 26,
            taken: 335_872,
        };
        let file = Some(Sizes {
            physical: 400_000,
            ..Sizes::default()
        });
        let sizes = |kind, file| {
            let sizes = running(told, kind, file);
            (sizes.allocation, sizes.physical, sizes.capacity)
        };
        let capacity = 1 << 26;
        assert_eq!(sizes(StorageKind::File, file), (335_872, 400_000, capacity));
        assert_eq!(sizes(StorageKind::Network, None), (335_872, 335_872, capacity));
        assert_eq!(sizes(StorageKind::Block, file), (393_216, 335_872, capacity));
    }

    #[test]
    fn a_job_that_is_not_ready_is_never_shown_as_done() {
        let told = |offset, len, ready| types::BlockJobInfo {
            r#type: "mirror".to_owned(),
            device: "copy-vda-libvirt-1-format".to_owned(),
            len,
            offset,
            speed: 1,
            ready,
            paused: false,
            status: "running".to_owned(),
            error: None,
        };
        let table = [
            (Some(told(2, 8, false)), (2, 8)),
            (Some(told(8, 8, false)), (7, 8)),
            (Some(told(8, 8, true)), (8, 8)),
            (Some(told(0, 0, false)), (0, 1)),
            (Some(told(0, 0, true)), (1, 1)),
            (None, (0, 1)),
        ];
        for (told, expected) in table {
            let job = shown(Some(BlockJobKind::Copy), told.as_ref());
            assert_eq!((job.done, job.total), expected, "{told:?}");
            assert_eq!(job.kind, Some(JobKind::Copy));
        }
    }
}
