//! `<interface>`: a network card of the guest and what it is plugged into.

use xmlform::{Error, Node, Writer, Xml, field};

use super::common::{
    HostdevDriver, HostdevDriverName, Ip, OnOff, Reconnect, Route, Teaming, VirtioOptions, YesNo, words,
};
use super::hostdev::HostdevAddress;
use super::info::DeviceInfo;
use super::netparts::{Bandwidth, Coalesce, FilterRef, PortForward, VirtualPort, Vlan};
use super::private::InterfacePrivate;

/// Models of cards in their own spelling; they are known in any.
pub const MODELS: &[&str] = &[
    "netfront",
    "rtl8139",
    "virtio",
    "e1000",
    "e1000e",
    "igb",
    "virtio-transitional",
    "virtio-non-transitional",
    "usb-net",
    "spapr-vlan",
    "lan9118",
    "scm91c111",
    "vlance",
    "vmxnet",
    "vmxnet2",
    "vmxnet3",
    "Am79C970A",
    "Am79C973",
    "82540EM",
    "82545EM",
    "82543GC",
];

words! {
    /// What an interface is plugged into.
    InterfaceKind {
        User "user", Ethernet "ethernet", Vhostuser "vhostuser", Server "server",
        Client "client", Mcast "mcast", Network "network", Bridge "bridge",
        Internal "internal", Direct "direct", Hostdev "hostdev", Udp "udp", Vdpa "vdpa",
        Null "null", Vds "vds",
    }
    /// Where a MAC address comes from.
    MacKind { Generated "generated", Static "static" }
    /// Mode of a macvtap.
    MacvtapMode { Vepa "vepa", Private "private", Bridge "bridge", Passthrough "passthrough" }
    /// Who fills a bridge's table of MAC addresses.
    MacTableManager { Kernel "kernel", Libvirt "libvirt" }
    /// Which side of a Unix socket listens.
    SocketMode { Server "server", Client "client" }
    /// State of the link.
    LinkState { Up "up", Down "down" }
    /// Back end of a virtio card.
    NetDriverName { Qemu "qemu", Vhost "vhost" }
    /// Where packets are sent from.
    TxMode { Iothread "iothread", Timer "timer" }
    /// Program behind a user-mode interface.
    NetBackendKind { Default "default", Passt "passt" }
}

/// A network card.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Interface {
    #[xml(attr = "type", default, always)]
    pub kind: InterfaceKind,
    /// Of kind `hostdev`.
    #[xml(attr)]
    pub managed: Option<YesNo>,
    #[xml(attr = "trustGuestRxFilters")]
    pub trust_guest_rx_filters: Option<YesNo>,
    #[xml(child)]
    pub mac: Option<Mac>,
    /// How a card of kind `hostdev` is bound on the host.
    #[xml(flatten)]
    pub hostdev: HostdevCard,
    #[xml(child)]
    pub source: Option<InterfaceSource>,
    #[xml(child)]
    pub vlan: Option<Vlan>,
    #[xml(child)]
    pub virtualport: Option<VirtualPort>,
    #[xml(child)]
    pub bandwidth: Option<Bandwidth>,
    #[xml(attr = "isolated", wrap = "port")]
    pub isolated: Option<YesNo>,
    /// What a network made of the plug, kept while the guest runs.
    #[xml(child, when = "actual_net")]
    pub actual: Option<ActualInterface>,
    /// Addresses in the guest.
    #[xml(children = "ip")]
    pub ips: Vec<Ip>,
    #[xml(children = "route")]
    pub routes: Vec<Route>,
    #[xml(children = "portForward")]
    pub port_forwards: Vec<PortForward>,
    #[xml(attr = "path", wrap = "script", blank, merge)]
    pub script: Option<String>,
    #[xml(attr = "path", wrap = "downscript", blank, merge)]
    pub downscript: Option<String>,
    #[xml(attr = "name", wrap = "backenddomain", blank, merge)]
    pub backend_domain: Option<String>,
    #[xml(child)]
    pub target: Option<InterfaceTarget>,
    /// Name in the guest, of containers.
    #[xml(child)]
    pub guest: Option<InterfaceGuest>,
    #[xml(attr = "type", wrap = "model", merge)]
    pub model: Option<String>,
    /// Of every kind but `hostdev`.
    #[xml(child)]
    pub driver: Option<InterfaceDriver>,
    #[xml(child)]
    pub backend: Option<InterfaceBackend>,
    #[xml(child)]
    pub filterref: Option<FilterRef>,
    #[xml(child, merge)]
    pub tune: Option<InterfaceTune>,
    #[xml(child)]
    pub teaming: Option<Teaming>,
    #[xml(attr = "state", wrap = "link", blank, merge)]
    pub link: Option<LinkState>,
    /// Bytes.
    #[xml(attr = "size", wrap = "mtu", blank, merge)]
    pub mtu: Option<u32>,
    #[xml(child)]
    pub coalesce: Option<Coalesce>,
    #[xml(flatten)]
    pub info: DeviceInfo,
    /// What the daemon keeps of the interface while the guest runs.
    #[xml(child = "privateData", when = "status")]
    pub private_data: Option<InterfacePrivate>,
}

/// `<driver>` of a card of kind `hostdev`, which stands before its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostdevCard {
    pub driver: Option<HostdevDriver>,
}

impl Xml for HostdevCard {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        if node.attr("type") != Some("hostdev") {
            return Ok(Self::default());
        }
        let driver = field::child_opt(node, "driver")?;
        Ok(Self { driver })
    }

    fn write_attrs(&self, _: &mut Writer) {}

    fn write_content(&self, w: &mut Writer) {
        if let Some(driver) = &self.driver {
            w.element_unless_empty("driver", driver);
        }
    }
}

/// `<mac>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Mac {
    /// None yet: one is made up.
    #[xml(attr, default, always)]
    pub address: String,
    #[xml(attr = "type")]
    pub kind: Option<MacKind>,
    #[xml(attr)]
    pub check: Option<YesNo>,
    /// What the guest set it to.
    #[xml(attr = "currentAddress", when = "live")]
    pub current_address: Option<String>,
}

/// `<source>` of an interface. Which fields count follows from [`InterfaceKind`].
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct InterfaceSource {
    #[xml(attr)]
    pub switchid: Option<String>,
    #[xml(attr)]
    pub network: Option<String>,
    #[xml(attr)]
    pub portgroup: Option<String>,
    /// Port of the network, while the guest runs.
    #[xml(attr, when = "live")]
    pub portid: Option<String>,
    #[xml(attr)]
    pub bridge: Option<String>,
    #[xml(attr = "macTableManager", when = "live")]
    pub mac_table_manager: Option<MacTableManager>,
    #[xml(attr = "type")]
    pub transport: Option<String>,
    #[xml(attr)]
    pub path: Option<String>,
    #[xml(attr)]
    pub address: Option<String>,
    #[xml(attr)]
    pub port: Option<i32>,
    #[xml(attr)]
    pub name: Option<String>,
    #[xml(attr)]
    pub dev: Option<String>,
    /// Macvtap mode, or which side of a socket listens.
    #[xml(attr)]
    pub mode: Option<String>,
    #[xml(attr)]
    pub portgroupid: Option<String>,
    #[xml(attr)]
    pub connectionid: Option<String>,
    #[xml(attr, when = "live")]
    pub missing: Option<YesNo>,
    #[xml(child)]
    pub local: Option<UdpLocal>,
    #[xml(child)]
    pub reconnect: Option<Reconnect>,
    #[xml(child = "address")]
    pub host_device: Option<TypedHostdevAddress>,
    /// What to do with the host's device when the guest gives it back.
    #[xml(child, when = "pci_orig_states")]
    pub origstates: Option<super::hostdev::OrigStates>,
    /// Addresses on the host.
    #[xml(children = "ip")]
    pub ips: Vec<Ip>,
    #[xml(children = "route")]
    pub routes: Vec<Route>,
}

/// `<address type='pci' ...>` of a passed-through card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedHostdevAddress(pub HostdevAddress);

impl Xml for TypedHostdevAddress {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        // What is there tells the kind; the word only repeats it.
        let _ = node.attr("type");
        HostdevAddress::read(node).map(Self)
    }

    fn write_attrs(&self, w: &mut Writer) {
        let kind = match self.0 {
            HostdevAddress::Pci { .. } => "pci",
            HostdevAddress::Usb { .. } => "usb",
            HostdevAddress::Scsi { .. } => "drive",
            HostdevAddress::Mdev { .. } => "mdev",
        };
        w.attr_str("type", kind);
        self.0.write_attrs(w);
    }

    fn write_content(&self, _: &mut Writer) {}
}

/// Near end of a UDP tunnel.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpLocal {
    #[xml(attr)]
    pub address: Option<String>,
    #[xml(attr)]
    pub port: Option<i32>,
}

/// `<target>`: the host's end of the plug.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceTarget {
    #[xml(attr)]
    pub dev: Option<String>,
    #[xml(attr)]
    pub managed: Option<YesNo>,
}

/// Name of the interface inside a container.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceGuest {
    #[xml(attr)]
    pub dev: Option<String>,
    #[xml(attr, when = "live")]
    pub actual: Option<String>,
}

/// `<driver>` of an interface.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct InterfaceDriver {
    #[xml(attr)]
    pub name: Option<String>,
    #[xml(attr)]
    pub txmode: Option<TxMode>,
    #[xml(attr)]
    pub ioeventfd: Option<OnOff>,
    #[xml(attr)]
    pub event_idx: Option<OnOff>,
    #[xml(attr)]
    pub queues: Option<u32>,
    #[xml(attr)]
    pub rx_queue_size: Option<u32>,
    #[xml(attr)]
    pub tx_queue_size: Option<u32>,
    #[xml(attr)]
    pub rss: Option<OnOff>,
    #[xml(attr)]
    pub rss_hash_report: Option<OnOff>,
    #[xml(flatten)]
    pub virtio: VirtioOptions,
    #[xml(child)]
    pub host: Option<HostOffloads>,
    #[xml(child)]
    pub guest: Option<GuestOffloads>,
}

impl InterfaceDriver {
    /// The name, read as that of a passed-through card's driver; see [`HostdevCard`].
    #[must_use]
    pub fn hostdev_name(&self) -> Option<HostdevDriverName> {
        self.name.as_deref()?.parse().ok()
    }

    /// The name, read as that of a virtio card's back end.
    #[must_use]
    pub fn backend_name(&self) -> Option<NetDriverName> {
        self.name.as_deref()?.parse().ok()
    }
}

/// What the host's side may offload.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOffloads {
    #[xml(attr)]
    pub csum: Option<OnOff>,
    #[xml(attr)]
    pub gso: Option<OnOff>,
    #[xml(attr)]
    pub tso4: Option<OnOff>,
    #[xml(attr)]
    pub tso6: Option<OnOff>,
    #[xml(attr)]
    pub ecn: Option<OnOff>,
    #[xml(attr)]
    pub ufo: Option<OnOff>,
    #[xml(attr)]
    pub mrg_rxbuf: Option<OnOff>,
}

/// What the guest's side may offload.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestOffloads {
    #[xml(attr)]
    pub csum: Option<OnOff>,
    #[xml(attr)]
    pub tso4: Option<OnOff>,
    #[xml(attr)]
    pub tso6: Option<OnOff>,
    #[xml(attr)]
    pub ecn: Option<OnOff>,
    #[xml(attr)]
    pub ufo: Option<OnOff>,
}

/// `<backend>` of an interface.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceBackend {
    #[xml(attr = "type")]
    pub kind: Option<NetBackendKind>,
    /// TAP device node.
    #[xml(attr)]
    pub tap: Option<String>,
    /// vhost device node.
    #[xml(attr)]
    pub vhost: Option<String>,
    #[xml(attr = "logFile")]
    pub log_file: Option<String>,
}

/// `<tune>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceTune {
    /// Send buffer of the TAP device, bytes.
    #[xml(text_child)]
    pub sndbuf: Option<u64>,
}

/// `<actual>`: what a network made of the plug.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct ActualInterface {
    #[xml(attr = "type")]
    pub kind: InterfaceKind,
    #[xml(attr)]
    pub managed: Option<YesNo>,
    #[xml(attr = "trustGuestRxFilters")]
    pub trust_guest_rx_filters: Option<YesNo>,
    #[xml(child)]
    pub hostdev: Option<ActualHostdev>,
    #[xml(attr = "id", wrap = "class")]
    pub class_id: Option<u32>,
    #[xml(child)]
    pub source: Option<InterfaceSource>,
    #[xml(child)]
    pub vlan: Option<Vlan>,
    #[xml(child)]
    pub virtualport: Option<VirtualPort>,
    #[xml(child)]
    pub bandwidth: Option<Bandwidth>,
    #[xml(attr = "isolated", wrap = "port")]
    pub isolated: Option<YesNo>,
}

/// Driver of a passed-through card that a network chose.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct ActualHostdev {
    #[xml(child)]
    pub driver: Option<super::common::HostdevDriver>,
}
