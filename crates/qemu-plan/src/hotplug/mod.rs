//! Devices that come, go and change: what libvirt checks, in its order and words, and where a new device goes.
//!
//! Pure. For an attach, [`complete`] is what libvirt does when it reads the device, [`check`] what it asks before it touches
//! anything, [`place`] finds address and alias in the running guest, and [`enter`] is the document with it. For a detach,
//! [`find`] says which device is meant, [`check_detach`] whether it can go, and [`leave`] is the document without it.
//! `command::plug` has the monitor commands. [`check_update`] is for a device that changes where it is.
//!
//! A live document and a stored one are two guests: a device is completed, checked and placed in each. What a family
//! allows is its [`Rules`], a small file each; [`rules`] has one line a family, and families without one are refused.

mod attach;
mod chardev;
mod controller;
mod detach;
mod disk;
mod disk_fields;
mod document;
mod filesystem;
mod graphics;
mod hostdev;
mod interface;
mod lease;
mod memory;
mod redirdev;
mod rng;
mod small;
mod update;

use domxml::Domain;
use domxml::devices::{Address, DeviceInfo, DeviceRef, Devices, PciAddress};

pub use attach::{
    Placed, changes_medium, check, check_boot_order, complete, complete_in_place, described, place,
};
pub use chardev::give_path;
pub use detach::{check_detach, find};
pub use disk_fields::changed_field;
pub use document::{enter, leave};
pub use interface::check_interface;
pub use memory::{kib as memory_kib, requested_kib, round as round_memory};
pub use update::{check_kept, check_update, is_updatable};

use crate::error::{Area, Code, Error, Result};

/// Which of a guest's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// That of the run.
    Live,
    /// The stored one.
    Stored,
}

/// What a family allows.
trait Rules {
    /// What is in the way of a completed device that comes.
    fn attach(&self, def: &Domain, side: Side) -> Result<()>;

    /// The place among its family of the device that a detach means.
    fn find(&self, devices: &Devices, side: Side) -> Result<usize>;

    /// What is in the way of a device that is to leave a running guest.
    fn detach(&self, _devices: &Devices) -> Result<()> {
        Ok(())
    }

    /// Whether the bus is asked, too, if one device of it can go alone.
    fn leaves_a_bus(&self) -> bool {
        true
    }
}

/// The rules of a device's family; none if such devices neither come nor go.
fn rules(device: DeviceRef<'_>, side: Side) -> Option<&dyn Rules> {
    Some(match device {
        DeviceRef::Disk(device) => device,
        DeviceRef::Controller(device) => device,
        DeviceRef::Lease(device) => device,
        DeviceRef::Filesystem(device) => device,
        DeviceRef::Interface(device) => device,
        DeviceRef::Serial(device) => device,
        DeviceRef::Parallel(device) => device,
        DeviceRef::Console(device) => device,
        DeviceRef::Channel(device) => device,
        DeviceRef::Input(device) => device,
        DeviceRef::Hostdev(device) => device,
        DeviceRef::Redirdev(device) => device,
        DeviceRef::Watchdog(device) => device,
        DeviceRef::Rng(device) => device,
        DeviceRef::Shmem(device) => device,
        DeviceRef::Memory(device) => device,
        DeviceRef::Vsock(device) => device,
        // Only a guest that is started afresh has them.
        DeviceRef::Sound(device) if side == Side::Stored => device,
        DeviceRef::Iommu(device) if side == Side::Stored => device,
        _ => return None,
    })
}

/// The refusal of what a family does not allow; `what` is attach, detach or update.
fn refusal(what: &str, device: DeviceRef<'_>, side: Side) -> Error {
    let side = match side {
        Side::Live => "live",
        Side::Stored => "persistent",
    };
    let kind = kind(device);
    Error::not_pluggable(format!("{side} {what} of device '{kind}' is not supported"))
}

/// What libvirt calls a family: all character devices are one.
fn kind(device: DeviceRef<'_>) -> &'static str {
    match device {
        DeviceRef::Serial(_) | DeviceRef::Parallel(_) | DeviceRef::Console(_) | DeviceRef::Channel(_) => {
            "chr"
        }
        other => other.family().name(),
    }
}

/// The first of a list that is meant.
fn first<T>(list: &[T], is_meant: impl Fn(&T) -> bool, missing: impl FnOnce() -> Error) -> Result<usize> {
    list.iter().position(is_meant).ok_or_else(missing)
}

/// There is no such device.
fn missing(message: impl Into<String>) -> Error {
    Error::new(Code::DeviceMissing, Area::Qemu, message)
}

/// The guest's state, or document, does not allow it.
fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::OperationInvalid, Area::Qemu, message)
}

/// Whether a device is at the address that is asked for, if one is.
fn is_at(wanted: &DeviceInfo, has: &DeviceInfo) -> bool {
    match (&wanted.address, &has.address) {
        (None, _) => true,
        (Some(Address::Pci(wanted)), _) if wanted.is_empty() => true,
        (Some(Address::Pci(wanted)), Some(Address::Pci(has))) => same_function(wanted, has),
        (wanted, has) => wanted == has,
    }
}

/// Whether a device has the address and the alias that are asked for, where they are.
fn is_named(wanted: &DeviceInfo, has: &DeviceInfo) -> bool {
    is_at(wanted, has) && is_alike(wanted, has)
}

/// Whether a device has the alias that is asked for, if one is.
fn is_alike(wanted: &DeviceInfo, has: &DeviceInfo) -> bool {
    let alias = wanted.alias.as_ref();
    alias.is_none_or(|alias| has.alias.as_ref() == Some(alias))
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
