//! NUMA cells of the guest: memory, distances, latencies, caches.

use domxml::cpu::{AccessType, Cell, Interconnect, MemAccess};
use domxml::devices::common::YesNo;
use domxml::tuning::MemoryAllocation;

use super::backend::{Backend, Request, backend};
use super::context::Context;
use super::line::CommandLine;
use super::memory::align;
use crate::facts::size::START_ALIGN_KIB;
use crate::props::Keyval;
use crate::{Error, Result};

/// NUMA cells of the guest.
pub fn cells(cx: Context<'_>) -> &[Cell] {
    let numa = cx.def.cpu.as_ref().and_then(|cpu| cpu.numa.as_ref());
    numa.map(|numa| numa.cells.as_slice()).unwrap_or_default()
}

/// Whether the guest is told latencies, bandwidths or caches of its cells.
pub fn has_hmat(cx: Context<'_>) -> bool {
    let numa = cx.def.cpu.as_ref().and_then(|cpu| cpu.numa.as_ref());
    numa.is_some_and(|numa| {
        numa.interconnects
            .as_ref()
            .is_some_and(|links| !links.all.is_empty())
            || numa.cells.iter().any(|cell| !cell.caches.is_empty())
    })
}

/// Appends the cells of the guest.
///
/// # Errors
/// When huge pages are asked for that the host has not mounted.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    /// QEMU's own limit.
    const MOST: usize = 128;
    let cells = cells(cx);
    if cells.len() > MOST {
        return Err(Error::unsupported(format!("QEMU has at most {MOST} NUMA nodes")));
    }
    let backends = cells
        .iter()
        .enumerate()
        .map(|(place, cell)| cell_backend(cx, place, cell));
    let backends = backends.collect::<Result<Vec<_>>>()?;
    // Machines that can do without back ends keep the old notation, as migration depends on it.
    let old = backends.iter().all(|backend| backend.plain) && takes_sizes(cx);
    if old && !cells.is_empty() && allocates_early(cx) {
        line.flag("-mem-prealloc");
    }
    for ((place, cell), backend) in cells.iter().enumerate().zip(backends) {
        let initiator = has_hmat(cx).then(|| initiator(cx, place, cell)).flatten();
        push_cell((place, cell), initiator, (!old).then_some(backend), line);
    }
    push_distances(cells, line);
    interconnects(cx).iter().for_each(|link| push_link(link, line));
    push_caches(cells, line);
    Ok(())
}

fn id(place: usize, cell: &Cell) -> u32 {
    cell.id
        .unwrap_or_else(|| u32::try_from(place).unwrap_or(u32::MAX))
}

fn cell_backend(cx: Context<'_>, place: usize, cell: &Cell) -> Result<Backend> {
    let id = id(place, cell);
    let name = format!("ram-node{id}");
    let request = Request {
        id: &name,
        file: &name,
        kib: align(cell.memory.0, START_ALIGN_KIB),
        cell: Some(id),
        system: true,
        shared: cell.mem_access.map(|access| access == MemAccess::Shared),
        discard: cell.discard.map(YesNo::is_yes),
        ..Request::default()
    };
    backend(cx, &request)
}

fn allocates_early(cx: Context<'_>) -> bool {
    let allocation = cx
        .def
        .memory_backing
        .as_ref()
        .and_then(|backing| backing.allocation);
    allocation.and_then(|allocation| allocation.mode) == Some(MemoryAllocation::Immediate)
}

fn interconnects(cx: Context<'_>) -> &[Interconnect] {
    let numa = cx.def.cpu.as_ref().and_then(|cpu| cpu.numa.as_ref());
    let links = numa.and_then(|numa| numa.interconnects.as_ref());
    links.map(|links| links.all.as_slice()).unwrap_or_default()
}

/// The cell whose CPUs reach the memory of a cell best: itself when it has CPUs, otherwise the one
/// with the least latency, or else the most bandwidth.
fn initiator(cx: Context<'_>, place: usize, cell: &Cell) -> Option<u32> {
    let own = id(place, cell);
    if cell.cpus.as_ref().is_some_and(|cpus| !cpus.is_empty()) {
        return Some(own);
    }
    let latency = |link: &Interconnect| match link {
        Interconnect::Latency(link) if link.target == own && reads(link.kind) => {
            Some((link.value, link.initiator))
        }
        _ => None,
    };
    let bandwidth = |link: &Interconnect| match link {
        Interconnect::Bandwidth(link) if link.target == own && reads(link.kind) => {
            Some((link.value.0, link.initiator))
        }
        _ => None,
    };
    let links = interconnects(cx);
    let least = links.iter().filter_map(latency).min();
    least
        .or_else(|| links.iter().filter_map(bandwidth).max())
        .map(|(_, initiator)| initiator)
}

fn reads(kind: AccessType) -> bool {
    matches!(kind, AccessType::Access | AccessType::Read)
}

/// Machine types before 5.1 take a size in place of a back end.
fn takes_sizes(cx: Context<'_>) -> bool {
    let machine = cx.machine();
    let Some(version) = machine.rsplit('-').next() else {
        return false;
    };
    let mut parts = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
    let (major, minor) = (parts.next().unwrap_or(u32::MAX), parts.next().unwrap_or_default());
    (major, minor) < (5, 1)
}

fn push_cell(cell: (usize, &Cell), initiator: Option<u32>, backend: Option<Backend>, line: &mut CommandLine) {
    let (place, cell) = cell;
    let id = id(place, cell);
    let mut node = Keyval::implied("node").with("nodeid", id);
    let cpus = cell.cpus.as_ref().map(ToString::to_string).unwrap_or_default();
    for range in cpus.split(',').filter(|range| !range.is_empty()) {
        node.set("cpus", range);
    }
    node.opt("initiator", initiator);
    match backend {
        Some(backend) if cell.memory.0 != 0 => {
            backend.push(line);
            node.set("memdev", format!("ram-node{id}"));
        }
        Some(_) => {}
        None => {
            node.set("mem", align(cell.memory.0, START_ALIGN_KIB) / 1024);
        }
    }
    line.push("-numa", node);
}

/// Distances are said for one direction at least; what nobody says is the usual one. Where all that is said is what is usual,
/// and of no cell only a part, QEMU is told nothing.
fn push_distances(cells: &[Cell], line: &mut CommandLine) {
    const LOCAL: u32 = 10;
    const REMOTE: u32 = 20;
    let said = |cell: &Cell, to: u32| {
        cell.distances
            .iter()
            .find(|sibling| sibling.id == to)
            .map(|sibling| sibling.value)
    };
    let is_said = |place: usize, cell: &Cell| {
        let own = id(place, cell);
        !cell.distances.is_empty() || cells.iter().any(|other| said(other, own).is_some())
    };
    let is_told = cells.iter().enumerate().any(|(from_place, from)| {
        let others = cells
            .iter()
            .enumerate()
            .filter(|(to_place, _)| *to_place != from_place);
        others.into_iter().any(|(to_place, to)| {
            let value = said(from, id(to_place, to)).or_else(|| said(to, id(from_place, from)));
            value.map_or_else(|| is_said(from_place, from), |value| value != REMOTE)
        })
    });
    if !is_told {
        return;
    }
    for (from_place, from) in cells.iter().enumerate() {
        for (to_place, to) in cells.iter().enumerate() {
            let (source, target) = (id(from_place, from), id(to_place, to));
            let usual = if source == target { LOCAL } else { REMOTE };
            let value = said(from, target).or_else(|| said(to, source)).unwrap_or(usual);
            line.push(
                "-numa",
                Keyval::implied("dist")
                    .with("src", source)
                    .with("dst", target)
                    .with("val", value),
            );
        }
    }
}

fn hierarchy(cache: Option<u32>) -> String {
    match cache.unwrap_or_default() {
        0 => "memory".to_owned(),
        1 => "first-level".to_owned(),
        2 => "second-level".to_owned(),
        _ => "third-level".to_owned(),
    }
}

fn push_link(link: &Interconnect, line: &mut CommandLine) {
    let (initiator, target, cache, kind) = match link {
        Interconnect::Latency(link) => (link.initiator, link.target, link.cache, link.kind),
        Interconnect::Bandwidth(link) => (link.initiator, link.target, link.cache, link.kind),
    };
    let mut value = Keyval::implied("hmat-lb")
        .with("initiator", initiator)
        .with("target", target)
        .with("hierarchy", hierarchy(cache));
    match link {
        Interconnect::Latency(link) => {
            value
                .set("data-type", format!("{}-latency", kind.as_str()))
                .set("latency", link.value);
        }
        Interconnect::Bandwidth(link) => {
            value.set("data-type", format!("{}-bandwidth", kind.as_str()));
            value.set("bandwidth", format!("{}K", link.value.0));
        }
    }
    line.push("-numa", value);
}

fn push_caches(cells: &[Cell], line: &mut CommandLine) {
    use domxml::cpu::{CacheAssociativity, CachePolicy};
    for (place, cell) in cells.iter().enumerate() {
        for cache in &cell.caches {
            let associativity = match cache.associativity {
                CacheAssociativity::None => "none",
                CacheAssociativity::Direct => "direct",
                CacheAssociativity::Full => "complex",
            };
            let policy = match cache.policy {
                CachePolicy::None => "none",
                CachePolicy::Writeback => "write-back",
                CachePolicy::Writethrough => "write-through",
            };
            let value = Keyval::implied("hmat-cache")
                .with("node-id", id(place, cell))
                .with("size", format!("{}K", cache.size.map_or(0, |size| size.0)))
                .with("level", cache.level)
                .with("associativity", associativity)
                .with("policy", policy)
                .with("line", cache.line.map_or(0, |line| line.0));
            line.push("-numa", value);
        }
    }
}
