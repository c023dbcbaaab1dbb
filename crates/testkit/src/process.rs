//! Processes that a test started, directly or through a daemon, and how they are seen to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_until;

/// Whether a process lives. One that ended but was not yet reaped counts as ended.
pub fn alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // "PID (NAME) STATE ...", where the name may hold anything
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: i32, signal: Signal) {
    // the only other failure is a lack of permission, which a test's next step shows
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Kills a process and waits until it is gone.
///
/// # Errors
/// When it is still there after ten seconds.
pub fn kill_and_wait(pid: i32) -> anyhow::Result<()> {
    signal(pid, Signal::SIGKILL);
    wait_until(&format!("end of process {pid}"), Duration::from_secs(10), || {
        !alive(pid)
    })
}

/// The mount namespace of a process, as the kernel names it.
pub fn mount_namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

/// All processes for which `wanted` holds.
pub fn find(mut wanted: impl FnMut(i32) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| wanted(*pid))
        .collect()
}

/// The process that a pid file names, if it lives and its command begins with `command`.
pub fn from_pid_file(file: &Path, command: &str) -> Option<i32> {
    let pid: i32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.starts_with(command) && alive(pid)).then_some(pid)
}
