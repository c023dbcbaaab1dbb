//! What a daemon has of its host: files, directories, sockets, processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::{Sandbox, process};

/// What is there now, logs and what is cached apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Host {
    files: BTreeSet<PathBuf>,
    processes: usize,
}

impl Host {
    /// As the daemon sees it.
    pub(crate) fn of(sandbox: &Sandbox) -> Result<Self> {
        let root = root(sandbox)?;
        let mut files = BTreeSet::new();
        for dir in ["etc/libvirt/qemu", "run/libvirt/qemu", "var/lib/libvirt/qemu"] {
            walk(&root, &root.join(dir), &mut files)?;
        }
        files.retain(|path| !is_kept(path));
        Ok(Self {
            files,
            processes: processes(sandbox)?.len(),
        })
    }

    /// That nothing has come or gone since.
    pub(crate) fn is_same(&self, now: &Self) -> Result<()> {
        let more: Vec<_> = now.files.difference(&self.files).collect();
        let less: Vec<_> = self.files.difference(&now.files).collect();
        ensure!(more.is_empty() && less.is_empty(), "left {more:?}, gone {less:?}");
        let (before, after) = (self.processes, now.processes);
        ensure!(before == after, "{before} processes before, {after} after");
        Ok(())
    }
}

/// The root directory as the daemon sees it.
pub(crate) fn root(sandbox: &Sandbox) -> Result<PathBuf> {
    let pid = sandbox.pid().context("no daemon")?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
}

/// QEMUs, real or not, that were started in a sandbox and live.
pub(crate) fn processes(sandbox: &Sandbox) -> Result<Vec<i32>> {
    let daemon = sandbox.pid().context("no daemon")?;
    let own = process::mount_namespace(daemon);
    // Namespaces come and go with daemons: the files that a guest's command line names stay.
    // Mounts are named from the beginning of their filesystem, whatever that is mounted on.
    let dir = sandbox.dir().file_name().context("a directory without a name")?;
    let dir = format!("/{}", dir.to_string_lossy());
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let is_its = |pid: i32| process::mount_namespace(pid) == own || private_to(pid, &dir);
    Ok(process::find(|pid| {
        pid != daemon && process::alive(pid) && name(pid).starts_with("qemu") && is_its(pid)
    }))
}

/// Whether a process sees the sandbox in the place of libvirt's directories.
fn private_to(pid: i32, dir: &str) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.contains(&format!("{dir}/run/libvirt ")))
}

fn walk(root: &Path, dir: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        files.insert(path.strip_prefix(root)?.to_path_buf());
        if path.is_dir() && !path.is_symlink() {
            walk(root, &path, files)?;
        }
    }
    Ok(())
}

/// What stays by design: the journal, and directories that hold one of each guest.
fn is_kept(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    // The mark comes once autostart is done, some time after the sockets.
    ["journal.", "answers."].iter().any(|kept| name.starts_with(kept))
        || matches!(name.as_str(), "autostarted" | "autostarted.new")
        || text.ends_with("qemu/virtqemud")
        || text.ends_with("qemu/channel")
}
