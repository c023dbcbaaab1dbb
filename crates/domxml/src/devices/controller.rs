//! `<controller>`.

use xmlform::Xml;

use super::common::{IoThreads, OnOff, Size, VirtioOptions, words};
use super::info::DeviceInfo;

words! {
    /// Bus a controller provides.
    ControllerKind {
        Ide "ide", Fdc "fdc", Scsi "scsi", Sata "sata", VirtioSerial "virtio-serial",
        Ccid "ccid", Usb "usb", Pci "pci", Xenbus "xenbus", Isa "isa",
    }
}

/// A controller of the guest.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Controller {
    #[xml(attr = "type")]
    pub kind: ControllerKind,
    /// Number among the controllers of its kind; chosen when absent.
    #[xml(attr)]
    pub index: Option<u32>,
    /// Model, in words of its kind: see `pci_model`, `usb_model`, `scsi_model`.
    #[xml(attr)]
    pub model: Option<String>,
    #[xml(attr)]
    pub ports: Option<u32>,
    #[xml(attr)]
    pub vectors: Option<u32>,
    #[xml(attr = "maxGrantFrames")]
    pub max_grant_frames: Option<u32>,
    #[xml(attr = "maxEventChannels")]
    pub max_event_channels: Option<u32>,
    /// Name of the QEMU device behind a PCI controller's model.
    #[xml(attr = "name", wrap = "model", lax)]
    pub model_name: Option<PciModelName>,
    #[xml(child)]
    pub target: Option<ControllerTarget>,
    #[xml(child, blank)]
    pub pcihole64: Option<Size>,
    #[xml(child)]
    pub driver: Option<ControllerDriver>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<target>` of a PCI controller.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct ControllerTarget {
    #[xml(attr = "chassisNr", format = "auto")]
    pub chassis_nr: Option<u32>,
    #[xml(attr, format = "auto")]
    pub chassis: Option<u32>,
    #[xml(attr, format = "hex")]
    pub port: Option<u32>,
    #[xml(attr = "busNr", format = "auto")]
    pub bus_nr: Option<u32>,
    #[xml(attr, format = "auto")]
    pub index: Option<u32>,
    #[xml(attr)]
    pub hotplug: Option<OnOff>,
    /// Prefetchable memory to reserve behind the bridge, KiB.
    #[xml(attr = "memReserve", format = "auto")]
    pub mem_reserve: Option<u64>,
    /// Guest NUMA node.
    #[xml(text_child)]
    pub node: Option<u32>,
}

/// `<driver>` of a controller.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct ControllerDriver {
    #[xml(attr)]
    pub queues: Option<u32>,
    #[xml(attr)]
    pub cmd_per_lun: Option<u32>,
    #[xml(attr)]
    pub max_sectors: Option<u32>,
    #[xml(attr)]
    pub ioeventfd: Option<OnOff>,
    #[xml(attr)]
    pub iothread: Option<u32>,
    #[xml(flatten)]
    pub virtio: VirtioOptions,
    #[xml(child)]
    pub iothreads: Option<IoThreads>,
}

words! {
    /// Model of a PCI controller.
    PciModel {
        PciRoot "pci-root", PcieRoot "pcie-root", PciBridge "pci-bridge",
        DmiToPciBridge "dmi-to-pci-bridge", PcieToPciBridge "pcie-to-pci-bridge",
        PcieRootPort "pcie-root-port", PcieSwitchUpstreamPort "pcie-switch-upstream-port",
        PcieSwitchDownstreamPort "pcie-switch-downstream-port",
        PciExpanderBus "pci-expander-bus", PcieExpanderBus "pcie-expander-bus",
    }
    /// QEMU device behind a PCI controller.
    PciModelName {
        SpaprPciHostBridge "spapr-pci-host-bridge", PciBridge "pci-bridge",
        I82801b11Bridge "i82801b11-bridge", PciePciBridge "pcie-pci-bridge",
        Ioh3420 "ioh3420", PcieRootPort "pcie-root-port", X3130Upstream "x3130-upstream",
        Xio3130Downstream "xio3130-downstream", Pxb "pxb", PxbPcie "pxb-pcie",
    }
    /// Model of a USB controller.
    UsbModel {
        Piix3Uhci "piix3-uhci", Piix4Uhci "piix4-uhci", Ehci "ehci",
        Ich9Ehci1 "ich9-ehci1", Ich9Uhci1 "ich9-uhci1", Ich9Uhci2 "ich9-uhci2",
        Ich9Uhci3 "ich9-uhci3", Vt82c686bUhci "vt82c686b-uhci", PciOhci "pci-ohci",
        NecXhci "nec-xhci", Qusb1 "qusb1", Qusb2 "qusb2", QemuXhci "qemu-xhci", None "none",
    }
    /// Model of a SCSI controller.
    ScsiModel {
        Auto "auto", Buslogic "buslogic", Lsilogic "lsilogic", Lsisas1068 "lsisas1068",
        Vmpvscsi "vmpvscsi", Ibmvscsi "ibmvscsi", VirtioScsi "virtio-scsi",
        Lsisas1078 "lsisas1078", VirtioTransitional "virtio-transitional",
        VirtioNonTransitional "virtio-non-transitional", Ncr53c90 "ncr53c90",
        Dc390 "dc390", Am53c974 "am53c974",
    }
    /// Model of an IDE controller.
    IdeModel { Piix3 "piix3", Piix4 "piix4", Ich6 "ich6" }
}

impl Controller {
    /// Model of a PCI controller; none for other kinds and unknown words.
    #[must_use]
    pub fn pci_model(&self) -> Option<PciModel> {
        self.model_of(ControllerKind::Pci)
    }

    /// Model of a USB controller; none for other kinds and unknown words.
    #[must_use]
    pub fn usb_model(&self) -> Option<UsbModel> {
        self.model_of(ControllerKind::Usb)
    }

    /// Model of a SCSI controller; none for other kinds and unknown words.
    #[must_use]
    pub fn scsi_model(&self) -> Option<ScsiModel> {
        self.model_of(ControllerKind::Scsi)
    }

    fn model_of<T: std::str::FromStr>(&self, kind: ControllerKind) -> Option<T> {
        if self.kind != kind {
            return None;
        }
        self.model.as_deref()?.parse().ok()
    }
}
