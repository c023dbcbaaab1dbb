//! What a binary's answers depend on: when none of it has changed, they have not.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    qemu::RunAs,
};

/// Where distributions keep QEMU's modules.
const MODULES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/qemu",
    "/usr/lib64/qemu",
    "/usr/lib/qemu",
];
/// The node of KVM.
const KVM: &str = "/dev/kvm";
/// Parameters of KVM that change what a guest CPU can have.
const KVM_PARAMETERS: &[&str] = &[
    "/sys/module/kvm_intel/parameters/nested",
    "/sys/module/kvm_amd/parameters/nested",
];

/// A binary and the host that it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// As it was asked for.
    pub(super) path: PathBuf,
    binary: Stamp,
    modules: Vec<Option<Stamp>>,
    kvm: bool,
    /// Mode, user and group of the node of KVM: who may use it.
    kvm_node: Option<(u32, u32, u32)>,
    /// User, group and groups that the binary is asked as.
    user: Option<(u32, u32, Vec<u32>)>,
    host: Host,
}

/// A file or directory at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What does not change while the daemon runs, unless the host's administrator loads another KVM or microcode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Host {
    kernel: String,
    /// Digest of vendor, signature, microcode and features.
    cpu: String,
    kvm_parameters: Vec<Option<String>>,
}

impl Identity {
    /// The binary at `path` as it is now, to be asked as `run_as`.
    pub(super) fn of(path: &Path, host: Host, run_as: Option<RunAs>) -> Result<Self> {
        let unusable = |error| Error::system(format!("Cannot check QEMU binary {}", path.display()), error);
        let meta = fs::metadata(path).map_err(unusable)?;
        if !meta.is_file() || meta.mode() & 0o111 == 0 {
            let why = io::Error::from(if meta.is_dir() {
                nix::errno::Errno::EISDIR
            } else {
                nix::errno::Errno::EACCES
            });
            return Err(
                Error::system(format!("QEMU binary {} is not executable", path.display()), why)
                    .because("QEMU_BINARY_UNUSABLE"),
            );
        }
        Ok(Self {
            path: path.to_owned(),
            binary: Stamp::of(&meta),
            modules: MODULES
                .iter()
                .map(|dir| Some(Stamp::of(&fs::metadata(dir).ok()?)))
                .collect(),
            kvm: is_kvm_usable(),
            kvm_node: fs::metadata(KVM)
                .ok()
                .map(|node| (node.mode(), node.uid(), node.gid())),
            user: run_as.map(|RunAs { uid, gid, groups }| (uid, gid, groups)),
            host,
        })
    }
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Host {
    pub(super) async fn read() -> Result<Self> {
        super::super::blocking(|| {
            let root = hostinfo::Root::at("/");
            let failed = |error: hostinfo::Error| Error::internal(error.to_string()).caused_by(error);
            let kernel = hostinfo::kernel(&root).map_err(failed)?;
            let mut cpu = hostinfo::cpu_identity(&root).map_err(failed)?;
            // The clock of the moment is nothing of the CPU's.
            cpu.mhz = 0;
            Ok(Self {
                kernel: format!("{} {}", kernel.release, kernel.version),
                cpu: hex(&Sha256::digest(format!("{cpu:?}"))),
                kvm_parameters: KVM_PARAMETERS
                    .iter()
                    .map(|path| fs::read_to_string(path).ok())
                    .collect(),
            })
        })
        .await?
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_kvm_usable() -> bool {
    let opened: io::Result<_> = OpenOptions::new().read(true).write(true).open(KVM);
    opened.is_ok()
}
