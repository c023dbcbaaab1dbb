//! Calls on devices of the host by their name as node devices: the daemon of those knows the names, the table here knows
//! who has which.

use std::sync::Arc;

use domxml::node_device::NodeDevice;
use hostinfo::PciAddress;

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        holdings::hostdev::{DEADLINE, Hostdevs},
    },
};

/// What clients name the usual way of giving devices away.
const VFIO: &str = "vfio";
/// What they named one that there is no longer.
const KVM: &str = "kvm";

/// Takes a device from its driver, to be given to a guest. `driver` names the one to be used; none is the best there is.
///
/// # Errors
/// `ArgumentUnsupported` where devices can't be isolated; `NoNodeDevice`; `InvalidArg` for one that is no PCI device;
/// `OperationInvalid` if a guest has it.
pub async fn detach(driver: &Arc<Driver>, name: &str, with: Option<&str>) -> Result<()> {
    let unsupported = |what: &str| Err(Error::new(Code::ArgumentUnsupported, what.to_owned()));
    if with == Some(KVM) {
        return unsupported("'legacy KVM' device assignment is no longer supported on this system");
    }
    if !hostinfo::has_vfio(driver.hostdevs.root()) {
        return unsupported("VFIO device assignment is currently not supported on this system");
    }
    let with = with.filter(|with| *with != VFIO).map(str::to_owned);
    on_device(driver, name, move |devices, address| {
        devices.detach(address, with.as_deref())
    })
    .await
}

/// Gives a device to the host's driver for it.
///
/// # Errors
/// As [`detach`], and what the kernel refuses.
pub async fn reattach(driver: &Arc<Driver>, name: &str) -> Result<()> {
    on_device(driver, name, Hostdevs::reattach).await
}

/// Resets a device.
///
/// # Errors
/// As [`detach`], and that there is no way to reset it.
pub async fn reset(driver: &Arc<Driver>, name: &str) -> Result<()> {
    on_device(driver, name, Hostdevs::reset).await
}

async fn on_device(
    driver: &Arc<Driver>,
    name: &str,
    work: impl FnOnce(&Hostdevs, PciAddress) -> Result<()> + Send + 'static,
) -> Result<()> {
    let xml = driver.peers.node_devices().await?.document(name).await?;
    let device = NodeDevice::parse(&xml)?;
    let no_pci =
        || Error::argument(format!("device {} is not a PCI device", device.name)).in_area(Area::Domain);
    let at = device.pci().ok_or_else(no_pci)?;
    let address = PciAddress {
        domain: at.domain,
        bus: at.bus,
        slot: at.slot,
        function: at.function,
    };
    let table = Arc::clone(&driver.hostdevs);
    driver
        .tracked(crate::blocking::within(
            DEADLINE,
            "changing a device's driver",
            move || work(&table, address),
        ))
        .await
}
