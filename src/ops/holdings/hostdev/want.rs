//! What a document wants of the host's devices, and where they are. Pure, but for [`nodes`].

use std::path::PathBuf;

use domxml::devices::{
    Hostdev, HostdevAddress, HostdevKind, HostdevMode, HostdevProtocol, HostdevSource, Interface,
    InterfaceKind,
    common::{HostdevDriver, HostdevDriverName, StartupPolicy, YesNo},
    interface::{ActualHostdev, TypedHostdevAddress},
};
use hostinfo::{PciAddress, Root, ScsiPlace};
use qemu_plan::command::net;

use crate::{
    error::{Area, Code, Error, Result},
    ops::holdings::hostdev::told,
};

/// A node of a device, which changes hands with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The file.
    pub(crate) path: PathBuf,
    /// It belongs to root whenever no guest has it, and nothing is kept of it.
    pub(crate) is_roots: bool,
}

/// Whether no device is asked for.
pub(crate) fn is_nothing(document: &domxml::Domain) -> bool {
    let mut cards = document.devices.interfaces.iter();
    document.devices.hostdevs.is_empty() && !cards.any(|card| of_interface(card).is_some())
}

/// The host device that an interface is; none for other interfaces.
pub(crate) fn of_interface(card: &Interface) -> Option<Hostdev> {
    if net::kind(card) != InterfaceKind::Hostdev {
        return None;
    }
    let (source, managed, driver) = match &card.actual {
        Some(actual) => {
            let driver = actual.hostdev.as_ref().and_then(|hostdev| hostdev.driver.clone());
            (actual.source.as_ref(), actual.managed, driver)
        }
        None => (card.source.as_ref(), card.managed, card.hostdev.driver.clone()),
    };
    let source = source?;
    let TypedHostdevAddress(address) = source.host_device.clone()?;
    let kind = match address {
        HostdevAddress::Usb { .. } => HostdevKind::Usb,
        _ => HostdevKind::Pci,
    };
    Some(Hostdev {
        kind,
        managed,
        driver,
        source: Some(HostdevSource {
            address: Some(address),
            origstates: source.origstates.clone(),
            ..HostdevSource::default()
        }),
        info: card.info.clone(),
        ..Hostdev::default()
    })
}

/// Notes in an interface what was found of the host device that it is.
pub(crate) fn note_in(card: &mut Interface, found: Hostdev) {
    let origin = found.source.unwrap_or_default();
    let source = match &mut card.actual {
        Some(actual) => {
            actual.hostdev = Some(ActualHostdev { driver: found.driver });
            &mut actual.source
        }
        None => {
            card.hostdev.driver = found.driver;
            &mut card.source
        }
    };
    if let Some(source) = source {
        source.host_device = origin.address.map(TypedHostdevAddress);
        source.origstates = origin.origstates;
    }
}

/// All host devices of a document: those that are interfaces first.
pub(crate) fn all(document: &domxml::Domain) -> Vec<Hostdev> {
    let cards = document.devices.interfaces.iter().filter_map(of_interface);
    cards.chain(document.devices.hostdevs.iter().cloned()).collect()
}

/// Notes in a document what was found of all of its host devices, in the order of [`all`].
pub(crate) fn note_all(document: &mut domxml::Domain, found: Vec<Hostdev>) {
    let mut found = found.into_iter();
    for card in &mut document.devices.interfaces {
        if of_interface(card).is_some()
            && let Some(device) = found.next()
        {
            note_in(card, device);
        }
    }
    document.devices.hostdevs = found.collect();
}

/// Fills in what a document leaves to the host, and refuses what the host can't give at all.
///
/// # Errors
/// `ConfigUnsupported`.
pub(crate) fn settle(document: &mut domxml::Domain, has_vfio: bool) -> Result<()> {
    let unsupported = |what: &str| Err(Error::new(Code::ConfigUnsupported, what.to_owned()));
    for hostdev in &mut document.devices.hostdevs {
        if hostdev.mode != HostdevMode::Subsystem {
            return unsupported("hostdev mode 'capabilities' is not supported in qemu");
        }
        match hostdev.kind {
            HostdevKind::Pci if driver_name(hostdev).is_none() => {
                if !has_vfio {
                    return unsupported("host doesn't support passthrough of host PCI devices");
                }
                hostdev.driver.get_or_insert_with(HostdevDriver::default).name =
                    Some(HostdevDriverName::Vfio);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses what a guest can't be given on this host, although a command line can name it.
///
/// # Errors
/// `ConfigUnsupported`.
pub(crate) fn check(document: &domxml::Domain, has_vfio: bool) -> Result<()> {
    let mut hostdevs = document.devices.hostdevs.iter();
    if !has_vfio && hostdevs.any(|hostdev| hostdev.kind == HostdevKind::Mdev) {
        let text = "Mediated host device assignment requires VFIO support";
        return Err(Error::new(Code::ConfigUnsupported, text));
    }
    Ok(())
}

fn driver_name(hostdev: &Hostdev) -> Option<HostdevDriverName> {
    hostdev.driver.as_ref().and_then(|driver| driver.name)
}

/// The PCI address of a host device; none for other kinds.
pub(crate) fn pci(hostdev: &Hostdev) -> Option<PciAddress> {
    match hostdev.source.as_ref()?.address.as_ref()? {
        HostdevAddress::Pci {
            domain,
            bus,
            slot,
            function,
        } if hostdev.kind == HostdevKind::Pci => Some(PciAddress {
            domain: *domain,
            bus: *bus,
            slot: *slot,
            function: *function,
        }),
        _ => None,
    }
}

/// The driver that a PCI device is to be bound to, if the document names one.
///
/// # Errors
/// A way of giving devices away that there is no longer.
pub(crate) fn vfio_driver(hostdev: &Hostdev) -> Result<Option<&str>> {
    match driver_name(hostdev) {
        Some(HostdevDriverName::Kvm) => {
            let message = "pci backend driver type 'kvm' is not supported";
            Err(Error::new(Code::ConfigUnsupported, message).in_area(Area::None))
        }
        _ => Ok(hostdev.driver.as_ref().and_then(|driver| driver.model.as_deref())),
    }
}

/// Whether the daemon takes the device from its driver and gives it back.
pub(crate) fn is_managed(hostdev: &Hostdev) -> bool {
    hostdev.managed == Some(YesNo::Yes)
}

/// PCI devices that the daemon takes and gives back.
pub(crate) fn managed(document: &domxml::Domain) -> Vec<PciAddress> {
    let devices = all(document);
    devices.iter().filter(|h| is_managed(h)).filter_map(pci).collect()
}

/// Whether a device maps the guest's memory through VFIO.
pub(crate) fn is_vfio(hostdev: &Hostdev) -> bool {
    matches!(hostdev.kind, HostdevKind::Pci | HostdevKind::Mdev)
}

/// How many devices map the guest's memory through VFIO.
pub(crate) fn of_vfio(document: &domxml::Domain) -> u32 {
    let devices = all(document);
    u32::try_from(devices.iter().filter(|hostdev| is_vfio(hostdev)).count()).unwrap_or(u32::MAX)
}

/// Bus and device of a USB device, where they are known.
pub(crate) fn usb(hostdev: &Hostdev) -> Option<(u32, u32)> {
    match hostdev.source.as_ref()?.address.as_ref()? {
        HostdevAddress::Usb { bus, device } if hostdev.kind == HostdevKind::Usb => {
            Some((*bus, *device)).filter(|at| *at != (0, 0))
        }
        _ => None,
    }
}

/// Whether a guest starts only with this device.
pub(crate) fn is_required(source: &HostdevSource) -> bool {
    source.startup_policy != Some(StartupPolicy::Optional)
}

/// The place of a SCSI device of this host; none for other kinds, and for those of other hosts.
pub(crate) fn scsi(hostdev: &Hostdev) -> Option<Result<ScsiPlace>> {
    let source = hostdev
        .source
        .as_ref()
        .filter(|s| s.protocol != Some(HostdevProtocol::Iscsi))?;
    match source.address {
        Some(HostdevAddress::Scsi { bus, target, unit }) if hostdev.kind == HostdevKind::Scsi => Some(
            ScsiPlace::below(source.adapter.as_deref().unwrap_or_default(), (bus, target, unit))
                .map_err(told),
        ),
        _ => None,
    }
}

/// The target of the host's SCSI server.
pub(crate) fn vhost_scsi(hostdev: &Hostdev) -> Option<&str> {
    hostdev
        .source
        .as_ref()
        .filter(|_| hostdev.kind == HostdevKind::ScsiHost)?
        .wwpn
        .as_deref()
}

/// A mediated device.
pub(crate) fn mdev(hostdev: &Hostdev) -> Option<&str> {
    match hostdev.source.as_ref()?.address.as_ref()? {
        HostdevAddress::Mdev { uuid } if hostdev.kind == HostdevKind::Mdev => Some(uuid),
        _ => None,
    }
}

/// The nodes of a run's devices, as far as they are there.
pub(crate) fn nodes(root: &Root, document: &domxml::Domain) -> Vec<Node> {
    let mut found: Vec<Node> = Vec::new();
    for node in all(document)
        .iter()
        .filter_map(|h| node(root, h))
        .filter(|node| node.path.exists())
    {
        // Devices of one group have one node.
        if !found.contains(&node) {
            found.push(node);
        }
    }
    found
}

/// The node of one device, if it is there.
pub(crate) fn node_of(root: &Root, hostdev: &Hostdev) -> Option<Node> {
    node(root, hostdev).filter(|node| node.path.exists())
}

fn node(root: &Root, hostdev: &Hostdev) -> Option<Node> {
    let group = |number: Option<u32>| {
        Some(Node {
            path: root.path(&format!("dev/vfio/{}", number?)),
            is_roots: true,
        })
    };
    let kept = |path: PathBuf| {
        Some(Node {
            path,
            is_roots: false,
        })
    };
    match hostdev.kind {
        HostdevKind::Pci => group(hostinfo::iommu_group(root, pci(hostdev)?).ok()?),
        HostdevKind::Mdev => group(hostinfo::mdev_group(root, mdev(hostdev)?).ok()?),
        HostdevKind::Usb => {
            let (bus, device) = usb(hostdev)?;
            kept(root.path(&format!("dev/bus/usb/{bus:03}/{device:03}")))
        }
        HostdevKind::Scsi => kept(hostinfo::scsi_node(root, scsi(hostdev)?.ok()?).ok()?),
        _ => None,
    }
}
