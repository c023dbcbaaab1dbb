//! What several device families share: small values, virtio options, security labels, secrets.

use xmlform::Xml;

/// Declares a closed set of words. The first one is the default.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident $word:tt),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(xmlform::XmlEnum, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $(#[xml($word)] #[doc = concat!("`", $word, "`")] $variant),+ }

        impl Default for $name {
            fn default() -> Self {
                let all = [$(Self::$variant),+];
                all[0]
            }
        }
    )+};
}
pub(crate) use words;

words! {
    /// A choice written `yes` or `no`.
    YesNo { No "no", Yes "yes" }
    /// A switch written `on` or `off`.
    OnOff { Off "off", On "on" }
    /// Virtio generation of a device that may have several.
    VirtioModel { Virtio "virtio", Transitional "virtio-transitional", NonTransitional "virtio-non-transitional" }
    /// What a daemon does when a source is missing at start.
    StartupPolicy { Mandatory "mandatory", Requisite "requisite", Optional "optional" }
    /// Transport to a storage server.
    HostTransport { Tcp "tcp", Unix "unix", Rdma "rdma" }
}

impl YesNo {
    /// Whether this is `yes`.
    #[must_use]
    pub fn is_yes(self) -> bool {
        self == Self::Yes
    }
}

impl From<bool> for YesNo {
    fn from(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }
}

impl OnOff {
    /// Whether this is `on`.
    #[must_use]
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

impl From<bool> for OnOff {
    fn from(value: bool) -> Self {
        if value { Self::On } else { Self::Off }
    }
}

/// A size with its unit, as written: `<size unit='KiB'>4096</size>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Unit of the number; what an absent one means depends on the element.
    #[xml(attr, blank)]
    pub unit: Option<String>,
    /// The number, in `unit`.
    #[xml(text)]
    pub value: u64,
}

/// `iommu`, `ats`, `packed`, `page_per_vq` of a virtio device's `<driver>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtioOptions {
    #[xml(attr)]
    pub iommu: Option<OnOff>,
    #[xml(attr)]
    pub ats: Option<OnOff>,
    #[xml(attr)]
    pub packed: Option<OnOff>,
    #[xml(attr)]
    pub page_per_vq: Option<OnOff>,
}

/// `<driver>` of a device that has virtio options only.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtioDriver {
    #[xml(flatten)]
    pub virtio: VirtioOptions,
}

/// A device's own `<seclabel>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSeclabel {
    #[xml(attr)]
    pub model: Option<String>,
    /// Whether the daemon left the label alone, as it does when the image cannot have one.
    #[xml(attr, when = "live")]
    pub labelskip: Option<YesNo>,
    #[xml(attr)]
    pub relabel: Option<YesNo>,
    #[xml(text_child)]
    pub label: Option<String>,
}

/// `<reconnect>`: whether and how soon to dial again.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconnect {
    #[xml(attr)]
    pub enabled: Option<YesNo>,
    /// Seconds.
    #[xml(attr)]
    pub timeout: Option<u32>,
    /// Milliseconds; for block devices.
    #[xml(attr)]
    pub delay: Option<u32>,
}

/// `<auth>` of a storage server.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    #[xml(attr)]
    pub username: Option<String>,
    #[xml(child)]
    pub secret: Option<AuthSecret>,
}

/// The secret an `<auth>` names, by `uuid` or by `usage`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthSecret {
    /// What it is for, as written; looked at when the device is.
    #[xml(attr = "type")]
    pub kind: Option<String>,
    #[xml(attr)]
    pub uuid: Option<String>,
    #[xml(attr)]
    pub usage: Option<String>,
}

/// A storage server: `<host>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageHost {
    #[xml(attr)]
    pub name: Option<String>,
    #[xml(attr)]
    pub port: Option<u32>,
    #[xml(attr)]
    pub transport: Option<HostTransport>,
    #[xml(attr)]
    pub socket: Option<String>,
}

/// `<initiator>` of an iSCSI session.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Initiator {
    #[xml(attr = "name", wrap = "iqn")]
    pub iqn: Option<String>,
}

/// `<ip>` of an interface or a container's network.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Ip {
    #[xml(attr)]
    pub address: String,
    /// `ipv4` or `ipv6`.
    #[xml(attr)]
    pub family: Option<String>,
    #[xml(attr)]
    pub prefix: Option<u32>,
    #[xml(attr)]
    pub peer: Option<String>,
}

/// `<route>` of an interface.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    #[xml(attr)]
    pub family: Option<String>,
    #[xml(attr)]
    pub address: Option<String>,
    #[xml(attr)]
    pub netmask: Option<String>,
    #[xml(attr)]
    pub prefix: Option<u32>,
    #[xml(attr)]
    pub gateway: Option<String>,
    #[xml(attr)]
    pub metric: Option<u32>,
}

/// Queues of one I/O thread.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IoThreads {
    #[xml(children = "iothread")]
    pub threads: Vec<IoThreadQueues>,
}

/// `<iothread>` of a mapping: which virtqueues it serves; none means all.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IoThreadQueues {
    #[xml(attr)]
    pub id: u32,
    #[xml(children = "queue")]
    pub queues: Vec<QueueId>,
}

/// `<queue>` of an I/O thread.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueId {
    #[xml(attr)]
    pub id: u32,
}

/// `<teaming>`: a pair of a virtio and a passed-through interface.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Teaming {
    #[xml(attr = "type", lax)]
    pub kind: Option<TeamingKind>,
    /// Alias of the persistent one.
    #[xml(attr, blank)]
    pub persistent: Option<String>,
}

impl Teaming {
    /// Whether the element is there with nothing in it, which is as if it were not.
    pub(crate) fn says_nothing(&self) -> bool {
        self.kind.is_none() && self.persistent.is_none()
    }
}

words! {
    /// Role in a team.
    TeamingKind { Persistent "persistent", Transient "transient" }
    /// How a host PCI device is bound while a guest has it.
    HostdevDriverName { Kvm "kvm", Vfio "vfio", Xen "xen" }
}

/// `<driver>` of a PCI device passed to the guest.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostdevDriver {
    #[xml(attr)]
    pub name: Option<HostdevDriverName>,
    #[xml(attr)]
    pub model: Option<String>,
}
