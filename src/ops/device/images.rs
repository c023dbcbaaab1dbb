//! The images of a running guest's disks: giving one another size, and being told when one fills up.
//!
//! Both are one command of QEMU's, which leaves nothing half done.

use std::{
    io::{Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
};

use domxml::devices::{Disk, NodeNames, Source, StorageFormat, StorageKind, YesNo, disk::DiskBus};
use qemu_plan::block;
use qmp::commands;
use serde_json::{Map, json};

use crate::{
    domain::{
        Domain, Edit, Effects, Run,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        holdings::storage::chain,
        operation::{Ask, Context, Operation},
        run::{guest::Guest, left_backup},
    },
};

/// Bytes that sizes of some formats are a multiple of.
const SECTOR: u64 = 512;

/// The size that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// So many bytes.
    Bytes(u64),
    /// All of the block device that the image is on; if bytes are given, it has that many.
    WholeDevice(u64),
}

fn unsupported(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::OperationUnsupported, text)
}

/// Gives the image of a running guest's disk another size.
///
/// # Errors
/// `InvalidArg` if there is no such disk, `OperationUnsupported` for an image that keeps its size, what QEMU refuses.
pub(crate) async fn resize(
    driver: &Arc<Driver>,
    domain: &Domain,
    (name, size): (&str, Size),
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "resize-disk",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let disks = &view.running()?.document.domain.devices.disks;
    let is_named = |disk: &&Disk| {
        let path = chain::local_path(disk.kind, disk.source.as_ref());
        disk.target.dev == name || path.is_some_and(|path| path.as_os_str() == name)
    };
    let disk = disks
        .iter()
        .find(is_named)
        .ok_or_else(|| Error::argument(format!("disk '{name}' was not found in the domain config")))?;
    let node_name = node_to_resize(disk)?;
    let size = bytes(disk, size).await?;
    let slice = Sliced::of(disk);
    let guest = driver.guests.of(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| async move {
        let resize = commands::BlockResize { node_name, size };
        let Some(slice) = slice else {
            return guest.execute(resize).await.map(drop);
        };
        context
            .intend(Intent::DropSlice {
                target: slice.target.clone(),
            })
            .await?;
        let again = Arc::clone(&guest);
        let back = slice.clone();
        let reversal = async move { back.open(&again, true).await };
        context
            .step("the slice", slice.open(&guest, false), reversal)
            .await?;
        guest.execute(resize).await?;
        let Sliced { target, .. } = slice;
        let whole = Edit::live(move |document| {
            let mut disks = document.devices.disks.iter_mut();
            let disk = disks.find(|disk| disk.target.dev == target);
            if let Some(source) = disk.and_then(|disk| disk.source.as_mut()) {
                source.slices = None;
                name_as_format(source);
            }
            Ok(())
        });
        context.commit(whole, Effects::none()).await.map(drop)
    };
    operation.carry_out(work).await
}

/// A raw disk that is the beginning of its file: it becomes the whole file before it gets another size.
#[derive(Clone, Debug)]
struct Sliced {
    target: String,
    size: u64,
    storage: String,
    node: String,
}

impl Sliced {
    fn of(disk: &Disk) -> Option<Self> {
        let source = disk.source.as_ref()?;
        let slice = source.slices.as_ref()?.slices.first()?;
        let names = names(Some(source))?;
        Some(Self {
            target: disk.target.dev.clone(),
            size: slice.size,
            storage: names.of("storage")?.to_owned(),
            node: names.of("slice-storage")?.to_owned(),
        })
    }

    /// Opens its node again, as a slice or as the whole.
    async fn open(&self, guest: &Guest, sliced: bool) -> Result<()> {
        let mut node = json!({
            "driver": "raw", "file": self.storage, "node-name": self.node, "auto-read-only": true, "discard": "unmap",
        });
        if sliced {
            node["offset"] = 0.into();
            node["size"] = self.size.into();
        }
        let options = Map::from_iter([("options".to_owned(), json!([node]))]);
        guest.execute(commands::BlockdevReopen(options)).await.map(drop)
    }
}

/// The node of the part is the one of the whole from now on.
fn name_as_format(source: &mut Source) {
    let private = source.private_data.as_mut();
    let names = private.and_then(|private| private.nodenames.as_mut());
    for node in names.into_iter().flat_map(|names| &mut names.names) {
        if node.kind == "slice-storage" {
            node.kind = "format".to_owned();
        }
    }
}

/// Has QEMU see of a disk's file what its document says, after a change that was cut off.
///
/// # Errors
/// What QEMU refuses.
pub(crate) async fn set_right(guest: &Guest, disk: &Disk) -> Result<()> {
    match Sliced::of(disk) {
        Some(slice) => slice.open(guest, true).await,
        None => Ok(()),
    }
}

/// The node whose size the guest sees.
fn node_to_resize(disk: &Disk) -> Result<String> {
    let target = &disk.target.dev;
    if disk.kind == StorageKind::VhostUser {
        return Err(unsupported("block resize is not supported for vhostuser disk"));
    }
    check_slice(disk)?;
    if block::is_empty(disk) || disk.readonly {
        return Err(unsupported(format!(
            "can't resize empty or readonly disk '{target}'"
        )));
    }
    let names = names(disk.source.as_ref());
    let layers = ["format", "slice-storage", "storage"];
    let name = names.and_then(|names| layers.iter().find_map(|layer| names.of(layer)));
    let name = name.ok_or_else(|| Error::internal(format!("the nodes of disk '{target}' are not known")))?;
    Ok(name.to_owned())
}

fn check_slice(disk: &Disk) -> Result<()> {
    let slices = disk.source.as_ref().and_then(|source| source.slices.as_ref());
    let Some(slice) = slices.and_then(|slices| slices.slices.first()) else {
        return Ok(());
    };
    let refused = if disk.target.bus == Some(DiskBus::Sd) {
        "resize of a 'sd' disk with storage slice is not supported"
    } else if slice.offset != 0 {
        "resize of a disk with storage slice with non-zero 'offset' is not supported"
    } else if format_of(disk) != StorageFormat::Raw {
        "resize of a disk with storage slice is supported only for 'raw' images"
    } else {
        return Ok(());
    };
    Err(unsupported(refused))
}

fn format_of(disk: &Disk) -> StorageFormat {
    disk.driver
        .as_ref()
        .and_then(|driver| driver.kind)
        .unwrap_or_default()
}

fn names(source: Option<&Source>) -> Option<&NodeNames> {
    source?.private_data.as_ref()?.nodenames.as_ref()
}

/// The size in bytes, as the image can have it.
async fn bytes(disk: &Disk, size: Size) -> Result<u64> {
    let format = format_of(disk);
    let is_device = disk.kind == StorageKind::Block && format == StorageFormat::Raw;
    let path = chain::local_path(disk.kind, disk.source.as_ref()).filter(|_| is_device);
    match (size, path) {
        (Size::WholeDevice(_), None) => {
            let text = "block resize to full capacity supported only with 'raw' local block-based disks";
            Err(unsupported(text))
        }
        (Size::WholeDevice(wanted), Some(path)) => {
            let actual = device_size(path).await?;
            if wanted != 0 && wanted != actual {
                let text = format!("Requested resize to '{wanted}' but device size is '{actual}'");
                return Err(Error::argument(text));
            }
            Ok(actual)
        }
        // The whole device is what becomes of a part of it.
        (Size::Bytes(wanted), Some(path)) if Sliced::of(disk).is_some() => {
            let actual = device_size(path).await?;
            match wanted == actual {
                true => Ok(actual),
                false => Err(unsupported(format!(
                    "block device backed disk must be resized to its actual size '{actual}'"
                ))),
            }
        }
        (Size::Bytes(wanted), None) if matches!(format, StorageFormat::Qcow2 | StorageFormat::Qed) => {
            let rounded = wanted.checked_next_multiple_of(SECTOR);
            rounded.ok_or_else(|| Error::new(Code::Overflow, "the size is too large"))
        }
        (Size::Bytes(wanted), _) => Ok(wanted),
    }
}

async fn device_size(path: PathBuf) -> Result<u64> {
    crate::blocking::file("looking at a block device", move || {
        let size = std::fs::File::open(&path).and_then(|mut file| file.seek(SeekFrom::End(0)));
        size.map_err(|error| Error::system(format_args!("cannot stat file '{}'", path.display()), error))
    })
    .await
}

/// Has QEMU tell once when an image of a running guest is written above an offset; 0: it does not tell.
///
/// # Errors
/// `InvalidArg` if there is no such image, what QEMU refuses.
pub(crate) async fn set_threshold(
    driver: &Arc<Driver>,
    domain: &Domain,
    (device, bytes): (&str, u64),
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "set-disk-threshold",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let disks = &view.running()?.document.domain.devices.disks;
    let meant = Meant::of(device)?;
    let missing = || Error::argument(format!("failed to find disk '{device}'"));
    let disk = disks
        .iter()
        .find(|disk| disk.target.dev == meant.target)
        .ok_or_else(missing)?;
    if disk.kind == StorageKind::VhostUser {
        return Err(unsupported(
            "setting device threshold is not supported for vhostuser disk",
        ));
    }
    let written = || meant.source_of_backup(view.run.as_ref()?);
    let node = names(meant.source_in(disk).or_else(written)).and_then(|names| names.of("storage"));
    let node_name = node.ok_or_else(missing)?.to_owned();
    let edit = remembering(meant);
    edit.check(&view)?;
    let guest = driver.guests.of(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| async move {
        let command = commands::BlockSetWriteThreshold {
            node_name,
            write_threshold: bytes,
        };
        guest.execute(command).await?;
        context.commit(edit, Effects::none()).await.map(drop)
    };
    operation.carry_out(work).await
}

/// An image: the top one of a disk, or the one with a number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meant {
    target: String,
    index: Option<u32>,
}

impl Meant {
    /// Reads `vda` or `vda[3]`.
    fn of(device: &str) -> Result<Self> {
        let wrong = || Error::argument(format!("failed to parse block device '{device}'"));
        let Some((target, rest)) = device.split_once('[') else {
            let target = device.to_owned();
            return Ok(Self { target, index: None });
        };
        let number = rest.strip_suffix(']').ok_or_else(wrong)?;
        let index = Some(number.parse().map_err(|_| wrong())?);
        let target = target.to_owned();
        Ok(Self { target, index })
    }

    /// The image that a backup of the disk writes.
    fn source_of_backup<'a>(&self, run: &'a Run) -> Option<&'a Source> {
        let part = left_backup::part_of(run, &self.target)?;
        part.store()
            .filter(|_| self.index.is_some() && part.index == self.index)
    }

    fn source_in<'a>(&self, disk: &'a Disk) -> Option<&'a Source> {
        let Some(index) = self.index else {
            return disk.source.as_ref();
        };
        let top = disk.source.as_ref().filter(|source| source.index == Some(index));
        top.or_else(|| {
            let mut next = disk.backing.as_deref();
            while let Some(store) = next {
                if store.index == Some(index) {
                    return store.source.as_ref();
                }
                next = store.backing.as_deref();
            }
            None
        })
    }
}

/// How a client has named the top image of a disk decides by which names it is told.
fn remembering(meant: Meant) -> Edit {
    Edit::live(move |document| {
        let mut disks = document.devices.disks.iter_mut();
        let disk = disks.find(|disk| disk.target.dev == meant.target);
        let source = disk.and_then(|disk| disk.source.as_mut());
        let is_top = |source: &Source| meant.index.is_none() || source.index == meant.index;
        let private = source
            .filter(|source| is_top(source))
            .and_then(|source| source.private_data.as_mut());
        if let Some(private) = private {
            private.threshold_event_by_index = meant.index.map(|_| YesNo::Yes);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let text = "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/top' index='1'/>
            <backingStore type='file' index='2'><format type='raw'/><source file='/low'/><backingStore/></backingStore>
            <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk></devices></domain>";
        let mut document = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        let mut disk = document.devices.disks.remove(0);
        block::name_disk(&mut disk).unwrap();
        disk
    }

    #[test]
    fn images_are_named_by_target_and_number() {
        let disk = disk();
        let node = |device: &str| {
            let meant = Meant::of(device)?;
            let names = names(meant.source_in(&disk)).and_then(|names| names.of("storage"));
            Ok::<_, Error>(names.map(str::to_owned))
        };
        assert_eq!(node("vda").unwrap().as_deref(), Some("libvirt-1-storage"));
        assert_eq!(node("vda[2]").unwrap().as_deref(), Some("libvirt-2-storage"));
        assert_eq!(node("vda[9]").unwrap(), None);
        for wrong in ["vda[", "vda[x]", "vda[1"] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
        assert_eq!(node_to_resize(&disk).unwrap(), "libvirt-1-format");
    }

    #[tokio::test]
    async fn a_block_device_gets_any_size_and_a_part_of_one_becomes_all_of_it() {
        let device = tempfile::NamedTempFile::new().unwrap();
        device.as_file().set_len(4096).unwrap();
        let disk = |slices: &str| {
            let text = format!(
                "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices>
                <disk type='block' device='disk'><driver name='qemu' type='raw'/>
                <source dev='{}' index='1'>{slices}</source><backingStore/>
                <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk></devices></domain>",
                device.path().display()
            );
            let mut document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            let mut disk = document.devices.disks.remove(0);
            block::name_disk(&mut disk).unwrap();
            disk
        };
        let whole = disk("");
        assert_eq!(bytes(&whole, Size::Bytes(512)).await.unwrap(), 512);
        assert_eq!(bytes(&whole, Size::WholeDevice(0)).await.unwrap(), 4096);
        let part = disk("<slices><slice type='storage' offset='0' size='512'/></slices>");
        assert_eq!(bytes(&part, Size::Bytes(4096)).await.unwrap(), 4096);
        let error = bytes(&part, Size::Bytes(512)).await.unwrap_err();
        assert_eq!(error.code, Code::OperationUnsupported);
    }
}
