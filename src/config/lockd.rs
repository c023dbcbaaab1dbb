//! Every key of `qemu-lockd.conf`, and what the file says: which leases virtlockd is asked for.
//!
//! Read where qemu.conf says `lock_manager = "lockd"`, and only there.

use std::path::{Path as FsPath, PathBuf};

use super::document::Document;
use super::key::Default::{Flag, Unset};
use super::key::Kind::{self, Path};
use super::key::Support::Restart;
use super::key::{Section, Table, key};

const SWITCH: Kind = Kind::Flag;

/// `qemu-lockd.conf`: leases of disks through virtlockd.
pub static LOCKD: Table = Table {
    file: "qemu-lockd.conf",
    about: "Leases of disks through virtlockd. Read where qemu.conf says lock_manager = \"lockd\".\n\
            A change holds after a restart of the daemon.",
    sections: &[Section {
        title: "Leases",
        keys: &[
            key(
                "auto_disk_leases",
                SWITCH,
                Flag(true),
                Restart,
                "Take a lease of every disk of a guest that it can write to. Otherwise a guest has those that its XML names\nwith <lease>.",
            ),
            key(
                "require_lease_for_disks",
                SWITCH,
                Unset("1"),
                Restart,
                "Refuse a guest with a disk that it alone writes to and without any lease. Without this setting: where\nauto_disk_leases is off.",
            ),
            key(
                "file_lockspace_dir",
                Path,
                Unset("\"/var/lib/libvirt/lockd/files\""),
                Restart,
                "Directory of files that stand for images, for locks on these instead of the images themselves. Hosts that share\nimages must share it, and name images alike.",
            ),
            key(
                "lvm_lockspace_dir",
                Path,
                Unset("\"/var/lib/libvirt/lockd/lvmvolumes\""),
                Restart,
                "The same for LVM volumes, which are told apart by their UUIDs, whatever their paths.",
            ),
            key(
                "scsi_lockspace_dir",
                Path,
                Unset("\"/var/lib/libvirt/lockd/scsivolumes\""),
                Restart,
                "The same for SCSI disks, which are told apart by their identifiers, whatever their paths.",
            ),
        ],
    }],
    foreign: &[],
};

/// The file's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockdConfig {
    /// Every disk that a guest can write to has a lease.
    pub auto_disk_leases: bool,
    /// A guest with a disk of its own and without any lease is refused.
    pub require_lease_for_disks: bool,
    /// Where files stand for images.
    pub file_dir: Option<PathBuf>,
    /// Where files stand for LVM volumes.
    pub lvm_dir: Option<PathBuf>,
    /// Where files stand for SCSI disks.
    pub scsi_dir: Option<PathBuf>,
}

impl LockdConfig {
    /// Takes the values out of a document of [`LOCKD`].
    #[must_use]
    pub fn from_document(document: &Document) -> Self {
        let auto_disk_leases = document.flag("auto_disk_leases");
        Self {
            auto_disk_leases,
            require_lease_for_disks: match document.sets("require_lease_for_disks") {
                true => document.flag("require_lease_for_disks"),
                false => !auto_disk_leases,
            },
            file_dir: document.path("file_lockspace_dir"),
            lvm_dir: document.path("lvm_lockspace_dir"),
            scsi_dir: document.path("scsi_lockspace_dir"),
        }
    }

    /// Whether `path` is one of its directories, all of which virtlockd makes when asked to.
    #[must_use]
    pub fn keeps(&self, path: &FsPath) -> bool {
        [&self.file_dir, &self.lvm_dir, &self.scsi_dir]
            .into_iter()
            .flatten()
            .any(|dir| dir == path)
    }
}
