//! Removing snapshots: their parts from the guest's images, and what is recorded of them.
//!
//! What is removed from an image does not come back, so there is nothing to undo. A removal that is cut off is finished by
//! the next daemon: what is recorded goes last.

use std::{path::PathBuf, sync::Arc};

use domxml::{
    devices::{DiskDevice, SnapshotMode},
    moment::Snapshot,
};

use super::{choose, create::qcow2_nvram, images, internal, records, without_block_jobs};
use crate::{
    domain::{
        Effects, View,
        intents::Intent,
        snapshots::{Entry, Filter, Part},
    },
    error::{Code, Error, Result},
    ops::{Driver, operation::Context},
};

/// What goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// All that come after it, too.
    pub children: bool,
    /// Those alone.
    pub children_only: bool,
    /// What is recorded, and nothing else.
    pub metadata_only: bool,
}

/// The snapshots that go, the one that is named last.
pub(crate) fn targets(view: &View, entry: &Entry, how: How) -> Vec<String> {
    let mut targets = Vec::new();
    if how.children || how.children_only {
        let below = view
            .snapshots
            .list(Part::Descendants(&entry.name), Filter::default());
        targets.extend(below.iter().map(|entry| entry.name.to_string()));
    }
    if !how.children_only {
        targets.push(entry.name.to_string());
    }
    targets
}

/// Refuses what is not removed in one go, and external snapshots that are not where they can be removed.
///
/// # Errors
/// `ConfigUnsupported` or `OperationUnsupported`, in libvirt's words.
pub(crate) fn check_kinds(view: &View, entry: &Entry, how: How) -> Result<()> {
    let config = |text: &'static str| Err(Error::new(Code::ConfigUnsupported, text));
    let tree = &view.snapshots;
    if how.children || how.children_only {
        let below = tree.list(Part::Descendants(&entry.name), Filter::default());
        let external = below.iter().filter(|entry| entry.external).count();
        if external > 0 && external < below.len() {
            return config("deletion of external and internal children disk snapshots not supported");
        }
        if external > 0 {
            return config("deletion of external children disk snapshots not supported");
        }
    }
    if !entry.external || how.children_only {
        return Ok(());
    }
    if without_block_jobs(view).is_err() {
        let said = "cannot delete external snapshots when there is another active block job";
        return Err(Error::new(Code::OperationUnsupported, said));
    }
    if how.children {
        return config("deletion of external disk snapshots with children not supported");
    }
    let children = tree.children(&entry.name).count();
    if children == 0 {
        return Ok(());
    }
    let current = tree.current().map(|current| &*current.name);
    if current == Some(&entry.name) {
        return config("deletion of active external snapshot that is not a leaf snapshot is not supported");
    }
    let is_before_current =
        current.is_some_and(|current| tree.ancestors(current).any(|above| above.name == entry.name));
    if !is_before_current {
        return config("deletion of non-leaf external snapshot that is not in active chain is not supported");
    }
    if children > 1 {
        return config("deletion of external disk snapshot with multiple children snapshots not supported");
    }
    Ok(())
}

/// Refuses to remove an internal snapshot from a running guest that has other images now.
///
/// # Errors
/// `OperationFailed` or `OperationUnsupported`, in libvirt's words.
pub(crate) fn check_images(view: &View, snapshot: &Snapshot) -> Result<()> {
    let Some(run) = &view.run else { return Ok(()) };
    let name = &snapshot.moment.name;
    let failed = |text: String| Error::new(Code::OperationFailed, text);
    let find = |document: &domxml::Domain, target: &str| {
        let mut disks = document.devices.disks.iter();
        disks
            .find(|disk| disk.target.dev == target)
            .map(choose::image_path)
    };
    for part in snapshot
        .disks
        .iter()
        .filter(|part| part.mode == Some(SnapshotMode::Internal))
    {
        let target = &part.name;
        let now = find(&run.document.domain, target).ok_or_else(|| {
            failed(format!(
                "disk '{target}' referenced by snapshot '{name}' not found in the current definition"
            ))
        })?;
        let then = snapshot
            .moment
            .domain
            .as_deref()
            .and_then(|document| find(document, target));
        let then = then.ok_or_else(|| {
            failed(format!(
                "disk '{target}' referenced by snapshot '{name}' not found in the VM definition of the deleted snapshot"
            ))
        })?;
        if now != then {
            return Err(Error::new(
                Code::OperationUnsupported,
                format!(
                    "disk image '{target}' for internal snapshot '{name}' is not the same as disk image currently used by VM"
                ),
            ));
        }
    }
    Ok(())
}

/// Removes one that is internal, or what is recorded of one.
///
/// # Errors
/// What QEMU refuses or fails at; the files can't be written.
pub(crate) async fn remove(context: &Arc<Context>, name: &str, metadata_only: bool) -> Result<()> {
    let (driver, view) = (context.driver(), context.view());
    if !metadata_only {
        let intent = Intent::DeleteSnapshot {
            name: name.to_owned(),
        };
        match view.active() {
            true => context.intend(intent).await?,
            false => context.intend_off(intent).await?,
        }
        context.enter("the images");
        from_images(driver, &view, name).await?;
    }
    let change = forgetting(driver, &view, name).await?;
    let commit = move |view: &mut View| {
        change.apply(view)?;
        Ok(Effects::none())
    };
    context.commit_with(commit).await.map(drop)
}

/// The change by which a snapshot is forgotten.
///
/// # Errors
/// A file of those that change can't be read.
pub(crate) async fn forgetting(driver: &Driver, view: &View, name: &str) -> Result<records::Change> {
    let mut batch = records::Batch::of(driver, view);
    batch.remove(name).await?;
    batch.finish().await
}

/// Removes the parts of an internal snapshot from the guest's images.
///
/// # Errors
/// What QEMU refuses or fails at.
pub(crate) async fn from_images(driver: &Arc<Driver>, view: &View, name: &str) -> Result<()> {
    let snapshot = records::document(driver, view, name).await?;
    if view.active() {
        let guest = driver.guests.of(view)?;
        match internal::delete(&guest, &snapshot).await {
            // Some images may have lost their parts: the others lose theirs, too.
            Err(error) if guest.ended_with(&error).await => {}
            result => return result,
        }
    }
    from_files_of(&snapshot).await
}

/// The same where no QEMU has the images.
///
/// # Errors
/// What qemu-img fails at.
pub(crate) async fn from_files(driver: &Driver, view: &View, name: &str) -> Result<()> {
    from_files_of(&records::document(driver, view, name).await?).await
}

async fn from_files_of(snapshot: &Snapshot) -> Result<()> {
    let name = &snapshot.moment.name;
    for image in images_of(snapshot) {
        images::remove_part(name, image).await?;
    }
    Ok(())
}

/// The images that an internal snapshot has parts in, by the guest's document of that time.
pub(crate) fn images_of(snapshot: &Snapshot) -> Vec<PathBuf> {
    let Some(document) = snapshot.moment.domain.as_deref() else {
        return Vec::new();
    };
    let is_internal = |target: &str| {
        snapshot
            .disk(target)
            .is_some_and(|part| part.mode == Some(SnapshotMode::Internal))
    };
    let disks = document.devices.disks.iter();
    let disks = disks.filter(|disk| disk.device == DiskDevice::Disk && is_internal(&disk.target.dev));
    disks
        .filter_map(choose::image_path)
        .chain(qcow2_nvram(document))
        .collect()
}
