//! Where a disk's bytes come from: `<source>`, and the chains `<backingStore>`, `<mirror>`
//! and `<dataStore>`. The kind of a source is an attribute of the element around it, so
//! a [`Source`] carries what any kind may have.

use std::borrow::Cow;

use xmlform::{FormatFlags, Node, ParseFlags, Writer, Xml};

use super::address::PciAddress;
use super::common::{
    Auth, DeviceSeclabel, Initiator, Reconnect, Size, StartupPolicy, StorageHost, YesNo, words,
};
use super::private::SourcePrivate;

words! {
    /// Kind of a storage source.
    StorageKind {
        File "file", Block "block", Dir "dir", Network "network", Volume "volume",
        Nvme "nvme", VhostUser "vhostuser", VhostVdpa "vhostvdpa",
    }
    /// Image format.
    StorageFormat {
        Raw "raw", Dir "dir", Bochs "bochs", Cloop "cloop", Dmg "dmg", Iso "iso", Vpc "vpc",
        Vdi "vdi", Fat "fat", Vhd "vhd", Ploop "ploop", Luks "luks", Cow "cow", Qcow "qcow",
        Qcow2 "qcow2", Qed "qed", Vmdk "vmdk",
    }
    /// Protocol of a network source.
    NetProtocol {
        Nbd "nbd", Rbd "rbd", Sheepdog "sheepdog", Gluster "gluster", Iscsi "iscsi",
        Http "http", Https "https", Ftp "ftp", Ftps "ftps", Tftp "tftp", Ssh "ssh",
        Vxhs "vxhs", Nfs "nfs",
    }
    /// How a volume of an iSCSI pool is reached.
    VolumeMode { Host "host", Direct "direct" }
    /// Form of an encrypted image.
    EncryptionFormat {
        Default "default", Qcow "qcow", Luks "luks", Luks2 "luks2", LuksAny "luks-any",
    }
    /// Who decrypts.
    EncryptionEngine { Qemu "qemu", Librbd "librbd" }
}

/// `<source>` of a disk or of a link in its chain. Which fields count follows from the
/// [`StorageKind`] next to it.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// Path of kind `file`.
    #[xml(attr)]
    pub file: Option<String>,
    /// Name of a set of descriptors handed over by a client, in place of opening `file`.
    #[xml(attr)]
    pub fdgroup: Option<String>,
    /// Path of kinds `block` and `vhostvdpa`.
    #[xml(attr)]
    pub dev: Option<String>,
    /// Path of kind `dir`.
    #[xml(attr)]
    pub dir: Option<String>,
    /// Of kind `network`.
    #[xml(attr)]
    pub protocol: Option<NetProtocol>,
    /// `pci` of kind `nvme`; `unix` of kind `vhostuser`.
    #[xml(attr = "type")]
    pub transport: Option<String>,
    /// Socket of kind `vhostuser`.
    #[xml(attr)]
    pub path: Option<String>,
    /// Image, export or target name of kind `network`.
    #[xml(attr)]
    pub name: Option<String>,
    /// Query part of an HTTP URL.
    #[xml(attr)]
    pub query: Option<String>,
    /// Pool of kind `volume`.
    #[xml(attr)]
    pub pool: Option<String>,
    /// Volume of kind `volume`.
    #[xml(attr)]
    pub volume: Option<String>,
    #[xml(attr)]
    pub mode: Option<VolumeMode>,
    /// Where the volume was found; of kind `volume`, while the guest runs.
    #[xml(flatten)]
    pub place: VolumePlace,
    #[xml(attr)]
    pub tls: Option<YesNo>,
    /// Whether `tls` is the daemon's configuration and not the document's: 1 if so.
    #[xml(attr = "tlsFromConfig", when = "status")]
    pub tls_from_config: Option<u32>,
    #[xml(attr = "tlsHostname")]
    pub tls_hostname: Option<String>,
    #[xml(attr = "startupPolicy")]
    pub startup_policy: Option<StartupPolicy>,
    /// Of kind `nvme`.
    #[xml(attr)]
    pub managed: Option<YesNo>,
    /// NVMe namespace, from 1.
    #[xml(attr)]
    pub namespace: Option<u64>,
    /// Number of the node in QEMU, while the guest runs.
    #[xml(attr, when = "live")]
    pub index: Option<u32>,
    #[xml(children = "host")]
    pub hosts: Vec<StorageHost>,
    /// Snapshot of an RBD image.
    #[xml(attr = "name", wrap = "snapshot")]
    pub snapshot: Option<String>,
    /// Configuration file of RBD.
    #[xml(attr = "file", wrap = "config")]
    pub config: Option<String>,
    #[xml(child)]
    pub ssl: Option<Ssl>,
    /// Written in the secure form only.
    #[xml(child, when = "secure")]
    pub cookies: Option<Cookies>,
    #[xml(child)]
    pub readahead: Option<Readahead>,
    #[xml(child)]
    pub timeout: Option<Timeout>,
    #[xml(attr = "path", wrap = "knownHosts")]
    pub known_hosts: Option<String>,
    #[xml(child)]
    pub identity: Option<Identity>,
    #[xml(child)]
    pub reconnect: Option<Reconnect>,
    /// PCI address of kind `nvme`.
    #[xml(child)]
    pub address: Option<SourcePciAddress>,
    #[xml(child)]
    pub slices: Option<Slices>,
    #[xml(children = "seclabel")]
    pub seclabels: Vec<DeviceSeclabel>,
    #[xml(child)]
    pub initiator: Option<Initiator>,
    #[xml(child)]
    pub auth: Option<Auth>,
    #[xml(child)]
    pub reservations: Option<Reservations>,
    #[xml(child, paired)]
    pub encryption: Option<Encryption>,
    #[xml(child = "dataStore")]
    pub data_store: Option<Box<DataStore>>,
    /// What the daemon keeps of it while the guest runs.
    #[xml(child = "privateData", when = "status")]
    pub private_data: Option<SourcePrivate>,
}

/// Where a volume of a pool was found on this host; only the status file tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumePlace {
    /// `file`, `block`, `dir`, or `network`; none when it was not looked for.
    pub kind: Option<StorageKind>,
    /// Its path; of an iSCSI target that QEMU opens itself, the target's name and the number of the unit.
    pub path: Option<String>,
    /// Where such a target is served. No file tells it.
    pub hosts: Vec<StorageHost>,
    /// Who may open it.
    pub auth: Option<Auth>,
}

/// The attribute that has the path of a source of a kind.
const PLACES: [(StorageKind, &str); 3] = [
    (StorageKind::File, "file"),
    (StorageKind::Block, "dev"),
    (StorageKind::Dir, "dir"),
];

impl Xml for VolumePlace {
    fn read(node: Node<'_>) -> Result<Self, xmlform::Error> {
        let kind = node
            .attr("actualType")
            .filter(|_| node.flags().has(ParseFlags::STATUS));
        let place = PLACES.iter().find(|(known, _)| kind == Some(known.as_str()));
        Ok(place.map_or_else(Self::default, |(kind, name)| Self {
            kind: Some(*kind),
            path: node.attr(name).map(str::to_owned),
            ..Self::default()
        }))
    }

    fn write_attrs(&self, w: &mut Writer) {
        let place = PLACES
            .iter()
            .find(|(kind, _)| Some(*kind) == self.kind)
            .filter(|_| w.flags().has(FormatFlags::STATUS));
        if let (Some((kind, name)), Some(path)) = (place, &self.path) {
            w.attr_str("actualType", kind.as_str());
            w.attr_str(name, path);
        }
    }

    fn write_content(&self, _: &mut Writer) {}
}

impl Source {
    /// The source as it is opened, and of which kind: for a volume, where it was found.
    #[must_use]
    pub fn located(&self, kind: StorageKind) -> (StorageKind, Cow<'_, Self>) {
        let (StorageKind::Volume, Some(kind)) = (kind, self.place.kind) else {
            return (kind, Cow::Borrowed(self));
        };
        if kind == StorageKind::Network {
            let VolumePlace {
                path: name,
                hosts,
                auth,
                ..
            } = self.place.clone();
            let auth = auth.or_else(|| self.auth.clone());
            return (
                kind,
                Cow::Owned(Self {
                    protocol: Some(NetProtocol::Iscsi),
                    name,
                    hosts,
                    auth,
                    ..self.clone()
                }),
            );
        }
        let path = |wanted| self.place.path.clone().filter(|_| kind == wanted);
        let (file, dev, dir) = (
            path(StorageKind::File),
            path(StorageKind::Block),
            path(StorageKind::Dir),
        );
        (
            kind,
            Cow::Owned(Self {
                file,
                dev,
                dir,
                ..self.clone()
            }),
        )
    }

    /// A volume's path is read with its place, and is no source of its own.
    pub(crate) fn settle_place(&mut self) {
        if self.place.kind.is_some() {
            (self.file, self.dev, self.dir) = (None, None, None);
        }
    }
}

/// PCI address of a host NVMe controller.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourcePciAddress {
    #[xml(attr, format = "hex4")]
    pub domain: Option<u32>,
    #[xml(attr, format = "hex2")]
    pub bus: Option<u32>,
    #[xml(attr, format = "hex2")]
    pub slot: Option<u32>,
    #[xml(attr, format = "hex")]
    pub function: Option<u32>,
}

impl From<SourcePciAddress> for PciAddress {
    fn from(address: SourcePciAddress) -> Self {
        Self {
            domain: address.domain.unwrap_or_default(),
            bus: address.bus.unwrap_or_default(),
            slot: address.slot.unwrap_or_default(),
            function: address.function.unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// SCSI persistent reservations.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// Whether the daemon runs the helper.
    #[xml(attr)]
    pub managed: Option<YesNo>,
    /// Socket of the helper.
    #[xml(child)]
    pub source: Option<ReservationsSource>,
}

/// Socket of a reservations helper.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservationsSource {
    #[xml(attr = "type")]
    pub kind: Option<String>,
    #[xml(attr)]
    pub path: Option<String>,
    #[xml(attr)]
    pub mode: Option<String>,
    #[xml(child)]
    pub reconnect: Option<Reconnect>,
}

/// `<encryption>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    #[xml(attr)]
    pub format: EncryptionFormat,
    #[xml(attr)]
    pub engine: Option<EncryptionEngine>,
    #[xml(children = "secret")]
    pub secrets: Vec<EncryptionSecret>,
    #[xml(child)]
    pub cipher: Option<Cipher>,
    #[xml(child)]
    pub ivgen: Option<Ivgen>,
}

/// Secret of an encrypted image.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptionSecret {
    #[xml(attr = "type")]
    pub kind: Option<String>,
    #[xml(attr)]
    pub uuid: Option<String>,
    #[xml(attr)]
    pub usage: Option<String>,
}

/// Cipher of an encrypted image.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Cipher {
    #[xml(attr)]
    pub name: Option<String>,
    /// Bits.
    #[xml(attr)]
    pub size: Option<u32>,
    #[xml(attr)]
    pub mode: Option<String>,
    #[xml(attr)]
    pub hash: Option<String>,
}

/// Generator of initialization vectors.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Ivgen {
    #[xml(attr)]
    pub name: Option<String>,
    #[xml(attr)]
    pub hash: Option<String>,
}

/// Parts of the source that make up the disk.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices {
    #[xml(children = "slice")]
    pub slices: Vec<Slice>,
}

/// A part of a source, in bytes.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    #[xml(attr = "type")]
    pub kind: Option<String>,
    #[xml(attr)]
    pub offset: u64,
    #[xml(attr)]
    pub size: u64,
}

/// Whether certificates are checked.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Ssl {
    #[xml(attr)]
    pub verify: Option<YesNo>,
}

/// HTTP cookies.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookies {
    #[xml(children = "cookie")]
    pub cookies: Vec<Cookie>,
}

/// An HTTP cookie; its value is secret.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookie {
    #[xml(attr)]
    pub name: String,
    #[xml(text)]
    pub value: String,
}

/// Bytes read ahead.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Readahead {
    #[xml(attr, blank, default, always)]
    pub size: u64,
}

/// How long the server may take.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeout {
    #[xml(attr, blank, default, always)]
    pub seconds: u64,
}

/// Who we are on the server, of SSH and NFS.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    #[xml(attr)]
    pub user: Option<String>,
    #[xml(attr)]
    pub group: Option<String>,
    #[xml(attr)]
    pub username: Option<String>,
    #[xml(attr)]
    pub keyfile: Option<String>,
    #[xml(attr)]
    pub agentsock: Option<String>,
}

/// An image next to the one that describes it, holding the guest's data.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct DataStore {
    #[xml(attr = "type")]
    pub kind: Option<StorageKind>,
    #[xml(child)]
    pub format: Option<Format>,
    #[xml(child)]
    pub source: Option<Source>,
}

/// `<format>` of a link in a chain.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    #[xml(attr = "type")]
    pub kind: Option<StorageFormat>,
    #[xml(child)]
    pub metadata_cache: Option<MetadataCache>,
}

/// Cache of an image's own tables.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataCache {
    #[xml(child, blank)]
    pub max_size: Option<Size>,
}

/// The image below; one without `kind` ends the chain.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct BackingStore {
    #[xml(attr = "type")]
    pub kind: Option<StorageKind>,
    #[xml(attr, when = "live")]
    pub index: Option<u32>,
    #[xml(child)]
    pub format: Option<Format>,
    #[xml(child)]
    pub source: Option<Source>,
    #[xml(child = "backingStore", keep_empty)]
    pub backing: Option<Box<BackingStore>>,
    /// Whether the image itself named this one, and no document did: then it is no part of
    /// the configuration.
    #[xml(skip)]
    pub detected: bool,
}

/// Where a block job writes.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Mirror {
    #[xml(attr = "type")]
    pub kind: Option<StorageKind>,
    #[xml(attr)]
    pub file: Option<String>,
    #[xml(attr = "format")]
    pub file_format: Option<StorageFormat>,
    #[xml(attr)]
    pub job: Option<String>,
    /// `yes`, `abort` or `pivot`.
    #[xml(attr)]
    pub ready: Option<String>,
    #[xml(child)]
    pub format: Option<Format>,
    #[xml(child)]
    pub source: Option<Source>,
    #[xml(child = "backingStore", keep_empty)]
    pub backing: Option<Box<BackingStore>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_volume_is_in_the_status_file_and_in_nothing_else() {
        let source = "<source pool='p' volume='v' mode='host' actualType='file' file='/pool/v' index='3'/>";
        let status = format!(
            "<domstatus state='running' reason='booted' pid='1'><domain type='qemu' id='1'><name>a</name><devices>\
             <disk type='volume' device='disk'>{source}<target dev='vda' bus='virtio'/></disk></devices></domain></domstatus>"
        );
        let status = crate::StatusDocument::parse(&status).unwrap();
        let read = status.domain.devices.disks[0].source.as_ref().unwrap();
        assert_eq!(read.file, None);
        let (kind, located) = read.located(StorageKind::Volume);
        assert_eq!(
            (kind, located.file.as_deref()),
            (StorageKind::File, Some("/pool/v"))
        );
        assert!(status.format().contains(source), "{}", status.format());
        let live = status.domain.format(FormatFlags::NONE);
        assert!(
            live.contains("<source pool='p' volume='v' mode='host' index='3'/>"),
            "{live}"
        );
        let given = live.replace("mode='host'", "actualType='file'");
        let given = crate::Domain::parse(&given, ParseFlags::NONE).unwrap();
        assert_eq!(
            given.devices.disks[0].source.as_ref().unwrap().place,
            VolumePlace::default()
        );
    }
}
