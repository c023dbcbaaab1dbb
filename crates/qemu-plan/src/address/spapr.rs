//! Registers of devices on the virtual bus of PowerPC guests, for those that ask for a place there.

use std::collections::BTreeSet;

use domxml::devices::{Address, ControllerKind, DeviceInfo, Devices, SpaprVioAddress};

/// Where the registers of each kind begin, and how far they are apart.
const NETWORK: u64 = 0x1000;
const SCSI: u64 = 0x2000;
const NVRAM: u64 = 0x3000;
const SERIAL: u64 = 0x3000_0000;
const STEP: u64 = 0x1000;

/// Gives the devices their registers that name the bus and no register.
pub(super) fn assign(devices: &mut Devices) {
    put_on_bus(devices);
    let mut taken = BTreeSet::new();
    devices.for_each_info(|_, info| taken.extend(register(info).copied().flatten()));
    let cards = devices
        .interfaces
        .iter_mut()
        .map(|card| (&mut card.info, NETWORK));
    let controllers = devices.controllers.iter_mut();
    let controllers = controllers.map(|controller| (&mut controller.info, SCSI));
    let serials = devices
        .serials
        .iter_mut()
        .map(|serial| (&mut serial.info, SERIAL));
    let nvram = devices.nvram.iter_mut().map(|nvram| (&mut nvram.info, NVRAM));
    for (info, first) in cards.chain(controllers).chain(serials).chain(nvram) {
        let Some(None) = register(info) else { continue };
        let mut free = first;
        while !taken.insert(free) {
            free += STEP;
        }
        info.address = Some(Address::SpaprVio(SpaprVioAddress { reg: Some(free) }));
    }
}

/// Devices that are on no other bus are put on this one, whatever address they were given.
fn put_on_bus(devices: &mut Devices) {
    let cards = devices.interfaces.iter_mut();
    let cards = cards.filter(|card| card.model.as_deref() == Some("spapr-vlan"));
    let controllers = devices.controllers.iter_mut();
    let controllers =
        controllers.filter(|c| c.kind == ControllerKind::Scsi && c.model.as_deref() == Some("ibmvscsi"));
    for info in cards
        .map(|card| &mut card.info)
        .chain(controllers.map(|c| &mut c.info))
    {
        let reg = match &info.address {
            Some(Address::SpaprVio(_)) => continue,
            Some(other) => register_of(other),
            None => None,
        };
        info.address = Some(Address::SpaprVio(SpaprVioAddress { reg }));
    }
}

/// The register of a device that was given an address of another kind: libvirt keeps both in one place, and what stands there
/// is read as the register.
fn register_of(address: &Address) -> Option<u64> {
    let (low, high, is_said) = match address {
        Address::Pci(pci) => (pci.domain, pci.bus, pci.slot),
        Address::Drive(drive) => (drive.controller, drive.bus, drive.target),
        Address::VirtioSerial(serial) => (serial.controller, serial.bus, serial.port),
        _ => return None,
    };
    (is_said & 0xff != 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// The register that a device on this bus names.
fn register(info: &DeviceInfo) -> Option<&Option<u64>> {
    match &info.address {
        Some(Address::SpaprVio(SpaprVioAddress { reg })) => Some(reg),
        _ => None,
    }
}
