//! Controllers, other than what PCI controllers are asked for.

use domxml::devices::{Address, Controller, ControllerKind, PciModel, ScsiModel, UsbModel};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::Result;
use crate::facts::MachineKind;

/// Most ports of an xHCI controller.
const XHCI_PORTS: u32 = 15;

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, controller: &Controller) -> Result<()> {
    if controller.kind == ControllerKind::Pci {
        check(PCI, guest, controller)?;
    }
    check(ANY, guest, controller)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, controller: &Controller) -> Result<()> {
    check(MODEL, guest, controller)?;
    check(OPTIONS, guest, controller)?;
    if let Some(mapping) = controller.driver.as_ref().and_then(|d| d.iothreads.as_ref()) {
        let queues = controller.driver.as_ref().and_then(|d| d.queues);
        super::threads::mapping(guest, mapping, queues.unwrap_or(0))?;
    }
    if controller.kind == ControllerKind::Pci {
        super::pci::options(guest, controller)?;
    }
    check(SATA, guest, controller)
}

/// What is wrong with a controller before anything is placed on it.
pub(in crate::validate) fn early(guest: &Guest<'_>, controller: &Controller) -> Result<()> {
    check(EARLY, guest, controller)
}

rules! {
    /// Controllers that no address can be given to.
    EARLY(guest, c: Controller) {
        unsupported "USB controller model type 'qusb1' or 'qusb2' is not supported in {}"
            (guest.def.kind.as_str())
            if matches!(c.usb_model(), Some(UsbModel::Qusb1 | UsbModel::Qusb2));
        unsupported "'{}' controller only supports up to '{}' ports"
            (c.model.as_deref().unwrap_or_default(), XHCI_PORTS)
            if matches!(c.usb_model(), Some(UsbModel::QemuXhci | UsbModel::NecXhci))
                && c.ports.is_some_and(|p| p > XHCI_PORTS);
        xml_qemu "pci-root and pcie-root controllers should have index 0"
            if matches!(c.pci_model(), Some(PciModel::PciRoot | PciModel::PcieRoot))
                && c.index.is_some_and(|i| i > 0) && !guest.is_pseries();
        unsupported "pci-expander-bus controllers are only supported on 440fx-based machinetypes"
            if c.pci_model() == Some(PciModel::PciExpanderBus) && guest.machine != MachineKind::I440fx;
        unsupported "pcie-expander-bus controllers are not supported with this machine type"
            if c.pci_model() == Some(PciModel::PcieExpanderBus)
                && guest.machine != MachineKind::Q35 && !guest.is_arm_virt();
        xml_qemu "{} with index {} is configured for a NUMA node ({}) not present in the domain's <cpu><numa> array ({})"
            (c.model.as_deref().unwrap_or_default(), c.index.unwrap_or_default(), node(c).unwrap_or_default(), guest.cells().len())
            if node(c).is_some_and(|n| n as usize >= guest.cells().len());
        xml "'iothread' attribute only supported for virtio scsi controllers"
            if c.driver.as_ref().is_some_and(|d| d.iothread.is_some()) && !is_virtio_scsi(c);
    }
}

rules! {
    /// Numbers of PCI controllers.
    PCI(guest, c: Controller) {
        conflicting "pci-root and pcie-root controllers should not have an address"
            if matches!(c.pci_model(), Some(PciModel::PciRoot | PciModel::PcieRoot))
                && c.info.address.is_some();
        conflicting "PCI controller index {} too high, maximum is 255" (c.index.unwrap_or_default())
            if c.index.is_some_and(|i| i > 255);
        conflicting "PCI controller target index '{}' out of range - must be 0-30"
            (target(c, |t| t.index).unwrap_or_default())
            if target(c, |t| t.index).is_some_and(|i| i > 30);
        conflicting "Only the PCI controller with index 0 can have target index 0, and vice versa"
            if target(c, |t| t.index).is_some_and(|i| (i == 0) != (c.index.unwrap_or(0) == 0));
        conflicting "PCI controller chassisNr '{}' out of range - must be 1-255"
            (target(c, |t| t.chassis_nr).unwrap_or_default())
            if target(c, |t| t.chassis_nr).is_some_and(|n| !(1..=255).contains(&n));
        conflicting "PCI controller chassis '{}' out of range - must be 0-255"
            (target(c, |t| t.chassis).unwrap_or_default())
            if target(c, |t| t.chassis).is_some_and(|n| n > 255);
        conflicting "PCI controller port '{}' out of range - must be 0-255"
            (target(c, |t| t.port).unwrap_or_default())
            if target(c, |t| t.port).is_some_and(|n| n > 255);
        conflicting "PCI controller busNr '{}' out of range - must be 1-254"
            (target(c, |t| t.bus_nr).unwrap_or_default())
            if target(c, |t| t.bus_nr).is_some_and(|n| !(1..=254).contains(&n));
        conflicting "The PCI controller with index=0 can't be associated with a NUMA node"
            if c.index.unwrap_or(0) == 0 && node(c).is_some();
    }
}

rules! {
    /// Threads are virtio-scsi's.
    ANY(guest, c: Controller) {
        conflicting "iothreads are supported only by 'virtio-scsi' controllers"
            if !is_virtio_scsi(c) && c.driver.as_ref().is_some_and(|d| d.iothread.is_some()
                || d.iothreads.is_some());
        xml "controller driver 'iothread' attribute can't be used together with 'iothreads' subelement"
            if c.driver.as_ref().is_some_and(|d| d.iothread.is_some() && d.iothreads.is_some());
    }
}

/// What each model of SCSI controller needs of QEMU, and its name in messages.
// table
const SCSI: &[(&[ScsiModel], Flag, &str)] = &[
    (
        &[ScsiModel::Lsilogic],
        Flag::Lsi,
        "the LSI 53C895A SCSI controller",
    ),
    (
        &[
            ScsiModel::VirtioScsi,
            ScsiModel::VirtioTransitional,
            ScsiModel::VirtioNonTransitional,
        ],
        Flag::VirtioScsiPci,
        "virtio scsi controller",
    ),
    (
        &[ScsiModel::Lsisas1068],
        Flag::Mptsas1068,
        "the LSI SAS1068 (MPT Fusion) controller",
    ),
    (
        &[ScsiModel::Lsisas1078],
        Flag::Megasas,
        "the LSI SAS1078 (MegaRAID) controller",
    ),
    (
        &[ScsiModel::Vmpvscsi],
        Flag::Pvscsi,
        "the pvscsi (VMware paravirtual SCSI) controller",
    ),
    (
        &[ScsiModel::Ncr53c90],
        Flag::Ncr53c90,
        "the NCR53C90 (ESP) controller",
    ),
    (&[ScsiModel::Dc390], Flag::Dc390, "the DC390 (ESP) controller"),
    (
        &[ScsiModel::Am53c974],
        Flag::Am53c974,
        "the AM53C974 (ESP) controller",
    ),
];

rules! {
    /// Models that this QEMU has not.
    MODEL(guest, c: Controller) {
        unsupported "This QEMU doesn't support {}" (missing(guest, c).unwrap_or_default())
            if missing(guest, c).is_some();
        unsupported "Unsupported controller model: {}" (c.model.as_deref().unwrap_or_default())
            if c.scsi_model() == Some(ScsiModel::Buslogic);
    }
}

rules! {
    /// What is virtio-scsi's alone, and what chipsets have.
    OPTIONS(guest, c: Controller) {
        unsupported "'{}' is only supported by virtio-scsi controller" (scsi_option(c).unwrap_or_default())
            if !is_virtio_scsi(c) && scsi_option(c).is_some();
        unsupported "Only a single IDE controller is supported for this machine type"
            if c.kind == ControllerKind::Ide && has_ide(guest) && c.index.is_some_and(|i| i > 0);
        unsupported "IDE controllers are unsupported for this QEMU binary or machine type"
            if c.kind == ControllerKind::Ide && !has_ide(guest);
        unsupported "ncr53c90 can only be used as first SCSI controller"
            if c.scsi_model() == Some(ScsiModel::Ncr53c90) && c.index.is_some_and(|i| i > 0);
        unsupported "ncr53c90 SCSI controller is not a built-in for this machine"
            if c.scsi_model() == Some(ScsiModel::Ncr53c90) && !guest.arch().starts_with("sparc");
        unsupported "virtio-scsi IOThreads only available for virtio pci and virtio ccw controllers"
            if threaded(c) && c.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_) | Address::Ccw(_)));
        unsupported "IOThread mapping for virtio-scsi controllers is not available with this QEMU binary"
            if c.driver.as_ref().is_some_and(|d| d.iothreads.is_some())
                && !guest.caps.has(Flag::VirtioScsiIothreadMapping);
        unsupported "controller iothread '{}' not defined in iothreadid"
            (c.driver.as_ref().and_then(|d| d.iothread).unwrap_or_default())
            if c.driver.as_ref().and_then(|d| d.iothread).is_some_and(|id| !guest.iothreads().contains(&id));
    }
}

rules! {
    /// The chipset's own SATA is always there.
    SATA(guest, c: Controller) {
        unsupported "SATA is not supported with this QEMU binary"
            if c.kind == ControllerKind::Sata && !guest.caps.has(Flag::Ich9Ahci)
                && (c.index.is_some_and(|i| i > 0) || guest.machine != MachineKind::Q35);
    }
}

pub(in crate::validate) fn is_virtio_scsi(c: &Controller) -> bool {
    const VIRTIO: [ScsiModel; 3] = [
        ScsiModel::VirtioScsi,
        ScsiModel::VirtioTransitional,
        ScsiModel::VirtioNonTransitional,
    ];
    c.scsi_model().is_some_and(|m| VIRTIO.contains(&m))
}

fn missing(guest: &Guest<'_>, c: &Controller) -> Option<&'static str> {
    let model = c.scsi_model()?;
    let row = SCSI.iter().find(|(models, ..)| models.contains(&model))?;
    (!guest.caps.has(row.1)).then_some(row.2)
}

fn scsi_option(c: &Controller) -> Option<&'static str> {
    let driver = c.driver.as_ref()?;
    let options = [
        ("queues", driver.queues.is_some_and(|n| n > 0)),
        ("cmd_per_lun", driver.cmd_per_lun.is_some_and(|n| n > 0)),
        ("max_sectors", driver.max_sectors.is_some_and(|n| n > 0)),
        ("ioeventfd", driver.ioeventfd.is_some()),
    ];
    options.iter().find(|(_, given)| *given).map(|(name, _)| *name)
}

fn threaded(c: &Controller) -> bool {
    c.driver
        .as_ref()
        .is_some_and(|d| d.iothread.is_some() || d.iothreads.is_some())
}

/// Whether the chipset has IDE.
fn has_ide(guest: &Guest<'_>) -> bool {
    guest.machine == MachineKind::I440fx || ["malta", "sun4u", "g3beige"].contains(&guest.machine_name())
}

fn target(c: &Controller, value: fn(&domxml::devices::ControllerTarget) -> Option<u32>) -> Option<u32> {
    c.target.as_ref().and_then(value)
}

fn node(c: &Controller) -> Option<u32> {
    target(c, |t| t.node)
}
