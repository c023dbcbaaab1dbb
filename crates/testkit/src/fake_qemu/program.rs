//! The fake as a program: QEMU's command line, as far as monitors and the pid file go.
//!
//! Its script is the file named by `FAKE_QEMU_SCRIPT`, or the one beside the program as it was called, with `.json`
//! added: put a link named `qemu-system-x86_64` and `qemu-system-x86_64.json` in a directory.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::place;

use super::devices::Devices;
use super::relay::{self, Relay};
use super::script::{Asked, Probe, Rule, Script};
use super::session::{Outcome, Session, event_line};

/// Recorded replies, shared with the tests of the code that reads them.
const RECORDED: &str = include_str!("../../../qemu-plan/tests/data/caps/replies-10.0.2-x86_64.json");

/// Where the monitor is served.
#[derive(Debug, PartialEq, Eq)]
enum Monitor {
    /// A socket that listens.
    Fd(RawFd),
    /// A socket that is connected.
    Connected(RawFd),
    /// A socket to be made.
    Path(PathBuf),
}

/// Where connections come from.
pub(super) enum Endpoint {
    Listener(UnixListener),
    /// One, and no other after it.
    Connected(Option<UnixStream>),
}

impl Endpoint {
    pub(super) async fn accept(&mut self) -> io::Result<UnixStream> {
        match self {
            Self::Listener(listener) => listener.accept().await.map(|(stream, _)| stream),
            Self::Connected(stream) => match stream.take() {
                Some(stream) => Ok(stream),
                None => std::future::pending().await,
            },
        }
    }
}

/// What is understood of QEMU's command line.
#[derive(Debug, Default)]
struct Options {
    monitor: Option<Monitor>,
    pid_file: Option<PathBuf>,
    machine: String,
}

/// Runs the program with `args`, its own name first, until the guest ends.
///
/// # Errors
/// When there is no monitor, or the script cannot be read.
pub fn run(args: Vec<OsString>) -> Result<i32> {
    let args: Vec<String> = args
        .into_iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let place = script_path(args.first().map_or("", String::as_str));
    let mut script = read_script(place.as_deref())?;
    let options = Options::parse(&args)?;
    if let (Some((qemu, socket)), Some(path)) = (relay::of_environment(), &place) {
        let relay = Relay {
            qemu,
            socket,
            script: path.clone(),
            met: Default::default(),
        };
        let monitor = options.monitor.context("no monitor to pass on")?;
        return runtime()?.block_on(async { relay.serve(endpoint(monitor)?).await });
    }
    if let Some(emulator) = &script.real {
        return relay::become_qemu(emulator, &args, place.as_deref());
    }
    note(&script, &json!({"launch": args}));
    eprint!("{}", script.start.stderr);
    if let Some(status) = script.start.exit {
        return Ok(status);
    }
    if options.machine.starts_with("none") && matches!(script.probe, Probe::Recorded) {
        script.rules.extend(recorded(&options.machine)?);
    }
    if let Some(path) = &options.pid_file {
        fs::write(path, format!("{}\n", std::process::id()))?;
    }
    runtime()?.block_on(serve(options, script, Devices::of(&args)))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn serve(options: Options, script: Script, devices: Devices) -> Result<i32> {
    let mut endpoint = endpoint(options.monitor.context("no monitor on the command line")?)?;
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::time::sleep(Duration::from_millis(script.start.delay_ms)).await;
    let (mute, log) = (script.start.mute, script.record.clone());
    let session = Session::new(
        script,
        Box::new(move |asked| append(log.as_deref(), &json!(asked))),
    )
    .with_devices(devices);
    loop {
        let (inject, injected) = mpsc::unbounded_channel();
        let connection = async {
            let stream = endpoint.accept().await?;
            if mute {
                std::future::pending::<()>().await;
            }
            anyhow::Ok(session.serve(&stream, injected).await)
        };
        tokio::pin!(connection);
        tokio::select! {
            outcome = &mut connection => if outcome? == Outcome::Ended { return Ok(0); },
            _ = terminated.recv() => {
                let told = inject.send(event_line("SHUTDOWN", &json!({"guest": false, "reason": "host-signal"})));
                // The session needs a moment to write it; it may hang, as scripted, or not be there.
                if told.is_ok() {
                    let _hangs = tokio::time::timeout(Duration::from_millis(50), connection).await;
                }
                return Ok(0);
            }
        }
    }
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for pair in args.windows(2) {
            let [name, value] = pair else { continue };
            match name.as_str() {
                "-qmp" => options.monitor = Some(qmp_monitor(value)?),
                "-chardev" if value.contains("id=charmonitor") => {
                    options.monitor = Some(chardev_monitor(value)?)
                }
                "-pidfile" => options.pid_file = Some(value.into()),
                "-machine" => options.machine.clone_from(value),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// `unix:PATH,server=on,wait=off`
fn qmp_monitor(value: &str) -> Result<Monitor> {
    let path = value.strip_prefix("unix:").context("-qmp takes unix: only")?;
    Ok(Monitor::Path(path.split(',').next().unwrap_or(path).into()))
}

/// `socket,id=charmonitor,fd=22,server=on,wait=off`, or `path=` instead of `fd=`
fn chardev_monitor(value: &str) -> Result<Monitor> {
    for part in value.split(',') {
        match part.split_once('=') {
            Some(("fd", number)) if value.contains("server=on") => {
                return Ok(Monitor::Fd(number.parse()?));
            }
            Some(("fd", number)) => return Ok(Monitor::Connected(number.parse()?)),
            Some(("path", path)) => return Ok(Monitor::Path(path.into())),
            _ => {}
        }
    }
    bail!("charmonitor has neither fd nor path: {value}")
}

fn endpoint(monitor: Monitor) -> Result<Endpoint> {
    let listener = match monitor {
        Monitor::Fd(number) => StdListener::from(unixfd::copy_of_inherited(number)?),
        Monitor::Path(path) => StdListener::bind(path)?,
        Monitor::Connected(number) => {
            let stream = StdStream::from(unixfd::copy_of_inherited(number)?);
            stream.set_nonblocking(true)?;
            return Ok(Endpoint::Connected(Some(UnixStream::from_std(stream)?)));
        }
    };
    listener.set_nonblocking(true)?;
    Ok(Endpoint::Listener(UnixListener::from_std(listener)?))
}

fn script_path(program: &str) -> Option<PathBuf> {
    let beside = || Some(PathBuf::from(format!("{program}.json"))).filter(|path| path.exists());
    let named = std::env::var_os("FAKE_QEMU_SCRIPT").map(PathBuf::from);
    named.or_else(beside)
}

fn read_script(path: Option<&Path>) -> Result<Script> {
    let Some(path) = path else {
        return Ok(Script::default());
    };
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Script::from_json(&text).with_context(|| path.display().to_string())
}

fn note(script: &Script, entry: &Value) {
    append(script.record.as_deref(), entry);
}

pub(super) fn append(path: Option<&Path>, entry: &Value) {
    let file = path.map(|path| OpenOptions::new().append(true).create(true).open(path));
    if let Some(Ok(mut file)) = file {
        let _best_effort = file.write_all(format!("{entry}\n").as_bytes());
    }
}

/// Puts a fake QEMU with `script` (JSON) into `dir`, as `qemu-system-x86_64`; its path.
///
/// # Errors
/// When the program is not built and cannot be.
pub fn install(dir: &Path, script: &Value) -> Result<PathBuf> {
    let emulator = dir.join("qemu-system-x86_64");
    if emulator.symlink_metadata().is_err() {
        std::os::unix::fs::symlink(built()?, &emulator)?;
    }
    fs::write(dir.join("qemu-system-x86_64.json"), script.to_string())?;
    Ok(emulator)
}

/// Cargo builds programs for tests of their own package only.
fn built() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        let program = place::target().join("debug/fake-qemu");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "testkit", "--bin", "fake-qemu"]);
        match cargo.current_dir(place::repository()).output() {
            Ok(output) if output.status.success() => Ok(program),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    BUILT
        .get_or_init(build)
        .clone()
        .map_err(|error| anyhow::anyhow!("cannot build fake-qemu: {error}"))
}

/// Commands of a launch, out of what `record` was given.
///
/// # Errors
/// When the file cannot be read or is no record.
pub fn read_record(path: &Path) -> Result<Vec<Asked>> {
    let text = fs::read_to_string(path)?;
    let entries = text.lines().filter(|line| !line.starts_with("{\"launch\""));
    entries.map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[derive(Deserialize)]
struct Recorded {
    runs: Vec<RecordedRun>,
}

#[derive(Deserialize)]
struct RecordedRun {
    exchanges: Vec<Exchange>,
}

#[derive(Deserialize)]
struct Exchange {
    execute: String,
    arguments: Option<Value>,
    reply: Reply,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Value>,
}

/// The first run had an accelerator, the second had none.
fn recorded(machine: &str) -> Result<Vec<Rule>> {
    let mut recorded: Recorded = serde_json::from_str(RECORDED)?;
    let wanted = usize::from(!machine.contains("kvm"));
    let run = recorded.runs.swap_remove(wanted.min(recorded.runs.len() - 1));
    let rules = run
        .exchanges
        .into_iter()
        .filter(|exchange| exchange.execute != "qmp_capabilities");
    Ok(rules.map(Exchange::into_rule).collect())
}

impl Exchange {
    fn into_rule(self) -> Rule {
        let Reply { result, error } = self.reply;
        Rule {
            execute: self.execute,
            arguments: self.arguments,
            result,
            error,
            ..Rule::default()
        }
    }
}
