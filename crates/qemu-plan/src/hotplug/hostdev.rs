//! Devices of the host.

use domxml::Domain;
use domxml::devices::{
    Devices, Hostdev, HostdevAddress, HostdevKind, HostdevMode, HostdevProtocol, HostdevSource,
};

use super::{Rules, Side, first, invalid, missing};
use crate::error::{Area, Code, Error, Result};

impl Rules for Hostdev {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        let same = |other: &Hostdev| same_device(self, other);
        match side {
            Side::Live if self.mode != HostdevMode::Subsystem => Err(Error::unsupported(format!(
                "hotplug is not supported for hostdev mode '{}'",
                self.mode.as_str()
            ))),
            Side::Stored if def.devices.hostdevs.iter().any(same) => {
                Err(invalid("device is already in the domain configuration"))
            }
            _ => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        if side == Side::Live && self.mode == HostdevMode::Capabilities {
            let mode = self.mode.as_str();
            return Err(Error::unsupported(format!(
                "hot unplug is not supported for hostdev mode '{mode}'"
            )));
        }
        first(
            &devices.hostdevs,
            |other| same_device(self, other),
            || match side {
                // libvirt fails without a word.
                Side::Live if self.kind == HostdevKind::ScsiHost => {
                    Error::new(Code::Internal, Area::None, none(self))
                }
                Side::Live => missing(none(self)),
                Side::Stored => missing("device not present in domain configuration"),
            },
        )
    }
}

/// What libvirt says of a device that the guest does not have.
fn none(hostdev: &Hostdev) -> String {
    let source = hostdev.source.clone().unwrap_or_default();
    match (hostdev.kind, &source.address) {
        (
            _,
            Some(HostdevAddress::Pci {
                domain,
                bus,
                slot,
                function,
            }),
        ) => format!("host pci device {domain:04x}:{bus:02x}:{slot:02x}.{function} not found"),
        (HostdevKind::Usb, Some(HostdevAddress::Usb { bus, device })) if *bus != 0 && *device != 0 => {
            format!("host usb device {bus:03}.{device:03} not found")
        }
        (HostdevKind::Usb, _) => format!(
            "host usb device vendor=0x{:04x} product=0x{:04x} not found",
            source.vendor.unwrap_or(0),
            source.product.unwrap_or(0)
        ),
        (_, Some(HostdevAddress::Scsi { bus, target, unit })) => format!(
            "host scsi device {}:{bus}:{target}.{unit} not found",
            source.adapter.unwrap_or_default()
        ),
        (HostdevKind::Scsi, _) => format!(
            "host scsi iSCSI path {} not found",
            source.name.unwrap_or_default()
        ),
        (_, Some(HostdevAddress::Mdev { uuid })) => format!("mediated device '{uuid}' not found"),
        _ => format!(
            "host scsi_host device {} not found",
            source.wwpn.unwrap_or_default()
        ),
    }
}

fn same_device(wanted: &Hostdev, has: &Hostdev) -> bool {
    let (Some(one), Some(two)) = (&wanted.source, &has.source) else {
        return false;
    };
    (wanted.mode, wanted.kind) == (has.mode, has.kind)
        && match wanted.kind {
            HostdevKind::Usb => same_usb(one, two),
            HostdevKind::Scsi => same_scsi(one, two),
            HostdevKind::ScsiHost => one.wwpn.is_some() && one.wwpn == two.wwpn,
            HostdevKind::Pci | HostdevKind::Mdev => one.address.is_some() && one.address == two.address,
            _ => one == two,
        }
}

/// By its place, where one is asked for; else by what it is.
fn same_usb(wanted: &HostdevSource, has: &HostdevSource) -> bool {
    let place = |source: &HostdevSource| match source.address {
        Some(HostdevAddress::Usb { bus, device }) => Some((bus, device)).filter(|at| *at != (0, 0)),
        _ => None,
    };
    match place(wanted) {
        Some(at) => place(has) == Some(at),
        None => wanted.vendor.is_some() && (wanted.vendor, wanted.product) == (has.vendor, has.product),
    }
}

fn same_scsi(wanted: &HostdevSource, has: &HostdevSource) -> bool {
    let is_iscsi = |source: &HostdevSource| source.protocol == Some(HostdevProtocol::Iscsi);
    let portal = |source: &HostdevSource| source.hosts.first().map(|host| (host.name.clone(), host.port));
    match (is_iscsi(wanted), is_iscsi(has)) {
        (true, true) => wanted.name == has.name && portal(wanted) == portal(has),
        (false, false) => (&wanted.adapter, &wanted.address) == (&has.adapter, &has.address),
        _ => false,
    }
}
