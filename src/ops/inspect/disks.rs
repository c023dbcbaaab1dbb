//! The disks of a guest one by one: their sizes and the jobs at work on them.

use std::{path::Path, sync::Arc};

use domxml::devices::{Disk, StorageFormat, StorageKind};
use qmp::{commands, types};

use super::peek;
use crate::{
    domain::{
        self, Domain, View,
        jobs::{Kind as Job, Want},
    },
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
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
    if disk.source.is_none() {
        let text = format!("disk '{name}' does not currently have a source assigned");
        return Err(Error::argument(text));
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
    let jobs = guest.execute(commands::QueryBlockJobs {}).await?;
    let job = jobs.iter().find_map(|job| job_of(job, &disk.target.dev));
    Ok((disk.target.dev, job))
}

/// The job, if it is of the disk with this target: its name begins with what it does and the target.
fn job_of(job: &types::BlockJobInfo, target: &str) -> Option<DiskJob> {
    const KINDS: [(&str, JobKind); 4] = [
        ("pull", JobKind::Pull),
        ("copy", JobKind::Copy),
        ("commit", JobKind::Commit),
        ("backup", JobKind::Backup),
    ];
    let (word, rest) = job.device.split_once('-')?;
    let node = rest.strip_prefix(target)?;
    if !node.starts_with('-') {
        return None;
    }
    let kind = KINDS
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, kind)| *kind);
    // QEMU carries out a commit of the top image as a mirror.
    let kind = match kind {
        Some(JobKind::Commit) if job.r#type == "mirror" => Some(JobKind::ActiveCommit),
        kind => kind,
    };
    Some(DiskJob {
        kind,
        bandwidth: job.speed,
        done: job.offset,
        total: job.len,
    })
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
    fn a_job_belongs_to_the_disk_that_its_name_names() {
        let job = |device: &str, r#type: &str| types::BlockJobInfo {
            r#type: r#type.to_owned(),
            device: device.to_owned(),
            len: 8,
            offset: 2,
            speed: 1,
            ready: false,
            paused: false,
            status: "running".to_owned(),
            error: None,
        };
        let kind = |device: &str, r#type: &str| job_of(&job(device, r#type), "vda").map(|job| job.kind);
        assert_eq!(
            kind("pull-vda-libvirt-1-format", "stream"),
            Some(Some(JobKind::Pull))
        );
        assert_eq!(
            kind("commit-vda-libvirt-1-format", "commit"),
            Some(Some(JobKind::Commit))
        );
        assert_eq!(
            kind("commit-vda-libvirt-1-format", "mirror"),
            Some(Some(JobKind::ActiveCommit))
        );
        assert_eq!(kind("odd-vda-x", "mirror"), Some(None));
        assert_eq!(kind("pull-vdab-libvirt-1-format", "stream"), None);
        assert_eq!(kind("create-libvirt-2-format", "create"), None);
    }
}
