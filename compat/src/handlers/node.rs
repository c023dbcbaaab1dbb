//! The host's CPUs and memory.

use wire::remote::*;

use super::{Reply, args};
use crate::ctx::{Ctx, internal};
use crate::proto::{GetCpuMapRequest, GetCpuTimesRequest, GetMemoryRequest, ListCellsRequest, list_cells_response::Cell};

/// The number that stands for all CPUs, or for the whole host.
const ALL: i32 = -1;
/// How many times are told of a CPU.
const CPU_STATS: i32 = 4;

pub(crate) async fn get_cpu_map(ctx: &Ctx, args: NodeGetCpuMap) -> Reply<NodeGetCpuMapRet> {
    args::flags(ctx, args.flags)?;
    let answer = ctx.host().get_cpu_map(GetCpuMapRequest {}).await?.into_inner();
    let highest = answer.present.iter().copied().max().unwrap_or(0);
    let mut map = vec![0_u8; (highest / 8 + 1) as usize];
    for cpu in &answer.online {
        if let Some(byte) = map.get_mut((cpu / 8) as usize) {
            *byte |= 1 << (cpu % 8);
        }
    }
    Ok(NodeGetCpuMapRet {
        cpumap: if args.need_map != 0 { map } else { Vec::new() }.into(),
        online: if args.need_online != 0 { u32::try_from(answer.online.len()).unwrap_or(u32::MAX) } else { 0 },
        ret: i32::try_from(highest.saturating_add(1)).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn get_cpu_stats(ctx: &Ctx, args: NodeGetCpuStats) -> Reply<NodeGetCpuStatsRet> {
    args::flags(ctx, args.flags)?;
    if wanted(args.nparams) == 0 {
        return Ok(NodeGetCpuStatsRet { params: Vec::new().into(), nparams: CPU_STATS });
    }
    let cpu = (args.cpu_num != ALL).then(|| args.cpu_num.try_into().unwrap_or(u32::MAX));
    let times = ctx.host().get_cpu_times(GetCpuTimesRequest { cpu }).await?.into_inner();
    let all = [("kernel", times.kernel), ("user", times.user), ("idle", times.idle), ("iowait", times.iowait)];
    let stat = |(field, value): (&str, u64)| NodeCpuStat { field: field.into(), value };
    let params: Vec<_> = all.into_iter().take(wanted(args.nparams)).map(stat).collect();
    Ok(NodeGetCpuStatsRet { params: params.into(), nparams: CPU_STATS })
}

pub(crate) async fn get_memory_stats(ctx: &Ctx, args: NodeGetMemoryStats) -> Reply<NodeGetMemoryStatsRet> {
    args::flags(ctx, args.flags)?;
    let cell = (args.cell_num != ALL).then(|| args.cell_num.try_into().unwrap_or(u32::MAX));
    let memory = ctx.host().get_memory(GetMemoryRequest { cell }).await?.into_inner();
    let all = [
        ("total", Some(memory.total_kib)),
        ("free", Some(memory.free_kib)),
        ("buffers", memory.buffers_kib),
        ("cached", memory.cached_kib),
    ];
    let known: Vec<NodeMemoryStat> =
        all.into_iter().filter_map(|(field, value)| Some(NodeMemoryStat { field: field.into(), value: value? })).collect();
    let nparams = i32::try_from(known.len()).unwrap_or(0);
    let params: Vec<_> = known.into_iter().take(wanted(args.nparams)).collect();
    Ok(NodeGetMemoryStatsRet { params: params.into(), nparams })
}

/// A client that gives no room asks how much it needs.
fn wanted(room: i32) -> usize {
    room.try_into().unwrap_or(0)
}

/// Cells from `first` on, at most `count`.
async fn cells(ctx: &Ctx, first: i32, count: usize) -> Reply<Vec<Cell>> {
    let all = ctx.host().list_cells(ListCellsRequest {}).await?.into_inner().cells;
    let last = all.iter().map(|cell| cell.id).max().unwrap_or(0);
    match u32::try_from(first).ok().filter(|first| *first <= last) {
        Some(first) => Ok(all.into_iter().filter(|cell| cell.id >= first).take(count).collect()),
        None => Err(internal(&format!("start cell {first} out of range (0-{last})")).into()),
    }
}

pub(crate) async fn get_cells_free_memory(ctx: &Ctx, args: NodeGetCellsFreeMemory) -> Reply<NodeGetCellsFreeMemoryRet> {
    let cells = cells(ctx, args.start_cell, wanted(args.maxcells)).await?;
    let bytes: Vec<u64> = cells.iter().map(|cell| cell.free_memory_kib.saturating_mul(1024)).collect();
    Ok(NodeGetCellsFreeMemoryRet { cells: bytes.into() })
}

pub(crate) async fn get_free_pages(ctx: &Ctx, args: NodeGetFreePages) -> Reply<NodeGetFreePagesRet> {
    args::flags(ctx, args.flags)?;
    let cells = cells(ctx, args.start_cell, args.cell_count as usize).await?;
    let mut counts = Vec::new();
    for cell in &cells {
        for size in args.pages.iter() {
            let pages = cell.pages.iter().find(|pages| pages.size_kib == u64::from(*size));
            let missing = || {
                wire::WireError::new(
                    wire::ErrorCode::OPERATION_FAILED,
                    wire::ErrorDomain::NONE,
                    &format!("page size {size} is not available on node {}", cell.id),
                )
            };
            counts.push(pages.ok_or_else(missing)?.free);
        }
    }
    Ok(NodeGetFreePagesRet { counts: counts.into() })
}
