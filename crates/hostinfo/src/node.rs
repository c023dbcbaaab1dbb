//! Counts of CPUs and memory: `virsh nodeinfo` and `virsh nodecpumap`.
//!
//! libvirt's counts are those of the largest NUMA node; when nodes × sockets × cores × threads is then not the number
//! of CPUs, it gives up on the structure and tells of one socket with as many cores as there are CPUs.

use std::collections::{BTreeMap, BTreeSet};

use crate::cpu::cpu_identity;
use crate::cpulist::{CpuSet, parse_cpu_list};
use crate::error::Result;
use crate::memory::total_memory;
use crate::root::Root;

pub(crate) const CPUS: &str = "sys/devices/system/cpu";
pub(crate) const NODES: &str = "sys/devices/system/node";

/// What `virsh nodeinfo` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The architecture, "x86_64".
    pub model: String,
    /// Memory in KiB.
    pub memory: u64,
    /// CPUs online.
    pub cpus: u32,
    /// Frequency in MHz, 0 when unknown.
    pub mhz: u32,
    /// NUMA nodes, 1 when the structure is not regular.
    pub nodes: u32,
    /// Sockets a node.
    pub sockets: u32,
    /// Cores a socket.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

/// Which CPUs there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuMap {
    /// All that are plugged in.
    pub present: CpuSet,
    /// Those that run.
    pub online: CpuSet,
}

/// Reads the counts.
///
/// # Errors
/// When the kernel's files are missing or not understood.
pub fn node_info(root: &Root) -> Result<NodeInfo> {
    let cpu = cpu_identity(root)?;
    let shape = Shape::read(root, &cpu_map(root)?)?;
    Ok(NodeInfo {
        model: cpu.arch,
        memory: total_memory(root)?,
        cpus: shape.online,
        mhz: cpu.mhz,
        nodes: shape.nodes,
        sockets: shape.sockets,
        cores: shape.cores,
        threads: shape.threads,
    })
}

/// Reads which CPUs there are. A kernel without hotplug has all of them online.
///
/// # Errors
/// When the kernel's list is missing or not understood.
pub fn cpu_map(root: &Root) -> Result<CpuMap> {
    let file = format!("{CPUS}/present");
    let present = parse_cpu_list(&root.text(&file)?).ok_or_else(|| root.unparsed(&file, "list of CPUs"))?;
    let online = root.optional(&format!("{CPUS}/online"))?;
    let online = online
        .as_deref()
        .and_then(parse_cpu_list)
        .unwrap_or_else(|| present.clone());
    Ok(CpuMap { present, online })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    online: u32,
    offline: u32,
    nodes: u32,
    sockets: u32,
    cores: u32,
    threads: u32,
}

impl Shape {
    fn read(root: &Root, map: &CpuMap) -> Result<Self> {
        let nodes = root.numbered(NODES, "node")?;
        let mut shape = Self {
            nodes: count(nodes.len()),
            ..Self::default()
        };
        for node in nodes {
            shape.add(root, map, &root.numbered(&format!("{NODES}/node{node}"), "cpu")?)?;
        }
        if shape.online == 0 {
            shape = Self {
                nodes: 1,
                ..Self::default()
            };
            shape.add(root, map, &root.numbered(CPUS, "cpu")?)?;
        }
        Ok(shape.regular_or_flat())
    }

    fn add(&mut self, root: &Root, map: &CpuMap, cpus: &[u32]) -> Result<()> {
        let mut sockets: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for cpu in cpus.iter().filter(|cpu| map.present.contains(cpu)) {
            if !map.online.contains(cpu) {
                self.offline += 1;
                continue;
            }
            self.online += 1;
            let topology = Topology::read(root, *cpu)?;
            sockets.entry(topology.socket).or_default().insert(topology.core);
            self.threads = self.threads.max(count(topology.siblings.len()));
        }
        let cores = sockets.values().map(BTreeSet::len).max().unwrap_or(0);
        self.sockets = self.sockets.max(count(sockets.len()));
        self.cores = self.cores.max(count(cores));
        Ok(())
    }

    fn regular_or_flat(self) -> Self {
        let all = u64::from(self.online) + u64::from(self.offline);
        let product = [self.nodes, self.sockets, self.cores, self.threads]
            .iter()
            .try_fold(1, |product: u64, factor| product.checked_mul(u64::from(*factor)));
        if product == Some(all) {
            return self;
        }
        Self {
            nodes: 1,
            sockets: 1,
            cores: self.online + self.offline,
            threads: 1,
            ..self
        }
    }
}

/// Where a CPU sits. What a kernel does not tell, or tells as -1, is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) socket: i64,
    pub(crate) die: i64,
    pub(crate) cluster: i64,
    pub(crate) core: i64,
    pub(crate) siblings: CpuSet,
}

impl Topology {
    pub(crate) fn read(root: &Root, cpu: u32) -> Result<Self> {
        let dir = format!("{CPUS}/cpu{cpu}/topology");
        let id = |name: &str| -> Result<i64> {
            Ok(root
                .number(&format!("{dir}/{name}"))?
                .map_or(0, |id: i64| id.max(0)))
        };
        let siblings = root.optional(&format!("{dir}/thread_siblings_list"))?;
        let siblings = siblings.as_deref().and_then(parse_cpu_list).unwrap_or_default();
        Ok(Self {
            socket: id("physical_package_id")?,
            die: id("die_id")?,
            cluster: id("cluster_id")?,
            core: id("core_id")?,
            siblings: if siblings.is_empty() {
                CpuSet::from([cpu])
            } else {
                siblings
            },
        })
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_does_not_multiply_up_becomes_one_flat_socket() {
        let shape = Shape {
            online: 6,
            offline: 2,
            nodes: 2,
            sockets: 1,
            cores: 3,
            threads: 1,
        };
        let flat = Shape {
            online: 6,
            offline: 2,
            nodes: 1,
            sockets: 1,
            cores: 8,
            threads: 1,
        };
        assert_eq!(shape.regular_or_flat(), flat);
    }
}
