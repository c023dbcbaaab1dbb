//! Statistics of guests.
//!
//! What the daemon knows itself comes from the view and from /proc; what only QEMU knows is asked for all guests at once.
//! A guest that does not answer holds nobody up for more than seconds, and nobody twice (`patience`); it is named in the
//! answer, with its last values where the caller takes them.

mod ask;
mod patience;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use domxml::clock::PerfEventName;
use futures_util::future::join_all;
pub use patience::Call;
use qmp::types;
use tokio::sync::Semaphore;

use crate::{
    domain::{Condition, Domain, Run, View, facts::DiskFacts},
    error::Code,
    ops::{
        Driver,
        holdings::storage::look::{Image, Limits},
        host::proc,
        run::counters,
    },
};

/// Guests asked at the same time, of those that answer promptly.
const AT_ONCE: usize = 64;
/// A guest that takes longer gives its turn to others.
const PROMPT: Duration = Duration::from_millis(100);

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
    /// Performance counters of the host.
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

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Which groups.
    pub groups: Groups,
    /// Also images below the top ones.
    pub backing_chain: bool,
    /// Who asks: this says how long guests are waited for.
    pub call: Call,
    /// Values of a guest that can't be asked may be that old; any age if none.
    pub oldest: Option<Duration>,
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
    /// Events of the host that are counted for the guest.
    pub perf: Vec<(PerfEventName, u64)>,
    /// How old is what QEMU tells: these are its last values. None if it was asked now, or is not told of.
    pub age: Option<Duration>,
    /// QEMU did not answer in time, or the file system of an image did not.
    pub unreachable: bool,
}

/// Memory, KiB.
#[derive(Clone, Debug, Default)]
pub struct Balloon {
    /// Of the guest now.
    pub current: u64,
    /// The most.
    pub maximum: u64,
    /// Whether the guest runs and has a balloon.
    pub device: bool,
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
    /// Why the image of a guest that is shut off has no sizes.
    pub unreadable: Option<String>,
}

/// Collects statistics of guests, in their order.
pub async fn collect(driver: &Arc<Driver>, domains: Vec<Domain>, wanted: Wanted) -> Vec<Stats> {
    let known = domains
        .iter()
        .map(|domain| without_qemu(&domain.view(), wanted.groups));
    let mut all: Vec<_> = known.collect();
    let turns = Semaphore::new(AT_ONCE);
    // Who does not run has nobody to be asked, and there may be thousands of them.
    let running = all
        .iter_mut()
        .zip(&domains)
        .filter(|(stats, _)| stats.view.active());
    let asked = running
        .map(|(stats, domain)| counters::in_turn(&turns, PROMPT, ask::ask(driver, domain, stats, wanted)));
    join_all(asked).await;
    for stats in all.iter_mut().filter(|_| wanted.groups.perf) {
        let guest = driver.guests.of(&stats.view);
        stats.perf = guest.map_or_else(|_| Vec::new(), |guest| guest.perf.read());
    }
    if wanted.groups.block {
        look_at_images(driver, &mut all, wanted.call).await;
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
        perf: Vec::new(),
        age: None,
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
        .and_then(|r| r.seen.balloon_kib)
        .unwrap_or(facts.current_memory_kib);
    Balloon {
        current,
        maximum: facts.memory_kib,
        device: view.run.as_ref().is_some_and(has_balloon),
        rss,
        ..Balloon::default()
    }
}

fn has_balloon(run: &Run) -> bool {
    let balloon = run.document.domain.devices.memballoon.as_ref();
    balloon.is_some_and(|balloon| balloon.model.as_str() != "none")
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
    let stat = proc::thread(run.launched.pid, tid)?;
    Some(VcpuThread {
        index: vcpu.id,
        stat,
        wait_ns: proc::wait_ns(run.launched.pid, tid),
        delay_ns: proc::delay_ns(run.launched.pid, tid).unwrap_or(0),
        cpumap: proc::cpumap(run.launched.pid, tid),
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

/// Tells the images of guests that are shut off, with the sizes of their files.
async fn look_at_images(driver: &Driver, all: &mut [Stats], call: Call) {
    let (mut places, mut images) = (Vec::new(), Vec::new());
    for (guest, stats) in all.iter_mut().enumerate().filter(|(_, s)| s.blocks.is_none()) {
        let view = Arc::clone(&stats.view);
        let Some(document) = view.current() else { continue };
        let disks = &document.facts().disks;
        for (block, disk) in disks.iter().enumerate() {
            if let Some(path) = disk.path.as_deref().filter(|_| !view.active()) {
                places.push((guest, block));
                images.push(Image {
                    path: Path::new(path).to_owned(),
                    format: disk.format,
                });
            }
        }
        stats.blocks = Some(disks.iter().map(named).collect());
    }
    let found = driver.images.sizes(images, patience_with_files(call)).await;
    for ((guest, block), found) in places.into_iter().zip(found) {
        let Some(stats) = all.get_mut(guest) else { continue };
        let Some(block) = stats.blocks.as_mut().and_then(|blocks| blocks.get_mut(block)) else {
            continue;
        };
        match found {
            Ok(sizes) => block.sizes = Some(sizes),
            Err(error) => {
                stats.unreachable |= error.code == Code::OperationTimeout;
                block.unreadable = Some(error.message.into_owned());
            }
        }
    }
}

fn patience_with_files(call: Call) -> Limits {
    match call {
        Call::One => Limits {
            one: crate::blocking::FILE_DEADLINE,
            all: crate::blocking::FILE_DEADLINE,
        },
        Call::Many | Call::NoWait => Limits {
            one: call.limit(),
            all: 2 * call.limit(),
        },
    }
}

fn named(disk: &DiskFacts) -> Block {
    Block {
        name: disk.target.to_string(),
        path: disk.path.as_deref().map(str::to_owned),
        ..Block::default()
    }
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
