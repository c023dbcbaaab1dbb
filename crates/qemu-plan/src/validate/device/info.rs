//! What all devices have: an address, a number for ACPI, an option ROM.

use domxml::devices::{Address, DeviceInfo, DeviceRef};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::{Error, Result};

/// Only devices of the host may be left without a place.
pub(super) fn generic(device: DeviceRef<'_>) -> Result<()> {
    let unassigned = device
        .info()
        .is_some_and(|i| i.address == Some(Address::Unassigned));
    if unassigned && !matches!(device, DeviceRef::Hostdev(_)) {
        return Err(Error::conflicting(
            "address of type 'unassigned' is supported only for hostdevs",
        ));
    }
    Ok(())
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, device: DeviceRef<'_>) -> Result<()> {
    let Some(info) = device.info() else { return Ok(()) };
    check(ADDRESS, guest, info)?;
    match device {
        DeviceRef::Disk(disk) => super::disk::place(guest, disk)?,
        _ => check(DRIVE, guest, info)?,
    }
    check(REST, guest, info)
}

rules! {
    /// Addresses of mainframes.
    ADDRESS(guest, info: DeviceInfo) {
        unsupported "This QEMU binary doesn't support zPCI"
            if info.pci().is_some_and(|a| a.zpci.is_some()) && !guest.caps.has(Flag::Zpci);
        xml_qemu "Invalid PCI address uid='0x{:04x}', must be > 0x0000 and <= 0xffff"
            (uid(info).unwrap_or_default())
            if uid(info).is_some_and(|u| u == 0 || u > 0xffff);
    }
}

rules! {
    /// Places among drives of what is no disk.
    DRIVE(guest, info: DeviceInfo) {
        internal_qemu "SCSI controller only supports 1 bus"
            if matches!(&info.address, Some(Address::Drive(a)) if a.bus > 0);
    }
}

rules! {
    /// The rest.
    REST(guest, info: DeviceInfo) {
        unsupported "spapr-vio reg='0x{:x}' exceeds maximum possible value (0xffffffff)"
            (reg(info).unwrap_or_default())
            if reg(info).is_some_and(|r| r > 0xffff_ffff);
        unsupported "CCW addresses are not supported by machine type '{}'" (guest.machine_name())
            if matches!(info.address, Some(Address::Ccw(_))) && !(guest.is_s390()
                && guest.machine_name().starts_with("s390-ccw"));
        unsupported "ACPI index is not supported with this QEMU"
            if info.acpi_index.is_some_and(|i| i > 0) && !guest.caps.has(Flag::AcpiIndex);
        unsupported "ACPI index is only supported for PCI devices"
            if info.acpi_index.is_some_and(|i| i > 0)
                && info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
        unsupported "ROM tuning is only supported for PCI devices"
            if info.rom.as_ref().is_some_and(|r| r.enabled.is_some() || r.bar.is_some() || r.file.is_some())
                && info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_) | Address::Unassigned));
    }
}

fn uid(info: &DeviceInfo) -> Option<u32> {
    info.pci()?.zpci.as_ref()?.uid
}

fn reg(info: &DeviceInfo) -> Option<u64> {
    match &info.address {
        Some(Address::SpaprVio(address)) => address.reg,
        _ => None,
    }
}
