//! A device that changes where it is: which one is meant, and what of it may change.
//!
//! Disks and interfaces of a running guest change by steps of their own; here is what they may not change, and all that
//! concerns displays and memory.

use domxml::Domain;
use domxml::devices::{Device, DeviceRef, Family, Place};

use super::{Side, graphics, kind, memory, refusal};
use crate::error::{Error, Result};

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
