//! Programs that a guest needs beside QEMU: run to their end, or as long as the guest runs.
//!
//! They are children of nobody, as QEMU is: a daemon that ends does not end them, and nobody has to reap them.

use std::fs::File;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};
use unixfd::{Launch, PidFd};

use super::start::launch_error;
use super::{Process, RunAs, log};
use crate::error::{Error, Result};

/// How long fork and exec may take, of a binary on a slow disk.
const EXEC_DEADLINE: Duration = Duration::from_secs(30);
/// Most of what a helper says that is kept, in bytes.
const WORDS: u64 = 1024;
/// Runs the program after its name and tells how it ended. A child of nobody has no other way.
const TELL_END: &str = "\"$@\" 3>&-; echo $? >&3";
/// The descriptor that it tells it through: shells know those of one digit only.
const TELL: RawFd = 3;
/// What the daemon was handed over is not for others.
// table
const OWN_VARIABLES: &[&str] = &[
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// A helper to be. It takes descriptors first, because its command line says their numbers.
#[derive(Debug)]
pub struct Helper {
    program: PathBuf,
    run_as: Option<RunAs>,
    passed: Vec<OwnedFd>,
    output: Option<File>,
}

/// How a helper ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; none if it was killed.
    pub status: Option<i32>,
    /// The end of what it said.
    pub words: String,
}

impl Helper {
    /// `program`, an absolute path, run by that user, or as the daemon.
    #[must_use]
    pub fn new(program: &Path, run_as: Option<RunAs>) -> Self {
        Self {
            program: program.to_owned(),
            run_as,
            passed: Vec::new(),
            output: None,
        }
    }

    /// What it says goes there, if it is started to run as long as its guest.
    #[must_use]
    pub fn output(mut self, file: File) -> Self {
        self.output = Some(file);
        self
    }

    /// Hands `fd` over; its number in the helper.
    #[must_use]
    pub fn pass(&mut self, fd: OwnedFd) -> RawFd {
        use std::os::fd::AsRawFd;
        let number = fd.as_raw_fd();
        self.passed.push(fd);
        number
    }

    /// Starts it. Its number is in `pid_file` before it runs.
    ///
    /// # Errors
    /// When it can't be executed.
    pub async fn start(self, args: Vec<String>, pid_file: &Path) -> Result<Process> {
        let mut launch = Launch::new(&self.program, args).pid_file(pid_file);
        if let Some(output) = self.output {
            launch = launch.output(output.into());
        }
        let launch = prepare(launch, self.run_as, self.passed)?;
        let started = super::blocking(move || launch.start(EXEC_DEADLINE))
            .await?
            .map_err(launch_error)?;
        Ok(Process::new(started.pidfd))
    }

    /// Runs it to its end; after `within` it is killed, with all that it started.
    ///
    /// # Errors
    /// When it can't be executed or does not end in time.
    pub async fn run(self, args: Vec<String>, within: Duration) -> Result<Ended> {
        let Self {
            program,
            run_as,
            passed,
            output: _,
        } = self;
        let failed = |error| Error::system(format!("cannot start {}", program.display()), error);
        let output = unixfd::memfd("helper-output").map_err(failed)?;
        let (tell, told) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map(|(read, write)| (write, read))
            .map_err(|e| failed(e.into()))?;
        let launch =
            Launch::new("/bin/sh", ["-c", TELL_END, "sh"]).output(output.try_clone().map_err(failed)?.into());
        let launch = launch.place(tell, TELL).args([program.as_os_str()]).args(args);
        let launch = prepare(launch, run_as, passed)?;
        let started = super::blocking(move || launch.start(EXEC_DEADLINE))
            .await?
            .map_err(launch_error)?;
        let guard = KillGroup(started.pidfd);
        if tokio::time::timeout(within, guard.0.exited()).await.is_err() {
            let message = format!("{} did not end within {} s", program.display(), within.as_secs());
            return Err(Error::internal(message).because("HELPER_DOES_NOT_END"));
        }
        super::blocking(move || Ended {
            status: status(told),
            words: last_words(output),
        })
        .await
    }
}

/// Whoever gives up a helper must not leave it, nor what it has started: those are a group of their own.
struct KillGroup(PidFd);

impl Drop for KillGroup {
    fn drop(&mut self) {
        kill_group(&self.0);
    }
}

/// Kills a process that is a helper of ours, with all that it started.
pub(super) fn kill_group(process: &PidFd) {
    let group = getpgid(Some(Pid::from_raw(process.pid())));
    // It is alive after its group was read: so the group is its own, and stays it until it is killed.
    if let (Ok(group), false) = (group, process.has_exited())
        && group != getpgrp()
    {
        let _gone_already = killpg(group, Signal::SIGKILL);
    }
}

fn prepare(mut launch: Launch, run_as: Option<RunAs>, passed: Vec<OwnedFd>) -> Result<Launch> {
    for fd in passed {
        launch
            .inherit(fd)
            .map_err(|error| Error::system("cannot pass a descriptor to a helper", error))?;
    }
    for (name, value) in std::env::vars_os().filter(|(name, _)| !OWN_VARIABLES.iter().any(|own| name == own))
    {
        launch = launch.env(name, value);
    }
    if let Some(RunAs { uid, gid, groups }) = run_as {
        launch = launch.identity(uid, gid, groups);
    }
    Ok(launch)
}

/// What the wrapper told; all its writers have ended, or will not write.
fn status(told: OwnedFd) -> Option<i32> {
    let file = File::from(told);
    nix::fcntl::fcntl(
        &file,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )
    .ok()?;
    let mut buffer = [0; 16];
    let length = (&file).read(&mut buffer).ok()?;
    std::str::from_utf8(&buffer[..length]).ok()?.trim().parse().ok()
}

fn last_words(output: File) -> String {
    use std::os::unix::fs::FileExt;
    let length = output.metadata().map_or(0, |meta| meta.len());
    let from = length.saturating_sub(WORDS);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    let read = output.read_at(&mut bytes, from).unwrap_or(0);
    bytes.truncate(read);
    log::last_words(&bytes, from > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use super::*;

    fn script(text: &str) -> Vec<String> {
        vec!["-c".to_owned(), text.to_owned()]
    }

    #[tokio::test]
    async fn a_helper_says_how_it_ended_and_why() {
        let mut helper = Helper::new(Path::new("/bin/sh"), None);
        let fd = helper.pass(unixfd::sealed_memfd("secret", b"passed").unwrap().into());
        let ended = helper
            .run(
                script(&format!("cat /dev/fd/{fd}; echo; echo why >&2; exit 3")),
                Duration::from_secs(20),
            )
            .await
            .unwrap();
        assert_eq!((ended.status, ended.words.as_str()), (Some(3), "passed\nwhy"));
        let ended = Helper::new(Path::new("/bin/sh"), None)
            .run(script("kill -KILL $PPID"), Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(ended.status, None);
        let ended = Helper::new(Path::new("/nonexistent"), None)
            .run(Vec::new(), Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(ended.status, Some(127));
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let begun = Instant::now();
        let text = format!("sleep 60 & echo $! >{}; wait", file.display());
        let error = Helper::new(Path::new("/bin/sh"), None)
            .run(script(&text), Duration::from_millis(500))
            .await
            .unwrap_err();
        assert!(error.message.contains("did not end within"), "{}", error.message);
        assert!(begun.elapsed() < Duration::from_secs(20));
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        if let Ok(child) = PidFd::open(pid) {
            tokio::time::timeout(Duration::from_secs(10), child.exited())
                .await
                .unwrap()
                .unwrap();
        }
    }

    #[test]
    fn only_the_end_of_what_it_said_is_kept() {
        let mut output = unixfd::memfd("test").unwrap();
        output.write_all("x".repeat(5000).as_bytes()).unwrap();
        output.write_all(b"\nlast\n").unwrap();
        assert_eq!(last_words(output), "last");
    }
}
