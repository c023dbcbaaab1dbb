//! Statistics as messages.

use std::time::Duration;

use super::{
    convert::{self, nanoseconds},
    decode,
};
use crate::{
    error::Result,
    ops::inspect::stats::{Balloon, Block, Call, Card, Groups, Stats, Vcpus},
    pb,
};

/// The groups that a request asks for; none: all.
///
/// # Errors
/// `InvalidArg` if one is not set or unknown.
pub(super) fn groups(numbers: &[i32]) -> Result<Groups> {
    if numbers.is_empty() {
        return Ok(Groups::ALL);
    }
    let mut groups = Groups::default();
    for group in decode::all(numbers, "groups")? {
        match group {
            pb::StatsGroup::Unspecified => {}
            pb::StatsGroup::State => groups.state = true,
            pb::StatsGroup::CpuTotal => groups.cpu = true,
            pb::StatsGroup::Balloon => groups.balloon = true,
            pb::StatsGroup::Vcpu => groups.vcpu = true,
            pb::StatsGroup::Interface => groups.interface = true,
            pb::StatsGroup::Block => groups.block = true,
            pb::StatsGroup::Perf => groups.perf = true,
            pb::StatsGroup::Iothread => groups.iothread = true,
            pb::StatsGroup::Memory => groups.memory = true,
            pb::StatsGroup::Dirtyrate => groups.dirty_rate = true,
            pb::StatsGroup::Vm => groups.vm = true,
        }
    }
    Ok(groups)
}

/// What kind of call it is.
pub(super) fn call(request: &pb::GetStatsRequest) -> Call {
    match request.domains.len() {
        _ if request.nowait => Call::NoWait,
        1 => Call::One,
        _ => Call::Many,
    }
}

/// The oldest values that the caller takes of a guest that can't be asked; any age if none.
///
/// # Errors
/// `InvalidArg` for a negative age.
pub(super) fn oldest(request: &pb::GetStatsRequest) -> Result<Option<Duration>> {
    let age = request.max_age.as_ref();
    age.map(|age| decode::duration(age, "max_age")).transpose()
}

/// The answer.
pub(super) fn response(collected: Vec<Stats>) -> pb::GetStatsResponse {
    let unreachable = collected
        .iter()
        .filter(|s| s.unreachable)
        .map(|s| s.view.uuid.to_string())
        .collect();
    pb::GetStatsResponse {
        stats: collected.into_iter().map(one).collect(),
        unreachable,
    }
}

fn one(stats: Stats) -> pb::DomainStats {
    let (state, reason) = stats.condition.map(convert::state).unwrap_or_default();
    pb::DomainStats {
        uuid: stats.view.uuid.to_string(),
        name: stats.view.name.to_string(),
        id: stats.view.id(),
        state: state.into(),
        reason: reason.into(),
        cpu: stats.cpu.map(|c| pb::CpuStats {
            time: Some(nanoseconds(c.total_ns)),
            user: Some(nanoseconds(c.user_ns)),
            system: Some(nanoseconds(c.system_ns)),
        }),
        balloon: stats.balloon.map(balloon),
        vcpu: stats.vcpus.map(vcpus),
        interface: stats.interfaces.map(|cards| pb::InterfaceStats {
            interfaces: cards.into_iter().map(card).collect(),
        }),
        block: stats.blocks.map(|blocks| pb::BlockStats {
            blocks: blocks.into_iter().map(block).collect(),
        }),
        iothread: (!stats.iothreads.is_empty()).then(|| pb::IoThreadStats {
            iothreads: stats.iothreads.iter().map(iothread).collect(),
        }),
        dirty_rate: stats.dirty_rate.map(dirty_rate),
        vm: Vec::new(),
        perf: stats
            .perf
            .iter()
            .map(|(event, count)| pb::PerfStat {
                event: event.as_str().to_owned(),
                count: *count,
            })
            .collect(),
        age: stats.age.and_then(|age| age.try_into().ok()),
    }
}

fn balloon(balloon: Balloon) -> pb::BalloonStats {
    let number = |name: &str| balloon.guest.get(name).copied();
    let kib = |name: &str| number(name).map(|bytes| bytes / 1024);
    pb::BalloonStats {
        current: balloon.current,
        maximum: balloon.maximum,
        device: balloon.device,
        swap_in: kib("stat-swap-in"),
        swap_out: kib("stat-swap-out"),
        major_fault: number("stat-major-faults"),
        minor_fault: number("stat-minor-faults"),
        unused: kib("stat-free-memory"),
        available: kib("stat-total-memory"),
        rss: balloon.rss,
        usable: kib("stat-available-memory"),
        last_update: balloon.last_update.map(moment),
        disk_caches: kib("stat-disk-caches"),
        hugetlb_pgalloc: number("stat-htlb-pgalloc"),
        hugetlb_pgfail: number("stat-htlb-pgfail"),
    }
}

/// A point in time that is counted in seconds since 1970.
fn moment(seconds: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

fn vcpus(vcpus: Vcpus) -> pb::VcpuStats {
    let thread = |t: &crate::ops::inspect::stats::VcpuThread| pb::vcpu_stats::Vcpu {
        index: t.index,
        state: pb::vcpu_stats::vcpu::State::Running.into(),
        time: Some(nanoseconds(t.stat.cpu.total_ns)),
        wait: Some(nanoseconds(t.wait_ns)),
        delay: Some(nanoseconds(t.delay_ns)),
        halted: None,
        cpu: t.stat.processor,
        cpumap: t.cpumap.clone(),
        extra: Vec::new(),
    };
    pb::VcpuStats {
        current: vcpus.current,
        maximum: vcpus.maximum,
        vcpus: vcpus.threads.iter().map(thread).collect(),
    }
}

fn card(card: Card) -> pb::interface_stats::Interface {
    let counters = card.counters.map(
        |[
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        ]| {
            pb::interface_stats::Counters {
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
            }
        },
    );
    pb::interface_stats::Interface {
        name: card.name.unwrap_or_default(),
        mac: card.mac.unwrap_or_default(),
        counters,
    }
}

fn block(block: Block) -> pb::block_stats::Block {
    let counters = block.counters.as_ref();
    let size = |i: usize| block.sizes.map(|s| s[i]);
    pb::block_stats::Block {
        name: block.name,
        backing_index: block.index,
        path: block.path.unwrap_or_default(),
        rd_requests: counters.map(|c| c.rd_operations),
        rd_bytes: counters.map(|c| c.rd_bytes),
        rd_time: counters.map(|c| nanoseconds(c.rd_total_time_ns)),
        wr_requests: counters.map(|c| c.wr_operations),
        wr_bytes: counters.map(|c| c.wr_bytes),
        wr_time: counters.map(|c| nanoseconds(c.wr_total_time_ns)),
        fl_requests: counters.map(|c| c.flush_operations),
        fl_time: counters.map(|c| nanoseconds(c.flush_total_time_ns)),
        allocation: size(0),
        capacity: size(1),
        physical: size(2),
        threshold: Some(block.threshold).filter(|t| *t != 0),
        errors: None,
        unreadable: block.unreadable.unwrap_or_default(),
    }
}

fn iothread(thread: &qmp::types::IoThreadInfo) -> pb::io_thread_stats::IoThread {
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    pb::io_thread_stats::IoThread {
        id: thread
            .id
            .strip_prefix("iothread")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
        poll_max: Some(nanoseconds(number(thread.poll_max_ns))),
        poll_grow: number(thread.poll_grow),
        poll_shrink: number(thread.poll_shrink),
    }
}

fn dirty_rate(info: qmp::types::DirtyRateInfo) -> pb::DirtyRateStats {
    use pb::dirty_rate_stats::Status;
    let status = match info.status.as_str() {
        "measuring" => Status::Measuring,
        "measured" => Status::Measured,
        _ => Status::Unstarted,
    };
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    pb::DirtyRateStats {
        status: status.into(),
        start_time: seconds(info.start_time),
        period: seconds(info.calc_time),
        megabytes_per_second: info.dirty_rate,
        mode: info.mode.unwrap_or_default(),
    }
}
