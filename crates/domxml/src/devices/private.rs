//! What a daemon keeps of a device while the guest runs: `<privateData>` of the status file.
//!
//! Either daemon goes on with a guest by these names: QEMU's object of a disk, the nodes of its images, the objects
//! made for them. What another daemon wrote and no field names is kept ([`Rest`]).

use xmlform::{Rest, Xml};

use super::common::YesNo;

/// What the daemon keeps of a disk while the guest runs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskPrivate {
    /// Path of the front end in QEMU's object tree.
    #[xml(attr = "name", wrap = "qom")]
    pub qom: Option<String>,
    /// Filter nodes above the image.
    #[xml(child)]
    pub nodenames: Option<NodeNames>,
    #[xml(rest)]
    pub rest: Rest,
}

/// What the daemon keeps of an interface while the guest runs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfacePrivate {
    /// Whether the daemon made the host's end, and so removes it.
    #[xml(attr = "value", wrap = "created")]
    pub created: Option<YesNo>,
    #[xml(rest)]
    pub rest: Rest,
}

/// What the daemon keeps of a TPM while the guest runs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmPrivate {
    #[xml(child)]
    pub swtpm: Option<SwtpmPrivate>,
    #[xml(rest)]
    pub rest: Rest,
}

/// What the emulator of a TPM said it can do when it was started.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct SwtpmPrivate {
    #[xml(attr)]
    pub can_migrate_shared_storage: Option<YesNo>,
    #[xml(rest)]
    pub rest: Rest,
}

/// What the daemon keeps of a source while the guest runs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePrivate {
    /// Node names in QEMU, layer by layer.
    #[xml(child)]
    pub nodenames: Option<NodeNames>,
    /// Alias of the reservations helper's object.
    #[xml(attr = "mgralias", wrap = "reservations")]
    pub reservations: Option<String>,
    /// How the image above names this one, when not by an absolute path.
    #[xml(text_child = "relPath")]
    pub rel_path: Option<String>,
    #[xml(child)]
    pub objects: Option<SourceObjects>,
    /// Sets of descriptors that were handed to QEMU for it.
    #[xml(children = "fdset", wrap = "fdsets")]
    pub fdsets: Vec<FdSet>,
    /// Whether a client asked for the threshold event by the node's number.
    #[xml(attr = "indexUsed", wrap = "thresholdEvent")]
    pub threshold_event_by_index: Option<YesNo>,
    #[xml(child)]
    pub nbdkit: Option<Nbdkit>,
    #[xml(rest)]
    pub rest: Rest,
}

/// A set of descriptors in QEMU.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct FdSet {
    /// What of the source it is for: `storage`.
    #[xml(attr = "type")]
    pub kind: String,
    #[xml(attr)]
    pub id: u32,
}

/// Node names in QEMU.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNames {
    #[xml(children = "nodename")]
    pub names: Vec<NodeName>,
}

impl NodeNames {
    /// The name of the layer of a kind: `storage`, `format`, `copyOnRead`, ...
    #[must_use]
    pub fn of(&self, kind: &str) -> Option<&str> {
        let found = self.names.iter().find(|node| node.kind == kind);
        found.map(|node| node.name.as_str())
    }
}

/// A node of QEMU's block layer.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeName {
    #[xml(attr = "type")]
    pub kind: String,
    #[xml(attr)]
    pub name: String,
    /// Throttle group of a throttle filter.
    #[xml(attr)]
    pub group: Option<String>,
}

/// Objects made in QEMU for a source.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceObjects {
    #[xml(children = "secret")]
    pub secrets: Vec<SecretObject>,
    #[xml(attr = "alias", wrap = "TLSx509")]
    pub tls: Option<String>,
    #[xml(rest)]
    pub rest: Rest,
}

/// A secret object: `auth`, `encryption`, `httpcookie` or `tlskey`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretObject {
    #[xml(attr = "type")]
    pub kind: String,
    #[xml(attr)]
    pub alias: String,
}

/// A helper process that serves the source.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Nbdkit {
    #[xml(text_child)]
    pub pidfile: Option<String>,
    #[xml(text_child)]
    pub socketfile: Option<String>,
}
