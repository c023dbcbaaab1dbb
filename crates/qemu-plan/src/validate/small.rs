//! USB as a whole, input devices, I/O MMU.

use domxml::Domain;
use domxml::devices::{ControllerKind, InputBus, InputKind, IommuModel, OnOff, UsbModel, VirtioModel};

use super::Guest;
use crate::error::{Error, Result};
use crate::facts::MachineKind;

/// A guest may say that it has no USB; then nothing may be on it.
pub(super) fn usb_is_there(def: &Domain) -> Result<()> {
    let devices = &def.devices;
    let usb: Vec<_> = devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Usb)
        .collect();
    if !usb.iter().any(|c| c.usb_model() == Some(UsbModel::None)) {
        return Ok(());
    }
    if usb.len() > 1 {
        return Err(Error::detail(
            "Can't add another USB controller: USB is disabled for this domain",
        ));
    }
    if !devices.hubs.is_empty() {
        return Err(Error::conflicting(
            "Can't add USB hub: USB is disabled for this domain",
        ));
    }
    if devices.inputs.iter().any(|i| i.bus == Some(InputBus::Usb)) {
        return Err(Error::conflicting(
            "Can't add USB input device. USB bus is disabled",
        ));
    }
    Ok(())
}

pub(super) fn inputs(guest: &Guest<'_>) -> Result<()> {
    let ps2_off = guest
        .def
        .features
        .as_ref()
        .and_then(|f| f.ps2)
        .is_some_and(|p| p.state == OnOff::Off);
    guest.def.devices.inputs.iter().try_for_each(|input| {
        if ps2_off && input.bus == Some(InputBus::Ps2) {
            return Err(Error::conflicting(
                "ps2 bus inputs require the ps2 feature not to be disabled",
            ));
        }
        let generation = matches!(
            input.model,
            Some(VirtioModel::Transitional | VirtioModel::NonTransitional)
        );
        if generation && input.kind != InputKind::Passthrough {
            let kind = input.kind.as_str();
            return Err(Error::unsupported(format!(
                "virtio (non-)transitional models are not supported for input type={kind}"
            )));
        }
        Ok(())
    })
}

pub(super) fn iommu(guest: &Guest<'_>) -> Result<()> {
    let Some(iommu) = &guest.def.devices.iommu else {
        return Ok(());
    };
    match iommu.model {
        IommuModel::Smmuv3 => {
            let message = "IOMMU device: 'smmuv3' is only supported with ARM Virt machines";
            return Err(Error::unsupported(message));
        }
        IommuModel::Intel if guest.machine != MachineKind::Q35 => {
            let message = "IOMMU device: 'intel' is only supported with Q35 machines";
            return Err(Error::unsupported(message));
        }
        _ => {}
    }
    if iommu.model != IommuModel::Virtio {
        return Ok(());
    }
    if guest.machine != MachineKind::Q35 {
        return Err(Error::unsupported(
            "IOMMU device: 'virtio' is only supported with Q35 and ARM Virt machines",
        ));
    }
    if !guest.def.features.as_ref().is_some_and(|f| f.acpi) {
        return Err(Error::unsupported("IOMMU device: 'virtio' requires ACPI"));
    }
    Ok(())
}
