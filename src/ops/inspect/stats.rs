//! Statistics of guests.
//!
//! What the daemon knows itself comes from the view and from /proc; what only QEMU knows is asked for all guests at
//! once, each within [`ASK`]: a guest that does not answer costs nobody else anything, and is named in the answer.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use qmp::{commands, types};

use crate::{
    domain::{
        Condition, Domain, Run, View,
        facts::DiskFacts,
        jobs::{Kind, Want},
    },
    ops::{Driver, holdings::storage::chain, host::proc},
    qemu::Monitor,
};

/// How long one guest may take to answer everything.
const ASK: Duration = Duration::from_millis(120);
/// How long a job is waited for before a guest is told of without what needs QEMU.
const JOB: Duration = Duration::from_millis(60);
/// How long the images of guests that are shut off may take to look at.
const FILES: Duration = Duration::from_secs(2);
/// Guests asked at the same time.
const AT_ONCE: usize = 64;

macro_rules! groups {
    ($($(#[doc = $doc:literal])* $field:ident,)*) => {
        /// Groups of statistics.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Groups { $($(#[doc = $doc])* pub $field: bool,)* }
        impl Groups {
            /// Every group.
            pub const ALL: Groups = Groups { $($field: true,)* };
        }
    };
}

groups! {
    /// State and reason.
    state,
    /// CPU time.
    cpu,
    /// Memory.
    balloon,
    /// Each CPU.
    vcpu,
    /// Network cards.
    interface,
    /// Disks.
    block,
    /// Performance counters of the host; none are kept yet.
    perf,
    /// Threads for I/O.
    iothread,
    /// Memory bandwidth; none is measured yet.
    memory,
    /// How fast memory is written.
    dirty_rate,
    /// What KVM counts.
    vm,
}

impl Groups {
    fn need_qemu(self) -> bool {
        self.balloon || self.block || self.iothread || self.dirty_rate
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Which groups.
    pub groups: Groups,
    /// Also images below the top ones.
    pub backing_chain: bool,
    /// Leave out what needs QEMU if a job is at work.
    pub nowait: bool,
}

/// Statistics of one guest; groups not asked for, or not to be had, are none.
#[derive(Clone, Debug)]
pub struct Stats {
    /// The guest then.
    pub view: Arc<View>,
    /// State and reason.
    pub condition: Option<Condition>,
    /// CPU time; none was used by a guest that does not run.
    pub cpu: Option<proc::CpuTime>,
    /// Memory.
    pub balloon: Option<Balloon>,
    /// CPUs.
    pub vcpus: Option<Vcpus>,
    /// Counters of network cards, by place in the document.
    pub interfaces: Option<Vec<Card>>,
    /// Disks.
    pub blocks: Option<Vec<Block>>,
    /// Threads for I/O.
    pub iothreads: Vec<types::IoThreadInfo>,
    /// How fast memory is written.
    pub dirty_rate: Option<types::DirtyRateInfo>,
    /// QEMU did not answer in time.
    pub unreachable: bool,
}

/// Memory, KiB.
#[derive(Clone, Debug, Default)]
pub struct Balloon {
    /// Of the guest now.
    pub current: u64,
    /// The most.
    pub maximum: u64,
    /// Of QEMU's process.
    pub rss: Option<u64>,
    /// What the guest's driver tells, by QEMU's names.
    pub guest: HashMap<String, u64>,
    /// When it did, seconds since 1970.
    pub last_update: Option<u64>,
}

/// CPUs.
#[derive(Clone, Debug, Default)]
pub struct Vcpus {
    /// Online.
    pub current: u32,
    /// The most.
    pub maximum: u32,
    /// Those with a thread of their own.
    pub threads: Vec<VcpuThread>,
}

/// One CPU's thread.
#[derive(Clone, Debug)]
pub struct VcpuThread {
    /// The CPU.
    pub index: u32,
    /// CPU time and host CPU.
    pub stat: proc::Stat,
    /// Nanoseconds waited.
    pub wait_ns: u64,
    /// Nanoseconds waited for a CPU.
    pub delay_ns: u64,
    /// Host CPUs that it may run on, a bit each.
    pub cpumap: Vec<u8>,
}

/// A network card.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The host's device, if there is one.
    pub name: Option<String>,
    /// Its address.
    pub mac: Option<String>,
    /// Received and sent by the guest: bytes, packets, errors, drops each.
    pub counters: Option<[u64; 8]>,
}

/// One image.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Target's name.
    pub name: String,
    /// Its file.
    pub path: Option<String>,
    /// Its number in the chain, while the guest runs.
    pub index: Option<u32>,
    /// Counters of the disk.
    pub counters: Option<types::BlockDeviceStats>,
    /// Bytes: allocated, seen by the guest, on the host.
    pub sizes: Option<[u64; 3]>,
    /// Bytes above which an event is raised; 0: none.
    pub threshold: u64,
}

/// Collects statistics of guests, in their order.
pub async fn collect(driver: &Arc<Driver>, domains: Vec<Domain>, wanted: Wanted) -> Vec<Stats> {
    let known: Vec<(Domain, Stats)> = domains
        .into_iter()
        .map(|d| (d.clone(), without_qemu(&d.view(), wanted.groups)))
        .collect();
    let mut all: Vec<Stats> = stream::iter(known)
        .map(|(domain, stats)| ask(driver, domain, stats, wanted))
        .buffered(AT_ONCE)
        .collect()
        .await;
    if wanted.groups.block {
        look_at_images(&mut all).await;
    }
    all
}

/// What the daemon knows itself.
fn without_qemu(view: &Arc<View>, groups: Groups) -> Stats {
    let run = view.run.as_ref();
    let process = run
        .filter(|_| groups.cpu || groups.balloon)
        .and_then(proc::process);
    Stats {
        condition: groups.state.then_some(view.condition),
        cpu: groups.cpu.then(|| process.map(|p| p.cpu).unwrap_or_default()),
        balloon: groups.balloon.then(|| balloon(view, process.map(|p| p.rss_kib))),
        vcpus: groups.vcpu.then(|| vcpus(view)),
        interfaces: run.filter(|_| groups.interface).map(interfaces),
        blocks: None,
        iothreads: Vec::new(),
        dirty_rate: None,
        unreachable: false,
        view: Arc::clone(view),
    }
}

fn balloon(view: &View, rss: Option<u64>) -> Balloon {
    let Some(document) = view.current() else {
        return Balloon::default();
    };
    let facts = document.facts();
    let current = view
        .run
        .as_ref()
        .and_then(|r| r.balloon_kib)
        .unwrap_or(facts.current_memory_kib);
    Balloon {
        current,
        maximum: facts.memory_kib,
        rss,
        ..Balloon::default()
    }
}

fn vcpus(view: &View) -> Vcpus {
    let Some(document) = view.current() else {
        return Vcpus::default();
    };
    let facts = document.facts();
    let threads = view
        .run
        .as_ref()
        .map(|run| run.status.vcpus.iter().filter_map(|v| thread(run, v)).collect());
    Vcpus {
        current: facts.vcpus,
        maximum: facts.max_vcpus,
        threads: threads.unwrap_or_default(),
    }
}

fn thread(run: &Run, vcpu: &domxml::status::VcpuThread) -> Option<VcpuThread> {
    let tid = vcpu.pid;
    let stat = proc::thread(run.pid, tid)?;
    Some(VcpuThread {
        index: vcpu.id,
        stat,
        wait_ns: proc::wait_ns(run.pid, tid),
        delay_ns: proc::delay_ns(run.pid, tid).unwrap_or(0),
        cpumap: proc::cpumap(run.pid, tid),
    })
}

fn interfaces(run: &Run) -> Vec<Card> {
    use domxml::devices::InterfaceKind as K;
    let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let card = |interface: &domxml::devices::Interface| {
        let name = interface.target.as_ref().and_then(|t| t.dev.clone());
        let swapped = !matches!(qemu_plan::command::net::kind(interface), K::Direct | K::Hostdev);
        let counters = name
            .as_deref()
            .and_then(|name| net_counters(&table, name, swapped));
        Card {
            name,
            mac: interface.mac.as_ref().map(|mac| mac.address.clone()),
            counters,
        }
    };
    run.document.domain.devices.interfaces.iter().map(card).collect()
}

/// Received and sent as the guest sees them: what the host's end of a tap sent, the guest received.
fn net_counters(table: &str, name: &str, swapped: bool) -> Option<[u64; 8]> {
    let line = table
        .lines()
        .find_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let n: Vec<u64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let (received, sent) = (n.get(0..4)?, n.get(8..12)?);
    let (first, second) = if swapped {
        (sent, received)
    } else {
        (received, sent)
    };
    [first, second].concat().try_into().ok()
}

/// Adds what QEMU tells.
async fn ask(driver: &Arc<Driver>, domain: Domain, mut stats: Stats, wanted: Wanted) -> Stats {
    let Some(run) = stats.view.run.clone().filter(|_| wanted.groups.need_qemu()) else {
        return stats;
    };
    let starting = run.starting;
    if run.unreachable.is_some() || stopped(&run) {
        stats.unreachable = true;
        if let Ok(guest) = driver.guests.of(&stats.view) {
            guest.suspect();
        }
        return stats;
    }
    let limit = if wanted.nowait { Duration::ZERO } else { JOB };
    let (Ok(_job), Ok(guest), false) = (
        domain.job_within(Want::Plain(Kind::Query), limit).await,
        driver.guests.of(&stats.view),
        starting,
    ) else {
        // Somebody works on it: told of without what only QEMU knows, as libvirt does.
        return stats;
    };
    let Ok(monitor) = guest.monitor() else {
        stats.unreachable = true;
        return stats;
    };
    match tokio::time::timeout(ASK, answers(&monitor, &run, wanted)).await {
        Ok(answers) => fill(&mut stats, &run, answers, wanted),
        Err(_) => {
            stats.unreachable = true;
            guest.suspect();
        }
    }
    stats
}

/// Whether the process is stopped by a signal: it can't answer.
fn stopped(run: &Run) -> bool {
    proc::process(run).is_some_and(|p| matches!(p.state, 'T' | 't'))
}

#[derive(Default)]
struct Answers {
    guest_memory: Option<serde_json::Value>,
    disks: Vec<types::BlockStats>,
    nodes: Vec<types::BlockStats>,
    named: Vec<types::BlockDeviceInfo>,
    iothreads: Vec<types::IoThreadInfo>,
    dirty_rate: Option<types::DirtyRateInfo>,
}

async fn answers(monitor: &Monitor, run: &Run, wanted: Wanted) -> Answers {
    let mut answers = Answers::default();
    let balloon = run
        .document
        .domain
        .devices
        .memballoon
        .as_ref()
        .filter(|b| b.model.as_str() != "none");
    if let Some(balloon) = balloon.filter(|_| wanted.groups.balloon) {
        let path = format!(
            "/machine/peripheral/{}",
            balloon.info.alias.as_deref().unwrap_or("balloon0")
        );
        answers.guest_memory = monitor
            .execute(commands::QomGet {
                path,
                property: "guest-stats".to_owned(),
            })
            .await
            .ok();
    }
    if wanted.groups.block && !run.document.domain.devices.disks.is_empty() {
        answers.disks = monitor.block_stats().await.unwrap_or_default();
        answers.nodes = monitor
            .execute(commands::QueryBlockstats { query_nodes: true })
            .await
            .unwrap_or_default();
        answers.named = monitor
            .execute(commands::QueryNamedBlockNodes { flat: true })
            .await
            .unwrap_or_default();
    }
    if wanted.groups.iothread && run.document.domain.iothreads.is_some() {
        answers.iothreads = monitor.iothreads().await.unwrap_or_default();
    }
    if wanted.groups.dirty_rate {
        answers.dirty_rate = monitor.execute(commands::QueryDirtyRate {}).await.ok();
    }
    answers
}

fn fill(stats: &mut Stats, run: &Run, answers: Answers, wanted: Wanted) {
    if let (Some(balloon), Some(told)) = (&mut stats.balloon, &answers.guest_memory) {
        let number = |v: &serde_json::Value| v.as_u64().filter(|n| *n != u64::MAX);
        let values = told
            .get("stats")
            .and_then(|s| s.as_object())
            .into_iter()
            .flatten();
        balloon.guest = values
            .filter_map(|(name, v)| Some((name.clone(), number(v)?)))
            .collect();
        balloon.last_update = told.get("last-update").and_then(number);
    }
    if wanted.groups.block {
        stats.blocks = Some(
            run.document
                .domain
                .devices
                .disks
                .iter()
                .flat_map(|d| blocks_of(d, &answers, wanted.backing_chain))
                .collect(),
        );
    }
    stats.iothreads = answers.iothreads;
    stats.dirty_rate = answers.dirty_rate;
}

/// One image, or with chains all of a disk's.
fn blocks_of(disk: &domxml::devices::Disk, answers: &Answers, chains: bool) -> Vec<Block> {
    let alias = disk.info.alias.as_deref().unwrap_or_default();
    let told = answers.disks.iter().find(|d| {
        d.qdev
            .as_deref()
            .is_some_and(|q| crate::ops::run::react::alias_of(q) == alias)
    });
    let mut node = told.and_then(|d| d.node_name.clone());
    let top = Block {
        name: disk.target.dev.clone(),
        path: chain::local_path(disk.kind, disk.source.as_ref()).map(|p| p.to_string_lossy().into_owned()),
        index: disk.source.as_ref().and_then(|s| s.index),
        counters: told.map(|d| d.stats.clone()),
        sizes: node.as_deref().and_then(|n| sizes(n, answers)),
        threshold: 0,
    };
    let mut blocks = vec![top];
    let mut below = disk.backing.as_deref();
    while let (true, Some(backing)) = (chains, below) {
        node = node.and_then(|n| {
            answers
                .nodes
                .iter()
                .find(|e| e.node_name.as_deref() == Some(&n))?
                .backing
                .as_ref()?
                .node_name
                .clone()
        });
        let Some(source) = &backing.source else { break };
        blocks.push(Block {
            name: disk.target.dev.clone(),
            path: chain::local_path(backing.kind.unwrap_or_default(), Some(source))
                .map(|p| p.to_string_lossy().into_owned()),
            index: source.index,
            sizes: node.as_deref().and_then(|n| sizes(n, answers)),
            ..Block::default()
        });
        below = backing.backing.as_deref();
    }
    blocks
}

fn sizes(node: &str, answers: &Answers) -> Option<[u64; 3]> {
    let stats = answers
        .nodes
        .iter()
        .find(|e| e.node_name.as_deref() == Some(node))?;
    let image = answers
        .named
        .iter()
        .find(|e| e.node_name.as_deref() == Some(node))?
        .image
        .as_ref()?;
    let highest = stats
        .parent
        .as_ref()
        .map_or(stats.stats.wr_highest_offset, |p| p.stats.wr_highest_offset);
    Some([highest, image.virtual_size, image.actual_size.unwrap_or(0)])
}

/// Sizes of the images of guests that QEMU was not asked about: from the files.
async fn look_at_images(all: &mut [Stats]) {
    let mut unasked: Vec<(usize, Arc<View>)> = all
        .iter()
        .enumerate()
        .filter(|(_, s)| s.blocks.is_none())
        .map(|(i, s)| (i, Arc::clone(&s.view)))
        .collect();
    let rest = unasked.split_off(unasked.len() / 2);
    let look = |guests: Vec<(usize, Arc<View>)>| async {
        let work = move || {
            Ok(guests
                .into_iter()
                .map(|(i, view)| (i, images(&view)))
                .collect::<Vec<_>>())
        };
        crate::blocking::within(FILES, "looking at images", work).await
    };
    let (one, other) = tokio::join!(look(unasked), look(rest));
    for half in [one, other] {
        match half {
            Ok(found) => found
                .into_iter()
                .for_each(|(index, blocks)| all[index].blocks = Some(blocks)),
            Err(error) => tracing::warn!(%error, "statistics are without the sizes of images"),
        }
    }
}

fn images(view: &View) -> Vec<Block> {
    let Some(document) = view.current() else {
        return Vec::new();
    };
    let image = |disk: &DiskFacts| Block {
        name: disk.target.to_string(),
        sizes: disk
            .path
            .as_deref()
            .filter(|_| !view.active())
            .and_then(|p| chain::sizes(Path::new(p), disk.format).ok()),
        path: disk.path.as_deref().map(str::to_owned),
        ..Block::default()
    };
    document.facts().disks.iter().map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n vnet1:11 12 13 14 0 0 0 0 15 16 17 18 0 0 0 0\n";

    #[test]
    fn what_the_host_sent_the_guest_received() {
        assert_eq!(
            net_counters(TABLE, "vnet1", true),
            Some([15, 16, 17, 18, 11, 12, 13, 14])
        );
        assert_eq!(
            net_counters(TABLE, "vnet1", false),
            Some([11, 12, 13, 14, 15, 16, 17, 18])
        );
        assert_eq!(net_counters(TABLE, "vnet", true), None);
    }
}
