//! The table of devices that guests have, and of those that were only taken from the host.
//!
//! Its lock is held while drivers are changed: what one caller has found is so until it is done. Everything here may
//! block for as long as a driver does.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use domxml::devices::{Hostdev, HostdevAddress, HostdevSource, OrigStates, common::YesNo};
use hostinfo::{PciAddress, Root, ScsiPlace};

use crate::{
    error::{Area, Code, Error, Result},
    ops::holdings::hostdev::{find, pci::Detached, told, want},
};

/// Our driver's name in messages.
pub(crate) const DRIVER: &str = "QEMU";

/// A device of the host, of the kinds that guests get.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostDevice {
    /// A PCI function.
    Pci(PciAddress),
    /// A USB device: bus and number.
    Usb(u32, u32),
    /// A SCSI device.
    Scsi(ScsiPlace),
    /// A target of the host's SCSI server.
    ScsiHost(String),
    /// A mediated device.
    Mdev(String),
}

impl fmt::Display for HostDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::Usb(bus, device) => write!(f, "{bus:03}:{device:03}"),
            Self::Scsi(place) => place.fmt(f),
            Self::ScsiHost(name) | Self::Mdev(name) => f.write_str(name),
        }
    }
}

/// Who has a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// The guests; several only if all of them share it.
    pub(crate) guests: Vec<String>,
    /// They share it.
    pub(crate) shareable: bool,
    /// Of PCI devices.
    pub(crate) detached: Detached,
}

/// All devices that are not the host's at present.
pub struct Hostdevs {
    root: Root,
    table: Mutex<Table>,
}

/// What is behind the lock.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Those that guests have.
    pub(crate) active: HashMap<HostDevice, Use>,
    /// PCI devices that were taken from the host and no guest has.
    pub(crate) idle: HashMap<PciAddress, Detached>,
}

impl Hostdevs {
    /// Devices as the tree at `root` has them; nobody has one yet.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            table: Mutex::default(),
        }
    }

    /// Below which the kernel's files are.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one PCI device from the host.
    pub(crate) fn detach(&self, address: PciAddress, driver: Option<&str>) -> Result<()> {
        self.table().detach_alone(&self.root, address, driver)
    }

    /// Gives one PCI device back to the host.
    pub(crate) fn reattach(&self, address: PciAddress) -> Result<()> {
        self.table().reattach_alone(&self.root, address)
    }

    /// Resets one PCI device.
    pub(crate) fn reset(&self, address: PciAddress) -> Result<()> {
        self.table().reset_alone(&self.root, address)
    }

    /// Gives a PCI device back to the host unless a guest has it, or it has a driver of the host's.
    pub(crate) fn restore(&self, address: PciAddress) -> Result<()> {
        self.table().restore(&self.root, address)
    }

    /// Gives all devices of a document to its guest, and notes in the document what was found. What was given before an
    /// error stays the guest's, to be released.
    pub(crate) fn claim(&self, document: &mut domxml::Domain) -> Result<()> {
        let mut table = self.table();
        let guest = document.name.clone();
        table.claim_pci(&self.root, &guest, &mut document.devices.hostdevs)?;
        for hostdev in &mut document.devices.hostdevs {
            if let Some(source) = &mut hostdev.source {
                source.missing = None;
            }
            self.find_usb(hostdev)?;
        }
        for hostdev in &document.devices.hostdevs {
            let Some((device, shareable)) = self.other(hostdev)? else {
                continue;
            };
            table.enter(&guest, device, shareable)?;
        }
        Ok(())
    }

    /// Finds the USB device that is meant and notes where it is.
    fn find_usb(&self, hostdev: &mut Hostdev) -> Result<()> {
        let place = want::usb(hostdev);
        let Some(source) = hostdev
            .source
            .as_mut()
            .filter(|_| hostdev.kind == domxml::devices::HostdevKind::Usb)
        else {
            return Ok(());
        };
        // Of which nothing is said, none is looked for.
        let is_meant =
            source.vendor.is_some_and(|vendor| vendor != 0) || place.is_some_and(|(bus, _)| bus != 0);
        if !is_meant {
            source.missing = Some(YesNo::Yes);
            return Ok(());
        }
        let devices = hostinfo::usb_devices(&self.root).map_err(told)?;
        match find::usb(&devices, source, place, want::is_required(source))? {
            Some(found) => {
                source.address = Some(HostdevAddress::Usb {
                    bus: found.bus,
                    device: found.device,
                })
            }
            None => source.missing = Some(YesNo::Yes),
        }
        Ok(())
    }

    /// What a host device is that is no PCI device, and whether it can be shared; none if it is missing, or of another
    /// host.
    fn other(&self, hostdev: &Hostdev) -> Result<Option<(HostDevice, bool)>> {
        if hostdev
            .source
            .as_ref()
            .is_some_and(|s| s.missing == Some(YesNo::Yes))
        {
            return Ok(None);
        }
        if let Some(place) = want::scsi(hostdev) {
            return self.scsi(hostdev, place?).map(Some);
        }
        if let Some(uuid) = want::mdev(hostdev) {
            let model = hostdev.model.map_or("", |model| model.as_str());
            hostinfo::check_mdev(&self.root, uuid, model).map_err(told)?;
            return Ok(Some((HostDevice::Mdev(uuid.to_owned()), false)));
        }
        let usb = want::usb(hostdev).map(|(bus, device)| HostDevice::Usb(bus, device));
        Ok(usb
            .or_else(|| want::vhost_scsi(hostdev).map(|name| HostDevice::ScsiHost(name.to_owned())))
            .map(|device| (device, false)))
    }

    fn scsi(&self, hostdev: &Hostdev, place: ScsiPlace) -> Result<(HostDevice, bool)> {
        if want::is_managed(hostdev) {
            let message = "SCSI host device doesn't support managed mode";
            return Err(Error::new(Code::Xml, message).in_area(Area::None));
        }
        hostinfo::scsi_node(&self.root, place).map_err(told)?;
        Ok((HostDevice::Scsi(place), hostdev.shareable))
    }

    /// Takes back all that a guest has. What the host does not take is logged.
    pub(crate) fn release(&self, guest: &str) {
        self.table().release(&self.root, guest);
    }

    /// Takes back one device that a guest has. What the host does not take is logged.
    pub(crate) fn release_one(&self, guest: &str, hostdev: &Hostdev) {
        let mut table = self.table();
        if let Some(address) = want::pci(hostdev) {
            table.release_pci(&self.root, guest, &[address]);
        } else if let Some((device, _)) = self.adopted(hostdev)
            && let Some(used) = table.active.get_mut(&device)
        {
            used.guests.retain(|name| name != guest);
            if used.guests.is_empty() {
                table.active.remove(&device);
            }
        }
    }

    /// Notes what a run has that was found at start-up.
    pub(crate) fn adopt(&self, document: &domxml::Domain) {
        let mut table = self.table();
        for hostdev in &want::all(document) {
            if let Some(address) = want::pci(hostdev) {
                let taken = hostdev
                    .source
                    .as_ref()
                    .and_then(|s| s.origstates.as_ref())
                    .is_some_and(|o| o.unbind);
                let detached = Detached {
                    taken,
                    managed: want::is_managed(hostdev),
                };
                let known = Use {
                    guests: vec![document.name.clone()],
                    shareable: false,
                    detached,
                };
                table.active.insert(HostDevice::Pci(address), known);
            } else if let Some((device, shareable)) = self.adopted(hostdev) {
                let known = table.active.entry(device).or_default();
                known.guests.push(document.name.clone());
                known.shareable = shareable;
            }
        }
    }

    /// What a run's device is, whether it is still there or not.
    fn adopted(&self, hostdev: &Hostdev) -> Option<(HostDevice, bool)> {
        if let Some(Ok(place)) = want::scsi(hostdev) {
            return Some((HostDevice::Scsi(place), hostdev.shareable));
        }
        let mdev = want::mdev(hostdev).map(|uuid| HostDevice::Mdev(uuid.to_owned()));
        let usb = || want::usb(hostdev).map(|(bus, device)| HostDevice::Usb(bus, device));
        let vhost = || want::vhost_scsi(hostdev).map(|name| HostDevice::ScsiHost(name.to_owned()));
        mdev.or_else(usb).or_else(vhost).map(|device| (device, false))
    }
}

impl Table {
    /// A device that is no PCI device becomes a guest's.
    fn enter(&mut self, guest: &str, device: HostDevice, shareable: bool) -> Result<()> {
        if self
            .active
            .get(&device)
            .is_some_and(|used| used.guests.iter().any(|name| name == guest))
        {
            return Err(Error::internal(format!("Device {device} is already in use")).in_area(Area::None));
        }
        if let Some(used) = self
            .active
            .get(&device)
            .filter(|used| !(used.shareable && shareable))
        {
            return Err(in_use(&device, used));
        }
        let used = self.active.entry(device).or_default();
        used.shareable = shareable;
        used.guests.push(guest.to_owned());
        Ok(())
    }

    /// All devices of a guest are nobody's; PCI devices go where they came from.
    fn release(&mut self, root: &Root, guest: &str) {
        let had = |used: &Use| used.guests.iter().any(|name| name == guest);
        let pci: Vec<PciAddress> = self
            .active
            .iter()
            .filter_map(|(device, used)| match device {
                HostDevice::Pci(address) if had(used) => Some(*address),
                _ => None,
            })
            .collect();
        self.release_pci(root, guest, &pci);
        self.active.retain(|_, used| {
            used.guests.retain(|name| name != guest);
            !used.guests.is_empty()
        });
    }
}

/// The error for a device that somebody has.
fn in_use(device: &HostDevice, used: &Use) -> Error {
    let guest = used.guests.first().map_or("", String::as_str);
    let message = match device {
        HostDevice::Pci(address) => {
            format!("PCI device {address} is in use by driver {DRIVER}, domain {guest}")
        }
        HostDevice::Usb(..) => format!("USB device {device} is in use by driver {DRIVER}, domain {guest}"),
        HostDevice::Mdev(uuid) => format!(
            "mediated device /sys/bus/mdev/devices/{uuid} is in use by driver {DRIVER}, domain {guest}"
        ),
        HostDevice::ScsiHost(name) => format!("SCSI_host device {name} is already in use by other domain(s)"),
        HostDevice::Scsi(place) => {
            let how = if used.shareable {
                "shareable"
            } else {
                "non-shareable"
            };
            format!("SCSI device {place} is already in use by other domain(s) as '{how}'")
        }
    };
    Error::invalid(message).in_area(Area::None)
}

/// The error for a PCI device that a guest has.
pub(crate) fn pci_in_use(address: PciAddress, used: &Use) -> Error {
    in_use(&HostDevice::Pci(address), used)
}

/// Notes in a document how the host had a device.
pub(crate) fn note_origin(source: &mut HostdevSource, taken: bool) {
    source.origstates = taken.then(|| OrigStates {
        unbind: true,
        ..OrigStates::default()
    });
}
