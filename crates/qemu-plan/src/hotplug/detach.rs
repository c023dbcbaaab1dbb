//! A device that goes.

use domxml::Domain;
use domxml::devices::{Controller, ControllerKind, Device, Devices, OnOff, PciAddress, Place};

use super::{Side, kind, refusal, rules, shown};
use crate::address;
use crate::error::{Area, Code, Error, Result};

/// Finds the device that a detach means. Much of its document does not count, as its family says.
///
/// # Errors
/// Libvirt's, when there is none, more than one, or devices of the family don't go.
pub fn find(def: &Domain, device: &Device, side: Side) -> Result<Place> {
    let device = device.as_ref();
    let rules = rules(device, side).ok_or_else(|| refusal("detach", device, side))?;
    let at = rules.find(&def.devices, side)?;
    Ok(Place {
        family: device.family(),
        at,
    })
}

/// Checks that the device at a place can be taken out: of a running guest, or of a stored document.
///
/// # Errors
/// Libvirt's, for the first thing in the way.
pub fn check_detach(def: &Domain, place: Place, side: Side) -> Result<()> {
    let devices = &def.devices;
    let Some(device) = devices.get(place) else {
        return Err(Error::internal("the device got lost"));
    };
    let rules = rules(device, side).ok_or_else(|| refusal("detach", device, side))?;
    if side == Side::Stored {
        return Ok(());
    }
    rules.detach(devices)?;
    if !rules.leaves_a_bus() {
        return Ok(());
    }
    let kind = kind(device);
    let Some(info) = device.info().filter(|info| info.alias.is_some()) else {
        return Err(Error::new(
            Code::Internal,
            Area::Qemu,
            format!("Cannot detach {kind} device with no alias"),
        ));
    };
    match info.pci() {
        Some(address) => removable_from_bus(devices, (place, kind), address),
        None => Ok(()),
    }
}

/// Whether the bus lets one device of it go alone.
fn removable_from_bus(devices: &Devices, device: (Place, &str), address: &PciAddress) -> Result<()> {
    let (place, kind) = device;
    let refuse = |what: &str, why: &str| {
        let message = format!(
            "cannot hot unplug {kind} device with {what}: {}{why}",
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
