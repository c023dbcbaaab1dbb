//! The control groups of a guest, as libvirt makes them where no systemd does: below each controller's mount
//! `PARTITION/qemu-ID-NAME.libvirt-qemu`, with a group in it for QEMU's own thread, each CPU's and each for I/O.
//!
//! [`Host`] knows which controllers there are and whether version 1 or 2 of the interface has them; a [`Group`] is a
//! guest's or a thread's in all of them. Callers make one before QEMU runs, tune it while it does, and remove it at the
//! end. A daemon keeps nothing of them: what group a process is in, the kernel tells.
//!
//! The hard thing is a host with both versions: each controller is with one of them, but version 2 counts CPU time and
//! filters devices whatever it has been given.

mod blkio;
mod cpu;
mod devices;
mod group;
mod memory;
mod names;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use unixfd::DeviceTable;

pub use blkio::BlockLimit;
pub use cpu::{Bandwidth, CpuTimes};
pub use devices::{Access, DeviceNode};
pub use group::{Group, Part};
pub use memory::{MemoryLimit, UNLIMITED_KIB};
pub use names::machine_name;
use names::partition_path;

/// What the kernel refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    /// What was tried, with the file.
    pub what: String,
    /// The kernel's reason.
    pub source: io::Error,
}

impl Error {
    fn new(what: impl ToString, source: io::Error) -> Self {
        Self {
            what: what.to_string(),
            source,
        }
    }
}

/// What a fallible call of this module gives.
pub type Result<T> = std::result::Result<T, Error>;

/// A controller, by what it limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// CPU time given.
    Cpu,
    /// CPU time used.
    CpuAcct,
    /// Which CPUs and nodes of memory.
    CpuSet,
    /// Memory.
    Memory,
    /// Device nodes.
    Devices,
    /// Stopping all.
    Freezer,
    /// Block devices.
    Blkio,
}

impl Controller {
    /// All, in libvirt's order.
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::CpuAcct,
        Self::CpuSet,
        Self::Memory,
        Self::Devices,
        Self::Freezer,
        Self::Blkio,
    ];

    /// The name by which a mount of version 1, and qemu.conf, know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
            Self::CpuSet => "cpuset",
            Self::Memory => "memory",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Blkio => "blkio",
        }
    }

    /// Its name in version 2, where it is one that is given to groups.
    fn unified_name(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::CpuSet => Some("cpuset"),
            Self::Memory => Some("memory"),
            Self::Blkio => Some("io"),
            Self::CpuAcct | Self::Devices | Self::Freezer => None,
        }
    }

    /// Whether the threads of a guest have groups of their own with it.
    fn is_of_threads(self) -> bool {
        matches!(self, Self::Cpu | Self::CpuAcct | Self::CpuSet)
    }
}

/// The mounts of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Where the kernel's files are: "/" but in tests.
    root: PathBuf,
    /// Mounts of version 1, by [`Controller::ALL`].
    v1: [Option<PathBuf>; 7],
    /// The mount of version 2, with what it has.
    v2: Option<Unified>,
}

/// Version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unified {
    mount: PathBuf,
    /// By [`Controller::ALL`].
    has: [bool; 7],
}

/// Who has a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    V1,
    V2,
}

impl Host {
    /// Looks what the host below `root` has mounted.
    ///
    /// # Errors
    /// The list of mounts can't be read.
    pub fn detect(root: &Path) -> Result<Self> {
        let mut host = Self {
            root: root.to_owned(),
            ..Self::default()
        };
        for line in group::read(&root.join("proc"), "mounts")?.lines() {
            host.take_mount(line);
        }
        Ok(host)
    }

    fn take_mount(&mut self, line: &str) {
        let mut fields = line.split(' ').skip(1);
        let (Some(place), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        let mount = self.root.join(place.trim_start_matches('/'));
        match kind {
            // A host may show a mount twice: the first counts.
            "cgroup2" if self.v2.is_none() => {
                let has = unified_has(&mount);
                self.v2 = Some(Unified { mount, has });
            }
            "cgroup" => {
                for (controller, known) in Controller::ALL.iter().zip(&mut self.v1) {
                    if options.split(',').any(|option| option == controller.name()) {
                        known.get_or_insert_with(|| mount.clone());
                    }
                }
            }
            _ => {}
        }
    }

    /// The same without the controllers that `names` has not.
    #[must_use]
    pub fn only(mut self, names: &[String]) -> Self {
        for (index, controller) in Controller::ALL.iter().enumerate() {
            // libvirt never leaves this one out, as it has no name for it in qemu.conf.
            if *controller != Controller::Freezer && !names.iter().any(|name| name == controller.name()) {
                self.v1[index] = None;
                if let Some(unified) = &mut self.v2 {
                    unified.has[index] = false;
                }
            }
        }
        self
    }

    /// Whether there is any controller.
    #[must_use]
    pub fn is_any(&self) -> bool {
        Controller::ALL
            .iter()
            .any(|controller| self.backend(*controller).is_some())
    }

    /// Makes the kernel ready to move processes. The first move for a while waits until all CPUs know of it, some
    /// milliseconds; for a few more, others take next to no time. Done ahead, by moving the calling thread to where it is,
    /// that costs nobody anything.
    pub fn make_ready(&self) {
        let own = fs::read_to_string(self.root.join("proc/self/cgroup")).unwrap_or_default();
        let place = |line: &str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let v1 = || {
                Controller::ALL
                    .iter()
                    .find(|c| controllers.split(',').any(|name| name == c.name()))
                    .and_then(|c| self.v1[*c as usize].clone())
            };
            let (mount, file) = if controllers.is_empty() {
                (self.v2.as_ref()?.mount.clone(), "cgroup.threads")
            } else {
                (v1()?, "tasks")
            };
            Some((mount.join(path.trim_start_matches('/')), file))
        };
        if let Some((directory, file)) = own.lines().rev().find_map(place) {
            // If it is refused, the first move takes longer.
            let _ = group::write(&directory, file, &nix::unistd::gettid().to_string());
        }
    }

    fn backend(&self, controller: Controller) -> Option<Backend> {
        if self
            .v2
            .as_ref()
            .is_some_and(|unified| unified.has[controller as usize])
        {
            return Some(Backend::V2);
        }
        self.v1[controller as usize].as_ref().map(|_| Backend::V1)
    }
}

fn unified_has(mount: &Path) -> [bool; 7] {
    let text = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    Controller::ALL.map(|controller| match controller {
        // Each group counts its own.
        Controller::CpuAcct => true,
        Controller::Devices => DeviceTable::is_available(mount),
        other => other
            .unified_name()
            .is_some_and(|name| text.split_whitespace().any(|word| word == name)),
    })
}

#[cfg(test)]
mod tests;
