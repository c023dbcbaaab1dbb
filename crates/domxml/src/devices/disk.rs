//! `<disk>`.

use xmlform::Xml;

use super::common::Auth;
use super::common::{IoThreads, OnOff, VirtioModel, VirtioOptions, YesNo, words};
use super::info::DeviceInfo;
use super::private::DiskPrivate;
use super::storage::{BackingStore, Encryption, MetadataCache, Mirror, Source, StorageFormat, StorageKind};

words! {
    /// What the guest takes the disk for.
    DiskDevice { Disk "disk", Cdrom "cdrom", Floppy "floppy", Lun "lun" }
    /// Bus of the disk's front end.
    DiskBus {
        Ide "ide", Fdc "fdc", Scsi "scsi", Virtio "virtio", Xen "xen", Usb "usb", Uml "uml",
        Sata "sata", Sd "sd",
    }
    /// What a snapshot does with the disk when it is not told.
    SnapshotMode { Default "default", No "no", Internal "internal", External "external", Manual "manual" }
    /// Which SCSI commands pass.
    SgIo { Filtered "filtered", Unfiltered "unfiltered" }
    /// Host cache mode.
    CacheMode {
        Default "default", None "none", Writethrough "writethrough", Writeback "writeback",
        Directsync "directsync", Unsafe "unsafe",
    }
    /// What follows an I/O error.
    ErrorPolicy { Default "default", Stop "stop", Report "report", Ignore "ignore", Enospace "enospace" }
    /// How I/O is submitted.
    IoMode { Default "default", Native "native", Threads "threads", IoUring "io_uring" }
    /// What the guest's discards do.
    Discard { Default "default", Unmap "unmap", Ignore "ignore" }
    /// What writes of zeroes become.
    DetectZeroes { Default "default", Off "off", On "on", Unmap "unmap" }
    /// Tray of a removable medium.
    Tray { Closed "closed", Open "open" }
    /// Geometry translation.
    GeometryTrans { Default "default", None "none", Auto "auto", Lba "lba" }
}

/// A disk of the guest.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Disk {
    #[xml(attr = "type", default, always)]
    pub kind: StorageKind,
    #[xml(attr, default, always)]
    pub device: DiskDevice,
    #[xml(attr, lax)]
    pub model: Option<VirtioModel>,
    #[xml(attr)]
    pub rawio: Option<YesNo>,
    #[xml(attr)]
    pub sgio: Option<SgIo>,
    #[xml(attr)]
    pub snapshot: Option<SnapshotMode>,
    #[xml(child)]
    pub driver: Option<DiskDriver>,
    /// When the document has it here and not in the source.
    #[xml(child)]
    pub auth: Option<Auth>,
    #[xml(child)]
    pub source: Option<Source>,
    #[xml(child = "backingStore", keep_empty)]
    pub backing: Option<Box<BackingStore>>,
    #[xml(attr = "name", wrap = "backenddomain", blank)]
    pub backend_domain: Option<String>,
    #[xml(child)]
    pub geometry: Option<Geometry>,
    #[xml(child)]
    pub blockio: Option<BlockIo>,
    #[xml(child, when = "live")]
    pub mirror: Option<Mirror>,
    #[xml(child)]
    pub target: DiskTarget,
    #[xml(child)]
    pub iotune: Option<IoTune>,
    #[xml(child)]
    pub throttlefilters: Option<ThrottleFilters>,
    #[xml(flag)]
    pub readonly: bool,
    #[xml(flag)]
    pub shareable: bool,
    #[xml(child, keep_empty)]
    pub transient: Option<Transient>,
    #[xml(text_child)]
    pub serial: Option<String>,
    #[xml(text_child)]
    pub wwn: Option<String>,
    #[xml(text_child)]
    pub vendor: Option<String>,
    #[xml(text_child)]
    pub product: Option<String>,
    /// When the document has it here and not in the source.
    #[xml(child, paired)]
    pub encryption: Option<Encryption>,
    #[xml(flatten)]
    pub info: DeviceInfo,
    /// What the daemon keeps of the disk while the guest runs.
    #[xml(child = "privateData", when = "status")]
    pub private_data: Option<DiskPrivate>,
}

/// `<driver>` of a disk.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct DiskDriver {
    #[xml(attr)]
    pub name: Option<String>,
    /// Image format.
    #[xml(attr = "type", format = "super::codec::DriverFormat")]
    pub kind: Option<StorageFormat>,
    #[xml(attr)]
    pub cache: Option<CacheMode>,
    #[xml(attr)]
    pub error_policy: Option<ErrorPolicy>,
    #[xml(attr)]
    pub rerror_policy: Option<ErrorPolicy>,
    #[xml(attr)]
    pub io: Option<IoMode>,
    #[xml(attr)]
    pub ioeventfd: Option<OnOff>,
    #[xml(attr)]
    pub event_idx: Option<OnOff>,
    #[xml(attr)]
    pub copy_on_read: Option<OnOff>,
    #[xml(attr)]
    pub discard: Option<Discard>,
    #[xml(attr)]
    pub iothread: Option<u32>,
    #[xml(attr)]
    pub detect_zeroes: Option<DetectZeroes>,
    #[xml(attr)]
    pub discard_no_unref: Option<OnOff>,
    #[xml(attr)]
    pub queues: Option<u32>,
    #[xml(attr)]
    pub queue_size: Option<u32>,
    #[xml(flatten)]
    pub virtio: VirtioOptions,
    #[xml(child)]
    pub metadata_cache: Option<MetadataCache>,
    #[xml(child)]
    pub iothreads: Option<IoThreads>,
}

/// `<target>`: the disk's name, and the bus.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskTarget {
    /// `vda`, `sdb`, ... : unique in the guest, a hint at most to it.
    #[xml(attr)]
    pub dev: String,
    #[xml(attr)]
    pub bus: Option<DiskBus>,
    #[xml(attr)]
    pub tray: Option<Tray>,
    #[xml(attr)]
    pub removable: Option<OnOff>,
    /// Rounds per minute; 1 is for disks that do not turn.
    #[xml(attr)]
    pub rotation_rate: Option<u32>,
}

/// Geometry the guest's firmware is told.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Geometry {
    #[xml(attr)]
    pub cyls: u32,
    #[xml(attr)]
    pub heads: u32,
    #[xml(attr)]
    pub secs: u32,
    #[xml(attr)]
    pub trans: Option<GeometryTrans>,
}

/// Block sizes, in bytes.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIo {
    #[xml(attr)]
    pub logical_block_size: Option<u32>,
    #[xml(attr)]
    pub physical_block_size: Option<u32>,
    #[xml(attr)]
    pub discard_granularity: Option<u32>,
}

/// Throttling of a disk or a throttle group: bytes and operations a second, bursts, and
/// burst lengths in seconds.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IoTune {
    #[xml(text_child)]
    pub total_bytes_sec: Option<u64>,
    #[xml(text_child)]
    pub read_bytes_sec: Option<u64>,
    #[xml(text_child)]
    pub write_bytes_sec: Option<u64>,
    #[xml(text_child)]
    pub total_iops_sec: Option<u64>,
    #[xml(text_child)]
    pub read_iops_sec: Option<u64>,
    #[xml(text_child)]
    pub write_iops_sec: Option<u64>,
    #[xml(text_child)]
    pub total_bytes_sec_max: Option<u64>,
    #[xml(text_child)]
    pub read_bytes_sec_max: Option<u64>,
    #[xml(text_child)]
    pub write_bytes_sec_max: Option<u64>,
    #[xml(text_child)]
    pub total_iops_sec_max: Option<u64>,
    #[xml(text_child)]
    pub read_iops_sec_max: Option<u64>,
    #[xml(text_child)]
    pub write_iops_sec_max: Option<u64>,
    #[xml(text_child)]
    pub size_iops_sec: Option<u64>,
    #[xml(text_child)]
    pub group_name: Option<String>,
    #[xml(text_child)]
    pub total_bytes_sec_max_length: Option<u64>,
    #[xml(text_child)]
    pub read_bytes_sec_max_length: Option<u64>,
    #[xml(text_child)]
    pub write_bytes_sec_max_length: Option<u64>,
    #[xml(text_child)]
    pub total_iops_sec_max_length: Option<u64>,
    #[xml(text_child)]
    pub read_iops_sec_max_length: Option<u64>,
    #[xml(text_child)]
    pub write_iops_sec_max_length: Option<u64>,
}

/// Throttle groups the disk's I/O passes, outermost first.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ThrottleFilters {
    #[xml(children = "throttlefilter")]
    pub filters: Vec<ThrottleFilter>,
}

/// A throttle group by name.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct ThrottleFilter {
    #[xml(attr)]
    pub group: Option<String>,
}

/// Changes are thrown away when the guest stops.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Transient {
    #[xml(attr = "shareBacking")]
    pub share_backing: Option<YesNo>,
}
