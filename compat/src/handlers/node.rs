//! The host's CPUs, memory and sleep.
//!
//! libvirt checks the arguments of these calls in several places, each with words of its own; here they are checked in
//! the same order.

use tonic::{Code, Status};
use virtqemud_client::time;
use wire::consts::{
    VIR_NODE_ALLOC_PAGES_SET, VIR_NODE_SUSPEND_TARGET_DISK, VIR_NODE_SUSPEND_TARGET_HYBRID,
    VIR_NODE_SUSPEND_TARGET_MEM, VIR_TYPED_PARAM_STRING_OKAY,
};
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedParam, TypedValue};
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::Must;
use super::flags::Flags;
use super::{Reply, args};
use crate::ctx::{Ctx, Failure, internal};
use crate::proto::allocate_pages_request::Pages;
use crate::proto::suspend_host_request::Target;
use crate::proto::{
    AllocatePagesRequest, GetCpuMapRequest, GetCpuTimesRequest, GetMemoryRequest, GetPageMergingRequest,
    GetSevRequest, GetSysinfoRequest, ListCellsRequest, ListCellsResponse, SetPageMergingRequest,
    SuspendHostRequest,
};

/// The number that stands for all CPUs, or for the whole host.
const ALL: i32 = -1;
/// How many times are told of a CPU.
const CPU_STATS: i32 = 4;
/// What of page merging can be set.
const MERGING: [Param; 3] = [
    VIR_NODE_MEMORY_SHARED_PAGES_TO_SCAN,
    VIR_NODE_MEMORY_SHARED_SLEEP_MILLISECS,
    VIR_NODE_MEMORY_SHARED_MERGE_ACROSS_NODES,
];
/// How many parameters page merging has where the kernel has all.
const MERGING_ALL: i32 = 8;

pub(crate) async fn get_cpu_map(ctx: &Ctx, args: NodeGetCpuMap, flags: Flags) -> Reply<NodeGetCpuMapRet> {
    flags.checked()?;
    let answer = ctx.host().get_cpu_map(GetCpuMapRequest {}).await?;
    let highest = answer.present.iter().copied().max().unwrap_or(0);
    let mut map = vec![0_u8; (highest / 8 + 1) as usize];
    for cpu in &answer.online {
        if let Some(byte) = map.get_mut((cpu / 8) as usize) {
            *byte |= 1 << (cpu % 8);
        }
    }
    Ok(NodeGetCpuMapRet {
        cpumap: if args.need_map != 0 { map } else { Vec::new() }.into(),
        online: if args.need_online != 0 {
            u32::try_from(answer.online.len()).unwrap_or(u32::MAX)
        } else {
            0
        },
        ret: i32::try_from(highest.saturating_add(1)).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn get_cpu_stats(
    ctx: &Ctx,
    args: NodeGetCpuStats,
    flags: Flags,
) -> Reply<NodeGetCpuStatsRet> {
    const FUNCTION: &str = "virHostCPUGetStatsLinux";
    let room = args::room(args.nparams, NODE_CPU_STATS_MAX)?;
    let cpu = one_or_all(ctx, ("cpuNum", args.cpu_num))?;
    flags.checked()?;
    if room == 0 {
        return Ok(NodeGetCpuStatsRet {
            params: Vec::new().into(),
            nparams: CPU_STATS,
        });
    }
    if args.nparams != CPU_STATS {
        let text = format!("nparams in {FUNCTION} must be equal to {CPU_STATS}");
        return Err(args::refused(ErrorDomain::NONE, FUNCTION, "*nparams", &text).into());
    }
    let times = ctx
        .host()
        .get_cpu_times(GetCpuTimesRequest { cpu })
        .await
        .map_err(|status| match status.code() {
            Code::InvalidArgument => args::refused(
                ErrorDomain::NONE,
                FUNCTION,
                "cpuNum",
                &format!("Invalid cpuNum in {FUNCTION}"),
            )
            .into(),
            _ => Failure::from(status),
        })?;
    let all = [
        ("kernel", times.kernel),
        ("user", times.user),
        ("idle", times.idle),
        ("iowait", times.iowait),
    ];
    let params: Vec<_> = all
        .into_iter()
        .map(|(field, value)| NodeCpuStat {
            field: field.into(),
            value: time::nanoseconds(value.as_ref()),
        })
        .collect();
    Ok(NodeGetCpuStatsRet {
        params: params.into(),
        nparams: CPU_STATS,
    })
}

pub(crate) async fn get_memory_stats(
    ctx: &Ctx,
    args: NodeGetMemoryStats,
    flags: Flags,
) -> Reply<NodeGetMemoryStatsRet> {
    const FUNCTION: &str = "virHostMemGetStatsLinux";
    let room = args::room(args.nparams, NODE_MEMORY_STATS_MAX)?;
    let cell = one_or_all(ctx, ("cellNum", args.cell_num))?;
    flags.checked()?;
    let memory = match ctx.host().get_memory(GetMemoryRequest { cell }).await {
        Ok(memory) => memory,
        Err(status) => return Err(no_such_cell(ctx, args.cell_num, status).await),
    };
    let all = [
        ("total", Some(memory.total_kib)),
        ("free", Some(memory.free_kib)),
        ("buffers", memory.buffers_kib),
        ("cached", memory.cached_kib),
    ];
    let known = all.into_iter().filter_map(|(field, value)| {
        Some(NodeMemoryStat {
            field: field.into(),
            value: value?,
        })
    });
    let known: Vec<_> = known.collect();
    let nparams = i32::try_from(known.len()).unwrap_or(0);
    if room == 0 {
        return Ok(NodeGetMemoryStatsRet {
            params: Vec::new().into(),
            nparams,
        });
    }
    if args.nparams != nparams {
        return Err(args::refused(
            ErrorDomain::NONE,
            FUNCTION,
            "nparams",
            &format!("nparams in {FUNCTION} must be {nparams}"),
        )
        .into());
    }
    Ok(NodeGetMemoryStatsRet {
        params: known.into(),
        nparams,
    })
}

/// The one that a number means, or none where it means all.
fn one_or_all(ctx: &Ctx, (name, number): (&str, i32)) -> Result<Option<u32>, WireError> {
    if number < ALL {
        let text = format!("{name} in {} only accepts -1 as a negative value", ctx.info.api);
        // libvirt names this argument so, whichever it is
        return Err(args::refused(ctx.info.area(), ctx.info.api, "cpuNum", &text));
    }
    Ok(u32::try_from(number).ok())
}

/// The error of a cell that is not there: beyond the last one, or between others.
async fn no_such_cell(ctx: &Ctx, cell: i32, status: Status) -> Failure {
    const FUNCTION: &str = "virHostMemGetStats";
    let last = match ctx
        .host()
        .list_cells(ListCellsRequest { without_pages: true })
        .await
    {
        Ok(host) => last_cell(&host),
        Err(_) => return status.into(),
    };
    if i64::from(cell) <= last || status.code() != Code::InvalidArgument {
        return status.into();
    }
    let text = format!("cellNum in {FUNCTION} must be less than or equal to {last}");
    args::refused(ErrorDomain::NONE, FUNCTION, "cellNum", &text).into()
}

fn last_cell(host: &ListCellsResponse) -> i64 {
    host.cells
        .iter()
        .map(|cell| i64::from(cell.id))
        .max()
        .unwrap_or(0)
}

/// The host's cells, and the last of the `count` from `first` on that there are.
async fn cells(
    ctx: &Ctx,
    asked: ListCellsRequest,
    first: i32,
    count: u32,
) -> Reply<(ListCellsResponse, i64)> {
    let host = ctx.host().list_cells(asked).await?;
    let (first, highest) = (i64::from(first), last_cell(&host));
    if first > highest {
        let text = format!("start cell {first} out of range (0-{highest})");
        return Err(WireError::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::NONE, &text).into());
    }
    let last = first
        .saturating_add(i64::from(count))
        .saturating_sub(1)
        .min(highest);
    Ok((host, last))
}

fn no_node(cell: i64) -> WireError {
    WireError::new(
        ErrorCode::OPERATION_FAILED,
        ErrorDomain::NONE,
        &format!("NUMA node {cell} is not available"),
    )
}

pub(crate) async fn get_cells_free_memory(
    ctx: &Ctx,
    args: NodeGetCellsFreeMemory,
) -> Reply<NodeGetCellsFreeMemoryRet> {
    let count = u32::try_from(args.maxcells).map_err(|_| WireError::rpc("maxcells must be non-negative"))?;
    if count as usize > NODE_MAX_CELLS {
        return Err(WireError::rpc("maxcells > REMOTE_NODE_MAX_CELLS").into());
    }
    args::check(ctx, "maxCells", Must::BePositive, count > 0)?;
    args::check(ctx, "startCell", Must::BeNonNegative, args.start_cell >= 0)?;
    let (host, last) = cells(
        ctx,
        ListCellsRequest { without_pages: true },
        args.start_cell,
        count,
    )
    .await?;
    let free = |cell: i64| {
        host.cells
            .iter()
            .find(|c| i64::from(c.id) == cell)
            .map_or(0, |c| c.free_memory_kib.saturating_mul(1024))
    };
    let free: Vec<u64> = (i64::from(args.start_cell)..=last).map(free).collect();
    Ok(NodeGetCellsFreeMemoryRet { cells: free.into() })
}

pub(crate) async fn get_free_pages(
    ctx: &Ctx,
    args: NodeGetFreePages,
    flags: Flags,
) -> Reply<NodeGetFreePagesRet> {
    let room = args.pages.len().checked_mul(args.cell_count as usize);
    if room.is_none_or(|room| room > NODE_MAX_CELLS) {
        return Err(internal("the result won't fit into REMOTE_NODE_MAX_CELLS").into());
    }
    args::check(ctx, "npages", Must::NotBeZero, !args.pages.is_empty())?;
    args::check(ctx, "cellCount", Must::NotBeZero, args.cell_count > 0)?;
    flags.checked()?;
    let (host, last) = cells(ctx, ListCellsRequest::default(), args.start_cell, args.cell_count).await?;
    let mut counts = Vec::new();
    for cell in i64::from(args.start_cell)..=last {
        let pools = match cell == i64::from(ALL) {
            true => &host.pages,
            false => {
                &host
                    .cells
                    .iter()
                    .find(|c| i64::from(c.id) == cell)
                    .ok_or_else(|| no_node(cell))?
                    .pages
            }
        };
        for size in args.pages.iter() {
            let pool = pools.iter().find(|pages| pages.size_kib == u64::from(*size));
            counts.push(pool.ok_or_else(|| no_pages(*size, cell))?.free);
        }
    }
    Ok(NodeGetFreePagesRet {
        counts: counts.into(),
    })
}

fn no_pages(size: u32, cell: i64) -> WireError {
    let place = if cell == i64::from(ALL) {
        String::new()
    } else {
        format!(" on node {cell}")
    };
    WireError::new(
        ErrorCode::OPERATION_FAILED,
        ErrorDomain::NONE,
        &format!("page size {size} is not available{place}"),
    )
}

pub(crate) async fn alloc_pages(ctx: &Ctx, args: NodeAllocPages, flags: Flags) -> Reply<NodeAllocPagesRet> {
    args::check(ctx, "npages", Must::NotBeZero, !args.page_sizes.is_empty())?;
    args::check(ctx, "cellCount", Must::NotBeZero, args.cell_count > 0)?;
    if args.page_counts.len() < args.page_sizes.len() {
        return Err(internal("a number of pages is needed for each size").into());
    }
    let flags = flags.checked()?;
    let (_, last) = cells(
        ctx,
        ListCellsRequest { without_pages: true },
        args.start_cell,
        args.cell_count,
    )
    .await?;
    let first = i64::from(args.start_cell);
    if first < i64::from(ALL) {
        return Err(no_node(first).into());
    }
    let sizes = args.page_sizes.iter().zip(args.page_counts.iter());
    let request = AllocatePagesRequest {
        pages: sizes
            .map(|(size, count)| Pages {
                size_kib: u64::from(*size),
                count: *count,
            })
            .collect(),
        cells: Vec::new(),
        absolute: flags & VIR_NODE_ALLOC_PAGES_SET != 0,
        options: None,
    };
    let mut pools = 0;
    if first == i64::from(ALL) {
        pools += ctx.host().allocate_pages(request.clone()).await?.pools;
    }
    let cells: Vec<u32> = (first.max(0)..=last)
        .filter_map(|cell| u32::try_from(cell).ok())
        .collect();
    if !cells.is_empty() {
        pools += ctx
            .host()
            .allocate_pages(AllocatePagesRequest { cells, ..request })
            .await?
            .pools;
    }
    Ok(NodeAllocPagesRet {
        ret: i32::try_from(pools).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn get_memory_parameters(
    ctx: &Ctx,
    args: NodeGetMemoryParameters,
    flags: Flags,
) -> Reply<NodeGetMemoryParametersRet> {
    let room = args::room(args.nparams, NODE_MEMORY_PARAMETERS_MAX)?;
    flags.checked()?;
    if room == 0 {
        return Ok(NodeGetMemoryParametersRet {
            params: Vec::new().into(),
            nparams: MERGING_ALL,
        });
    }
    let told = ctx.host().get_page_merging(GetPageMergingRequest {}).await?;
    let small = |param: Param, value: Option<u32>| value.map(|value| param.with(value));
    let large = |param: Param, value: Option<u64>| value.map(|value| param.with(value));
    let sleep = told.sleep.as_ref().map(|sleep| time::milliseconds(Some(sleep)));
    let sleep = sleep.map(|millis| u32::try_from(millis).unwrap_or(u32::MAX));
    let params = [
        small(VIR_NODE_MEMORY_SHARED_PAGES_TO_SCAN, told.pages_to_scan),
        small(VIR_NODE_MEMORY_SHARED_SLEEP_MILLISECS, sleep),
        large(VIR_NODE_MEMORY_SHARED_PAGES_SHARED, told.pages_shared),
        large(VIR_NODE_MEMORY_SHARED_PAGES_SHARING, told.pages_sharing),
        large(VIR_NODE_MEMORY_SHARED_PAGES_UNSHARED, told.pages_unshared),
        large(VIR_NODE_MEMORY_SHARED_PAGES_VOLATILE, told.pages_volatile),
        large(VIR_NODE_MEMORY_SHARED_FULL_SCANS, told.full_scans),
        small(VIR_NODE_MEMORY_SHARED_MERGE_ACROSS_NODES, told.merge_across_nodes),
    ];
    let params: Vec<TypedParam> = params.into_iter().take(room).flatten().collect();
    Ok(NodeGetMemoryParametersRet {
        params: params.into(),
        nparams: 0,
    })
}

pub(crate) async fn set_memory_parameters(
    ctx: &Ctx,
    args: NodeSetMemoryParameters,
    flags: Flags,
) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    flags.checked()?;
    args::params(&args.params, &MERGING)?;
    let value = |param: Param| match param.find(&args.params) {
        Some(TypedValue::Uint(value)) => Some(*value),
        _ => None,
    };
    let [pages_to_scan, sleep, merge_across_nodes] = MERGING.map(value);
    ctx.host()
        .set_page_merging(SetPageMergingRequest {
            pages_to_scan,
            sleep: sleep.map(time::of_milliseconds),
            merge_across_nodes,
            options: None,
        })
        .await?;
    Ok(())
}

/// Whatever room the client has.
pub(crate) async fn get_sev_info(ctx: &Ctx, _: NodeGetSevInfo, flags: Flags) -> Reply<NodeGetSevInfoRet> {
    let flags = flags.checked()?;
    let sev = ctx.host().get_sev(GetSevRequest {}).await?;
    let text = |param: Param, text: String| {
        Some(param.with(text)).filter(|_| flags & VIR_TYPED_PARAM_STRING_OKAY != 0)
    };
    let params = [
        text(VIR_NODE_SEV_PDH, sev.pdh),
        text(VIR_NODE_SEV_CERT_CHAIN, sev.cert_chain),
        sev.cpu0_id.and_then(|id| text(VIR_NODE_SEV_CPU0_ID, id)),
        Some(VIR_NODE_SEV_CBITPOS.with(sev.cbitpos)),
        Some(VIR_NODE_SEV_REDUCED_PHYS_BITS.with(sev.reduced_phys_bits)),
        Some(VIR_NODE_SEV_MAX_GUESTS.with(sev.max_guests)),
        Some(VIR_NODE_SEV_MAX_ES_GUESTS.with(sev.max_es_guests)),
    ];
    let params: Vec<TypedParam> = params.into_iter().flatten().collect();
    Ok(NodeGetSevInfoRet {
        params: params.into(),
        nparams: 0,
    })
}

pub(crate) async fn suspend_for_duration(ctx: &Ctx, args: NodeSuspendForDuration, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let target = match i32::try_from(args.target) {
        Ok(VIR_NODE_SUSPEND_TARGET_MEM) => Target::Memory,
        Ok(VIR_NODE_SUSPEND_TARGET_DISK) => Target::Disk,
        Ok(VIR_NODE_SUSPEND_TARGET_HYBRID) => Target::Hybrid,
        _ => {
            let detail = "Invalid suspend target";
            return Err(WireError::new(ErrorCode::INVALID_ARG, ErrorDomain::NONE, detail).into());
        }
    };
    ctx.host()
        .suspend_host(SuspendHostRequest {
            target: target.into(),
            duration: Some(time::of_seconds(i64::try_from(args.duration).unwrap_or(i64::MAX))),
            options: None,
        })
        .await?;
    Ok(())
}

pub(crate) async fn get_sysinfo(
    ctx: &Ctx,
    _: ConnectGetSysinfo,
    flags: Flags,
) -> Reply<ConnectGetSysinfoRet> {
    flags.checked()?;
    let xml = ctx.host().get_sysinfo(GetSysinfoRequest {}).await?.xml;
    Ok(ConnectGetSysinfoRet { sysinfo: xml.into() })
}
