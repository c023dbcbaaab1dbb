//! Statistics of many guests, as typed parameters with libvirt's names and in its order.

use virtqemud_client::time::{self, nanoseconds};
use wire::WireError;
use wire::consts::{
    VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING, VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS,
    VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
};
use wire::remote::*;
use wire::typed::TypedValue;
use wire::xdr::{Encode, STRING_MAX, TooLong, put_list, put_text};

use super::flags::Flags;
use super::info::state_and_reason;
use super::{Reply, args, by_uuid, list};
use crate::ctx::Ctx;
use crate::proto::{
    BalloonStats, BlockStats, CpuStats, DirtyRateStats, DomainStats, GetStatsRequest, InterfaceStats,
    IoThreadStats, NamedStat, StatsGroup, VcpuStats, block_stats, named_stat,
};

/// Most guests in an answer.
const MOST_GUESTS: usize = DOMAIN_LIST_MAX;
/// Most parameters of a guest.
const MOST_PARAMETERS: usize = CONNECT_GET_ALL_DOMAIN_STATS_MAX;
/// The oldest values that libvirt's clients are told of a guest that can't be asked: they take them for new.
pub(super) const OLDEST: prost_types::Duration = prost_types::Duration { seconds: 5, nanos: 0 };
/// Flags of the call that choose guests; the others say how.
const CHOICE: u32 = 0xff;

pub(crate) async fn get_all(ctx: &Ctx, args: ConnectGetAllDomainStats, flags: Flags) -> Reply<Answer> {
    let flags = flags.checked()?;
    let has = |flag| flags & flag != 0;
    let request = GetStatsRequest {
        domains: args.doms.iter().filter_map(by_uuid).collect(),
        filter: Some(list::filter(flags & CHOICE)),
        groups: groups(args.stats, flags)?,
        backing_chain: has(VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING),
        nowait: has(VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT),
        max_age: Some(OLDEST),
    };
    let stats = ctx.domains().get_stats(request).await?.stats;
    Ok(Answer {
        stats,
        groups: args.stats,
    })
}

/// The groups of libvirt's bits. Those that nobody knows are left out, or refused if the flags say so.
fn groups(bits: u32, flags: u32) -> Result<Vec<i32>, WireError> {
    let bits_of = |group: &StatsGroup| i32::from(*group).cast_unsigned();
    let each = (0..32).map(|bit| bits & (1 << bit)).filter(|bit| *bit != 0);
    let known: Vec<_> = each
        .filter_map(|bit| StatsGroup::try_from(bit.cast_signed()).ok())
        .collect();
    let unknown = bits & !known.iter().fold(0, |all, group| all | bits_of(group));
    if unknown != 0 && flags & VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS != 0 {
        let text = format!("Stats types bits {unknown:#x} are not supported by this daemon or QEMU");
        return Err(args::unsupported(&text));
    }
    if bits != 0 && known.is_empty() {
        // No group at all would be every group. This one costs nothing, and nobody asked to be told of it.
        return Ok(vec![StatsGroup::State.into()]);
    }
    Ok(known.into_iter().map(i32::from).collect())
}

/// The answer, written as [`ConnectGetAllDomainStatsRet`]: it is long, so it is made of the service's answer in one go.
pub(crate) struct Answer {
    stats: Vec<DomainStats>,
    groups: u32,
}

impl Encode for Answer {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        put_list(out, MOST_GUESTS, |out| {
            for stats in &self.stats {
                whose(stats).put(out)?;
                put_list(out, MOST_PARAMETERS, |out| params(out, stats, self.groups))?;
            }
            Ok(self.stats.len())
        })
    }
}

fn whose(stats: &DomainStats) -> NonnullDomain {
    NonnullDomain {
        name: stats.name.as_str().into(),
        uuid: stats.uuid.parse().unwrap_or_default(),
        id: if stats.id > 0 { stats.id } else { -1 },
    }
}

/// All that is told of a guest, group by group; how many parameters that is.
fn params(out: &mut Vec<u8>, stats: &DomainStats, groups: u32) -> Result<usize, TooLong> {
    let wanted = |group: StatsGroup| groups == 0 || groups & i32::from(group).cast_unsigned() != 0;
    let running = stats.id > 0;
    let mut list = Params {
        out,
        count: 0,
        error: None,
    };
    if wanted(StatsGroup::State) {
        let (state, reason) = state_and_reason(stats.state, stats.reason);
        list.add("state.state", state);
        list.add("state.reason", reason);
    }
    list.group(stats.cpu.as_ref(), |list, stats| cpu(list, stats, running));
    list.group(stats.balloon.as_ref(), balloon);
    list.group(stats.vcpu.as_ref(), vcpu);
    list.group(stats.interface.as_ref(), interface);
    list.group(stats.block.as_ref(), block);
    for event in &stats.perf {
        list.add(&format!("perf.{}", event.event), event.count);
    }
    list.group(stats.iothread.as_ref(), iothread);
    list.group(stats.dirty_rate.as_ref(), dirty_rate);
    for stat in &stats.vm {
        list.named("vm", stat);
    }
    list.error.map_or(Ok(list.count), Err)
}

/// Parameters in their order, written as they come.
struct Params<'a> {
    out: &'a mut Vec<u8>,
    count: usize,
    error: Option<TooLong>,
}

impl Params<'_> {
    fn put(&mut self, name: &[&str], value: &TypedValue) {
        let written = put_text(self.out, STRING_MAX, name).and_then(|()| value.put(self.out));
        self.count += 1;
        if let Err(error) = written {
            self.error.get_or_insert(error);
        }
    }

    fn add(&mut self, name: &str, value: impl Into<TypedValue>) {
        self.put(&[name], &value.into());
    }

    fn maybe(&mut self, name: &str, value: Option<impl Into<TypedValue>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    fn all(&mut self, prefix: &str, values: &[(&str, Option<u64>)]) {
        for (name, value) in values {
            if let Some(value) = value {
                self.put(&[prefix, ".", name], &TypedValue::Ullong(*value));
            }
        }
    }

    fn count(&mut self, name: &str, count: usize) {
        self.add(name, u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn named(&mut self, prefix: &str, stat: &NamedStat) {
        let value: TypedValue = match &stat.value {
            Some(named_stat::Value::Number(number)) => (*number).into(),
            Some(named_stat::Value::Flag(flag)) => (*flag).into(),
            Some(named_stat::Value::Text(text)) => text.as_str().into(),
            None => return,
        };
        self.put(&[prefix, ".", &stat.name], &value);
    }

    fn group<T>(&mut self, stats: Option<&T>, add: impl FnOnce(&mut Self, &T)) {
        if let Some(stats) = stats {
            add(self, stats);
        }
    }
}

fn cpu(list: &mut Params<'_>, stats: &CpuStats, running: bool) {
    list.add("cpu.time", nanoseconds(stats.time.as_ref()));
    list.add("cpu.user", nanoseconds(stats.user.as_ref()));
    list.add("cpu.system", nanoseconds(stats.system.as_ref()));
    if running {
        list.add("cpu.cache.monitor.count", 0_u32);
        list.add("cpu.haltpoll.success.time", 0_u64);
        list.add("cpu.haltpoll.fail.time", 0_u64);
    }
}

fn balloon(list: &mut Params<'_>, stats: &BalloonStats) {
    list.all(
        "balloon",
        &[
            ("current", Some(stats.current)),
            ("maximum", Some(stats.maximum)),
            ("swap_in", stats.swap_in),
            ("swap_out", stats.swap_out),
            ("major_fault", stats.major_fault),
            ("minor_fault", stats.minor_fault),
            ("unused", stats.unused),
            ("available", stats.available),
            ("usable", stats.usable),
            (
                "last-update",
                stats.last_update.as_ref().map(time::seconds_since_1970),
            ),
            ("disk_caches", stats.disk_caches),
            ("hugetlb_pgalloc", stats.hugetlb_pgalloc),
            ("hugetlb_pgfail", stats.hugetlb_pgfail),
            ("rss", stats.rss),
        ],
    );
}

fn vcpu(list: &mut Params<'_>, stats: &VcpuStats) {
    list.add("vcpu.current", stats.current);
    list.add("vcpu.maximum", stats.maximum);
    for vcpu in &stats.vcpus {
        let prefix = format!("vcpu.{}", vcpu.index);
        // The service counts from 1.
        list.add(&format!("{prefix}.state"), vcpu.state - 1);
        list.all(
            &prefix,
            &[
                ("time", Some(nanoseconds(vcpu.time.as_ref()))),
                ("wait", Some(nanoseconds(vcpu.wait.as_ref()))),
            ],
        );
        list.maybe(&format!("{prefix}.halted"), vcpu.halted);
        list.add(&format!("{prefix}.delay"), nanoseconds(vcpu.delay.as_ref()));
        for stat in &vcpu.extra {
            list.named(&prefix, stat);
        }
    }
}

fn interface(list: &mut Params<'_>, stats: &InterfaceStats) {
    list.count("net.count", stats.interfaces.len());
    for (index, interface) in stats.interfaces.iter().enumerate() {
        let prefix = format!("net.{index}");
        if !interface.name.is_empty() {
            list.add(&format!("{prefix}.name"), interface.name.as_str());
        }
        let Some(counters) = &interface.counters else {
            continue;
        };
        list.all(
            &prefix,
            &[
                ("rx.bytes", Some(counters.rx_bytes)),
                ("rx.pkts", Some(counters.rx_packets)),
                ("rx.errs", Some(counters.rx_errors)),
                ("rx.drop", Some(counters.rx_dropped)),
                ("tx.bytes", Some(counters.tx_bytes)),
                ("tx.pkts", Some(counters.tx_packets)),
                ("tx.errs", Some(counters.tx_errors)),
                ("tx.drop", Some(counters.tx_dropped)),
            ],
        );
    }
}

fn block(list: &mut Params<'_>, stats: &BlockStats) {
    list.count("block.count", stats.blocks.len());
    for (index, block) in stats.blocks.iter().enumerate() {
        one_block(list, &format!("block.{index}"), block);
    }
}

/// A span that may not have been counted.
fn time_of(span: Option<&time::Duration>) -> Option<u64> {
    span.map(|span| nanoseconds(Some(span)))
}

fn one_block(list: &mut Params<'_>, prefix: &str, block: &block_stats::Block) {
    list.add(&format!("{prefix}.name"), block.name.as_str());
    if !block.path.is_empty() {
        list.add(&format!("{prefix}.path"), block.path.as_str());
    }
    list.maybe(&format!("{prefix}.backingIndex"), block.backing_index);
    list.all(
        prefix,
        &[
            ("rd.reqs", block.rd_requests),
            ("rd.bytes", block.rd_bytes),
            ("rd.times", time_of(block.rd_time.as_ref())),
            ("wr.reqs", block.wr_requests),
            ("wr.bytes", block.wr_bytes),
            ("wr.times", time_of(block.wr_time.as_ref())),
            ("fl.reqs", block.fl_requests),
            ("fl.times", time_of(block.fl_time.as_ref())),
            ("allocation", block.allocation),
            ("capacity", block.capacity),
            ("physical", block.physical),
            ("threshold", block.threshold),
            ("errors", block.errors),
        ],
    );
}

fn iothread(list: &mut Params<'_>, stats: &IoThreadStats) {
    list.count("iothread.count", stats.iothreads.len());
    for thread in &stats.iothreads {
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let prefix = format!("iothread.{}", thread.id);
        list.add(
            &format!("{prefix}.poll-max-ns"),
            nanoseconds(thread.poll_max.as_ref()),
        );
        list.add(&format!("{prefix}.poll-grow"), small(thread.poll_grow));
        list.add(&format!("{prefix}.poll-shrink"), small(thread.poll_shrink));
    }
}

fn dirty_rate(list: &mut Params<'_>, stats: &DirtyRateStats) {
    // The service counts states from 1.
    let seconds = |span: Option<time::Duration>| span.map_or(0, |span| span.seconds);
    list.add("dirtyrate.calc_status", stats.status - 1);
    list.add("dirtyrate.calc_start_time", seconds(stats.start_time));
    list.add(
        "dirtyrate.calc_period",
        i32::try_from(seconds(stats.period)).unwrap_or(i32::MAX),
    );
    list.add("dirtyrate.calc_mode", stats.mode.as_str());
    let rate = stats.megabytes_per_second;
    list.maybe("dirtyrate.megabytes_per_second", rate);
}

#[cfg(test)]
mod tests {
    use wire::typed::TypedParam;
    use wire::xdr::{Reader, Xdr};

    use super::*;
    use crate::proto::{State, StateReason};

    fn lines(stats: &DomainStats, groups: u32) -> Vec<String> {
        let mut bytes = Vec::new();
        let count = params(&mut bytes, stats, groups).unwrap();
        let mut reader = Reader::new(&bytes);
        let mut line = || {
            let param = TypedParam::decode(&mut reader).unwrap();
            format!("{}={:?}", param.field.to_str(), param.value)
        };
        (0..count).map(|_| line()).collect()
    }

    #[test]
    fn a_guest_that_is_shut_off_has_no_counters_of_a_run() {
        let stats = DomainStats {
            state: State::Shutoff.into(),
            reason: StateReason::ShutoffDestroyed.into(),
            cpu: Some(CpuStats::default()),
            ..DomainStats::default()
        };
        let expected = [
            "state.state=Int(5)",
            "state.reason=Int(2)",
            "cpu.time=Ullong(0)",
            "cpu.user=Ullong(0)",
            "cpu.system=Ullong(0)",
        ];
        assert_eq!(lines(&stats, 0), expected);
        assert_eq!(lines(&stats, 2), expected[2..]);
    }

    #[test]
    fn interfaces_are_numbered_by_their_place() {
        let named = crate::proto::interface_stats::Interface {
            name: "vnet7".into(),
            ..Default::default()
        };
        let stats = DomainStats {
            id: 3,
            interface: Some(InterfaceStats {
                interfaces: vec![crate::proto::interface_stats::Interface::default(), named],
            }),
            ..DomainStats::default()
        };
        assert_eq!(
            lines(&stats, 16),
            ["net.count=Uint(2)", "net.1.name=String(\"vnet7\")"]
        );
    }
}
