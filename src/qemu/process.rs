//! A guest's process, held by pidfd: seen when it ends, stopped without hitting another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::time::timeout;
use unixfd::PidFd;

use crate::error::{Code, Error, Result};

/// How long QEMU may take to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end it after SIGKILL; more only when it hangs in a device.
const KILL: Duration = Duration::from_secs(30);

/// How to stop a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ask, and give up when it does not end by itself.
    Gracefully,
    /// Ask, then kill.
    Surely,
    /// Kill at once.
    Now,
}

/// A guest's process; clones are the same one.
#[derive(Debug, Clone)]
pub struct Process {
    pidfd: Arc<PidFd>,
}

impl Process {
    pub(super) fn new(pidfd: PidFd) -> Self {
        Self {
            pidfd: Arc::new(pidfd),
        }
    }

    /// The process `pid` that a former daemon started for the guest `name`, if it still lives.
    ///
    /// Its own lock on its `pid_file` proves who it is; where that file is gone, its command line must name the
    /// guest. A number that belongs to another by now is nobody.
    ///
    /// # Errors
    /// When the process cannot be looked at, which does not mean that it is gone.
    pub fn find(pid_file: &Path, pid: i32, name: &str) -> Result<Option<Self>> {
        let failed = |error| Error::system(format!("cannot look at process {pid} of guest '{name}'"), error);
        let is_it = match unixfd::lock_holder(pid_file) {
            Ok(holder) => holder == Some(pid),
            Err(error) if error.kind() == io::ErrorKind::NotFound => runs_guest(pid, name),
            Err(error) => return Err(failed(error)),
        };
        if !is_it {
            return Ok(None);
        }
        match PidFd::open(pid) {
            Ok(pidfd) => Ok(Some(Self::new(pidfd))),
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// The helper that a former daemon, or this one, started: the process whose number is in `pid_file`, if one of its
    /// arguments is `argument`, which no other process has.
    #[must_use]
    pub fn find_helper(pid_file: &Path, argument: &str) -> Option<Self> {
        let pid = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        let pidfd = PidFd::open(pid).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let is_it = line
            .split(|&byte| byte == 0)
            .any(|arg| arg == argument.as_bytes());
        // Alive after its arguments were read: so they were its own.
        (is_it && !pidfd.has_exited()).then(|| Self::new(pidfd))
    }

    /// The helper that holds the lock on `pid_file`, which nobody else can have.
    #[must_use]
    pub fn find_locker(pid_file: &Path) -> Option<Self> {
        let locker = || unixfd::lock_holder(pid_file).ok().flatten();
        let pidfd = PidFd::open(locker()?).ok()?;
        // It holds it after it was opened: so it is the one.
        (locker() == Some(pidfd.pid())).then(|| Self::new(pidfd))
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pidfd.pid()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        self.pidfd.has_exited()
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// When the daemon is out of descriptors.
    pub async fn exited(&self) -> Result<()> {
        let failed = |error| Error::system(format!("cannot watch process {}", self.pid()), error);
        self.pidfd.exited().await.map_err(failed)
    }

    /// Ends it, and returns when it has ended.
    ///
    /// # Errors
    /// When it does not end in time: 10 s after being asked, 30 s after being killed.
    pub async fn stop(&self, how: Stop) -> Result<()> {
        let asked = how != Stop::Now;
        if asked && self.signal_and_wait(Signal::SIGTERM, GRACE).await? {
            return Ok(());
        }
        if how != Stop::Gracefully && self.signal_and_wait(Signal::SIGKILL, KILL).await? {
            return Ok(());
        }
        let signal = if how == Stop::Gracefully {
            "SIGTERM"
        } else {
            "SIGKILL"
        };
        let message = format!(
            "Failed to terminate process {} with {signal}: Device or resource busy",
            self.pid()
        );
        Err(Error::new(Code::System, message).because("PROCESS_DOES_NOT_END"))
    }

    /// Kills it without waiting.
    pub fn kill(&self) {
        let _gone_already = self.pidfd.send_signal(Signal::SIGKILL);
    }

    /// Kills it with all that it started, without waiting.
    pub fn kill_group(&self) {
        super::helper::kill_group(&self.pidfd);
    }

    async fn signal_and_wait(&self, signal: Signal, within: Duration) -> Result<bool> {
        match self.pidfd.send_signal(signal) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(true),
            Err(error) => {
                return Err(Error::system(
                    format!("cannot signal process {}", self.pid()),
                    error,
                ));
            }
            Ok(()) => {}
        }
        match timeout(within, self.exited()).await {
            Ok(ended) => ended.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

/// Whether the command line of `pid` says `-name guest=NAME`.
fn runs_guest(pid: i32, name: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = format!("guest={name}");
    let mut args = line.split(|&byte| byte == 0);
    args.any(|arg| {
        arg.strip_prefix(wanted.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b',')
    })
}

#[cfg(test)]
mod tests {
    use unixfd::Launch;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_process_is_found_by_its_lock_and_not_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("demo.pid");
        let launch = Launch::new("/bin/sleep", ["60"]).pid_file(&pid_file);
        let own = Process::new(launch.start(SOON).unwrap().pidfd);
        let found = |pid| Process::find(&pid_file, pid, "demo").unwrap();
        assert_eq!(found(own.pid()).unwrap().pid(), own.pid());
        assert!(
            found(std::process::id() as i32).is_none(),
            "alive, but not the guest's"
        );
        own.stop(Stop::Surely).await.unwrap();
        assert!(found(own.pid()).is_none());
    }

    #[tokio::test]
    async fn without_a_pid_file_the_command_line_must_name_the_guest() {
        let none = Path::new("/nonexistent/demo.pid");
        let args = ["-c", "kill -STOP $$", "-name", "guest=demo,debug-threads=on"];
        let own = Process::new(Launch::new("/bin/sh", args).start(SOON).unwrap().pidfd);
        assert!(Process::find(none, own.pid(), "demo").unwrap().is_some());
        assert!(Process::find(none, own.pid(), "dem").unwrap().is_none());
        own.stop(Stop::Now).await.unwrap();
    }

    #[tokio::test]
    async fn stopping_what_has_ended_is_no_error() {
        let own = Process::new(Launch::new("/bin/true", [""; 0]).start(SOON).unwrap().pidfd);
        own.exited().await.unwrap();
        for how in [Stop::Gracefully, Stop::Surely, Stop::Now] {
            own.stop(how).await.unwrap();
        }
    }
}
