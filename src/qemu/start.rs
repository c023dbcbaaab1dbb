//! From a command line to a QEMU that answers: monitor socket, launch, handshake.
//!
//! `ops::start` goes through the types in order. The monitor's socket listens before QEMU exists and is handed to it,
//! so connecting never has to wait for QEMU to make it; a QEMU that ends early is seen by its process, at once, and
//! its last words are in the error. A QEMU that did not come up, or whose start was given up, is killed.

use std::future::Future;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use unixfd::{Launch, LaunchError, Stage};

use super::{Events, LogTail, Monitor, Process};
use crate::error::{Area, Error, Result};

/// Mode of the monitor's socket, as libvirt's has it; its directory keeps others out.
const MONITOR_MODE: u32 = 0o775;
/// Permissions that files made by QEMU never get.
const UMASK: u32 = 0o002;
/// How long fork and exec may take, of a binary on a slow disk.
const EXEC_DEADLINE: Duration = Duration::from_secs(30);
/// How long QEMU may take to answer; it may allocate all memory of a large guest first.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// Between the end of a monitor and the end of its process.
const LAST_MOMENT: Duration = Duration::from_millis(300);

/// A QEMU to be. It takes descriptors first, because the command line says their numbers.
#[derive(Debug)]
pub struct Prepared {
    program: PathBuf,
    monitor: PathBuf,
    monitor_fd: RawFd,
    launch: Launch,
    connection: Option<Connection>,
}

/// A socket that QEMU's process connects to before it is QEMU.
#[derive(Debug)]
struct Connection {
    path: PathBuf,
    ours: OwnedFd,
}

/// Whom a QEMU runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, such as `kvm`.
    pub groups: Vec<u32>,
}

/// What else a QEMU starts with.
#[derive(Debug)]
pub struct Start {
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Where its output goes.
    pub output: OwnedFd,
    /// Where that can be read.
    pub log: LogTail,
    /// Whom it runs as; none: as the daemon.
    pub run_as: Option<RunAs>,
    /// What it may use.
    pub limits: confine::Limits,
    /// File that it writes its number to, and locks.
    pub pid_file: PathBuf,
}

/// A process that waits to become QEMU: the time to put it where it belongs. Dropped, it ends.
#[derive(Debug)]
pub struct Held {
    inner: unixfd::Held,
    monitor: PathBuf,
    log: LogTail,
    connection: Option<OwnedFd>,
}

/// A QEMU that answers.
#[derive(Debug)]
pub struct Live {
    /// Its process.
    pub process: Process,
    /// Asks it.
    pub monitor: Monitor,
    /// What it tells.
    pub events: Events,
}

impl Prepared {
    /// Listens at `monitor` for `program`.
    ///
    /// # Errors
    /// When the socket cannot be made, or somebody listens there already.
    pub fn new(program: &Path, monitor: &Path) -> Result<Self> {
        let failed =
            |error| Error::system(format!("cannot make monitor socket {}", monitor.display()), error);
        let listener = unixfd::bind_listener(monitor, MONITOR_MODE, None).map_err(failed)?;
        let mut launch = Launch::new(program, [""; 0]);
        let monitor_fd = launch.inherit(listener.into()).map_err(failed)?;
        Ok(Self {
            program: program.to_owned(),
            monitor: monitor.to_owned(),
            monitor_fd,
            launch,
            connection: None,
        })
    }

    /// The listening socket's number: `-chardev socket,id=charmonitor,fd=NUMBER,server=on,wait=off`.
    #[must_use]
    pub fn monitor_fd(&self) -> RawFd {
        self.monitor_fd
    }

    /// Hands `fd` over; its number in QEMU.
    ///
    /// # Errors
    /// When the daemon is out of descriptors.
    pub fn pass(&mut self, fd: OwnedFd) -> Result<RawFd> {
        self.launch
            .inherit(fd)
            .map_err(|error| Error::system("cannot pass a descriptor to QEMU", error))
    }

    /// Has the process connect to the socket at `path`, within `limit`, before it is QEMU, and keep the connection.
    ///
    /// # Errors
    /// When the daemon is out of descriptors.
    pub fn connect(&mut self, path: &Path, limit: Duration) -> Result<()> {
        let failed = |error| Error::system(format!("cannot make a socket for '{}'", path.display()), error);
        let ours = self.launch.connect(path, limit).map_err(failed)?;
        self.connection = Some(Connection {
            path: path.to_owned(),
            ours,
        });
        Ok(())
    }

    /// Forks; nothing of QEMU runs yet.
    ///
    /// # Errors
    /// When the process cannot be made, or its connection not be opened.
    pub async fn hold(self, start: Start) -> Result<Held> {
        let mut launch = self.launch.args(start.args).output(start.output).umask(UMASK);
        launch = launch.no_new_privileges().pid_file(start.pid_file);
        for (name, value) in start.env {
            launch = launch.env(name, value);
        }
        for (limit, value) in start.limits.iter() {
            launch = launch.limit(limit, value);
        }
        if let Some(RunAs { uid, gid, groups }) = start.run_as {
            launch = launch.identity(uid, gid, groups);
        }
        let (path, connection) = self.connection.map(|c| (c.path, c.ours)).unzip();
        let inner = super::blocking(move || launch.hold())
            .await?
            .map_err(|error| match (error, path) {
                (
                    LaunchError::Failed {
                        stage: Stage::Connect,
                        source,
                        ..
                    },
                    Some(path),
                ) => not_connected(&path, source),
                (other, _) => launch_error(other),
            })?;
        tracing::debug!(pid = inner.pid(), program = %self.program.display(), "process for QEMU made");
        Ok(Held {
            inner,
            monitor: self.monitor,
            log: start.log,
            connection,
        })
    }
}

impl Held {
    /// The number that QEMU will have.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.inner.pid()
    }

    /// Our end of the connection that the process has made; once.
    pub fn take_connection(&mut self) -> Option<OwnedFd> {
        self.connection.take()
    }

    /// Lets QEMU run until it answers, CPUs stopped if its command line says so.
    ///
    /// # Errors
    /// When it cannot be executed, ends, or does not answer; it is gone then.
    pub async fn run(self) -> Result<Live> {
        let Self {
            inner, monitor, log, ..
        } = self;
        let started = super::blocking(move || inner.release(EXEC_DEADLINE))
            .await?
            .map_err(launch_error)?;
        let mut guard = KillUnlessLive {
            process: Process::new(started.pidfd),
            is_live: false,
        };
        match alongside(&guard.process, Monitor::connect(&monitor, ANSWER_DEADLINE)).await {
            Ok((monitor, events)) => {
                guard.is_live = true;
                Ok(Live {
                    process: guard.process.clone(),
                    monitor,
                    events,
                })
            }
            Err(error) => {
                guard.process.kill();
                Err(with_last_words(error, &log).await)
            }
        }
    }
}

impl Live {
    /// Takes up a QEMU that a former daemon started, within `within`.
    ///
    /// # Errors
    /// When it does not answer; it is left as it is.
    pub async fn attach(process: Process, monitor: &Path, within: Duration) -> Result<Self> {
        let (monitor, events) = alongside(&process, Monitor::connect(monitor, within)).await?;
        Ok(Self {
            process,
            monitor,
            events,
        })
    }
}

/// Whoever gives up a start in its midst must not leave a QEMU that nobody knows.
struct KillUnlessLive {
    process: Process,
    is_live: bool,
}

impl Drop for KillUnlessLive {
    fn drop(&mut self) {
        if !self.is_live {
            self.process.kill();
        }
    }
}

/// Waits for `answer` as long as `process` lives.
async fn alongside<T>(process: &Process, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let error = tokio::select! {
        biased;
        answered = answer => match answered {
            Ok(value) => return Ok(value),
            Err(error) => error,
        },
        ended = process.exited() => ended.err().unwrap_or_else(exited),
    };
    // A dying process closes its monitor a moment before it has ended.
    match tokio::time::timeout(LAST_MOMENT, process.exited()).await {
        Ok(Ok(())) => Err(exited()),
        _ => Err(error),
    }
}

fn exited() -> Error {
    Error::internal("process exited while connecting to monitor").because("QEMU_EXITED")
}

async fn with_last_words(mut error: Error, log: &LogTail) -> Error {
    let words = log.read().await;
    if !words.is_empty() {
        error.message = format!("{}: {words}", error.message).into();
    }
    error
}

fn not_connected(path: &Path, source: std::io::Error) -> Error {
    Error::system(
        format!("Failed to connect socket to '{}'", path.display()),
        source,
    )
    .in_area(Area::Rpc)
}

pub(super) fn launch_error(error: LaunchError) -> Error {
    let error = match error {
        LaunchError::Failed {
            program,
            stage,
            source,
        } => Error::system(format!("cannot start {}: {stage}", program.display()), source),
        other => Error::internal(other.to_string()).caused_by(other),
    };
    error.because("QEMU_NOT_STARTED")
}

#[cfg(test)]
mod tests;
