//! `<filesystem>`: a directory of the host that the guest mounts.

use xmlform::Xml;

use super::common::{OnOff, Size, VirtioModel, VirtioOptions, words};
use super::info::DeviceInfo;

words! {
    /// Kind of the source.
    FilesystemKind {
        Mount "mount", Block "block", File "file", Template "template", Ram "ram",
        Bind "bind", Volume "volume",
    }
    /// Whose identity the guest's files get on the host.
    AccessMode { Passthrough "passthrough", Mapped "mapped", Squash "squash" }
    /// What happens when one export spans several devices.
    Multidevs { Default "default", Remap "remap", Forbid "forbid", Warn "warn" }
    /// Driver of a filesystem.
    FilesystemDriverKind {
        Path "path", Handle "handle", Loop "loop", Nbd "nbd", Ploop "ploop",
        Virtiofs "virtiofs", Mtp "mtp",
    }
    /// When a write is on disk.
    WritePolicy { Immediate "immediate" }
    /// Caching of virtiofsd.
    VirtiofsCacheMode { None "none", Always "always" }
    /// How virtiofsd confines itself.
    VirtiofsSandboxMode { Namespace "namespace", Chroot "chroot" }
}

/// A shared directory.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Filesystem {
    #[xml(attr = "type", default, always)]
    pub kind: FilesystemKind,
    #[xml(attr, lax)]
    pub accessmode: Option<AccessMode>,
    #[xml(attr)]
    pub model: Option<VirtioModel>,
    #[xml(attr, lax)]
    pub multidevs: Option<Multidevs>,
    /// Mode of new files, octal.
    #[xml(attr, format = "super::codec::Octal4")]
    pub fmode: Option<u32>,
    /// Mode of new directories, octal.
    #[xml(attr, format = "super::codec::Octal4")]
    pub dmode: Option<u32>,
    #[xml(child)]
    pub driver: Option<FilesystemDriver>,
    #[xml(child)]
    pub binary: Option<FilesystemBinary>,
    #[xml(child)]
    pub idmap: Option<IdMap>,
    #[xml(child)]
    pub source: Option<FilesystemSource>,
    /// Mount tag the guest sees.
    #[xml(attr = "dir", wrap = "target")]
    pub target: Option<String>,
    #[xml(flag)]
    pub readonly: bool,
    #[xml(flatten)]
    pub info: DeviceInfo,
    #[xml(child, blank)]
    pub space_hard_limit: Option<Size>,
    #[xml(child, blank)]
    pub space_soft_limit: Option<Size>,
}

/// `<driver>` of a filesystem.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct FilesystemDriver {
    #[xml(attr = "type", lax)]
    pub kind: Option<FilesystemDriverKind>,
    #[xml(attr)]
    pub format: Option<String>,
    #[xml(attr, lax)]
    pub wrpolicy: Option<WritePolicy>,
    #[xml(attr, blank, format = "super::codec::Wrapped")]
    pub queue: Option<u64>,
    #[xml(flatten)]
    pub virtio: VirtioOptions,
}

/// `<binary>`: how virtiofsd is run.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct FilesystemBinary {
    #[xml(attr)]
    pub path: Option<String>,
    #[xml(attr)]
    pub xattr: Option<OnOff>,
    #[xml(attr = "mode", wrap = "cache")]
    pub cache: Option<VirtiofsCacheMode>,
    #[xml(attr = "mode", wrap = "sandbox")]
    pub sandbox: Option<VirtiofsSandboxMode>,
    #[xml(child)]
    pub lock: Option<VirtiofsLock>,
    #[xml(attr = "size", wrap = "thread_pool", blank)]
    pub thread_pool: Option<i32>,
    /// Highest number of open files.
    #[xml(attr = "max", wrap = "openfiles", blank, format = "super::codec::Wrapped")]
    pub openfiles: Option<u64>,
}

/// Which locks virtiofsd passes on.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtiofsLock {
    #[xml(attr)]
    pub posix: Option<OnOff>,
    #[xml(attr)]
    pub flock: Option<OnOff>,
}

/// `<source>` of a filesystem.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesystemSource {
    #[xml(attr)]
    pub dir: Option<String>,
    /// Socket of a virtiofsd that somebody else runs.
    #[xml(attr)]
    pub socket: Option<String>,
    #[xml(attr)]
    pub dev: Option<String>,
    #[xml(attr)]
    pub file: Option<String>,
    #[xml(attr)]
    pub name: Option<String>,
    #[xml(attr)]
    pub usage: Option<u64>,
    #[xml(attr)]
    pub units: Option<String>,
    #[xml(attr)]
    pub pool: Option<String>,
    #[xml(attr)]
    pub volume: Option<String>,
}

/// Maps guest ids to host ids.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    #[xml(children = "uid")]
    pub uids: Vec<IdRange>,
    #[xml(children = "gid")]
    pub gids: Vec<IdRange>,
}

/// A range of ids.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRange {
    #[xml(attr)]
    pub start: u32,
    #[xml(attr)]
    pub target: u32,
    #[xml(attr)]
    pub count: u32,
}
