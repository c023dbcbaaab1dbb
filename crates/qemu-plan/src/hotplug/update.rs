//! A device that changes where it is: which one is meant, and what of it may change.
//!
//! Disks and interfaces of a running guest change by steps of their own; here is what they may not change, and all that
//! concerns displays and memory.

use domxml::Domain;
use domxml::devices::{Device, DeviceRef, Family, Place};

use super::{Side, graphics, kind, memory, refusal};
use crate::error::{Area, Code, Error, Result};

/// Finds the display or the memory module that an update means and checks that what differs may change; no other families
/// are changed here, and all but disks and interfaces are not at all.
///
/// # Errors
/// Libvirt's, for the first thing in the way.
pub fn check_update(def: &Domain, device: &Device, side: Side) -> Result<Place> {
    match (device, side) {
        (Device::Graphics(new), side) => graphics::update(def, new, side),
        (Device::Memory(new), side) => memory::update(def, new, side),
        (other, side) => Err(not_updatable(other.as_ref(), side)),
    }
}

/// Checks that a device of a running guest keeps what no update changes, whatever it is.
///
/// # Errors
/// Libvirt's, if the new document gives it another name or another index of ACPI.
pub fn check_kept(old: DeviceRef<'_>, new: DeviceRef<'_>) -> Result<()> {
    let (Some(old), Some(new)) = (old.info(), new.info()) else {
        return Ok(());
    };
    let denied = |what: &str| {
        let text = format!("changing device {what} is not allowed");
        Err(Error::new(Code::OperationDenied, Area::Domain, text))
    };
    match (&old.alias, &new.alias) {
        (Some(old), Some(new)) if old != new => denied("alias"),
        _ if old.acpi_index != new.acpi_index => denied("'acpi index'"),
        _ => Ok(()),
    }
}

/// Whether devices of a family can be updated at all.
pub fn is_updatable(family: Family) -> bool {
    matches!(
        family,
        Family::Disk | Family::Interface | Family::Graphics | Family::Memory
    )
}

fn not_updatable(device: DeviceRef<'_>, side: Side) -> Error {
    match side {
        // Another code than for attach and detach.
        Side::Live => Error::unsupported(format!(
            "live update of device '{}' is not supported",
            kind(device)
        )),
        Side::Stored => refusal("update", device, side),
    }
}
