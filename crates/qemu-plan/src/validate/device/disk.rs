//! Disks: what any hypervisor refuses, then what QEMU does.

use domxml::devices::{
    Address, Disk, DiskBus, DiskDevice, DriveAddress, ErrorPolicy, IoMode, OnOff, ScsiModel, SgIo,
    SnapshotMode, StorageFormat, StorageKind, Tray, YesNo,
};

use super::super::Guest;
use super::super::rule::{check, rules};
use super::iotune;
use super::source::{self, images};
use crate::caps::Flag;
use crate::error::{Error, Result};
use crate::facts::{address_kind, disk_index};

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    check(TARGET, guest, disk)?;
    images(disk)
        .iter()
        .try_for_each(|image| source::generic(guest, image))?;
    check(LUN, guest, disk)?;
    if let Some(tune) = &disk.iotune {
        iotune::totals(tune)?;
    }
    check(BUS, guest, disk)?;
    if disk.kind == StorageKind::VhostUser {
        check(VHOST_USER, guest, disk)?;
    }
    check(REST, guest, disk)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    check(FRONT_END, guest, disk)?;
    threads(guest, disk)?;
    iotune::qemu(guest, disk)?;
    check(TRANSIENT, guest, disk)?;
    check(DRIVER, guest, disk)?;
    images(disk)
        .iter()
        .try_for_each(|image| source::qemu(guest, image))?;
    check(KIND, guest, disk)
}

rules! {
    /// A disk has a name.
    TARGET(guest, disk: Disk) {
        no_target "pool = '{}', volume = '{}'" (pool(disk, true), pool(disk, false))
            if disk.target.dev.is_empty() && disk.kind == StorageKind::Volume && !pool(disk, true).is_empty();
        no_target "{}" (source::path(disk).unwrap_or_default()) if disk.target.dev.is_empty();
    }
}

rules! {
    /// Devices of the host that a guest commands itself, and what is theirs alone.
    LUN(guest, disk: Disk) {
        conflicting "unfiltered sgio is no longer supported" if disk.sgio == Some(SgIo::Unfiltered);
        conflicting "disk device='lun' is not supported for protocol='{}'"
            (disk.source.as_ref().and_then(|s| s.protocol).map_or("none", |p| p.as_str()))
            if lun(disk) && disk.kind == StorageKind::Network && !source::is_iscsi(disk);
        conflicting "disk device='lun' is only valid for block type disk source"
            if lun(disk) && !matches!(actual(disk), StorageKind::Block | StorageKind::Volume | StorageKind::Network);
        conflicting "disk device 'lun' must use 'raw' format"
            if lun(disk) && format(disk).is_some_and(|f| f != StorageFormat::Raw);
        conflicting "disk device 'lun' doesn't support storage slice"
            if lun(disk) && disk.source.as_ref().is_some_and(source::has_slice);
        conflicting "disk device 'lun' doesn't support encryption"
            if lun(disk) && source::encryption(disk).is_some_and(source::is_modern);
        conflicting "<reservations/> allowed only for lun devices"
            if !lun(disk) && disk.source.as_ref().is_some_and(|s| s.reservations.is_some());
        conflicting "rawio can be used only with device='lun'" if !lun(disk) && disk.rawio.is_some();
        conflicting "sgio can be used only with device='lun'" if !lun(disk) && disk.sgio.is_some();
    }
}

rules! {
    /// What a bus has.
    BUS(guest, disk: Disk) {
        conflicting "Invalid address type '{}' for the disk '{}' with the bus type '{}'"
            (disk.info.address.as_ref().map_or("none", address_kind), disk.target.dev, bus(disk).as_str())
            if matches!(bus(disk), DiskBus::Ide | DiskBus::Fdc | DiskBus::Scsi | DiskBus::Sata)
                && disk.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Drive(_)));
        conflicting "disk model '{}' not supported for bus '{}'"
            (disk.model.map_or("", |m| m.as_str()), bus(disk).as_str()) if !virtio(disk)
                && disk.model.is_some();
        conflicting "queues attribute in disk driver element is only supported for virtio bus"
            if !virtio(disk) && disk.driver.as_ref().and_then(|d| d.queues).is_some_and(|q| q > 0);
        conflicting "queue_size attribute in disk driver is only supported for virtio bus"
            if !virtio(disk) && disk.driver.as_ref().and_then(|d| d.queue_size).is_some_and(|q| q > 0);
        conflicting "disk event_idx mode supported only for virtio bus"
            if !virtio(disk) && disk.driver.as_ref().is_some_and(|d| d.event_idx.is_some());
        conflicting "disk ioeventfd mode supported only for virtio bus"
            if !virtio(disk) && disk.driver.as_ref().is_some_and(|d| d.ioeventfd.is_some());
        conflicting "{} is only supported for virtio devices"
            (super::virtio_option(disk.driver.as_ref().map(|d| &d.virtio)))
            if !virtio(disk) && super::has_virtio_options(disk.driver.as_ref().map(|d| &d.virtio));
        conflicting "NVMe namespace can't be zero"
            if disk.kind == StorageKind::Nvme
                && disk.source.as_ref().is_some_and(|s| s.namespace.unwrap_or(0) == 0);
    }
}

rules! {
    /// What another process that serves a disk knows nothing of.
    VHOST_USER(guest, disk: Disk) {
        conflicting "vhostuser disk supports only virtio bus" if !virtio(disk);
        conflicting "only snapshot=no is supported with vhostuser disk"
            if disk.snapshot != Some(SnapshotMode::No);
        conflicting "{} is not supported with vhostuser disk" (unserved(disk).unwrap_or_default())
            if unserved(disk).is_some();
    }
}

rules! {
    /// The rest.
    REST(guest, disk: Disk) {
        conflicting "label overrides require relabeling to be enabled at the domain level"
            if images(disk).iter().filter_map(|i| i.source).any(|s| guest.forbids_relabel(&s.seclabels));
        conflicting "tray is only valid for cdrom and floppy"
            if disk.target.tray == Some(Tray::Open) && !removable(disk);
        xml "disk vendor is not printable string" if disk.vendor.as_deref().is_some_and(|v| !is_printable(v));
        conflicting "disk vendor is more than {} characters" (VENDOR_LENGTH)
            if disk.vendor.as_deref().is_some_and(|v| v.len() > VENDOR_LENGTH);
        xml "disk product is not printable string"
            if disk.product.as_deref().is_some_and(|p| !is_printable(p));
        conflicting "disk product is more than {} characters" (product_length(disk))
            if disk.product.as_deref().is_some_and(|p| p.len() > product_length(disk));
        internal "Invalid bus type '{}' for floppy disk" (bus(disk).as_str())
            if disk.device == DiskDevice::Floppy && bus(disk) != DiskBus::Fdc;
        internal "Invalid bus type '{}' for disk" (bus(disk).as_str())
            if disk.device != DiskDevice::Floppy && bus(disk) == DiskBus::Fdc;
        xml "removable is only valid for usb or scsi disks"
            if disk.target.removable.is_some() && bus(disk) != DiskBus::Usb
                && !(bus(disk) == DiskBus::Scsi && disk.device == DiskDevice::Disk);
        xml "disk startupPolicy '{}' is not allowed for disk of '{}' type"
            (source::policy(disk), disk.kind.as_str())
            if !source::policy(disk).is_empty() && !matches!(
                disk.kind, StorageKind::File | StorageKind::Block | StorageKind::Dir | StorageKind::Volume);
        xml "disk startupPolicy '{}' is allowed only for cdrom or floppy" (source::policy(disk))
            if source::policy(disk) == "requisite" && !removable(disk);
        malformed "Malformed wwn: {}" (disk.wwn.as_deref().unwrap_or_default())
            if disk.wwn.as_deref().is_some_and(|w| !is_wwn(w));
        internal "Invalid harddisk device name: {}" (disk.target.dev)
            if matches!(disk.device, DiskDevice::Disk | DiskDevice::Lun)
                && !["hd", "sd", "vd", "xvd", "ubd"].iter().any(|p| disk.target.dev.starts_with(p));
        internal "Invalid floppy device name: {}" (disk.target.dev)
            if disk.device == DiskDevice::Floppy && !disk.target.dev.starts_with("fd");
        no_source "{}" (disk.target.dev) if disk.device == DiskDevice::Disk && source::is_empty(disk);
        conflicting "'discard_no_unref' only works with qcow2 disk format"
            if no_unref(disk) && format(disk) != Some(StorageFormat::Qcow2);
        conflicting "'discard_no_unref' is not compatible with read-only disk"
            if no_unref(disk) && disk.readonly;
        xml "disk driver 'iothread' attribute can't be used together with 'iothreads' subelement"
            if disk.driver.as_ref().is_some_and(|d| d.iothread.is_some() && d.iothreads.is_some());
        not_offered "block 'throttlefilters' can't be used together with 'iotune' for disk '{}'"
            (disk.target.dev)
            if filtered(disk) && disk.iotune.as_ref().is_some_and(|t| t.group_name.is_some()
                || iotune::is_set(t));
        not_offered "cdrom device with throttle filters isn't supported"
            if filtered(disk) && disk.device == DiskDevice::Cdrom;
        xml "throttle group '{}' not found" (unknown_group(guest, disk).unwrap_or_default())
            if unknown_group(guest, disk).is_some();
    }
}

/// Longest name of a vendor.
const VENDOR_LENGTH: usize = 8;

rules! {
    /// What QEMU's devices have.
    FRONT_END(guest, disk: Disk) {
        unsupported "CHS geometry can not be set for '{}' bus" (bus(disk).as_str())
            if disk.geometry.as_ref().is_some_and(|g| g.cyls > 0 && g.heads > 0 && g.secs > 0)
                && matches!(bus(disk), DiskBus::Usb | DiskBus::Sd);
        unsupported "CHS translation mode can only be set for 'ide' bus not '{}'" (bus(disk).as_str())
            if disk.geometry.as_ref().is_some_and(|g| g.cyls > 0 && g.trans.is_some())
                && bus(disk) != DiskBus::Ide;
        internal_qemu "Serial property not supported for drive bus '{}'" (bus(disk).as_str())
            if disk.serial.is_some() && bus(disk) == DiskBus::Sd;
        unsupported "disk type of '{}' does not support ejectable media" (disk.target.dev)
            if removable(disk) && matches!(bus(disk), DiskBus::Virtio | DiskBus::Sd);
        unsupported "copy_on_read is not compatible with read-only disk '{}'" (disk.target.dev)
            if copies(disk) && disk.readonly;
        unsupported "copy_on_read is not supported with removable disk '{}'" (disk.target.dev)
            if copies(disk) && removable(disk);
        unsupported "Only ide and scsi disk support wwn"
            if disk.wwn.is_some() && !matches!(bus(disk), DiskBus::Ide | DiskBus::Scsi);
        unsupported "Only scsi disk supports 'vendor'" if disk.vendor.is_some() && bus(disk) != DiskBus::Scsi;
        unsupported "Only ide, sata and scsi disk supports 'product'"
            if disk.product.is_some() && !matches!(bus(disk), DiskBus::Ide | DiskBus::Sata | DiskBus::Scsi);
        unsupported "This QEMU doesn't support scsi-block for lun passthrough"
            if lun(disk) && bus(disk) == DiskBus::Scsi && !guest.caps.has(Flag::ScsiBlock);
        unsupported "This QEMU doesn't support SCSI emulation with 'virtio-blk' device"
            if lun(disk) && virtio(disk) && !guest.caps.has(Flag::VirtioBlkPciScsi);
        unsupported "disk device='lun' is not supported for bus='{}'" (bus(disk).as_str())
            if lun(disk) && !matches!(bus(disk), DiskBus::Scsi | DiskBus::Virtio);
        unsupported "copy_on_read is not compatible with 'lun' disk '{}'" (disk.target.dev)
            if lun(disk) && copies(disk);
        unsupported "Setting wwn is not supported for lun device" if lun(disk) && disk.wwn.is_some();
        unsupported "Setting vendor or product is not supported for lun device"
            if lun(disk) && (disk.vendor.is_some() || disk.product.is_some());
        internal_qemu "rotation rate is only valid for SCSI/IDE/SATA bus"
            if rotates(disk) && !matches!(bus(disk), DiskBus::Scsi | DiskBus::Ide | DiskBus::Sata);
        internal_qemu "rotation rate is only valid for disk device"
            if rotates(disk) && disk.device != DiskDevice::Disk;
        internal_qemu "rotation rate is not supported with this QEMU"
            if rotates(disk) && !guest.caps.has(Flag::RotationRate);
        unsupported "queue-size property isn't supported by this QEMU binary"
            if virtio(disk) && disk.driver.as_ref().is_some_and(|d| d.queue_size.is_some_and(|q| q > 0))
                && !guest.caps.has(Flag::VirtioBlkQueueSize);
        unsupported "This QEMU doesn't support '-device usb-storage'"
            if bus(disk) == DiskBus::Usb && !guest.caps.has(Flag::UsbStorage);
        unsupported "'usb' disk must not be empty" if bus(disk) == DiskBus::Usb && source::is_empty(disk);
        internal_qemu "unexpected address type for usb disk"
            if bus(disk) == DiskBus::Usb && disk.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Usb(_)));
        unsupported "readonly {} disks are not supported" (bus(disk).as_str())
            if disk.readonly && disk.device == DiskDevice::Disk
                && matches!(bus(disk), DiskBus::Ide | DiskBus::Sata);
        unsupported "io='native' needs either no disk cache or directsync cache mode"
            if disk.driver.as_ref().is_some_and(|d| d.io == Some(IoMode::Native)
                && !source::bypasses_cache(d));
        unsupported "io uring is not supported by this QEMU binary"
            if disk.driver.as_ref().is_some_and(|d| d.io == Some(IoMode::IoUring))
                && !guest.caps.has(Flag::AioIoUring);
        unsupported "scsi-block 'lun' devices do not support the serial property"
            if lun(disk) && bus(disk) == DiskBus::Scsi && disk.serial.is_some();
        internal_qemu "driver serial '{}' contains unsafe characters"
            (disk.serial.as_deref().unwrap_or_default())
            if disk.serial.as_deref().is_some_and(|s| !s.chars().all(is_safe));
    }
}

rules! {
    /// Disks that forget.
    TRANSIENT(guest, disk: Disk) {
        unsupported "transient disk '{}' must not be empty" (disk.target.dev)
            if disk.transient.is_some() && source::is_empty(disk);
        unsupported "transient disk '{}' must not be read-only" (disk.target.dev)
            if disk.transient.is_some() && disk.readonly;
        unsupported "transient disk supported only with 'file' type ({})" (disk.target.dev)
            if disk.transient.is_some() && actual(disk) != StorageKind::File;
        unsupported "transient disk supported only with 'disk' device ({})" (disk.target.dev)
            if disk.transient.is_some() && disk.device != DiskDevice::Disk;
        unsupported "transient disk backing image sharing with destroy action of lifecycle isn't supported by this QEMU binary"
            if shares_backing(disk) && !guest.caps.has(Flag::SetAction) && !guest.may_reboot();
        unsupported "disk bus '{}' doesn't support transiend disk backing image sharing" (bus(disk).as_str())
            if shares_backing(disk) && !matches!(bus(disk), DiskBus::Usb | DiskBus::Virtio | DiskBus::Scsi);
    }
}

rules! {
    /// Driver and name.
    DRIVER(guest, disk: Disk) {
        unsupported "shared access for disk '{}' requires use of supported storage format" (disk.target.dev)
            if disk.shareable && !disk.readonly && format(disk) != Some(StorageFormat::Raw);
        unsupported "unsupported driver name '{}' for disk '{}'"
            (disk.driver.as_ref().and_then(|d| d.name.as_deref()).unwrap_or_default(), disk.target.dev)
            if disk.driver.as_ref().and_then(|d| d.name.as_deref()).is_some_and(|n| n != "qemu");
        unsupported "invalid disk target '{}'" (disk.target.dev) if disk_index(&disk.target.dev).is_none();
        unsupported "invalid disk target '{}', partitions can't appear in disk targets" (disk.target.dev)
            if partition(&disk.target.dev).is_some_and(|n| n != "0");
        unsupported "'discard_no_unref' is not supported by this QEMU binary"
            if disk.driver.as_ref().is_some_and(|d| d.discard_no_unref.is_some())
                && !guest.caps.has(Flag::Qcow2DiscardNoUnref);
    }
}

rules! {
    /// Other processes that serve disks.
    KIND(guest, disk: Disk) {
        unsupported "sd card '{}' does not support multiple encryption secrets" (disk.target.dev)
            if bus(disk) == DiskBus::Sd && source::encryption(disk).is_some_and(|e| e.secrets.len() > 1);
        unsupported "{} disk is not supported with this QEMU binary" (disk.kind.as_str())
            if disk.kind == StorageKind::VhostUser && !guest.caps.has(Flag::VhostUserBlk);
        unsupported "{} disk is not supported with this QEMU binary" (disk.kind.as_str())
            if disk.kind == StorageKind::VhostVdpa && !guest.caps.has(Flag::VirtioBlkVhostVdpa);
        unsupported "vhostvdpa disk supports only virtio bus"
            if disk.kind == StorageKind::VhostVdpa && !virtio(disk);
        unsupported "disk type '{}' requires cache mode '{}' or '{}'" (disk.kind.as_str(), "none", "directsync")
            if disk.kind == StorageKind::VhostVdpa
                && !disk.driver.as_ref().is_some_and(source::bypasses_cache);
        unsupported "'{}' requires shared memory" (disk.kind.as_str())
            if matches!(disk.kind, StorageKind::VhostUser | StorageKind::VhostVdpa) && !guest.shares_memory();
    }
}

rules! {
    /// Where a drive may be on its bus.
    DRIVE(guest, disk: Disk) {
        internal_qemu "SCSI controller only supports 1 bus"
            if bus(disk) == DiskBus::Scsi && drive(disk).bus > 0;
        unsupported "target must be 0 for controller model 'lsilogic'"
            if bus(disk) == DiskBus::Scsi && drive(disk).target > 0 && narrow(guest, disk);
        unsupported "disk unit {} is too large for controller model 'lsilogic', maximum is 7"
            (drive(disk).unit)
            if bus(disk) == DiskBus::Scsi && drive(disk).unit > 7 && narrow(guest, disk);
        unsupported "This QEMU doesn't support target greater than 7"
            if bus(disk) == DiskBus::Scsi && drive(disk).target > 7 && !guest.caps.has(Flag::ScsiDiskChannel);
        unsupported "This QEMU only supports both bus and unit equal to 0"
            if bus(disk) == DiskBus::Scsi && drive(disk).bus > 0 && drive(disk).unit > 0
                && !guest.caps.has(Flag::ScsiDiskChannel);
        internal_qemu "Only 1 {} controller is supported" ("IDE")
            if bus(disk) == DiskBus::Ide && drive(disk).controller > 0;
        unsupported "target must be 0 for ide controller"
            if bus(disk) == DiskBus::Ide && drive(disk).target > 0;
        internal_qemu "Only 1 {} controller is supported" ("fdc")
            if bus(disk) == DiskBus::Fdc && drive(disk).controller > 0;
        internal_qemu "Only 1 fdc bus is supported" if bus(disk) == DiskBus::Fdc && drive(disk).bus > 0;
        unsupported "target must be 0 for controller fdc"
            if bus(disk) == DiskBus::Fdc && drive(disk).target > 0;
        unsupported "bus must be 0 for sata controller" if bus(disk) == DiskBus::Sata && drive(disk).bus > 0;
        unsupported "target must be 0 for sata controller"
            if bus(disk) == DiskBus::Sata && drive(disk).target > 0;
    }
}

/// Checks the place of a disk that has one among drives.
pub(super) fn place(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    match &disk.info.address {
        Some(Address::Drive(_)) => check(DRIVE, guest, disk),
        _ => Ok(()),
    }
}

/// Threads that serve the disk.
fn threads(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    let Some(driver) = &disk.driver else { return Ok(()) };
    let dev = &disk.target.dev;
    if driver.iothreads.is_some() && virtio(disk) && !guest.caps.has(Flag::VirtioBlkIothreadMapping) {
        return Err(Error::unsupported(format!(
            "IOThread mapping for disk '{dev}' is not available with this QEMU binary"
        )));
    }
    let wanted = driver.iothread.is_some() || driver.iothreads.is_some();
    if wanted && !virtio(disk) {
        let bus = bus(disk).as_str();
        return Err(Error::unsupported(format!(
            "IOThreads not available for bus {bus} target {dev}"
        )));
    }
    if let Some(id) = driver.iothread.filter(|id| !guest.iothreads().contains(id)) {
        return Err(Error::unsupported(format!(
            "Disk iothread '{id}' not defined in iothreadid"
        )));
    }
    match &driver.iothreads {
        Some(mapping) => super::threads::mapping(guest, mapping, driver.queues.unwrap_or(0)),
        None => Ok(()),
    }
}

fn bus(disk: &Disk) -> DiskBus {
    disk.target.bus.unwrap_or_default()
}

fn virtio(disk: &Disk) -> bool {
    bus(disk) == DiskBus::Virtio
}

fn lun(disk: &Disk) -> bool {
    disk.device == DiskDevice::Lun
}

fn removable(disk: &Disk) -> bool {
    matches!(disk.device, DiskDevice::Cdrom | DiskDevice::Floppy)
}

fn copies(disk: &Disk) -> bool {
    disk.driver
        .as_ref()
        .is_some_and(|d| d.copy_on_read == Some(OnOff::On))
}

fn rotates(disk: &Disk) -> bool {
    disk.target.rotation_rate.is_some_and(|r| r > 0)
}

fn no_unref(disk: &Disk) -> bool {
    disk.driver
        .as_ref()
        .is_some_and(|d| d.discard_no_unref == Some(OnOff::On))
}

fn filtered(disk: &Disk) -> bool {
    disk.throttlefilters
        .as_ref()
        .is_some_and(|f| !f.filters.is_empty())
}

fn shares_backing(disk: &Disk) -> bool {
    disk.transient
        .as_ref()
        .is_some_and(|t| t.share_backing == Some(YesNo::Yes))
}

fn format(disk: &Disk) -> Option<StorageFormat> {
    disk.driver.as_ref().and_then(|d| d.kind)
}

/// The kind of source, a volume's once it is known.
fn actual(disk: &Disk) -> StorageKind {
    disk.source.as_ref().map_or(disk.kind, |s| s.located(disk.kind).0)
}

fn drive(disk: &Disk) -> DriveAddress {
    match &disk.info.address {
        Some(Address::Drive(address)) => *address,
        _ => DriveAddress::default(),
    }
}

/// Whether the controller is the old one with a target a unit.
fn narrow(guest: &Guest<'_>, disk: &Disk) -> bool {
    let index = Some(drive(disk).controller);
    let mut all = guest.def.devices.controllers.iter();
    all.any(|c| c.index == index && c.scsi_model() == Some(ScsiModel::Lsilogic))
}

fn pool(disk: &Disk, pool: bool) -> &str {
    let source = disk.source.as_ref();
    let name = source.and_then(|s| {
        if pool {
            s.pool.as_deref()
        } else {
            s.volume.as_deref()
        }
    });
    name.unwrap_or("(null)")
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

fn is_safe(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_ .+".contains(c)
}

/// Longest product name that a bus takes.
fn product_length(disk: &Disk) -> usize {
    if bus(disk) == DiskBus::Scsi { 16 } else { 40 }
}

fn is_wwn(wwn: &str) -> bool {
    let digits = wwn.strip_prefix("0x").unwrap_or(wwn);
    digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The number behind a disk's letters.
fn partition(name: &str) -> Option<&str> {
    let digits = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    (digits < name.len()).then(|| &name[digits..])
}

/// A group that throttles and does not exist.
fn unknown_group<'a>(guest: &Guest<'_>, disk: &'a Disk) -> Option<&'a str> {
    let known = |name: &str| {
        guest
            .def
            .throttlegroups
            .iter()
            .any(|g| g.group_name.as_deref() == Some(name))
    };
    let filters = disk.throttlefilters.iter().flat_map(|f| &f.filters);
    filters
        .map(|f| f.group.as_deref().unwrap_or("(null)"))
        .find(|name| !known(name))
}

/// The first thing that a disk asks for and a serving process has not.
fn unserved(disk: &Disk) -> Option<&'static str> {
    let driver = disk.driver.as_ref();
    let geometry = disk
        .geometry
        .as_ref()
        .is_some_and(|g| g.cyls > 0 || g.heads > 0 || g.secs > 0 || g.trans.is_some());
    let blockio = disk.blockio.as_ref().is_some_and(|b| {
        let sizes = [b.logical_block_size, b.physical_block_size, b.discard_granularity];
        sizes.iter().any(|size| size.is_some_and(|s| s > 0))
    });
    let policy = |d: &domxml::devices::DiskDriver| {
        let given = |p: Option<ErrorPolicy>| p.is_some_and(|p| p != ErrorPolicy::Default);
        given(d.error_policy) || given(d.rerror_policy)
    };
    let options = [
        (
            "cache",
            driver.is_some_and(|d| d.cache.is_some_and(|c| c.as_str() != "default")),
        ),
        ("error_policy", driver.is_some_and(policy)),
        ("io", driver.is_some_and(|d| d.io.is_some())),
        ("ioeventfd", driver.is_some_and(|d| d.ioeventfd.is_some())),
        ("copy_on_read", driver.is_some_and(|d| d.copy_on_read.is_some())),
        ("discard", driver.is_some_and(|d| d.discard.is_some())),
        (
            "iothread",
            driver.is_some_and(|d| d.iothread.is_some_and(|i| i > 0)),
        ),
        ("detect_zeroes", driver.is_some_and(|d| d.detect_zeroes.is_some())),
        (
            "metadata_cache",
            driver.is_some_and(|d| source::has_cache_limit(d.metadata_cache.as_ref())),
        ),
        (
            "iotune",
            disk.iotune
                .as_ref()
                .is_some_and(|t| t.group_name.is_some() || iotune::is_set(t)),
        ),
        ("backingStore", disk.backing.is_some()),
        ("encryption", source::encryption(disk).is_some()),
        ("readonly", disk.readonly),
        ("shareable", disk.shareable),
        ("transient", disk.transient.is_some()),
        ("serial", disk.serial.as_deref().is_some_and(|s| !s.is_empty())),
        ("wwn", disk.wwn.as_deref().is_some_and(|s| !s.is_empty())),
        ("vendor", disk.vendor.as_deref().is_some_and(|s| !s.is_empty())),
        ("product", disk.product.as_deref().is_some_and(|s| !s.is_empty())),
        ("auth", disk.auth.is_some()),
        ("geometry", geometry),
        ("blockio", blockio),
    ];
    options.iter().find(|(_, given)| *given).map(|(name, _)| *name)
}
