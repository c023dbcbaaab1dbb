//! What a native conversion makes of a document before the line is built: nothing is plugged into
//! the host's network, so each interface becomes a bare TAP, which has no name and no place yet.

use domxml::Domain;
use domxml::devices::info::DeviceInfo;
use domxml::devices::interface::{Interface, InterfaceKind};

use crate::Result;
use crate::address::{self, Age, LegacyBridge, Machine};
use crate::alias;
use crate::caps::{Caps, Flag};

/// Turns a document with its defaults into one that [`super::build`] takes for a native conversion:
/// interfaces reduced, places given again, devices named.
///
/// # Errors
/// When there is no place for a device.
pub fn prepare(def: &mut Domain, caps: &Caps) -> Result<()> {
    def.devices.interfaces.iter_mut().for_each(reduce);
    let consoles: Vec<_> = def
        .devices
        .consoles
        .iter()
        .map(|console| console.info.address.clone())
        .collect();
    let legacy = if caps.has(Flag::PciePciBridge) {
        LegacyBridge::PcieToPci
    } else {
        LegacyBridge::DmiToPci
    };
    let memory_slots = def.max_memory.map(|memory| memory.slots.unwrap_or_default());
    address::assign(
        &mut def.devices,
        Machine {
            legacy,
            age: Age::New,
            memory_slots,
        },
    )?;
    // Consoles go where QEMU puts them, unless the document says otherwise.
    for (console, address) in def.devices.consoles.iter_mut().zip(consoles) {
        console.info.address = address;
    }
    alias::assign(&mut def.devices);
    Ok(())
}

/// What is left of an interface: the card, its MAC address, its script.
fn reduce(net: &mut Interface) {
    *net = Interface {
        kind: InterfaceKind::Ethernet,
        mac: net.mac.take(),
        model: net.model.take(),
        script: net.script.take(),
        info: DeviceInfo::default(),
        ..Interface::default()
    };
}
