//! Memory of the host and of its NUMA nodes: statistics and pages.
//!
//! On a host with NUMA libvirt's total is the sum of the nodes', which can be less than `/proc/meminfo` says.

use crate::error::Result;
use crate::node::NODES;
use crate::root::Root;

const MEMINFO: &str = "proc/meminfo";
pub(crate) const HUGE: &str = "sys/kernel/mm/hugepages";
/// The key of a program's page size in the vector that the kernel hands to it.
const AT_PAGESZ: u64 = 6;

/// Memory in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All.
    pub total: u64,
    /// Unused.
    pub free: u64,
    /// Of block devices; told for the whole host only.
    pub buffers: Option<u64>,
    /// Of files; told for the whole host only.
    pub cached: Option<u64>,
}

/// Pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCount {
    /// Size in KiB.
    pub size: u64,
    /// All. Of the usual size: what the huge ones leave.
    pub total: u64,
    /// Unused.
    pub free: u64,
}

/// The whole host's memory.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or has no total.
pub fn memory_stats(root: &Root) -> Result<MemoryStats> {
    let text = root.head(MEMINFO)?;
    let stats = stats(root, MEMINFO, &text)?;
    Ok(MemoryStats {
        buffers: amount(&text, "Buffers"),
        cached: amount(&text, "Cached"),
        ..stats
    })
}

/// A NUMA node's memory.
///
/// # Errors
/// When there is no such node.
pub fn cell_memory_stats(root: &Root, cell: u32) -> Result<MemoryStats> {
    let file = format!("{NODES}/node{cell}/meminfo");
    let text = root.head(&file)?;
    stats(root, &file, &text)
}

/// Memory as `nodeinfo` counts it, in KiB.
pub(crate) fn total_memory(root: &Root) -> Result<u64> {
    let nodes = root.numbered(NODES, "node")?;
    if nodes.is_empty() {
        return Ok(memory_stats(root)?.total);
    }
    let mut sum: u64 = 0;
    for node in nodes {
        sum = sum.saturating_add(cell_memory_stats(root, node)?.total);
    }
    Ok(sum)
}

/// Sizes of pages in KiB, ascending, the usual one first.
///
/// # Errors
/// When a directory of the kernel's is there and cannot be read.
pub fn page_sizes(root: &Root) -> Result<Vec<u64>> {
    let mut sizes = vec![usual_page(root)];
    sizes.extend(huge_sizes(root, HUGE)?);
    Ok(sizes)
}

/// Pages of the whole host.
///
/// # Errors
/// When the kernel's files are missing or not understood.
pub fn pages(root: &Root) -> Result<Vec<PageCount>> {
    counts(root, HUGE, memory_stats(root)?)
}

/// Pages of a NUMA node.
///
/// # Errors
/// When there is no such node.
pub fn cell_pages(root: &Root, cell: u32) -> Result<Vec<PageCount>> {
    counts(
        root,
        &format!("{NODES}/node{cell}/hugepages"),
        cell_memory_stats(root, cell)?,
    )
}

fn counts(root: &Root, dir: &str, memory: MemoryStats) -> Result<Vec<PageCount>> {
    let usual = usual_page(root);
    let mut pages = vec![PageCount {
        size: usual,
        total: 0,
        free: memory.free / usual,
    }];
    let mut rest = memory.total;
    for size in huge_sizes(root, dir)? {
        let read = |name: &str| root.number(&format!("{dir}/hugepages-{size}kB/{name}"));
        let total: u64 = read("nr_hugepages")?.unwrap_or(0);
        rest = rest.saturating_sub(total.saturating_mul(size));
        pages.push(PageCount {
            size,
            total,
            free: read("free_hugepages")?.unwrap_or(0),
        });
    }
    pages[0].total = rest / usual;
    Ok(pages)
}

pub(crate) fn huge_sizes(root: &Root, dir: &str) -> Result<Vec<u64>> {
    let names = root.names(dir)?;
    let size = |name: &String| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok();
    let mut sizes: Vec<u64> = names.iter().filter_map(size).collect();
    sizes.sort_unstable();
    Ok(sizes)
}

// KiB; 4 where the tree does not say
pub(crate) fn usual_page(root: &Root) -> u64 {
    let vector = root.bytes("proc/self/auxv").unwrap_or_default();
    let words: Vec<u64> = vector
        .chunks_exact(8)
        .filter_map(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)))
        .collect();
    let entry = words.chunks_exact(2).find(|entry| entry[0] == AT_PAGESZ);
    entry
        .map(|entry| entry[1] / 1024)
        .filter(|size| *size > 0)
        .unwrap_or(4)
}

fn stats(root: &Root, file: &str, text: &str) -> Result<MemoryStats> {
    let total = amount(text, "MemTotal").ok_or_else(|| root.unparsed(file, "MemTotal"))?;
    let free = amount(text, "MemFree").ok_or_else(|| root.unparsed(file, "MemFree"))?;
    Ok(MemoryStats {
        total,
        free,
        buffers: None,
        cached: None,
    })
}

// "MemTotal:  24684092 kB", in a node's file after "Node 0 "
fn amount(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let found = key.split_whitespace().last() == Some(name);
        found.then(|| value.trim().trim_end_matches("kB").trim_end().parse().ok())?
    })
}
