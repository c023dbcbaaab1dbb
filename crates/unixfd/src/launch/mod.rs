//! Starts a program as a child of nobody: it outlives us, and its end is seen by pidfd.
//!
//! Callers describe the program with [`Launch`], get it [`Held`] (forked, waiting, with a pid, so that a
//! cgroup can be made around it), and release it into its exec. Should we die meanwhile, it ends.
//!
//! ```text
//! Launch --hold--> Held --release--> Started
//!    |               |  \--dropped--> gone
//!    \---------------+--> LaunchError { stage, errno }
//! ```
//!
//! The hard thing: between fork and exec of a process with threads only async-signal-safe calls may be
//! made. So everything is laid out in a [`plan::Plan`] before, and `child` runs it without allocating.

mod child;
mod plan;
pub(crate) mod stage;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::pipe2;

use crate::PidFd;
use plan::Plan;
use stage::Stage;

/// A resource that a process may use up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Open descriptors (`RLIMIT_NOFILE`), one more than the highest number.
    OpenFiles,
    /// Locked memory in bytes (`RLIMIT_MEMLOCK`).
    LockedMemory,
    /// Size of a core file in bytes (`RLIMIT_CORE`).
    Core,
    /// Processes and threads of the user (`RLIMIT_NPROC`).
    Processes,
}

/// A program to start, and what it starts with. Absent: no environment, our own identity, no output.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    output: Option<OwnedFd>,
    placed: Vec<(OwnedFd, RawFd)>,
    inherited: Vec<OwnedFd>,
    connections: Vec<(RawFd, UnixAddr)>,
    umask: u32,
    identity: Option<Identity>,
    limits: Vec<(Limit, u64)>,
    no_new_privileges: bool,
    pid_file: Option<PathBuf>,
}

/// Whom a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A system call failed, in the daemon or in the new process.
    #[error("cannot start {program}: {stage}: {source}", program = program.display())]
    Failed {
        /// What was being started.
        program: PathBuf,
        /// What failed.
        stage: Stage,
        /// The system's reason.
        source: io::Error,
    },
    /// The new process ended by itself before its exec (killed, most likely).
    #[error("cannot start {program}: the new process died before it became {program}", program = .0.display())]
    Died(PathBuf),
    /// The new process did not reach its exec in time and was killed.
    #[error("cannot start {program}: not running after {within:?}", program = program.display())]
    Late {
        /// What was being started.
        program: PathBuf,
        /// How long it was given.
        within: Duration,
    },
}

impl Launch {
    /// Starts `program` (an absolute path) with `args` after its name.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            output: None,
            placed: Vec::new(),
            inherited: Vec::new(),
            connections: Vec::new(),
            umask: 0o022,
            identity: None,
            limits: Vec::new(),
            no_new_privileges: false,
            pid_file: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable; the program gets these and no other.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where its output and error output go. Input is always `/dev/null`, and so is output without this.
    #[must_use]
    pub fn output(mut self, fd: OwnedFd) -> Self {
        self.output = Some(fd);
        self
    }

    /// Hands over `fd` as number `number`, which must be 3 or more and not taken twice.
    #[must_use]
    pub fn place(mut self, fd: OwnedFd, number: RawFd) -> Self {
        self.placed.push((fd, number));
        self
    }

    /// Hands over `fd` and tells which number the program will see it as.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn inherit(&mut self, fd: OwnedFd) -> io::Result<RawFd> {
        let fd = above(fd, 3)?;
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        Ok(number)
    }

    /// Has the new process itself connect to the socket at `path` as soon as it is forked: the peer sees its number at
    /// the other end. The program inherits the connection; what is returned is for us to talk over. A peer that is too
    /// busy to take it is waited for up to `within`.
    ///
    /// # Errors
    /// `InvalidInput` when the path is longer than 107 bytes, else what the system calls give.
    pub fn connect(&mut self, path: &Path, within: Duration) -> io::Result<OwnedFd> {
        let address = UnixAddr::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let limit = TimeVal::new(
            i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            i64::from(within.subsec_micros()),
        );
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        let ours = socket.try_clone()?;
        let number = self.inherit(socket)?;
        self.connections.push((number, address));
        Ok(ours)
    }

    /// Permissions that files it makes never get. 022 without this.
    #[must_use]
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = umask;
        self
    }

    /// Runs it as `uid` and `gid` with exactly `groups` besides.
    #[must_use]
    pub fn identity(mut self, uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        self.identity = Some(Identity { uid, gid, groups });
        self
    }

    /// Sets both the soft and the hard limit; `u64::MAX` is none.
    #[must_use]
    pub fn limit(mut self, limit: Limit, value: u64) -> Self {
        self.limits.push((limit, value));
        self
    }

    /// Neither it nor what it executes can gain privileges (`PR_SET_NO_NEW_PRIVS`).
    #[must_use]
    pub fn no_new_privileges(mut self) -> Self {
        self.no_new_privileges = true;
        self
    }

    /// Writes its number and a newline to `path` (mode 644) before exec, under a write lock (`fcntl`) that
    /// it holds as long as it lives.
    #[must_use]
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pid_file = Some(path.into());
        self
    }

    /// Forks; the new process waits for its release. Blocks for as long as forks take.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left running then.
    pub fn hold(self) -> Result<Held, LaunchError> {
        let program = self.program.clone();
        let pid_file = self.pid_file.clone();
        let failed = |stage, source| LaunchError::Failed {
            program: program.clone(),
            stage,
            source,
        };
        let (mut plan, mut report, go) = self.plan().map_err(|error| failed(Stage::Prepare, error))?;
        child::fork_twice(&mut plan).map_err(|error| failed(Stage::Fork, error))?;
        drop(plan);
        let pid = match read_report(&mut report) {
            Ok(Report::Ready(pid)) => pid,
            Ok(Report::Failed(stage, source)) => return Err(failed(stage, source)),
            Ok(Report::End) => return Err(LaunchError::Died(program)),
            Err(error) => return Err(failed(Stage::Prepare, error)),
        };
        // It waits for us, so the number is still its own.
        let pidfd = PidFd::open(pid).map_err(|error| failed(Stage::Watch, error))?;
        Ok(Held {
            program,
            pid_file,
            pidfd,
            report,
            go,
        })
    }

    /// [`hold`](Self::hold) and [`release`](Held::release) in one.
    ///
    /// # Errors
    /// As those.
    pub fn start(self, within: Duration) -> Result<Started, LaunchError> {
        self.hold()?.release(within)
    }

    fn plan(self) -> io::Result<(Plan, File, File)> {
        let null = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(OwnedFd::from)
        };
        let output = self.output.map_or_else(null, Ok)?;
        let error_output = output.try_clone()?;
        let mut placed = vec![(null()?, 0), (output, 1), (error_output, 2)];
        placed.extend(self.placed);
        // Numbers from here on are never a target: what the child needs until its exec lives there.
        let spare = placed
            .iter()
            .map(|&(_, number)| number)
            .max()
            .unwrap_or(2)
            .saturating_add(1);
        let pid_file = match &self.pid_file {
            Some(path) => Some(above(open_pid_file(path)?.into(), spare)?),
            None => None,
        };
        let (report_in, report_out) = pipe2(OFlag::O_CLOEXEC)?;
        let (go_in, go_out) = pipe2(OFlag::O_CLOEXEC)?;
        let mut plan = Plan::new(&self.program, &self.args, &self.env)?;
        plan.descriptors(placed, self.inherited, spare)?;
        plan.connections = self.connections;
        plan.pipes(above(report_out, spare)?, above(go_in, spare)?);
        plan.pid_file = pid_file;
        plan.umask = self.umask;
        plan.identity = self.identity.map(|id| (id.uid, id.gid, id.groups));
        plan.limits = self.limits;
        plan.no_new_privileges = self.no_new_privileges;
        plan.find_gaps();
        Ok((plan, report_in.into(), go_out.into()))
    }
}

/// A process that waits to become its program. Dropped, it ends without having run anything.
#[derive(Debug)]
pub struct Held {
    program: PathBuf,
    pid_file: Option<PathBuf>,
    pidfd: PidFd,
    report: File,
    go: File,
}

/// A program that runs.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub pidfd: PidFd,
}

impl Held {
    /// The process's number: the one that the program will have.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pidfd.pid()
    }

    /// Lets it go, and returns when the program has replaced it. Blocks up to `within`.
    ///
    /// The program may have ended by then: watch the pidfd.
    ///
    /// # Errors
    /// [`LaunchError`]; the process is gone then, and so is its pid file.
    pub fn release(mut self, within: Duration) -> Result<Started, LaunchError> {
        match self.exec(within) {
            Ok(()) => Ok(Started { pidfd: self.pidfd }),
            Err(error) => {
                // It may hold on (Late), or be on its way out: either way it must not run any more.
                let _gone_already = self.pidfd.send_signal(Signal::SIGKILL);
                self.remove_pid_file(&error);
                Err(error)
            }
        }
    }

    fn exec(&mut self, within: Duration) -> Result<(), LaunchError> {
        let end = Instant::now() + within;
        let failed = |stage, source| failure(&self.program, stage, source);
        // One that has died does not read: its end shows on the report pipe.
        let _has_died = self.go.write_all(&[1]);
        let mut is_set_up = false;
        loop {
            let readable = wait_readable(&self.report, end);
            if !readable.map_err(|error| failed(Stage::Watch, error))? {
                let program = self.program.clone();
                return Err(LaunchError::Late { program, within });
            }
            match read_report(&mut self.report).map_err(|error| failed(Stage::Watch, error))? {
                Report::Ready(_) => is_set_up = true,
                Report::Failed(stage, source) => return Err(failed(stage, source)),
                Report::End if is_set_up => return Ok(()),
                Report::End => return Err(LaunchError::Died(self.program.clone())),
            }
        }
    }

    /// A pid file that is another's stays.
    fn remove_pid_file(&self, error: &LaunchError) {
        let anothers = matches!(
            error,
            LaunchError::Failed {
                stage: Stage::PidFile,
                ..
            }
        );
        if let (Some(path), false) = (&self.pid_file, anothers) {
            let _best_effort = fs::remove_file(path);
        }
    }
}

fn failure(program: &Path, stage: Stage, source: io::Error) -> LaunchError {
    let program = program.to_owned();
    LaunchError::Failed {
        program,
        stage,
        source,
    }
}

/// What the new process says over its pipe: [`Report::SIZE`] bytes, two native `i32`. It is ready twice: to be
/// released, and to exec; then the pipe closes, or tells why not.
enum Report {
    Ready(i32),
    Failed(Stage, io::Error),
    End,
}

impl Report {
    const SIZE: usize = 8;
}

fn read_report(pipe: &mut File) -> io::Result<Report> {
    let mut bytes = [0; Report::SIZE];
    match pipe.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Report::End),
        other => other?,
    }
    let [a, b, c, d, e, f, g, h] = bytes;
    let (code, value) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
    match Stage::from_code(code) {
        None => Ok(Report::Ready(value)),
        Some(stage) => Ok(Report::Failed(stage, io::Error::from_raw_os_error(value))),
    }
}

fn wait_readable(pipe: &File, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(ready) if ready > 0 || left.is_zero() => return Ok(ready > 0),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `fd` itself if its number is at least `lowest`, else a copy that is.
fn above(fd: OwnedFd, lowest: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= lowest {
        return Ok(fd);
    }
    let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    Ok(plan::own(number))
}

/// Not truncated here: it may be locked by a living program.
fn open_pid_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests;
