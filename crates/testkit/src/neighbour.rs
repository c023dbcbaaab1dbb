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
const QEMU: &str = "libvirt_driver_qemu.so";

/// The drivers that have a daemon each, and the names of those.
// table
pub const DAEMONS: &[(&str, &str)] = &[
    ("network", "virtnetworkd"),
    ("storage", "virtstoraged"),
    ("nodedev", "virtnodedevd"),
    ("secret", "virtsecretd"),
    ("nwfilter", "virtnwfilterd"),
    ("interface", "virtinterfaced"),
];

/// A running neighbour; dropping it ends it, and what it has started.
#[derive(Debug)]
pub struct Neighbour {
    program: PathBuf,
    dir: PathBuf,
    parts: Vec<Part>,
    /// Those it has lived in. They are held open, so that no others come by their numbers.
    namespaces: Vec<(PathBuf, File)>,
}

/// One process.
#[derive(Debug)]
struct Part {
    /// Its one driver; `None`: it has all.
    driver: Option<&'static str>,
    child: Option<Child>,
}

impl Neighbour {
    /// Starts one that shares `sandbox`'s directories; `None`, with the calling test noted as skipped, when libvirtd
    /// is not installed.
    ///
    /// # Errors
    /// When it is installed but does not start.
    pub fn beside(sandbox: &Sandbox) -> Result<Option<Self>> {
        Self::of(sandbox, &[None])
    }

    /// The same with a process for each driver, at the sockets of the modular daemons. All drivers must be installed.
    ///
    /// # Errors
    /// As [`Self::beside`].
    pub fn modular(sandbox: &Sandbox) -> Result<Option<Self>> {
        if let Some(missing) = drivers().and_then(|place| missing_driver(&place)) {
            skip(&format!("libvirt's driver '{missing}' is not installed"));
            return Ok(None);
        }
        let drivers: Vec<_> = DAEMONS.iter().map(|(driver, _)| Some(*driver)).collect();
        let made = Self::of(sandbox, &drivers)?;
        for (driver, daemon) in DAEMONS.iter().filter(|_| made.is_some()) {
            for suffix in ["", "-ro"] {
                symlink(
                    format!("{driver}-d/libvirt-sock{suffix}"),
                    sandbox.path(format!("run/libvirt/{daemon}-sock{suffix}")),
                )?;
            }
        }
        Ok(made)
    }

    fn of(sandbox: &Sandbox, parts: &[Option<&'static str>]) -> Result<Option<Self>> {
        let (Some(program), Some(drivers)) = (program("libvirtd"), drivers()) else {
            skip("libvirtd is not installed, there is nobody to pass calls on to");
            return Ok(None);
        };
        let parts = parts
            .iter()
            .map(|driver| Part {
                driver: *driver,
                child: None,
            })
            .collect::<Vec<_>>();
        for part in &parts {
            part.prepare(sandbox.dir(), &drivers)?;
        }
        let mut neighbour = Self {
            program,
            dir: sandbox.dir().to_path_buf(),
            parts,
            namespaces: Vec::new(),
        };
        neighbour.start()?;
        Ok(Some(neighbour))
    }

    /// Starts again what of it was killed.
    ///
    /// # Errors
    /// When it does not take connections in time.
    pub fn start(&mut self) -> Result<()> {
        for index in 0..self.parts.len() {
            self.start_part(index)?;
        }
        Ok(())
    }

    fn start_part(&mut self, index: usize) -> Result<()> {
        let Some(part) = self.parts.get_mut(index).filter(|part| part.child.is_none()) else {
            return Ok(());
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("neighbour.log"))?;
        let child = Command::new(script("sandbox.sh"))
            .arg(&self.dir)
            .arg(&self.program)
            .arg("-f")
            .arg(part.file(&self.dir, "conf"))
            .args(["-p", &format!("/run/libvirt/{}libvirtd.pid", part.prefix())])
            .env("LIBVIRT_DRIVER_DIR", part.file(&self.dir, "drivers"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("scripts/sandbox.sh")?;
        let pid = child.id().cast_signed();
        part.child = Some(child);
        let socket = part.socket(&self.dir);
        wait_until("the neighbour's socket", START, || {
            UnixStream::connect(&socket).is_ok()
        })?;
        let held = File::open(format!("/proc/{pid}/ns/mnt"))?;
        self.namespaces
            .extend(process::mount_namespace(pid).map(|namespace| (namespace, held)));
        Ok(())
    }

    /// The process that has a driver.
    fn part(&mut self, driver: &str) -> Result<&mut Part> {
        let has = |part: &&mut Part| part.driver.is_none_or(|own| own == driver);
        self.parts
            .iter_mut()
            .find(has)
            .with_context(|| format!("nobody has the driver {driver}"))
    }

    /// The socket of who has a driver, from outside.
    pub fn socket(&self, driver: &str) -> PathBuf {
        let has = |part: &&Part| part.driver.is_none_or(|own| own == driver);
        self.parts
            .iter()
            .find(has)
            .map(|part| part.socket(&self.dir))
            .unwrap_or_default()
    }

    /// virsh on one of its drivers, such as "network".
    pub fn virsh(&self, driver: &str) -> Virsh {
        Virsh::new(format!(
            "{driver}+unix:///system?socket={}",
            self.socket(driver).display()
        ))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.signal(signal))
    }

    /// Sends a signal to who has a driver.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_one(&mut self, driver: &str, signal: Signal) -> Result<()> {
        self.part(driver)?.signal(signal)
    }

    /// Kills it (SIGKILL) and waits.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.parts.iter_mut().try_for_each(Part::kill)
    }

    /// Kills who has a driver and waits.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_one(&mut self, driver: &str) -> Result<()> {
        self.part(driver)?.kill()
    }
}

impl Part {
    /// What its files' names begin with.
    fn prefix(&self) -> String {
        self.driver.map(|driver| format!("{driver}-")).unwrap_or_default()
    }

    fn file(&self, dir: &Path, what: &str) -> PathBuf {
        dir.join(format!("{}{what}", self.prefix()))
    }

    fn socket(&self, dir: &Path) -> PathBuf {
        let place = self
            .driver
            .map(|driver| format!("{driver}-d/"))
            .unwrap_or_default();
        dir.join(format!("run/libvirt/{place}libvirt-sock"))
    }

    /// Its drivers, its configuration, and the directory of its socket.
    fn prepare(&self, dir: &Path, drivers: &Path) -> Result<()> {
        link_drivers(drivers, &self.file(dir, "drivers"), self.driver)?;
        let place = self
            .driver
            .map(|driver| format!("/{driver}-d"))
            .unwrap_or_default();
        fs::create_dir_all(dir.join(format!("run/libvirt{place}")))?;
        let conf = format!(
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_dir = \"/run/libvirt{place}\"\n"
        );
        Ok(fs::write(self.file(dir, "conf"), conf)?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the neighbour does not run")?;
        process::signal(child.id().cast_signed(), signal);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the neighbour does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        for part in &mut self.parts {
            let _ = part.kill();
        }
        let known = |namespace: &PathBuf| self.namespaces.iter().any(|(known, _)| known == namespace);
        let started = |pid| process::mount_namespace(pid).is_some_and(|namespace| known(&namespace));
        for pid in process::find(started) {
            let _ = process::kill_and_wait(pid);
        }
    }
}

/// Makes a directory of those of `drivers` that a neighbour has: one, or all but QEMU's.
///
/// # Errors
/// When it cannot be made.
pub fn link_drivers(drivers: &Path, own: &Path, one: Option<&str>) -> Result<()> {
    fs::create_dir_all(own)?;
    for entry in fs::read_dir(drivers)?.flatten() {
        let name = entry.file_name();
        if one.map_or(name != QEMU, |driver| name.to_string_lossy() == file_of(driver)) {
            symlink(entry.path(), own.join(name))?;
        }
    }
    Ok(())
}

/// The first driver of [`DAEMONS`] that is not in the directory `place`.
fn missing_driver(place: &Path) -> Option<&'static str> {
    let mut names = DAEMONS.iter().map(|(driver, _)| *driver);
    names.find(|driver| !place.join(file_of(driver)).exists())
}

fn file_of(driver: &str) -> String {
    format!("libvirt_driver_{driver}.so")
}

/// Where libvirt keeps its drivers; `None` when it is not installed.
pub fn drivers() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let places = [PathBuf::from("/usr/lib64"), PathBuf::from("/usr/lib")]
        .into_iter()
        .chain(libraries);
    let found = places.map(|place| place.join("libvirt/connection-driver"));
    found
        .into_iter()
        .find(|place: &PathBuf| Path::new(place).join("libvirt_driver_network.so").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_not_installed_is_found_out() -> Result<()> {
        let place = tempfile::tempdir()?;
        for (driver, _) in DAEMONS {
            assert!(missing_driver(place.path()).is_some());
            fs::write(place.path().join(file_of(driver)), "")?;
        }
        assert_eq!(missing_driver(place.path()), None);
        fs::remove_file(place.path().join("libvirt_driver_interface.so"))?;
        assert_eq!(missing_driver(place.path()), Some("interface"));
        Ok(())
    }
}
