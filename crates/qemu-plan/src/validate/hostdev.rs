//! Devices of the host.

use domxml::Domain;
use domxml::devices::{Address, Hostdev, HostdevKind, HostdevModel, HostdevProtocol, OnOff};

use super::Guest;
use crate::caps::Flag;
use crate::error::{Error, Result};
use crate::facts::address_kind;

/// Settings of SCSI devices alone.
pub(super) fn scsi_options(def: &Domain) -> Result<()> {
    let others = || {
        def.devices
            .hostdevs
            .iter()
            .filter(|h| h.kind != HostdevKind::Scsi)
    };
    if others().any(|h| h.sgio.is_some()) {
        return Err(Error::xml("sgio is only supported for scsi host device"));
    }
    if others().any(|h| h.rawio.is_some()) {
        return Err(Error::xml("rawio is only supported for scsi host device"));
    }
    Ok(())
}

pub(super) fn duplicates(guest: &Guest<'_>) -> Result<()> {
    let all = &guest.def.devices.hostdevs;
    let twice = |at: usize, h: &Hostdev| all[..at].iter().any(|other| same_device(other, h));
    if all.iter().enumerate().any(|(at, h)| twice(at, h)) {
        return Err(Error::xml("Hostdev already exists in the domain configuration"));
    }
    Ok(())
}

fn same_device(a: &Hostdev, b: &Hostdev) -> bool {
    let (Some(one), Some(two)) = (&a.source, &b.source) else {
        return false;
    };
    let named = one.address.is_some() || one.vendor.is_some() || one.wwpn.is_some() || one.name.is_some();
    a.kind == b.kind
        && named
        && (&one.address, &one.adapter, one.vendor, one.product, &one.wwpn)
            == (&two.address, &two.adapter, two.vendor, two.product, &two.wwpn)
        && (one.protocol, &one.name, &one.hosts) == (two.protocol, &two.name, &two.hosts)
}

pub(super) fn checks(guest: &Guest<'_>) -> Result<()> {
    let devices = &guest.def.devices;
    for (at, hostdev) in devices.hostdevs.iter().enumerate() {
        mediated(hostdev)?;
        model(guest, hostdev)?;
        if hostdev.display == Some(OnOff::On) && devices.graphics.is_empty() {
            return Err(Error::unsupported(
                "graphics device is needed for attribute value 'display=on' in <hostdev>",
            ));
        }
        let vhost = hostdev.source.as_ref().and_then(|s| s.protocol) == Some(HostdevProtocol::Vhost);
        if hostdev.kind == HostdevKind::ScsiHost && vhost && hostdev.info.boot.is_some() {
            return Err(Error::unsupported(
                "booting from assigned devices is not supported by vhost SCSI devices",
            ));
        }
        one_place(&devices.hostdevs[..at], hostdev)?;
    }
    Ok(())
}

/// Ways of using mediated devices, the flag of a QEMU that knows each, and its name in messages.
// table
const MODELS: &[(HostdevModel, Flag, &str)] = &[
    (
        HostdevModel::VfioPci,
        Flag::VfioPci,
        "VFIO PCI device assignment is not supported by this version of qemu",
    ),
    (
        HostdevModel::VfioAp,
        Flag::VfioAp,
        "VFIO AP device assignment is not supported by this version of QEMU",
    ),
    (
        HostdevModel::VfioCcw,
        Flag::VfioCcw,
        "VFIO CCW device assignment is not supported by this version of QEMU",
    ),
];

fn model(guest: &Guest<'_>, hostdev: &Hostdev) -> Result<()> {
    let unknown = |(model, flag, _): &&(HostdevModel, Flag, &str)| {
        hostdev.model == Some(*model) && !guest.caps.has(*flag)
    };
    match MODELS
        .iter()
        .find(unknown)
        .filter(|_| hostdev.kind == HostdevKind::Mdev)
    {
        Some((_, _, message)) => Err(Error::unsupported(*message)),
        None => Ok(()),
    }
}

fn mediated(hostdev: &Hostdev) -> Result<()> {
    match (hostdev.kind, &hostdev.info.address) {
        (HostdevKind::Mdev, Some(address))
            if !matches!(address, Address::Pci(_) | Address::Ccw(_) | Address::Unassigned) =>
        {
            let (kind, model) = (address_kind(address), hostdev.model.map_or("", |m| m.as_str()));
            Err(Error::xml(format!(
                "Unsupported address type '{kind}' with mediated device model '{model}'"
            )))
        }
        _ => Ok(()),
    }
}

fn one_place(before: &[Hostdev], hostdev: &Hostdev) -> Result<()> {
    let Some(Address::Drive(a)) = &hostdev.info.address else {
        return Ok(());
    };
    if before.iter().any(|h| h.info.address == hostdev.info.address) {
        return Err(Error::conflicting(format!(
            "SCSI host address controller='{}' bus='{}' target='{}' unit='{}' in use by another SCSI host device",
            a.controller, a.bus, a.target, a.unit
        )));
    }
    Ok(())
}
