//! Puts a new process and its threads into the guest's control groups, with all limits that its document has.

use confine::cgroup::{self, Controller, Group, MemoryLimit};
use domxml::Domain;

use crate::{
    error::{Code, Error, Result},
    ops::{
        Driver,
        holdings::cgroup::{
            PARTITION, allowed, machine, named, nodes, refused, strict_nodes,
            thread::{Thread, part_of},
        },
        tuning::{blocks, pinning},
    },
};

/// Puts the process that is to become QEMU into a group of the guest's own, that of its unit where machined runs, and
/// tunes that as the document says. Where the daemon may not make groups, nothing is done.
///
/// # Errors
/// What the kernel refuses; `ConfigUnsupported` if the document tunes what the host can't.
pub(crate) async fn enclose(driver: &Driver, document: &Domain, run: (i32, i32)) -> Result<()> {
    let (id, pid) = run;
    let config = driver.config();
    let Some(host) = allowed(driver, &config) else {
        return bandwidth_needs_group(document, &[Thread::Emulator]);
    };
    let group = named(&host, document, id);
    let own_partition = document
        .resource
        .as_ref()
        .and_then(|r| r.partition.as_deref())
        .is_none_or(|p| p == PARTITION);
    let nodes = nodes::of_guest(driver, document);
    let tune = Tune::of(document);
    let given = machine::enter(driver, &host, document, run).await?;
    let work = move || {
        let Some(group) = given.map_or_else(|| own(group, own_partition, pid), |given| Ok(Some(given)))?
        else {
            return tune.bandwidth_needs_group(&[Thread::Emulator]);
        };
        tune.whole(&group)?;
        if group.has(Controller::Devices) {
            group.confine_devices(&nodes).map_err(refused)?;
        }
        tune.thread(&group, Thread::Emulator, pid)
    };
    crate::blocking::file("making the guest's control group", work).await
}

/// Makes the group of a guest that no machined has registered, with its process in it; none where the daemon may not.
fn own(group: Group, make_partition: bool, pid: i32) -> Result<Option<Group>> {
    match group.make(make_partition) {
        Err(error) if is_forbidden(&error) => {
            tracing::info!(%error, "the guest is in no control group of its own");
            return Ok(None);
        }
        made => made.map_err(refused)?,
    }
    group.take_process(pid).map_err(refused)?;
    Ok(Some(group))
}

fn is_forbidden(error: &cgroup::Error) -> bool {
    use nix::libc::{EACCES, EPERM, EROFS};
    error
        .source
        .raw_os_error()
        .is_some_and(|errno| [EACCES, EPERM, EROFS].contains(&errno))
}

/// Gives each thread of a guest that has started a group of its own, tuned as the document says. Whether the guest has a
/// group at all: then the threads run in the group's CPUs.
///
/// # Errors
/// As [`enclose`].
pub(crate) async fn enclose_threads(
    driver: &Driver,
    document: &Domain,
    pid: i32,
    threads: Vec<(Thread, i32)>,
) -> Result<bool> {
    let Some(host) = allowed(driver, &driver.config()) else {
        let threads: Vec<Thread> = threads.iter().map(|(thread, _)| *thread).collect();
        return bandwidth_needs_group(document, &threads).map(|()| false);
    };
    let tune = Tune::of(document);
    let work = move || {
        let Some(group) = Group::of_process(&host, pid).map_err(refused)? else {
            return tune
                .bandwidth_needs_group(&threads.iter().map(|(thread, _)| *thread).collect::<Vec<_>>())
                .map(|()| false);
        };
        let all = tune.cpus.as_ref();
        if group.has(Controller::Cpu) {
            let (period, quota) = all.map_or((None, None), |t| (t.global_period, t.global_quota));
            group.set_bandwidth(period, quota).map_err(refused)?;
        }
        threads
            .iter()
            .try_for_each(|(thread, tid)| tune.thread(&group, *thread, *tid))?;
        Ok(true)
    };
    crate::blocking::file("making the control groups of the guest's threads", work).await
}

pub(crate) fn bandwidth_needs_group(document: &Domain, threads: &[Thread]) -> Result<()> {
    Tune::of(document).bandwidth_needs_group(threads)
}

/// What a document says of all this.
pub(crate) struct Tune {
    cpus: Option<domxml::tuning::CpuTune>,
    memory: Option<domxml::tuning::MemoryTune>,
    blocks: Option<domxml::tuning::BlockTune>,
    vcpu: Option<domxml::tuning::Vcpu>,
    /// Nodes that all memory must be from.
    nodes: Option<String>,
}

impl Tune {
    fn of(document: &Domain) -> Self {
        Self {
            cpus: document.cputune.clone(),
            memory: document.memtune,
            blocks: document.blkiotune.clone(),
            vcpu: document.vcpu.clone(),
            nodes: strict_nodes(document),
        }
    }

    /// The guest's own group.
    fn whole(&self, group: &Group) -> Result<()> {
        self.whole_blocks(group)?;
        self.whole_memory(group)?;
        match self.cpus.as_ref().and_then(|tune| tune.shares) {
            Some(_) if !group.has(Controller::Cpu) => {
                return Err(unsupported("CPU tuning is not available on this host"));
            }
            Some(shares) => group.set_shares(shares).map_err(refused)?,
            None => {}
        }
        if group.has(Controller::CpuSet) {
            group.migrate_memory().map_err(refused)
        } else {
            Ok(())
        }
    }

    fn whole_memory(&self, group: &Group) -> Result<()> {
        let Some(tune) = self.memory else { return Ok(()) };
        let limits = [
            (MemoryLimit::Hard, tune.hard_limit),
            (MemoryLimit::Soft, tune.soft_limit),
            (MemoryLimit::SwapHard, tune.swap_hard_limit),
        ];
        for (limit, kib) in limits {
            let Some(kib) = kib else { continue };
            if !group.has(Controller::Memory) {
                return Err(unsupported("Memory cgroup is not available on this host"));
            }
            group.set_memory_limit(limit, kib.0).map_err(refused)?;
        }
        Ok(())
    }

    fn whole_blocks(&self, group: &Group) -> Result<()> {
        let Some(tune) = &self.blocks else { return Ok(()) };
        if !group.has(Controller::Blkio) {
            return Err(unsupported("Block I/O tuning is not available on this host"));
        }
        let mut devices = tune.devices.clone();
        // Zero in a document is no word about it.
        devices
            .iter_mut()
            .for_each(|device| device.weight = device.weight.filter(|weight| *weight != 0));
        blocks::set(
            group,
            &blocks::Limits {
                weight: tune.weight,
                devices,
            },
        )
    }

    /// A thread's group. What it runs on stands in the group as well: the kernel lets it run nowhere else.
    fn thread(&self, group: &Group, thread: Thread, tid: i32) -> Result<()> {
        if !group.has(Controller::Cpu) && !group.has(Controller::CpuSet) {
            return self.bandwidth_needs_group(&[thread]);
        }
        let part = group.part(part_of(thread));
        part.make_part()
            .and_then(|()| part.take_thread(tid))
            .map_err(refused)?;
        if part.has(Controller::CpuSet) {
            if let Some(cpus) = pinning::of_parts(self.cpus.as_ref(), self.vcpu.as_ref(), thread) {
                part.set_cpus(&cpus.to_string()).map_err(refused)?;
            }
            if let Some(nodes) = &self.nodes {
                part.set_nodes(nodes).map_err(refused)?;
            }
        }
        let (period, quota) = self.bandwidth(thread);
        match part.has(Controller::Cpu) {
            true => part.set_bandwidth(period, quota).map_err(refused),
            false => self.bandwidth_needs_group(&[thread]),
        }
    }

    fn bandwidth(&self, thread: Thread) -> (Option<u64>, Option<i64>) {
        let Some(tune) = &self.cpus else {
            return (None, None);
        };
        let (period, quota) = match thread {
            Thread::Vcpu(_) => (tune.period, tune.quota),
            Thread::Emulator => (tune.emulator_period, tune.emulator_quota),
            Thread::Io(_) => (tune.iothread_period, tune.iothread_quota),
        };
        (period.filter(|p| *p != 0), quota.filter(|q| *q != 0))
    }

    fn bandwidth_needs_group(&self, threads: &[Thread]) -> Result<()> {
        if threads
            .iter()
            .all(|thread| self.bandwidth(*thread) == (None, None))
        {
            return Ok(());
        }
        Err(unsupported("cgroup cpu is required for scheduler tuning"))
    }
}

pub(crate) fn unsupported(message: &'static str) -> Error {
    Error::new(Code::ConfigUnsupported, message)
}
