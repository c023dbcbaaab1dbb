//! Disks: the block nodes of each, then its front end. The nodes are made in `crate::block`; here is
//! what the guest sees, and the order on the command line.

use domxml::devices::address::{Address, DriveAddress};
use domxml::devices::common::{OnOff, YesNo};
use domxml::devices::controller::{ControllerKind, ScsiModel};
use domxml::devices::disk::{CacheMode, Disk, DiskBus, DiskDevice, DiskDriver, ErrorPolicy, GeometryTrans};
use domxml::devices::storage::StorageKind;

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::controller::queue_mapping;
use super::line::CommandLine;
use crate::block::{Cache, Image, copy_on_read, copy_on_read_node, filter_node, filters};
use crate::error::{Area, Code};
use crate::props::{Keyval, Props};
use crate::{Error, Result};

/// Appends what all floppy drives share: their boot order, and on machines without a built-in
/// controller the controller itself.
pub fn build_floppy_controller(cx: Context<'_>, line: &mut CommandLine) {
    let floppies: Vec<_> = cx
        .def
        .devices
        .disks
        .iter()
        .filter(|disk| bus(disk) == DiskBus::Fdc)
        .collect();
    if floppies.is_empty() {
        return;
    }
    let boots = floppies.iter().filter_map(|disk| {
        let index = cx.boot_index(&disk.info)?;
        let letter = if drive(disk).unit == 0 { 'A' } else { 'B' };
        Some((format!("bootindex{letter}"), index))
    });
    if cx.is_q35() {
        let mut controller = Props::driver("isa-fdc");
        for (key, index) in boots {
            controller.set(&key, index);
        }
        line.device(controller);
    } else {
        for (key, index) in boots {
            line.push("-global", format!("isa-fdc.{key}={index}"));
        }
    }
}

/// Has an image that others may write to go past the host's cache, unless the document says how it is cached.
pub fn settle_cache(disk: &mut Disk) {
    let driver = disk.driver.get_or_insert_default();
    let is_said = driver.cache.is_some_and(|cache| cache != CacheMode::Default);
    if disk.shareable && !disk.readonly && !is_said {
        driver.cache = Some(CacheMode::None);
    }
}

/// Appends one disk: objects, nodes, front end.
///
/// # Errors
/// When QEMU has no such disk.
pub fn build(cx: Context<'_>, disk: &Disk, image: Option<&Image>, line: &mut CommandLine) -> Result<()> {
    if bus(disk) == DiskBus::Sd {
        line.push("-drive", sd_card(cx, disk));
        return Ok(());
    }
    if let Some(image) = image {
        push_nodes(image, line);
    }
    if disk.kind == StorageKind::VhostUser {
        line.push("-chardev", vhost_user_socket(cx, disk)?);
    }
    let node = image.map(|image| top_node(disk, image, line));
    line.device(props(cx, disk, node.as_deref())?);
    Ok(())
}

/// Appends the objects and nodes of a chain, bottom first.
pub fn push_nodes(image: &Image, line: &mut CommandLine) {
    for image in image.chain() {
        for object in &image.objects {
            line.object(object.clone());
        }
        if let Some(given) = &image.descriptors {
            line.add_fds(given, &image.storage_node());
        }
        for node in image.nodes() {
            line.push("-blockdev", node);
        }
    }
}

/// Name of the node that the front end uses; appends the filters that the disk has.
fn top_node(disk: &Disk, image: &Image, line: &mut CommandLine) -> String {
    let mut top = image.node();
    if let Some(node) = copy_on_read_node(disk) {
        line.push("-blockdev", copy_on_read(&node, &top));
        top = node;
    }
    for filter in filters(disk, &image.stem) {
        line.push("-blockdev", filter_node(&filter, &top));
        top = filter.node;
    }
    top
}

/// Cards in a machine's own slot cannot be made with `-device`.
fn sd_card(cx: Context<'_>, disk: &Disk) -> Keyval {
    let path = disk
        .source
        .as_ref()
        .and_then(|source| source.file.as_ref().or(source.dev.as_ref()));
    let format = disk
        .driver
        .as_ref()
        .and_then(|driver| driver.kind)
        .map_or("raw", |format| format.as_str());
    let before = cx
        .def
        .devices
        .disks
        .iter()
        .take_while(|other| !std::ptr::eq(*other, disk));
    let index = before.filter(|other| bus(other) == DiskBus::Sd).count();
    let mut drive = Keyval::new();
    drive
        .opt("file", path)
        .set("format", format)
        .set("if", "sd")
        .set("index", index);
    if disk.readonly {
        drive.set("readonly", "on");
    }
    drive
}

fn vhost_user_socket(cx: Context<'_>, disk: &Disk) -> Result<Keyval> {
    let source = disk
        .source
        .as_ref()
        .ok_or_else(|| Error::internal_qemu("vhost-user disk without a source"))?;
    let mut socket = Keyval::implied("socket")
        .with("id", format!("chr-vu-{}", alias(&disk.info)?))
        .with("path", source.path.as_deref().unwrap_or_default());
    super::chardev::put_reconnect(cx, source.reconnect.as_ref(), &mut socket);
    Ok(socket)
}

/// Properties of a disk's front end on the block node `node`; an empty drive has none.
///
/// # Errors
/// When QEMU has no such front end.
pub fn props(cx: Context<'_>, disk: &Disk, node: Option<&str>) -> Result<Props> {
    let driver = disk.driver.clone().unwrap_or_default();
    let mut props = match bus(disk) {
        DiskBus::Virtio => virtio(cx, disk, &driver)?,
        DiskBus::Ide => ide(cx, disk)?,
        DiskBus::Sata => sata(cx, disk)?,
        DiskBus::Scsi => scsi(cx, disk)?,
        DiskBus::Fdc => Props::driver("floppy").with("unit", drive(disk).unit),
        DiskBus::Usb => {
            let mut props = Props::driver("usb-storage");
            address::put(cx, &disk.info, &mut props)?;
            props
        }
        other => {
            let text = format!("unsupported disk bus '{}' with device setup", other.as_str());
            return Err(Error::new(Code::Internal, Area::Qemu, text));
        }
    };
    props.opt("share-rw", disk.shareable.then_some(true));
    if disk.kind == StorageKind::VhostUser {
        props.set("chardev", format!("chr-vu-{}", alias(&disk.info)?));
    } else {
        props.opt("drive", node);
    }
    props.set("id", alias(&disk.info)?);
    put_media(cx, disk, &driver, &mut props)?;
    Ok(props)
}

fn put_media(cx: Context<'_>, disk: &Disk, driver: &DiskDriver, props: &mut Props) -> Result<()> {
    let boot = cx.boot_index(&disk.info).filter(|_| bus(disk) != DiskBus::Fdc);
    let blockio = disk.blockio.clone().unwrap_or_default();
    props
        .opt("bootindex", boot)
        .opt(
            "logical_block_size",
            blockio.logical_block_size.filter(|size| *size != 0),
        )
        .opt(
            "physical_block_size",
            blockio.physical_block_size.filter(|size| *size != 0),
        )
        .opt(
            "discard_granularity",
            blockio.discard_granularity.filter(|size| *size != 0),
        )
        .opt("wwn", wwn(disk)?)
        .opt(
            "rotation_rate",
            disk.target.rotation_rate.filter(|rate| *rate != 0),
        )
        .opt("vendor", disk.vendor.clone())
        .opt("product", disk.product.clone())
        .opt("removable", removable(disk))
        .opt("write-cache", write_cache(disk, driver));
    put_geometry(disk, props);
    // The serial number goes through an escape of its own.
    props.opt(
        "serial",
        disk.serial.as_ref().map(|serial| serial.replace(' ', "\\ ")),
    );
    put_error_policy(driver, props);
    Ok(())
}

fn put_geometry(disk: &Disk, props: &mut Props) {
    let Some(geometry) = &disk.geometry else {
        return;
    };
    if geometry.cyls == 0 || geometry.heads == 0 || geometry.secs == 0 {
        return;
    }
    props
        .set("cyls", geometry.cyls)
        .set("heads", geometry.heads)
        .set("secs", geometry.secs);
    let trans = geometry.trans.filter(|trans| *trans != GeometryTrans::Default);
    props.opt("bios-chs-trans", trans.map(GeometryTrans::as_str));
}

fn put_error_policy(driver: &DiskDriver, props: &mut Props) {
    let set = |policy: Option<ErrorPolicy>| policy.filter(|policy| *policy != ErrorPolicy::Default);
    let write = set(driver.error_policy);
    let read = set(driver.rerror_policy).or(write.filter(|policy| *policy != ErrorPolicy::Enospace));
    let name = |policy: ErrorPolicy| match policy {
        ErrorPolicy::Enospace => "enospc",
        other => other.as_str(),
    };
    props.opt("werror", write.map(name)).opt("rerror", read.map(name));
}

fn wwn(disk: &Disk) -> Result<Option<u64>> {
    let Some(wwn) = &disk.wwn else {
        return Ok(None);
    };
    let digits = wwn.trim_start_matches("0x");
    u64::from_str_radix(digits, 16)
        .map(Some)
        .map_err(|_| Error::internal_qemu(format!("malformed wwn '{wwn}'")))
}

/// USB sticks always say whether they are removable, SCSI disks only when they are.
fn removable(disk: &Disk) -> Option<bool> {
    let said = disk.target.removable.map(OnOff::is_on);
    match bus(disk) {
        DiskBus::Usb => Some(said.unwrap_or_default()),
        DiskBus::Scsi => said.filter(|removable| *removable),
        _ => None,
    }
}

fn write_cache(disk: &Disk, driver: &DiskDriver) -> Option<&'static str> {
    let cache = Cache::from_mode(driver.cache?.as_str())?;
    (disk.device != DiskDevice::Lun).then(|| crate::props::on_off(cache.writeback))
}

fn virtio(cx: Context<'_>, disk: &Disk, driver: &DiskDriver) -> Result<Props> {
    let base = if disk.kind == StorageKind::VhostUser {
        "vhost-user-blk"
    } else {
        "virtio-blk"
    };
    let mut props = address::virtio(base, &disk.info, Virtio::new(disk.model, Some(&driver.virtio)))?;
    props
        .opt(
            "iothread",
            driver.iothread.map(|number| format!("iothread{number}")),
        )
        .opt("ioeventfd", driver.ioeventfd.map(OnOff::is_on))
        .opt("event_idx", driver.event_idx.map(OnOff::is_on))
        .opt("num-queues", driver.queues.filter(|queues| *queues != 0))
        .opt("queue-size", driver.queue_size.filter(|size| *size != 0))
        .opt(
            "iothread-vq-mapping",
            driver.iothreads.as_ref().and_then(queue_mapping),
        );
    address::put(cx, &disk.info, &mut props)?;
    Ok(props)
}

fn ata_driver(disk: &Disk) -> &'static str {
    if disk.device == DiskDevice::Cdrom {
        "ide-cd"
    } else {
        "ide-hd"
    }
}

fn ide(cx: Context<'_>, disk: &Disk) -> Result<Props> {
    let at = drive(disk);
    if at.target != 0 {
        return Err(Error::internal_qemu("target must be 0 for ide controller"));
    }
    let controller = cx.controller_alias(ControllerKind::Ide, at.controller)?;
    Ok(Props::driver(ata_driver(disk))
        .with("bus", format!("{controller}.{}", at.bus))
        .with("unit", at.unit))
}

fn sata(cx: Context<'_>, disk: &Disk) -> Result<Props> {
    let at = drive(disk);
    if at.bus != 0 {
        return Err(Error::internal_qemu("bus must be 0 for ide controller"));
    }
    if at.target != 0 {
        return Err(Error::internal_qemu("target must be 0 for ide controller"));
    }
    let controller = cx.controller_alias(ControllerKind::Sata, at.controller)?;
    Ok(Props::driver(ata_driver(disk)).with("bus", format!("{controller}.{}", at.unit)))
}

fn scsi(cx: Context<'_>, disk: &Disk) -> Result<Props> {
    let driver = match disk.device {
        DiskDevice::Lun => "scsi-block",
        DiskDevice::Cdrom => "scsi-cd",
        DiskDevice::Disk | DiskDevice::Floppy => "scsi-hd",
    };
    let mut props = Props::driver(driver);
    put_scsi_place(cx, drive(disk), &mut props)?;
    if disk.device != DiskDevice::Lun {
        let serial = disk.serial.clone();
        let id = serial.unwrap_or(format!("drive-{}", alias(&disk.info)?));
        props.set("device_id", id);
    }
    Ok(props)
}

/// Place on a SCSI bus: old adapters know targets only.
///
/// # Errors
/// Internal, when the controller is not there.
pub fn put_scsi_place(cx: Context<'_>, at: DriveAddress, props: &mut Props) -> Result<()> {
    let controller = cx.controller(ControllerKind::Scsi, at.controller);
    let bus = format!("{}.0", cx.controller_alias(ControllerKind::Scsi, at.controller)?);
    props.set("bus", bus);
    let narrow = matches!(
        controller.and_then(|controller| controller.scsi_model()),
        Some(ScsiModel::Lsilogic | ScsiModel::Ncr53c90 | ScsiModel::Dc390 | ScsiModel::Am53c974)
    );
    if narrow {
        if at.target != 0 {
            return Err(Error::unsupported(
                "target must be 0 for controller model 'lsilogic'",
            ));
        }
        props.set("scsi-id", at.unit);
    } else {
        props
            .set("channel", at.bus)
            .set("scsi-id", at.target)
            .set("lun", at.unit);
    }
    Ok(())
}

/// Between the name of a transient disk's image and the guest's, in the name of the image that takes a run's changes.
pub const TRANSIENT_MARK: &str = ".TRANSIENT-";

/// Whether a line that is shown leaves a disk out: its changes are thrown away, it shares its image, and the image that takes
/// them is not made yet. A start makes that image first.
pub fn is_plugged_later(disk: &Disk) -> bool {
    let file = disk.source.as_ref().and_then(|source| source.file.as_deref());
    let is_made = file.is_some_and(|file| file.contains(TRANSIENT_MARK));
    let transient = disk.transient.as_ref();
    transient.is_some_and(|transient| transient.share_backing == Some(YesNo::Yes)) && !is_made
}

/// Bus of a disk.
pub fn bus(disk: &Disk) -> DiskBus {
    disk.target.bus.unwrap_or_default()
}

/// Unit of a disk that sits on a drive controller.
fn drive(disk: &Disk) -> DriveAddress {
    match &disk.info.address {
        Some(Address::Drive(drive)) => *drive,
        _ => DriveAddress::default(),
    }
}
