//! Starting a guest.
//!
//! ```text
//!  Prepared ──▶ Reserved ──▶ Spawned ──▶ Ready
//!  document     directories   process     monitor answers,
//!  complete,    sockets, fds, held, told  state read, CPUs
//!  checked      ports, owner  on disk     let run, told
//! ```
//!
//! Each stage pushes its undo. The process is told on disk while it is still held back from becoming QEMU: if the daemon
//! dies before, it ends by itself; if after, the next daemon finds it in its status file, not finished, and ends it.
//! A start is told to nobody before it has succeeded; one that fails later than QEMU answers tells that the host ended QEMU.

mod advice;
mod cpu;
mod label;
mod live;
pub(crate) mod merge;
mod reserve;
pub mod restore;
mod taint;
mod threads;

use std::{path::PathBuf, sync::Arc};

use domxml::StatusDocument;
use futures_util::future::BoxFuture;
use qemu_plan::{address::Age, alias, block, command};

use crate::{
    config::StdioHandler,
    domain::{
        Condition, Document, Domain, Effects, GONE, Launched, Run, Seen, Stored, View,
        jobs::{Long, Want},
    },
    error::{Error, Result},
    events::model::EventKind,
    hooks::{Operation as Call, Script},
    ops::{
        Conditions, Driver,
        document::{plan, prepared::Prepared, resources::line_config},
        graph,
        holdings::{
            cgroup,
            helper::message_bus,
            listen, log,
            net::traffic,
            storage::{chain, lease, transient, volumes},
        },
        host::{
            self, files,
            identity::{Identity, file_user_of},
        },
        moments::back::Back,
        operation::{self, Ask, Context, Operation, undo::Undo},
        run::{cause, cpus, guest::Guest, hooks, perf, react, stop},
        saves::image::New,
        start::{
            reserve::Reserved,
            restore::{Incoming, Source},
        },
        supervise,
        tuning::enclose,
    },
    qemu::{Held, Live, LogTail, Start},
};

/// How to start.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Leave the CPUs stopped.
    pub paused: bool,
    /// Begin with fresh firmware variables.
    pub reset_nvram: bool,
    /// Remove an image of a managed save and boot.
    pub force_boot: bool,
    /// Read an image past the page cache.
    pub bypass_cache: bool,
    /// The session that the run ends with.
    pub session: Option<Arc<str>>,
    /// The snapshot that it goes on from.
    pub(crate) back: Option<Arc<Back>>,
    /// The image that the guest goes on from.
    pub(crate) source: Option<Arc<Source>>,
    /// Its images are merged and nothing else: it stays in its start, and nobody is told of it.
    pub(crate) merges: bool,
}

/// Starts a guest that is defined: from the image of its managed save, if it has one.
///
/// # Errors
/// `OperationInvalid` if it runs; what is wrong with its document, its files, or QEMU. Nothing is left of it then.
pub async fn start(
    driver: &Arc<Driver>,
    domain: &Domain,
    how: How,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let startable = |view: &View| {
        conditions.check(view)?;
        match (view.active(), &view.config) {
            (true, _) => Err(Error::invalid("domain is already running")),
            (false, Some(config)) => Ok(Arc::clone(config)),
            (false, None) => Err(Error::invalid("domain has no configuration to start from")),
        }
    };
    let config = startable(&domain.view())?;
    if conditions.trial {
        Box::pin(prepare(driver, copy(&config)?)).await?;
        return Ok(domain.view());
    }
    let operation = begin(driver, domain, conditions).await?;
    let view = operation.view();
    let config = startable(&view)?;
    let mut how = how;
    let document = match restore::managed(driver, &view, &how).await? {
        Some((source, document)) => {
            how.source = Some(source);
            document
        }
        None => copy(&config)?,
    };
    operation
        .carry_out(|context| carrying_out(context, document, Some(config), how))
        .await
}

/// Begins the operation. It needs no intent: the status file of a run that is not ready is one.
async fn begin(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<Operation> {
    let ask = Ask {
        kind: "start",
        job: Want::Long(Long::Start),
        conditions,
    };
    Operation::begin(driver, domain, ask).await
}

/// The guest's memory is in an image: started beside it, the guest would later be set back to a state that its disks are
/// past.
fn is_saved(view: &View) -> Error {
    let text = format!(
        "domain '{}' has a managed save image: start it from there, or remove the image with managedsave-remove",
        view.name
    );
    Error::invalid(text)
}

/// A copy of a stored document, to become a run's.
fn copy(config: &Stored) -> Result<Box<domxml::Domain>> {
    Ok(Box::new(domxml::Domain::clone(&*config.domain()?)))
}

/// Starts a guest from a snapshot, in an operation that is under way.
///
/// # Errors
/// What is wrong with the document, its files, or QEMU. The guest does not run then.
pub(crate) async fn from_snapshot(
    context: Arc<Context>,
    document: Box<domxml::Domain>,
    how: How,
) -> Result<Arc<View>> {
    let config = how.back.as_ref().and_then(|back| back.config.clone());
    carry_out(context, document, config, how).await
}

/// Begins a guest's firmware variables afresh.
///
/// # Errors
/// There is no template for them, or a file can't be written.
pub(crate) async fn renew_nvram(driver: &Driver, document: &domxml::Domain) -> Result<()> {
    if document.os.nvram.is_none() {
        return Ok(());
    }
    let renew = reserve::prepare_nvram(document, Identity::of_guest(&driver.config(), document)?, true);
    crate::blocking::file("writing the firmware's variables", renew).await
}

/// Checks that a guest could be started with a document.
///
/// # Errors
/// What is wrong with it, or with its images.
pub(crate) async fn trial(driver: &Arc<Driver>, document: Box<domxml::Domain>) -> Result<()> {
    prepare(driver, document).await.map(drop)
}

/// Starts a guest from a document that is not stored.
///
/// # Errors
/// As [`start`], and who has its name or UUID.
pub async fn create(
    driver: &Arc<Driver>,
    xml: String,
    validate: bool,
    how: How,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let planned = plan::from_text(driver, xml, validate).await?;
    let (uuid, name) = plan::identity(&planned.domain)?;
    if conditions.trial {
        Box::pin(prepare(driver, planned.domain)).await?;
        return Ok(Arc::new(View::new(uuid, name.into(), 0)));
    }
    loop {
        let domain = driver.registry.claim(uuid, &name)?;
        let (owned, document, how) = (Arc::clone(driver), planned.domain.clone(), how.clone());
        let attempt = Box::pin(async move { create_claimed(&owned, domain, document, how).await });
        match driver.tracked(attempt).await {
            // Another start of this guest has just failed, and it left: it is a new one now.
            Err(error) if error.reason == Some(GONE) => {}
            other => return other,
        }
    }
}

async fn create_claimed(
    driver: &Arc<Driver>,
    domain: Domain,
    document: Box<domxml::Domain>,
    how: How,
) -> Result<Arc<View>> {
    let attempt = async {
        let operation = begin(driver, &domain, &Conditions::default()).await?;
        let view = operation.view();
        if view.active() {
            let text = format!("domain '{}' is already active", view.name);
            return Err(Error::invalid(text).in_area(crate::error::Area::Domain));
        }
        if view.managed_save {
            return Err(is_saved(&view));
        }
        // A stored guest that is created keeps its configuration and runs with this document.
        let config = view.config.clone();
        operation
            .carry_out(|context| carrying_out(context, document, config, how))
            .await
    };
    let result = attempt.await;
    if result.is_err() {
        // A handle that never became a guest leaves the registry with its next commit.
        let _ = domain.commit(|_| Ok(Effects::none())).await;
    }
    result
}

/// The start, ready to be carried out; its type is short, as that of what is in it is not.
fn carrying_out(
    context: Arc<Context>,
    document: Box<domxml::Domain>,
    config: Option<Arc<Stored>>,
    how: How,
) -> BoxFuture<'static, Result<Arc<View>>> {
    Box::pin(carry_out(context, document, config, how))
}

/// All stages, and all of them undone if one fails.
async fn carry_out(
    context: Arc<Context>,
    document: Box<domxml::Domain>,
    config: Option<Arc<Stored>>,
    how: How,
) -> Result<Arc<View>> {
    let driver = context.driver();
    if how.force_boot {
        boot_afresh(&context).await?;
    }
    let (mut undo, mut scripts) = (Undo::default(), hooks::Begun::default());
    let view = context.view();
    let image = driver.registry.store().managed_save_path(&view.name);
    if how.source.is_none() && view.managed_save && !New::exists(&image).await? {
        // It was put aside. One beside which the guest goes back to a snapshot stays.
        let gone = |view: &mut View| {
            view.managed_save = false;
            Ok(Effects::none())
        };
        context.commit_with(gone).await?;
    }
    let _shown = restore::ShownJob::of(&context, &how);
    let session = how.session.clone();
    let attempt = Attempt {
        driver,
        context: &context,
        config,
        how,
    };
    let result = Box::pin(attempt.stages(document, &mut undo, &mut scripts)).await;
    match result {
        Ok(view) => {
            tracing::info!(guest = %view.name, id = view.id(), "started");
            if session.is_some_and(|s| !driver.sessions.is_open(&s)) {
                let (how, anyway) = (stop::How::default(), Conditions::default());
                stop::power_off(driver, context.domain(), how, &anyway).await?;
            }
            Ok(view)
        }
        Err(error) => {
            scripts.stopped(driver).await;
            let failed = undo.unwind().await;
            scripts.released(driver).await;
            note_failure(&context).await;
            Err(operation::with_failed(error, &failed))
        }
    }
}

/// Removes the image of a managed save, which nobody will go on from.
async fn boot_afresh(context: &Context) -> Result<()> {
    let view = context.view();
    if !view.managed_save {
        return Ok(());
    }
    context
        .driver()
        .registry
        .store()
        .remove_managed_save(&view.name)
        .await?;
    let gone = |view: &mut View| {
        view.managed_save = false;
        Ok(Effects::none())
    };
    context.commit_with(gone).await.map(drop)
}

/// A stored guest whose start failed is shut off for that reason.
async fn note_failure(context: &Context) {
    let change = |view: &mut View| {
        if view.run.is_none() {
            view.condition = Condition::SHUTOFF_FAILED;
        }
        Ok(Effects::none())
    };
    // A guest that has gone needs no note.
    let _ = context.commit_with(change).await;
}

/// A process that waits to become QEMU, and what the host counts of it.
struct Waiting {
    held: Held,
    perf: perf::Counters,
}

/// One attempt to start a guest.
struct Attempt<'a> {
    driver: &'a Arc<Driver>,
    context: &'a Context,
    /// The stored configuration that the run begins with.
    config: Option<Arc<Stored>>,
    how: How,
}

impl Attempt<'_> {
    async fn stages(
        &self,
        document: Box<domxml::Domain>,
        undo: &mut Undo,
        scripts: &mut hooks::Begun,
    ) -> Result<Arc<View>> {
        let mut prepared = prepare(self.driver, document).await?;
        let planned = prepared.planned.take();
        self.call(
            scripts,
            Call::Prepare,
            planned.as_ref().unwrap_or(&prepared.document),
        )
        .await?;
        cgroup::note_partition(self.driver, &mut prepared.document)?;
        cgroup::make_ready(self.driver);
        let source = self.how.source.as_deref();
        if let Some(source) = source {
            source.complete(&mut prepared);
        }
        let mut reserved = reserve::reserve(self.driver, &mut prepared, self.how.reset_nvram, undo).await?;
        let mut incoming = source.map(|source| source.hand_over(&mut reserved)).transpose()?;
        let pid_file = self.pid_file(&prepared);
        undo.push(
            "the PID file",
            crate::blocking::file("removing the PID file", move || files::remove(&pid_file)),
        );
        let remove = cgroup::remove(self.driver, &prepared.document, prepared.id);
        let removal = crate::blocking::file("removing the guest's control group", move || {
            remove();
            Ok(())
        });
        undo.push("the control group", removal);
        let line = line_of(&prepared, &reserved, incoming.as_mut())?;
        self.call(scripts, Call::Start, &prepared.document).await?;
        let process = self.spawn(&prepared, &reserved, line).await?;
        Box::pin(self.ready((prepared, incoming), reserved, process, (undo, scripts))).await
    }

    /// Calls the administrator's scripts, until they have ended or the start is given up.
    async fn call(&self, scripts: &mut hooks::Begun, call: Call, document: &domxml::Domain) -> Result<()> {
        self.enter_scripts();
        let called = scripts.call(self.driver, call, document);
        self.context.unless_cancelled(called).await?
    }

    /// Says that the start may wait for scripts now.
    fn enter_scripts(&self) {
        if self.driver.hooks.has(Script::Qemu) {
            self.context.enter("hook");
        }
    }

    fn pid_file(&self, prepared: &Prepared) -> PathBuf {
        self.driver
            .registry
            .store()
            .paths()
            .state
            .join(format!("{}.pid", prepared.document.name))
    }

    /// The third stage: a process that waits to become QEMU, told in the guest's status file.
    async fn spawn(
        &self,
        prepared: &Prepared,
        reserved: &Reserved,
        line: command::CommandLine,
    ) -> Result<Waiting> {
        let Self {
            driver,
            context,
            config,
            how,
        } = self;
        let paths = driver.registry.store().paths();
        let log = paths.log.join(format!("{}.log", prepared.document.name));
        let output = log::open(driver, &log, prepared, &line).await?;
        let conf = driver.config();
        let told = self.told_of(prepared, &conf)?;
        for taint in &told.taints {
            log::log_line(&log, &format!("Domain id={} is tainted: {taint}", prepared.id));
        }
        let start = Start {
            args: line.argv().split_off(1),
            env: line.env.clone(),
            output,
            log: LogTail::from_here(log),
            run_as: Identity::of_guest(&conf, &prepared.document)?.run_as(),
            limits: reserve::limits(&conf, &prepared.document),
            pid_file: self.pid_file(prepared),
        };
        let mut qemu = reserved.take_qemu()?;
        lease::connect(driver, &prepared.document, &mut qemu)?;
        let mut held = qemu.hold(start).await?;
        lease::register(driver, &mut held, prepared).await?;
        let run = Run {
            launched: Launched {
                id: prepared.id,
                pid: held.pid(),
                start_time: unixfd::start_time(held.pid()).unwrap_or(0),
                config: config.clone(),
                label: crate::domain::status::label(&prepared.document),
                session: how.session.clone(),
            },
            document: Document::live(*prepared.document.clone()),
            status: Arc::new(status(driver, prepared, reserved, &line)),
            starting: true,
            taints: told.taints,
            deprecations: told.deprecations,
            fake_reboot: false,
            seen: Seen::default(),
        };
        let told = context.commit_with(move |view| {
            view.run = Some(run);
            view.condition = Condition::PAUSED_STARTING_UP;
            Ok(Effects::none())
        });
        // The kernel takes some milliseconds to move a process that it has not moved for a while, and so does the disk.
        let (told, enclosed) = tokio::join!(
            told,
            enclose::enclose(driver, &prepared.document, (prepared.id, held.pid()))
        );
        told?;
        let placed = match enclosed {
            Ok(_) => threads::place_emulator(driver, &prepared.document, held.pid()).await,
            Err(error) => Err(error),
        };
        match placed.and_then(|()| perf::begin(&prepared.document, held.pid())) {
            Ok(perf) => Ok(Waiting { held, perf }),
            Err(error) => {
                drop(held);
                forget(context, prepared.id).await;
                Err(error)
            }
        }
    }

    /// The last stage: QEMU answers, the document is completed with what it says, the CPUs run, and all are told.
    async fn ready(
        &self,
        loading: (Prepared, Option<Incoming>),
        reserved: Reserved,
        process: Waiting,
        (undo, scripts): (&mut Undo, &mut hooks::Begun),
    ) -> Result<Arc<View>> {
        let Self { driver, context, .. } = self;
        let id = loading.0.id;
        let Waiting { held, perf } = process;
        let live = match held.run().await {
            Ok(live) => live,
            Err(error) => {
                forget(context, id).await;
                return Err(error);
            }
        };
        let guest = Guest::new(
            context.domain().clone(),
            id,
            live.process.clone(),
            reserved.into_leases(),
        );
        guest.perf.keep(perf);
        // From here the end of the run gives everything back, and once: files may have other users.
        undo.forget();
        scripts.forget();
        driver.guests.insert(&guest);
        supervise::watch(driver, &guest);
        match Box::pin(self.set_up(&guest, loading, live)).await {
            Ok(view) => self.go_on(&guest, view).await,
            Err(error) => {
                guest.end_because(cause::Cause::NotStarted);
                // QEMU has answered: it tells its end, which is told on.
                stop::terminate(driver, &guest, stop::Patience::Usual).await?;
                Err(error)
            }
        }
    }

    /// Calls the administrator's scripts once the guest runs, until they have ended, or it.
    async fn tell_started(&self, guest: &Guest, document: &domxml::Domain) -> Result<()> {
        self.enter_scripts();
        let called = hooks::call(self.driver, Call::Started, document);
        tokio::select! {
            biased;
            called = self.context.unless_cancelled(called) => called?,
            () = guest.process_ended() => Err(Error::internal("the guest ended while it was started")),
        }
    }

    /// Completes the document with what QEMU says, lets the CPUs run, and tells all.
    async fn set_up(
        &self,
        guest: &Arc<Guest>,
        (mut prepared, incoming): (Prepared, Option<Incoming>),
        live: Live,
    ) -> Result<Arc<View>> {
        let Live { monitor, events, .. } = live;
        supervise::connect(self.driver, guest, monitor.clone(), events);
        cgroup::make_ready(self.driver);
        let status = live::complete(self.driver, &monitor, &mut prepared).await?;
        // The kernel's first move of a thread takes some milliseconds, in which QEMU can be asked.
        let spelled_out = command::cpu::spelled_out(&prepared.document, &prepared.caps);
        let mut cpu = spelled_out.or_else(|| prepared.document.cpu.take());
        let show = async {
            cpu::check_spinlocks(&prepared.document)?;
            match &mut cpu {
                Some(cpu) => cpu::show_actual(&monitor, cpu).await,
                None => Ok(()),
            }
        };
        let pid = guest.process()?.pid();
        let (placed, shown) = tokio::join!(
            threads::place(self.driver, &monitor, &prepared.document, (pid, &status.vcpus)),
            show
        );
        placed.and(shown)?;
        prepared.document.cpu = cpu;
        let loaded = incoming.is_some();
        if let Some(incoming) = incoming {
            incoming.load(self.context, guest).await?;
        }
        if let Some(back) = &self.how.back {
            back.load(self.context, guest, &mut prepared.document).await?;
        }
        if loaded && self.how.back.is_none() {
            self.intend_to_go_on().await?;
        } else if !self.how.paused {
            traffic::allow(&prepared.document).await?;
            cpus::run_cpus(self.driver, guest, monitor.cont()).await?;
        }
        self.tell_started(guest, &prepared.document).await?;
        self.tell(guest, prepared, status).await
    }

    /// Commits that the guest is there, and tells all.
    async fn tell(
        &self,
        guest: &Arc<Guest>,
        mut prepared: Prepared,
        status: StatusDocument,
    ) -> Result<Arc<View>> {
        let (paused, restored, merges) = (self.how.paused, self.how.source.is_some(), self.how.merges);
        let agent = live::has_agent(&prepared.document);
        let missing = std::mem::take(&mut prepared.missing);
        let document = Document::live(*prepared.document);
        let id = guest.id;
        let back = self.how.back.clone();
        let numbered = Arc::clone(guest);
        let told = move |view: &mut View| {
            let run = view
                .run
                .as_mut()
                .filter(|r| r.launched.id == id)
                .ok_or_else(|| Error::internal("the guest ended while it was started"))?;
            let mut merged = StatusDocument::clone(&run.status);
            merged.vcpus = status.vcpus;
            merged.devices = status.devices;
            merged.nodename = Some(u64::from(graph::next_number(run, &numbered).saturating_sub(1)));
            run.status = Arc::new(merged);
            run.document = document;
            if merges {
                return Ok(Effects::none());
            }
            run.starting = false;
            let mut effects = live::tell_missing(missing);
            if agent {
                effects = effects.event(EventKind::AgentLifecycle, Some(react::agent_lifecycle(false, 1)));
            }
            if let Some(back) = back {
                return back.tell(view, effects, paused);
            }
            let (started, stopped, resumed) = (
                react::lifecycle::STARTED,
                react::lifecycle::SUSPENDED,
                react::lifecycle::RESUMED,
            );
            if restored {
                view.condition = Condition::PAUSED_MIGRATION;
                let (kind, detail) = react::lifecycle::STARTED_RESTORED;
                return Ok(effects.lifecycle(kind, detail));
            }
            if paused {
                view.condition = Condition::PAUSED_USER;
                return Ok(effects
                    .lifecycle(started.0, started.1)
                    .lifecycle(stopped.0, stopped.1));
            }
            view.condition = Condition::RUNNING_BOOTED;
            Ok(effects
                .lifecycle(resumed.0, resumed.1)
                .lifecycle(started.0, started.1))
        };
        self.context.commit_with(told).await
    }
}

/// The first stage: nothing of the host is touched.
async fn prepare(driver: &Arc<Driver>, document: Box<domxml::Domain>) -> Result<Prepared> {
    let planned = plan::complete(driver, document, Age::Known).await?;
    let mut document = planned.domain;
    let caps = planned.caps.as_wanted_by(&document)?;
    let cpu = document.cpu.clone();
    let id = driver.registry.new_id();
    document.id = Some(id);
    label::check(&document, driver.host.scope)?;
    advice::check(&document)?;
    host::cpu::check(driver, &caps, &document)?;
    listen::find(driver, &mut document).await?;
    let told = driver.hooks.has(Script::Qemu).then(|| document.clone());
    command::tls::settle(&mut document, &line_config(&driver.config()));
    command::memory::round_sizes(&mut document);
    alias::assign(&mut document.devices);
    document
        .devices
        .disks
        .iter_mut()
        .for_each(command::disk::settle_cache);
    volumes::find(driver, &mut document).await?;
    let as_user = file_user_of(&driver.config(), &document)?;
    let uuid = document.uuid.unwrap_or_default();
    let handed = driver
        .groups
        .named_by(uuid, document.devices.disks.iter().rev())?;
    let (document, next_node, missing) = crate::blocking::file("following the chains of images", move || {
        let missing = chain::without_missing(&mut document);
        let next = block::number_guest(&mut document, 1);
        chain::follow_all(&mut document, &as_user, &handed)?;
        let next_node = block::number_found(&mut document, next);
        let next_node = transient::put_on_all(&mut document, next_node);
        live::empty_drives(&mut document);
        block::name_guest(&mut document)?;
        block::number_sets_of_guest(&mut document, 0);
        Ok((document, next_node, missing))
    })
    .await?;
    let short_name = plan::short_name(id, &document.name);
    Ok(Prepared {
        document,
        caps,
        id,
        short_name,
        next_node,
        missing,
        cpu,
        planned: told,
    })
}

/// The command line, with what it says of an image.
fn line_of(
    prepared: &Prepared,
    reserved: &Reserved,
    incoming: Option<&mut Incoming>,
) -> Result<command::CommandLine> {
    let mut line = command::build(&prepared.document, &prepared.caps, &reserved.resources)?;
    if let Some(incoming) = incoming {
        incoming.switches(&mut line);
    }
    Ok(line)
}

/// What a daemon that takes the run over has to know.
fn status(
    driver: &Driver,
    prepared: &Prepared,
    reserved: &Reserved,
    line: &command::CommandLine,
) -> StatusDocument {
    use domxml::status::{BlockJobs, Monitor};
    StatusDocument {
        monitor: Some(Monitor {
            path: reserved.monitor.to_string_lossy().into_owned(),
            kind: Some("unix".to_owned()),
        }),
        qemu_caps: live::capabilities(prepared),
        lib_dir: Some(reserved.resources.dirs.lib.clone()),
        dbus_daemon: message_bus::is_at(&prepared.document, &reserved.resources.dirs.dbus_socket),
        channel_target_dir: Some(reserved.resources.dirs.channel.clone()),
        memory_backing_dir: Some(reserved.resources.dirs.memory.clone()),
        cpu: prepared.cpu.clone(),
        chardev_stdio_logd: log::handler(driver) != StdioHandler::File,
        remember_owner: driver.config().identity.remember_owner,
        nodename: Some(u64::from(prepared.next_node.saturating_sub(1))),
        fdset: Some(u64::from(line.next_fdset())),
        blockjobs: Some(BlockJobs {
            active: false.into(),
            ..BlockJobs::default()
        }),
        agent_timeout: Some(-2),
        ..StatusDocument::default()
    }
}

/// The process is gone before anybody was connected to it.
async fn forget(context: &Context, id: i32) {
    let change = move |view: &mut View| {
        view.run.take_if(|r| r.launched.id == id);
        view.condition = Condition::SHUTOFF_FAILED;
        Ok(Effects::none().event(EventKind::ControlError, None))
    };
    if let Err(error) = context.commit_with(change).await {
        tracing::error!(%error, "a start that failed could not be written down");
    }
}

/// Path of a run's file for the monitor.
fn monitor_path(lib_dir: &str) -> PathBuf {
    PathBuf::from(lib_dir).join("monitor.sock")
}

/// A directory of the run goes with it.
fn undo_dir(undo: &mut Undo, path: &str) {
    let path = PathBuf::from(path);
    undo.push(
        "a directory of the guest",
        crate::blocking::file("removing the guest's directory", move || files::remove_all(&path)),
    );
}
