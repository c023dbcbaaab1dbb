//! The process: start, second instance, signals, systemd, idle end. Its files lie below a directory of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::{process, wait_for};

const SOON: Duration = Duration::from_secs(10);
const SOCKETS: [(&str, u32); 5] = [
    ("virtqemud-sock", 0o700),
    ("virtqemud-sock-ro", 0o777),
    ("virtqemud-admin-sock", 0o700),
    ("virtqemud-grpc-sock", 0o700),
    ("virtqemud-grpc-sock-ro", 0o777),
];

/// A directory that the daemon takes for the root.
struct Place(TempDir);

/// A daemon that ends with the test.
struct Running(Child);

impl Place {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("vq").tempdir()?))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.path("run/libvirt").join(name)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path(path);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        Ok(fs::write(path, text)?)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtqemud"));
        command
            .arg("--root")
            .arg(self.0.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        for variable in ["LIBVIRT_DEBUG", "LIBVIRT_LOG_FILTERS", "LIBVIRT_LOG_OUTPUTS"] {
            command.env_remove(variable);
        }
        command.env("LIBVIRT_LOG_OUTPUTS", "1:stderr");
        command
    }

    fn start(&self, arguments: &[&str]) -> Result<Running> {
        let mut running = Running(self.command().args(arguments).spawn()?);
        let ready = wait_for("the sockets", SOON, || {
            let up = SOCKETS
                .iter()
                .all(|(name, _)| UnixStream::connect(self.socket(name)).is_ok());
            (up || matches!(running.0.try_wait(), Ok(Some(_)))).then_some(up)
        })?;
        ensure!(ready, "the daemon ended: {}", running.log());
        Ok(running)
    }

    /// Runs a daemon that must end by itself.
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut child = Running(self.command().args(arguments).stdout(Stdio::piped()).spawn()?);
        let status = child.wait()?;
        let mut stdout = Vec::new();
        child
            .0
            .stdout
            .take()
            .context("stdout")?
            .read_to_end(&mut stdout)?;
        Ok(Output {
            status,
            stdout,
            stderr: child.log().into_bytes(),
        })
    }
}

impl Running {
    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let child = &mut self.0;
        Ok(wait_for("the daemon's end", SOON, || {
            child.try_wait().transpose()
        })??)
    }

    /// What it wrote to standard error; it must have ended.
    fn log(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_makes_its_sockets_and_removes_them() -> Result<()> {
    let place = Place::new()?;
    let mut daemon = place.start(&[])?;
    for (name, mode) in SOCKETS {
        let meta = fs::metadata(place.socket(name))?;
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{name}");
    }
    let pid = fs::read_to_string(place.path("run/virtqemud.pid"))?;
    assert_eq!(pid, format!("{}\n", daemon.pid()));
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait()?.success());
    let left: Vec<_> = SOCKETS
        .iter()
        .filter(|(name, _)| place.socket(name).exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!place.path("run/virtqemud.pid").exists());
    Ok(())
}

#[test]
fn directories_of_guests_files_are_there_from_the_start_and_qemus() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip("not root");
        return Ok(());
    }
    let place = Place::new()?;
    place.write("etc/libvirt/qemu.conf", "user = \"+4711\"\ngroup = \"+4712\"\n")?;
    let _daemon = place.start(&[])?;
    let lib = ["", "checkpoint", "dump", "nvram", "ram", "save", "snapshot"]
        .map(|name| ("var/lib/libvirt/qemu", name));
    let run = ["", "channel"].map(|name| ("run/libvirt/qemu", name));
    for (dir, name) in lib.into_iter().chain(run) {
        // Its sockets are there before them; a call waits.
        let path = place.path(dir).join(name);
        let owned = || fs::metadata(&path).ok().filter(|meta| meta.uid() == 4711);
        let meta = wait_for("the directory", SOON, owned)?;
        let found = (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777);
        assert_eq!(found, (4711, 4712, 0o755), "{dir}/{name}");
    }
    Ok(())
}

#[test]
fn settings_of_sockets_are_honoured() -> Result<()> {
    let place = Place::new()?;
    let directory = place.path("sockets");
    place.write(
        "etc/libvirt/virtqemud.conf",
        &format!(
            "unix_sock_dir = \"{}\"\nunix_sock_rw_perms = \"0770\"\nunix_sock_group = \"+0\"\n",
            directory.display()
        ),
    )?;
    let _daemon = Running(place.command().spawn()?);
    let socket = directory.join("virtqemud-grpc-sock");
    wait_for("the socket", SOON, || UnixStream::connect(&socket).ok())?;
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o7777, 0o770);
    assert!(!place.path("run/libvirt/virtqemud-sock").exists());
    Ok(())
}

#[test]
fn a_second_instance_is_refused_and_disturbs_nothing() -> Result<()> {
    let place = Place::new()?;
    let other = place.path("other.pid");
    let mut daemon = place.start(&[])?;
    for arguments in [
        vec![],
        vec!["-p", other.to_str().context("path")?],
        vec!["--daemon"],
    ] {
        let output = place.run(&arguments)?;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8(output.stderr)?;
        assert!(
            text.contains(&format!("another daemon (process {})", daemon.pid())),
            "{text}"
        );
    }
    assert!(!other.exists());
    for (name, _) in SOCKETS {
        UnixStream::connect(place.socket(name)).context(name)?;
    }
    daemon.signal(Signal::SIGINT);
    assert!(daemon.wait()?.success());
    Ok(())
}

#[test]
fn sockets_of_a_dead_daemon_are_replaced_and_those_of_a_living_one_are_not() -> Result<()> {
    let place = Place::new()?;
    let mut dead = place.start(&[])?;
    dead.signal(Signal::SIGKILL);
    dead.wait()?;
    assert!(place.socket("virtqemud-sock").exists());
    let mut daemon = place.start(&[])?;
    daemon.signal(Signal::SIGTERM);
    daemon.wait()?;
    let stranger = UnixListener::bind(place.socket("virtqemud-grpc-sock"))?;
    let output = place.run(&[])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr)?.contains("virtqemud-grpc-sock"));
    UnixStream::connect(place.socket("virtqemud-grpc-sock"))?;
    assert!(
        !place.socket("virtqemud-sock").exists(),
        "what was bound before the failure is removed"
    );
    drop(stranger);
    Ok(())
}

#[test]
fn in_the_background_it_answers_for_its_start() -> Result<()> {
    let place = Place::new()?;
    let output = place.run(&["--daemon", "--timeout", "1"])?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    UnixStream::connect(place.socket("virtqemud-sock"))?;
    let pid = process::from_pid_file(&place.path("run/virtqemud.pid"), "virtqemud").context("no PID file")?;
    assert_ne!(
        nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)))?,
        nix::unistd::getsid(None)?
    );
    wait_for("its idle end", SOON, || (!process::alive(pid)).then_some(()))?;
    place.write("etc/libvirt/virtqemud.conf", "max_clients = none\n")?;
    let output = place.run(&["--daemon"])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr)?.contains("virtqemud.conf:1: expected a number"));
    Ok(())
}

#[test]
fn it_ends_when_nobody_needs_it() -> Result<()> {
    let place = Place::new()?;
    let mut daemon = place.start(&["--timeout", "1"])?;
    let client = UnixStream::connect(place.socket("virtqemud-grpc-sock"))?;
    let began = Instant::now();
    wait_for("two seconds with a client", SOON, || {
        (began.elapsed() > Duration::from_secs(2)).then_some(())
    })?;
    assert!(daemon.0.try_wait()?.is_none(), "it ended under a client");
    drop(client);
    assert!(daemon.wait()?.success());
    Ok(())
}

#[test]
fn a_reload_applies_what_it_can_and_names_the_rest() -> Result<()> {
    let place = Place::new()?;
    let log = place.path("log");
    let settings = |more: &str| {
        format!(
            "log_outputs = \"1:file:{}\"\nlog_level = 2\n{more}",
            log.display()
        )
    };
    place.write("etc/libvirt/virtqemud.conf", &settings(""))?;
    let daemon = Running(place.command().env_remove("LIBVIRT_LOG_OUTPUTS").spawn()?);
    wait_for("the socket", SOON, || {
        UnixStream::connect(place.socket("virtqemud-sock")).ok()
    })?;
    let logged = |text: &str| {
        let read = || {
            fs::read_to_string(&log)
                .unwrap_or_default()
                .contains(text)
                .then_some(())
        };
        wait_for(text, SOON, read).with_context(|| fs::read_to_string(&log).unwrap_or_default())
    };
    place.write(
        "etc/libvirt/virtqemud.conf",
        &settings("max_clients = 77\nunix_sock_group = \"x\"\nbogus = 1\n"),
    )?;
    daemon.signal(Signal::SIGHUP);
    logged("configuration read again applied=max_clients")?;
    logged("wait for a restart settings=unix_sock_group")?;
    logged("line=5 key=bogus")?;
    place.write("etc/libvirt/qemu.conf", "dynamic_ownership = 7\n")?;
    daemon.signal(Signal::SIGHUP);
    logged("qemu.conf:1: dynamic_ownership: expected 0 or 1")?;
    assert!(process::alive(daemon.pid()));
    Ok(())
}

#[test]
fn systemd_is_told_and_its_sockets_are_used() -> Result<()> {
    let place = Place::new()?;
    let notify = UnixDatagram::bind(place.path("notify"))?;
    notify.set_read_timeout(Some(SOON))?;
    // Under a name of its own, and known by its address alone.
    let addresses = [place.path("any"), place.path("virtqemud-grpc-sock-ro")];
    let listeners = addresses
        .iter()
        .map(UnixListener::bind)
        .collect::<Result<Vec<_>, _>>()?;
    let script = format!(
        "export LISTEN_PID=$$ WATCHDOG_PID=$$; exec \"$@\" 3<&{} 4<&{}",
        listeners[0].as_raw_fd(),
        listeners[1].as_raw_fd()
    );
    // The plain shell knows descriptors of one digit only.
    let mut command = Command::new("bash");
    command
        .args(["-c", &script, "bash", env!("CARGO_BIN_EXE_virtqemud"), "--root"])
        .arg(place.0.path());
    command
        .envs([
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "virtqemud.socket:unknown"),
            ("WATCHDOG_USEC", "200000"),
        ])
        .env("NOTIFY_SOCKET", place.path("notify"))
        .stderr(Stdio::piped());
    for listener in &listeners {
        nix::fcntl::fcntl(
            listener,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )?;
    }
    let mut daemon = Running(command.spawn()?);
    let told = || -> Result<String> {
        let mut buffer = [0; 512];
        let length = notify.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let told_of = |wanted: &str| -> Result<String> {
        for _ in 0..50 {
            let message = told()?;
            if message.contains(wanted) {
                return Ok(message);
            }
        }
        anyhow::bail!("systemd was not told {wanted}")
    };
    told_of("READY=1")?;
    told_of("WATCHDOG=1")?;
    assert!(
        !place.path("run/libvirt/virtqemud-sock").exists(),
        "it made sockets of its own"
    );
    assert_http2(&addresses[1])?;
    daemon.signal(Signal::SIGHUP);
    assert!(told_of("RELOADING=1")?.contains("MONOTONIC_USEC="));
    told_of("READY=1")?;
    daemon.signal(Signal::SIGTERM);
    told_of("STOPPING=1")?;
    assert!(daemon.wait()?.success());
    assert!(
        addresses[0].exists() && addresses[1].exists(),
        "systemd's sockets are not the daemon's to remove"
    );
    Ok(())
}

#[test]
fn bad_options_end_with_status_1_and_help_with_0() -> Result<()> {
    let place = Place::new()?;
    for (arguments, status, expected) in [
        (["--bogus"], 1, "virtqemud: error: unexpected argument '--bogus'"),
        (["--timeout=x"], 1, "invalid value 'x'"),
        (
            ["--config=/dev/null/x"],
            1,
            "/dev/null/x: cannot read the configuration",
        ),
        (["--version"], 0, "virtqemud (libvirt) 11.3.0\n"),
        (["--help"], 0, "Usage: virtqemud"),
    ] {
        let output = place.run(&arguments)?;
        let text = if status == 0 { output.stdout } else { output.stderr };
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(String::from_utf8(text)?.contains(expected), "{arguments:?}");
    }
    Ok(())
}

/// A server of HTTP/2 begins with its settings.
fn assert_http2(address: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    ensure!(head[3] == 4, "not a SETTINGS frame: {head:?}");
    Ok(())
}
