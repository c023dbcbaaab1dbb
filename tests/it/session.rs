//! One user's daemon: his sockets, his guests, and his own daemons of the other drivers.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testkit::place::program;
use testkit::skip::{can_run_guests, skip};
use testkit::wait::wait_until;
use testkit::{Virsh, neighbour, process};

use crate::grpc::{QEMU, small};

const SOON: Duration = Duration::from_secs(30);
const SECRET: &str = "<secret private='yes'><uuid>33333333-3333-3333-3333-333333333335</uuid>\
    <usage type='volume'><volume>/mine</volume></usage></secret>";
const LUKS: &str = "<volume><name>luks</name><capacity unit='MiB'>4</capacity><target><format type='raw'/>\
    <encryption format='luks'><secret type='passphrase' uuid='33333333-3333-3333-3333-333333333335'/></encryption></target></volume>";
const DEVICES: &str = "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='luks'>\
    <encryption format='luks'><secret type='passphrase' usage='/mine'/></encryption></source><target dev='vda' bus='virtio'/></disk>\
    <interface type='user'/>";

/// A user with a home and daemons; dropping it ends them, and his guests.
struct User {
    home: TempDir,
    daemons: Vec<Child>,
}

impl User {
    fn new() -> Result<Self> {
        let user = Self {
            home: tempfile::tempdir()?,
            daemons: Vec::new(),
        };
        fs::create_dir_all(user.path("config/libvirt"))?;
        fs::create_dir_all(user.path("pool"))?;
        fs::write(
            user.path("config/libvirt/qemu.conf"),
            "security_driver = \"none\"\nstdio_handler = \"file\"\n",
        )?;
        Ok(user)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    /// A command as nobody's root: a user like any other, who owns what this process owns.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-user=1000", "--map-group=1000"])
            .arg(program);
        let dirs = [
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
        ];
        command
            .envs(dirs.map(|(name, dir)| (name, self.path(dir))))
            .env("XDG_DATA_HOME", self.path("data"))
            .stdin(Stdio::null());
        command
    }

    /// Starts a daemon that makes `socket`.
    fn start(&mut self, mut command: Command, socket: &str) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        self.daemons
            .push(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        let socket = self.socket(socket);
        wait_until("a socket of the user's", SOON, || {
            UnixStream::connect(&socket).is_ok()
        })
        .with_context(|| fs::read_to_string(self.path("log")).unwrap_or_default())
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.path("run/libvirt").join(name)
    }

    fn virsh(&self) -> Virsh {
        Virsh::new(format!(
            "qemu+unix:///session?socket={}",
            self.socket("virtqemud-sock").display()
        ))
    }

    /// virsh with a document.
    fn given(&self, command: &[&str], text: &str) -> Result<String> {
        let file = self.path("document.xml");
        fs::write(&file, text)?;
        self.virsh().ok(&[command, &[&file.to_string_lossy()]].concat())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for child in &mut self.daemons {
            let _ = child.kill();
            let _ = child.wait();
        }
        let home = self.home.path().to_string_lossy().into_owned();
        let his = |pid: i32| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|e| String::from_utf8_lossy(&e).contains(&home))
        };
        for pid in process::find(his) {
            let _ = process::kill_and_wait(pid);
        }
    }
}

/// The drivers of the neighbour, without that of QEMU.
fn drivers(user: &User) -> Result<Option<PathBuf>> {
    let Some(found) = neighbour::drivers() else {
        return Ok(None);
    };
    let own = user.path("drivers");
    neighbour::link_drivers(&found, &own, None)?;
    Ok(Some(own))
}

#[test]
fn a_users_guests_use_his_own_neighbours() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut user = User::new()?;
    let (Some(libvirtd), Some(drivers)) = (program("libvirtd"), drivers(&user)?) else {
        skip("libvirtd is not installed, there is nobody to pass calls on to");
        return Ok(());
    };
    if !user.command(Path::new("true")).status()?.success() {
        skip("no user can be made up here");
        return Ok(());
    }
    let mut command = user.command(&libvirtd);
    command.env("LIBVIRT_DRIVER_DIR", drivers);
    user.start(command, "libvirt-sock")?;
    let ours = user.command(Path::new(env!("CARGO_BIN_EXE_virtqemud")));
    user.start(ours, "virtqemud-sock")?;

    let virsh = user.virsh();
    assert!(virsh.ok(&["uri"])?.contains("qemu+unix:///session"));
    virsh.ok(&[
        "pool-define-as",
        "p",
        "dir",
        "--target",
        &user.path("pool").to_string_lossy(),
    ])?;
    virsh.ok(&["pool-start", "p"])?;
    user.given(&["secret-define"], SECRET)?;
    virsh.ok(&[
        "secret-set-value",
        "33333333-3333-3333-3333-333333333335",
        "--base64",
        "c2VjcmV0",
    ])?;
    user.given(&["vol-create", "p"], LUKS)?;
    virsh.define(&small("mine", Path::new(QEMU), "").replacen(
        "<memballoon",
        &format!("{DEVICES}<memballoon"),
        1,
    ))?;
    virsh.ok(&["start", "mine"])?;
    assert_eq!(virsh.state("mine")?, "running");
    assert!(virsh.ok(&["domblklist", "mine"])?.contains("luks"));
    ensure!(
        user.path("run/libvirt/qemu/run/mine.pid").exists(),
        "no PID file where a user has his"
    );
    virsh.ok(&["destroy", "mine"])?;
    Ok(())
}
