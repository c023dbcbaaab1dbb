//! Disks of which nothing is kept: a run writes to an image of its own on top, which goes with the run or with the disk.
//!
//! The image is libvirt's: in the same directory, by the guest's name, a qcow2. Whoever ends the run finds it in the document
//! of the run, whichever daemon made it.

use std::path::PathBuf;

use domxml::{
    Domain,
    devices::{Disk, Source, StorageFormat, StorageKind},
};
use qemu_plan::{
    block::{self, Chain, Layer},
    command::disk::TRANSIENT_MARK as MARK,
};

use crate::{
    error::{Error, Result},
    ops::{
        holdings::storage::{chain, qemu_img::qemu_img},
        host::files,
        operation::undo::Undo,
    },
};

/// The images of all such disks of a guest that is to start. Numbers of nodes go on from `next`; the next that is free.
pub(crate) fn put_on_all(document: &mut Domain, mut next: u32) -> u32 {
    let guest = document.name.clone();
    for disk in &mut document.devices.disks {
        next = put_on(disk, &guest, next);
    }
    next
}

/// The same for one disk; it stays as it is if all of it is kept.
pub(crate) fn put_on(disk: &mut Disk, guest: &str, next: u32) -> u32 {
    let mut chain = Chain::of(disk);
    let below = chain.layers.first().and_then(Layer::path);
    let (Some(below), true) = (below, disk.transient.is_some() && image(disk, guest).is_none()) else {
        return next;
    };
    chain.layers.insert(
        0,
        Layer {
            kind: StorageKind::File,
            format: Some(StorageFormat::Qcow2),
            cache: None,
            source: Source {
                file: Some(format!("{below}{MARK}{guest}")),
                ..Source::default()
            },
            index: None,
            detected: false,
        },
    );
    chain.put(disk);
    block::number_disk(disk, next)
}

/// The image that a guest's run has of its own for a disk.
pub(crate) fn image(disk: &Disk, guest: &str) -> Option<PathBuf> {
    disk.transient.as_ref()?;
    let path = chain::local_path(disk.kind, disk.source.as_ref())?;
    path.to_str()?
        .ends_with(&format!("{MARK}{guest}"))
        .then_some(path)
}

/// Makes the images that a run has of its own; they are removed with `undo`. What a run that ended before left there is
/// replaced.
///
/// # Errors
/// What qemu-img fails at.
pub(crate) async fn make(disks: &[Disk], guest: &str, undo: &mut Undo) -> Result<()> {
    for disk in disks {
        let Some(path) = image(disk, guest) else {
            continue;
        };
        let chain = Chain::of(disk);
        let Some(below) = chain.layers.get(1) else {
            return Err(Error::internal("nothing is below a disk's image"));
        };
        let format = below.format.unwrap_or(StorageFormat::Raw).as_str();
        let words = ["create", "-q", "-f", "qcow2", "-F", format, "-b"].map(str::to_owned);
        let paths = [
            below.path().unwrap_or_default(),
            path.to_string_lossy().into_owned(),
        ];
        qemu_img(words.into_iter().chain(paths).collect()).await?;
        // Only now: one that could not be made may be another disk's.
        let (removed, again) = (vec![disk.clone()], guest.to_owned());
        undo.push("a disk's image for this run", async move {
            remove(&removed, &again).await
        });
    }
    Ok(())
}

/// Removes the images that a run had of its own.
///
/// # Errors
/// One is there and can't be removed.
pub(crate) async fn remove(disks: &[Disk], guest: &str) -> Result<()> {
    let paths: Vec<_> = disks.iter().filter_map(|disk| image(disk, guest)).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let work = move || paths.iter().try_for_each(|path| files::remove(path));
    crate::blocking::file("removing the images that a run had of its own", work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(more: &str) -> Domain {
        let text = format!(
            "<domain type='qemu'><name>demo</name><devices><disk type='file' device='disk'>\
             <driver name='qemu' type='raw'/><source file='/img/a.raw' index='1'/><backingStore/>\
             <target dev='vda' bus='virtio'/>{more}</disk></devices></domain>"
        );
        Domain::parse(&text, domxml::ParseFlags::NONE).unwrap()
    }

    #[test]
    fn a_run_writes_to_an_image_of_its_own() {
        let mut document = disks("<transient/>");
        assert_eq!(put_on_all(&mut document, 7), 8);
        let disk = &document.devices.disks[0];
        assert_eq!(image(disk, "demo"), Some("/img/a.raw.TRANSIENT-demo".into()));
        assert_eq!(image(disk, "other"), None);
        let chain = Chain::of(disk);
        let told = chain.layers.iter().map(|layer| (layer.index, layer.format));
        let expected = [
            (Some(7), Some(StorageFormat::Qcow2)),
            (Some(1), Some(StorageFormat::Raw)),
        ];
        assert!(told.eq(expected));
        // A second time changes nothing.
        assert_eq!(put_on_all(&mut document, 8), 8);
    }

    #[test]
    fn a_disk_that_is_kept_stays_as_it_is() {
        let mut document = disks("");
        let before = document.clone();
        assert_eq!(put_on_all(&mut document, 7), 7);
        assert_eq!(document, before);
    }

    #[tokio::test]
    async fn the_image_is_made_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a.raw");
        std::fs::File::create(&below).unwrap().set_len(1 << 20).unwrap();
        let mut document = disks("<transient/>");
        let disk = &mut document.devices.disks[0];
        disk.source.as_mut().unwrap().file = Some(below.to_string_lossy().into_owned());
        put_on(disk, "demo", 2);
        let image = image(disk, "demo").unwrap();
        std::fs::write(&image, "left by somebody").unwrap();
        let mut undo = Undo::default();
        match make(&document.devices.disks, "demo", &mut undo).await {
            // qemu-img is not everywhere.
            Err(error) if error.message.contains("unable to find") => return,
            made => made.unwrap(),
        }
        assert_eq!(&std::fs::read(&image).unwrap()[..4], b"QFI\xfb");
        remove(&document.devices.disks, "demo").await.unwrap();
        assert!(!image.exists() && below.exists());
    }
}
