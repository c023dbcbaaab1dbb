//! A device that comes.

use domxml::Domain;
use domxml::devices::{
    Address, Controller, ControllerKind, Device, DeviceMut, DeviceRef, Disk, DiskBus, DiskDevice,
    HostdevKind, Place,
};

use super::{Side, controller, memory, refusal, rules};
use crate::address;
use crate::alias;
use crate::caps::Caps;
use crate::error::{Error, Result};
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

/// Fills in a device as one of the guest and checks it by itself.
///
/// # Errors
/// Libvirt's, when the device makes no sense or this QEMU cannot honour it.
pub fn complete(def: &Domain, device: Device, caps: &Caps, ctx: &mut Context<'_>) -> Result<Device> {
    controller::check_bridge(&device)?;
    let device = fill_device(def, device, caps, ctx)?;
    validate::device(def, &device, caps)?;
    Ok(device)
}

/// Fills in a device that a client describes to say which of the guest's he means: what he leaves out is what it would be of
/// a new one. It is not checked, and its MAC is not made up.
///
/// # Errors
/// Libvirt's, when something can't be filled in.
pub fn described(
    def: &Domain,
    (device, side): (Device, Side),
    caps: &Caps,
    ctx: &mut Context<'_>,
) -> Result<Device> {
    let given = device.clone();
    let mut device = fill_device(def, device, caps, ctx)?;
    match (given, &mut device) {
        (Device::Interface(given), Device::Interface(card)) => card.mac = given.mac,
        // A controller is known by its number alone, and no number is made up.
        (Device::Controller(given), Device::Controller(controller)) => controller.index = given.index,
        // Where a run has put it may be what it is known by, in the run.
        (Device::Channel(given), Device::Channel(channel)) if side == Side::Live => {
            channel.chardev.sources = given.chardev.sources
        }
        (Device::Console(given), Device::Console(console)) => {
            let port = given.target.and_then(|target| target.port);
            if let (Some(target), Some(_)) = (&mut console.target, port) {
                target.port = port;
            }
        }
        _ => {}
    }
    Ok(device)
}

/// Whether attaching this disk means a new medium for a drive that is there, which older clients do.
pub fn changes_medium(def: &Domain, device: &Device) -> bool {
    let Device::Disk(disk) = device else { return false };
    let removable = matches!(disk.device, DiskDevice::Cdrom | DiskDevice::Floppy);
    let is_drive = |d: &Disk| d.target.dev == disk.target.dev;
    removable && def.devices.disks.iter().any(is_drive)
}

/// Checks that a guest can take a completed device.
///
/// # Errors
/// Libvirt's, for the first thing in the way.
pub fn check(def: &Domain, device: &Device, side: Side) -> Result<()> {
    unique_alias(def, device.as_ref())?;
    compatible(def, device)?;
    match rules(device.as_ref(), side) {
        Some(rules) => rules.attach(def, side),
        None => Err(refusal("attach", device.as_ref(), side)),
    }
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
    check_boot_order(def, device)?;
    memory::check_room(def, device)
}

/// Fills in a device as the one in the place of another and checks it by itself, as an update does first.
///
/// # Errors
/// Libvirt's, when the device makes no sense, this QEMU cannot honour it, or it takes another's place in the boot order.
pub fn complete_in_place(
    def: &Domain,
    (device, place): (Device, Place),
    caps: &Caps,
    ctx: &mut Context<'_>,
) -> Result<Device> {
    let mut others = def.clone();
    others.devices.remove(place);
    let device = complete(&others, device, caps, ctx)?;
    check_boot_order(&others, &device)?;
    Ok(device)
}

/// Whether the device's place in the boot order is free.
///
/// # Errors
/// Libvirt's, if it is not.
pub fn check_boot_order(def: &Domain, device: &Device) -> Result<()> {
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

/// Gives a completed device address and alias in a running guest, whose document stays as it is. A SCSI disk may need
/// controllers that are not there yet.
///
/// # Errors
/// Libvirt's, when there is no room, or it is an interface of a kind that a running guest does not take.
pub fn place(def: &Domain, device: Device, caps: &Caps, ctx: &mut Context<'_>) -> Result<Placed> {
    let mut trial = def.clone();
    let device = memory::rounded(device);
    let mut controllers = Vec::new();
    for missing in missing_controllers(def, &device)? {
        let completed = fill_device(&trial, Device::Controller(Box::new(missing)), caps, ctx)?;
        let placed = place_one(&mut trial, completed)?;
        controllers.push(placed);
    }
    let device = place_one(&mut trial, device)?;
    if let Device::Interface(card) = &device {
        super::check_interface(card)?;
        validate::start::card(def, caps, card)?;
    }
    Ok(Placed { controllers, device })
}

/// Puts a device into the document, with address and alias.
fn place_one(def: &mut Domain, mut device: Device) -> Result<Device> {
    forget_odd_address(device.as_mut());
    let slots = def.max_memory.map(|m| m.slots.unwrap_or(0));
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

/// Leaves out an address that a card can't have, and one that a port's says nothing by: they get their own.
fn forget_odd_address(device: DeviceMut<'_>) {
    let (info, is_port) = match device {
        DeviceMut::Interface(card) => (&mut card.info, false),
        DeviceMut::Channel(channel) => (&mut channel.info, true),
        DeviceMut::Console(console) => (&mut console.info, true),
        _ => return,
    };
    info.address = info.address.take().filter(|address| match address {
        Address::Pci(_) => !is_port,
        Address::Usb(_) | Address::Drive(_) => is_port,
        _ => true,
    });
}

/// The SCSI controllers up to the device's own that the guest lacks, of the model of the last that it has.
fn missing_controllers(def: &Domain, device: &Device) -> Result<Vec<Controller>> {
    let info = match device {
        Device::Disk(disk) if disk.target.bus == Some(DiskBus::Scsi) => &disk.info,
        Device::Hostdev(hostdev) if hostdev.kind == HostdevKind::Scsi => &hostdev.info,
        _ => return Ok(Vec::new()),
    };
    let Some(Address::Drive(address)) = &info.address else {
        return Ok(Vec::new());
    };
    let highest = address.controller;
    if highest > CONTROLLERS_MAX {
        return Err(Error::xml(format!("controller index '{highest}' is too high")));
    }
    let all = &def.devices.controllers;
    let mut scsi = all.iter().filter(|c| c.kind == ControllerKind::Scsi);
    let model = scsi.next_back().and_then(|c| c.model.clone());
    let missing = (0..=highest).filter(|index| !controller::has(def, ControllerKind::Scsi, *index));
    Ok(missing
        .map(|index| Controller {
            kind: ControllerKind::Scsi,
            index: Some(index),
            model: model.clone(),
            ..Controller::default()
        })
        .collect())
}
