//! `<memory>`: a memory module.

use xmlform::Xml;

use super::common::{Size, YesNo, words};
use super::info::DeviceInfo;

words! {
    /// Memory module.
    MemoryModel {
        Dimm "dimm", Nvdimm "nvdimm", VirtioPmem "virtio-pmem", VirtioMem "virtio-mem",
        SgxEpc "sgx-epc",
    }
    /// Whether other processes see what the guest writes.
    MemoryAccess { Shared "shared", Private "private" }
}

/// A memory module.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Memory {
    #[xml(attr)]
    pub model: MemoryModel,
    #[xml(attr)]
    pub access: Option<MemoryAccess>,
    #[xml(attr)]
    pub discard: Option<YesNo>,
    #[xml(text_child)]
    pub uuid: Option<String>,
    #[xml(child)]
    pub source: Option<MemorySource>,
    #[xml(child)]
    pub target: Option<MemoryTarget>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<source>` of a memory module.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySource {
    /// Host NUMA nodes, as a list of ranges.
    #[xml(text_child)]
    pub nodemask: Option<String>,
    #[xml(child, blank)]
    pub pagesize: Option<Size>,
    #[xml(text_child)]
    pub path: Option<String>,
    #[xml(child, blank)]
    pub alignsize: Option<Size>,
    /// Whether the host's memory is persistent.
    #[xml(flag)]
    pub pmem: bool,
}

/// `<target>` of a memory module.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTarget {
    #[xml(attr = "dynamicMemslots")]
    pub dynamic_memslots: Option<YesNo>,
    #[xml(child, blank)]
    pub size: Option<Size>,
    /// Guest NUMA node.
    #[xml(text_child)]
    pub node: Option<u32>,
    #[xml(child)]
    pub label: Option<MemoryLabel>,
    #[xml(flag)]
    pub readonly: bool,
    #[xml(child, blank)]
    pub block: Option<Size>,
    #[xml(child, blank)]
    pub requested: Option<Size>,
    /// What the guest has of it now.
    #[xml(child, when = "live")]
    pub current: Option<Size>,
    /// Guest-physical address of a virtio module.
    #[xml(attr = "base", wrap = "address", format = "super::codec::HexWord<1>")]
    pub address: Option<u64>,
}

/// Label area of an NVDIMM.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryLabel {
    #[xml(child, blank)]
    pub size: Option<Size>,
}
