//! Parts of `<interface>` that have a life of their own: virtual port, VLAN, bandwidth,
//! filter, port forwarding, coalescing.

use xmlform::Xml;

use super::common::{YesNo, words};

words! {
    /// Protocol that associates a port with a switch.
    VirtualPortKind {
        Qbg "802.1Qbg", Qbh "802.1Qbh", Openvswitch "openvswitch", Midonet "midonet",
        None "none",
    }
    /// How a native VLAN leaves the port.
    NativeMode { Tagged "tagged", Untagged "untagged" }
}

/// `<virtualport>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPort {
    /// When absent, the network's own decides.
    #[xml(attr = "type")]
    pub kind: Option<VirtualPortKind>,
    #[xml(child)]
    pub parameters: Option<VirtualPortParameters>,
}

/// `<parameters>` of a virtual port.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPortParameters {
    #[xml(attr, format = "auto")]
    pub managerid: Option<u32>,
    #[xml(attr, format = "auto")]
    pub typeid: Option<u32>,
    #[xml(attr, format = "auto")]
    pub typeidversion: Option<u32>,
    #[xml(attr)]
    pub instanceid: Option<String>,
    #[xml(attr)]
    pub interfaceid: Option<String>,
    #[xml(attr)]
    pub profileid: Option<String>,
}

/// `<vlan>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    #[xml(attr, lax)]
    pub trunk: Option<YesNo>,
    #[xml(children = "tag")]
    pub tags: Vec<VlanTag>,
}

/// A VLAN the port carries.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanTag {
    #[xml(attr)]
    pub id: u32,
    #[xml(attr = "nativeMode")]
    pub native_mode: Option<NativeMode>,
}

/// `<bandwidth>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    #[xml(attr = "classID")]
    pub class_id: Option<u32>,
    #[xml(child)]
    pub inbound: Option<Rate>,
    #[xml(child)]
    pub outbound: Option<Rate>,
}

/// A traffic shape: KiB a second, burst in KiB.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    #[xml(attr)]
    pub average: Option<u64>,
    #[xml(attr)]
    pub peak: Option<u64>,
    #[xml(attr)]
    pub floor: Option<u64>,
    #[xml(attr)]
    pub burst: Option<u64>,
}

/// `<filterref>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterRef {
    #[xml(attr)]
    pub filter: Option<String>,
    #[xml(children = "parameter")]
    pub parameters: Vec<FilterParameter>,
}

/// A variable of a filter. A name may come several times: then it is a list.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterParameter {
    #[xml(attr)]
    pub name: String,
    #[xml(attr)]
    pub value: String,
}

/// `<portForward>` of a user-mode interface.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct PortForward {
    /// `tcp` or `udp`.
    #[xml(attr)]
    pub proto: String,
    #[xml(attr)]
    pub address: Option<String>,
    #[xml(attr)]
    pub dev: Option<String>,
    #[xml(children = "range")]
    pub ranges: Vec<PortRange>,
}

/// Ports of the host, and where they lead in the guest.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    #[xml(attr)]
    pub start: u32,
    #[xml(attr)]
    pub end: Option<u32>,
    #[xml(attr)]
    pub to: Option<u32>,
    #[xml(attr)]
    pub exclude: Option<YesNo>,
}

/// `<coalesce>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Coalesce {
    #[xml(child)]
    pub rx: Option<CoalesceRx>,
}

/// Coalescing of what the card receives.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CoalesceRx {
    /// Frames to wait for before the guest is interrupted.
    #[xml(attr = "max", wrap = "frames", blank)]
    pub frames: Option<u32>,
}
