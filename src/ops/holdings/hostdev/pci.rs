//! PCI devices in the table: taken from their drivers, given to guests, given back.

use std::process::{Command, Stdio};

use domxml::devices::Hostdev;
use hostinfo::{Binding, PciAddress, Root};

use crate::{
    error::{Area, Error, Result},
    ops::holdings::hostdev::{
        table::{HostDevice, Table, Use, note_origin, pci_in_use},
        told, want,
    },
};

/// How a PCI device came to be no longer the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detached {
    /// It was taken from a driver, which gets it back.
    pub(crate) taken: bool,
    /// The daemon gives it back when its guest ends.
    pub(crate) managed: bool,
}

/// What a guest wants of a PCI device.
struct Wanted {
    address: PciAddress,
    driver: Option<String>,
    managed: bool,
}

impl Table {
    /// All PCI devices of a guest become its own. On an error none of them is, and those taken go back.
    pub(crate) fn claim_pci(&mut self, root: &Root, guest: &str, hostdevs: &mut [Hostdev]) -> Result<()> {
        let mut wanted = Vec::new();
        for hostdev in &*hostdevs {
            let Some(address) = want::pci(hostdev) else {
                continue;
            };
            hostinfo::check_pci(root, address).map_err(told)?;
            let driver = want::vfio_driver(hostdev)?.map(str::to_owned);
            wanted.push(Wanted {
                address,
                driver,
                managed: want::is_managed(hostdev),
            });
        }
        for device in &wanted {
            self.check_assignable(root, device.address, guest)?;
        }
        for (index, device) in wanted.iter().enumerate() {
            let outcome = self
                .make_idle(root, device)
                .and_then(|()| hostinfo::reset(root, device.address).map_err(told));
            if let Err(error) = outcome {
                for device in wanted[..=index].iter().filter(|d| d.managed) {
                    self.reattach_logged(root, device.address);
                }
                return Err(error);
            }
        }
        for device in &wanted {
            let idle = self.idle.remove(&device.address).unwrap_or_default();
            let detached = Detached {
                managed: device.managed,
                ..idle
            };
            let used = Use {
                guests: vec![guest.to_owned()],
                shareable: false,
                detached,
            };
            self.active.insert(HostDevice::Pci(device.address), used);
        }
        for hostdev in hostdevs {
            let known = want::pci(hostdev).and_then(|address| self.active.get(&HostDevice::Pci(address)));
            if let (Some(used), Some(source)) = (known, &mut hostdev.source) {
                note_origin(source, used.detached.taken);
            }
        }
        Ok(())
    }

    /// Whether a device can be given to a guest: it is no bridge, and nobody else has one of its group.
    fn check_assignable(&self, root: &Root, address: PciAddress, guest: &str) -> Result<()> {
        if !hostinfo::is_endpoint(root, address).map_err(told)? {
            return Err(
                Error::internal("Non-endpoint PCI devices cannot be assigned to guests").in_area(Area::None),
            );
        }
        for peer in hostinfo::iommu_peers(root, address).map_err(told)? {
            match self.active.get(&HostDevice::Pci(peer)) {
                Some(used) if peer == address || !used.guests.iter().any(|name| name == guest) => {
                    return Err(pci_in_use(peer, used));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A device to be given to a guest is no longer the host's: it is taken, or somebody has done so before.
    fn make_idle(&mut self, root: &Root, device: &Wanted) -> Result<()> {
        let address = device.address;
        if device.managed {
            return self.detach(root, address, device.driver.as_deref());
        }
        if self.idle.contains_key(&address) {
            return Ok(());
        }
        if !hostinfo::pci_driver(root, address)
            .map_err(told)?
            .is_some_and(|driver| driver.is_vfio)
        {
            let message = format!("Unmanaged PCI device {address} must be manually detached from the host");
            return Err(Error::invalid(message).in_area(Area::None));
        }
        self.idle.insert(address, Detached::default());
        Ok(())
    }

    fn detach(&mut self, root: &Root, address: PciAddress, driver: Option<&str>) -> Result<()> {
        let module = driver.map_or_else(|| hostinfo::vfio_module(root, address), str::to_owned);
        let driver = loaded_driver(root, &module)?;
        let binding = hostinfo::bind(root, address, &driver).map_err(told)?;
        let detached = Detached {
            taken: binding == Binding::Taken,
            managed: false,
        };
        self.idle.entry(address).or_insert(detached);
        Ok(())
    }

    /// Gives a device back to the host, if it was taken from it.
    fn reattach(&mut self, root: &Root, address: PciAddress) -> Result<()> {
        if self.idle.get(&address).is_some_and(|idle| idle.taken) {
            hostinfo::unbind(root, address).map_err(told)?;
        }
        self.idle.remove(&address);
        Ok(())
    }

    fn reattach_logged(&mut self, root: &Root, address: PciAddress) {
        if let Err(error) = self.reattach(root, address) {
            tracing::error!(device = %address, %error, "the device could not be given back to the host");
        }
    }

    /// The PCI devices of a guest become idle, and the host's again if it is the daemon that sees to it.
    pub(crate) fn release_pci(&mut self, root: &Root, guest: &str, addresses: &[PciAddress]) {
        for address in addresses {
            let Some(used) = self.active.remove(&HostDevice::Pci(*address)) else {
                continue;
            };
            self.idle.insert(*address, used.detached);
        }
        for address in addresses {
            if let Err(error) = hostinfo::reset(root, *address) {
                tracing::warn!(guest, device = %address, %error, "the device was not reset");
            }
            if self.idle.get(address).is_some_and(|idle| idle.managed) {
                self.reattach_logged(root, *address);
            }
        }
    }

    /// Takes a device from the host for whoever asked for it.
    pub(crate) fn detach_alone(
        &mut self,
        root: &Root,
        address: PciAddress,
        driver: Option<&str>,
    ) -> Result<()> {
        hostinfo::check_pci(root, address).map_err(told)?;
        self.check_unused(address)?;
        self.detach(root, address, driver)
    }

    /// Gives a device to the host's driver, whoever took it.
    pub(crate) fn reattach_alone(&mut self, root: &Root, address: PciAddress) -> Result<()> {
        hostinfo::check_pci(root, address).map_err(told)?;
        self.check_unused(address)?;
        hostinfo::unbind(root, address).map_err(told)?;
        self.idle.remove(&address);
        Ok(())
    }

    /// Resets a device that no guest has.
    pub(crate) fn reset_alone(&self, root: &Root, address: PciAddress) -> Result<()> {
        hostinfo::check_pci(root, address).map_err(told)?;
        if self.active.contains_key(&HostDevice::Pci(address)) {
            return Err(Error::internal(format!("Not resetting active device {address}")).in_area(Area::None));
        }
        hostinfo::reset(root, address).map_err(told)
    }

    /// Gives back a device that was noted.
    pub(crate) fn restore(&mut self, root: &Root, address: PciAddress) -> Result<()> {
        let is_vfio = hostinfo::pci_driver(root, address)
            .map_err(told)?
            .is_some_and(|driver| driver.is_vfio);
        let unbound = hostinfo::pci_driver(root, address).map_err(told)?.is_none()
            && hostinfo::check_pci(root, address).is_ok();
        if (is_vfio || unbound)
            && !self.active.contains_key(&HostDevice::Pci(address))
            && !self.idle.contains_key(&address)
        {
            hostinfo::unbind(root, address).map_err(told)?;
        }
        Ok(())
    }

    fn check_unused(&self, address: PciAddress) -> Result<()> {
        self.active
            .get(&HostDevice::Pci(address))
            .map_or(Ok(()), |used| Err(pci_in_use(address, used)))
    }
}

/// The PCI driver of a module, which is loaded if it is not yet.
fn loaded_driver(root: &Root, module: &str) -> Result<String> {
    if let Some(driver) = hostinfo::driver_of_module(root, module) {
        return Ok(driver);
    }
    let failed = |why: String| {
        Error::internal(format!("Failed to load PCI driver module {module}: {why}")).in_area(Area::None)
    };
    let output = Command::new("modprobe")
        .args(["-b", module])
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr)
                .trim()
                .chars()
                .take(200)
                .collect(),
        ));
    }
    let missing = || {
        Error::internal(format!("module '{module}' does not implement any pci driver")).in_area(Area::None)
    };
    hostinfo::driver_of_module(root, module).ok_or_else(missing)
}
