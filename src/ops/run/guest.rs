//! The connection to one running guest, and all of them.
//!
//! Made by `start` and `restore`, used by every operation that asks QEMU something, and ended by `stop`. Its pump hands
//! QEMU's events to the guest's owner in order.
//!
//! The hard thing is a QEMU that does not answer. A command has a deadline; when one passes, the guest is shown as
//! unreachable and a task keeps asking until it answers, while everybody else goes on. A monitor that is gone is dialled
//! again the same way. The guest is never killed for it.
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
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qmp::{Closed, Command};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    domain::{Condition, Domain, Effects, View},
    error::{Code, Error, Result},
    ops::{
        Driver,
        holdings::{display_port::Lease, storage::lease::Holding},
        recover,
        run::{agent::Line, cause, console::Consoles, react, stop},
    },
    qemu::{Events, Monitor, Notice, Process},
};

/// How often an unreachable guest is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// QEMU closes its monitor at most this long before it ends.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// How long its answer is waited for then.
const RETRY_DEADLINE: Duration = Duration::from_secs(2);

/// The connections to running guests.
#[derive(Default)]
pub struct Guests {
    table: Mutex<HashMap<Uuid, Arc<Guest>>>,
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
    /// Leases of its disks.
    pub(crate) holding: Holding,
    monitor: Mutex<Option<Monitor>>,
    /// Set by the first cause of the run's end.
    ending: Mutex<Option<cause::Cause>>,
    /// Why the CPUs are about to stop, if somebody asked for it.
    pause: Mutex<Option<Condition>>,
    /// The pump has handed over everything that QEMU said.
    drained: watch::Sender<bool>,
    /// It was slow to answer and is being asked once more.
    suspected: AtomicBool,
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
        let found = self.table().get(&view.uuid).filter(|g| g.id == run.id).cloned();
        found.ok_or_else(Error::not_running)
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
    pub(crate) fn ended_before(domain: Domain, id: i32, cause: cause::Cause) -> Arc<Self> {
        let guest = Self::with(domain, id, None, Vec::new());
        guest.end_because(cause);
        guest
    }

    fn with(domain: Domain, id: i32, process: Option<Process>, leases: Vec<Lease>) -> Arc<Self> {
        Arc::new(Self {
            domain,
            id,
            process,
            leases: Mutex::new(leases),
            consoles: Consoles::default(),
            agent: Line::default(),
            holding: Holding::default(),
            monitor: Mutex::new(None),
            ending: Mutex::new(None),
            pause: Mutex::new(None),
            drained: watch::Sender::new(true),
            suspected: AtomicBool::new(false),
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

    /// Takes over a connection and pumps its events.
    pub(crate) fn connect(self: &Arc<Self>, driver: &Arc<Driver>, monitor: Monitor, events: Events) {
        *lock(&self.monitor) = Some(monitor);
        self.drained.send_replace(false);
        let (guest, weak) = (Arc::clone(self), Arc::downgrade(driver));
        tokio::spawn(async move {
            let closed = pump(&guest, &weak, events).await;
            *lock(&guest.monitor) = None;
            guest.drained.send_replace(true);
            if let Some(driver) = weak.upgrade() {
                guest.lost(&driver, closed).await;
            }
        });
    }

    /// Executes a command; marks the guest as unreachable if QEMU does not answer in time.
    ///
    /// # Errors
    /// What QEMU refuses, `OperationTimeout` if it does not answer, `OperationFailed` if it can't be asked.
    pub async fn execute<C: Command>(self: &Arc<Self>, driver: &Arc<Driver>, command: C) -> Result<C::Reply> {
        self.execute_within(driver, command, C::DEADLINE).await
    }

    /// The same with another deadline.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_within<C: Command>(
        self: &Arc<Self>,
        driver: &Arc<Driver>,
        command: C,
        limit: Duration,
    ) -> Result<C::Reply> {
        let monitor = self.monitor()?;
        match monitor.client().execute_within(command, limit).await {
            Ok(reply) => Ok(reply),
            Err(error) => {
                if matches!(error, qmp::Error::Timeout { .. }) {
                    self.silent(driver, error.to_string());
                }
                Err(error.into())
            }
        }
    }

    /// The monitor.
    ///
    /// # Errors
    /// `OperationFailed` while there is no connection.
    pub fn monitor(&self) -> Result<Monitor> {
        lock(&self.monitor).clone().ok_or_else(|| {
            let cause = self
                .domain
                .view()
                .run
                .as_ref()
                .and_then(|r| r.unreachable.clone());
            let cause = cause
                .as_deref()
                .unwrap_or("its monitor is not connected")
                .to_owned();
            Error::new(
                Code::OperationFailed,
                format!(
                    "domain '{}' can't be asked at present: {cause}",
                    self.domain.view().name
                ),
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

    /// Notes why the run ends; the first cause stands.
    pub(crate) fn end_because(&self, cause: cause::Cause) {
        lock(&self.ending).get_or_insert(cause);
    }
    /// Why the run ends.
    pub(crate) fn ending(&self) -> Option<cause::Cause> {
        *lock(&self.ending)
    }

    /// Whether the caller is the one to clean up after the run.
    pub(crate) fn first_to_clean(&self) -> bool {
        !self.cleaning.swap(true, Ordering::SeqCst)
    }

    /// Waits until the pump has handed over everything that QEMU said, or `limit` has passed.
    pub(crate) async fn drained(&self, limit: Duration) {
        let mut receiver = self.drained.subscribe();
        // What is not handed over by then is the end of a connection that does not close: nothing follows from it.
        let _ = tokio::time::timeout(limit, receiver.wait_for(|d| *d)).await;
    }

    /// The process was slow to answer: asks it once more, and shows it as unreachable if it does not. However many find
    /// it slow, it is asked once at a time.
    pub(crate) fn suspect(self: &Arc<Self>, driver: &Arc<Driver>) {
        let shown = self
            .domain
            .view()
            .run
            .as_ref()
            .is_some_and(|r| r.unreachable.is_some());
        if shown || self.suspected.swap(true, Ordering::SeqCst) {
            return;
        }
        let (guest, driver) = (Arc::clone(self), Arc::clone(driver));
        tokio::spawn(async move {
            // What came of it is shown by `execute_within` itself.
            let _ = guest
                .execute_within(&driver, qmp::commands::QueryStatus {}, RETRY_DEADLINE)
                .await;
            guest.suspected.store(false, Ordering::SeqCst);
        });
    }

    /// The process has not answered: shows it, and keeps asking.
    fn silent(self: &Arc<Self>, driver: &Arc<Driver>, cause: String) {
        let already = self
            .domain
            .view()
            .run
            .as_ref()
            .is_some_and(|r| r.unreachable.is_some());
        if already || self.ending().is_some() {
            return;
        }
        let (guest, weak) = (Arc::clone(self), Arc::downgrade(driver));
        tokio::spawn(async move {
            guest.show_unreachable(Some(cause)).await;
            guest.ask_again(&weak).await;
        });
    }

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
            if let Some(run) = view.run.as_mut().filter(|r| r.id == id) {
                run.unreachable = cause.map(Into::into);
            }
            Ok(Effects::volatile())
        };
        // A guest that has gone needs no mark.
        let _ = self.domain.commit(change).await;
    }

    /// Asks until there is an answer, or the run or the daemon ends.
    async fn ask_again(self: &Arc<Self>, weak: &Weak<Driver>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.process_ended() => return,
            }
            let Some(driver) = weak.upgrade() else { return };
            let Ok(monitor) = self.monitor() else { return };
            if monitor
                .client()
                .execute_within(qmp::commands::QueryStatus {}, RETRY_DEADLINE)
                .await
                .is_ok()
            {
                self.show_unreachable(None).await;
                recover::read_back(&driver, self).await;
                return;
            }
        }
    }

    /// The connection is over. If the process lives, it is dialled again; if not, the run has ended.
    async fn lost(self: &Arc<Self>, driver: &Arc<Driver>, closed: Option<Closed>) {
        if self.ending().is_some()
            || tokio::time::timeout(LAST_MOMENT, self.process_ended())
                .await
                .is_ok()
        {
            stop::ended(driver, self).await;
            return;
        }
        let cause = closed.map_or_else(String::new, |c| format!(": {c}"));
        self.show_unreachable(Some(format!("the monitor was closed{cause}")))
            .await;
        recover::dial_again(driver, self, RETRY).await;
    }
}

/// Hands events to the owner until the connection ends.
async fn pump(guest: &Arc<Guest>, driver: &Weak<Driver>, mut events: Events) -> Option<Closed> {
    loop {
        match events.next().await? {
            Notice::Event { event, raw } => {
                let Some(driver) = driver.upgrade() else { continue };
                react::publish_raw(&driver, guest, &raw);
                let (target, guest) = (guest.domain.clone(), Arc::clone(guest));
                target
                    .from_monitor(move |view| Ok(react::take_in(&driver, &guest, view, &event)))
                    .await;
            }
            Notice::Closed(closed) => return Some(closed),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
