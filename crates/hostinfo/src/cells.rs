//! NUMA cells: their memory, pages, distances and CPUs, for the topology of a capabilities document.

use crate::cpulist::CpuSet;
use crate::error::Result;
use crate::memory::{PageCount, cell_memory_stats, cell_pages, memory_stats, pages};
use crate::node::{NODES, Topology, cpu_map};
use crate::root::Root;

/// A NUMA cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The kernel's number.
    pub id: u32,
    /// Memory in KiB.
    pub memory: u64,
    /// Pages of each size.
    pub pages: Vec<PageCount>,
    /// Distances to all cells, itself included; none when the kernel does not tell.
    pub distances: Vec<Distance>,
    /// CPUs online.
    pub cpus: Vec<CellCpu>,
}

/// How far a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distance {
    /// The other cell.
    pub cell: u32,
    /// 10 is local.
    pub value: u32,
}

/// A CPU of a cell and where it sits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellCpu {
    /// The kernel's number.
    pub id: u32,
    /// Socket.
    pub socket: i64,
    /// Die in the socket.
    pub die: i64,
    /// Cluster in the die; 65535 where the kernel knows of none.
    pub cluster: i64,
    /// Core in the socket.
    pub core: i64,
    /// CPUs that share the core, itself included.
    pub siblings: CpuSet,
}

/// Reads the cells. A kernel without NUMA has one, made of all there is.
///
/// # Errors
/// When the kernel's files are missing or not understood.
pub fn cells(root: &Root) -> Result<Vec<Cell>> {
    let online = cpu_map(root)?.online;
    let nodes = root.numbered(NODES, "node")?;
    if nodes.is_empty() {
        let memory = memory_stats(root)?.total;
        let (pages, cpus) = (pages(root)?, cell_cpus(root, online.iter().copied())?);
        return Ok(vec![Cell {
            id: 0,
            memory,
            pages,
            distances: Vec::new(),
            cpus,
        }]);
    }
    nodes
        .iter()
        .map(|node| cell(root, *node, &nodes, &online))
        .collect()
}

/// Whether there is a cell of that number.
pub fn has_cell(root: &Root, cell: u32) -> bool {
    root.path(&format!("{NODES}/node{cell}")).is_dir()
}

fn cell(root: &Root, id: u32, nodes: &[u32], online: &CpuSet) -> Result<Cell> {
    let dir = format!("{NODES}/node{id}");
    let distances = root.optional(&format!("{dir}/distance"))?.unwrap_or_default();
    let values = distances.split_whitespace().map_while(|value| value.parse().ok());
    let cpus = root
        .numbered(&dir, "cpu")?
        .into_iter()
        .filter(|cpu| online.contains(cpu));
    Ok(Cell {
        id,
        memory: cell_memory_stats(root, id)?.total,
        pages: cell_pages(root, id)?,
        distances: nodes
            .iter()
            .zip(values)
            .map(|(&cell, value)| Distance { cell, value })
            .collect(),
        cpus: cell_cpus(root, cpus)?,
    })
}

fn cell_cpus(root: &Root, cpus: impl Iterator<Item = u32>) -> Result<Vec<CellCpu>> {
    cpus.map(|id| {
        let Topology {
            socket,
            die,
            cluster,
            core,
            siblings,
        } = Topology::read(root, id)?;
        Ok(CellCpu {
            id,
            socket,
            die,
            cluster,
            core,
            siblings,
        })
    })
    .collect()
}
