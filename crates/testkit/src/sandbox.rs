//! A daemon in a temporary place: it sees private copies of libvirt's directories, its sockets are reached from
//! outside, and what it leaves running ends with the test. Needs root, as the daemon does.
//!
//! The directory outlives the daemon's process: [`Sandbox::kill`] and [`Sandbox::start`] try a crash and
//! [`Sandbox::stop`] an orderly end, with guests running all the while.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::{Grpcurl, Virsh};
use crate::wait::wait_for;
use crate::{DieAt, kill, place, process};

/// While the sandbox has this file, its daemon makes no control groups.
const WITHOUT_GROUPS: &str = "without-groups";
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);

/// What to run, and where it listens.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables added to its environment.
    pub env: Vec<(String, String)>,
    /// Its main libvirt socket, as the daemon sees it.
    pub socket: PathBuf,
}

impl Daemon {
    /// The daemon of this repository, from the file cargo built:
    /// `Daemon::virtqemud(env!("CARGO_BIN_EXE_virtqemud"))`.
    pub fn virtqemud(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            socket: "/run/libvirt/virtqemud-sock".into(),
        }
    }

    /// With an argument more.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// With a variable more in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A directory with a daemon in it. Dropping it kills the daemon and everything that was started in it.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    daemon: Daemon,
    /// What kills the daemon at its changes of directories, if tests are to.
    die_at: Option<DieAt>,
    child: Option<Child>,
    /// Those that daemons have lived in. They are held open, so that no others come by their numbers.
    namespaces: Vec<(PathBuf, File)>,
}

impl Sandbox {
    /// A new directory, with no daemon yet, so that files can be put into it first.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(daemon: Daemon) -> Result<Self> {
        // short, since paths of sockets are limited; open, since guests may run as another user
        let dir = tempfile::Builder::new().prefix("vq").tempdir()?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        fs::write(dir.path().join(WITHOUT_GROUPS), "")?;
        let die_at = kill::by_changes().then(DieAt::new).transpose()?;
        let daemon = match &die_at {
            Some(die_at) => die_at.on(daemon)?,
            None => daemon,
        };
        Ok(Self {
            dir,
            daemon,
            die_at,
            child: None,
            namespaces: Vec::new(),
        })
    }

    /// A new directory with the daemon running and ready.
    ///
    /// # Errors
    /// When it is not ready in time, with its log.
    pub fn started(daemon: Daemon) -> Result<Self> {
        let mut sandbox = Self::new(daemon)?;
        sandbox.start()?;
        Ok(sandbox)
    }

    /// Lets the daemon make control groups, from its next start on. They are the machine's: its guests need names that no
    /// other guest has.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn with_groups(self) -> Result<Self> {
        fs::remove_file(self.dir.path().join(WITHOUT_GROUPS))?;
        Ok(self)
    }

    /// Starts the daemon and waits until its socket takes connections.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let socket = self.socket();
        let up = wait_for("the daemon's socket", START, || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Some(Err(status));
            }
            UnixStream::connect(&socket).is_ok().then_some(Ok(()))
        });
        self.note_namespace();
        match up {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                self.child = None;
                bail!("the daemon ended with {status}; its log:\n{}", self.log())
            }
            Err(error) => Err(error).with_context(|| format!("its log:\n{}", self.log())),
        }
    }

    /// Starts the daemon and does not wait for it.
    ///
    /// # Errors
    /// When one is running already, or it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("the daemon is running already");
        }
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let child = Command::new(place::script("sandbox.sh"))
            .arg(self.dir.path())
            .arg(&self.daemon.program)
            .args(&self.daemon.args)
            .envs(self.daemon.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("scripts/sandbox.sh")?;
        self.child = Some(child);
        Ok(())
    }

    /// Asks the daemon to end (SIGTERM) and waits. Guests stay.
    ///
    /// # Errors
    /// When it is still there after 20 seconds; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM)
    }

    /// Kills the daemon where it stands (SIGKILL) and waits. Guests stay.
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGKILL)
    }

    /// [`Self::stop`], then [`Self::start`].
    ///
    /// # Errors
    /// When either fails.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// [`Self::stop`], then another daemon in the same directory, which takes over what runs there.
    ///
    /// # Errors
    /// When one does not end, or the other does not start.
    pub fn hand_over(&mut self, to: Daemon) -> Result<()> {
        self.stop()?;
        self.daemon = to;
        self.start()
    }

    /// The same where the daemon is not let end by itself: libvirt's may take its time.
    ///
    /// # Errors
    /// When the other does not start.
    pub fn replace(&mut self, to: Daemon) -> Result<()> {
        self.kill()?;
        self.daemon = to;
        self.start()
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.note_namespace();
        let mut child = self.child.take().context("the daemon is not running")?;
        process::signal(child.id().cast_signed(), signal);
        match wait_for("the daemon's end", STOP, || child.try_wait().transpose()) {
            Ok(status) => Ok(status?),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error).with_context(|| format!("its log:\n{}", self.log()))
            }
        }
    }

    /// The daemon's process id, if it was started and not ended through this.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.id().cast_signed())
    }

    /// What kills the daemon at a change of a directory, if [`kill::by_changes`].
    pub fn die_at(&self) -> Option<&DieAt> {
        self.die_at.as_ref()
    }

    /// The directory's path.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the daemon's `path` (absolute, such as `/etc/libvirt/qemu.conf`) is from outside. Only paths in
    /// libvirt's directories are private.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.dir.path().join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Names of the notes of what is under way, or was when a daemon was killed.
    ///
    /// # Errors
    /// Their directory can't be read.
    pub fn intents(&self) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path("/run/libvirt/qemu/virtqemud"))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name.starts_with("intent-"));
        Ok(names)
    }

    /// The libvirt socket from outside.
    pub fn socket(&self) -> PathBuf {
        self.path(&self.daemon.socket)
    }

    /// The connection's URI.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// virsh on this daemon.
    pub fn virsh(&self) -> Virsh {
        Virsh::new(self.uri())
    }

    /// grpcurl on this daemon's own socket, or `None` when it is not installed.
    pub fn grpcurl(&self) -> Option<Grpcurl> {
        Grpcurl::find(&self.path(GRPC_SOCKET))
    }

    /// What the daemon printed so far, in all its lives.
    pub fn log(&self) -> String {
        let text = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The QEMU process of a domain, from its pid file.
    pub fn guest_pid(&self, domain: &str) -> Option<i32> {
        let file = self.path(format!("/run/libvirt/qemu/{domain}.pid"));
        process::from_pid_file(&file, "qemu")
    }

    /// Finds QEMU's programs that run in here, guests and tools, whenever it is asked.
    pub fn emulators(&self) -> impl Fn() -> Vec<i32> + Send + 'static {
        // Its mounts are named from the beginning of their filesystem, whatever that is mounted on.
        let name = self.dir.path().file_name().unwrap_or_default().to_string_lossy();
        let dir = format!("/{name}/run/libvirt ");
        let own = self.pid().and_then(process::mount_namespace);
        move || {
            process::find(|pid| {
                let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
                // A guest may be in a namespace of its own, or in one of a daemon that is gone.
                file("comm").starts_with("qemu-")
                    && process::alive(pid)
                    && (process::mount_namespace(pid) == own || file("mountinfo").contains(&dir))
            })
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    fn note_namespace(&mut self) {
        let own = process::mount_namespace(std::process::id().cast_signed());
        let found = self.pid().and_then(process::mount_namespace);
        // before it has one of its own it is in ours
        let found = found.filter(|found| own.as_ref() != Some(found));
        let found = found.filter(|found| !self.has_lived_in(found));
        let held = self
            .pid()
            .and_then(|pid| File::open(format!("/proc/{pid}/ns/mnt")).ok());
        self.namespaces.extend(found.zip(held));
    }

    fn has_lived_in(&self, namespace: &PathBuf) -> bool {
        self.namespaces.iter().any(|(known, _)| known == namespace)
    }

    /// Processes started in here: those of the daemon's namespaces, and those with a pid file, since a guest
    /// may have got a namespace of its own.
    fn leftovers(&self) -> Vec<i32> {
        let mut found =
            process::find(|pid| process::mount_namespace(pid).is_some_and(|ns| self.has_lived_in(&ns)));
        let run = fs::read_dir(self.path("/run/libvirt/qemu"))
            .into_iter()
            .flatten()
            .flatten();
        found.extend(run.filter_map(|entry| process::from_pid_file(&entry.path(), "qemu")));
        found
    }
}

/// Where the daemon serves gRPC, as it sees it.
pub const GRPC_SOCKET: &str = "/run/libvirt/virtqemud-grpc-sock";

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.note_namespace();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.leftovers() {
            let _ = process::kill_and_wait(pid);
        }
        if std::env::var_os("TESTKIT_KEEP").is_some() {
            self.dir.disable_cleanup(true);
        }
    }
}
