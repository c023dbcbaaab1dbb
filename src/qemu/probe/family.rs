//! The processes of one probe: those that were started, and whatever those started.
//!
//! A binary may be a script that leaves something behind, in a process group or session of its own even. So the group
//! is killed, and then every process that has the probe's mark in its environment. Only one that wipes its environment
//! on purpose gets away, and it runs as QEMU's user.

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use unixfd::PidFd;
use uuid::Uuid;

use crate::error::Result;
use crate::qemu::{Process, Stop};

/// The variable that holds the mark.
pub(super) const VARIABLE: &str = "VIRTQEMUD_PROBE";
/// How often processes are looked for that are made while others are killed.
const ROUNDS: usize = 20;
/// Most that is read of an environment, bytes.
const ENVIRONMENT: u64 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Family {
    mark: String,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    started: Vec<Member>,
    /// Whoever comes now is killed.
    is_over: bool,
}

/// A process that was started, and its group.
#[derive(Debug, Clone)]
struct Member {
    process: Process,
    group: Option<Pid>,
}

impl Family {
    pub(super) fn new() -> Self {
        Self {
            mark: Uuid::new_v4().to_string(),
            members: Mutex::default(),
        }
    }

    /// The value of [`VARIABLE`] that shows whose a process is.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// Takes in a process that was started, and its group if that is known.
    pub(super) fn add(&self, process: Process, group: Option<Pid>) {
        let member = Member { process, group };
        let mut members = self.lock();
        if members.is_over {
            member.kill();
        }
        members.started.push(member);
    }

    /// Kills what was started and its groups, without waiting; what is started after this, too.
    pub(super) fn kill(&self) {
        let mut members = self.lock();
        members.is_over = true;
        members.started.iter().for_each(Member::kill);
    }

    /// Kills all, and returns when those that were started have ended and no other is found.
    ///
    /// # Errors
    /// When one does not end in time.
    pub(super) async fn end(self: Arc<Self>) -> Result<()> {
        self.kill();
        let started = self.lock().started.clone();
        for member in started {
            member.process.stop(Stop::Now).await?;
        }
        super::super::blocking(move || end_marked(&self.mark)).await
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn kill(&self) {
        self.process.kill();
        // The leader of the group ended before it was handed to us. While anyone is in the group, its number is given
        // to no process: is there one, then the group is empty and the number another's.
        if let Some(group) = self.group.filter(|group| kill(*group, None) == Err(Errno::ESRCH)) {
            let _none_left = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Kills what has the mark, until nothing is found.
fn end_marked(mark: &str) {
    for _ in 0..ROUNDS {
        let mut found = false;
        for pid in processes().filter(|pid| is_marked(*pid, mark)) {
            // By descriptor, and looked at again: a number may be another's by now.
            let Ok(process) = PidFd::open(pid) else { continue };
            if is_marked(pid, mark) {
                tracing::warn!(pid, "ending what a QEMU binary left behind when it was probed");
                found |= process.send_signal(Signal::SIGKILL).is_ok();
            }
        }
        if !found {
            return;
        }
    }
    tracing::error!("a QEMU binary leaves processes behind faster than they can be ended");
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_marked(pid: i32, mark: &str) -> bool {
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRONMENT).read_to_end(&mut environment));
    let wanted = format!("{VARIABLE}={mark}");
    read.is_ok()
        && environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
}
