//! `--daemon`: the daemon in the background, without a terminal.
//!
//! The process that the user started runs the program again, without `-d`, in a session of its own and
//! waits for its word. So it ends with the right status: 0 once the sockets are there, 1 with the
//! reason on standard error when they could not be had. Forking after the start would lose the locks.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdout, setsid};

const READY: &[u8] = b"ready\n";
const DETACHED: &str = "--detached";

/// Runs the daemon in the background; whether it got ready.
///
/// # Errors
/// When the program cannot be run again.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> io::Result<bool> {
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut child = Command::new(program)
        .arg0("virtqemud")
        .args(arguments)
        .arg(DETACHED)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut word = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(READY.len() as u64).read_to_end(&mut word)?;
    }
    if word == READY {
        return Ok(true);
    }
    child.wait().map(|_| false)
}

/// In the background's process: leaves the terminal's session.
///
/// # Errors
/// When the process leads a session already, as nobody but [`start`] starts it.
pub fn detach() -> io::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")
}

/// In the background's process: tells [`start`], and lets go of the terminal.
///
/// # Errors
/// When there is no `/dev/null`.
pub(super) fn ready() -> io::Result<()> {
    let mut stdout = io::stdout();
    let told = stdout.write_all(READY).and_then(|()| stdout.flush());
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // Whoever waited may be gone; the daemon runs on.
    told.or(Ok(()))
}
