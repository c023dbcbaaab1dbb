//! Where the guest sees each device: PCI, USB, virtio-serial and drive addresses.
//!
//! Pure rules on the list of devices; they are part of what a guest sees and so never change for a document.

mod candidate;
mod ccid;
mod chipset;
mod connect;
mod memory;
mod pci;
mod pci_set;
mod spapr;
mod usb;
mod virtio_serial;

pub use connect::{BusKind, Connect};
pub use pci_set::{Chosen, Growth, LegacyBridge, PciSet, Place};

use domxml::devices::{Device, Devices, Place as DevicePlace};

use crate::error::{Error, Result};
pub use crate::facts::Age;

/// What the rules have to know of a guest besides its devices.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// How conventional devices get a bus on a PCI Express machine.
    pub legacy: LegacyBridge,
    /// Whether the document is new.
    pub age: Age,
    /// Slots for memory modules; none where no memory can be plugged in.
    pub memory_slots: Option<u32>,
}

/// Gives every device without a place one, and checks the places that the document names.
///
/// # Errors
/// Libvirt's, when a place is wrong, taken, or there is none left.
pub fn assign(devices: &mut Devices, machine: Machine) -> Result<()> {
    virtio_serial::assign(devices)?;
    spapr::assign(devices);
    ccid::assign(devices);
    pci::assign(devices, machine.legacy, machine.age)?;
    usb::assign(devices, machine.age)?;
    memory::assign(devices, machine.memory_slots)
}

/// Gives the USB devices of a guest that is about to start the ports that its document does not name.
///
/// # Errors
/// Libvirt's, when a given port does not exist or is taken.
pub fn connect_usb(devices: &mut Devices) -> Result<()> {
    usb::assign(devices, Age::New)
}

/// Gives a device that is about to be plugged in a place on the buses that there are, or checks the one that it names.
///
/// # Errors
/// When there is no room, or the place that it names is taken or takes no hot-plug.
pub fn plug(devices: &mut Devices, new: DevicePlace, memory_slots: Option<u32>) -> Result<()> {
    virtio_serial::plug(devices)?;
    ccid::assign(devices);
    pci::plug(devices, new)?;
    let hubs = devices.hubs.len();
    usb::assign(devices, Age::New)?;
    if devices.hubs.len() > hubs {
        return Err(Error::internal("No free USB ports"));
    }
    memory::assign(devices, memory_slots)
}

/// The root bus of a guest; `None` when it has no PCI.
pub fn root_bus(devices: &Devices) -> Option<BusKind> {
    pci::root(devices)
}

/// Whether a device is one for a USB bus.
pub(crate) fn is_usb(device: &Device) -> bool {
    usb::is_usb(device.as_ref())
}

/// Whether the device at a place shares its PCI slot with another one.
pub(crate) fn shares_slot(devices: &Devices, place: DevicePlace) -> bool {
    pci::shares_slot(devices, place)
}
