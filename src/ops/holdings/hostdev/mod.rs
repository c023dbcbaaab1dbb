//! Devices of the host: which are taken from it, and which guest has them.
//!
//! [`take`] is a step of a start with its reversal; [`give_back`] is part of every end of a run; `adopt` tells the table
//! at start-up what the runs have that were found. The table is the daemon's own: no two of its guests share a device
//! that can't be shared.
//!
//! ```text
//!  the host's ──detach──▶ idle ──start──▶ active
//!       ◀──reattach──────┘  ◀──end──────┘
//! ```
//!
//! The hard thing is a daemon that is killed between taking a PCI device from its driver and telling of the run: a note
//! ([`crate::ops::holdings::ledger`]) is written before, and whoever finds it without its run gives the device back.

mod card;
mod find;
pub mod node_device;
mod pci;
mod table;
mod want;

use std::{sync::Arc, time::Duration};

use domxml::devices::{Hostdev, HostdevKind, Interface};
use hostinfo::{DeviceError, PciAddress};
use qemu_plan::command::{DeviceResources, Resources};

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        holdings::{handover::Handover, ledger::Debt},
        operation::undo::Undo,
    },
    qemu,
};

pub use crate::ops::holdings::hostdev::table::Hostdevs;
pub(crate) use crate::ops::holdings::hostdev::want::{
    Node, is_vfio, managed as taken_from_host, node_of, nodes, of_interface, of_vfio,
};

/// How long drivers may take to let devices go, and others to take them.
const DEADLINE: Duration = Duration::from_secs(60);
/// Where QEMU gets targets of the host's SCSI server from.
const VHOST_SCSI: &str = "/dev/vhost-scsi";
/// Where the targets are, in libvirt's spelling.
const TARGETS: &str = "/sys/kernel/config/target/vhost/";

/// Gives the document's devices to its guest; the document shows what was found and how it is bound.
///
/// # Errors
/// There is no such device, another guest has it, or the host does not let it go. What was taken goes back with `undo`.
pub(crate) async fn take(driver: &Arc<Driver>, document: &mut domxml::Domain, undo: &mut Undo) -> Result<()> {
    if want::is_nothing(document) {
        return Ok(());
    }
    let mut copy = domxml::Domain {
        name: document.name.clone(),
        ..domxml::Domain::default()
    };
    copy.devices.hostdevs = want::all(document);
    let has_vfio = hostinfo::has_vfio(driver.hostdevs.root());
    want::settle(&mut copy, has_vfio)?;
    want::check(&copy, has_vfio)?;
    card::check(driver, &document.devices.interfaces)?;
    let (owned, guest, taken) = (Arc::clone(driver), document.name.clone(), want::managed(&copy));
    let reversed = taken.clone();
    undo.push("devices of the host", async move {
        release(&owned, guest, reversed).await;
        Ok(())
    });
    for address in taken {
        driver.owed.note(&Debt::Device(address)).await?;
    }
    let table = Arc::clone(&driver.hostdevs);
    let copy = crate::blocking::within(DEADLINE, "taking devices of the host", move || {
        table.claim(&mut copy)?;
        Ok(copy)
    })
    .await?;
    want::note_all(document, copy.devices.hostdevs);
    for interface in &document.devices.interfaces {
        card::configure(driver, interface, undo).await?;
    }
    Ok(())
}

/// Gives the virtual function that an interface is to a running guest; its document shows what was found.
///
/// # Errors
/// As [`take`]; the device is no virtual function, or its card refuses address or VLAN.
pub(crate) async fn take_card(
    driver: &Arc<Driver>,
    guest: &str,
    interface: &mut Interface,
    undo: &mut Undo,
) -> Result<()> {
    card::check(driver, std::slice::from_ref(interface))?;
    let Some(mut device) = want::of_interface(interface) else {
        return Err(Error::internal("the interface is no device of the host"));
    };
    take_one(driver, guest, &mut device, undo).await?;
    want::note_in(interface, device);
    card::configure(driver, interface, undo).await
}

/// Gives one device to a running guest; its document shows what was found and how it is bound.
///
/// # Errors
/// As [`take`].
pub(crate) async fn take_one(
    driver: &Arc<Driver>,
    guest: &str,
    hostdev: &mut Hostdev,
    undo: &mut Undo,
) -> Result<()> {
    let mut alone = domxml::Domain {
        name: guest.to_owned(),
        ..domxml::Domain::default()
    };
    alone.devices.hostdevs.push(hostdev.clone());
    let has_vfio = hostinfo::has_vfio(driver.hostdevs.root());
    want::settle(&mut alone, has_vfio)?;
    want::check(&alone, has_vfio)?;
    for address in want::managed(&alone) {
        driver.owed.note(&Debt::Device(address)).await?;
    }
    let (table, mut copy) = (Arc::clone(&driver.hostdevs), alone.clone());
    let claimed = crate::blocking::within(DEADLINE, "taking a device of the host", move || {
        table.claim(&mut copy)?;
        Ok(copy)
    })
    .await;
    let taken = match &claimed {
        Ok(document) => document.devices.hostdevs.first(),
        Err(_) => None,
    };
    let Some(taken) = taken.cloned() else {
        for address in want::managed(&alone) {
            driver.owed.settled(&Debt::Device(address)).await;
        }
        return claimed.map(drop);
    };
    let (owned, name, device) = (Arc::clone(driver), guest.to_owned(), taken.clone());
    undo.push("a device of the host", async move {
        give_back_one(&owned, &name, &device).await;
        Ok(())
    });
    *hostdev = taken;
    Ok(())
}

/// Gives one device back that has left a running guest. What fails is logged.
pub(crate) async fn give_back_one(driver: &Arc<Driver>, guest: &str, hostdev: &Hostdev) {
    card::restore(driver, want::pci(hostdev).into_iter().collect()).await;
    let (table, name, device) = (Arc::clone(&driver.hostdevs), guest.to_owned(), hostdev.clone());
    let work = move || {
        table.release_one(&name, &device);
        Ok(())
    };
    if let Err(error) = crate::blocking::within(DEADLINE, "giving a device back to the host", work).await {
        tracing::error!(guest, %error, "a device was not given back");
        return;
    }
    let noted = want::pci(hostdev).filter(|_| want::is_managed(hostdev));
    if let Some(address) = noted {
        driver.owed.settled(&Debt::Device(address)).await;
    }
}

/// What of the devices QEMU is given as a path or a descriptor.
///
/// # Errors
/// There is no node, or it can't be opened.
pub(crate) async fn plug(
    driver: &Driver,
    document: &domxml::Domain,
    qemu: &mut qemu::Prepared,
    (resources, undo): (&mut Resources, &mut Undo),
) -> Result<()> {
    for hostdev in &document.devices.hostdevs {
        plug_one(driver, hostdev, qemu, (&mut *resources, &mut *undo)).await?;
    }
    Ok(())
}

/// The same for one device, for a process that is to be QEMU or for a running one.
///
/// # Errors
/// As [`plug`].
pub(crate) async fn plug_one(
    driver: &Driver,
    hostdev: &Hostdev,
    handover: &mut impl Handover,
    (resources, undo): (&mut Resources, &mut Undo),
) -> Result<()> {
    let mut given = DeviceResources::default();
    match hostdev.kind {
        HostdevKind::Scsi => {
            given.path = want::scsi(hostdev)
                .map(|place| scsi_node(driver, place?))
                .transpose()?
        }
        HostdevKind::ScsiHost => {
            check_target(driver, want::vhost_scsi(hostdev))?;
            let opened = open_vhost(driver)?;
            let name = format!("vhostfd-{}", alias(hostdev));
            given.vhost_fds.push(handover.pass(name, opened, undo).await?);
        }
        _ => return Ok(()),
    }
    resources.devices.insert(alias(hostdev), given);
    Ok(())
}

/// Whether a document hands over network cards that the driver of VFIO would have to give.
pub(crate) fn has_passed_cards(document: &domxml::Domain) -> bool {
    document.devices.interfaces.iter().any(|card| {
        card.kind == domxml::devices::InterfaceKind::Hostdev
            && card.driver.as_ref().is_none_or(|driver| driver.name.is_none())
    })
}

/// What a line that is only shown names of the devices. Nothing is taken or opened.
///
/// # Errors
/// The host can't give such a device at all, or there is none.
pub(crate) fn look(
    driver: &Driver,
    document: &domxml::Domain,
    has_passed_cards: bool,
    resources: &mut Resources,
) -> Result<()> {
    let has_vfio = hostinfo::has_vfio(driver.hostdevs.root());
    if !want::is_nothing(document) {
        want::settle(&mut document.clone(), has_vfio)?;
    }
    if !has_vfio && has_passed_cards {
        let text = "host doesn't support passthrough of host PCI devices";
        return Err(Error::new(Code::ConfigUnsupported, text));
    }
    for hostdev in &document.devices.hostdevs {
        let node = want::scsi(hostdev).filter(|_| hostdev.kind == HostdevKind::Scsi);
        if let Some(place) = node {
            let given = DeviceResources {
                path: Some(shown(
                    &hostinfo::scsi_node_path(driver.hostdevs.root(), place?).map_err(told)?,
                )),
                ..DeviceResources::default()
            };
            resources.devices.insert(alias(hostdev), given);
        }
        if hostdev.kind == HostdevKind::ScsiHost {
            open_vhost(driver)?;
            check_target(driver, want::vhost_scsi(hostdev))?;
        }
    }
    Ok(())
}

fn alias(hostdev: &Hostdev) -> String {
    hostdev.info.alias.clone().unwrap_or_default()
}

fn scsi_node(driver: &Driver, place: hostinfo::ScsiPlace) -> Result<String> {
    let node = hostinfo::scsi_node(driver.hostdevs.root(), place).map_err(told)?;
    Ok(shown(&node))
}

fn shown(node: &std::path::Path) -> String {
    node.to_string_lossy().into_owned()
}

/// Whether the host's SCSI server has such a target.
fn check_target(driver: &Driver, target: Option<&str>) -> Result<()> {
    let target = format!("{TARGETS}/{}", target.unwrap_or_default());
    let found = std::fs::metadata(driver.hostdevs.root().path(target.trim_start_matches('/')));
    found.map(drop).map_err(|error| {
        Error::system(format_args!("Path '{target}' is not accessible"), error).in_area(Area::Cgroup)
    })
}

fn open_vhost(driver: &Driver) -> Result<std::os::fd::OwnedFd> {
    let path = driver.hostdevs.root().path(VHOST_SCSI.trim_start_matches('/'));
    if !path.exists() {
        let message = format!("vhost-scsi device file '{VHOST_SCSI}' cannot be found");
        return Err(Error::new(Code::ConfigUnsupported, message).in_area(Area::None));
    }
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(path);
    opened.map(Into::into).map_err(|error| {
        Error::system(format_args!("Failed to open {VHOST_SCSI}"), error).in_area(Area::None)
    })
}

/// Gives back the devices of a run that has ended. What fails is logged.
pub(crate) async fn give_back(driver: &Arc<Driver>, document: &domxml::Domain) {
    if !want::is_nothing(document) {
        let cards = document.devices.interfaces.iter().filter_map(want::of_interface);
        card::restore(driver, cards.filter_map(|device| want::pci(&device)).collect()).await;
        release(driver, document.name.clone(), want::managed(document)).await;
    }
}

async fn release(driver: &Arc<Driver>, guest: String, noted: Vec<PciAddress>) {
    let (table, name) = (Arc::clone(&driver.hostdevs), guest.clone());
    let work = move || {
        table.release(&name);
        Ok(())
    };
    if let Err(error) = crate::blocking::within(DEADLINE, "giving devices back to the host", work).await {
        tracing::error!(guest, %error, "a device was not given back");
        return;
    }
    for address in noted {
        driver.owed.settled(&Debt::Device(address)).await;
    }
}

/// Gives a device back that was noted and is no run's.
///
/// # Errors
/// What the kernel refuses.
pub(crate) async fn hand_in(driver: &Driver, address: PciAddress) -> Result<()> {
    card::restore(driver, vec![address]).await;
    let table = Arc::clone(&driver.hostdevs);
    crate::blocking::within(DEADLINE, "giving a device back to the host", move || {
        table.restore(address)
    })
    .await
}

/// Our error for one of a device.
fn told(error: DeviceError) -> Error {
    let error = match error {
        DeviceError::Odd(message) => Error::internal(message),
        DeviceError::Missing(message) => Error::new(Code::DeviceMissing, message),
        DeviceError::Unsupported(message) => Error::new(Code::ConfigUnsupported, message),
        DeviceError::System { what, source } => Error::system(what, source),
    };
    error.in_area(Area::None)
}

#[cfg(test)]
mod tests;
