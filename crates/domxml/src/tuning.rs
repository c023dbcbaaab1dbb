//! What the guest may use of the host: CPUs, memory, I/O, threads.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{Error, Node, Writer, Xml, codec, field};

use crate::Bitmap;
use crate::devices::common::{YesNo, words};
use crate::units::{Kib, pretty, scale, scaled_attrs};

words! {
    /// Who places the guest's CPUs or memory.
    Placement { Static "static", Auto "auto" }
    /// How memory is placed on nodes.
    NumaMode {
        Strict "strict", Preferred "preferred", Interleave "interleave",
        Restrictive "restrictive",
    }
    /// Scheduler of threads.
    Scheduler { Batch "batch", Idle "idle", Fifo "fifo", Rr "rr" }
    /// What a cache allocation is for.
    CacheType { Both "both", Code "code", Data "data" }
    /// Where the guest's memory comes from.
    MemorySource { None "none", File "file", Anonymous "anonymous", Memfd "memfd" }
    /// Whether others see the guest's memory.
    MemoryAccess { Shared "shared", Private "private" }
    /// When memory is allocated.
    MemoryAllocation { Immediate "immediate", Ondemand "ondemand" }
}

/// Names of the numbers of a throttle, in the order in which documents have them.
pub const THROTTLES: [&str; 19] = [
    "total_bytes_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "read_iops_sec",
    "write_iops_sec",
    "total_bytes_sec_max",
    "read_bytes_sec_max",
    "write_bytes_sec_max",
    "total_iops_sec_max",
    "read_iops_sec_max",
    "write_iops_sec_max",
    "size_iops_sec",
    "total_bytes_sec_max_length",
    "read_bytes_sec_max_length",
    "write_bytes_sec_max_length",
    "total_iops_sec_max_length",
    "read_iops_sec_max_length",
    "write_iops_sec_max_length",
];

/// `<vcpu>`: the most CPUs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Vcpu {
    #[xml(attr)]
    pub placement: Option<Placement>,
    #[xml(attr)]
    pub cpuset: Option<Bitmap>,
    /// How many there are at start, when fewer.
    #[xml(attr)]
    pub current: Option<u32>,
    #[xml(
        text,
        format = "crate::devices::codec::Wrapped",
        error = "XML error: maximum vcpus count must be an integer"
    )]
    pub count: u32,
}

/// `<vcpus>`: each CPU by itself.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Vcpus {
    #[xml(children = "vcpu")]
    pub all: Vec<VcpuState>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuState {
    #[xml(attr)]
    pub id: u32,
    #[xml(attr)]
    pub enabled: YesNo,
    #[xml(attr)]
    pub hotpluggable: Option<YesNo>,
    #[xml(attr)]
    pub order: Option<u32>,
}

/// `<blkiotune>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTune {
    /// From 100 to 1000, or from 10 with later kernels.
    #[xml(text_child, lax)]
    pub weight: Option<u32>,
    #[xml(children = "device")]
    pub devices: Vec<BlockTuneDevice>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTuneDevice {
    #[xml(text_child, error = "unsupported configuration: missing per-device path")]
    pub path: String,
    #[xml(
        text_child,
        format = "crate::devices::codec::Wrapped",
        error = "unsupported configuration: could not parse weight {}"
    )]
    pub weight: Option<u32>,
    #[xml(
        text_child,
        format = "crate::devices::codec::Wrapped",
        error = "unsupported configuration: could not parse read iops sec {}"
    )]
    pub read_iops_sec: Option<u32>,
    #[xml(
        text_child,
        format = "crate::devices::codec::Wrapped",
        error = "unsupported configuration: could not parse write iops sec {}"
    )]
    pub write_iops_sec: Option<u32>,
    #[xml(
        text_child,
        format = "crate::devices::codec::Wrapped",
        error = "unsupported configuration: could not parse read bytes sec {}"
    )]
    pub read_bytes_sec: Option<u64>,
    #[xml(
        text_child,
        format = "crate::devices::codec::Wrapped",
        error = "unsupported configuration: could not parse write bytes sec {}"
    )]
    pub write_bytes_sec: Option<u64>,
}

impl BlockTuneDevice {
    /// Whether anything is said of the device but its path.
    pub(crate) fn says_something(&self) -> bool {
        let Self {
            path: _,
            weight,
            read_iops_sec,
            write_iops_sec,
            read_bytes_sec,
            write_bytes_sec,
        } = self;
        let operations = [weight, read_iops_sec, write_iops_sec];
        let bytes = [read_bytes_sec, write_bytes_sec];
        operations.iter().any(|n| n.is_some()) || bytes.iter().any(|n| n.is_some())
    }
}

/// `<memtune>`.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryTune {
    #[xml(child, blank)]
    pub hard_limit: Option<Kib>,
    #[xml(child, blank)]
    pub soft_limit: Option<Kib>,
    #[xml(child, blank)]
    pub min_guarantee: Option<Kib>,
    #[xml(child, blank)]
    pub swap_hard_limit: Option<Kib>,
}

/// `<memoryBacking>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBacking {
    #[xml(child, keep_empty)]
    pub hugepages: Option<HugePages>,
    #[xml(flag)]
    pub nosharepages: bool,
    #[xml(flag)]
    pub locked: bool,
    #[xml(
        attr = "type",
        wrap = "source",
        blank,
        error = "unsupported configuration: unknown memoryBacking/source/type '{}'"
    )]
    pub source: Option<MemorySource>,
    #[xml(
        attr = "mode",
        wrap = "access",
        blank,
        error = "unsupported configuration: unknown memoryBacking/access/mode '{}'"
    )]
    pub access: Option<MemoryAccess>,
    #[xml(child)]
    pub allocation: Option<Allocation>,
    #[xml(flag)]
    pub discard: bool,
}

/// `<hugepages>`: of the default size when no page is listed.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    #[xml(children = "page")]
    pub pages: Vec<HugePage>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePage {
    #[xml(flatten)]
    pub size: PageSize,
    /// Cells of the guest.
    #[xml(attr)]
    pub nodeset: Option<Bitmap>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    #[xml(
        attr,
        blank,
        error = "unsupported configuration: unknown memoryBacking/allocation/mode '{}'"
    )]
    pub mode: Option<MemoryAllocation>,
    #[xml(attr, blank)]
    pub threads: Option<u32>,
}

/// `<iothreadids>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IoThreadIds {
    #[xml(children = "iothread")]
    pub all: Vec<IoThread>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoThread {
    #[xml(attr)]
    pub id: u32,
    #[xml(flatten)]
    pub pool: IoThreadPool,
    #[xml(child)]
    pub poll: Option<IoThreadPoll>,
}

/// Bounds of a thread pool; also `<defaultiothread>`.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoThreadPool {
    #[xml(attr)]
    pub thread_pool_min: Option<i32>,
    #[xml(attr)]
    pub thread_pool_max: Option<i32>,
}

/// Polling of a thread, in nanoseconds and factors.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoThreadPoll {
    #[xml(attr)]
    pub max: Option<u64>,
    #[xml(attr)]
    pub grow: Option<u64>,
    #[xml(attr)]
    pub shrink: Option<u64>,
}

/// `<cputune>`. Periods and quotas are microseconds.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTune {
    #[xml(text_child, error = "XML error: can't parse cputune shares value")]
    pub shares: Option<u64>,
    #[xml(text_child, error = "XML error: can't parse cputune period value")]
    pub period: Option<u64>,
    #[xml(text_child, error = "XML error: can't parse cputune quota value")]
    pub quota: Option<i64>,
    #[xml(text_child, error = "XML error: can't parse cputune global period value")]
    pub global_period: Option<u64>,
    #[xml(text_child, error = "XML error: can't parse cputune global quota value")]
    pub global_quota: Option<i64>,
    #[xml(text_child, error = "XML error: can't parse cputune emulator period value")]
    pub emulator_period: Option<u64>,
    #[xml(text_child, error = "XML error: can't parse cputune emulator quota value")]
    pub emulator_quota: Option<i64>,
    #[xml(text_child, error = "XML error: can't parse cputune iothread period value")]
    pub iothread_period: Option<u64>,
    #[xml(text_child, error = "XML error: can't parse cputune iothread quota value")]
    pub iothread_quota: Option<i64>,
    #[xml(children = "vcpupin")]
    pub vcpupin: Vec<VcpuPin>,
    #[xml(attr = "cpuset", wrap = "emulatorpin")]
    pub emulatorpin: Option<Bitmap>,
    #[xml(children = "iothreadpin")]
    pub iothreadpin: Vec<IoThreadPin>,
    #[xml(child)]
    pub emulatorsched: Option<SchedulerChoice>,
    #[xml(children = "vcpusched")]
    pub vcpusched: Vec<VcpuSched>,
    #[xml(children = "iothreadsched")]
    pub iothreadsched: Vec<IoThreadSched>,
    #[xml(children = "cachetune")]
    pub cachetune: Vec<CacheTune>,
    #[xml(children = "memorytune")]
    pub memorytune: Vec<MemoryBandwidthTune>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuPin {
    #[xml(attr)]
    pub vcpu: u32,
    #[xml(attr)]
    pub cpuset: Bitmap,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IoThreadPin {
    #[xml(attr)]
    pub iothread: u32,
    #[xml(attr)]
    pub cpuset: Bitmap,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerChoice {
    #[xml(attr)]
    pub scheduler: Scheduler,
    /// With `fifo` and `rr`.
    #[xml(attr)]
    pub priority: Option<i32>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuSched {
    #[xml(attr)]
    pub vcpus: Bitmap,
    #[xml(flatten)]
    pub choice: SchedulerChoice,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IoThreadSched {
    #[xml(attr)]
    pub iothreads: Bitmap,
    #[xml(flatten)]
    pub choice: SchedulerChoice,
}

/// Shares of the host's caches for some CPUs of the guest.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheTune {
    #[xml(attr)]
    pub vcpus: Bitmap,
    #[xml(attr, when = "live")]
    pub id: Option<String>,
    #[xml(children = "cache")]
    pub caches: Vec<CacheAllocation>,
    #[xml(children = "monitor")]
    pub monitors: Vec<CacheMonitor>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheAllocation {
    /// The host's cache.
    #[xml(attr)]
    pub id: u32,
    #[xml(attr)]
    pub level: u32,
    #[xml(attr = "type")]
    pub kind: CacheType,
    #[xml(flatten)]
    pub size: CacheSpace,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheMonitor {
    #[xml(attr)]
    pub level: u32,
    #[xml(attr)]
    pub vcpus: Bitmap,
    #[xml(attr, when = "live")]
    pub id: Option<String>,
}

/// Memory bandwidth for some CPUs of the guest.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBandwidthTune {
    #[xml(attr)]
    pub vcpus: Bitmap,
    #[xml(attr, when = "live")]
    pub id: Option<String>,
    #[xml(children = "node")]
    pub nodes: Vec<NodeBandwidth>,
    #[xml(children = "monitor")]
    pub monitors: Vec<BandwidthMonitor>,
}

/// Percent of a node's bandwidth.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeBandwidth {
    #[xml(attr)]
    pub id: u32,
    #[xml(attr)]
    pub bandwidth: u32,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct BandwidthMonitor {
    #[xml(attr)]
    pub vcpus: Bitmap,
    #[xml(attr, when = "live")]
    pub id: Option<String>,
}

/// `<numatune>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaTune {
    #[xml(child)]
    pub memory: Option<NumaMemory>,
    #[xml(children = "memnode")]
    pub memnodes: Vec<MemNode>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaMemory {
    #[xml(attr)]
    pub mode: Option<NumaMode>,
    /// Nodes of the host.
    #[xml(attr)]
    pub nodeset: Option<Bitmap>,
    /// Written when it is `auto`.
    #[xml(attr, lax)]
    pub placement: Option<Placement>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemNode {
    /// A cell of the guest.
    #[xml(attr)]
    pub cellid: u32,
    #[xml(attr)]
    pub mode: Option<NumaMode>,
    /// Nodes of the host.
    #[xml(attr)]
    pub nodeset: Bitmap,
}

/// `<resource>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Control group the guest's own is in.
    #[xml(text_child)]
    pub partition: Option<String>,
    #[xml(attr = "appid", wrap = "fibrechannel")]
    pub fibrechannel: Option<String>,
}

scaled_attrs! {
    /// Size of a page in KiB: `size`, `unit`.
    PageSize = "size" 1024 "KiB";
}

/// A part of a cache in bytes: `size` and the largest `unit` that divides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSpace(pub u64);

impl Xml for CacheSpace {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let size = field::attr_required::<codec::Plain, u64>(node, "size")?;
        let unit = node.attr("unit").filter(|unit| !unit.is_empty());
        scale(size, unit.unwrap_or("KiB")).map(Self)
    }

    fn write_attrs(&self, w: &mut Writer) {
        let (size, unit) = pretty(self.0);
        w.attr::<codec::Plain, u64>("size", &size);
        w.attr_str("unit", unit);
    }

    fn write_content(&self, _: &mut Writer) {}
}
