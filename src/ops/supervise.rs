//! Watches each running guest: its process, its connection, and what QEMU reports on it.
//!
//! [`watch`] begins with a run and ends with it, [`connect`] hands every event of QEMU to the guest's owner in order. What
//! goes wrong with a connection is seen here, so that callers of a guest's monitor need do nothing but fail: a guest that
//! is silent is shown as unreachable and asked until it answers, a monitor that closed is dialled again. Once the guest
//! is reached its state is read back (`recover`).

use std::{
    path::Path,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use qmp::{Closed, Command, commands::QueryStatus};

use crate::{
    domain::{Condition, Effects, Job, View},
    error::Result,
    events::Happening,
    events::model::{self as pb, EventKind, event::Detail},
    ops::{
        Driver, blockjobs,
        holdings::helper::{passt, reservations},
        recover,
        run::{
            cpus,
            departures::Departure,
            guest::{Guest, Signal},
            power,
            react::{self, Then},
            stop,
        },
        saves::dump,
    },
    qemu::{Events, GuestEvent, Live, Monitor, Notice},
};

/// How often a monitor that closed is dialled again.
const RETRY: Duration = Duration::from_secs(2);
/// How long an unreachable guest's answer is waited for before it is asked once more. Nobody waits for it meanwhile, and a
/// guest that is merely slow must be able to show that it lives.
const RETRY_DEADLINE: Duration = Duration::from_secs(10);
/// QEMU closes its monitor at most this long before it ends.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// How long a monitor is dialled before the guest is shown as unreachable.
pub(crate) const DIAL: Duration = Duration::from_secs(5);

/// Watches a run until its process ends, and cleans up after it then.
pub(crate) fn watch(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let Some(mut signals) = guest.take_signals() else {
        return;
    };
    let (weak, guest) = (Arc::downgrade(driver), Arc::clone(guest));
    driver.background(async move {
        loop {
            tokio::select! {
                () = guest.process_ended() => break,
                signal = signals.recv() => match signal {
                    Some(signal) => attend(&weak, &guest, signal).await,
                    None => break,
                },
            }
            // What was noticed meanwhile is what was just seen to.
            while signals.try_recv().is_ok() {}
        }
        guest.process_ended().await;
        if let Some(driver) = weak.upgrade() {
            stop::ended(&driver, &guest).await;
        }
    });
}

/// Sees to what somebody noticed.
async fn attend(driver: &Weak<Driver>, guest: &Arc<Guest>, signal: Signal) {
    if is_shown(guest) || guest.ending().is_some() {
        return;
    }
    let cause = match signal {
        Signal::Silent(cause) => cause,
        Signal::Suspect => match ask(guest, QueryStatus::DEADLINE).await {
            Some(cause) => cause,
            None => return,
        },
    };
    guest.show_unreachable(Some(cause)).await;
    ask_again(driver, guest).await;
}

fn is_shown(guest: &Guest) -> bool {
    let view = guest.domain.view();
    view.run.as_ref().is_some_and(|r| r.seen.unreachable.is_some())
}

/// Asks once; why there was no answer within `limit`, if there was none.
async fn ask(guest: &Guest, limit: Duration) -> Option<String> {
    // Without a monitor it is dialled already.
    let monitor = guest.monitor().ok()?;
    match monitor.client().execute_within(QueryStatus {}, limit).await {
        Err(error @ qmp::Error::Timeout { .. }) => Some(error.to_string()),
        _ => None,
    }
}

/// Asks until there is an answer, or the run, the connection or the daemon ends. A question is always open, so that the
/// guest is reachable again as soon as it answers.
async fn ask_again(weak: &Weak<Driver>, guest: &Arc<Guest>) {
    loop {
        let silent = tokio::select! {
            cause = ask(guest, RETRY_DEADLINE) => cause.is_some(),
            () = guest.process_ended() => return,
        };
        let Some(driver) = weak.upgrade() else { return };
        if silent {
            continue;
        }
        // A connection that ended is dialled by who saw it end.
        if guest.monitor().is_ok() {
            guest.show_unreachable(None).await;
            recover::read_back(&driver, guest).await;
        }
        return;
    }
}

/// Takes over a connection and pumps its events.
pub(crate) fn connect(driver: &Arc<Driver>, guest: &Arc<Guest>, monitor: Monitor, events: Events) {
    guest.set_monitor(Some(monitor));
    // What was to be hidden may have been told to the one before.
    guest.hides_stop.store(false, Ordering::Release);
    let (guest, weak) = (Arc::clone(guest), Arc::downgrade(driver));
    driver.background(async move {
        let closed = pump(&guest, &weak, events).await;
        guest.set_monitor(None);
        if let Some(driver) = weak.upgrade() {
            lost(&driver, &guest, closed).await;
        }
    });
}

/// Hands events to the owner until the connection ends.
async fn pump(guest: &Arc<Guest>, driver: &Weak<Driver>, mut events: Events) -> Option<Closed> {
    loop {
        match events.next().await? {
            Notice::Event { event, raw } => {
                let Some(driver) = driver.upgrade() else { continue };
                publish_raw(&driver, guest, &raw);
                if let GuestEvent::JobStatusChange(job) = &event {
                    guest.streams.tell(&job.id, &job.status);
                }
                let (target, guest) = (guest.domain.clone(), Arc::clone(guest));
                target
                    .from_monitor(move |view| Ok(take_in(&driver, &guest, view, &event)))
                    .await;
            }
            Notice::Closed(closed) => return Some(closed),
        }
    }
}

/// The connection is over. If the process lives, it is dialled again; if not, the run has ended.
async fn lost(driver: &Arc<Driver>, guest: &Arc<Guest>, closed: Option<Closed>) {
    if guest.ending().is_some()
        || tokio::time::timeout(LAST_MOMENT, guest.process_ended())
            .await
            .is_ok()
    {
        stop::ended(driver, guest).await;
        return;
    }
    let cause = closed.map_or_else(String::new, |c| format!(": {c}"));
    guest
        .show_unreachable(Some(format!("the monitor was closed{cause}")))
        .await;
    dial_again(driver, guest, RETRY).await;
}

/// Connects to a guest's monitor and reads its state back. `held`, the job that keeps callers waiting meanwhile, ends once
/// the guest can be asked.
///
/// # Errors
/// Nobody answers there within `limit`.
pub(crate) async fn dial(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    limit: Duration,
    held: Option<Job>,
) -> Result<()> {
    let view = guest.domain.view();
    let socket = view.running()?.status.monitor.as_ref().map(|m| m.path.clone());
    let socket = socket.unwrap_or_default();
    let Live { monitor, events, .. } =
        Live::attach(guest.process()?.clone(), Path::new(&socket), limit).await?;
    // How these stand is not known before QEMU was asked.
    let jobs = view.run.iter().flat_map(blockjobs::entries);
    jobs.for_each(|job| guest.streams.may_be_over(&job.name));
    connect(driver, guest, monitor, events);
    drop(held);
    recover::read_back(driver, guest).await;
    Ok(())
}

/// Dials until the guest answers, ends, or the daemon does.
pub(crate) async fn dial_again(driver: &Arc<Driver>, guest: &Arc<Guest>, pause: Duration) {
    let weak = Arc::downgrade(driver);
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = guest.process_ended() => return,
        }
        let Some(driver) = weak.upgrade() else { return };
        if dial(&driver, guest, DIAL, None).await.is_ok() {
            guest.show_unreachable(None).await;
            return;
        }
    }
}

/// Runs in the owner: changes the view by an event and starts what follows.
fn take_in(driver: &Arc<Driver>, guest: &Arc<Guest>, view: &mut View, event: &GuestEvent) -> Effects {
    if view.run.as_ref().is_none_or(|r| r.launched.id != guest.id) {
        return Effects::none();
    }
    if let GuestEvent::BlockIoError(error) = event
        && error.action == "stop"
    {
        guest.expect_pause(Condition::PAUSED_IOERROR);
    }
    match event {
        GuestEvent::Stop if guest.hides_stop.swap(false, Ordering::AcqRel) => return Effects::none(),
        GuestEvent::Resume if guest.is_told.swap(false, Ordering::AcqRel) => return Effects::none(),
        GuestEvent::Migration(migration) => drop(guest.migration.send_replace(migration.status.clone())),
        GuestEvent::DumpCompleted(dump) => drop(guest.dumped.send_replace(Some(dump.clone()))),
        _ => {}
    }
    let (effects, then) = react::decide(view, event, || guest.pause_cause());
    if cpus::is_stopped(view) {
        cpus::follow_stop(driver, guest);
    }
    follow(driver, guest, then);
    effects
}

fn follow(driver: &Arc<Driver>, guest: &Arc<Guest>, then: Then) {
    let (tracker, driver, guest) = (driver.tracker.clone(), Arc::clone(driver), Arc::clone(guest));
    match then {
        Then::Nothing => {}
        Then::Stop(cause) => {
            guest.end_because(cause);
            tracker.spawn(async move { stop::terminate(&driver, &guest, stop::Patience::Usual).await });
        }
        Then::DumpAndStop => drop(tracker.spawn(dump::by_itself(driver, guest, dump::After::End))),
        Then::DumpAndRestart => drop(tracker.spawn(dump::by_itself(driver, guest, dump::After::Restart))),
        Then::DumpAndResume => drop(tracker.spawn(dump::by_itself(driver, guest, dump::After::Resume))),
        Then::Restart => {
            tracker.spawn(async move { power::restart(&driver, &guest).await });
        }
        // A detach that waits for it goes on; otherwise it is seen to here.
        Then::Departed(alias) => {
            if !guest.departures.tell(&alias, Departure::Gone) {
                tracker.spawn(recover::departed(driver, guest, alias));
            }
        }
        Then::Job { id, state } => {
            if !guest.jobs.tell(&id, &state) {
                tracker.spawn(blockjobs::end::heard(driver, guest, id, state));
            }
        }
        Then::Unreserved => {
            tracker.spawn(async move {
                let view = guest.domain.view();
                let run = view.run.as_ref().filter(|run| run.launched.id == guest.id && !run.starting);
                let Some(run) = run else { return };
                if let Err(error) = reservations::again(&driver, &run.document.domain).await {
                    tracing::error!(guest = %view.name, %error, "the guest stays without a helper for reservations");
                }
            });
        }
        Then::Disconnected(alias) => {
            tracker.spawn(async move {
                let view = guest.domain.view();
                let run = view.run.as_ref().filter(|run| run.launched.id == guest.id && !run.starting);
                let Some(run) = run else { return };
                if let Err(error) = passt::again(&driver, &run.document.domain, &alias).await {
                    tracing::error!(guest = %view.name, alias, %error, "an interface stays without its passt");
                }
            });
        }
        Then::Kept(alias) => drop(guest.departures.tell(&alias, Departure::Refused)),
    }
}

/// Passes the event on as it came, for clients that watch QEMU itself.
fn publish_raw(driver: &Driver, guest: &Guest, event: &qmp::Event) {
    let view = guest.domain.view();
    let detail = Detail::Monitor(pb::event::Monitor {
        event: event.name.clone(),
        seconds: event.seconds,
        microseconds: u32::try_from(event.microseconds).unwrap_or(0),
        details: event
            .data
            .as_ref()
            .map(|d| d.get().to_owned())
            .unwrap_or_default(),
    });
    driver.registry.journal().monitor(Happening {
        uuid: view.uuid,
        name: Arc::clone(&view.name),
        id: guest.id,
        kind: EventKind::Monitor,
        detail: Some(detail),
    });
}
