//! Facts of the host, read from the kernel's files below a given root: what `nodeinfo`, `nodecpumap`,
//! `nodememstats`, `freepages` and the host part of a capabilities document are made of.
//!
//! All functions are plain readers, but those that set page merging, pools of huge pages and the drivers of PCI devices:
//! no state, no cache, no program run, no name looked up. A file that a kernel may
//! lack gives an absent value; only what every Linux has is an error when missing. Numbers are counted as libvirt
//! counts them, which is not always how one would count them; the places say so.

mod cache;
mod cells;
mod cpu;
mod cpu_baseline;
mod cpu_compare;
mod cpu_data;
mod cpu_document;
mod cpu_models;
mod cpulist;
mod device;
mod error;
mod guest_model;
mod identity;
mod ksm;
mod mdev;
mod memory;
mod node;
mod pci;
mod pci_bind;
mod pool;
mod print;
mod root;
mod scsi;
mod smbios;
mod stats;
mod usb;
mod virtual_function;

pub use cache::{Bank, BankKind, caches};
pub use cells::{Cell, CellCpu, Distance, cells, has_cell};
pub use cpu::{CpuIdentity, cpu_identity, frequency};
pub use cpu_baseline::Baseline;
pub use cpu_compare::Comparison;
pub use cpu_data::{CpuData, CpuSignature, FEATURE_MSRS, Place};
pub use cpu_document::{CpuDescription, CpuError, CpuKind, Policy};
pub use cpu_models::{CpuFeature, CpuModel, CpuModels, FeatureSet, HostModel, ModelSignature};
pub use cpulist::{CpuSet, format_cpu_list, parse_cpu_list};
pub use device::DeviceError;
pub use error::{Error, Result};
pub use guest_model::{GuestModel, Offered, OfferedModel};
pub use identity::{
    Kernel, arch, has_iommu, has_kvm, hostname, kernel, machine_id, sleep_states, smbios_uuid,
};
pub use ksm::{Ksm, KsmSetting, has_ksm_setting, ksm, set_ksm};
pub use mdev::{check_mdev, mdev_group};
pub use memory::{MemoryStats, PageCount, cell_memory_stats, cell_pages, memory_stats, page_sizes, pages};
pub use node::{CpuMap, NodeInfo, cpu_map, node_info};
pub use pci::{
    NotPci, PciAddress, PciDriver, check_pci, has_vfio, iommu_group, iommu_peers, is_conventional,
    is_endpoint, pci_driver,
};
pub use pci_bind::{Binding, bind, driver_of_module, reset, unbind, vfio_module};
pub use pool::{Pool, Refusal, Resize, resize_pool};
pub use print::{Landmarks, Print};
pub use root::Root;
pub use scsi::{ScsiPlace, scsi_node, scsi_node_path};
pub use smbios::{Sysinfo, SysinfoTable, sysinfo};
pub use stats::{CpuTimes, cpu_times};
pub use usb::{UsbDevice, usb_devices};
pub use virtual_function::{VirtualFunction, virtual_function};

/// What the host part of a capabilities document needs, in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Counts of CPUs, sockets, memory.
    pub node: NodeInfo,
    /// The CPU as `/proc/cpuinfo` describes it.
    pub cpu: CpuIdentity,
    /// Sizes of pages in KiB, ascending; the first is the usual one.
    pub page_sizes: Vec<u64>,
    /// NUMA cells; one made up of all when the kernel knows none.
    pub cells: Vec<Cell>,
    /// Caches of level 2 and up.
    pub caches: Vec<Bank>,
    /// Whether devices can be isolated.
    pub iommu: bool,
    /// The machine's UUID from its firmware, if it has a plausible one.
    pub smbios_uuid: Option<[u8; 16]>,
}

impl HostFacts {
    /// Reads them all. Takes a few hundred small reads on a large machine; keep the result.
    ///
    /// # Errors
    /// When the kernel's files are missing or not understood.
    pub fn read(root: &Root) -> Result<Self> {
        Ok(Self {
            node: node_info(root)?,
            cpu: cpu_identity(root)?,
            page_sizes: page_sizes(root)?,
            cells: cells(root)?,
            caches: caches(root)?,
            iommu: has_iommu(root)?,
            smbios_uuid: smbios_uuid(root)?,
        })
    }
}
