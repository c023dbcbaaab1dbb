//! The end of a run, whoever wants it: powered off, shut down by the guest, crashed, found ended.
//!
//! There is one way out. [`terminate`] sees to it that the process ends; [`ended`], called by whoever notices first that
//! it has, waits for QEMU's last words, gives back all that the run held and commits the new state. It runs once.
//!
//! Powering off takes no job and no lock that another could hold: it is never refused and never queued. A start that an
//! administrator's script holds up has no run yet: powering off gives it up.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{
    domain::{
        Domain, Effects, Run, RunState, View,
        intents::{Intent, Note},
    },
    error::Result,
    hooks::Operation,
    ops::{
        Conditions, Driver,
        document::{plan, resources},
        holdings::{
            cgroup,
            helper::{message_bus, passt, reservations, screen, tpm, virtiofs},
            hostdev, log,
            net::{mac_filter, ports, script},
            storage::{owners::Owners, transient},
        },
        host::{
            files::{remove, remove_all},
            proc,
        },
        operation::record::Record,
        run::{cause::Cause, cpus, guest::Guest, hooks, left_backup, left_jobs},
    },
    qemu::Stop,
};

/// How long QEMU's last words are waited for once the process is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a start may take to be undone that was given up; scripts are told of it.
const STARTED_OR_UNDONE: Duration = Duration::from_secs(900);

/// How long a daemon that has found a run may take to reach it.
const FOUND: Duration = Duration::from_secs(20);

/// libvirt's lifecycle event for an end.
const STOPPED: i32 = 5;

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Ask, then kill.
    Usual,
    /// Ask, and give up rather than kill.
    Graceful,
    /// Kill.
    None,
}

/// How to power off.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Fail rather than kill.
    pub graceful: bool,
    /// Remove the guest's log as well.
    pub remove_logs: bool,
}

/// Ends a guest's run now.
///
/// # Errors
/// `OperationInvalid` if it does not run; `OperationFailed` if the process does not end.
pub async fn power_off(
    driver: &Arc<Driver>,
    domain: &Domain,
    how: How,
    conditions: &Conditions,
) -> Result<()> {
    let view = domain.view();
    conditions.check(&view)?;
    let guest = match (driver.guests.of(&view), starting(driver, view.uuid)) {
        (Ok(_), _) | (Err(_), Some(_)) if conditions.trial => return Ok(()),
        (Ok(guest), _) => guest,
        (Err(error), None) if !view.active() || conditions.trial => return Err(error),
        (Err(_), None) => match found(driver, domain).await? {
            Some(guest) => guest,
            None => return Ok(()),
        },
        (Err(_), Some(start)) => {
            start.cancel()?;
            start.wait(STARTED_OR_UNDONE).await;
            match driver.guests.of(&domain.view()) {
                Ok(guest) => guest,
                Err(_) => return Ok(()),
            }
        }
    };
    // Noted first: should the daemon end before QEMU does, the next one knows why it ended and sees to it that it does.
    // Powering off is never refused: without the note, only the reason that is told afterwards would be another.
    let note = Note::new(Uuid::new_v4(), view.uuid, guest.id, Intent::PowerOff);
    let intents = driver.registry.store().intents();
    if let Err(error) = intents.write(&note).await {
        tracing::warn!(guest = %view.name, %error, "the guest is powered off without a note of it");
    }
    let first = guest.end_because(Cause::Destroyed);
    let patience = if how.graceful {
        Patience::Graceful
    } else {
        Patience::Usual
    };
    let (owned, name) = (Arc::clone(driver), Arc::clone(&view.name));
    driver
        .tracked(async move {
            let ended = terminate(&owned, &guest, patience).await;
            if ended.is_err() {
                // It goes on, and may end for another reason later.
                guest.goes_on(first);
            }
            // The end of a run clears its notes, but one that ended by itself may have done so before this came.
            intents.clear(&note).await;
            ended?;
            if how.remove_logs {
                let log = owned.registry.store().paths().log.join(format!("{name}.log"));
                crate::blocking::file("removing the guest's log", move || remove(&log)).await?;
            }
            Ok(())
        })
        .await
}

/// A start of the guest that can be given up: it waits for a script of the administrator, and there is no run yet.
fn starting(driver: &Driver, guest: Uuid) -> Option<Arc<Record>> {
    let all = driver.operations.all().into_iter();
    all.rev()
        .find(|record| record.guest == guest && record.kind == "start" && record.may_cancel().is_ok())
}

/// Why a run ended that is found ended at start-up: somebody's wish that was noted, or nobody's.
pub(crate) fn cause_found(driver: &Driver, view: &View) -> Cause {
    match (
        intended(driver, view),
        view.run.as_ref().is_some_and(|r| r.starting),
    ) {
        (Some(cause), _) => cause,
        (None, false)
            if view
                .run
                .as_ref()
                .is_some_and(|run| is_saved(driver, view.uuid, run.launched.id)) =>
        {
            Cause::Saved
        }
        (None, true) => Cause::NotStarted,
        (None, false) => Cause::Failed,
    }
}

/// The detail of the event for a run of which nothing is left but that it was told of.
pub(crate) fn detail_found(driver: &Driver, uuid: Uuid, id: i32) -> i32 {
    let cause = if is_intended(driver, uuid, id) {
        Cause::Destroyed
    } else if is_saved(driver, uuid, id) {
        Cause::Saved
    } else {
        Cause::Failed
    };
    cause.outcome().1.unwrap_or(0)
}

/// The end that was noted for this run before the daemon ended.
pub(crate) fn intended(driver: &Driver, view: &View) -> Option<Cause> {
    let id = view.run.as_ref()?.launched.id;
    is_intended(driver, view.uuid, id).then_some(Cause::Destroyed)
}

/// Whether a run had been saved when the daemon ended: its image is complete, and its CPUs stood since.
fn is_saved(driver: &Driver, uuid: Uuid, id: i32) -> bool {
    let notes = driver.registry.store().intents().of(uuid, id);
    let mut images = notes.iter().filter_map(|note| note.intent.image());
    images.any(|(path, _)| {
        let read = || {
            let mut head = [0; qemu_plan::save_image::HEADER_LEN];
            std::io::Read::read_exact(&mut std::fs::File::open(path)?, &mut head)?;
            std::io::Result::Ok(head)
        };
        read().is_ok_and(|head| qemu_plan::save_image::Header::decode(&head).is_ok())
    })
}

fn is_intended(driver: &Driver, uuid: Uuid, id: i32) -> bool {
    let notes = driver.registry.store().intents().of(uuid, id);
    notes.iter().any(|note| note.intent == Intent::PowerOff)
}

/// The guest of a run that a daemon has found and is about to reach; `None` once it has ended.
async fn found(driver: &Driver, domain: &Domain) -> Result<Option<Arc<Guest>>> {
    let until = Instant::now() + FOUND;
    loop {
        let view = domain.view();
        if !view.active() {
            return Ok(None);
        }
        match driver.guests.of(&view) {
            Ok(guest) => return Ok(Some(guest)),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Ends the process and cleans up after it. Returns when both are done, whoever did them.
pub(crate) async fn terminate(driver: &Arc<Driver>, guest: &Arc<Guest>, patience: Patience) -> Result<()> {
    end_process(guest, patience).await?;
    ended(driver, guest).await;
    Ok(())
}

async fn end_process(guest: &Guest, patience: Patience) -> Result<()> {
    // A process that is stopped by a signal can't end when asked.
    let stopped = guest
        .domain
        .view()
        .run
        .as_ref()
        .and_then(proc::process)
        .is_some_and(|s| matches!(s.state, 'T' | 't'));
    let how = match patience {
        Patience::Graceful => Stop::Gracefully,
        Patience::Usual if stopped => Stop::Now,
        Patience::Usual => Stop::Surely,
        Patience::None => Stop::Now,
    };
    guest.process()?.stop(how).await
}

/// The process has ended: cleans up and commits, once. Later callers wait for the first.
pub(crate) async fn ended(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    if !guest.first_to_clean() {
        let mut cleaned = guest.cleaned.subscribe();
        // The sender lives in `guest`.
        let _ = cleaned.wait_for(|c| *c).await;
        return;
    }
    guest.drained(LAST_WORDS).await;
    // What was to be committed before is by then, and what comes later sees that the run is over.
    let last = guest.domain.commit(|_| Ok(Effects::none())).await;
    let view = last.unwrap_or_else(|_| guest.domain.view());
    let cause = guest.ending().unwrap_or(Cause::Failed);
    give_back(driver, guest, &view, cause).await;
    // Nobody can start it before that is done.
    see_to_notes(driver, guest).await;
    let id = guest.id;
    let domain = guest.domain.clone();
    let committed = guest
        .domain
        .commit(move |view| {
            let run = view.run.as_ref().filter(|run| run.launched.id == id);
            let mut effects = run.map_or_else(Effects::none, |run| left_backup::told(&domain, run));
            effects.events.extend(shut_off(view, id, cause).events);
            Ok(effects)
        })
        .await;
    if let Err(error) = committed {
        tracing::error!(guest = %view.name, %error, "the end of the run could not be written down");
    }
    driver.registry.store().intents().clear_run(view.uuid, id).await;
    // An operation that has ended meanwhile may have left its own.
    see_to_notes(driver, guest).await;
    driver.guests.remove(guest);
    guest.cleaned.send_replace(true);
    tracing::info!(guest = %view.name, id, ?cause, "the run has ended");
}

/// Sees to what was under way on the run and outlives it. An operation that is at work sees to its own.
async fn see_to_notes(driver: &Arc<Driver>, guest: &Guest) {
    let intents = driver.registry.store().intents();
    let left = intents
        .of(guest.domain.uuid(), guest.id)
        .into_iter()
        .filter(|note| note.intent.outlives_run() && !driver.operations.is_under_way(note.operation));
    for note in left {
        (driver.run_over)(driver, &guest.domain, note).await;
    }
}

/// The view after the end of run `id`.
fn shut_off(view: &mut View, id: i32, cause: Cause) -> Effects {
    if view.run.as_ref().is_none_or(|r| r.launched.id != id) {
        return Effects::none();
    }
    let starting = view.run.take().is_some_and(|r| r.starting);
    // A guest that said that it shuts down has shut down, even if QEMU died then.
    let cause = match cause {
        Cause::Failed if view.condition.state() == RunState::Shutdown => Cause::Shutdown,
        Cause::Failed if starting => Cause::NotStarted,
        other => other,
    };
    let (condition, detail, _) = cause.outcome();
    view.condition = condition;
    match detail.filter(|_| !starting) {
        Some(detail) => Effects::none().lifecycle(STOPPED, detail),
        None => Effects::none(),
    }
}

/// Gives back what the run held, and tells the administrator's scripts. The status file goes with the commit.
async fn give_back(driver: &Arc<Driver>, guest: &Guest, view: &Arc<View>, cause: Cause) {
    guest.consoles.close();
    let leases = std::mem::take(
        &mut *guest
            .leases
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    drop(leases);
    cpus::ended(driver, guest, view);
    let Some(run) = view.run.as_ref().filter(|r| r.launched.id == guest.id) else {
        return;
    };
    let document = &run.document.domain;
    screen::unplug(driver, document).await;
    message_bus::unplug(driver, document).await;
    reservations::unplug(driver, document).await;
    virtiofs::unplug(driver, document).await;
    passt::unplug(driver, document).await;
    tpm::unplug(driver, view, document, guest.id).await;
    // It takes the run's key.
    left_jobs::put_back(driver, run).await;
    remove_directories(driver, view, run, cause).await;
    left_backup::give_back(driver, run).await;
    left_jobs::remove_merged(driver, view, run).await;
    hooks::tell(driver, Operation::Stopped, document).await;
    if let Err(error) = script::unplug(document).await {
        tracing::error!(guest = %view.name, %error, "an interface was not taken down");
    }
    for interface in &document.devices.interfaces {
        mac_filter::forget(driver, interface).await;
    }
    ports::give_back(driver, document).await;
    release(driver, guest, view, document).await;
    hostdev::give_back(driver, document).await;
    hooks::tell(driver, Operation::Release(cause.outcome().2), document).await;
}

/// Notes the end in the guest's log and removes the directories that QEMU had files in.
async fn remove_directories(driver: &Driver, view: &View, run: &Run, cause: Cause) {
    let name = &view.name;
    let log = driver.registry.store().paths().log.join(format!("{name}.log"));
    let status = &run.status;
    let known = [
        &status.lib_dir,
        &status.channel_target_dir,
        &status.memory_backing_dir,
    ];
    let name = plan::short_name(run.launched.id, name);
    // Memory may have come and gone while it ran.
    let huge = resources::huge_pages(driver, &name).await.unwrap_or_default();
    let huge = huge.into_iter().map(|(_, dir)| PathBuf::from(dir));
    let known = known.into_iter().flatten().map(PathBuf::from);
    let directories: Vec<PathBuf> = known.chain(huge).collect();
    let work = move || {
        log::log_line(&log, &format!("shutting down, reason={}", cause.outcome().2));
        let removed = directories.iter().map(|directory| remove_all(directory));
        removed.fold(Ok(()), Result::and)
    };
    left_behind(
        view,
        crate::blocking::file("removing the guest's directories", work).await,
    );
}

/// Gives back files, devices, control groups and the PID file.
async fn release(driver: &Driver, guest: &Guest, view: &View, document: &domxml::Domain) {
    let pid_file = driver
        .registry
        .store()
        .paths()
        .state
        .join(format!("{}.pid", view.name));
    let owners = Owners::of(driver, document);
    let nodes = Owners::of_hostdevs(driver, document);
    let written = Owners::of_chardevs(driver, document);
    let remove_group = cgroup::remove(driver, document, guest.id);
    let work = move || {
        owners.restore();
        nodes.restore();
        written.restore();
        remove_group();
        remove(&pid_file)
    };
    left_behind(
        view,
        crate::blocking::file("cleaning up after the guest", work).await,
    );
    left_behind(
        view,
        transient::remove(&document.devices.disks, &document.name).await,
    );
}

fn left_behind(view: &View, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(guest = %view.name, %error, "something of the run is left behind");
    }
}
