//! One group, in all controllers of the host.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{Backend, Controller, Error, Host, Result};

/// How often a group that is still in use is tried to be removed, and how long is waited the first time; each time twice
/// as long as before. A process that has ended leaves its groups a moment later.
const REMOVALS: u32 = 150;
const PAUSE: Duration = Duration::from_micros(400);
/// The longest of these pauses: who waits for the end of a guest waits for this.
const LONGEST: Duration = Duration::from_millis(3);
/// What a guest's own groups end with.
const OWN: &str = ".libvirt-qemu";
/// What a guest's own group in a unit of systemd's is called.
const NESTED: &str = "libvirt";

/// A group. Its directories may be there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    host: Host,
    /// Its directories with version 1, by [`Controller::ALL`].
    v1: [Option<PathBuf>; 7],
    /// Its directory with version 2.
    v2: Option<PathBuf>,
}

/// A thread's group in a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// QEMU's own thread.
    Emulator,
    /// A CPU's, by its number.
    Vcpu(u32),
    /// A thread's for I/O, by its number.
    IoThread(u32),
}

/// Whom controllers are given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Processes,
    Threads,
}

impl Part {
    fn name(self) -> String {
        match self {
            Self::Emulator => "emulator".to_owned(),
            Self::Vcpu(id) => format!("vcpu{id}"),
            Self::IoThread(id) => format!("iothread{id}"),
        }
    }
}

impl Group {
    /// The group at `path` below every mount.
    #[must_use]
    pub fn at(host: &Host, path: &str) -> Self {
        let below = |mount: &PathBuf| {
            if path.is_empty() {
                mount.clone()
            } else {
                mount.join(path)
            }
        };
        Self {
            v1: host.v1.clone().map(|mount| mount.as_ref().map(below)),
            v2: host.v2.as_ref().map(|u| below(&u.mount)),
            host: host.clone(),
        }
    }

    /// A guest's group in `partition`.
    #[must_use]
    pub fn of_guest(host: &Host, partition: &str, machine: &str) -> Self {
        Self::at(host, &super::partition_path(partition)).child(&format!("{machine}{OWN}"))
    }

    /// The guest's group that a process is in: one that libvirt or systemd's machined made.
    ///
    /// # Errors
    /// There is no such process, or it can't be looked at.
    pub fn of_process(host: &Host, pid: i32) -> Result<Option<Self>> {
        let text = read(&host.root.join(format!("proc/{pid}")), "cgroup")?;
        let mut group = Self {
            host: host.clone(),
            v1: Default::default(),
            v2: None,
        };
        for line in text.lines() {
            group.take_place(line);
        }
        Ok(group.is_any().then_some(group))
    }

    /// One line of a process's list of groups: `4:cpu,cpuacct:/PATH`, or `0::/PATH` with version 2.
    fn take_place(&mut self, line: &str) {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            return;
        };
        let Some(path) = guest_part(path) else { return };
        if controllers.is_empty() {
            self.v2 = self.host.v2.as_ref().map(|unified| unified.mount.join(path));
        }
        for (index, controller) in Controller::ALL.iter().enumerate() {
            if controllers.split(',').any(|name| name == controller.name()) {
                self.v1[index] = self.host.v1[index].as_ref().map(|mount| mount.join(path));
            }
        }
    }

    fn is_any(&self) -> bool {
        Controller::ALL.iter().any(|controller| self.has(*controller))
    }

    /// Whether it is in `controller`.
    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.directory(controller).is_some()
    }

    /// Its directory in `controller`, and whose that is.
    pub(super) fn directory(&self, controller: Controller) -> Option<(Backend, &Path)> {
        let backend = self.host.backend(controller)?;
        let directory = match backend {
            Backend::V1 => self.v1[controller as usize].as_deref(),
            Backend::V2 => self.v2.as_deref(),
        };
        Some((backend, directory?))
    }

    /// The same for who can't do without.
    pub(super) fn required(&self, controller: Controller) -> Result<(Backend, &Path)> {
        let missing = || {
            Error::new(
                format_args!("there is no controller '{}'", controller.name()),
                io::ErrorKind::NotFound.into(),
            )
        };
        self.directory(controller).ok_or_else(missing)
    }

    /// A group in it.
    fn child(&self, name: &str) -> Self {
        let below = |directory: &PathBuf| directory.join(name);
        Self {
            v1: self.v1.clone().map(|d| d.as_ref().map(below)),
            v2: self.v2.as_ref().map(below),
            host: self.host.clone(),
        }
    }

    /// The group of one of a guest's threads.
    #[must_use]
    pub fn part(&self, part: Part) -> Self {
        let mut child = self.child(&part.name());
        for (index, controller) in Controller::ALL.iter().enumerate() {
            if !controller.is_of_threads() {
                child.v1[index] = None;
            }
        }
        child
    }

    /// Makes the group of a guest, its partition too if that is libvirt's own.
    ///
    /// # Errors
    /// The kernel's, with the directory.
    pub fn make(&self, make_partition: bool) -> Result<()> {
        for (controller, directory) in self.directories() {
            let Some(partition) = directory.parent() else {
                continue;
            };
            if make_partition {
                if controller.is_none() {
                    self.give_controllers(partition.parent(), To::Processes)?;
                }
                make_directory(controller, partition)?;
            }
            if controller.is_none() {
                self.give_controllers(Some(partition), To::Processes)?;
            }
            clear(directory);
            make_directory(controller, directory)?;
        }
        Ok(())
    }

    /// Makes the guest's own group in this one, which systemd made for it, and moves its process there: what systemd made
    /// is systemd's to tune, and version 2 lets no group have both processes and groups with controllers.
    ///
    /// # Errors
    /// The kernel's, with the directory.
    pub fn nest(&self, pid: i32) -> Result<Self> {
        if self.directories().iter().any(|(_, unit)| unit.ends_with(NESTED)) {
            return Ok(self.clone());
        }
        let nested = self.child(NESTED);
        for (controller, directory) in nested.directories() {
            make_directory(controller, directory)?;
        }
        nested.take_process(pid)?;
        if let Some(unit) = &self.v2 {
            self.give_controllers(Some(unit), To::Processes)?;
        }
        Ok(nested)
    }

    /// Makes the group of a thread in a guest's that is there.
    ///
    /// # Errors
    /// The kernel's, with the directory.
    pub fn make_part(&self) -> Result<()> {
        for (controller, directory) in self.directories() {
            make_directory(controller, directory)?;
            if controller.is_none() {
                write(directory, "cgroup.type", "threaded")?;
                self.give_controllers(directory.parent(), To::Threads)?;
            }
        }
        Ok(())
    }

    /// Moves a process into it. The kernel's first move for a while takes some milliseconds.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_process(&self, pid: i32) -> Result<()> {
        self.take(pid, "cgroup.procs")
    }

    /// Moves a thread into it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_thread(&self, tid: i32) -> Result<()> {
        self.take(tid, "cgroup.threads")
    }

    fn take(&self, id: i32, unified: &str) -> Result<()> {
        for (controller, directory) in self.directories() {
            write(
                directory,
                if controller.is_some() { "tasks" } else { unified },
                &id.to_string(),
            )?;
        }
        Ok(())
    }

    /// Removes it with the groups in it; what is not there is no error.
    ///
    /// # Errors
    /// The kernel's; somebody is in it.
    pub fn remove(&self) -> Result<()> {
        // One that can't be removed keeps no other.
        let results: Vec<Result<()>> = self
            .directories()
            .into_iter()
            .map(|(_, directory)| remove_tree(directory))
            .collect();
        results.into_iter().collect()
    }

    /// Its directories, each once; with the controller where it is one of version 1.
    fn directories(&self) -> Vec<(Option<Controller>, &Path)> {
        let mut found: Vec<(Option<Controller>, &Path)> = self
            .v2
            .iter()
            .map(|directory| (None, directory.as_path()))
            .collect();
        for controller in Controller::ALL {
            if let Some((Backend::V1, directory)) = self.directory(controller)
                && found.iter().all(|(_, known)| *known != directory)
            {
                found.push((Some(controller), directory));
            }
        }
        found
    }

    /// Lets the groups in `parent` use what version 2 has: all of it, or what threads can have.
    fn give_controllers(&self, parent: Option<&Path>, to: To) -> Result<()> {
        let (Some(unified), Some(parent)) = (&self.host.v2, parent) else {
            return Ok(());
        };
        let given = |c: &Controller| unified.has[*c as usize] && (to == To::Processes || c.is_of_threads());
        for name in Controller::ALL
            .into_iter()
            .filter(given)
            .filter_map(Controller::unified_name)
        {
            write(parent, "cgroup.subtree_control", &format!("+{name}"))?;
        }
        Ok(())
    }

    pub(super) fn read(&self, controller: Controller, file: &str) -> Result<String> {
        read(self.required(controller)?.1, file)
    }

    pub(super) fn write(&self, controller: Controller, file: &str, value: &str) -> Result<()> {
        write(self.required(controller)?.1, file, value)
    }

    /// The CPUs that its threads may run on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_cpus(&self, cpus: &str) -> Result<()> {
        self.write(Controller::CpuSet, "cpuset.cpus", cpus)
    }

    /// The nodes that its memory comes from.
    ///
    /// # Errors
    /// The kernel's.
    pub fn nodes(&self) -> Result<String> {
        self.read(Controller::CpuSet, "cpuset.mems")
    }

    /// Sets the nodes that its memory comes from.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_nodes(&self, nodes: &str) -> Result<()> {
        self.write(Controller::CpuSet, "cpuset.mems", nodes)
    }

    /// Whether memory follows when the nodes change. Version 2 always does so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn migrate_memory(&self) -> Result<()> {
        match self.required(Controller::CpuSet)?.0 {
            Backend::V1 => self.write(Controller::CpuSet, "cpuset.memory_migrate", "1"),
            Backend::V2 => Ok(()),
        }
    }
}

/// The path of the guest's group in that of a process, without the part for a thread: none if it is no guest's. In a unit
/// of systemd's it is the group in it where there is one.
fn guest_part(path: &str) -> Option<&str> {
    let path = path.trim_start_matches('/');
    let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
    let group = if is_part_name(last) { above } else { path };
    let machine = group.strip_suffix("/libvirt").unwrap_or(group);
    let name = machine.rsplit('/').next().unwrap_or(machine);
    let is_guest = name.ends_with(OWN) || (name.starts_with("machine-qemu") && name.ends_with(".scope"));
    is_guest.then_some(group)
}

fn is_part_name(name: &str) -> bool {
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    name == "emulator" || numbered("vcpu") || numbered("iothread")
}

/// Removes what a former run of that name and number left, with the limits that it had. One in use stays.
fn clear(directory: &Path) {
    let parts = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for part in parts.filter(|path| path.is_dir()).chain([directory.to_owned()]) {
        // A group with processes is the kernel's to keep.
        let _ = fs::remove_dir(part);
    }
}

fn make_directory(controller: Option<Controller>, directory: &Path) -> Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => {
            return Err(Error::new(
                format_args!("Failed to create cgroup '{}'", directory.display()),
                error,
            ));
        }
        Ok(()) => {}
    }
    // A new one has no CPUs and no memory, and nothing can be moved into it.
    if let (Some(Controller::CpuSet), Some(parent)) = (controller, directory.parent()) {
        for file in ["cpuset.cpus", "cpuset.mems", "cpuset.memory_migrate"] {
            write(directory, file, &read(parent, file)?)?;
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "callers are on a thread that may block, and it is only for milliseconds, if somebody is still in it"
)]
fn remove_tree(directory: &Path) -> Result<()> {
    for attempt in 1.. {
        let result = remove_once(directory);
        match result {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && attempt < REMOVALS => {
                thread::sleep((PAUSE * (1 << attempt.min(5))).min(LONGEST))
            }
            other => {
                return other.map_err(|error| {
                    Error::new(format_args!("Unable to remove '{}'", directory.display()), error)
                });
            }
        }
    }
    Ok(())
}

fn remove_once(directory: &Path) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(directory) {
        Err(error) if gone(&error) => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn read(directory: &Path, file: &str) -> Result<String> {
    let path = directory.join(file);
    let text = fs::read_to_string(&path)
        .map_err(|error| Error::new(format_args!("Unable to read from '{}'", path.display()), error))?;
    Ok(text.trim_end().to_owned())
}

pub(super) fn write(directory: &Path, file: &str, value: &str) -> Result<()> {
    let path = directory.join(file);
    // The kernel takes one value a write, and makes no files.
    let written = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EINVAL) => Error::new(format_args!("Invalid value '{value}' for '{file}'"), error),
        _ => Error::new(format_args!("Unable to write to '{}'", path.display()), error),
    })
}
