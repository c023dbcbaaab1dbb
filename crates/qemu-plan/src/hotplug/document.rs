//! The document that a device has joined, or left: with what follows from it elsewhere in the document.
//!
//! The first serial port is the first console by another name, and memory on modules is part of the guest's memory.

use domxml::Domain;
use domxml::devices::{Console, ConsoleTarget, ConsoleTargetKind, Device, DeviceRef, Family, Place, Serial};
use domxml::units::Kib;

use super::memory;
use crate::error::Result;
use crate::postparse::add_device;

/// Puts a device into a document.
///
/// # Errors
/// When the guest can have only one of the family, and has it.
pub fn enter(def: &mut Domain, device: Device) -> Result<Place> {
    let grown = match &device {
        Device::Memory(module) => memory::kib(module),
        _ => 0,
    };
    let twin = match &device {
        Device::Serial(serial) if def.devices.serials.is_empty() && def.devices.consoles.is_empty() => {
            Some(twin(serial))
        }
        _ => None,
    };
    let place = add_device(&mut def.devices, device)?;
    def.devices.consoles.extend(twin);
    resize(def, |total| total.saturating_add(grown));
    Ok(place)
}

/// Takes a device out of a document.
pub fn leave(def: &mut Domain, place: Place) -> Option<Device> {
    let is_first_serial = place == FIRST_SERIAL;
    let device = def.devices.remove(place)?;
    if let DeviceRef::Memory(module) = device.as_ref() {
        let shrunk = memory::kib(module);
        resize(def, |total| total.saturating_sub(shrunk));
    }
    if is_first_serial && def.devices.consoles.first().is_some_and(is_twin) {
        def.devices.consoles.remove(0);
    }
    Some(device)
}

const FIRST_SERIAL: Place = Place {
    family: Family::Serial,
    at: 0,
};

/// The memory of the guest as a whole. A balloon that has all of it goes on having all of it.
fn resize(def: &mut Domain, change: impl Fn(u64) -> u64) {
    let Some(memory) = &mut def.memory else { return };
    let before = memory.size.0;
    memory.size.0 = change(before);
    let after = memory.size.0;
    if let Some(current) = &mut def.current_memory
        && (current.0 == before || current.0 > after)
    {
        *current = Kib(after);
    }
}

/// The console that is a serial port.
fn twin(serial: &Serial) -> Console {
    Console {
        chardev: serial.chardev.clone(),
        tty: serial.chardev.path().map(str::to_owned),
        target: Some(ConsoleTarget {
            kind: Some(ConsoleTargetKind::Serial),
            port: serial.target.as_ref().and_then(|target| target.port),
        }),
        info: serial.info.clone(),
    }
}

/// Whether a console is a serial port by another name.
pub(super) fn is_twin(console: &Console) -> bool {
    let kind = console.target.as_ref().and_then(|target| target.kind);
    matches!(kind, None | Some(ConsoleTargetKind::Serial))
}
