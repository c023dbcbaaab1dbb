//! What one disk has of the host: the owner of its image, and the device nodes that its guest may open.
//!
//! Called by attach, detach and the change of a medium; a start does the same for all disks at once. The lease of the image
//! is `run::cpus`' to take, for guests hold leases only while their CPUs run.

use std::sync::Arc;

use domxml::devices::{DeviceRef, Disk};
use uuid::Uuid;

use crate::{
    domain::{Domain, Run},
    error::Result,
    ops::{
        Driver,
        holdings::{
            cgroup::{self, DeviceChange},
            storage::{chain, owners::Owners, transient, volumes},
        },
        host::identity,
        operation::undo::Undo,
    },
};

/// Finds the volume of a disk that comes to a guest, and the images below its own.
///
/// # Errors
/// What the pool says; `System` for an image that can't be opened, `InvalidArg` for descriptors that nobody handed over.
pub(crate) async fn resolve(driver: &Driver, guest: Uuid, mut disk: Disk) -> Result<Disk> {
    volumes::find_one(driver, &mut disk).await?;
    let handed = driver.groups.named_by(guest, [&disk])?;
    let as_user = identity::file_user(&driver.config())?;
    crate::blocking::file("following the chain of an image", move || {
        chain::follow(&mut disk, &as_user, &handed)?;
        Ok(disk)
    })
    .await
}

/// Gives a disk's image to QEMU's user and lets the running guest open its nodes.
///
/// # Errors
/// The owner can't be changed, or the kernel refuses.
pub(crate) async fn acquire(
    driver: &Arc<Driver>,
    guest: &Domain,
    disk: &Disk,
    undo: &mut Undo,
) -> Result<()> {
    let document = Arc::clone(&guest.view().running()?.document);
    let owners = Arc::new(Owners::of_disk(driver, &document.domain, disk));
    let taken = Arc::clone(&owners);
    crate::blocking::file("giving the image to QEMU", move || taken.take()).await?;
    let restore = crate::blocking::file("giving the image back", move || {
        owners.restore();
        Ok(())
    });
    undo.push("the owner of the image", restore);
    cgroup::change_device(
        driver,
        guest.view().running()?,
        DeviceChange::In(DeviceRef::Disk(disk)),
    )?;
    let (driver, guest, disk) = (Arc::clone(driver), guest.clone(), disk.clone());
    undo.push("the nodes of the image", async move {
        let change = DeviceChange::Out(DeviceRef::Disk(&disk));
        cgroup::change_device(&driver, guest.view().running()?, change)
    });
    Ok(())
}

/// Gives back what a disk that has left the run had. Nothing depends on it any more, so what fails is logged.
pub(crate) async fn release(driver: &Driver, run: &Run, disk: &Disk) {
    let owners = Owners::of_disk(driver, &run.document.domain, disk);
    let restored = crate::blocking::file("giving the image back", move || {
        owners.restore();
        Ok(())
    });
    if let Err(error) = restored.await {
        tracing::warn!(%error, "the image of a disk that has left is QEMU's user's still");
    }
    if let Err(error) = cgroup::change_device(driver, run, DeviceChange::Out(DeviceRef::Disk(disk))) {
        tracing::warn!(%error, "QEMU may still open the device of a disk that has left");
    }
    let name = &run.document.domain.name;
    if let Err(error) = transient::remove(std::slice::from_ref(disk), name).await {
        tracing::warn!(%error, "the image that a run had of its own for a disk is left behind");
    }
}
