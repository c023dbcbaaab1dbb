//! Jobs of a running guest, as the status file has them: the job of the whole guest, block jobs, backups.
//!
//! A daemon that finds them decides what becomes of them. Another daemon may know kinds and details that we do not:
//! words are open ([`Open`]) and everything else is kept ([`Rest`]).

use xmlform::{Expected, Rest, Value, Writer, Xml};

use crate::devices::common::{YesNo, words};
use crate::devices::{Format, Source, StorageFormat, StorageKind};
use crate::moment::Backup;

words! {
    /// Kind of a job that changes or asks something and is soon over.
    JobKind {
        None "none", Query "query", Destroy "destroy", Suspend "suspend", Modify "modify",
        Abort "abort", MigrationOperation "migration operation",
        ModifyMigrationSafe "modify migration safe",
    }
    /// Kind of a job that takes long and lets some others in.
    AsyncJob {
        None "none", MigrationOut "migration out", MigrationIn "migration in", Save "save",
        Dump "dump", Snapshot "snapshot", Start "start", Backup "backup",
    }
    /// Kind of a block job.
    BlockJobKind {
        Pull "pull", Copy "copy", Commit "commit", ActiveCommit "active-commit", Backup "backup",
        Create "create",
    }
    /// State of a block job.
    BlockJobState {
        New "new", Running "running", Ready "ready", Pivoting "pivoting", Aborting "aborting",
        Concluded "concluded", Completed "completed", Failed "failed", Cancelled "cancelled",
    }
}

/// A word of a list that may grow: one of ours, or kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open<T> {
    /// A word of the list.
    Known(T),
    /// Any other word.
    Other(String),
}

impl<T: Default> Default for Open<T> {
    fn default() -> Self {
        Self::Known(T::default())
    }
}

impl<T: Copy> Open<T> {
    /// The word, if it is one of the list.
    #[must_use]
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(word) => Some(*word),
            Self::Other(_) => None,
        }
    }
}

impl<T: Value> Value for Open<T> {
    fn parse(s: &str) -> Result<Self, Expected> {
        Ok(T::parse(s).map_or_else(|_| Self::Other(s.to_owned()), Self::Known))
    }

    fn write(&self, w: &mut Writer) {
        match self {
            Self::Known(word) => word.write(w),
            Self::Other(word) => w.escape(word),
        }
    }
}

/// The job that a daemon had begun.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    #[xml(attr = "type", default, always)]
    pub kind: Open<JobKind>,
    #[xml(attr = "async", default, always)]
    pub async_kind: Open<AsyncJob>,
    /// How far a migration was.
    #[xml(attr)]
    pub phase: Option<String>,
    /// Flags of the call that began it, hexadecimal.
    #[xml(attr)]
    pub flags: Option<String>,
    /// Milliseconds since the epoch.
    #[xml(attr = "asyncStarted")]
    pub async_started: Option<u64>,
    /// An external snapshot is removed: whoever finds it cancels its commits.
    #[xml(flag = "snapshotDelete")]
    pub snapshot_delete: bool,
    #[xml(rest)]
    pub rest: Rest,
}

/// Block jobs, when there may be any.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct BlockJobs {
    #[xml(attr, default, always)]
    pub active: YesNo,
    #[xml(children = "blockjob")]
    pub jobs: Vec<BlockJob>,
    #[xml(rest)]
    pub rest: Rest,
}

/// A block job.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct BlockJob {
    /// Id of the job in QEMU.
    #[xml(attr)]
    pub name: String,
    #[xml(attr = "type", default, always)]
    pub kind: Open<BlockJobKind>,
    #[xml(attr, default, always)]
    pub state: Open<BlockJobState>,
    /// The state that QEMU told and that is not dealt with yet.
    #[xml(attr)]
    pub newstate: Option<Open<BlockJobState>>,
    /// What the job was, if its data could not be read.
    #[xml(attr)]
    pub brokentype: Option<String>,
    /// Flags of the call that began it, hexadecimal.
    #[xml(attr)]
    pub jobflags: Option<String>,
    /// Whether a copy has the backing chain of the original.
    #[xml(attr)]
    pub shallownew: Option<YesNo>,
    #[xml(child)]
    pub disk: Option<BlockJobDisk>,
    /// Node of the image that stays or is written to.
    #[xml(attr = "node", wrap = "base")]
    pub base: Option<String>,
    /// Node of the image that is merged.
    #[xml(attr = "node", wrap = "top")]
    pub top: Option<String>,
    /// Node of the image above the one that is merged.
    #[xml(attr = "node", wrap = "topparent")]
    pub top_parent: Option<String>,
    /// The bitmap that a backup takes out of the disk's image in the end.
    #[xml(attr = "name", wrap = "bitmap")]
    pub bitmap: Option<String>,
    /// Where a backup writes.
    #[xml(child)]
    pub store: Option<BlockJobStore>,
    #[xml(rest)]
    pub rest: Rest,
}

/// The disk a block job is of.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockJobDisk {
    /// Target name of the disk.
    #[xml(attr)]
    pub dst: String,
    /// Whether the disk has a mirror.
    #[xml(attr)]
    pub mirror: Option<YesNo>,
    #[xml(rest)]
    pub rest: Rest,
}

/// Where a block job writes that has no mirror.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct BlockJobStore {
    #[xml(attr = "type")]
    pub kind: Option<StorageKind>,
    #[xml(attr = "format")]
    pub file_format: Option<StorageFormat>,
    #[xml(child)]
    pub format: Option<Format>,
    #[xml(child)]
    pub source: Option<Source>,
    #[xml(rest)]
    pub rest: Rest,
}

/// Backups under way.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Backups {
    #[xml(children = "domainbackup")]
    pub backups: Vec<Backup>,
    #[xml(rest)]
    pub rest: Rest,
}
