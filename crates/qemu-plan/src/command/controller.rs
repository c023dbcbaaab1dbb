//! `-device` of controllers. Buses that a machine has built in get none.

use domxml::devices::common::{IoThreads, OnOff};
use domxml::devices::controller::{
    Controller, ControllerDriver, ControllerKind, PciModel, PciModelName, ScsiModel, UsbModel,
};
use serde_json::{Value, json};

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::facts::size;
use crate::props::Props;
use crate::{Error, Result};
use domxml::devices::common::VirtioModel;

/// Kinds of controllers in the order they are given to QEMU. The others are built in.
const ORDER: [ControllerKind; 6] = [
    ControllerKind::Pci,
    ControllerKind::Usb,
    ControllerKind::Scsi,
    ControllerKind::Ide,
    ControllerKind::Sata,
    ControllerKind::VirtioSerial,
];

/// QEMU's USB controllers, and whether the number of ports can be chosen.
const USB: [(UsbModel, &str, bool); 13] = [
    (UsbModel::Piix3Uhci, "piix3-usb-uhci", false),
    (UsbModel::Piix4Uhci, "piix4-usb-uhci", false),
    (UsbModel::Ehci, "usb-ehci", false),
    (UsbModel::Ich9Ehci1, "ich9-usb-ehci1", false),
    (UsbModel::Ich9Uhci1, "ich9-usb-uhci1", false),
    (UsbModel::Ich9Uhci2, "ich9-usb-uhci2", false),
    (UsbModel::Ich9Uhci3, "ich9-usb-uhci3", false),
    (UsbModel::Vt82c686bUhci, "vt82c686b-usb-uhci", false),
    (UsbModel::PciOhci, "pci-ohci", false),
    (UsbModel::NecXhci, "nec-usb-xhci", true),
    (UsbModel::Qusb1, "qusb1", false),
    (UsbModel::Qusb2, "qusb2", false),
    (UsbModel::QemuXhci, "qemu-xhci", true),
];

/// QEMU's SCSI controllers that are not virtio.
const SCSI: [(ScsiModel, &str); 7] = [
    (ScsiModel::Lsilogic, "lsi"),
    (ScsiModel::Lsisas1068, "mptsas1068"),
    (ScsiModel::Lsisas1078, "megasas"),
    (ScsiModel::Vmpvscsi, "pvscsi"),
    (ScsiModel::Ibmvscsi, "spapr-vscsi"),
    (ScsiModel::Dc390, "dc-390"),
    (ScsiModel::Am53c974, "am53c974"),
];

/// Appends controllers other than smart card readers, and what is global to their kind.
///
/// # Errors
/// When QEMU has no such controller.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    hole64(cx, line);
    ORDER.into_iter().try_for_each(|kind| build_kind(cx, kind, line))
}

/// Appends smart card readers.
///
/// # Errors
/// When their bus is not there.
pub fn build_readers(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    build_kind(cx, ControllerKind::Ccid, line)
}

fn build_kind(cx: Context<'_>, kind: ControllerKind, line: &mut CommandLine) -> Result<()> {
    for controller in cx
        .def
        .devices
        .controllers
        .iter()
        .filter(|controller| controller.kind == kind)
    {
        if let Some(props) = props(cx, controller)? {
            line.device(props);
        }
    }
    Ok(())
}

/// Size of the window above 4 GiB for PCI devices' memory.
fn hole64(cx: Context<'_>, line: &mut CommandLine) {
    for controller in &cx.def.devices.controllers {
        let Some(size) = &controller.pcihole64 else {
            continue;
        };
        let host = match controller.pci_model() {
            Some(PciModel::PcieRoot) => "q35-pcihost",
            _ => "i440FX-pcihost",
        };
        let kib = size::kib(size.value, size.unit.as_deref().unwrap_or("KiB")).unwrap_or_default();
        line.push("-global", format!("{host}.pci-hole64-size={kib}K"));
    }
}

/// Properties of a controller; `None` when the machine has it built in.
///
/// # Errors
/// When QEMU has no such controller.
pub fn props(cx: Context<'_>, controller: &Controller) -> Result<Option<Props>> {
    let index = controller.index.unwrap_or_default();
    let props = match controller.kind {
        ControllerKind::Pci => pci(controller)?,
        ControllerKind::Usb => usb(cx, controller)?,
        ControllerKind::Scsi => scsi(controller)?,
        ControllerKind::Ide => ide(cx, index)?,
        ControllerKind::Sata if index == 0 && cx.is_q35() => None,
        ControllerKind::Sata => Some(Props::driver("ahci").with("id", alias(&controller.info)?)),
        ControllerKind::VirtioSerial => Some(virtio_serial(controller)?),
        ControllerKind::Ccid => Some(Props::driver("usb-ccid").with("id", alias(&controller.info)?)),
        _ => None,
    };
    let Some(mut props) = props else {
        return Ok(None);
    };
    address::put(cx, &controller.info, &mut props)?;
    Ok(Some(props))
}

fn ide(cx: Context<'_>, index: u32) -> Result<Option<Props>> {
    if index == 0 && cx.is_i440fx() {
        return Ok(None);
    }
    Err(Error::unsupported(
        "Only a single IDE controller is supported for this machine type",
    ))
}

fn pci(controller: &Controller) -> Result<Option<Props>> {
    let model = controller
        .pci_model()
        .ok_or_else(|| Error::internal_qemu("missing model of a PCI controller"))?;
    if matches!(model, PciModel::PciRoot | PciModel::PcieRoot) {
        return Ok(None);
    }
    let target = controller.target.clone().unwrap_or_default();
    let id = alias(&controller.info)?;
    let mut props = Props::driver(
        controller
            .model_name
            .unwrap_or_else(|| default_name(model))
            .as_str(),
    );
    match model {
        PciModel::PciBridge => {
            props.opt("chassis_nr", target.chassis_nr);
        }
        PciModel::PcieRootPort | PciModel::PcieSwitchDownstreamPort => {
            props.opt("port", target.port).opt("chassis", target.chassis);
        }
        PciModel::PciExpanderBus | PciModel::PcieExpanderBus => {
            props.opt("bus_nr", target.bus_nr);
        }
        _ => {}
    }
    let reserved = target.mem_reserve.and_then(|kib| kib.checked_mul(1024));
    let (before, after) = match model {
        PciModel::PcieRootPort => (None, reserved),
        _ => (reserved, None),
    };
    props
        .opt("mem-reserve", before)
        .set("id", id)
        .opt("mem-reserve", after)
        .opt("hotplug", target.hotplug.map(OnOff::is_on))
        .opt("numa_node", target.node);
    Ok(Some(props))
}

fn default_name(model: PciModel) -> PciModelName {
    match model {
        PciModel::PciBridge => PciModelName::PciBridge,
        PciModel::DmiToPciBridge => PciModelName::I82801b11Bridge,
        PciModel::PcieToPciBridge => PciModelName::PciePciBridge,
        PciModel::PcieSwitchUpstreamPort => PciModelName::X3130Upstream,
        PciModel::PcieSwitchDownstreamPort => PciModelName::Xio3130Downstream,
        PciModel::PciExpanderBus => PciModelName::Pxb,
        PciModel::PcieExpanderBus => PciModelName::PxbPcie,
        PciModel::PciRoot | PciModel::PcieRoot | PciModel::PcieRootPort => PciModelName::PcieRootPort,
    }
}

fn usb(cx: Context<'_>, controller: &Controller) -> Result<Option<Props>> {
    let model = controller.usb_model().unwrap_or(UsbModel::Piix3Uhci);
    if model == UsbModel::None {
        return Ok(None);
    }
    let (_, driver, has_ports) = USB
        .into_iter()
        .find(|(known, ..)| *known == model)
        .ok_or_else(|| {
            Error::unsupported(format!(
                "'{}' is not supported by this QEMU binary",
                model.as_str()
            ))
        })?;
    let mut props = Props::driver(driver);
    if let Some(ports) = controller.ports.filter(|_| has_ports) {
        props.set("p2", ports).set("p3", ports);
    }
    match &controller.info.master {
        Some(master) => {
            let index = controller.index.unwrap_or_default();
            let bus = cx
                .def
                .devices
                .controllers
                .iter()
                .find(|other| {
                    other.kind == ControllerKind::Usb
                        && other.index.unwrap_or_default() == index
                        && other.info.master.is_none()
                })
                .ok_or_else(|| Error::internal_qemu("masterbus not found"))?;
            props
                .set("masterbus", format!("{}.0", alias(&bus.info)?))
                .set("firstport", master.startport);
        }
        None => {
            props.set("id", alias(&controller.info)?);
        }
    }
    Ok(Some(props))
}

fn scsi(controller: &Controller) -> Result<Option<Props>> {
    let model = controller.scsi_model().unwrap_or(ScsiModel::Auto);
    let driver = controller.driver.clone().unwrap_or_default();
    let generation = match model {
        ScsiModel::VirtioScsi => Some(VirtioModel::Virtio),
        ScsiModel::VirtioTransitional => Some(VirtioModel::Transitional),
        ScsiModel::VirtioNonTransitional => Some(VirtioModel::NonTransitional),
        ScsiModel::Ncr53c90 => return Ok(None),
        _ => None,
    };
    let mut props = match generation {
        Some(generation) => {
            let transport = Virtio::new(Some(generation), Some(&driver.virtio));
            let mut props = address::virtio("virtio-scsi", &controller.info, transport)?;
            props.opt(
                "iothread",
                driver.iothread.map(|number| format!("iothread{number}")),
            );
            props
        }
        None => Props::driver(scsi_driver(model)?),
    };
    props.set("id", alias(&controller.info)?);
    put_scsi_tuning(&driver, &mut props);
    Ok(Some(props))
}

fn scsi_driver(model: ScsiModel) -> Result<&'static str> {
    SCSI.iter()
        .find(|(known, _)| *known == model)
        .map(|(_, name)| *name)
        .ok_or_else(|| Error::unsupported(format!("Unsupported controller model: {}", model.as_str())))
}

fn put_scsi_tuning(driver: &ControllerDriver, props: &mut Props) {
    props
        .opt("num_queues", driver.queues.filter(|queues| *queues != 0))
        .opt("cmd_per_lun", driver.cmd_per_lun.filter(|value| *value != 0))
        .opt("max_sectors", driver.max_sectors.filter(|value| *value != 0))
        .opt("ioeventfd", driver.ioeventfd.map(OnOff::is_on))
        .opt(
            "iothread-vq-mapping",
            driver.iothreads.as_ref().and_then(queue_mapping),
        );
}

/// Which I/O threads serve which queues.
pub fn queue_mapping(threads: &IoThreads) -> Option<Value> {
    let mapping: Vec<_> = threads
        .threads
        .iter()
        .map(|thread| {
            let mut entry = json!({"iothread": format!("iothread{}", thread.id)});
            let queues: Vec<_> = thread.queues.iter().map(|queue| queue.id).collect();
            if !queues.is_empty() {
                entry["vqs"] = json!(queues);
            }
            entry
        })
        .collect();
    (!mapping.is_empty()).then_some(Value::Array(mapping))
}

fn virtio_serial(controller: &Controller) -> Result<Props> {
    let model = match controller.model.as_deref() {
        Some("virtio-transitional") => Some(VirtioModel::Transitional),
        Some("virtio-non-transitional") => Some(VirtioModel::NonTransitional),
        _ => None,
    };
    let options = controller.driver.as_ref().map(|driver| &driver.virtio);
    let mut props = match &controller.info.address {
        Some(domxml::devices::address::Address::SpaprVio(_)) => Props::driver("spapr-vty"),
        _ => address::virtio("virtio-serial", &controller.info, Virtio::new(model, options))?,
    };
    props
        .set("id", alias(&controller.info)?)
        .opt("max_ports", controller.ports)
        .opt("vectors", controller.vectors);
    Ok(props)
}
