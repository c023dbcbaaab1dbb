//! `<hostdev>`: a device of the host given to the guest.

use xmlform::codec::{Auto, Hex, Plain};
use xmlform::{Error, Node, Writer, Xml, field};

use super::common::{
    Auth, HostdevDriver, Initiator, Ip, OnOff, Route, StartupPolicy, StorageHost, Teaming, YesNo, words,
};
use super::disk::SgIo;
use super::info::DeviceInfo;

words! {
    /// How a device is given.
    HostdevMode { Subsystem "subsystem", Capabilities "capabilities" }
    /// Subsystem of the device; the last three are of mode `capabilities`.
    HostdevKind {
        Usb "usb", Pci "pci", Scsi "scsi", ScsiHost "scsi_host", Mdev "mdev",
        Storage "storage", Misc "misc", Net "net",
    }
    /// Model of a mediated or vhost-scsi device.
    HostdevModel {
        VfioPci "vfio-pci", VfioCcw "vfio-ccw", VfioAp "vfio-ap", Virtio "virtio",
        VirtioTransitional "virtio-transitional",
        VirtioNonTransitional "virtio-non-transitional",
    }
    /// Where a SCSI device is.
    HostdevProtocol { Adapter "adapter", Iscsi "iscsi", Vhost "vhost" }
    /// Whether a guest may reset a USB device.
    GuestReset { Off "off", Uninitialized "uninitialized", On "on" }
}

/// A host device.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Hostdev {
    #[xml(attr, default, always)]
    pub mode: HostdevMode,
    #[xml(attr = "type")]
    pub kind: HostdevKind,
    /// Whether the daemon takes the device from its host driver and gives it back.
    #[xml(attr)]
    pub managed: Option<YesNo>,
    #[xml(attr)]
    pub sgio: Option<SgIo>,
    #[xml(attr)]
    pub rawio: Option<YesNo>,
    #[xml(attr, lax)]
    pub model: Option<HostdevModel>,
    #[xml(attr)]
    pub display: Option<OnOff>,
    #[xml(attr)]
    pub ramfb: Option<OnOff>,
    #[xml(child)]
    pub driver: Option<HostdevDriver>,
    #[xml(child)]
    pub source: Option<HostdevSource>,
    /// Addresses of a network device of mode `capabilities`.
    #[xml(children = "ip")]
    pub ips: Vec<Ip>,
    #[xml(children = "route")]
    pub routes: Vec<Route>,
    #[xml(child)]
    pub teaming: Option<Teaming>,
    #[xml(flag)]
    pub readonly: bool,
    #[xml(flag)]
    pub shareable: bool,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<source>` of a host device. Which fields count follows from [`HostdevKind`].
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct HostdevSource {
    /// Whether the host knows the device as one of conventional PCI; set only while a document is given its addresses.
    #[xml(skip)]
    pub conventional: bool,
    #[xml(attr = "startupPolicy")]
    pub startup_policy: Option<StartupPolicy>,
    #[xml(attr = "guestReset")]
    pub guest_reset: Option<GuestReset>,
    #[xml(attr, when = "live")]
    pub missing: Option<YesNo>,
    #[xml(attr = "writeFiltering")]
    pub write_filtering: Option<YesNo>,
    #[xml(attr)]
    pub protocol: Option<HostdevProtocol>,
    /// iSCSI target.
    #[xml(attr)]
    pub name: Option<String>,
    /// Target of vhost-scsi.
    #[xml(attr)]
    pub wwpn: Option<String>,
    /// USB vendor.
    #[xml(attr = "id", wrap = "vendor", format = "hex4")]
    pub vendor: Option<u32>,
    /// USB product.
    #[xml(attr = "id", wrap = "product", format = "hex4")]
    pub product: Option<u32>,
    /// SCSI host adapter.
    #[xml(attr = "name", wrap = "adapter")]
    pub adapter: Option<String>,
    #[xml(child)]
    pub address: Option<HostdevAddress>,
    #[xml(children = "host")]
    pub hosts: Vec<StorageHost>,
    #[xml(child)]
    pub auth: Option<Auth>,
    #[xml(child)]
    pub initiator: Option<Initiator>,
    #[xml(text_child)]
    pub block: Option<String>,
    #[xml(text_child)]
    pub char: Option<String>,
    #[xml(text_child)]
    pub interface: Option<String>,
    /// What to do with the device when the guest gives it back.
    #[xml(child, when = "pci_orig_states")]
    pub origstates: Option<OrigStates>,
    /// What the daemon keeps of the source while the guest runs.
    #[xml(child = "privateData", when = "status")]
    pub private_data: Option<HostdevPrivate>,
}

/// How a PCI device was found on the host.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct OrigStates {
    #[xml(flag)]
    pub unbind: bool,
    #[xml(flag)]
    pub removeslot: bool,
    #[xml(flag)]
    pub reprobe: bool,
}

/// What the daemon keeps of a host device's source while the guest runs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostdevPrivate {
    #[xml(child)]
    pub objects: Option<super::private::SourceObjects>,
}

/// Place of a device on the host. The attributes tell which kind it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostdevAddress {
    Pci {
        domain: u32,
        bus: u32,
        slot: u32,
        function: u32,
    },
    Usb {
        bus: u32,
        device: u32,
    },
    Scsi {
        bus: u32,
        target: u32,
        unit: u64,
    },
    Mdev {
        uuid: String,
    },
}

/// Of which kind a place on the host is: the device says it, or the place itself.
fn kind_of_place(node: Node<'_>) -> HostdevKind {
    let device = node.parent().and_then(Node::parent);
    let by_device = device.filter(|device| device.is("hostdev"));
    let said = by_device
        .and_then(|device| device.attr("type"))
        .or_else(|| node.attr("type"));
    if let Some(kind) = said.and_then(|kind| kind.parse().ok()) {
        return kind;
    }
    let has = |name| node.attr(name).is_some();
    match () {
        () if has("uuid") => HostdevKind::Mdev,
        () if (has("unit") || has("target")) && !has("slot") => HostdevKind::Scsi,
        () if has("device") => HostdevKind::Usb,
        () => HostdevKind::Pci,
    }
}

impl Xml for HostdevAddress {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let number = |name| field::attr_opt::<Auto, u32>(node, name).map(Option::unwrap_or_default);
        Ok(match kind_of_place(node) {
            HostdevKind::Mdev => Self::Mdev {
                uuid: node.attr("uuid").unwrap_or_default().to_owned(),
            },
            HostdevKind::Scsi => Self::Scsi {
                bus: number("bus")?,
                target: number("target")?,
                unit: field::attr_opt::<Auto, u64>(node, "unit")?.unwrap_or_default(),
            },
            HostdevKind::Usb => Self::Usb {
                bus: number("bus")?,
                device: number("device")?,
            },
            _ => Self::Pci {
                domain: number("domain")?,
                bus: number("bus")?,
                slot: number("slot")?,
                function: number("function")?,
            },
        })
    }

    fn write_attrs(&self, w: &mut Writer) {
        match self {
            Self::Pci {
                domain,
                bus,
                slot,
                function,
            } => {
                w.attr::<Hex<4>, _>("domain", domain);
                w.attr::<Hex<2>, _>("bus", bus);
                w.attr::<Hex<2>, _>("slot", slot);
                w.attr::<Hex<1>, _>("function", function);
            }
            Self::Usb { bus, device } => {
                w.attr::<Plain, _>("bus", bus);
                w.attr::<Plain, _>("device", device);
            }
            Self::Scsi { bus, target, unit } => {
                w.attr::<Plain, _>("bus", bus);
                w.attr::<Plain, _>("target", target);
                w.attr::<Plain, _>("unit", unit);
            }
            Self::Mdev { uuid } => w.attr_str("uuid", uuid),
        }
    }

    fn write_content(&self, _: &mut Writer) {}
}
