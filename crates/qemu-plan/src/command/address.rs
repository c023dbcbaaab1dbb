//! Where a device goes, as QEMU's `bus`, `addr`, `port` and the like; and the option ROM.

use domxml::devices::address::{Address, IsaAddress, PciAddress, UsbAddress};
use domxml::devices::common::{OnOff, VirtioModel, VirtioOptions, YesNo};
use domxml::devices::controller::{ControllerKind, PciModel};
use domxml::devices::info::DeviceInfo;

use super::context::{Context, alias};
use crate::error::{Area, Code};
use crate::props::Props;
use crate::{Error, Result};

/// Appends the address of a device. Addresses that are part of a device's own properties (drive,
/// virtio-serial, smart card) add nothing here.
///
/// # Errors
/// When the bus is not there.
pub fn put(cx: Context<'_>, info: &DeviceInfo, props: &mut Props) -> Result<()> {
    match &info.address {
        Some(Address::Pci(pci)) => put_pci(cx, info, pci, props),
        Some(Address::Usb(usb)) => put_usb(cx, usb, props),
        Some(Address::SpaprVio(vio)) => {
            props.opt("reg", vio.reg);
            Ok(())
        }
        Some(Address::Ccw(ccw)) => {
            let place = ccw
                .place
                .map(|place| format!("{:x}.{:x}.{:04x}", place.cssid, place.ssid, place.devno));
            props.opt("devno", place);
            Ok(())
        }
        Some(Address::Isa(IsaAddress { iobase, irq })) => {
            props.opt("iobase", *iobase).opt("irq", *irq);
            Ok(())
        }
        Some(Address::Dimm(dimm)) => {
            props.set("slot", dimm.slot).opt("addr", dimm.base);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn put_pci(cx: Context<'_>, info: &DeviceInfo, pci: &PciAddress, props: &mut Props) -> Result<()> {
    let addr = match pci.function {
        0 => format!("0x{:x}", pci.slot),
        function => format!("0x{:x}.0x{function:x}", pci.slot),
    };
    props
        .set("bus", pci_bus(cx, pci.bus)?)
        .opt("multifunction", pci.multifunction.map(OnOff::is_on))
        .set("addr", addr)
        .opt("acpi-index", info.acpi_index.filter(|index| *index != 0));
    Ok(())
}

/// QEMU's name of a PCI bus.
fn pci_bus(cx: Context<'_>, bus: u32) -> Result<String> {
    let controller = cx.controller(ControllerKind::Pci, bus).ok_or_else(|| {
        Error::internal_qemu(format!(
            "Could not find PCI controller with index {bus} required for device"
        ))
    })?;
    // The machine names its root bus, whatever a user calls it.
    match (bus, controller.pci_model()) {
        (0, Some(PciModel::PciRoot)) => Ok("pci.0".to_owned()),
        (0, Some(PciModel::PcieRoot)) => Ok("pcie.0".to_owned()),
        _ => alias(&controller.info).map(str::to_owned),
    }
}

fn put_usb(cx: Context<'_>, usb: &UsbAddress, props: &mut Props) -> Result<()> {
    let bus = format!("{}.0", cx.controller_alias(ControllerKind::Usb, usb.bus)?);
    props
        .set("bus", bus)
        .opt("port", usb.port.map(|port| port.to_string()));
    Ok(())
}

/// Appends `rombar` and `romfile`.
pub fn put_rom(info: &DeviceInfo, props: &mut Props) {
    let Some(rom) = &info.rom else { return };
    if rom.enabled == Some(YesNo::No) {
        props.set("romfile", "");
        return;
    }
    props
        .opt("rombar", rom.bar.map(|bar| u32::from(bar.is_on())))
        .opt("romfile", rom.file.clone());
}

/// Virtio front end: its name with the suffixes of bus and generation, then its transport options.
///
/// # Errors
/// When the device has no address that virtio can use.
pub fn virtio(base: &str, info: &DeviceInfo, virtio: Virtio<'_>) -> Result<Props> {
    let mut props = Props::driver(virtio_name(base, info, virtio.model)?);
    if let Some(options) = virtio.options {
        props
            .opt("iommu_platform", options.iommu.map(OnOff::is_on))
            .opt("ats", options.ats.map(OnOff::is_on))
            .opt("packed", options.packed.map(OnOff::is_on))
            .opt("page-per-vq", options.page_per_vq.map(OnOff::is_on));
    }
    Ok(props)
}

/// What a document says about a virtio device's transport.
#[derive(Debug, Clone, Copy, Default)]
pub struct Virtio<'a> {
    /// Generation.
    pub model: Option<VirtioModel>,
    /// Options of the transport.
    pub options: Option<&'a VirtioOptions>,
}

impl<'a> Virtio<'a> {
    /// From a device's parts.
    pub fn new(model: Option<VirtioModel>, options: Option<&'a VirtioOptions>) -> Self {
        Self { model, options }
    }

    /// Of a device that has no generations.
    pub fn options(options: Option<&'a VirtioOptions>) -> Self {
        Self { model: None, options }
    }
}

fn virtio_name(base: &str, info: &DeviceInfo, model: Option<VirtioModel>) -> Result<String> {
    let bus = match &info.address {
        Some(Address::Pci(_)) => "-pci",
        Some(Address::Ccw(_)) => "-ccw",
        Some(Address::VirtioMmio) => "-device",
        _ => {
            let text = format!("Unexpected address type for '{base}'");
            return Err(Error::new(Code::Internal, Area::Qemu, text));
        }
    };
    let generation = match model {
        Some(VirtioModel::Transitional) => "-transitional",
        Some(VirtioModel::NonTransitional) => "-non-transitional",
        Some(VirtioModel::Virtio) | None => "",
    };
    Ok(format!("{base}{bus}{generation}"))
}
