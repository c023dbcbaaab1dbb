//! A device that comes.

use domxml::Domain;
use domxml::devices::{
    Address, Controller, ControllerKind, Device, DeviceRef, Disk, DiskBus, DiskDevice, Family, Interface,
    InterfaceKind,
};

use super::Side;
use crate::address;
use crate::alias;
use crate::caps::Caps;
use crate::command::net;
use crate::error::{Area, Code, Error, Result};
use crate::postparse::{Context, add_device, fill_device};
use crate::validate;

/// A device with its place in a running guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Controllers that must be plugged in first, in this order.
    pub controllers: Vec<Device>,
    /// The device, with address and alias.
    pub device: Device,
}

/// Most controllers that are added for a device that names a high one.
const CONTROLLERS_MAX: u32 = 256;

/// Families that the stored document takes one by one; all others come with the whole document.
const STORED: &[Family] = &[
    Family::Disk,
    Family::Controller,
    Family::Lease,
    Family::Filesystem,
    Family::Interface,
    Family::Serial,
    Family::Parallel,
    Family::Console,
    Family::Channel,
    Family::Input,
    Family::Sound,
    Family::Hostdev,
    Family::Redirdev,
    Family::Watchdog,
    Family::Rng,
    Family::Shmem,
    Family::Memory,
    Family::Iommu,
    Family::Vsock,
];

/// Kinds of interfaces that a running guest takes.
const LIVE_INTERFACES: &[InterfaceKind] = &[
    InterfaceKind::User,
    InterfaceKind::Ethernet,
    InterfaceKind::Bridge,
    InterfaceKind::Network,
    InterfaceKind::Direct,
    InterfaceKind::Vhostuser,
];

/// Fills in a device as one of the guest and checks it by itself.
///
/// # Errors
/// Libvirt's, when the device makes no sense or this QEMU cannot honour it.
pub fn complete(def: &Domain, device: Device, caps: &Caps, ctx: &mut Context<'_>) -> Result<Device> {
    let device = fill_device(def, device, caps, ctx)?;
    validate::device(def, &device, caps)?;
    Ok(device)
}

/// Whether attaching this disk means a new medium for a drive that is there, which older clients do.
pub fn changes_medium(def: &Domain, device: &Device) -> bool {
    let Device::Disk(disk) = device else { return false };
    let removable = matches!(disk.device, DiskDevice::Cdrom | DiskDevice::Floppy);
    let is_drive = |d: &Disk| {
        d.target.dev == disk.target.dev && disk.target.bus.is_none_or(|bus| d.target.bus == Some(bus))
    };
    removable && def.devices.disks.iter().any(is_drive)
}

/// Checks that a guest can take a completed device.
///
/// # Errors
/// Libvirt's, for the first thing in the way.
pub fn check(def: &Domain, device: &Device, side: Side) -> Result<()> {
    unique_alias(def, device.as_ref())?;
    compatible(def, device)?;
    match (side, device) {
        (Side::Live, Device::Disk(disk)) => live_disk(def, disk),
        (Side::Live, Device::Interface(card)) => check_interface(card),
        (Side::Live, Device::Controller(controller)) => live_controller(def, controller),
        (Side::Live, other) => refuse("live", other),
        (Side::Stored, Device::Disk(disk)) => stored_disk(def, disk),
        (Side::Stored, Device::Controller(controller)) => stored_controller(def, controller),
        (Side::Stored, other) if STORED.contains(&other.as_ref().family()) => Ok(()),
        (Side::Stored, other) => refuse("persistent", other),
    }
}

fn refuse(what: &str, device: &Device) -> Result<()> {
    let family = device.as_ref().family().name();
    Err(Error::not_pluggable(format!(
        "{what} attach of device '{family}' is not supported"
    )))
}

fn unique_alias(def: &Domain, device: DeviceRef<'_>) -> Result<()> {
    let own = device.info().filter(|info| info.has_user_alias());
    match own.and_then(|info| info.alias.as_deref()) {
        Some(name) if def.devices.by_alias(name).is_some() => {
            Err(Error::conflicting(format!("non unique alias detected: {name}")))
        }
        _ => Ok(()),
    }
}

/// Whether the guest has what the device needs, and nothing that it would clash with.
fn compatible(def: &Domain, device: &Device) -> Result<()> {
    let usb = |c: &Controller| c.kind == ControllerKind::Usb && c.model.as_deref() != Some("none");
    if address::is_usb(device) && !def.devices.controllers.iter().any(usb) {
        return Err(Error::conflicting(
            "Device configuration is not compatible: Domain has no USB bus support",
        ));
    }
    let order = |d: DeviceRef<'_>| d.info().and_then(|i| i.boot.as_ref()).map(|b| b.order);
    let Some(wanted) = order(device.as_ref()).filter(|order| *order > 0) else {
        return Ok(());
    };
    if !def.os.boot.is_empty() {
        return Err(Error::conflicting(
            "per-device boot elements cannot be used together with os/boot elements",
        ));
    }
    if def.devices.iter().any(|d| order(d) == Some(wanted)) {
        return Err(Error::conflicting(format!(
            "boot order {wanted} is already used by another device"
        )));
    }
    Ok(())
}

fn live_disk(def: &Domain, disk: &Disk) -> Result<()> {
    if disk.device == DiskDevice::Floppy {
        return Err(Error::not_pluggable("floppy device hotplug isn't supported"));
    }
    validate::unique_target(&def.devices.disks, disk)?;
    match (disk.target.bus.unwrap_or_default(), disk.device) {
        (DiskBus::Usb, DiskDevice::Lun) => Err(Error::unsupported(
            "disk device='lun' is not supported for usb bus",
        )),
        (DiskBus::Virtio, DiskDevice::Cdrom) => Err(Error::not_pluggable(
            "cdrom device with virtio bus isn't supported",
        )),
        (DiskBus::Scsi, _) => free_scsi_address(def, disk),
        (DiskBus::Virtio | DiskBus::Usb, _) => Ok(()),
        (bus, _) => Err(Error::not_pluggable(format!(
            "disk bus '{}' cannot be hotplugged.",
            bus.as_str()
        ))),
    }
}

fn free_scsi_address(def: &Domain, disk: &Disk) -> Result<()> {
    let Some(own @ Address::Drive(_)) = &disk.info.address else {
        return Err(Error::internal("unexpected disk address type of a SCSI disk"));
    };
    let same = |d: &&Disk| d.target.bus == Some(DiskBus::Scsi) && d.info.address.as_ref() == Some(own);
    match def.devices.disks.iter().find(same) {
        Some(_) => Err(Error::new(
            Code::OperationInvalid,
            Area::Qemu,
            "Domain already contains a disk with that address",
        )),
        None => Ok(()),
    }
}

/// Checks that a running guest takes an interface of such a kind. What it is plugged into is known for sure when its network
/// has said so: this is asked again then.
///
/// # Errors
/// Libvirt's refusal.
pub fn check_interface(card: &Interface) -> Result<()> {
    let kind = net::kind(card);
    if LIVE_INTERFACES.contains(&kind) {
        return Ok(());
    }
    let kind = kind.as_str();
    Err(Error::not_pluggable(format!(
        "hotplug of interface type of {kind} is not implemented yet"
    )))
}

fn live_controller(def: &Domain, controller: &Controller) -> Result<()> {
    let kind = controller.kind.as_str();
    if !matches!(
        controller.kind,
        ControllerKind::Scsi | ControllerKind::VirtioSerial
    ) {
        return Err(Error::not_pluggable(format!(
            "'{kind}' controller cannot be hot plugged."
        )));
    }
    let index = controller.index.unwrap_or(0);
    if has_controller(def, controller.kind, index) {
        let message = format!("target {kind}:{index} already exists");
        return Err(Error::new(Code::OperationFailed, Area::Qemu, message));
    }
    Ok(())
}

fn stored_disk(def: &Domain, disk: &Disk) -> Result<()> {
    let name = &disk.target.dev;
    match def.devices.disks.iter().any(|d| d.target.dev == *name) {
        true => Err(Error::new(
            Code::OperationInvalid,
            Area::Qemu,
            format!("target {name} already exists"),
        )),
        false => Ok(()),
    }
}

fn stored_controller(def: &Domain, controller: &Controller) -> Result<()> {
    match controller.index {
        Some(index) if has_controller(def, controller.kind, index) => Err(Error::new(
            Code::OperationInvalid,
            Area::Qemu,
            format!("controller index='{index}' already exists"),
        )),
        _ => Ok(()),
    }
}

fn has_controller(def: &Domain, kind: ControllerKind, index: u32) -> bool {
    let mut all = def.devices.controllers.iter();
    all.any(|c| c.kind == kind && c.index == Some(index))
}

/// Gives a completed device address and alias in a running guest, whose document stays as it is. A SCSI disk may need
/// controllers that are not there yet.
///
/// # Errors
/// Libvirt's, when there is no room.
pub fn place(def: &Domain, device: Device, caps: &Caps, ctx: &mut Context<'_>) -> Result<Placed> {
    let mut trial = def.clone();
    let mut controllers = Vec::new();
    for missing in missing_controllers(def, &device)? {
        let completed = fill_device(&trial, Device::Controller(Box::new(missing)), caps, ctx)?;
        let placed = place_one(&mut trial, completed)?;
        controllers.push(placed);
    }
    let device = place_one(&mut trial, device)?;
    Ok(Placed { controllers, device })
}

/// Puts a device into the document, with address and alias.
fn place_one(def: &mut Domain, mut device: Device) -> Result<Device> {
    let slots = def.max_memory.and_then(|m| m.slots).unwrap_or(0);
    let mut trial = def.devices.clone();
    let at = add_device(&mut trial, device)?;
    address::plug(&mut trial, at, slots)?;
    device = trial
        .remove(at)
        .ok_or_else(|| Error::internal("the device got lost"))?;
    if let Some(alias) = alias::for_new(&def.devices, &device)
        && let Some(info) = device.as_mut().into_info()
    {
        info.alias = Some(alias);
    }
    add_device(&mut def.devices, device.clone())?;
    Ok(device)
}

/// The SCSI controllers up to the disk's own that the guest lacks, of the model of the last that it has.
fn missing_controllers(def: &Domain, device: &Device) -> Result<Vec<Controller>> {
    let Device::Disk(disk) = device else {
        return Ok(Vec::new());
    };
    let Some(Address::Drive(address)) = &disk.info.address else {
        return Ok(Vec::new());
    };
    if disk.target.bus != Some(DiskBus::Scsi) {
        return Ok(Vec::new());
    }
    let highest = address.controller;
    if highest > CONTROLLERS_MAX {
        return Err(Error::xml(format!("controller index '{highest}' is too high")));
    }
    let mut scsi = def
        .devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Scsi);
    let model = scsi.next_back().and_then(|c| c.model.clone());
    let missing = (0..=highest).filter(|index| !has_controller(def, ControllerKind::Scsi, *index));
    Ok(missing
        .map(|index| Controller {
            kind: ControllerKind::Scsi,
            index: Some(index),
            model: model.clone(),
            ..Controller::default()
        })
        .collect())
}
