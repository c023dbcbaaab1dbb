//! Statistics of one guest: its memory, CPUs, disks and network cards, each by a call of its own.

use virtqemud_client::time::{self, Duration};
use wire::params::*;
use wire::remote::*;
use wire::typed::TypedParam;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self, Must};
use super::flags::Flags;
use super::info::{basic, running};
use super::stats::OLDEST;
use super::{Reply, by_uuid};
use crate::ctx::{Ctx, internal};
use crate::proto::{DomainStats, GetStatsRequest, StatsGroup, block_stats::Block};

/// Bytes of the CPU maps of one answer.
const MAPS_MAX: i64 = CPUMAPS_MAX as i64;

/// One group of statistics of a guest.
async fn stats(ctx: &Ctx, dom: &NonnullDomain, group: StatsGroup) -> Reply<DomainStats> {
    let request = GetStatsRequest {
        domains: by_uuid(dom).into_iter().collect(),
        groups: vec![group.into()],
        max_age: Some(OLDEST),
        ..GetStatsRequest::default()
    };
    let answer = ctx.domains().get_stats(request).await?;
    let Some(stats) = answer.stats.into_iter().next() else {
        // It went away; the service knows the words for that.
        basic(ctx, dom).await?;
        return Ok(DomainStats::default());
    };
    if stats.id > 0 && stats.age.is_none() && answer.unreachable.contains(&stats.uuid) {
        let detail = format!(
            "domain '{}' can't be asked at present: QEMU does not answer",
            stats.name
        );
        return Err(WireError::new(ErrorCode::OPERATION_TIMEOUT, ErrorDomain::QEMU, &detail).into());
    }
    Ok(stats)
}

pub(crate) async fn memory_stats(
    ctx: &Ctx,
    args: DomainMemoryStats,
    flags: Flags,
) -> Reply<DomainMemoryStatsRet> {
    let room = usize::try_from(args.max_stats).unwrap_or(usize::MAX);
    if room > DOMAIN_MEMORY_STATS_MAX {
        return Err(internal("maxStats > REMOTE_DOMAIN_MEMORY_STATS_MAX").into());
    }
    if room == 0 {
        return Ok(DomainMemoryStatsRet::default());
    }
    flags.checked()?;
    running(ctx, &args.dom).await?;
    let balloon = stats(ctx, &args.dom, StatsGroup::Balloon).await?.balloon;
    let balloon = balloon.unwrap_or_default();
    // By libvirt's numbers, in the order in which it tells them.
    let all = [
        (6, balloon.device.then_some(balloon.current)),
        (0, balloon.swap_in),
        (1, balloon.swap_out),
        (2, balloon.major_fault),
        (3, balloon.minor_fault),
        (4, balloon.unused),
        (5, balloon.available),
        (8, balloon.usable),
        (9, balloon.last_update.as_ref().map(time::seconds_since_1970)),
        (10, balloon.disk_caches),
        (11, balloon.hugetlb_pgalloc),
        (12, balloon.hugetlb_pgfail),
        (7, balloon.rss),
    ];
    let known = all
        .into_iter()
        .filter_map(|(tag, value)| Some(DomainMemoryStat { tag, val: value? }));
    Ok(DomainMemoryStatsRet {
        stats: known.take(room).collect(),
    })
}

pub(crate) async fn get_vcpus(ctx: &Ctx, args: DomainGetVcpus) -> Reply<DomainGetVcpusRet> {
    let (most, map_len) = vcpu_room(&args)?;
    args::check(ctx, "info", Must::NotBeNull, most > 0)?;
    if basic(ctx, &args.dom).await?.id == 0 {
        let detail = "cannot retrieve vcpu information for inactive domain";
        return Err(WireError::new(ErrorCode::OPERATION_INVALID, ErrorDomain::QEMU, detail).into());
    }
    let vcpus = stats(ctx, &args.dom, StatsGroup::Vcpu).await?.vcpu;
    let vcpus = vcpus.unwrap_or_default().vcpus;
    let (mut info, mut cpumaps) = (Vec::new(), Vec::new());
    for vcpu in vcpus.into_iter().take(most) {
        info.push(VcpuInfo {
            number: vcpu.index,
            // The service counts from 1.
            state: vcpu.state - 1,
            cpu_time: time::nanoseconds(vcpu.time.as_ref()),
            cpu: vcpu.cpu,
        });
        let mut map = vcpu.cpumap;
        map.resize(map_len, 0);
        cpumaps.append(&mut map);
    }
    Ok(DomainGetVcpusRet {
        info: info.into(),
        cpumaps: cpumaps.into(),
    })
}

/// How many CPUs the caller has room for, and bytes for the map of each.
fn vcpu_room(args: &DomainGetVcpus) -> Result<(usize, usize), WireError> {
    let (Ok(most), Ok(map_len)) = (usize::try_from(args.maxinfo), usize::try_from(args.maplen)) else {
        return Err(internal("maxinfo must be non-negative"));
    };
    if most > VCPUINFO_MAX {
        return Err(internal("maxinfo > REMOTE_VCPUINFO_MAX"));
    }
    if i64::from(args.maxinfo) * i64::from(args.maplen) > MAPS_MAX {
        return Err(internal("maxinfo * maplen > REMOTE_CPUMAPS_MAX"));
    }
    Ok((most, map_len))
}

pub(crate) async fn block_stats(ctx: &Ctx, args: DomainBlockStats) -> Reply<DomainBlockStatsRet> {
    let block = counted(ctx, &args.dom, &args.path.to_str()).await?;
    let number = |value: Option<u64>| value.map_or(-1, signed);
    Ok(DomainBlockStatsRet {
        rd_req: number(block.rd_requests),
        rd_bytes: number(block.rd_bytes),
        wr_req: number(block.wr_requests),
        wr_bytes: number(block.wr_bytes),
        errs: -1,
    })
}

pub(crate) async fn block_stats_flags(
    ctx: &Ctx,
    args: DomainBlockStatsFlags,
    flags: Flags,
) -> Reply<DomainBlockStatsFlagsRet> {
    let room = args::room(args.nparams, DOMAIN_BLOCK_STATS_PARAMETERS_MAX)?;
    flags.checked()?;
    let block = counted(ctx, &args.dom, &args.path.to_str()).await?;
    let nanoseconds = |span: Option<_>| span.as_ref().map(|span| time::nanoseconds(Some(span)));
    let all = [
        (VIR_DOMAIN_BLOCK_STATS_WRITE_BYTES, block.wr_bytes),
        (VIR_DOMAIN_BLOCK_STATS_WRITE_REQ, block.wr_requests),
        (VIR_DOMAIN_BLOCK_STATS_READ_BYTES, block.rd_bytes),
        (VIR_DOMAIN_BLOCK_STATS_READ_REQ, block.rd_requests),
        (VIR_DOMAIN_BLOCK_STATS_FLUSH_REQ, block.fl_requests),
        (
            VIR_DOMAIN_BLOCK_STATS_WRITE_TOTAL_TIMES,
            nanoseconds(block.wr_time),
        ),
        (
            VIR_DOMAIN_BLOCK_STATS_READ_TOTAL_TIMES,
            nanoseconds(block.rd_time),
        ),
        (
            VIR_DOMAIN_BLOCK_STATS_FLUSH_TOTAL_TIMES,
            nanoseconds(block.fl_time),
        ),
    ];
    let params = all
        .into_iter()
        .filter_map(|(param, value)| Some(param.with(signed(value?))));
    let (params, nparams) = args::fitting(params.collect::<Vec<TypedParam>>(), room);
    Ok(DomainBlockStatsFlagsRet {
        params: params.into(),
        nparams,
    })
}

pub(crate) async fn interface_stats(ctx: &Ctx, args: DomainInterfaceStats) -> Reply<DomainInterfaceStatsRet> {
    running(ctx, &args.dom).await?;
    let interfaces = stats(ctx, &args.dom, StatsGroup::Interface).await?.interface;
    let device = args.device.to_str();
    let interfaces = interfaces.unwrap_or_default().interfaces;
    let named = |name: &str, mac: &str| name == device || mac.eq_ignore_ascii_case(&device);
    let found = interfaces
        .into_iter()
        .find(|interface| named(&interface.name, &interface.mac) && !device.is_empty());
    let unknown = || ctx.invalid_arg(&format!("'{device}' is not a known interface"));
    let counters = found
        .and_then(|interface| interface.counters)
        .ok_or_else(unknown)?;
    Ok(DomainInterfaceStatsRet {
        rx_bytes: signed(counters.rx_bytes),
        rx_packets: signed(counters.rx_packets),
        rx_errs: signed(counters.rx_errors),
        rx_drop: signed(counters.rx_dropped),
        tx_bytes: signed(counters.tx_bytes),
        tx_packets: signed(counters.tx_packets),
        tx_errs: signed(counters.tx_errors),
        tx_drop: signed(counters.tx_dropped),
    })
}

async fn blocks(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Vec<Block>> {
    let block = stats(ctx, dom, StatsGroup::Block).await?.block;
    Ok(block.unwrap_or_default().blocks)
}

/// The disk of a running guest at `path`; all its disks together, if that is empty.
async fn counted(ctx: &Ctx, dom: &NonnullDomain, path: &str) -> Reply<Block> {
    running(ctx, dom).await?;
    let blocks = blocks(ctx, dom).await?;
    if path.is_empty() {
        return Ok(blocks.iter().fold(no_requests(), sum));
    }
    let unknown = || args::invalid(&format!("invalid path: {path}"));
    let found = blocks.into_iter().find(|block| is(block, path));
    Ok(found.ok_or_else(unknown)?)
}

/// Whether `path` means the disk: by target or by file.
fn is(block: &Block, path: &str) -> bool {
    block.name == path || (!block.path.is_empty() && block.path == path)
}

/// Of no disk at all.
fn no_requests() -> Block {
    Block {
        rd_requests: Some(0),
        rd_bytes: Some(0),
        wr_requests: Some(0),
        wr_bytes: Some(0),
        ..Block::default()
    }
}

fn sum(total: Block, block: &Block) -> Block {
    let add = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    };
    let span = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
        (Some(a), Some(b)) => Some(time::sum(&a, &b)),
        (a, b) => a.or(b),
    };
    Block {
        rd_requests: add(total.rd_requests, block.rd_requests),
        rd_bytes: add(total.rd_bytes, block.rd_bytes),
        rd_time: span(total.rd_time, block.rd_time),
        wr_requests: add(total.wr_requests, block.wr_requests),
        wr_bytes: add(total.wr_bytes, block.wr_bytes),
        wr_time: span(total.wr_time, block.wr_time),
        fl_requests: add(total.fl_requests, block.fl_requests),
        fl_time: span(total.fl_time, block.fl_time),
        ..Block::default()
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
