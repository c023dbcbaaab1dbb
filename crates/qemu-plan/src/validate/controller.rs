//! Controllers.

use domxml::devices::{Controller, ControllerKind, ScsiModel, UsbModel};

use super::Guest;
use super::options::Virtio;
use crate::error::{Area, Code, Error, Result};
use crate::facts::MachineKind;

/// Most ports of QEMU's own xHCI controller.
const XHCI_PORTS: u32 = 15;

pub(super) fn options(guest: &Guest<'_>) -> Result<()> {
    guest.def.devices.controllers.iter().try_for_each(|c| {
        if c.usb_model() == Some(UsbModel::QemuXhci) && c.ports.is_some_and(|p| p > XHCI_PORTS) {
            return Err(Error::unsupported(format!(
                "'qemu-xhci' controller only supports up to '{XHCI_PORTS}' ports"
            )));
        }
        if c.scsi_model() == Some(ScsiModel::Buslogic) {
            return Err(Error::unsupported("Unsupported controller model: buslogic"));
        }
        if c.kind == ControllerKind::Ide {
            ide(guest, c)?;
        }
        upstream(c)?;
        let virtio = is_virtio_scsi(c);
        let threaded = c.driver.as_ref().is_some_and(|d| d.iothread.is_some());
        if threaded && !virtio {
            return Err(Error::xml(
                "'iothread' attribute only supported for virtio scsi controllers",
            ));
        }
        if c.kind == ControllerKind::Scsi {
            let virtio = if virtio { Virtio::Yes } else { Virtio::No };
            super::options::controller(guest, c, virtio)?;
        }
        Ok(())
    })
}

/// The one IDE controller is part of the chipset of old machines.
fn ide(guest: &Guest<'_>, c: &Controller) -> Result<()> {
    if guest.machine != MachineKind::I440fx {
        return Err(Error::unsupported(
            "IDE controllers are unsupported for this QEMU binary or machine type",
        ));
    }
    if c.index.is_some_and(|i| i > 0) {
        return Err(Error::unsupported(
            "Only a single IDE controller is supported for this machine type",
        ));
    }
    Ok(())
}

/// A bridge is plugged into a bus that comes before its own.
fn upstream(c: &Controller) -> Result<()> {
    let (Some(index), Some(address)) = (c.index, c.info.pci()) else {
        return Ok(());
    };
    if c.kind == ControllerKind::Pci && address.bus >= index && index > 0 {
        let bus = address.bus;
        return Err(Error::unsupported(format!(
            "PCI controller at index {index} ({index:#04x}) has bus='{bus:#04x}', but index must be larger than bus"
        )));
    }
    Ok(())
}

/// Companions serve the ports of a leader.
pub(crate) fn usb_leaders(all: &[Controller]) -> Result<()> {
    let mut usb = all.iter().filter(|c| c.kind == ControllerKind::Usb).peekable();
    if usb.peek().is_some() && usb.all(|c| c.info.master.is_some()) {
        return Err(Error::detail("No master USB controller specified"));
    }
    Ok(())
}

fn is_virtio_scsi(c: &Controller) -> bool {
    const VIRTIO: [ScsiModel; 3] = [
        ScsiModel::VirtioScsi,
        ScsiModel::VirtioTransitional,
        ScsiModel::VirtioNonTransitional,
    ];
    c.kind == ControllerKind::Scsi && c.scsi_model().is_some_and(|m| VIRTIO.contains(&m))
}

/// An expander bus belongs to a cell of the guest.
pub(super) fn expanders(guest: &Guest<'_>) -> Result<()> {
    let cells = guest
        .def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map_or(0, |n| n.cells.len());
    guest.def.devices.controllers.iter().try_for_each(|c| {
        let node = c.target.as_ref().and_then(|t| t.node).filter(|n| *n as usize >= cells);
        let model = match c.model.as_deref() {
            Some(m @ ("pci-expander-bus" | "pcie-expander-bus")) => m,
            _ => return Ok(()),
        };
        match node {
            None => Ok(()),
            Some(node) => {
                let index = c.index.unwrap_or(0);
                let message = format!(
                    "{model} with index {index} is configured for a NUMA node ({node}) not present in the domain's <cpu><numa> array ({cells})"
                );
                Err(Error::new(Code::Xml, Area::Qemu, message))
            }
        }
    })
}
