//! libvirt's own daemon without its QEMU driver, beside the daemon under test: it serves networks, storage, node
//! devices, secrets, filters and interfaces to clients of both.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::client::Virsh;
use crate::place::{program, script};
use crate::process;
use crate::sandbox::Sandbox;
use crate::skip;
use crate::wait::wait_until;

const START: Duration = Duration::from_secs(30);
/// The driver that it does without.
pub const QEMU: &str = "libvirt_driver_qemu.so";

/// A running neighbour; dropping it ends it, and what it has started.
#[derive(Debug)]
pub struct Neighbour {
    program: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
    /// Those it has lived in. They are held open, so that no others come by their numbers.
    namespaces: Vec<(PathBuf, File)>,
}

impl Neighbour {
    /// Starts one that shares `sandbox`'s directories; `None`, with the calling test noted as skipped, when libvirtd
    /// is not installed.
    ///
    /// # Errors
    /// When it is installed but does not start.
    pub fn beside(sandbox: &Sandbox) -> Result<Option<Self>> {
        let (Some(program), Some(drivers)) = (program("libvirtd"), drivers()) else {
            skip("libvirtd is not installed, there is nobody to pass calls on to");
            return Ok(None);
        };
        let own = sandbox.dir().join("drivers");
        fs::create_dir_all(&own)?;
        for entry in fs::read_dir(drivers)? {
            let entry = entry?;
            if entry.file_name() != QEMU {
                symlink(entry.path(), own.join(entry.file_name()))?;
            }
        }
        let mut neighbour = Self { program, dir: sandbox.dir().to_path_buf(), child: None, namespaces: Vec::new() };
        neighbour.start()?;
        Ok(Some(neighbour))
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Errors
    /// When it does not take connections in time.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("neighbour.log"))?;
        let child = Command::new(script("sandbox.sh"))
            .arg(&self.dir)
            .arg(&self.program)
            .args(["-p", "/run/libvirt/libvirtd.pid"])
            .env("LIBVIRT_DRIVER_DIR", self.dir.join("drivers"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("scripts/sandbox.sh")?;
        let pid = child.id().cast_signed();
        self.child = Some(child);
        let socket = self.socket();
        wait_until("the neighbour's socket", START, || UnixStream::connect(&socket).is_ok())?;
        let held = File::open(format!("/proc/{pid}/ns/mnt"))?;
        self.namespaces.extend(process::mount_namespace(pid).map(|namespace| (namespace, held)));
        Ok(())
    }

    /// Its socket from outside.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/libvirt/libvirt-sock")
    }

    /// virsh on one of its drivers, such as "network".
    pub fn virsh(&self, driver: &str) -> Virsh {
        Virsh::new(format!("{driver}+unix:///system?socket={}", self.socket().display()))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the neighbour does not run")?;
        process::signal(child.id().cast_signed(), signal);
        Ok(())
    }

    /// Kills it (SIGKILL) and waits.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the neighbour does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.kill();
        let known = |namespace: &PathBuf| self.namespaces.iter().any(|(known, _)| known == namespace);
        let started = |pid| process::mount_namespace(pid).is_some_and(|namespace| known(&namespace));
        for pid in process::find(started) {
            let _ = process::kill_and_wait(pid);
        }
    }
}

/// Where libvirt keeps its drivers; `None` when it is not installed.
pub fn drivers() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let places = [PathBuf::from("/usr/lib64"), PathBuf::from("/usr/lib")].into_iter().chain(libraries);
    let found = places.map(|place| place.join("libvirt/connection-driver"));
    found.into_iter().find(|place: &PathBuf| Path::new(place).join("libvirt_driver_network.so").exists())
}
