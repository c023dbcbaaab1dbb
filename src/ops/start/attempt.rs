//! One attempt to start a guest: the stages that follow on each other.

use std::{path::PathBuf, sync::Arc};

use domxml::StatusDocument;
use qemu_plan::command;

use super::{
    How, cpu, live,
    prepare::prepare,
    reserve::{self, Reserved},
    restore::Incoming,
    threads,
};
use crate::{
    config::StdioHandler,
    domain::{Condition, Document, Effects, Launched, Run, Seen, Stored, View},
    error::{Error, Result},
    events::model::EventKind,
    hooks::{Operation as Call, Script},
    ops::{
        Driver,
        document::prepared::Prepared,
        graph,
        holdings::{cgroup, helper::message_bus, log, net::traffic, storage::lease},
        host::{files, identity::Identity},
        operation::{Context, undo::Undo},
        run::{cause, cpus, guest::Guest, hooks, perf, react, stop},
        supervise,
        tuning::enclose,
    },
    qemu::{Held, Live, LogTail, Start},
};

/// A process that waits to become QEMU, and what the host counts of it.
struct Waiting {
    held: Held,
    perf: perf::Counters,
}

/// One attempt to start a guest.
pub(super) struct Attempt<'a> {
    pub(super) driver: &'a Arc<Driver>,
    pub(super) context: &'a Context,
    /// The stored configuration that the run begins with.
    pub(super) config: Option<Arc<Stored>>,
    pub(super) how: How,
}

impl Attempt<'_> {
    pub(super) async fn stages(
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
