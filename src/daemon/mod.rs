//! The process: its lock, sockets, signals, fronts and end.
//!
//! ```text
//! prepared ── sockets bound or adopted ── READY ── service made ── serving ─┬─ SIGHUP: reload
//!                                                                           ├─ watchdog
//!                                                                           └─ SIGTERM, idle ── draining ── ended
//! ```
//!
//! `main` prepares a [`Daemon`] and runs it. Readiness waits for nothing slow: clients that connect before
//! the service is made wait in the sockets' queues. The hard thing is the end: nobody new is let in,
//! calls under way are answered, guests are left alone, and all of it within a deadline.

mod authority;
mod background;
mod fronts;
mod grpc;
mod idle;
mod lock;
mod notify;
mod reload;
mod sockets;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::{self, DaemonConfig, QemuConfig};
use crate::hooks::{Hooks, Operation};
use crate::logging;
use crate::options::Options;
use crate::paths::{Paths, Scope};

pub use background::{detach, start as start_in_background};
pub(crate) use fronts::neighbours;
pub use grpc::Service;
pub use lock::LockError;
pub use reload::Configuration;
pub use sockets::SocketError;

use fronts::Fronts;
use idle::Idle;
use lock::LockFile;
use sockets::Sockets;

/// How long calls under way may take once the daemon stops.
const DRAIN: Duration = Duration::from_secs(10);

/// A clock's pace that never comes to anything.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// A daemon that holds its lock and its sockets, and serves nobody yet.
#[derive(Debug)]
pub struct Daemon {
    options: Options,
    paths: Arc<Paths>,
    configuration: Configuration,
    sockets: Sockets,
    locks: Locks,
    signals: Signals,
}

/// What the service is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where everything lies.
    pub paths: Arc<Paths>,
    /// virtqemud.conf.
    pub daemon: watch::Receiver<Arc<DaemonConfig>>,
    /// qemu.conf.
    pub qemu: watch::Receiver<Arc<QemuConfig>>,
    /// What the administrator sees and sets.
    pub admin: Arc<Admin>,
    /// Scripts of the administrator.
    pub hooks: Arc<Hooks>,
    /// Cancelled when the daemon stops: long streams should end then.
    pub stop: CancellationToken,
}

/// What the daemon serves, made from a [`Setup`].
pub struct Work {
    /// Answers every call, of either front.
    pub service: Service,
    /// Its calls from within the process.
    pub calls: Arc<dyn compat::Unary>,
    /// How many guests run: they keep a daemon with `--timeout` alive.
    pub running_guests: Box<dyn Fn() -> usize + Send + Sync>,
    /// Ends when all operations under way have ended; polled once the daemon stops.
    pub finished: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configuration file is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Another daemon runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The sockets cannot be had.
    #[error(transparent)]
    Sockets(#[from] SocketError),
    /// Settings of the log make no sense.
    #[error(transparent)]
    LogPlan(#[from] logging::PlanError),
    /// A system call failed.
    #[error("{what}: {reason}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        reason: io::Error,
    },
}

/// Files that keep a second daemon out.
#[derive(Debug)]
struct Locks {
    driver: LockFile,
    pid: Option<LockFile>,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stop,
    Reload,
}

/// The signals that the daemon heeds.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    /// Files are to be read again and are not yet: who heeds this may be cut off in between.
    reload_due: bool,
}

impl Daemon {
    /// Reads the configuration, sets the log up, takes the locks and the sockets. Call it within the
    /// runtime: signals are heeded before there is anything that a client could see.
    ///
    /// # Errors
    /// When anything of it is not to be had; nothing is left behind then.
    pub fn prepare(options: Options, log: logging::Handle) -> Result<Self, StartError> {
        let paths = Arc::new(Paths::of_process(options.root.as_deref()));
        let around = surroundings(&options, &paths);
        let configuration = Configuration::load(options.config.as_deref(), &paths, around, log)?;
        if options.detached {
            detach().map_err(|reason| StartError::Io {
                what: "cannot leave the terminal",
                reason,
            })?;
        }
        raise_file_limit();
        let signals = Signals::new().map_err(|reason| StartError::Io {
            what: "cannot heed signals",
            reason,
        })?;
        let locks = Locks::take(options.pid_file.as_deref(), &paths)?;
        match Sockets::open(&configuration.daemon(), &paths) {
            Ok(sockets) => Ok(Self {
                options,
                paths,
                configuration,
                sockets,
                locks,
                signals,
            }),
            Err(error) => {
                locks.release();
                Err(error.into())
            }
        }
    }

    /// Serves until told to stop. `make` makes the service, after systemd was told that the daemon is ready.
    ///
    /// # Errors
    /// When the runtime fails, or `make` does.
    pub async fn run<M, F>(self, make: M) -> anyhow::Result<()>
    where
        M: FnOnce(Setup) -> F,
        F: Future<Output = anyhow::Result<Work>>,
    {
        let Self {
            options,
            paths,
            mut configuration,
            sockets,
            locks,
            mut signals,
        } = self;
        let bound = sockets.bound().to_vec();
        notify::ready();
        if options.detached {
            background::ready()?;
        }
        if let Some(interval) = notify::watchdog_interval() {
            tokio::spawn(keep_watchdog(interval));
        }
        let beginnings = fronts::beginnings(&configuration.daemon());
        let admin = Admin::new(beginnings, configuration.log(), options.idle_limit());
        let setup = Setup {
            hooks: Arc::new(Hooks::new(paths.hooks.clone())),
            paths,
            admin: Arc::new(admin),
            daemon: configuration.watch_daemon(),
            qemu: configuration.watch_qemu(),
            stop: CancellationToken::new(),
        };
        let making = async {
            setup.hooks.tell_daemon(Operation::DaemonStart).await;
            make(setup.clone()).await
        };
        let made = tokio::select! {
            made = making => made.map(Some),
            () = heed(&mut signals, (&mut configuration, &setup.hooks), (&*setup.admin, || 1)) => Ok(None),
        };
        let ended = match made {
            Ok(Some(work)) => serve(work, setup, sockets, (&mut signals, &mut configuration)).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        Sockets::remove(&bound);
        locks.release();
        ended
    }
}

impl Locks {
    /// The lock on the guests' state is what counts: whoever has it is alone with them. The usual PID file may
    /// be held by a daemon of another container that shares /run; one that was asked for must be had.
    fn take(asked: Option<&Path>, paths: &Paths) -> Result<Self, LockError> {
        let driver = LockFile::acquire(&paths.driver_lock())?;
        let pid = match (
            asked,
            LockFile::acquire(&absolute(asked.unwrap_or(&paths.pid_file))),
        ) {
            (_, Ok(pid)) => Some(pid),
            (None, Err(error @ LockError::Held { .. })) => {
                tracing::warn!(%error, "no PID file");
                None
            }
            (_, Err(error)) => return Err(error),
        };
        Ok(Self { driver, pid })
    }

    /// Removes the PID file; the other one stays, as libvirt's does.
    fn release(self) {
        if let Some(pid) = self.pid {
            pid.remove();
        }
        drop(self.driver);
    }
}

/// Every client and every guest takes descriptors: use as many as the administrator allows.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn surroundings(options: &Options, paths: &Paths) -> logging::Surroundings {
    let process = logging::Surroundings::of_process();
    logging::Surroundings {
        verbose: options.verbose,
        background: options.detached,
        syslog: process.syslog && paths.scope == Scope::System,
        log_file: paths.daemon_log.clone(),
        ..process
    }
}

async fn serve(
    work: Work,
    setup: Setup,
    sockets: Sockets,
    (signals, configuration): (&mut Signals, &mut Configuration),
) -> anyhow::Result<()> {
    let fronts = Fronts::start(&work, &setup, sockets.all)?;
    let clients = fronts.counter();
    let users = || clients() + (work.running_guests)();
    heed(signals, (configuration, &setup.hooks), (&*setup.admin, users)).await;
    tracing::info!("stopping; guests go on");
    notify::stopping();
    setup.stop.cancel();
    let drained = async {
        fronts.ended.await;
        work.finished.await;
    };
    tokio::select! {
        result = tokio::time::timeout(DRAIN, drained) => if result.is_err() {
            tracing::warn!(seconds = DRAIN.as_secs(), "calls under way did not end in time");
        },
        () = signals.stop() => {
            tracing::warn!("told twice to stop: ending at once");
            return Ok(());
        }
    }
    tokio::select! {
        () = setup.hooks.tell_daemon(Operation::DaemonShutdown) => {}
        () = signals.stop() => {}
    }
    Ok(())
}

/// Does what signals, the administrator and the clock ask for, until the daemon is to stop. `users` counts those who need
/// it.
async fn heed(
    signals: &mut Signals,
    (configuration, hooks): (&mut Configuration, &Hooks),
    (admin, users): (&Admin, impl Fn() -> usize),
) {
    let mut limit = admin.idle();
    let mut idle = limit.borrow_and_update().map(Idle::new);
    let pace = |idle: Option<&Idle>| tokio::time::interval(idle.map_or(NEVER, Idle::pace));
    let mut clock = pace(idle.as_ref());
    loop {
        tokio::select! {
            wish = signals.next() => match wish {
                Wish::Stop => return,
                Wish::Reload => {
                    notify::reloading();
                    tokio::select! {
                        () = hooks.tell_daemon(Operation::DaemonReload) => {}
                        () = signals.stop() => return,
                    }
                    configuration.reload();
                    signals.reloaded();
                    notify::ready();
                }
            },
            () = admin.stopped() => return,
            Ok(()) = limit.changed() => {
                idle = limit.borrow_and_update().map(Idle::new);
                clock = pace(idle.as_ref());
            }
            _ = clock.tick() => if idle.as_mut().is_some_and(|idle| idle.over(users(), Instant::now())) {
                tracing::info!("no client and no running guest for long enough");
                return;
            },
        }
    }
}

/// Tells systemd that tasks are still run; on the runtime, so that a runtime that hangs is found out.
async fn keep_watchdog(interval: Duration) {
    let mut clock = tokio::time::interval(interval);
    loop {
        clock.tick().await;
        notify::alive();
    }
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            reload_due: false,
        })
    }

    /// Waits for what is asked for next. A reload is asked for until it is [`Self::reloaded`].
    async fn next(&mut self) -> Wish {
        if self.reload_due {
            return Wish::Reload;
        }
        tokio::select! {
            () = stopped(&mut self.terminate, &mut self.interrupt, &mut self.quit) => Wish::Stop,
            _ = self.hangup.recv() => {
                self.reload_due = true;
                Wish::Reload
            }
        }
    }

    /// The files were read again.
    fn reloaded(&mut self) {
        self.reload_due = false;
    }

    /// Waits for a signal that ends the daemon; others wait.
    async fn stop(&mut self) {
        stopped(&mut self.terminate, &mut self.interrupt, &mut self.quit).await;
    }
}

/// Waits for one of the signals that end the daemon.
async fn stopped(terminate: &mut Signal, interrupt: &mut Signal, quit: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = quit.recv() => {}
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who heeds signals while the service is made is cut off as soon as it is.
    #[tokio::test]
    async fn a_reload_is_asked_for_until_it_is_done() {
        let mut signals = Signals::new().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
        assert_eq!(signals.next().await, Wish::Reload);
        assert_eq!(signals.next().await, Wish::Reload);
        signals.reloaded();
        let patience = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, signals.next()).await.is_err());
    }
}
