//! Memory: `-m`, its back ends, NUMA cells, modules. The same back end properties serve memory that is
//! plugged in later.

use domxml::Bitmap;
use domxml::cpu::{Cell, Interconnect, MemAccess};
use domxml::devices::common::YesNo;
use domxml::devices::memory::{Memory, MemoryAccess as ModuleAccess, MemoryModel};
use domxml::tuning::{MemoryAccess, MemoryAllocation, MemoryBacking, MemorySource, NumaMode};
use serde_json::Value;

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::line::CommandLine;
use super::props::{Keyval, Props, on_off};
use super::units;
use crate::caps::Flag;
use crate::{Error, Result};

/// Id of the back end that is all the guest's memory.
pub const DEFAULT_RAM: &str = "pc.ram";

/// Granularity of memory at start: 1 MiB.
const START_ALIGN_KIB: u64 = 1024;
/// Granularity of a module: 2 MiB.
const MODULE_ALIGN_KIB: u64 = 2048;

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

fn align(kib: u64, step: u64) -> u64 {
    kib.div_ceil(step).saturating_mul(step)
}

fn size_kib(size: Option<&domxml::devices::common::Size>) -> u64 {
    size.and_then(|size| units::kib(size.value, size.unit.as_deref().unwrap_or("KiB")))
        .unwrap_or_default()
}

fn module_size(memory: &Memory) -> u64 {
    size_kib(
        memory
            .target
            .as_ref()
            .and_then(|target| target.size.as_ref()),
    )
}

/// Memory that the guest has without its modules, KiB, as QEMU is told.
pub fn initial_kib(cx: Context<'_>) -> u64 {
    let cells = cells(cx);
    if !cells.is_empty() {
        return cells
            .iter()
            .map(|cell| align(cell.memory.0, START_ALIGN_KIB))
            .sum();
    }
    let total = cx.def.memory.as_ref().map_or(0, |memory| memory.size.0);
    let modules: u64 = cx.def.devices.memories.iter().map(module_size).sum();
    align(total.saturating_sub(modules), START_ALIGN_KIB)
}

/// Appends `-m`, and the one back end of a guest without cells.
///
/// # Errors
/// When huge pages are asked for that the host has not mounted.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let mut size = Keyval::new().with("size", format!("{}k", initial_kib(cx)));
    if let Some(max) = cx.def.max_memory {
        size.opt("slots", max.slots.filter(|slots| *slots != 0));
        size.set("maxmem", format!("{}k", align(max.size.0, START_ALIGN_KIB)));
    }
    line.push("-m", size);
    if cells(cx).is_empty() {
        let request = Request {
            id: DEFAULT_RAM,
            kib: initial_kib(cx),
            system: true,
            ..Request::default()
        };
        push_backend(backend(cx, &request)?, line);
    }
    Ok(())
}

/// Appends `-overcommit`.
pub fn build_overcommit(cx: Context<'_>, line: &mut CommandLine) {
    let locked = cx
        .def
        .memory_backing
        .as_ref()
        .is_some_and(|backing| backing.locked);
    line.push(
        "-overcommit",
        Keyval::new().with("mem-lock", on_off(locked)),
    );
}

/// What a back end is for.
#[derive(Debug, Clone, Default)]
struct Request<'a> {
    id: &'a str,
    kib: u64,
    /// NUMA cell of the guest.
    cell: Option<u32>,
    /// Memory that the guest has at start.
    system: bool,
    /// File behind an NVDIMM or virtio-pmem.
    path: Option<&'a str>,
    access: Option<bool>,
    discard: Option<bool>,
    page_kib: Option<u64>,
    nodes: Option<Bitmap>,
    nvdimm: bool,
    align_kib: u64,
    pmem: bool,
}

/// A back end, what must be there before it, and whether it says more than a size.
struct Backend {
    context: Option<Props>,
    props: Props,
    plain: bool,
}

fn push_backend(backend: Backend, line: &mut CommandLine) {
    if let Some(context) = backend.context {
        line.object(context);
    }
    line.object(backend.props);
}

fn backend(cx: Context<'_>, request: &Request<'_>) -> Result<Backend> {
    let none = MemoryBacking::default();
    let backing = cx.def.memory_backing.as_ref().unwrap_or(&none);
    let page = huge_page(cx, request)?;
    let access = request
        .access
        .or_else(|| backing.access.map(|access| access == MemoryAccess::Shared));
    let file = request.path.is_some() || page.is_some() || access.is_some();
    let mut prealloc = backing.allocation.and_then(|allocation| allocation.mode)
        == Some(MemoryAllocation::Immediate);
    let mut own_name = false;
    let mut props = if backing.source == Some(MemorySource::Memfd) && request.path.is_none() {
        prealloc |= page.is_some();
        own_name = request.system && request.cell.is_none();
        Props::object("memory-backend-memfd", request.id)
            .with_opt("hugetlb", page.as_ref().map(|_| true))
            .with_opt("hugetlbsize", page.as_ref().map(|page| page.kib * 1024))
    } else if file || backing.source == Some(MemorySource::File) {
        let path = match (request.path, &page) {
            (Some(path), _) => path.to_owned(),
            (None, Some(page)) => page.dir.clone(),
            (None, None) => format!("{}/{}", cx.res.dirs.memory, request.id),
        };
        prealloc = match request.path {
            Some(_) => (prealloc || request.nvdimm) && !request.pmem,
            None => prealloc || page.is_some(),
        };
        own_name = request.system && request.cell.is_none();
        Props::object("memory-backend-file", request.id).with("mem-path", path)
    } else {
        Props::object("memory-backend-ram", request.id)
    };
    let plain = props.get("qom-type") == Some(&Value::from("memory-backend-ram"));
    props.opt("discard-data", discard(backing, request).filter(|_| !plain));
    props.opt("share", share(backing, access).filter(|_| !plain));
    if own_name
        && cx
            .caps
            .has(Flag::MemoryBackendFileXUseCanonicalPathForRamblockId)
    {
        props.set("x-use-canonical-path-for-ramblock-id", false);
    }
    put_prealloc(backing, prealloc, &mut props);
    props.set("size", request.kib.saturating_mul(1024));
    if request.align_kib != 0 {
        props.set("align", request.align_kib.saturating_mul(1024));
    }
    props.opt("pmem", request.pmem.then_some(true));
    let bound = put_policy(cx, request, &mut props);
    let context = put_context(cx, request, bound.as_ref().filter(|_| prealloc), &mut props);
    let plain = plain && bound.is_none() && !prealloc;
    Ok(Backend {
        context,
        props,
        plain,
    })
}

fn discard(backing: &MemoryBacking, request: &Request<'_>) -> Option<bool> {
    request.discard.or(backing.discard.then_some(true))
}

fn share(backing: &MemoryBacking, access: Option<bool>) -> Option<bool> {
    // A memfd nobody else may see is an ordinary one: QEMU's default is to share it.
    access.or((backing.source == Some(MemorySource::Memfd)).then_some(false))
}

fn put_prealloc(backing: &MemoryBacking, prealloc: bool, props: &mut Props) {
    if prealloc {
        let threads = backing.allocation.and_then(|allocation| allocation.threads);
        props
            .set("prealloc", true)
            .opt("prealloc-threads", threads.filter(|threads| *threads != 0));
    }
}

/// Appends the host nodes the memory must or should come from; answers them.
fn put_policy(cx: Context<'_>, request: &Request<'_>, props: &mut Props) -> Option<Bitmap> {
    let (mode, nodes) = policy(cx, request)?;
    let policy = match mode {
        NumaMode::Strict => "bind",
        NumaMode::Preferred => "preferred",
        NumaMode::Interleave => "interleave",
        NumaMode::Restrictive => return None,
    };
    let list: Vec<_> = nodes.iter().collect();
    props.set("host-nodes", list).set("policy", policy);
    Some(nodes)
}

fn policy(cx: Context<'_>, request: &Request<'_>) -> Option<(NumaMode, Bitmap)> {
    let tune = cx.def.numatune.clone().unwrap_or_default();
    let general = tune.memory.unwrap_or_default();
    let cell = request
        .cell
        .and_then(|cell| tune.memnodes.iter().find(|node| node.cellid == cell));
    let mode = cell
        .and_then(|cell| cell.mode)
        .or(general.mode)
        .unwrap_or(NumaMode::Strict);
    let nodes = request.nodes.clone();
    let nodes = nodes
        .or_else(|| cell.map(|cell| cell.nodeset.clone()))
        .or(general.nodeset)?;
    Some((mode, nodes))
}

/// Threads that touch the memory run where the memory is.
fn put_context(
    cx: Context<'_>,
    request: &Request<'_>,
    nodes: Option<&Bitmap>,
    props: &mut Props,
) -> Option<Props> {
    let nodes = nodes.filter(|_| cx.caps.has(Flag::ThreadContext))?;
    let id = format!("tc-{}", request.id);
    props.set("prealloc-context", id.clone());
    let list: Vec<_> = nodes.iter().collect();
    Some(Props::object("thread-context", id).with("node-affinity", list))
}

struct HugePage {
    kib: u64,
    dir: String,
}

/// The huge pages that memory comes from: those named for its cell, or those named for all.
fn huge_page(cx: Context<'_>, request: &Request<'_>) -> Result<Option<HugePage>> {
    const SYSTEM_PAGE_KIB: u64 = 4;
    let wanted = match (request.page_kib, request.path) {
        (Some(kib), _) => Some(kib),
        (None, Some(_)) => None,
        (None, None) => {
            let Some(pages) = cx
                .def
                .memory_backing
                .as_ref()
                .and_then(|backing| backing.hugepages.as_ref())
            else {
                return Ok(None);
            };
            let cell = request.cell.unwrap_or_default();
            let named = |page: &&domxml::tuning::HugePage| {
                page.nodeset.as_ref().is_some_and(|set| set.contains(cell))
            };
            let page = pages
                .pages
                .iter()
                .find(named)
                .or_else(|| pages.pages.iter().find(|page| page.nodeset.is_none()));
            match page {
                Some(page) => Some(page.size.0),
                None if pages.pages.is_empty() => Some(default_page(cx)?),
                None => None,
            }
        }
    };
    let Some(kib) = wanted.filter(|kib| *kib != SYSTEM_PAGE_KIB && *kib != 0) else {
        return Ok(None);
    };
    let dir = cx
        .res
        .dirs
        .hugepages
        .iter()
        .find(|(size, _)| *size == kib)
        .map(|(_, dir)| dir.clone());
    let memfd = cx
        .def
        .memory_backing
        .as_ref()
        .and_then(|backing| backing.source)
        == Some(MemorySource::Memfd);
    match dir {
        Some(dir) => Ok(Some(HugePage { kib, dir })),
        None if memfd => Ok(Some(HugePage {
            kib,
            dir: String::new(),
        })),
        None => Err(Error::internal(format!(
            "Unable to find any usable hugetlbfs mount for {kib} KiB"
        ))),
    }
}

fn default_page(cx: Context<'_>) -> Result<u64> {
    let first = cx.res.dirs.hugepages.first().map(|(kib, _)| *kib);
    first.ok_or_else(|| {
        Error::internal("hugetlbfs filesystem is not mounted or disabled by administrator config")
    })
}

/// Appends the cells of the guest.
///
/// # Errors
/// When huge pages are asked for that the host has not mounted.
pub fn build_numa(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let cells = cells(cx);
    let mut backends = Vec::new();
    for (number, cell) in cells.iter().enumerate() {
        let id = cell.id.unwrap_or(number as u32);
        let name = format!("ram-node{id}");
        let request = Request {
            id: &name,
            kib: align(cell.memory.0, START_ALIGN_KIB),
            cell: Some(id),
            system: true,
            access: cell.mem_access.map(|access| access == MemAccess::Shared),
            discard: cell.discard.map(YesNo::is_yes),
            ..Request::default()
        };
        backends.push(backend(cx, &request)?);
    }
    // Machines that can do without back ends keep the old notation, as migration depends on it.
    let old = backends
        .iter()
        .all(|backend| backend.plain || is_prealloc_only(&backend.props))
        && takes_sizes(cx);
    if old
        && cx
            .def
            .memory_backing
            .as_ref()
            .is_some_and(|backing| backing.allocation.is_some())
    {
        line.flag("-mem-prealloc");
    }
    for ((number, cell), backend) in cells.iter().enumerate().zip(backends) {
        push_cell(cell, number as u32, (!old).then_some(backend), line);
    }
    push_distances(cells, line);
    if let Some(links) = cx
        .def
        .cpu
        .as_ref()
        .and_then(|cpu| cpu.numa.as_ref()?.interconnects.clone())
    {
        links.all.iter().for_each(|link| push_link(link, line));
    }
    push_caches(cells, line);
    Ok(())
}

fn is_prealloc_only(props: &Props) -> bool {
    props.get("qom-type") == Some(&Value::from("memory-backend-ram"))
        && props.get("host-nodes").is_none()
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
    let (major, minor) = (
        parts.next().unwrap_or(u32::MAX),
        parts.next().unwrap_or_default(),
    );
    (major, minor) < (5, 1)
}

fn push_cell(cell: &Cell, number: u32, backend: Option<Backend>, line: &mut CommandLine) {
    let id = cell.id.unwrap_or(number);
    let mut node = Keyval::implied("node").with("nodeid", id);
    for range in cell.cpus.iter().flat_map(|cpus| {
        cpus.to_string()
            .split(',')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    }) {
        node.set("cpus", range);
    }
    match backend {
        Some(backend) => {
            if cell.memory.0 != 0 {
                push_backend(backend, line);
                node.set("memdev", format!("ram-node{id}"));
            }
        }
        None => {
            node.set("mem", align(cell.memory.0, START_ALIGN_KIB) / 1024);
        }
    }
    line.push("-numa", node);
}

fn push_distances(cells: &[Cell], line: &mut CommandLine) {
    const LOCAL: u32 = 10;
    const REMOTE: u32 = 20;
    if cells.iter().all(|cell| cell.distances.is_empty()) {
        return;
    }
    let id = |number: usize| {
        cells
            .get(number)
            .and_then(|cell| cell.id)
            .unwrap_or(number as u32)
    };
    for (source, cell) in cells.iter().enumerate() {
        for target in 0..cells.len() {
            let said = cell
                .distances
                .iter()
                .find(|sibling| sibling.id == id(target));
            let value = said.map_or(if source == target { LOCAL } else { REMOTE }, |sibling| {
                sibling.value
            });
            let dist = Keyval::implied("dist")
                .with("src", id(source))
                .with("dst", id(target))
                .with("val", value);
            line.push("-numa", dist);
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
    for (number, cell) in cells.iter().enumerate() {
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
                .with("node-id", cell.id.unwrap_or(number as u32))
                .with("size", format!("{}K", cache.size.map_or(0, |size| size.0)))
                .with("level", cache.level)
                .with("associativity", associativity)
                .with("policy", policy)
                .with("line", cache.line.map_or(0, |line| line.0));
            line.push("-numa", value);
        }
    }
}

/// Appends a memory module.
///
/// # Errors
/// When its huge pages or its bus are not there.
pub fn build_module(cx: Context<'_>, memory: &Memory, line: &mut CommandLine) -> Result<()> {
    if memory.model == MemoryModel::SgxEpc {
        return Err(Error::unsupported(
            "sgx epc isn't supported by this QEMU binary",
        ));
    }
    let backend = module_backend(cx, memory)?;
    push_backend(backend, line);
    line.device(module_props(cx, memory)?);
    Ok(())
}

/// Back end of a module, as `object-add` takes it, and the thread context it needs first.
///
/// # Errors
/// When its huge pages are not there.
pub fn module_objects(cx: Context<'_>, memory: &Memory) -> Result<Vec<Props>> {
    let backend = module_backend(cx, memory)?;
    Ok(backend.context.into_iter().chain([backend.props]).collect())
}

fn module_backend(cx: Context<'_>, memory: &Memory) -> Result<Backend> {
    let source = memory.source.clone().unwrap_or_default();
    let target = memory.target.clone().unwrap_or_default();
    let id = format!("mem{}", alias(&memory.info)?);
    let nodes = source.nodemask.as_deref().map(str::parse::<Bitmap>);
    let nodes = nodes
        .transpose()
        .map_err(|_| Error::xml("invalid nodemask of a memory device"))?;
    let page = size_kib(source.pagesize.as_ref());
    let request = Request {
        id: &id,
        kib: align(module_size(memory), MODULE_ALIGN_KIB),
        cell: target.node,
        path: source.path.as_deref(),
        access: module_access(cx, memory),
        discard: memory.discard.map(YesNo::is_yes),
        page_kib: (page != 0).then_some(page),
        nodes,
        nvdimm: memory.model == MemoryModel::Nvdimm,
        align_kib: size_kib(source.alignsize.as_ref()),
        pmem: source.pmem,
        ..Request::default()
    };
    backend(cx, &request)
}

/// A module's own word on sharing, or that of its cell.
fn module_access(cx: Context<'_>, memory: &Memory) -> Option<bool> {
    let own = memory.access.map(|access| access == ModuleAccess::Shared);
    own.or_else(|| {
        let node = memory.target.as_ref()?.node?;
        let cell = cells(cx)
            .iter()
            .enumerate()
            .find(|(number, cell)| cell.id.unwrap_or(*number as u32) == node)?;
        cell.1.mem_access.map(|access| access == MemAccess::Shared)
    })
}

/// Front end of a module.
///
/// # Errors
/// When its bus is not there.
pub fn module_props(cx: Context<'_>, memory: &Memory) -> Result<Props> {
    let target = memory.target.clone().unwrap_or_default();
    let id = alias(&memory.info)?;
    let bytes = |size: Option<&domxml::devices::common::Size>| size_kib(size).saturating_mul(1024);
    let name = memory.model.as_str();
    let mut props = match memory.model {
        MemoryModel::Dimm => Props::driver("pc-dimm"),
        MemoryModel::Nvdimm | MemoryModel::SgxEpc => Props::driver(name),
        MemoryModel::VirtioPmem | MemoryModel::VirtioMem => {
            address::virtio(name, &memory.info, Virtio::default())?
        }
    };
    props.opt("node", target.node);
    if let Some(label) = &target.label {
        props.set("label-size", bytes(label.size.as_ref()));
    }
    if memory.model == MemoryModel::VirtioMem {
        props
            .set("block-size", bytes(target.block.as_ref()))
            .set("requested-size", bytes(target.requested.as_ref()));
    }
    props
        .opt(
            "dynamic-memslots",
            target.dynamic_memslots.map(YesNo::is_yes),
        )
        .opt("uuid", memory.uuid.clone())
        .opt("unarmed", target.readonly.then_some(true))
        .set("memdev", format!("mem{id}"))
        .opt("prealloc", prealloc(cx, memory))
        .opt("memaddr", target.address)
        .set("id", id);
    address::put(cx, &memory.info, &mut props)?;
    Ok(props)
}

/// virtio-mem allocates in the front end.
fn prealloc(cx: Context<'_>, memory: &Memory) -> Option<bool> {
    let allocation = cx
        .def
        .memory_backing
        .as_ref()
        .and_then(|backing| backing.allocation);
    let immediate =
        allocation.and_then(|allocation| allocation.mode) == Some(MemoryAllocation::Immediate);
    (memory.model == MemoryModel::VirtioMem && immediate).then_some(true)
}
