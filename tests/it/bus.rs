//! A message bus of the test's own: systemd-machined and logind, played by a script, as our daemon and libvirt's meet
//! them.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;
use testkit::place::program;
use testkit::{Daemon, skip, wait_until};
use zbus::zvariant::{self, OwnedObjectPath, OwnedValue};
use zbus::{Connection, fdo, interface};

const SOON: Duration = Duration::from_secs(10);
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// A dbus-daemon that lets everybody do everything. It ends with the test.
pub(crate) struct MessageBus {
    child: Child,
    dir: TempDir,
}

impl MessageBus {
    /// Starts one that would start machined and logind; `None`, with the calling test noted as skipped, where there is no dbus-daemon.
    pub(crate) fn started() -> Result<Option<Self>> {
        let Some(program) = program("dbus-daemon") else {
            skip("dbus-daemon is not installed");
            return Ok(None);
        };
        let dir = tempfile::Builder::new().prefix("vqbus").tempdir()?;
        let place = |name: &str| dir.path().join(name);
        fs::create_dir(place("services"))?;
        for name in ["machine1", "login1"] {
            fs::write(
                place(&format!("services/{name}.service")),
                format!("[D-BUS Service]\nName=org.freedesktop.{name}\nExec=/bin/false\n"),
            )?;
        }
        let configuration = format!(
            "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN' \
             'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>\
             <busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><servicedir>{}</servicedir>\
             <policy context='default'><allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/>\
             <allow own='*'/></policy></busconfig>",
            place("bus").display(),
            place("services").display()
        );
        fs::write(place("conf"), configuration)?;
        let child = Command::new(program)
            .arg("--nofork")
            .arg("--config-file")
            .arg(place("conf"))
            .stdin(Stdio::null())
            .spawn()?;
        let bus = Self { child, dir };
        let socket = bus.dir.path().join("bus");
        wait_until("the bus's socket", SOON, || socket.exists())?;
        Ok(Some(bus))
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.dir.path().join("bus").display())
    }

    /// A daemon that has it for the host's.
    pub(crate) fn of(&self, daemon: Daemon) -> Daemon {
        daemon.env(ADDRESS, &self.address())
    }

    async fn connect(&self) -> Result<Connection> {
        Ok(zbus::connection::Builder::address(self.address().as_str())?
            .build()
            .await?)
    }
}

impl Drop for MessageBus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guest as machined was told of it, without what differs from run to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Created {
    pub(crate) name: String,
    pub(crate) id: Vec<u8>,
    pub(crate) service: String,
    pub(crate) class: String,
    pub(crate) root: String,
    /// How many interfaces of network.
    pub(crate) interfaces: usize,
    /// Properties of the unit, printed.
    pub(crate) scope: Vec<String>,
    pub(crate) leader: u32,
}

/// What machined does when it is asked to create a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// It makes a unit and moves the leader there.
    Moves,
    /// It says that it has.
    Stays,
    /// It refuses.
    Refuses,
    /// It does not answer.
    Hangs,
}

/// All that machined was asked, and its machines.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) created: Vec<Created>,
    pub(crate) terminated: Vec<String>,
    machines: Vec<(u32, String)>,
}

/// machined, and systemd as far as it is asked. It lives as long as its connection.
pub(crate) struct Machined {
    told: Arc<Mutex<Told>>,
    _connection: Connection,
}

struct Manager {
    told: Arc<Mutex<Told>>,
    conduct: Conduct,
}

/// The one machine that is shown: of whichever process.
struct Machine {
    told: Arc<Mutex<Told>>,
}

struct Systemd;

const MACHINE: &str = "/org/freedesktop/machine1/machine/one";

impl Machined {
    pub(crate) async fn on(bus: &MessageBus, conduct: Conduct) -> Result<Self> {
        let told = Arc::new(Mutex::new(Told::default()));
        let connection = bus.connect().await?;
        let server = connection.object_server();
        let manager = Manager {
            told: Arc::clone(&told),
            conduct,
        };
        let machine = Machine {
            told: Arc::clone(&told),
        };
        server.at("/org/freedesktop/machine1", manager).await?;
        server.at(MACHINE, machine).await?;
        server.at("/org/freedesktop/systemd1", Systemd).await?;
        connection.request_name("org.freedesktop.machine1").await?;
        connection.request_name("org.freedesktop.systemd1").await?;
        Ok(Self {
            told,
            _connection: connection,
        })
    }

    pub(crate) fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unit_of(name: &str) -> String {
    format!("machine-{}.scope", name.replace('-', "\\x2d"))
}

#[interface(name = "org.freedesktop.machine1.Manager")]
impl Manager {
    #[expect(clippy::too_many_arguments, reason = "so many has machined's method")]
    async fn create_machine_with_network(
        &self,
        name: String,
        id: Vec<u8>,
        service: String,
        class: String,
        leader: u32,
        root: String,
        interfaces: Vec<i32>,
        scope: Vec<(String, OwnedValue)>,
    ) -> fdo::Result<OwnedObjectPath> {
        self.note(|told| {
            told.created.push(Created {
                name: name.clone(),
                id,
                service,
                class,
                root,
                interfaces: interfaces.len(),
                scope: scope
                    .iter()
                    .map(|(key, value)| format!("{key}={value:?}"))
                    .collect(),
                leader,
            })
        });
        match self.conduct {
            Conduct::Hangs => std::future::pending::<()>().await,
            Conduct::Refuses => return Err(fdo::Error::Failed("no".to_owned())),
            Conduct::Stays => {}
            Conduct::Moves => {
                enter_unit(&unit_of(&name), leader)
                    .map_err(|error| fdo::Error::Failed(format!("{error:#}")))?;
                self.note(|told| told.machines.push((leader, name)));
            }
        }
        Ok(OwnedObjectPath::try_from(MACHINE).map_err(zbus::Error::from)?)
    }

    async fn terminate_machine(&self, name: String) {
        self.note(|told| {
            told.machines.retain(|(_, known)| *known != name);
            told.terminated.push(name);
        });
    }

    #[zbus(name = "GetMachineByPID")]
    async fn get_machine_by_pid(&self, pid: u32) -> fdo::Result<OwnedObjectPath> {
        let mut known = false;
        self.note(|told| known = told.machines.iter().any(|(leader, _)| *leader == pid));
        if known {
            Ok(OwnedObjectPath::try_from(MACHINE).map_err(zbus::Error::from)?)
        } else {
            Err(fdo::Error::Failed(format!(
                "PID {pid} does not belong to any known machine"
            )))
        }
    }
}

impl Manager {
    fn note(&self, what: impl FnOnce(&mut Told)) {
        what(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[interface(name = "org.freedesktop.machine1.Machine")]
impl Machine {
    #[zbus(property)]
    async fn name(&self) -> String {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.machines
            .last()
            .map(|(_, name)| name.clone())
            .unwrap_or_default()
    }

    #[zbus(property)]
    async fn unit(&self) -> String {
        unit_of(&self.name().await)
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    async fn set_unit_properties(
        &self,
        _unit: String,
        _runtime: bool,
        _properties: Vec<(String, OwnedValue)>,
    ) {
    }
}

/// Mounts of control groups, and whether they are of version 2.
fn mounts() -> Vec<(PathBuf, bool)> {
    let text = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(2).is_some_and(|kind| kind.starts_with("cgroup")))
        .map(|fields| (PathBuf::from(fields[1]), fields[2] == "cgroup2"))
        .collect()
}

/// What systemd does: the process is in a group of the unit's name in all controllers.
fn enter_unit(unit: &str, pid: u32) -> Result<()> {
    for (mount, unified) in mounts() {
        let slice = mount.join("machine.slice");
        let scope = slice.join(unit);
        for (dir, above) in [(&slice, &mount), (&scope, &slice)] {
            if unified {
                for controller in ["cpu", "cpuset", "memory", "io"] {
                    // Not all are there.
                    let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
            fs::create_dir_all(dir)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let (false, Ok(text)) = (unified, fs::read_to_string(above.join(file))) {
                    fs::write(dir.join(file), text)?;
                }
            }
        }
        fs::write(scope.join("cgroup.procs"), pid.to_string())
            .with_context(|| scope.display().to_string())?;
    }
    Ok(())
}

/// Removes the groups of units that a test's guests had.
pub(crate) fn remove_units(part_of_name: &str) {
    for (mount, _) in mounts() {
        let units = fs::read_dir(mount.join("machine.slice"))
            .into_iter()
            .flatten()
            .flatten();
        for unit in units.filter(|unit| unit.file_name().to_string_lossy().contains(part_of_name)) {
            let _ = wait_until("the unit's end", SOON, || remove_tree(&unit.path()));
        }
        let _ = fs::remove_dir(mount.join("machine.slice"));
    }
}

fn remove_tree(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path());
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

/// logind, which says what the host can, counts how often it was put to sleep, and knows who has it wait.
pub(crate) struct Logind {
    slept: Arc<Mutex<Vec<bool>>>,
    delays: Arc<Mutex<Vec<OwnedFd>>>,
    connection: Connection,
}

struct Sleeper {
    slept: Arc<Mutex<Vec<bool>>>,
    delays: Arc<Mutex<Vec<OwnedFd>>>,
}

impl Logind {
    pub(crate) async fn on(bus: &MessageBus) -> Result<Self> {
        let slept = Arc::new(Mutex::new(Vec::new()));
        let delays = Arc::new(Mutex::new(Vec::new()));
        let connection = bus.connect().await?;
        let sleeper = Sleeper {
            slept: Arc::clone(&slept),
            delays: Arc::clone(&delays),
        };
        connection
            .object_server()
            .at("/org/freedesktop/login1", sleeper)
            .await?;
        connection.request_name("org.freedesktop.login1").await?;
        Ok(Self {
            slept,
            delays,
            connection,
        })
    }

    /// How many have the host wait with going down.
    pub(crate) fn waits_for(&self) -> usize {
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        // The other end of the pipe is whoever asked.
        let is_held = |fd: &&OwnedFd| {
            let mut polled = [PollFd::new(fd.as_fd(), PollFlags::empty())];
            poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
        };
        delays.iter().filter(is_held).count()
    }

    /// Tells that the host goes down.
    pub(crate) async fn goes_down(&self) -> Result<()> {
        let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
        let told = self
            .connection
            .emit_signal(None::<&str>, path, interface, "PrepareForShutdown", &(true,));
        Ok(told.await?)
    }

    /// Each time that the host was to sleep to memory: whether somebody may be asked for a password.
    pub(crate) fn slept(&self) -> Vec<bool> {
        self.slept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[interface(name = "org.freedesktop.login1.Manager")]
impl Sleeper {
    async fn can_suspend(&self) -> String {
        "yes".to_owned()
    }

    async fn can_hibernate(&self) -> String {
        "no".to_owned()
    }

    async fn can_hybrid_sleep(&self) -> String {
        "challenge".to_owned()
    }

    async fn inhibit(
        &self,
        what: &str,
        _who: &str,
        _why: &str,
        mode: &str,
    ) -> fdo::Result<zvariant::OwnedFd> {
        if (what, mode) != ("shutdown", "delay") {
            return Err(fdo::Error::InvalidArgs(format!("{what} {mode}")));
        }
        let (kept, given) = nix::unistd::pipe().map_err(|error| fdo::Error::Failed(error.to_string()))?;
        self.delays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(kept);
        Ok(given.into())
    }

    async fn suspend(&self, interactive: bool) {
        self.slept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(interactive);
    }
}

/// How long something took, which must have been at most `limit`.
pub(crate) fn timed<T>(limit: Duration, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let result = work()?;
    let took = begun.elapsed();
    ensure!(took < limit, "it took {took:?}");
    Ok((result, took))
}
