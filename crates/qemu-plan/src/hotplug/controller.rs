//! Controllers.

use domxml::Domain;
use domxml::devices::{Address, Controller, ControllerKind, Device, DeviceInfo, Devices, DiskBus, PciModel};

use super::{Rules, Side, first, invalid, missing};
use crate::error::{Area, Code, Error, Result};

impl Rules for Controller {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        match side {
            Side::Live => live(def, self),
            Side::Stored => stored(def, self),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        if side == Side::Live {
            of_scsi(self)?;
        }
        let (kind, index) = (self.kind, self.index);
        let is_meant = |c: &Controller| c.kind == kind && c.index == index;
        first(&devices.controllers, is_meant, || match side {
            Side::Live => missing(format!(
                "controller {}:{} not found",
                kind.as_str(),
                index.map_or(-1, i64::from)
            )),
            Side::Stored => missing("device not present in domain configuration"),
        })
    }

    fn detach(&self, devices: &Devices) -> Result<()> {
        removable(devices, self)
    }
}

/// A PCI controller gets its model with the guest, and a bridge its name in QEMU with its address: alone it has none, and
/// libvirt refuses it.
///
/// # Errors
/// Libvirt's.
pub(super) fn check_bridge(device: &Device) -> Result<()> {
    let Device::Controller(controller) = device else {
        return Ok(());
    };
    if controller.kind == ControllerKind::Pci && controller.model.is_none() {
        let message = "Unexpected enum value -1 for virDomainControllerModelPCI";
        return Err(Error::new(Code::Internal, Area::Qemu, message));
    }
    let Some(model) = controller.pci_model().filter(|model| !is_root(*model)) else {
        return Ok(());
    };
    let index = controller.index.map_or(-1, i64::from);
    Err(Error::new(
        Code::Internal,
        Area::Qemu,
        format!(
            "Required option 'modelName' is not set for PCI controller with index '{index}', model '{}' and modelName 'none'",
            model.as_str()
        ),
    ))
}

fn is_root(model: PciModel) -> bool {
    matches!(model, PciModel::PciRoot | PciModel::PcieRoot)
}

fn live(def: &Domain, controller: &Controller) -> Result<()> {
    let kind = controller.kind.as_str();
    if !matches!(
        controller.kind,
        ControllerKind::Scsi | ControllerKind::VirtioSerial
    ) {
        return Err(Error::not_pluggable(format!(
            "'{kind}' controller cannot be hot plugged."
        )));
    }
    let index = controller.index.unwrap_or(0);
    if has(def, controller.kind, index) {
        let message = format!("target {kind}:{index} already exists");
        return Err(Error::new(Code::OperationFailed, Area::Qemu, message));
    }
    Ok(())
}

fn stored(def: &Domain, controller: &Controller) -> Result<()> {
    match controller.index {
        Some(index) if has(def, controller.kind, index) => {
            Err(invalid(format!("controller index='{index}' already exists")))
        }
        _ => Ok(()),
    }
}

/// Whether the guest has a controller.
pub(super) fn has(def: &Domain, kind: ControllerKind, index: u32) -> bool {
    let mut all = def.devices.controllers.iter();
    all.any(|c| c.kind == kind && c.index == Some(index))
}

/// Controllers of other kinds don't leave a running guest, whether they are there or not.
fn of_scsi(controller: &Controller) -> Result<()> {
    match controller.kind {
        ControllerKind::Scsi => Ok(()),
        kind => Err(Error::not_pluggable(format!(
            "'{}' controller cannot be hot unplugged.",
            kind.as_str()
        ))),
    }
}

fn removable(devices: &Devices, controller: &Controller) -> Result<()> {
    of_scsi(controller)?;
    let on_it = |info: &DeviceInfo| match &info.address {
        Some(Address::Drive(a)) => Some(a.controller) == controller.index,
        _ => false,
    };
    let disks = devices
        .disks
        .iter()
        .filter(|d| d.target.bus == Some(DiskBus::Scsi))
        .map(|d| &d.info);
    let hostdevs = devices.hostdevs.iter().map(|h| &h.info);
    if disks.chain(hostdevs).any(on_it) {
        let message = "device cannot be detached: device is busy";
        return Err(Error::new(Code::OperationFailed, Area::Qemu, message));
    }
    Ok(())
}
