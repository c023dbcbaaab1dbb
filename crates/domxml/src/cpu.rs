//! `<cpu>`: model, topology, caches, features, and the guest's NUMA cells.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{Xml, XmlChoice};

use crate::Bitmap;
use crate::devices::common::{OnOff, YesNo, words};
use crate::units::scaled_attrs;

words! {
    /// How the model is chosen.
    CpuMode {
        Custom "custom", HostModel "host-model", HostPassthrough "host-passthrough",
        Maximum "maximum",
    }
    /// How close the guest's CPU must be to the model.
    CpuMatch { Exact "exact", Minimum "minimum", Strict "strict" }
    /// What is checked before the guest starts.
    CpuCheck { None "none", Partial "partial", Full "full" }
    /// What is done when the model is not to be had.
    CpuFallback { Allow "allow", Forbid "forbid" }
    /// What is asked of a feature.
    FeaturePolicy {
        Force "force", Require "require", Optional "optional", Disable "disable",
        Forbid "forbid",
    }
    /// Caches the guest sees.
    CpuCacheMode { Emulate "emulate", Passthrough "passthrough", Disable "disable" }
    /// Where the width of addresses comes from.
    MaxPhysAddrMode { Passthrough "passthrough", Emulate "emulate" }
    /// Whether others see the guest's memory.
    MemAccess { Shared "shared", Private "private" }
    /// Of a memory-side cache.
    CacheAssociativity { None "none", Direct "direct", Full "full" }
    /// Of a memory-side cache.
    CachePolicy { None "none", Writeback "writeback", Writethrough "writethrough" }
    /// What a latency or bandwidth is of.
    AccessType { Access "access", Read "read", Write "write" }
}

/// `<cpu>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    #[xml(attr, error = "unsupported configuration: Invalid mode attribute '{}'")]
    pub mode: Option<CpuMode>,
    #[xml(attr = "match")]
    pub match_: Option<CpuMatch>,
    #[xml(attr, lax)]
    pub check: Option<CpuCheck>,
    #[xml(attr)]
    pub migratable: Option<OnOff>,
    #[xml(attr)]
    pub deprecated_features: Option<OnOff>,
    #[xml(child)]
    pub model: Option<CpuModel>,
    #[xml(text_child)]
    pub vendor: Option<String>,
    #[xml(child)]
    pub topology: Option<Topology>,
    #[xml(child)]
    pub cache: Option<CpuCache>,
    #[xml(child)]
    pub maxphysaddr: Option<MaxPhysAddr>,
    #[xml(children = "feature")]
    pub features: Vec<CpuFeature>,
    #[xml(child)]
    pub numa: Option<Numa>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuModel {
    #[xml(attr, blank, error = "unsupported configuration: Invalid fallback attribute")]
    pub fallback: Option<CpuFallback>,
    /// 12 characters.
    #[xml(attr)]
    pub vendor_id: Option<String>,
    #[xml(text)]
    pub name: Option<String>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    #[xml(attr)]
    pub sockets: u32,
    #[xml(attr, default = "1", always)]
    pub dies: u32,
    #[xml(attr, default = "1", always)]
    pub clusters: u32,
    #[xml(attr)]
    pub cores: u32,
    #[xml(attr)]
    pub threads: u32,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCache {
    #[xml(attr)]
    pub level: Option<u32>,
    #[xml(attr)]
    pub mode: CpuCacheMode,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxPhysAddr {
    #[xml(attr)]
    pub mode: MaxPhysAddrMode,
    #[xml(attr)]
    pub bits: Option<u32>,
    #[xml(attr)]
    pub limit: Option<u32>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuFeature {
    #[xml(attr, error = "unsupported configuration: Invalid CPU feature policy")]
    pub policy: Option<FeaturePolicy>,
    #[xml(attr, missing = "XML error: Invalid CPU feature name")]
    pub name: String,
}

/// `<numa>`: the guest's memory and CPUs by cell.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Numa {
    #[xml(children = "cell")]
    pub cells: Vec<Cell>,
    #[xml(child)]
    pub interconnects: Option<Interconnects>,
}

scaled_attrs! {
    /// Memory of a cell in KiB: `memory`, `unit`.
    CellMemory = "memory" 1024 "KiB";
    /// Size of a cache in KiB: `value`, `unit`.
    CacheSize = "value" 1024 "KiB";
    /// Line of a cache in bytes: `value`, `unit`.
    CacheLine = "value" 1 "B";
    /// Bandwidth in KiB per second: `value`, `unit`.
    Bandwidth = "value" 1024 "KiB";
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The order in the document when absent.
    #[xml(attr)]
    pub id: Option<u32>,
    #[xml(attr)]
    pub cpus: Option<Bitmap>,
    #[xml(flatten)]
    pub memory: CellMemory,
    #[xml(attr = "memAccess")]
    pub mem_access: Option<MemAccess>,
    #[xml(attr)]
    pub discard: Option<YesNo>,
    #[xml(children = "sibling", wrap = "distances")]
    pub distances: Vec<Sibling>,
    #[xml(children = "cache")]
    pub caches: Vec<CellCache>,
}

/// Distance to another cell: 10 to itself, at most 255.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sibling {
    #[xml(attr)]
    pub id: u32,
    #[xml(attr)]
    pub value: u32,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellCache {
    #[xml(attr)]
    pub level: u32,
    #[xml(attr)]
    pub associativity: CacheAssociativity,
    #[xml(attr)]
    pub policy: CachePolicy,
    #[xml(child)]
    pub size: Option<CacheSize>,
    #[xml(child)]
    pub line: Option<CacheLine>,
}

/// Latencies and bandwidths between cells, in the document's order.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Interconnects {
    #[xml(choice)]
    pub all: Vec<Interconnect>,
}

#[derive(XmlChoice, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interconnect {
    #[xml("latency")]
    Latency(InterconnectLatency),
    #[xml("bandwidth")]
    Bandwidth(InterconnectBandwidth),
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterconnectLatency {
    #[xml(attr)]
    pub initiator: u32,
    #[xml(attr)]
    pub target: u32,
    /// Level of the memory-side cache.
    #[xml(attr)]
    pub cache: Option<u32>,
    #[xml(attr = "type")]
    pub kind: AccessType,
    /// Nanoseconds.
    #[xml(attr)]
    pub value: u64,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterconnectBandwidth {
    #[xml(attr)]
    pub initiator: u32,
    #[xml(attr)]
    pub target: u32,
    /// Level of the memory-side cache.
    #[xml(attr)]
    pub cache: Option<u32>,
    #[xml(attr = "type")]
    pub kind: AccessType,
    #[xml(flatten)]
    pub value: Bandwidth,
}
