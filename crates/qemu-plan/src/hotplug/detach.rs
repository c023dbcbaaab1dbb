//! A device that goes.

use domxml::Domain;
use domxml::devices::{
    Address, Controller, ControllerKind, Device, DeviceInfo, DeviceRef, Devices, Disk, DiskBus, DiskDevice,
    Family, Interface, OnOff, PciAddress, Place,
};

use super::Side;
use crate::address;
use crate::error::{Area, Code, Error, Result};

/// Finds the device that a detach means. Much of its document does not count: a disk is found by its target alone, an
/// interface by those of MAC, address and alias that are given.
///
/// # Errors
/// Libvirt's, when there is none, or more than one.
pub fn find(def: &Domain, device: &Device, side: Side) -> Result<Place> {
    let devices = &def.devices;
    match device {
        Device::Disk(disk) => find_disk(devices, disk, side),
        Device::Interface(card) => find_interface(devices, card),
        Device::Controller(controller) => find_controller(devices, controller, side),
        other => Err(refusal(other.as_ref(), side)),
    }
}

/// Checks that a device of a running guest can be taken out.
///
/// # Errors
/// Libvirt's, for the first thing in the way.
pub fn check_detach(def: &Domain, place: Place) -> Result<()> {
    let devices = &def.devices;
    let Some(device) = devices.get(place) else {
        return Err(Error::internal("the device got lost"));
    };
    match device {
        DeviceRef::Disk(disk) => removable_disk(disk)?,
        DeviceRef::Interface(_) => {}
        DeviceRef::Controller(controller) => removable_controller(devices, controller)?,
        other => return Err(refusal(other, Side::Live)),
    }
    let family = device.family().name();
    let Some(info) = device.info().filter(|info| info.alias.is_some()) else {
        return Err(Error::new(
            Code::Internal,
            Area::Qemu,
            format!("Cannot detach {family} device with no alias"),
        ));
    };
    match info.pci() {
        Some(address) => removable_from_bus(devices, (place, family), address),
        None => Ok(()),
    }
}

fn refusal(device: DeviceRef<'_>, side: Side) -> Error {
    let (what, family) = match side {
        Side::Live => ("live", device.family().name()),
        Side::Stored => ("persistent", device.family().name()),
    };
    Error::not_pluggable(format!("{what} detach of device '{family}' is not supported"))
}

fn missing(area: Area, message: String) -> Error {
    Error::new(Code::DeviceMissing, area, message)
}

fn find_disk(devices: &Devices, disk: &Disk, side: Side) -> Result<Place> {
    let name = &disk.target.dev;
    let at = devices.disks.iter().position(|d| d.target.dev == *name);
    at.map(|at| Place {
        family: Family::Disk,
        at,
    })
    .ok_or_else(|| {
        let message = match side {
            Side::Live => format!("disk {name} not found"),
            Side::Stored => format!("no target device {name}"),
        };
        missing(Area::Qemu, message)
    })
}

fn find_controller(devices: &Devices, controller: &Controller, side: Side) -> Result<Place> {
    let (kind, index) = (controller.kind, controller.index);
    let mut all = devices.controllers.iter();
    let at = all.position(|c| c.kind == kind && c.index == index);
    at.map(|at| Place {
        family: Family::Controller,
        at,
    })
    .ok_or_else(|| {
        let message = match side {
            Side::Live => format!(
                "controller {}:{} not found",
                kind.as_str(),
                index.map_or(-1, i64::from)
            ),
            Side::Stored => "device not present in domain configuration".to_owned(),
        };
        missing(Area::Qemu, message)
    })
}

fn find_interface(devices: &Devices, card: &Interface) -> Result<Place> {
    let mac = card.mac.as_ref().map(|m| m.address.as_str());
    let pci = card.info.pci().filter(|a| !a.is_empty());
    let alias = card.info.alias.as_deref();
    let is_meant = |other: &Interface| {
        let other_mac = other.mac.as_ref().map(|m| m.address.as_str());
        mac.is_none_or(|mac| other_mac.is_some_and(|other| other.eq_ignore_ascii_case(mac)))
            && pci.is_none_or(|pci| other.info.pci().is_some_and(|other| same_function(pci, other)))
            && alias.is_none_or(|alias| other.info.alias.as_deref() == Some(alias))
    };
    let mut meant = devices.interfaces.iter().enumerate().filter(|(_, i)| is_meant(i));
    let first = meant.next();
    match (first, meant.next(), mac) {
        (Some((at, _)), None, _) => Ok(Place {
            family: Family::Interface,
            at,
        }),
        (Some(_), Some(_), mac) => Err(Error::new(
            Code::OperationFailed,
            Area::Domain,
            match mac {
                Some(mac) => format!("multiple devices matching MAC address {mac} found"),
                None => "multiple matching devices found".to_owned(),
            },
        )),
        (None, ..) => {
            let or_null = |text: Option<&str>| text.unwrap_or("(<null>)").to_owned();
            let address = pci.map(shown);
            Err(missing(
                Area::Domain,
                format!(
                    "no device found at address '{}' matching MAC address '{}' and alias '{}'",
                    or_null(address.as_deref()),
                    or_null(mac),
                    or_null(alias)
                ),
            ))
        }
    }
}

fn same_function(one: &PciAddress, other: &PciAddress) -> bool {
    let key = |a: &PciAddress| (a.domain, a.bus, a.slot, a.function);
    key(one) == key(other)
}

fn shown(address: &PciAddress) -> String {
    let PciAddress {
        domain,
        bus,
        slot,
        function,
        ..
    } = address;
    format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}")
}

fn removable_disk(disk: &Disk) -> Result<()> {
    let bus = disk.target.bus.unwrap_or_default();
    let message = match disk.device {
        DiskDevice::Disk | DiskDevice::Lun => match bus {
            DiskBus::Virtio | DiskBus::Usb | DiskBus::Scsi => return Ok(()),
            _ => "This type of disk cannot be hot unplugged".to_owned(),
        },
        DiskDevice::Cdrom if matches!(bus, DiskBus::Usb | DiskBus::Scsi) => return Ok(()),
        other => format!("disk device type '{}' cannot be detached", other.as_str()),
    };
    Err(Error::not_pluggable(message))
}

fn removable_controller(devices: &Devices, controller: &Controller) -> Result<()> {
    if controller.kind != ControllerKind::Scsi {
        let kind = controller.kind.as_str();
        return Err(Error::not_pluggable(format!(
            "'{kind}' controller cannot be hot unplugged."
        )));
    }
    let on_it = |info: &DeviceInfo| match &info.address {
        Some(Address::Drive(a)) => Some(a.controller) == controller.index,
        _ => false,
    };
    let disks = devices
        .disks
        .iter()
        .filter(|d| d.target.bus == Some(DiskBus::Scsi))
        .map(|d| &d.info);
    let hostdevs = devices.hostdevs.iter().map(|h| &h.info);
    if disks.chain(hostdevs).any(on_it) {
        let message = "device cannot be detached: device is busy";
        return Err(Error::new(Code::OperationFailed, Area::Qemu, message));
    }
    Ok(())
}

/// Whether the bus lets one device of it go alone.
fn removable_from_bus(devices: &Devices, device: (Place, &str), address: &PciAddress) -> Result<()> {
    let (place, family) = device;
    let refuse = |what: &str, why: &str| {
        let message = format!(
            "cannot hot unplug {family} device with {what}: {}{why}",
            shown(address)
        );
        Err(Error::new(Code::OperationFailed, Area::Qemu, message))
    };
    if address::shares_slot(devices, place) {
        return refuse("multifunction PCI guest address", "");
    }
    let bus = |c: &&Controller| c.kind == ControllerKind::Pci && c.index == Some(address.bus);
    match devices.controllers.iter().find(bus) {
        None => refuse("PCI guest address", " - controller not found"),
        Some(c) if c.target.as_ref().and_then(|t| t.hotplug) == Some(OnOff::Off) => {
            refuse("PCI guest address", " - not allowed by controller")
        }
        Some(_) => Ok(()),
    }
}
