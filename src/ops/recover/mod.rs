//! Start-up: every guest that the files tell of, in its true state.
//!
//! [`load`] reads the files and enters the guests; it waits for no QEMU. [`reconnect`] then goes to each guest that ran:
//! its process is found by its lock, its monitor dialled, its state read back from QEMU, and what was under way is
//! finished or undone. A guest that ended meanwhile gives its one event. A guest that can't be reached is kept, shown as
//! unreachable, and dialled again.

pub(crate) mod resolve;
pub(crate) mod run_over;
mod truth;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    domain::{
        Condition, Domain, Effects, Job, RunState, Stored, View,
        intents::{Intent, Note},
        jobs::{Kind, Long, Want},
        status,
        store::snapshots::Of,
    },
    error::{Code, Result},
    events::Found,
    hooks::Operation,
    ops::{
        Driver,
        device::{detach, vcpus},
        document::plan,
        holdings::{helper::tpm, net::ports, release},
        run::{cause, guest::Guest, hooks, react, slots, stop},
        saves::left,
        supervise,
    },
    qemu::Process,
};

/// Between two attempts to reach an unreachable guest.
const RETRY: Duration = Duration::from_secs(5);

/// Reads all files and enters all guests. Tells the journal what it missed.
///
/// # Errors
/// A directory can't be read.
pub fn load(driver: &Arc<Driver>) -> Result<()> {
    let registry = &driver.registry;
    let found = registry.store().load()?;
    let mut views: HashMap<uuid::Uuid, View> = HashMap::new();
    for loaded in found.runs {
        match run_view(loaded.content) {
            Ok(view) => drop(views.insert(view.uuid, view)),
            Err(error) => keep(registry.store(), &loaded.path, &error),
        }
    }
    for loaded in found.configs {
        match config_view(&loaded.path, loaded.content, &mut views) {
            Ok(()) => {}
            Err(error) => keep(registry.store(), &loaded.path, &error),
        }
    }
    for view in views.values_mut() {
        view.autostart = view.config.is_some() && found.autostart.contains(&*view.name);
        view.autostart_once = view.config.is_some() && found.autostart_once.contains(&*view.name);
        view.managed_save = view.config.is_some() && found.saved.contains(&*view.name);
        view.snapshots = Arc::new(registry.store().load_moments(Of::Snapshots, &view.name));
        view.checkpoints = Arc::new(registry.store().load_moments(Of::Checkpoints, &view.name));
    }
    let told: Vec<Found> = views.values().map(found_of).collect();
    let runs: Vec<&View> = views.values().filter(|v| v.active()).collect();
    let kept = runs
        .iter()
        .flat_map(|v| v.run.as_ref())
        .flat_map(|r| [&r.status.lib_dir, &r.status.channel_target_dir])
        .flatten()
        .map(PathBuf::from)
        .collect();
    registry.store().sweep(&kept);
    if !registry.store().keeps_runs() {
        tpm::sweep(
            registry.store().paths(),
            runs.iter().map(|v| plan::short_name(v.id(), &v.name)).collect(),
        );
    }
    runs.iter()
        .flat_map(|v| v.run.as_ref())
        .for_each(|run| driver.hostdevs.adopt(&run.document.domain));
    driver.owed.load(&ports::held_by_all(
        runs.iter()
            .flat_map(|v| v.run.as_ref())
            .map(|r| &*r.document.domain),
    ));
    let off = views.values().map(|v| (v.uuid, Note::OFF));
    let intended: Vec<_> = runs.iter().map(|v| (v.uuid, v.id())).chain(off).collect();
    for view in views.into_values() {
        registry.seen_id(view.id());
        registry.enter(view);
    }
    registry.journal().baseline(&told);
    // What is known to run is asked first: whether it still does shows when it is reached.
    registry.journal().append(
        registry
            .journal()
            .reconcile(&told, |uuid, id| stop::detail_found(driver, uuid, id)),
    );
    registry.store().intents().keep_only(&intended);
    Ok(())
}

/// A guest as found. Nobody was told of a run whose start was not finished.
fn found_of(view: &View) -> Found {
    let id = view
        .run
        .as_ref()
        .filter(|r| !r.starting)
        .map_or(0, |r| r.launched.id);
    let state = (view.condition.state_number(), view.condition.reason_number());
    Found {
        uuid: view.uuid,
        name: Arc::clone(&view.name),
        defined: view.config.is_some(),
        id,
        state,
        moments: view.moments(),
    }
}

fn keep(store: &crate::domain::store::Store, path: &Path, error: &crate::error::Error) {
    tracing::error!(path = %path.display(), %error, "this file can't be taken as a guest's; it is kept as it is and left alone");
    store.keep(path);
}

fn run_view(mut document: domxml::StatusDocument) -> Result<View> {
    name_disks(&mut document);
    let (run, condition) = status::read(document)?;
    let (uuid, name) = plan::identity(&run.document.domain)?;
    let mut view = View::new(uuid, name.into(), 0);
    view.run = Some(run);
    view.condition = condition;
    Ok(view)
}

/// Names in QEMU that the file does not tell follow from its numbers.
fn name_disks(status: &mut domxml::StatusDocument) {
    let is_named = |disk: &domxml::devices::Disk| disk.private_data.as_ref().is_some_and(|p| p.qom.is_some());
    let guest = status.domain.name.clone();
    for disk in status
        .domain
        .devices
        .disks
        .iter_mut()
        .filter(|disk| !is_named(disk))
    {
        if let Err(error) = qemu_plan::block::name_disk(disk) {
            tracing::warn!(guest, disk = disk.target.dev, %error, "the names of this disk in QEMU can't be told");
        }
    }
}

fn config_view(path: &Path, domain: domxml::Domain, views: &mut HashMap<uuid::Uuid, View>) -> Result<()> {
    let (uuid, name) = plan::identity(&domain)?;
    if path.file_stem().and_then(|s| s.to_str()) != Some(&name) {
        return Err(crate::error::Error::internal(format!(
            "the file is not named after its guest '{name}'"
        )));
    }
    if views.values().any(|v| v.uuid != uuid && *v.name == *name) {
        return Err(crate::error::Error::internal(format!(
            "another guest is named '{name}'"
        )));
    }
    let view = views
        .entry(uuid)
        .or_insert_with(|| View::new(uuid, name.as_str().into(), 0));
    if *view.name != *name || view.config.is_some() {
        return Err(crate::error::Error::internal(format!(
            "another guest has UUID {uuid}"
        )));
    }
    view.config = Some(Stored::new(&domain));
    Ok(())
}

/// The jobs that are held on a guest that ran.
#[derive(Debug)]
pub struct Held {
    /// Keeps callers waiting until the guest is reached.
    short: Job,
    /// That of a backup that was under way.
    long: Option<Job>,
}

/// Holds every guest that ran, so that a caller who comes early waits until it is reached. To be called before anybody can
/// come.
pub async fn hold(driver: &Arc<Driver>) -> Vec<Held> {
    let mut held = Vec::new();
    for domain in driver.registry.all() {
        let view = domain.view();
        let Some(run) = &view.run else { continue };
        let backs_up = run
            .status
            .backups
            .as_ref()
            .is_some_and(|all| !all.backups.is_empty());
        let long = match backs_up {
            true => domain
                .job_within(Want::Long(Long::Backup), Duration::ZERO)
                .await
                .ok(),
            false => None,
        };
        if let Ok(short) = domain.job_within(Want::Plain(Kind::Modify), Duration::ZERO).await {
            held.push(Held { short, long });
        }
    }
    held
}

/// Goes to every guest that ran and is held, each in its own task; returns when all were reached or shown as unreachable.
pub async fn reconnect(driver: &Arc<Driver>, held: Vec<Held>) {
    let tasks: Vec<_> = held
        .into_iter()
        .map(|job| {
            let domain = job.short.domain().clone();
            driver
                .tracker
                .spawn(take_over(Arc::clone(driver), domain, Some(job)))
        })
        .collect();
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "taking over a guest met a bug");
        }
    }
    release::try_again(driver);
}

async fn take_over(driver: Arc<Driver>, domain: Domain, held: Option<Held>) {
    let view = domain.view();
    let Some(run) = &view.run else { return };
    let process = match find_process(&driver, &view).await {
        Ok(process) => process,
        Err(error) => {
            // It can't be told whether it lives: it is kept, and looked for again.
            tracing::error!(guest = %view.name, %error, "the guest's process can't be looked at");
            return look_again(driver, domain);
        }
    };
    let Some(process) = process else {
        let guest = Guest::ended_before(domain.clone(), run.launched.id, stop::cause_found(&driver, &view));
        stop::ended(&driver, &guest).await;
        return;
    };
    note_start_time(&domain, run.launched.id, process.pid()).await;
    let guest = Guest::new(
        domain.clone(),
        run.launched.id,
        process,
        crate::ops::holdings::display_port::leases_of(&driver, &run.document.domain),
    );
    let (held, long) = held.map_or((None, None), |held| (Some(held.short), held.long));
    guest.keep_job(long);
    crate::ops::run::cpus::found(&guest);
    driver.guests.insert(&guest);
    supervise::watch(&driver, &guest);
    if let Some(cause) = stop::intended(&driver, &view).or(run.starting.then_some(cause::Cause::NotStarted)) {
        tracing::warn!(guest = %view.name, ?cause, "finishing what was under way when the daemon ended");
        guest.end_because(cause);
        if let Err(error) = stop::terminate(&driver, &guest, stop::Patience::Usual).await {
            tracing::error!(guest = %view.name, %error, "the guest could not be ended");
        }
        return;
    }
    let (owned, document) = (Arc::clone(&driver), Arc::clone(&run.document.domain));
    driver
        .tracker
        .spawn(async move { ports::make_known(&owned, &document).await });
    let dialled = supervise::dial(&driver, &guest, supervise::DIAL, held).await;
    if let Err(error) = &dialled {
        guest.show_unreachable(Some(error.to_string())).await;
    }
    let owned = Arc::clone(&driver);
    driver.background(async move {
        if dialled.is_err() {
            supervise::dial_again(&owned, &guest, RETRY).await;
        }
        tell_reconnected(&owned, &guest).await;
    });
}

/// Calls the administrator's scripts for a guest that was taken over. If they say no, it ends, as with libvirt; that they
/// can't be called, or its end, is no such answer.
async fn tell_reconnected(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let view = guest.domain.view();
    let Some(run) = view.run.as_ref().filter(|run| run.launched.id == guest.id) else {
        return;
    };
    let called = hooks::call(driver, Operation::Reconnect, &run.document.domain);
    let result = tokio::select! {
        result = called => result,
        () = guest.process_ended() => return,
    };
    match result {
        Ok(()) => {}
        Err(error) if error.code == Code::HookScriptFailed => {
            tracing::error!(guest = %view.name, %error, "the guest is ended: a hook says so");
            guest.end_because(cause::Cause::Daemon);
            if let Err(error) = stop::terminate(driver, guest, stop::Patience::Usual).await {
                tracing::error!(guest = %view.name, %error, "the guest could not be ended");
            }
        }
        Err(error) => tracing::warn!(guest = %view.name, %error, "hooks are not called"),
    }
}

async fn find_process(driver: &Driver, view: &View) -> Result<Option<Process>> {
    let pid_file = driver
        .registry
        .store()
        .paths()
        .state
        .join(format!("{}.pid", view.name));
    let (pid, name) = (
        view.run.as_ref().map_or(0, |r| r.launched.pid),
        Arc::clone(&view.name),
    );
    crate::blocking::file("looking for the guest's process", move || {
        Process::find(&pid_file, pid, &name)
    })
    .await
}

fn look_again(driver: Arc<Driver>, domain: Domain) {
    tokio::spawn(async move {
        tokio::time::sleep(RETRY).await;
        Box::pin(take_over(driver, domain, None)).await;
    });
}

async fn note_start_time(domain: &Domain, id: i32, pid: i32) {
    let start_time = unixfd::start_time(pid).unwrap_or(0);
    let change = move |view: &mut View| {
        if let Some(run) = view.run.as_mut().filter(|r| r.launched.id == id) {
            run.launched.start_time = start_time;
        }
        Ok(Effects::none())
    };
    // A guest that has gone needs no note.
    let _ = domain.commit(change).await;
}

/// Reads the guest's state back from QEMU and commits what has changed, with its events.
pub(crate) async fn read_back(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let Ok(monitor) = guest.monitor() else { return };
    let before = guest.domain.view().condition;
    let status = match monitor.status().await {
        Ok(status) => status,
        Err(error) => return guest.show_unreachable(Some(error.to_string())).await,
    };
    let balloon = monitor.balloon().await.ok().flatten();
    let devices = monitor.device_ids().await.ok();
    let gone = devices
        .as_ref()
        .map(|devices| gone(&guest.domain.view(), devices));
    let gone = gone.unwrap_or_default();
    // They stay in the list until the document has them no more: we may be killed before.
    let listed = gone.clone();
    let (id, word, running) = (guest.id, status.status.to_string(), status.running);
    let pause = pause_found(driver, guest);
    let change = move |view: &mut View| {
        let Some(run) = view.run.as_mut().filter(|r| r.launched.id == id) else {
            return Ok(Effects::none());
        };
        run.seen.balloon_kib = balloon.map(|b| b / 1024).or(run.seen.balloon_kib);
        run.seen.unreachable = None;
        if let Some(devices) = devices {
            let mut status = domxml::StatusDocument::clone(&run.status);
            status.devices = devices
                .into_iter()
                .chain(listed)
                .map(|alias| domxml::status::DeviceAlias { alias })
                .collect();
            run.status = Arc::new(status);
        }
        // An event that came meanwhile knows better than an answer that was given before it.
        if view.condition != before {
            return Ok(Effects::none());
        }
        Ok(catch_up(view, &word, running, pause))
    };
    match guest.domain.commit(change).await {
        Ok(view) if matches!(view.condition.state(), RunState::Shutdown) => {
            shut_down_meanwhile(driver, guest)
        }
        Ok(view) => {
            if crate::ops::run::cpus::is_stopped(&view) {
                crate::ops::run::cpus::follow_stop(driver, guest);
            }
            if let Err(error) = left::images(driver, guest).await {
                tracing::error!(guest = %view.name, %error,
                    "an image is left that the guest must not run beside; it is not let go on");
                return;
            }
            crate::ops::run::found_job::recover(driver, guest).await;
            if let Err(error) = crate::ops::blockjobs::recover::recover(driver, guest).await {
                tracing::warn!(guest = %view.name, %error, "its block jobs could not be looked at");
            }
            resolve::intents(driver, guest).await;
            if let Err(error) = crate::ops::backups::recover::recover(driver, guest).await {
                tracing::warn!(guest = %view.name, %error, "its backup could not be looked at");
            }
            count_cpus(guest, &view).await;
            crate::ops::run::perf::begin_anew(guest);
            see_to(driver, guest, gone);
            crate::ops::run::refresh::refresh(guest).await;
        }
        Err(error) => {
            tracing::warn!(guest = %guest.domain.view().name, %error, "its state could not be taken over")
        }
    }
}

/// CPUs that came or went while no daemon looked.
async fn count_cpus(guest: &Arc<Guest>, view: &View) {
    let Some(run) = view
        .run
        .as_ref()
        .filter(|run| vcpus::may_change(&run.document.domain))
    else {
        return;
    };
    if let Err(error) = vcpus::refresh(guest).await {
        tracing::warn!(guest = %view.name, id = run.launched.id, %error, "its CPUs are those that the status file has");
    }
}

/// Devices that QEMU had when the status file was written and has no more.
fn gone(view: &View, devices: &std::collections::BTreeSet<String>) -> Vec<String> {
    let Some(run) = &view.run else { return Vec::new() };
    let known = run.status.devices.iter().map(|device| &device.alias);
    let of_guest = |alias: &&String| run.document.domain.devices.by_alias(alias).is_some();
    known
        .filter(|alias| !devices.contains(*alias))
        .filter(of_guest)
        .cloned()
        .collect()
}

/// A device has left QEMU, and nobody waits for it: the documents follow.
pub(crate) async fn departed(driver: Arc<Driver>, guest: Arc<Guest>, alias: String) {
    match slots::is_alias(&alias) {
        true => vcpus::departed(&driver, &guest).await,
        false => detach::departed(driver, guest, alias).await,
    }
}

/// Devices that left while nobody looked leave the document, too.
fn see_to(driver: &Arc<Driver>, guest: &Arc<Guest>, gone: Vec<String>) {
    for alias in gone {
        let (owned, guest) = (Arc::clone(driver), Arc::clone(guest));
        driver.tracker.spawn(departed(owned, guest, alias));
    }
}

/// Why a guest is paused that was not when the daemon ended: somebody's wish that was noted, or nobody's that is known.
fn pause_found(driver: &Driver, guest: &Guest) -> Condition {
    let notes = driver
        .registry
        .store()
        .intents()
        .of(guest.domain.uuid(), guest.id);
    if notes.iter().any(|note| note.intent == Intent::Pause) {
        Condition::PAUSED_USER
    } else {
        Condition::PAUSED_UNKNOWN
    }
}

/// The view follows QEMU's state; `pause`: why it is paused, if it is and nothing else is known.
fn catch_up(view: &mut View, word: &str, running: bool, pause: Condition) -> Effects {
    match (word, view.condition.state()) {
        ("shutdown", state) if state != RunState::Shutdown => {
            view.condition = Condition::SHUTDOWN_USER;
            Effects::none().lifecycle(
                react::lifecycle::SHUTDOWN_GUEST.0,
                react::lifecycle::SHUTDOWN_GUEST.1,
            )
        }
        ("guest-panicked", state) if state != RunState::Crashed => {
            view.condition = Condition::CRASHED_PANICKED;
            Effects::none().lifecycle(
                react::lifecycle::CRASHED_PANICKED.0,
                react::lifecycle::CRASHED_PANICKED.1,
            )
        }
        ("io-error", _) => react::paused(view, Condition::PAUSED_IOERROR),
        ("watchdog", _) => react::paused(view, Condition::PAUSED_WATCHDOG),
        _ if running => react::resumed(view),
        ("paused" | "prelaunch", _) => react::paused(view, pause),
        _ => Effects::none(),
    }
}

/// A guest that shut down while nobody listened: what its document says follows now.
fn shut_down_meanwhile(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let preserve = guest
        .domain
        .view()
        .run
        .as_ref()
        .and_then(|r| r.document.domain.on_poweroff)
        == Some(domxml::clock::LifecycleAction::Preserve);
    if preserve {
        return;
    }
    guest.end_because(cause::Cause::Shutdown);
    let (driver, guest) = (Arc::clone(driver), Arc::clone(guest));
    driver
        .tracker
        .clone()
        .spawn(async move { stop::terminate(&driver, &guest, stop::Patience::Usual).await });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(condition: Condition) -> View {
        let mut view = crate::domain::fixture::running("<name>a</name><memory>1024</memory>");
        view.condition = condition;
        view
    }

    #[test]
    fn what_happened_meanwhile_is_told_once() {
        use Condition as C;
        // As the files have it, QEMU's word, whether CPUs run, what it is then, what is told.
        type Row = (C, &'static str, bool, C, Option<(i32, i32)>);
        let table: &[Row] = &[
            (C::RUNNING_BOOTED, "running", true, C::RUNNING_BOOTED, None),
            (
                C::RUNNING_BOOTED,
                "paused",
                false,
                C::PAUSED_UNKNOWN,
                Some((3, 0)),
            ),
            (
                C::RUNNING_BOOTED,
                "prelaunch",
                false,
                C::PAUSED_UNKNOWN,
                Some((3, 0)),
            ),
            (
                C::RUNNING_BOOTED,
                "io-error",
                false,
                C::PAUSED_IOERROR,
                Some((3, 2)),
            ),
            (
                C::RUNNING_BOOTED,
                "watchdog",
                false,
                C::PAUSED_WATCHDOG,
                Some((3, 3)),
            ),
            (
                C::RUNNING_BOOTED,
                "shutdown",
                false,
                C::SHUTDOWN_USER,
                Some((6, 1)),
            ),
            (
                C::RUNNING_BOOTED,
                "guest-panicked",
                false,
                C::CRASHED_PANICKED,
                Some((8, 0)),
            ),
            (C::PAUSED_USER, "paused", false, C::PAUSED_USER, None),
            (C::PAUSED_IOERROR, "io-error", false, C::PAUSED_IOERROR, None),
            (C::PAUSED_USER, "running", true, C::RUNNING_UNPAUSED, Some((4, 0))),
            (C::PAUSED_USER, "shutdown", false, C::SHUTDOWN_USER, Some((6, 1))),
            (C::SHUTDOWN_USER, "shutdown", false, C::SHUTDOWN_USER, None),
            (
                C::CRASHED_PANICKED,
                "guest-panicked",
                false,
                C::CRASHED_PANICKED,
                None,
            ),
            (
                C::CRASHED_PANICKED,
                "running",
                true,
                C::RUNNING_CRASHED,
                Some((4, 0)),
            ),
            (
                C::PMSUSPENDED_UNKNOWN,
                "suspended",
                false,
                C::PMSUSPENDED_UNKNOWN,
                None,
            ),
            (C::RUNNING_BOOTED, "a new word", true, C::RUNNING_BOOTED, None),
        ];
        for (before, word, running, after, told) in table {
            let mut view = view(*before);
            let effects = catch_up(&mut view, word, *running, Condition::PAUSED_UNKNOWN);
            let events: Vec<_> = effects
                .events
                .iter()
                .map(|(_, detail)| match detail {
                    Some(crate::events::model::event::Detail::Lifecycle(l)) => (l.r#type, l.detail),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(
                (view.condition, events),
                (*after, told.iter().copied().collect::<Vec<_>>()),
                "{before:?}, QEMU says {word}"
            );
            let again = catch_up(&mut view, word, *running, Condition::PAUSED_UNKNOWN);
            assert!(
                again.events.is_empty(),
                "{before:?}, QEMU says {word}: told again"
            );
        }
    }
}
