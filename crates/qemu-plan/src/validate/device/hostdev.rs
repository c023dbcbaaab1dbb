//! Devices of the host.

use domxml::devices::{
    Address, DriveAddress, Hostdev, HostdevDriverName, HostdevKind, HostdevMode, HostdevModel,
    HostdevProtocol, OnOff, ScsiModel, SgIo, TeamingKind,
};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::Result;
use crate::facts::address_kind;

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, device: &Hostdev) -> Result<()> {
    check(GENERIC, guest, device)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, device: &Hostdev) -> Result<()> {
    check(QEMU, guest, device)
}

rules! {
    /// What no hypervisor takes.
    GENERIC(guest, device: Hostdev) {
        internal "PCI host devices must use 'pci' or 'unassigned' address type"
            if is(device, HostdevKind::Pci) && other(device, &["pci", "unassigned"]);
        conflicting "SCSI host device must use 'drive' address type"
            if is(device, HostdevKind::Scsi) && other(device, &["drive"]);
        conflicting "unfiltered sgio is no longer supported"
            if is(device, HostdevKind::Scsi) && device.sgio == Some(SgIo::Unfiltered);
        conflicting "SCSI_host host device must use 'pci' or 'ccw' address type"
            if is(device, HostdevKind::ScsiHost) && other(device, &["pci", "ccw"]);
        conflicting "USB host device must use 'usb' address type"
            if is(device, HostdevKind::Usb) && other(device, &["usb"]);
        xml "Unsupported address type '{}' with mediated device model '{}'"
            (device.info.address.as_ref().map_or("none", address_kind), device.model.map_or("", |m| m.as_str()))
            if is(device, HostdevKind::Mdev) && other(device, mediated_places(device));
        conflicting "teaming hostdev devices must have type='transient'"
            if device.teaming.as_ref().is_some_and(|t| t.kind != Some(TeamingKind::Transient));
        conflicting "missing required persistent attribute in hostdev teaming element"
            if device.teaming.as_ref().is_some_and(|t| t.persistent.is_none());
        conflicting "teaming is only supported for pci hostdev devices"
            if device.teaming.is_some() && !is(device, HostdevKind::Pci);
    }
}

rules! {
    /// What QEMU does not take.
    QEMU(guest, device: Hostdev) {
        unsupported "hostdev mode 'capabilities' is not supported in {}" (guest.def.kind.as_str())
            if device.mode == HostdevMode::Capabilities;
        unsupported "guestReset is not supported with this version of QEMU"
            if device.source.as_ref().is_some_and(|s| s.guest_reset.is_some())
                && is(device, HostdevKind::Usb) && !guest.caps.has(Flag::UsbHostGuestResetsAll);
        unsupported "VFIO PCI device assignment is not supported by this version of qemu"
            if is(device, HostdevKind::Pci) && vfio(device) && !guest.caps.has(Flag::VfioPci);
        unsupported "Write filtering of PCI device configuration space is not supported by qemu"
            if is(device, HostdevKind::Pci)
                && device.source.as_ref().is_some_and(|s| s.write_filtering.is_some());
        unsupported "graphics device is needed for attribute value 'display=on' in <hostdev>"
            if is(device, HostdevKind::Pci) && device.display == Some(OnOff::On)
                && guest.def.devices.graphics.is_empty();
        unsupported "booting from assigned devices is not supported by vhost SCSI devices"
            if is(device, HostdevKind::ScsiHost) && device.info.boot.is_some();
        unsupported "target must be 0 for controller model 'lsilogic'"
            if on_narrow(guest, device).is_some_and(|drive| drive.target > 0);
        unsupported "This QEMU doesn't support vhost-scsi devices"
            if is(device, HostdevKind::ScsiHost) && vhost(device) && !guest.caps.has(Flag::VhostScsi);
        unsupported "VFIO CCW device assignment is not supported by this version of QEMU"
            if mediated(device, HostdevModel::VfioCcw) && !guest.caps.has(Flag::VfioCcw);
        unsupported "VFIO PCI device assignment is not supported by this version of QEMU"
            if mediated(device, HostdevModel::VfioPci) && !guest.caps.has(Flag::VfioPci);
        unsupported "booting from assigned devices is not supported by mediated devices of model vfio-pci"
            if mediated(device, HostdevModel::VfioPci) && device.info.boot.is_some();
        unsupported "graphics device is needed for attribute value 'display=on' in <hostdev>"
            if mediated(device, HostdevModel::VfioPci) && device.display == Some(OnOff::On)
                && guest.def.devices.graphics.is_empty();
        unsupported "VFIO AP device assignment is not supported by this version of QEMU"
            if mediated(device, HostdevModel::VfioAp) && !guest.caps.has(Flag::VfioAp);
        unsupported "booting from assigned devices is not supported by mediated devices of model vfio-ap"
            if mediated(device, HostdevModel::VfioAp) && device.info.boot.is_some();
        unsupported "Only one hostdev of model vfio-ap is supported"
            if guest.def.devices.hostdevs.iter().filter(|h| mediated(h, HostdevModel::VfioAp)).count() > 1
                && mediated(device, HostdevModel::VfioAp);
    }
}

fn is(device: &Hostdev, kind: HostdevKind) -> bool {
    device.mode == HostdevMode::Subsystem && device.kind == kind
}

fn mediated(device: &Hostdev, model: HostdevModel) -> bool {
    is(device, HostdevKind::Mdev) && device.model == Some(model)
}

fn vhost(device: &Hostdev) -> bool {
    device.source.as_ref().and_then(|s| s.protocol) == Some(HostdevProtocol::Vhost)
}

fn vfio(device: &Hostdev) -> bool {
    let name = device.driver.as_ref().and_then(|d| d.name);
    name.is_none_or(|n| n == HostdevDriverName::Vfio)
}

/// Whether a device has an address of none of these kinds.
fn other(device: &Hostdev, kinds: &[&str]) -> bool {
    let address: Option<&Address> = device.info.address.as_ref();
    address.is_some_and(|a| !kinds.contains(&address_kind(a)))
}

fn mediated_places(device: &Hostdev) -> &'static [&'static str] {
    match device.model {
        Some(HostdevModel::VfioCcw) => &["ccw"],
        Some(HostdevModel::VfioPci) => &["pci"],
        _ => &["pci", "ccw", "unassigned"],
    }
}

/// The place of a SCSI device on a controller whose bus is narrow.
fn on_narrow<'a>(guest: &Guest<'_>, device: &'a Hostdev) -> Option<&'a DriveAddress> {
    let Some(Address::Drive(drive)) = &device.info.address else {
        return None;
    };
    let mut all = guest.def.devices.controllers.iter();
    let narrow =
        all.any(|c| c.index == Some(drive.controller) && c.scsi_model() == Some(ScsiModel::Lsilogic));
    Some(drive).filter(|_| narrow && is(device, HostdevKind::Scsi))
}
