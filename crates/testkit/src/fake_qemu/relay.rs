//! The fake between a daemon and a real QEMU: what the script says goes wrong, all else is QEMU's own doing.
//!
//! The program becomes QEMU itself, so that the process is the one that the daemon knows. One that it starts before passes on
//! what goes over the monitor. It reads the script at each command, so that a test can change it while the guest runs:
//! commands are counted anew then.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::net::UnixStream;

use crate::process;

use super::program::Endpoint;
use super::script::{Asked, Fault, Rule, Script};
use super::session::{line, read_command, scripted_event, take_line, with_id};

/// What tells the program that it is the one that passes on: QEMU's number, and where QEMU's monitor is.
const RELAY: &str = "FAKE_QEMU_RELAY";
/// How long QEMU may take until its monitor is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Becomes a real QEMU whose monitor, if it has one, is passed on by the script at `path`.
///
/// # Errors
/// When QEMU can't be executed.
pub(super) fn become_qemu(emulator: &Path, args: &[String], path: Option<&Path>) -> Result<i32> {
    let (own, mut args) = (args.first().cloned().unwrap_or_default(), args.to_vec());
    let monitor = args
        .iter_mut()
        .find(|arg| arg.contains("id=charmonitor") && arg.contains("socket"));
    if let (Some(monitor), Some(path)) = (monitor, path) {
        let socket = path.with_extension(format!("{}.sock", std::process::id()));
        Command::new(std::env::current_exe()?)
            .arg0(own)
            .args(["-chardev", monitor.as_str()])
            .env(RELAY, format!("{}:{}", std::process::id(), socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .context("passing on the monitor")?;
        *monitor = format!(
            "socket,id=charmonitor,path={},server=on,wait=off",
            socket.display()
        );
    }
    let failed = Command::new(emulator).args(args.iter().skip(1)).exec();
    Err(failed).with_context(|| emulator.display().to_string())
}

/// Where the monitor of the QEMU is whose process this one is to pass on for, and its number.
pub(super) fn of_environment() -> Option<(i32, PathBuf)> {
    let told = std::env::var(RELAY).ok()?;
    let (number, path) = told.split_once(':')?;
    Some((number.parse().ok()?, PathBuf::from(path)))
}

/// A QEMU whose monitor is passed on.
pub(super) struct Relay {
    pub(super) qemu: i32,
    pub(super) socket: PathBuf,
    pub(super) script: PathBuf,
    /// The script as it was when it was last read, and how often each of its rules was met since.
    pub(super) met: (String, Vec<usize>),
}

impl Relay {
    /// Passes on until QEMU ends.
    pub(super) async fn serve(mut self, mut endpoint: Endpoint) -> Result<i32> {
        while process::alive(self.qemu) {
            let look = tokio::time::timeout(Duration::from_millis(200), endpoint.accept());
            let Ok(daemon) = look.await else { continue };
            let daemon = daemon?;
            let Some(qemu) = self.connect().await else { break };
            // Whoever hangs up first ends the connection.
            let _ended = self.pass_on(&daemon, &qemu).await;
        }
        let _ = fs::remove_file(&self.socket);
        Ok(0)
    }

    async fn connect(&self) -> Option<UnixStream> {
        let end = Instant::now() + PATIENCE;
        while process::alive(self.qemu) && Instant::now() < end {
            if let Ok(stream) = UnixStream::connect(&self.socket).await {
                return Some(stream);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    async fn pass_on(&mut self, daemon: &UnixStream, qemu: &UnixStream) -> io::Result<()> {
        let (mut asked, mut fds) = (Vec::new(), Vec::new());
        let (mut down, mut up) = (vec![0; 4096], vec![0; 65_536]);
        loop {
            tokio::select! {
                received = unixfd::recv_with_fds(daemon, &mut down) => {
                    let (length, more) = received?;
                    if length == 0 {
                        return Ok(());
                    }
                    asked.extend_from_slice(&down[..length]);
                    fds.extend(more);
                    while let Some(line) = take_line(&mut asked) {
                        let going = std::mem::take(&mut fds);
                        if !self.command((daemon, qemu), &line, going).await? {
                            return Ok(());
                        }
                    }
                }
                received = unixfd::recv_with_fds(qemu, &mut up) => {
                    let (length, _) = received?;
                    if length == 0 {
                        return Ok(());
                    }
                    unixfd::send_with_fds(daemon, &up[..length], &[]).await?;
                }
            }
        }
    }

    /// One command; whether the connection goes on.
    async fn command(
        &mut self,
        (daemon, qemu): (&UnixStream, &UnixStream),
        text: &[u8],
        fds: Vec<OwnedFd>,
    ) -> io::Result<bool> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let Some((asked, id)) = read_command(text, borrowed.len()) else {
            unixfd::send_with_fds(qemu, text, &borrowed).await?;
            return Ok(true);
        };
        let (rule, record) = self.rule_for(&asked);
        super::program::append(record.as_deref(), &json!(asked));
        for event in &rule.before {
            unixfd::send_with_fds(daemon, scripted_event(event).as_bytes(), &[]).await?;
        }
        if let Some(error) = rule.error {
            let reply = line(&with_id(json!({"error": error}), id));
            unixfd::send_with_fds(daemon, reply.as_bytes(), &[]).await?;
            return Ok(true);
        }
        if rule.then == Fault::Eof {
            process::signal(self.qemu, Signal::SIGKILL);
            return Ok(false);
        }
        unixfd::send_with_fds(qemu, text, &borrowed).await?;
        // QEMU works on it, and nobody hears of it yet.
        tokio::time::sleep(Duration::from_millis(rule.delay_ms)).await;
        if rule.then == Fault::EofAfter {
            process::signal(self.qemu, Signal::SIGKILL);
            return Ok(false);
        }
        Ok(true)
    }

    /// What the script says of a command, and where it is recorded.
    fn rule_for(&mut self, asked: &Asked) -> (Rule, Option<PathBuf>) {
        let text = fs::read_to_string(&self.script).unwrap_or_default();
        let script = Script::from_json(&text).unwrap_or_default();
        if self.met.0 != text {
            self.met = (text, vec![0; script.rules.len()]);
        }
        let fit = script
            .rules
            .into_iter()
            .zip(&mut self.met.1)
            .find_map(|(rule, met)| {
                if !rule.fits(asked) {
                    return None;
                }
                *met += 1;
                rule.nth.is_none_or(|nth| nth == *met).then_some(rule)
            });
        (fit.unwrap_or_default(), script.record)
    }
}
