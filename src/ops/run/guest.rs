//! The connection to one running guest, and all of them.
//!
//! Made by `start` and `recover`, used by every operation that asks QEMU something, ended by `stop`, and watched by
//! `supervise`, which learns here what was noticed.
//!
//! The hard thing is a QEMU that does not answer. A command has a deadline; when one passes, the supervisor shows the
//! guest as unreachable and keeps asking until it answers, while everybody else goes on. A monitor that is gone is
//! dialled again the same way. The guest is never killed for it.
//!
//! ```text
//!   reachable ──deadline passed, or end of file with the process alive──▶ unreachable
//!       ▲                                                                     │
//!       └──────── answered, or dialled again: state read back ────────────────┘
//!   either ──process ended──▶ gone (`stop::ended` cleans up)
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use domxml::status::{BlockJob, BlockJobKind};
use qmp::Command;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{
    domain::{
        Condition, Domain, Effects, Job, View,
        jobs::{Kind, Want},
    },
    error::{Code, Error, Result},
    ops::{
        holdings::{display_port::Lease, storage::lease::Holding},
        run::{
            agent::Line,
            cause::Cause,
            console::Consoles,
            counters,
            departures::Departures,
            jobs, perf,
            streams::{self, Asking, Streams},
        },
    },
    qemu::{Monitor, Process},
};

/// Longest time between the end of QEMU's monitor and its own.
const DYING: Duration = Duration::from_secs(5);
/// How often a process that can't be watched is looked at again.
const RETRY: Duration = Duration::from_secs(2);
/// Signals that may wait for the supervisor; more of them say nothing new.
const SIGNALS: usize = 4;

/// The connections to running guests.
#[derive(Default)]
pub struct Guests {
    table: Mutex<HashMap<Uuid, Arc<Guest>>>,
    /// Runs whose connection was waited for in vain.
    pub(crate) absent: counters::Absent,
}

/// What was noticed of a run, for its supervisor.
#[derive(Debug)]
pub(crate) enum Signal {
    /// QEMU has not answered a command in time.
    Silent(String),
    /// It was slow: it is asked once more.
    Suspect,
}

/// The connection to one run of a guest.
pub struct Guest {
    /// The guest.
    pub domain: Domain,
    /// Number of the run.
    pub id: i32,
    process: Option<Process>,
    /// What the run holds of the host and gives back when it ends.
    pub leases: Mutex<Vec<Lease>>,
    /// Who is connected to its character devices.
    pub consoles: Consoles,
    /// The connection to the agent inside.
    pub(crate) agent: Line,
    /// What QEMU has counted.
    pub(crate) counters: counters::Counters,
    /// Leases of its disks.
    pub(crate) holding: Holding,
    /// The first number of a block node that was never given, also to a disk that did not come.
    next_node: AtomicU32,
    /// Who waits for which device to leave.
    pub(crate) departures: Departures,
    /// Who waits for which of its jobs.
    pub(crate) jobs: jobs::Jobs,
    /// How its last block jobs ended.
    pub(crate) block_jobs: jobs::Ends,
    /// Pulls that have ended.
    pub(crate) streams: Streams,
    /// The long job that a former daemon had begun, until somebody goes on with it.
    kept: Mutex<Option<Job>>,
    /// Events of the host that are counted for it.
    pub(crate) perf: perf::Counters,
    monitor: Mutex<Option<Monitor>>,
    /// Set by the first cause of the run's end.
    ending: Mutex<Option<Cause>>,
    /// Why the CPUs are about to stop, if somebody asked for it.
    pause: Mutex<Option<Condition>>,
    /// That the CPUs run again is told by who has them run.
    pub(crate) is_told: AtomicBool,
    /// That the CPUs stop next is kept from everybody (`run::still`).
    pub(crate) hides_stop: AtomicBool,
    /// The state of QEMU's migration, as its events tell.
    pub(crate) migration: watch::Sender<String>,
    /// How QEMU's last dump of memory ended.
    pub(crate) dumped: watch::Sender<Option<qmp::events::DumpCompleted>>,
    /// The pump has handed over everything that QEMU said.
    drained: watch::Sender<bool>,
    /// To the supervisor, and its end until it takes it.
    signals: mpsc::Sender<Signal>,
    to_supervise: Mutex<Option<mpsc::Receiver<Signal>>>,
    /// Somebody is cleaning up after the run.
    cleaning: AtomicBool,
    /// The run was cleaned up.
    pub(crate) cleaned: watch::Sender<bool>,
}

impl Guests {
    fn table(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Guest>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The connection of a running guest.
    ///
    /// # Errors
    /// `OperationInvalid` if it does not run.
    pub fn of(&self, view: &View) -> Result<Arc<Guest>> {
        let run = view.running()?;
        let found = self
            .table()
            .get(&view.uuid)
            .filter(|g| g.id == run.launched.id)
            .cloned();
        found.ok_or_else(Error::not_running)
    }
    /// The same. A daemon that began a moment ago may not have reached it yet: then once it has.
    ///
    /// # Errors
    /// As [`Guests::of`]; what waiting for a job gives.
    pub(crate) async fn reached(&self, domain: &Domain) -> Result<Arc<Guest>> {
        let view = domain.view();
        match self.of(&view) {
            Err(_) if view.active() => {}
            known => return known,
        }
        // Who goes to it, or starts it, has its job until then.
        let job = domain.job(Want::Plain(Kind::Query)).await?;
        self.of(&job.view())
    }
    /// Enters a connection.
    pub(crate) fn insert(&self, guest: &Arc<Guest>) {
        self.table().insert(guest.domain.uuid(), Arc::clone(guest));
    }
    /// Takes a connection out.
    pub(crate) fn remove(&self, guest: &Guest) {
        let mut table = self.table();
        if table.get(&guest.domain.uuid()).is_some_and(|g| g.id == guest.id) {
            table.remove(&guest.domain.uuid());
        }
    }
}

impl Guest {
    /// The record of a run whose process is there; nothing is connected yet.
    pub(crate) fn new(domain: Domain, id: i32, process: Process, leases: Vec<Lease>) -> Arc<Self> {
        Self::with(domain, id, Some(process), leases)
    }

    /// The record of a run whose process had ended before we looked.
    pub(crate) fn ended_before(domain: Domain, id: i32, cause: Cause) -> Arc<Self> {
        let guest = Self::with(domain, id, None, Vec::new());
        guest.end_because(cause);
        guest
    }

    fn with(domain: Domain, id: i32, process: Option<Process>, leases: Vec<Lease>) -> Arc<Self> {
        let (signals, to_supervise) = mpsc::channel(SIGNALS);
        Arc::new(Self {
            domain,
            id,
            process,
            leases: Mutex::new(leases),
            consoles: Consoles::default(),
            agent: Line::default(),
            counters: counters::Counters::default(),
            holding: Holding::default(),
            next_node: AtomicU32::new(0),
            departures: Departures::default(),
            jobs: jobs::Jobs::default(),
            block_jobs: jobs::Ends::default(),
            streams: Streams::default(),
            kept: Mutex::new(None),
            perf: perf::Counters::default(),
            monitor: Mutex::new(None),
            ending: Mutex::new(None),
            pause: Mutex::new(None),
            is_told: AtomicBool::new(false),
            hides_stop: AtomicBool::new(false),
            migration: watch::Sender::default(),
            dumped: watch::Sender::default(),
            drained: watch::Sender::new(true),
            signals,
            to_supervise: Mutex::new(Some(to_supervise)),
            cleaning: AtomicBool::new(false),
            cleaned: watch::Sender::new(false),
        })
    }

    /// Its process.
    ///
    /// # Errors
    /// `OperationInvalid` if it had ended before we looked.
    pub(crate) fn process(&self) -> Result<&Process> {
        self.process.as_ref().ok_or_else(Error::not_running)
    }

    /// Waits for the end of the process. A process that can't be watched counts as alive, and is looked at again.
    pub(crate) async fn process_ended(&self) {
        let Some(process) = &self.process else { return };
        while let Err(error) = process.exited().await {
            tracing::warn!(guest = %self.domain.view().name, %error, "the process can't be watched");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether QEMU has ended, of which an answer that did not come may be the first sign.
    pub(crate) async fn ended_with(&self, error: &Error) -> bool {
        self.process().is_ok_and(Process::has_exited) || error.is_unknown() && self.ends_soon().await
    }

    /// Whether QEMU has ended, of which the end of its monitor may be the first sign.
    pub(crate) async fn has_ended(&self) -> bool {
        let is_cut_off = || lock(&self.monitor).as_ref().is_none_or(Monitor::is_closed);
        self.process().is_ok_and(Process::has_exited) || is_cut_off() && self.ends_soon().await
    }

    async fn ends_soon(&self) -> bool {
        tokio::time::timeout(DYING, self.process_ended()).await.is_ok()
    }

    /// The first number of a block node that is free, if the status file says that `known` is: a number that was given is
    /// not given again, as with libvirt.
    pub(crate) fn first_node(&self, known: u32) -> u32 {
        self.next_node.load(Ordering::Relaxed).max(known)
    }

    /// Notes that the numbers of block nodes before `next` were given.
    pub(crate) fn gave_nodes(&self, next: u32) {
        self.next_node.fetch_max(next, Ordering::Relaxed);
    }

    /// Executes a command; marks the guest as unreachable if QEMU does not answer in time.
    ///
    /// # Errors
    /// What QEMU refuses, `OperationTimeout` if it does not answer, `OperationFailed` if it can't be asked.
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Reply> {
        self.execute_within(command, C::DEADLINE).await
    }

    /// The same with another deadline.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_within<C: Command>(&self, command: C, limit: Duration) -> Result<C::Reply> {
        let _asking = match streams::is_about_nodes::<C>() {
            true => Some(self.nodes_may_be_asked().await?),
            false => None,
        };
        let monitor = self.monitor()?;
        match monitor.client().execute_within(command, limit).await {
            Ok(reply) => Ok(reply),
            Err(error) => {
                if matches!(error, qmp::Error::Timeout { .. }) {
                    self.signal(Signal::Silent(error.to_string()));
                }
                Err(error.into())
            }
        }
    }

    /// QEMU may be asked about its block nodes as long as the answer lives.
    ///
    /// # Errors
    /// A pull has ended and is not dismissed; QEMU does not answer.
    pub(crate) async fn nodes_may_be_asked(&self) -> Result<Asking> {
        let pulls = || {
            let view = self.domain.view();
            let run = view.run.as_ref().filter(|run| run.launched.id == self.id);
            let jobs = run.and_then(|run| run.status.blockjobs.as_ref());
            let is_pull = |job: &&BlockJob| job.kind.known() == Some(BlockJobKind::Pull);
            let pulls = jobs.into_iter().flat_map(|all| &all.jobs).filter(is_pull);
            pulls.map(|job| job.name.clone()).collect()
        };
        self.streams.may_ask(&self.monitor()?, pulls).await
    }

    /// Has the supervisor look at the run. A queue that is full holds signals enough for that.
    fn signal(&self, signal: Signal) {
        let _ = self.signals.try_send(signal);
    }

    /// The process was slow to answer: it is asked once more, and shown as unreachable if it does not.
    pub(crate) fn suspect(&self) {
        self.signal(Signal::Suspect);
    }

    /// What the supervisor is to look at; once.
    pub(crate) fn take_signals(&self) -> Option<mpsc::Receiver<Signal>> {
        lock(&self.to_supervise).take()
    }

    /// Sets or takes away the connection.
    pub(crate) fn set_monitor(&self, monitor: Option<Monitor>) {
        self.drained.send_replace(monitor.is_none());
        *lock(&self.monitor) = monitor;
    }

    /// The monitor.
    ///
    /// # Errors
    /// `OperationFailed` while there is no connection, `OperationInvalid` once the run is over.
    pub fn monitor(&self) -> Result<Monitor> {
        lock(&self.monitor).clone().ok_or_else(|| {
            let view = self.domain.view();
            let Some(run) = view.run.as_ref().filter(|run| run.launched.id == self.id) else {
                return Error::not_running();
            };
            let cause = run.seen.unreachable.clone();
            let cause = cause
                .as_deref()
                .unwrap_or("its monitor is not connected")
                .to_owned();
            Error::new(
                Code::OperationFailed,
                format!("domain '{}' can't be asked at present: {cause}", view.name),
            )
            .because("UNREACHABLE")
        })
    }

    /// Sets why the CPUs are about to stop: QEMU's event says only that they did.
    pub(crate) fn expect_pause(&self, condition: Condition) {
        *lock(&self.pause) = Some(condition);
    }
    /// Why the CPUs have stopped.
    pub(crate) fn pause_cause(&self) -> Condition {
        lock(&self.pause).take().unwrap_or(Condition::PAUSED_UNKNOWN)
    }

    /// Notes why the run ends; the first cause stands. Whether this one is it.
    pub(crate) fn end_because(&self, cause: Cause) -> bool {
        let mut ending = lock(&self.ending);
        let first = ending.is_none();
        ending.get_or_insert(cause);
        first
    }
    /// The run does not end after all; `first`: the cause that was noted was the caller's.
    pub(crate) fn goes_on(&self, first: bool) {
        if first {
            *lock(&self.ending) = None;
        }
    }
    /// Why the run ends.
    pub(crate) fn ending(&self) -> Option<Cause> {
        *lock(&self.ending)
    }

    /// Keeps the long job of a former daemon for whoever goes on with it.
    pub(crate) fn keep_job(&self, job: Option<Job>) {
        *lock(&self.kept) = job;
    }
    /// The long job of a former daemon; once.
    pub(crate) fn take_kept_job(&self) -> Option<Job> {
        lock(&self.kept).take()
    }

    /// Whether the caller is the one to clean up after the run.
    pub(crate) fn first_to_clean(&self) -> bool {
        !self.cleaning.swap(true, Ordering::SeqCst)
    }

    /// Whether the run is over, and what it had is being given back: its documents stay as they are.
    pub(crate) fn is_over(&self) -> bool {
        self.cleaning.load(Ordering::SeqCst)
    }

    /// Waits until the pump has handed over everything that QEMU said, or `limit` has passed.
    pub(crate) async fn drained(&self, limit: Duration) {
        let mut receiver = self.drained.subscribe();
        // What is not handed over by then is the end of a connection that does not close: nothing follows from it.
        let _ = tokio::time::timeout(limit, receiver.wait_for(|d| *d)).await;
    }

    /// Shows that QEMU can't be asked, and why, or that it can be again.
    pub(crate) async fn show_unreachable(&self, cause: Option<String>) {
        let id = self.id;
        let name = Arc::clone(&self.domain.view().name);
        match &cause {
            Some(cause) => {
                tracing::warn!(guest = %name, cause, "QEMU can't be asked; the guest is kept and asked again")
            }
            None => tracing::info!(guest = %name, "QEMU can be asked again"),
        }
        let change = move |view: &mut View| {
            if let Some(run) = view.run.as_mut().filter(|r| r.launched.id == id) {
                run.seen.unreachable = cause.map(Into::into);
            }
            Ok(Effects::none())
        };
        // A guest that has gone needs no mark.
        let _ = self.domain.commit(change).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
