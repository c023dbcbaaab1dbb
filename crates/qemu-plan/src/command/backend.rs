//! `memory-backend-*` objects: where memory comes from. They are the same for memory at start, for cells
//! and for modules, plugged in or not.

use domxml::Bitmap;
use domxml::tuning::{MemoryAccess, MemoryAllocation, MemoryBacking, MemorySource, NumaMode};

use domxml::tuning::HugePage as HugePageSize;

use super::context::Context;
use super::line::CommandLine;
use crate::caps::Flag;
use crate::props::Props;
use crate::{Error, Result};

/// What a back end is for.
#[derive(Debug, Clone, Default)]
pub(super) struct Request<'a> {
    /// Id of the object.
    pub(super) id: &'a str,
    /// Name of its file, where files are made for memory.
    pub(super) file: &'a str,
    pub(super) kib: u64,
    /// NUMA cell of the guest.
    pub(super) cell: Option<u32>,
    /// Memory that the guest has at start.
    pub(super) system: bool,
    /// File behind an NVDIMM or virtio-pmem.
    pub(super) path: Option<&'a str>,
    /// Whether other processes see it; as for all memory when not said.
    pub(super) shared: Option<bool>,
    /// Whether its contents are thrown away when QEMU ends.
    pub(super) discard: Option<bool>,
    /// Size of its pages, KiB.
    pub(super) page_kib: Option<u64>,
    /// Host nodes it comes from.
    pub(super) nodes: Option<Bitmap>,
    /// When it is allocated.
    pub(super) allocated: Allocated,
    /// Alignment in the host, KiB.
    pub(super) align_kib: u64,
    /// The host's memory is persistent.
    pub(super) pmem: bool,
}

/// When memory is allocated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Allocated {
    /// As the document says for all memory.
    #[default]
    AsAll,
    /// Before the guest runs.
    Early,
    /// By the device, piece by piece.
    ByDevice,
}

/// A back end, and what must be there before it.
pub(super) struct Backend {
    pub(super) context: Option<Props>,
    pub(super) props: Props,
    /// Whether it is ordinary memory from anywhere.
    pub(super) plain: bool,
}

impl Backend {
    /// The objects in order.
    pub(super) fn objects(self) -> impl Iterator<Item = Props> {
        self.context.into_iter().chain([self.props])
    }

    /// Appends the objects.
    pub(super) fn push(self, line: &mut CommandLine) {
        self.objects().for_each(|props| line.object(props));
    }
}

/// The back end for a request.
///
/// # Errors
/// When huge pages are asked for that the host has not mounted.
pub(super) fn backend(cx: Context<'_>, request: &Request<'_>) -> Result<Backend> {
    let none = MemoryBacking::default();
    let backing = cx.def.memory_backing.as_ref().unwrap_or(&none);
    let page = huge_page(cx, request)?;
    let shared = request
        .shared
        .or_else(|| backing.access.map(|access| access == MemoryAccess::Shared));
    let source = source(cx, request, page.as_ref(), shared.is_some());
    let ram = matches!(source, Source::Ram);
    let early = is_early(backing, request, page.is_some());
    let mut props = source.props(request.id, page.as_ref());
    if !ram {
        props.opt(
            "discard-data",
            request.discard.or(backing.discard.then_some(true)),
        );
        props.opt("share", shared);
    }
    if !ram
        && request.system
        && request.cell.is_none()
        && cx.caps.has(Flag::MemoryBackendFileXUseCanonicalPathForRamblockId)
    {
        props.set("x-use-canonical-path-for-ramblock-id", false);
    }
    if request.allocated == Allocated::ByDevice {
        props.set("reserve", false);
    }
    if early {
        let threads = backing.allocation.and_then(|allocation| allocation.threads);
        props
            .set("prealloc", true)
            .opt("prealloc-threads", threads.filter(|threads| *threads != 0));
    }
    props.set("size", request.kib.saturating_mul(1024));
    props.nonzero("align", request.align_kib.saturating_mul(1024));
    props.opt("pmem", request.pmem.then_some(true));
    let bound = put_policy(cx, request, &mut props);
    let context = put_context(cx, request, bound.as_ref().filter(|_| early), &mut props);
    Ok(Backend {
        context,
        props,
        plain: ram && !is_placed(cx, request),
    })
}

/// Whether it is said of this memory, and not of all, which nodes it comes from.
fn is_placed(cx: Context<'_>, request: &Request<'_>) -> bool {
    let tune = cx.def.numatune.as_ref();
    let mut cells = tune.into_iter().flat_map(|tune| &tune.memnodes);
    request.nodes.is_some() || cells.any(|node| Some(node.cellid) == request.cell)
}

/// Where the bytes are.
enum Source {
    Ram,
    Memfd,
    File(String),
}

fn source(cx: Context<'_>, request: &Request<'_>, page: Option<&HugePage>, access: bool) -> Source {
    let kind = cx.def.memory_backing.as_ref().and_then(|backing| backing.source);
    if let Some(path) = request.path {
        return Source::File(path.to_owned());
    }
    match (kind, page) {
        (Some(MemorySource::Memfd), _) => Source::Memfd,
        (_, Some(page)) => Source::File(page.dir.clone()),
        (Some(MemorySource::File), None) => Source::File(format!("{}/{}", cx.res.dirs.memory, request.file)),
        (_, None) if access => Source::File(format!("{}/{}", cx.res.dirs.memory, request.file)),
        (_, None) => Source::Ram,
    }
}

impl Source {
    fn props(self, id: &str, page: Option<&HugePage>) -> Props {
        match self {
            Self::Ram => Props::object("memory-backend-ram", id),
            Self::File(path) => Props::object("memory-backend-file", id).with("mem-path", path),
            Self::Memfd => Props::object("memory-backend-memfd", id)
                .with_opt("hugetlb", page.map(|_| true))
                .with_opt("hugetlbsize", page.map(|page| page.kib.saturating_mul(1024))),
        }
    }
}

fn is_early(backing: &MemoryBacking, request: &Request<'_>, huge: bool) -> bool {
    let all = backing.allocation.and_then(|allocation| allocation.mode) == Some(MemoryAllocation::Immediate);
    match request.allocated {
        Allocated::ByDevice => false,
        Allocated::Early => !request.pmem,
        Allocated::AsAll => (all || huge) && !request.pmem,
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

/// The huge pages that memory comes from, if it does.
fn huge_page(cx: Context<'_>, request: &Request<'_>) -> Result<Option<HugePage>> {
    const SYSTEM_PAGE_KIB: u64 = 4;
    let wanted = match (request.page_kib, request.path) {
        (Some(kib), _) => Some(kib),
        (None, Some(_)) => None,
        (None, None) => page_of_cell(cx, request.cell.unwrap_or_default())?,
    };
    let Some(kib) = wanted.filter(|kib| *kib != SYSTEM_PAGE_KIB && *kib != 0) else {
        return Ok(None);
    };
    let mounted = cx.res.dirs.hugepages.iter().find(|(size, _)| *size == kib);
    let backing = cx.def.memory_backing.as_ref();
    let memfd = backing.and_then(|backing| backing.source) == Some(MemorySource::Memfd);
    match mounted {
        Some((_, dir)) => Ok(Some(HugePage {
            kib,
            dir: dir.clone(),
        })),
        None if memfd => Ok(Some(HugePage {
            kib,
            dir: String::new(),
        })),
        None if cx.res.dirs.hugepages.is_empty() => Err(no_huge_pages()),
        None => Err(Error::internal_qemu(format!(
            "Unable to find any usable hugetlbfs mount for {kib} KiB"
        ))),
    }
}

/// Size of the huge pages named for a cell, or for all, KiB.
fn page_of_cell(cx: Context<'_>, cell: u32) -> Result<Option<u64>> {
    let backing = cx.def.memory_backing.as_ref();
    let Some(huge) = backing.and_then(|backing| backing.hugepages.as_ref()) else {
        return Ok(None);
    };
    if huge.pages.is_empty() {
        return default_page(cx).map(Some);
    }
    let named = |page: &&HugePageSize| page.nodeset.as_ref().is_some_and(|set| set.contains(cell));
    let for_all = || huge.pages.iter().find(|page| page.nodeset.is_none());
    Ok(huge
        .pages
        .iter()
        .find(named)
        .or_else(for_all)
        .map(|page| page.size.0))
}

fn default_page(cx: Context<'_>) -> Result<u64> {
    let first = cx.res.dirs.hugepages.first().map(|(kib, _)| *kib);
    first.ok_or_else(no_huge_pages)
}

fn no_huge_pages() -> Error {
    Error::internal_qemu("hugetlbfs filesystem is not mounted or disabled by administrator config")
}
