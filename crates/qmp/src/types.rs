//! What QEMU returns, as far as somebody here reads it: QEMU's names, unknown fields ignored, unknown words kept.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::open_enum::open_enum;

/// Nothing: an empty object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Empty {}

open_enum! {
    /// What a guest is doing.
    RunState {
        /// Stopped by a debugger.
        Debug = "debug",
        /// Waits for an incoming migration.
        Inmigrate = "inmigrate",
        /// Stopped: QEMU or KVM met what it cannot handle.
        InternalError = "internal-error",
        /// Stopped: a disk failed and its policy is to stop.
        IoError = "io-error",
        /// Stopped on request.
        Paused = "paused",
        /// Stopped after it went elsewhere.
        Postmigrate = "postmigrate",
        /// Not run yet.
        Prelaunch = "prelaunch",
        /// Stopped to finish a migration.
        FinishMigrate = "finish-migrate",
        /// Stopped to load a state.
        RestoreVm = "restore-vm",
        /// Runs.
        Running = "running",
        /// Stopped to save a state.
        SaveVm = "save-vm",
        /// Shut down, QEMU still there.
        Shutdown = "shutdown",
        /// Suspended to memory by the guest.
        Suspended = "suspended",
        /// Stopped by its watchdog.
        Watchdog = "watchdog",
        /// Its system crashed.
        GuestPanicked = "guest-panicked",
        /// COLO fault tolerance holds it.
        Colo = "colo",
    }
}

/// `query-status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatusInfo {
    /// Whether its CPUs run.
    pub running: bool,
    /// Why or why not.
    pub status: RunState,
}

/// One virtual CPU of `query-cpus-fast`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInfoFast {
    /// Index.
    pub cpu_index: i64,
    /// QOM path.
    pub qom_path: String,
    /// Thread of the host that runs it.
    pub thread_id: i32,
    /// Where it sits.
    #[serde(default)]
    pub props: CpuInstanceProperties,
}

/// Where a CPU sits, as far as its machine says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CpuInstanceProperties {
    /// NUMA node.
    pub node_id: Option<i64>,
    /// Socket.
    pub socket_id: Option<i64>,
    /// Die.
    pub die_id: Option<i64>,
    /// Cluster.
    pub cluster_id: Option<i64>,
    /// Module.
    pub module_id: Option<i64>,
    /// Core.
    pub core_id: Option<i64>,
    /// Thread.
    pub thread_id: Option<i64>,
}

/// One slot of `query-hotpluggable-cpus`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HotpluggableCpu {
    /// Device type to plug.
    pub r#type: String,
    /// Virtual CPUs it brings.
    pub vcpus_count: u32,
    /// What to plug it with.
    pub props: CpuInstanceProperties,
    /// QOM path of what is plugged; none: the slot is free.
    pub qom_path: Option<String>,
}

/// `query-balloon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct BalloonInfo {
    /// Memory the guest has, in bytes.
    pub actual: u64,
}

/// `query-memory-size-summary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemorySizeSummary {
    /// Bytes at start.
    pub base_memory: u64,
    /// Bytes plugged since.
    pub plugged_memory: Option<u64>,
}

/// One device of `query-memory-devices`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MemoryDevice {
    /// `dimm`, `nvdimm`, `virtio-mem`, `virtio-pmem`, `sgx-epc` or newer.
    pub r#type: String,
    /// Facts by type.
    pub data: MemoryDeviceData,
}

/// What is said of a memory device; which of these depends on its type.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryDeviceData {
    /// Device's id.
    pub id: Option<String>,
    /// Back end's QOM path.
    pub memdev: Option<String>,
    /// Guest address (`dimm`).
    pub addr: Option<u64>,
    /// Guest address (others).
    pub memaddr: Option<u64>,
    /// Slot (`dimm`).
    pub slot: Option<i64>,
    /// NUMA node.
    pub node: Option<i64>,
    /// Bytes plugged now.
    pub size: Option<u64>,
    /// Bytes wanted (`virtio-mem`).
    pub requested_size: Option<u64>,
    /// Bytes at most (`virtio-mem`).
    pub max_size: Option<u64>,
    /// Bytes a block (`virtio-mem`).
    pub block_size: Option<u64>,
    /// Plugged while running (`dimm`).
    pub hotplugged: Option<bool>,
}

/// One set of `query-fdsets`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FdsetInfo {
    /// Its number.
    pub fdset_id: i64,
    /// Its descriptors.
    pub fds: Vec<FdsetFdInfo>,
}

/// One descriptor of a set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FdsetFdInfo {
    /// Number in QEMU.
    pub fd: i64,
    /// The free text that came with it.
    pub opaque: Option<String>,
}

/// One device of `query-block`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockInfo {
    /// Back end's old name; empty with `-blockdev`.
    #[serde(default)]
    pub device: String,
    /// Device's id or QOM path.
    pub qdev: Option<String>,
    /// Whether the medium can be taken out.
    #[serde(default)]
    pub removable: bool,
    /// Whether the guest has locked the tray.
    #[serde(default)]
    pub locked: bool,
    /// Whether the tray is open; none: there is none.
    pub tray_open: Option<bool>,
    /// `ok`, `failed`, `nospace`.
    #[serde(rename = "io-status")]
    pub io_status: Option<String>,
    /// The medium.
    pub inserted: Option<BlockDeviceInfo>,
}

/// A block node: `inserted` of `query-block`, an element of `query-named-block-nodes`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockDeviceInfo {
    /// Node's name.
    #[serde(rename = "node-name")]
    pub node_name: Option<String>,
    /// File name as QEMU would write it.
    #[serde(default)]
    pub file: String,
    /// Driver.
    #[serde(default)]
    pub drv: String,
    /// Read-only.
    #[serde(default)]
    pub ro: bool,
    /// Backing file's name.
    pub backing_file: Option<String>,
    /// Sizes; absent when asked for flat.
    pub image: Option<ImageInfo>,
    /// Writes above this offset raise an event; 0: none do.
    #[serde(default)]
    pub write_threshold: u64,
    /// Dirty bitmaps.
    #[serde(rename = "dirty-bitmaps", default)]
    pub dirty_bitmaps: Vec<BlockDirtyInfo>,
    /// Limits of throughput.
    #[serde(flatten)]
    pub throttle: IoThrottle,
}

/// Limits of a disk's throughput in bytes or operations a second; 0: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "QEMU's own names; bursts end in _max, their seconds in _max_length"
)]
pub struct IoThrottle {
    pub bps: u64,
    pub bps_rd: u64,
    pub bps_wr: u64,
    pub iops: u64,
    pub iops_rd: u64,
    pub iops_wr: u64,
    pub bps_max: u64,
    pub bps_rd_max: u64,
    pub bps_wr_max: u64,
    pub iops_max: u64,
    pub iops_rd_max: u64,
    pub iops_wr_max: u64,
    pub bps_max_length: u64,
    pub bps_rd_max_length: u64,
    pub bps_wr_max_length: u64,
    pub iops_max_length: u64,
    pub iops_rd_max_length: u64,
    pub iops_wr_max_length: u64,
    pub iops_size: u64,
    pub group: Option<String>,
}

/// A dirty bitmap of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct BlockDirtyInfo {
    /// Name.
    pub name: Option<String>,
    /// Dirty bytes.
    pub count: u64,
    /// Bytes a bit.
    pub granularity: u32,
    /// Records writes.
    pub recording: bool,
    /// Somebody uses it.
    pub busy: bool,
    /// Is kept in the image.
    pub persistent: bool,
    /// Is of no use: it was not closed properly.
    pub inconsistent: bool,
}

/// A snapshot in an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Bytes of the guest's memory; 0: it is not with it.
    pub vm_state_size: u64,
}

/// Sizes of an image, in bytes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// File name.
    pub filename: String,
    /// Format.
    pub format: String,
    /// What the guest sees.
    pub virtual_size: u64,
    /// What the host has given to it.
    pub actual_size: Option<u64>,
    /// Size of a cluster, where the format has clusters.
    pub cluster_size: Option<u64>,
    /// Backing file's name as in the image.
    pub backing_filename: Option<String>,
    /// Snapshots in the image.
    #[serde(default)]
    pub snapshots: Vec<SnapshotInfo>,
    /// The image below.
    pub backing_image: Option<Box<ImageInfo>>,
}

/// One node or device of `query-blockstats`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockStats {
    /// Back end's old name; empty with `-blockdev`.
    pub device: Option<String>,
    /// Device's id or QOM path.
    pub qdev: Option<String>,
    /// Node's name.
    #[serde(rename = "node-name")]
    pub node_name: Option<String>,
    /// Counters.
    pub stats: BlockDeviceStats,
    /// The node that holds this one's bytes.
    pub parent: Option<Box<BlockStats>>,
    /// The node below.
    pub backing: Option<Box<BlockStats>>,
}

/// Counters of a disk since its start: bytes, operations, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "QEMU's own names, said in full by the type's line")]
pub struct BlockDeviceStats {
    pub rd_bytes: u64,
    pub wr_bytes: u64,
    pub rd_operations: u64,
    pub wr_operations: u64,
    pub flush_operations: u64,
    pub unmap_bytes: u64,
    pub unmap_operations: u64,
    pub rd_total_time_ns: u64,
    pub wr_total_time_ns: u64,
    pub flush_total_time_ns: u64,
    /// Highest byte written, where the format can tell.
    pub wr_highest_offset: u64,
}

/// One back end of `query-chardev`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChardevInfo {
    /// Id.
    pub label: String,
    /// What it is, such as `pty:/dev/pts/3` or `disconnected:unix:...`.
    pub filename: String,
    /// Whether the guest has opened its side.
    #[serde(default)]
    pub frontend_open: bool,
}

/// `query-vnc`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VncInfo {
    /// Whether there is one.
    pub enabled: bool,
    /// Address.
    pub host: Option<String>,
    /// `ipv4`, `ipv6`, `unix`.
    pub family: Option<String>,
    /// Port, or path.
    pub service: Option<String>,
    /// Kind of authentication.
    pub auth: Option<String>,
}

/// One thread of `query-iothreads`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IoThreadInfo {
    /// Id.
    pub id: String,
    /// Thread of the host.
    pub thread_id: i32,
    /// Longest polling, in nanoseconds.
    #[serde(default)]
    pub poll_max_ns: i64,
    /// Factor of its growth; 0: default.
    #[serde(default)]
    pub poll_grow: i64,
    /// Divisor of its shrinking; 0: default.
    #[serde(default)]
    pub poll_shrink: i64,
}

/// One bus of `query-pci`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PciInfo {
    /// Number.
    pub bus: i64,
    /// What is on it.
    pub devices: Vec<PciDeviceInfo>,
}

/// A PCI device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PciDeviceInfo {
    /// Bus number.
    pub bus: i64,
    /// Slot.
    pub slot: i64,
    /// Function.
    pub function: i64,
    /// Device's id; empty for those nobody named.
    #[serde(default)]
    pub qdev_id: String,
    /// What is behind, if it is a bridge.
    pub pci_bridge: Option<Value>,
}

/// One interface of `query-rx-filter`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RxFilterInfo {
    /// Device's name.
    pub name: String,
    /// Takes every frame.
    pub promiscuous: bool,
    /// `normal`, `none`, `all`.
    pub multicast: String,
    /// Same for unicast.
    pub unicast: String,
    /// Same for VLANs.
    pub vlan: String,
    /// Whether broadcasts are let through.
    pub broadcast_allowed: bool,
    /// More multicast addresses were asked for than are kept.
    pub multicast_overflow: bool,
    /// Same for unicast.
    pub unicast_overflow: bool,
    /// Its own address.
    pub main_mac: String,
    /// VLANs let through.
    pub vlan_table: Vec<i64>,
    /// Unicast addresses let through.
    pub unicast_table: Vec<String>,
    /// Multicast addresses let through.
    pub multicast_table: Vec<String>,
}

/// A property or child of `qom-list`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ObjectPropertyInfo {
    /// Name.
    pub name: String,
    /// Type, such as `uint64`, `child<pc-dimm>`, `link<memory-backend>`.
    pub r#type: String,
}

/// `add-fd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddfdInfo {
    /// The set.
    pub fdset_id: i64,
    /// Its number in QEMU.
    pub fd: i64,
}

/// How fast memory is written: `query-dirty-rate`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DirtyRateInfo {
    /// `unstarted`, `measuring`, `measured`.
    pub status: String,
    /// When measuring began, seconds since 1970.
    pub start_time: i64,
    /// How long was measured, in seconds.
    pub calc_time: i64,
    /// MiB a second, once measured.
    pub dirty_rate: Option<i64>,
    /// `page-sampling`, `dirty-ring`, `dirty-bitmap`.
    pub mode: Option<String>,
}

/// One job of `query-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobInfo {
    /// Id.
    pub id: String,
    /// Kind.
    pub r#type: String,
    /// `created`, `running`, `paused`, `ready`, `standby`, `waiting`, `pending`, `aborting`, `concluded`, `null`.
    pub status: String,
    /// Done, in the job's own unit.
    pub current_progress: u64,
    /// To do in all, in the same unit; may grow.
    pub total_progress: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// One export of `query-block-exports`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockExportInfo {
    /// Id.
    pub id: String,
}

/// One job of `query-block-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockJobInfo {
    /// Kind: `commit`, `stream`, `mirror`, `backup`.
    pub r#type: String,
    /// Id.
    pub device: String,
    /// Bytes to do in all.
    pub len: u64,
    /// Bytes done.
    pub offset: u64,
    /// Bytes a second; 0: no limit.
    pub speed: u64,
    /// May be completed.
    pub ready: bool,
    /// Stopped.
    #[serde(default)]
    pub paused: bool,
    /// `created`, `running` and so on, as in [`JobInfo`].
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// Something that migrations can do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct MigrationCapability {
    /// Name.
    pub capability: String,
    /// Whether they do it.
    pub state: bool,
}

/// `query-current-machine`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CurrentMachine {
    /// A guest that sleeps can be woken.
    pub wakeup_suspend_support: bool,
}

/// `query-dump-guest-memory-capability`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DumpGuestMemoryCapability {
    /// Their names, such as `elf` and `kdump-zlib`.
    pub formats: Vec<String>,
}

/// `query-dump`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DumpQueryResult {
    /// `none`, `active`, `completed`, `failed`.
    pub status: String,
    /// Bytes done.
    pub completed: u64,
    /// Bytes to do.
    pub total: u64,
}
