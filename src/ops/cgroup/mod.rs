//! A guest's control groups: made around its process before QEMU runs, tuned by `tuning`, removed at its end.
//!
//! Where a host has none, or the daemon may not make any (in a container, as a user), guests run without, as with
//! libvirt. Guests are not registered with systemd-machined: the groups are made the same way where it runs; those that
//! it made for guests of libvirt's daemon are found and used. Which group a guest is in is asked of the kernel each time, so it does not matter which daemon made it.

mod nodes;

use std::sync::OnceLock;

use confine::cgroup::{self, Controller, Group, Host, MemoryLimit, Part};
use domxml::{
    Domain,
    devices::Disk,
    tuning::{NumaMode, Placement, Resource},
};

use super::{
    Driver,
    tuning::{Thread, blocks, pinning},
};
use crate::{
    config::QemuConfig,
    domain::Run,
    error::{Code, Error, Result},
    paths::Scope,
};

/// The partition of guests that name none.
const PARTITION: &str = "/machine";

/// The controllers of the host, looked for once. One a daemon.
#[derive(Debug, Default)]
pub struct Kept {
    host: OnceLock<Option<Host>>,
}

/// What the host has mounted; none where the daemon makes no groups.
fn host(driver: &Driver) -> Option<Host> {
    let look = || {
        let found = Host::detect(&driver.host.root)
            .inspect_err(|error| tracing::warn!(%error, "guests have no control groups"));
        found
            .ok()
            .filter(|host| driver.host.scope == Scope::System && host.is_any())
    };
    driver.cgroups.host.get_or_init(look).clone()
}

/// The controllers that qemu.conf lets the daemon use.
fn allowed(driver: &Driver, config: &QemuConfig) -> Option<Host> {
    let host = host(driver)?;
    let host = match &config.guard.cgroup_controllers {
        Some(names) => host.only(names),
        None => host,
    };
    host.is_any().then_some(host)
}

/// Has the kernel made ready to move processes, while something else is done.
pub(super) fn make_ready(driver: &Driver) {
    if let Some(host) = allowed(driver, &driver.config()) {
        tokio::task::spawn_blocking(move || host.make_ready());
    }
}

/// Notes in the document of a run in which partition it is.
///
/// # Errors
/// `ConfigUnsupported`: it is no path.
pub(super) fn note_partition(driver: &Driver, document: &mut Domain) -> Result<()> {
    if allowed(driver, &driver.config()).is_none() {
        return Ok(());
    }
    let resource = document.resource.get_or_insert_with(Resource::default);
    let partition = resource.partition.get_or_insert_with(|| PARTITION.to_owned());
    if partition.starts_with('/') {
        return Ok(());
    }
    let message = format!("Resource partition '{partition}' must start with '/'");
    Err(Error::new(Code::ConfigUnsupported, message))
}

/// The group of a run by its names.
fn named(host: &Host, document: &Domain, id: i32) -> Group {
    let partition = document
        .resource
        .as_ref()
        .and_then(|r| r.partition.as_deref())
        .unwrap_or(PARTITION);
    Group::of_guest(host, partition, &cgroup::machine_name(id, &document.name))
}

/// The group that a running guest is in; none if it is in none.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn of_run(driver: &Driver, run: &Run) -> Result<Option<Group>> {
    let Some(host) = allowed(driver, &driver.config()) else {
        return Ok(None);
    };
    Group::of_process(&host, run.pid).map_err(refused)
}

/// Lets a running guest open the nodes of a disk, or forbids it those of one that it has no more; what it still
/// has of them stays.
///
/// # Errors
/// The kernel refuses.
pub(super) fn change_disk(driver: &Driver, run: &Run, change: DiskChange<'_>) -> Result<()> {
    let Some(group) = of_run(driver, run)?.filter(|group| group.has(Controller::Devices)) else {
        return Ok(());
    };
    match change {
        DiskChange::In(disk) => nodes::of_disk(disk)
            .into_iter()
            .try_for_each(|(node, access)| group.allow_device(node, access)),
        DiskChange::Out(disk) => {
            let kept = nodes::of_guest(driver, &run.document.domain);
            let gone = nodes::of_disk(disk)
                .into_iter()
                .filter(|(node, _)| kept.iter().all(|(kept, _)| kept != node));
            gone.map(|(node, _)| node)
                .try_for_each(|node| group.forbid_device(node))
        }
    }
    .map_err(refused)
}

/// A disk that comes, or has gone.
#[derive(Clone, Copy, Debug)]
pub(super) enum DiskChange<'a> {
    /// The guest is about to open it.
    In(&'a Disk),
    /// It is in no document any more.
    Out(&'a Disk),
}

/// Removes the group of a run that has ended, or did not begin. What is left behind is logged.
pub(super) fn remove(driver: &Driver, document: &Domain, id: i32) -> impl FnOnce() + Send + 'static {
    let group = host(driver).map(|host| named(&host, document, id));
    move || {
        if let Some(Err(error)) = group.map(|group| group.remove()) {
            tracing::warn!(%error, "a control group is left behind");
        }
    }
}

/// Puts the process that is to become QEMU into a group of the guest's own and tunes that as the document says. Where the
/// daemon may not make groups, nothing is done.
///
/// # Errors
/// What the kernel refuses; `ConfigUnsupported` if the document tunes what the host can't.
pub(super) async fn enclose(driver: &Driver, document: &Domain, run: (i32, i32)) -> Result<()> {
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
    let work = move || {
        match group.make(own_partition) {
            Err(error) if is_forbidden(&error) => {
                tracing::info!(%error, "the guest is in no control group of its own");
                return tune.bandwidth_needs_group(&[Thread::Emulator]);
            }
            made => made.map_err(refused)?,
        }
        group.take_process(pid).map_err(refused)?;
        tune.whole(&group)?;
        if group.has(Controller::Devices) {
            group.confine_devices(&nodes).map_err(refused)?;
        }
        tune.thread(&group, Thread::Emulator, pid)
    };
    crate::blocking::file("making the guest's control group", work).await
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
pub(super) async fn enclose_threads(
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

fn bandwidth_needs_group(document: &Domain, threads: &[Thread]) -> Result<()> {
    Tune::of(document).bandwidth_needs_group(threads)
}

/// What a document says of all this.
struct Tune {
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

fn unsupported(message: &'static str) -> Error {
    Error::new(Code::ConfigUnsupported, message)
}

/// The nodes that all of a guest's memory must be from.
pub(super) fn strict_nodes(document: &Domain) -> Option<String> {
    let memory = document.numatune.as_ref()?.memory.as_ref()?;
    let strict = matches!(
        memory.mode.unwrap_or(NumaMode::Strict),
        NumaMode::Strict | NumaMode::Restrictive
    );
    let fixed = memory.placement != Some(Placement::Auto);
    memory
        .nodeset
        .as_ref()
        .filter(|_| strict && fixed)
        .map(ToString::to_string)
}

/// The group of a thread.
pub(super) fn part_of(thread: Thread) -> Part {
    match thread {
        Thread::Vcpu(id) => Part::Vcpu(id),
        Thread::Emulator => Part::Emulator,
        Thread::Io(id) => Part::IoThread(id),
    }
}

/// The error of what the kernel refused.
pub(super) fn refused(error: cgroup::Error) -> Error {
    Error::system(error.what, error.source)
}
