//! A guest's devices as messages.

use domxml::{
    FormatFlags,
    devices::{Address, Device, DeviceRef, Devices, Family, UsbAddress},
};
use xmlform::Writer;

use crate::{
    domain::View,
    error::{Code, Error, Result},
    ops::document::scope::{self, Scope},
    pb,
};

/// The devices of one of a guest's configurations.
pub(super) struct Shown<'a> {
    view: &'a View,
    devices: Devices,
    state: pb::DeviceState,
    flags: FormatFlags,
}

impl<'a> Shown<'a> {
    /// The devices that `scope` names.
    ///
    /// # Errors
    /// `OperationInvalid` if the guest has no such configuration.
    pub(super) fn of(view: &'a View, scope: Scope) -> Result<Self> {
        let document = scope::read(view, scope)?;
        let mut devices = document.domain()?.devices.clone();
        let (state, flags) = match document.is_live() {
            true => (pb::DeviceState::Plugged, FormatFlags::NONE),
            false => (pb::DeviceState::Stored, FormatFlags::INACTIVE),
        };
        if state == pb::DeviceState::Plugged {
            devices.show_actual();
        }
        Ok(Self {
            view,
            devices,
            state,
            flags,
        })
    }

    /// Those of the families; no family: all.
    pub(super) fn all(&self, families: &[pb::DeviceFamily]) -> Vec<pb::Device> {
        let wanted =
            |device: &DeviceRef<'_>| families.is_empty() || families.contains(&family(device.family()));
        self.devices
            .iter()
            .filter(wanted)
            .map(|device| self.shown(device))
            .collect()
    }

    /// The one of that name.
    ///
    /// # Errors
    /// `DeviceMissing`.
    pub(super) fn named(&self, alias: &str) -> Result<pb::Device> {
        let mut devices = self.devices.iter();
        let found = devices.find(|device| !alias.is_empty() && alias_of(*device) == alias);
        found.map(|device| self.shown(device)).ok_or_else(|| {
            let text = format!(
                "the domain '{}' has no device with alias '{alias}'",
                self.view.name
            );
            Error::new(Code::DeviceMissing, text)
        })
    }

    /// A device that has come or was changed: as the guest has it now, or as it would have it if there was only a trial.
    pub(super) fn changed(&self, device: &Device) -> pb::Device {
        let named = self.named(alias_of(device.as_ref())).ok();
        let found = named.or_else(|| self.like(device));
        found.unwrap_or_else(|| self.shown(device.as_ref()))
    }

    /// The one that a document is about: a disk of the same target, an interface of the same address, a display of the
    /// same type.
    fn like(&self, other: &Device) -> Option<pb::Device> {
        let same = |device: &DeviceRef<'_>| match (device, other) {
            (DeviceRef::Disk(disk), Device::Disk(other)) => disk.target.dev == other.target.dev,
            (DeviceRef::Interface(card), Device::Interface(other)) => card.mac == other.mac,
            (DeviceRef::Graphics(display), Device::Graphics(other)) => display.kind == other.kind,
            (DeviceRef::Memory(module), Device::Memory(other)) => module.info.address == other.info.address,
            _ => false,
        };
        let found = self.devices.iter().find(same);
        found.map(|device| self.shown(device))
    }

    fn shown(&self, device: DeviceRef<'_>) -> pb::Device {
        let mut xml = Writer::new(self.flags);
        device.write(&mut xml);
        pb::Device {
            alias: alias_of(device).to_owned(),
            family: family(device.family()).into(),
            address: device.info().and_then(|info| address(info.address.as_ref()?)),
            xml: xml.finish(),
            state: self.state.into(),
            domain_uuid: self.view.uuid.to_string(),
            etag: self.view.etag(),
        }
    }
}

fn alias_of(device: DeviceRef<'_>) -> &str {
    device
        .info()
        .and_then(|info| info.alias.as_deref())
        .unwrap_or_default()
}

/// The contract names families as documents do.
fn family(of: Family) -> pb::DeviceFamily {
    let name = format!("DEVICE_FAMILY_{}", of.name().to_ascii_uppercase());
    pb::DeviceFamily::from_str_name(&name).unwrap_or_default()
}

fn address(of: &Address) -> Option<pb::DeviceAddress> {
    use pb::device_address::{self as shown, Bus};
    let bus = match of {
        Address::Pci(at) if at.is_empty() => return None,
        Address::Pci(at) => Bus::Pci(shown::Pci {
            domain: at.domain,
            bus: at.bus,
            slot: at.slot,
            function: at.function,
        }),
        Address::Drive(at) => Bus::Drive(shown::Drive {
            controller: at.controller,
            bus: at.bus,
            target: at.target,
            unit: at.unit,
        }),
        Address::VirtioSerial(at) => Bus::VirtioSerial(shown::VirtioSerial {
            controller: at.controller,
            bus: at.bus,
            port: at.port,
        }),
        Address::Ccid(at) => Bus::Ccid(shown::Ccid {
            controller: at.controller,
            slot: at.slot,
        }),
        Address::Usb(UsbAddress { bus, port }) => Bus::Usb(shown::Usb {
            bus: *bus,
            port: port.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
        Address::SpaprVio(at) => Bus::SpaprVio(at.reg?),
        Address::Ccw(at) => at.place.map(|at| {
            Bus::Ccw(shown::Ccw {
                cssid: at.cssid,
                ssid: at.ssid,
                devno: at.devno,
            })
        })?,
        Address::VirtioMmio => Bus::VirtioMmio(shown::Mmio {}),
        Address::Isa(at) => Bus::Isa(shown::Isa {
            iobase: at.iobase,
            irq: at.irq,
        }),
        Address::Dimm(at) => Bus::Dimm(shown::Dimm {
            slot: at.slot,
            base: at.base,
        }),
        Address::Unassigned => return None,
    };
    Some(pb::DeviceAddress { bus: Some(bus) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_word_in_the_contract() {
        for of in Family::ALL {
            assert_ne!(family(*of), pb::DeviceFamily::Unspecified, "{}", of.name());
        }
    }
}
