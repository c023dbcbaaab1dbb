//! Whether a snapshot can be made as its document wants it: kind, state and memory, and each disk. Pure but for one
//! question about files.

use domxml::{
    Domain,
    devices::{Disk, SnapshotMode, StorageFormat, StorageKind},
    moment::{Snapshot, SnapshotDisk, SnapshotState},
};

use super::align::{self, unfit};
use crate::{
    domain::{RunState, View},
    error::{Code, Error, Result},
    ops::holdings::storage::chain::local_path,
};

/// Where the parts of a snapshot are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In the guest's own images.
    Internal,
    /// The images stay as they are, and others are written to.
    External,
}

/// What is known of a guest of which a snapshot is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// It runs.
    pub(crate) active: bool,
    /// What it does.
    pub(crate) state: RunState,
}

/// How the snapshot is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Without memory.
    pub(crate) disk_only: bool,
    /// In images that are there already.
    pub(crate) reuse: bool,
}

fn unsupported(text: impl Into<String>) -> Error {
    Error::new(Code::OperationUnsupported, text.into())
}

fn config(text: impl Into<String>) -> Error {
    Error::new(Code::ConfigUnsupported, text.into())
}

impl Guest {
    /// What a view tells of it.
    pub(crate) fn of(view: &View) -> Self {
        Self {
            active: view.active(),
            state: view.condition.state(),
        }
    }

    /// Refuses states of which there are no snapshots.
    ///
    /// # Errors
    /// `OperationUnsupported`.
    pub(crate) fn check_state(self) -> Result<()> {
        match self.state {
            RunState::PmSuspended => Err(unsupported(
                "qemu doesn't support taking snapshots of PMSUSPENDED guests",
            )),
            _ => Ok(()),
        }
    }

    fn snapshot_state(self) -> SnapshotState {
        match self.state {
            RunState::Running => SnapshotState::Running,
            RunState::Paused => SnapshotState::Paused,
            RunState::Shutdown => SnapshotState::Shutdown,
            RunState::Shutoff => SnapshotState::Shutoff,
            RunState::Crashed => SnapshotState::Crashed,
            RunState::PmSuspended => SnapshotState::PmSuspended,
        }
    }
}

/// Decides kind, state, memory and disks of a snapshot, and writes them into it.
///
/// # Errors
/// It can't be made so; in libvirt's words and order.
pub(crate) fn choose(
    snapshot: &mut Snapshot,
    document: &Domain,
    (guest, wanted): (Guest, Wanted),
    is_file: &dyn Fn(&str) -> bool,
) -> Result<Kind> {
    let external_memory = snapshot.memory.mode == Some(SnapshotMode::External);
    let mut modes = snapshot.disks.iter().map(|disk| disk.mode);
    let external_disk = modes.any(|mode| mode == Some(SnapshotMode::External));
    let kind = match wanted.disk_only || external_memory || (!guest.active && external_disk) {
        true => Kind::External,
        false => Kind::Internal,
    };
    snapshot.state = guest.snapshot_state();
    let default = match kind {
        Kind::External => {
            if wanted.disk_only {
                let live = guest.active.then_some(SnapshotState::DiskSnapshot);
                snapshot.state = live.unwrap_or(SnapshotState::Shutoff);
            }
            if wanted.disk_only || !guest.active {
                snapshot.memory.mode = Some(SnapshotMode::No);
            }
            SnapshotMode::External
        }
        Kind::Internal => {
            if guest.active && snapshot.memory.mode == Some(SnapshotMode::No) {
                return Err(unsupported(
                    "internal snapshot of a running VM must include the memory state",
                ));
            }
            snapshot.memory.mode = Some(match guest.active {
                true => SnapshotMode::Internal,
                false => SnapshotMode::No,
            });
            SnapshotMode::Internal
        }
    };
    align::align(snapshot, &document.devices.disks, default, is_file)?;
    Ok(kind)
}

/// What is done with the disks of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    internal: bool,
    external: bool,
    /// Somebody else makes a part.
    pub(crate) manual: bool,
    /// A disk takes no part that would have to in an internal snapshot.
    left_out: bool,
}

impl Found {
    /// Takes in how one disk takes part.
    pub(crate) fn add(&mut self, disk: &Disk, part: &SnapshotDisk) {
        match part.mode {
            Some(SnapshotMode::Internal) => self.internal = true,
            Some(SnapshotMode::External) => self.external = true,
            Some(SnapshotMode::Manual) => (self.manual, self.left_out) = (true, true),
            _ => self.left_out |= !qemu_plan::block::is_empty(disk) && !disk.readonly,
        }
    }

    /// Refuses what can't be in one snapshot.
    ///
    /// # Errors
    /// `ConfigUnsupported`.
    pub(crate) fn check(self, snapshot: &Snapshot) -> Result<()> {
        let memory = snapshot.memory.mode.unwrap_or(SnapshotMode::No);
        if !self.internal && !self.external && memory == SnapshotMode::No {
            return Err(config("nothing selected for snapshot"));
        }
        let lonely_memory = memory == SnapshotMode::Internal && !self.internal;
        if lonely_memory || self.internal && self.left_out {
            return Err(config(
                "internal and full system snapshots require all disks to be selected for snapshot",
            ));
        }
        if snapshot.state == SnapshotState::DiskSnapshot && !self.external {
            return Err(config(
                "disk-only snapshots require at least one disk to be selected for snapshot",
            ));
        }
        if self.internal && (self.external || memory == SnapshotMode::External) {
            return Err(config(
                "mixing internal and external targets for a snapshot is not yet supported",
            ));
        }
        Ok(())
    }
}

/// Refuses a disk of which no internal snapshot can be made.
///
/// # Errors
/// `ConfigUnsupported`; `Internal` for a source that only QEMU opens, of a guest that is off.
pub(crate) fn check_internal(disk: &Disk, state: SnapshotState, active: bool) -> Result<()> {
    let target = &disk.target.dev;
    if state == SnapshotState::DiskSnapshot && active {
        return Err(config(format!(
            "active qemu domains require external disk snapshots; disk {target} requested internal"
        )));
    }
    if !active {
        check_local("internal inactive", disk.kind, disk.source.as_ref())?;
    }
    match disk.driver.as_ref().and_then(|driver| driver.kind) {
        None | Some(StorageFormat::Qcow2) => Ok(()),
        Some(format) => Err(config(format!(
            "internal snapshot for disk {target} unsupported for storage type {}",
            format.as_str()
        ))),
    }
}

/// Refuses a source that is no file or device of the host.
///
/// # Errors
/// `Internal`, in libvirt's words.
pub(crate) fn check_local(
    what: &str,
    kind: StorageKind,
    source: Option<&domxml::devices::Source>,
) -> Result<()> {
    let located = source.map_or(kind, |source| source.located(kind).0);
    match located {
        StorageKind::File | StorageKind::Block => Ok(()),
        StorageKind::Network => {
            let protocol = source
                .and_then(|source| source.protocol)
                .map_or("none", |p| p.as_str());
            Err(Error::internal(format!(
                "{what} snapshots are not supported on 'network' disks using '{protocol}' protocol"
            )))
        }
        other => Err(Error::internal(format!(
            "{what} snapshots are not supported on '{}' disks",
            other.as_str()
        ))),
    }
}

/// Refuses firmware variables that an internal snapshot of a running guest can't have a part of.
///
/// # Errors
/// `OperationUnsupported`.
pub(crate) fn check_nvram(document: &Domain) -> Result<()> {
    match document.os.nvram.as_ref() {
        Some(nvram) if nvram.format.as_deref() != Some("qcow2") => Err(unsupported(
            "internal snapshots of a VM with pflash based firmware require QCOW2 nvram format",
        )),
        _ => Ok(()),
    }
}

/// The disks of a document beside their parts in a snapshot.
///
/// # Errors
/// A disk of the snapshot is not in the document.
pub(crate) fn parts<'a>(
    snapshot: &'a Snapshot,
    document: &'a Domain,
) -> Result<Vec<(&'a SnapshotDisk, &'a Disk)>> {
    let mut parts = Vec::new();
    for part in &snapshot.disks {
        let disk = document
            .devices
            .disks
            .iter()
            .find(|disk| disk.target.dev == part.name);
        parts.push((
            part,
            disk.ok_or_else(|| unfit(format!("no disk named '{}'", part.name)))?,
        ));
    }
    Ok(parts)
}

/// The path of a disk's image on the host.
pub(crate) fn image_path(disk: &Disk) -> Option<std::path::PathBuf> {
    local_path(disk.kind, disk.source.as_ref())
}

#[cfg(test)]
mod tests {
    use domxml::moment::Given;

    use super::*;

    const DISKS: &str = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a'/>\
        <target dev='vda'/></disk><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
        <source file='/i/b'/><target dev='vdb'/></disk>";

    fn document() -> Domain {
        let text = format!("<domain type='qemu'><name>a</name><devices>{DISKS}</devices></domain>");
        Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap()
    }

    fn chosen(inside: &str, state: RunState, wanted: Wanted) -> Result<(Kind, Snapshot)> {
        let active = state != RunState::Shutoff;
        let guest = Guest { active, state };
        guest.check_state()?;
        let text = format!("<domainsnapshot><name>s</name>{inside}</domainsnapshot>");
        let given = Given {
            offline: !active || wanted.disk_only,
            ..Given::default()
        };
        let mut snapshot = Snapshot::given(&text, given)?;
        let document = document();
        let kind = choose(&mut snapshot, &document, (guest, wanted), &|_| true)?;
        let mut found = Found::default();
        for (part, disk) in parts(&snapshot, &document)? {
            if part.mode == Some(SnapshotMode::Internal) {
                check_internal(disk, snapshot.state, active)?;
            }
            found.add(disk, part);
        }
        found.check(&snapshot)?;
        Ok((kind, snapshot))
    }

    #[test]
    fn what_can_not_be_one_snapshot_is_refused() {
        use RunState::{Paused, PmSuspended, Running, Shutoff};
        let all = Wanted::default();
        let disks = Wanted {
            disk_only: true,
            ..all
        };
        let only = |a: &str, b: &str| {
            format!("<disks><disk name='vda' snapshot='{a}'/><disk name='vdb' snapshot='{b}'/></disks>")
        };
        let cases = [
            (
                String::new(),
                PmSuspended,
                all,
                "qemu doesn't support taking snapshots of PMSUSPENDED guests",
            ),
            (
                "<memory snapshot='no'/>".into(),
                Running,
                all,
                "internal snapshot of a running VM must include the memory state",
            ),
            (
                String::new(),
                Shutoff,
                all,
                "internal snapshot for disk vdb unsupported for storage type raw",
            ),
            (only("no", "no"), Running, disks, "nothing selected for snapshot"),
            (
                only("internal", "no"),
                Running,
                disks,
                "active qemu domains require external disk snapshots; disk vda requested internal",
            ),
            (
                only("manual", "no"),
                Paused,
                disks,
                "nothing selected for snapshot",
            ),
        ];
        for (inside, state, wanted, message) in cases {
            assert_eq!(
                chosen(&inside, state, wanted).unwrap_err().message,
                message,
                "{inside}"
            );
        }
    }

    #[test]
    fn kind_state_and_memory_follow_from_the_guest_and_the_wish() {
        let disks = Wanted {
            disk_only: true,
            ..Wanted::default()
        };
        let (kind, snapshot) = chosen("", RunState::Running, disks).unwrap();
        assert_eq!(
            (kind, snapshot.state),
            (Kind::External, SnapshotState::DiskSnapshot)
        );
        assert_eq!(snapshot.memory.mode, Some(SnapshotMode::No));
        let (kind, snapshot) = chosen("", RunState::Shutoff, disks).unwrap();
        assert_eq!((kind, snapshot.state), (Kind::External, SnapshotState::Shutoff));
        let memory = "<memory snapshot='external' file='/m'/>";
        let (kind, snapshot) = chosen(memory, RunState::Paused, Wanted::default()).unwrap();
        assert_eq!((kind, snapshot.state), (Kind::External, SnapshotState::Paused));
    }
}
