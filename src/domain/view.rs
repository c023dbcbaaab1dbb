//! What is known of one guest, as an immutable snapshot.
//!
//! The owner task makes a new one for every commit; everybody else reads the newest through
//! [`Domain::view`](super::Domain::view) and never waits. Documents are shared between snapshots.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use domxml::StatusDocument;
use uuid::Uuid;

use super::{Condition, Document, Either, Stored, snapshots::Snapshots};
use crate::{
    error::Result,
    events::{
        Version,
        model::{EventKind, event::MomentChange},
    },
};

/// What was settled when QEMU was started, and does not change while it runs.
#[derive(Clone)]
pub struct Launched {
    /// Number of the run, 1 or more.
    pub id: i32,
    /// QEMU's process; 0 until it was started.
    pub pid: i32,
    /// When the process started, in clock ticks after boot: its number may be another's later. 0 if not known.
    pub start_time: u64,
    /// The stored configuration that the run began with, if it had one.
    pub config: Option<Arc<Stored>>,
    /// Label that the process runs under.
    pub label: Option<Arc<str>>,
    /// A client's session that the run ends with.
    pub session: Option<Arc<str>>,
}

/// What this daemon has seen of a run. No file has it: the next daemon looks for itself.
#[derive(Clone, Default, PartialEq)]
pub struct Seen {
    /// Why QEMU can't be asked at present.
    pub unreachable: Option<Arc<str>>,
    /// What an operation left half done and could not undo; none if the run is as its document says.
    pub degraded: Option<Arc<str>>,
    /// Size of the balloon as QEMU last told, KiB; none before it did.
    pub balloon_kib: Option<u64>,
    /// The monitor's state since when, for whom asks about it.
    pub occupied_since: Option<Instant>,
}

/// What belongs to one run of a guest, in three parts by how long they live: what was settled at its start, what the
/// status file keeps while it changes (all that stands here itself), and what only this daemon has seen.
#[derive(Clone)]
pub struct Run {
    /// What was settled at its start.
    pub launched: Launched,
    /// The document as it runs.
    pub document: Arc<Document>,
    /// What a daemon needs to take the run over: the status file but for state, taints, document. What is in it that we do
    /// not know, another daemon's jobs, is kept.
    pub status: Arc<StatusDocument>,
    /// It is being started: nobody has been told of it yet.
    pub starting: bool,
    /// What makes this run unsupported: libvirt's taint words.
    pub taints: BTreeSet<&'static str>,
    /// Uses of deprecated features, in QEMU's words.
    pub deprecations: Vec<Arc<str>>,
    /// The next shutdown of the guest is to become a reset.
    pub fake_reboot: bool,
    /// What only this daemon has seen.
    pub seen: Seen,
}

impl Launched {
    fn is_same(&self, other: &Self) -> bool {
        let Self {
            id,
            pid,
            start_time,
            config,
            label,
            session,
        } = self;
        (*id, *pid, *start_time) == (other.id, other.pid, other.start_time)
            && is_same_document(config.as_ref(), other.config.as_ref())
            && (label, session) == (&other.label, &other.session)
    }
}

impl Run {
    /// Whether nothing is different. Documents that were made anew are taken as different.
    fn is_same(&self, other: &Self) -> bool {
        let Self {
            launched,
            document,
            status,
            starting,
            taints,
            deprecations,
            fake_reboot,
            seen,
        } = self;
        launched.is_same(&other.launched)
            && Arc::ptr_eq(document, &other.document)
            && Arc::ptr_eq(status, &other.status)
            && (taints, deprecations, seen) == (&other.taints, &other.deprecations, &other.seen)
            && (*starting, *fake_reboot) == (other.starting, other.fake_reboot)
    }
}

fn is_same_document(one: Option<&Arc<Stored>>, other: Option<&Arc<Stored>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// One guest at one moment.
#[derive(Clone)]
pub struct View {
    /// Who it is.
    pub uuid: Uuid,
    /// What it is called.
    pub name: Arc<str>,
    /// Its stored configuration.
    pub config: Option<Arc<Stored>>,
    /// Its run, if it has one.
    pub run: Option<Run>,
    /// State and reason.
    pub condition: Condition,
    /// Starts with the host.
    pub autostart: bool,
    /// Starts with the host the next time.
    pub autostart_once: bool,
    /// It has an image of a managed save, which its next start is to go on from.
    pub managed_save: bool,
    /// An operation goes on with it although it neither runs nor is stored at this moment.
    pub kept: bool,
    /// Its snapshots.
    pub snapshots: Arc<Snapshots>,
    /// Its checkpoints.
    pub checkpoints: Arc<Snapshots>,
    /// Counts commits; never repeats, not even over restarts of the daemon.
    pub generation: u64,
    /// The event that last changed it.
    pub version: Version,
    /// Who and in what state, as lists send it; encoded by the first that does.
    pub encoded: OnceLock<Bytes>,
}

impl View {
    /// A guest of which nothing is known but who it is.
    pub fn new(uuid: Uuid, name: Arc<str>, generation: u64) -> Self {
        Self {
            uuid,
            name,
            config: None,
            run: None,
            condition: Condition::SHUTOFF_UNKNOWN,
            autostart: false,
            autostart_once: false,
            managed_save: false,
            kept: false,
            snapshots: Arc::default(),
            checkpoints: Arc::default(),
            generation,
            version: Version { epoch: 0, counter: 0 },
            encoded: OnceLock::new(),
        }
    }

    /// Whether there is such a guest: it is defined, or runs.
    pub fn exists(&self) -> bool {
        self.config.is_some() || self.run.is_some() || self.kept
    }
    /// All its snapshots and checkpoints, as if they were new.
    pub fn moments(&self) -> Vec<(EventKind, MomentChange)> {
        let none = Snapshots::default();
        let of = |kind, tree: &Snapshots| tree.changes_since(&none).into_iter().map(move |one| (kind, one));
        of(EventKind::Snapshot, &self.snapshots)
            .chain(of(EventKind::Checkpoint, &self.checkpoints))
            .collect()
    }
    /// Whether it runs.
    pub fn active(&self) -> bool {
        self.run.is_some()
    }
    /// Number of its run, 0 if it does not run.
    pub fn id(&self) -> i32 {
        self.run.as_ref().map_or(0, |r| r.launched.id)
    }
    /// Whether nothing that can change is different; generation and version aside.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let runs = match (&self.run, &other.run) {
            (Some(one), Some(other)) => one.is_same(other),
            (None, None) => true,
            _ => false,
        };
        runs && self.name == other.name
            && is_same_document(self.config.as_ref(), other.config.as_ref())
            && self.condition == other.condition
            && (self.autostart, self.autostart_once) == (other.autostart, other.autostart_once)
            && self.managed_save == other.managed_save
            && self.kept == other.kept
            && Arc::ptr_eq(&self.snapshots, &other.snapshots)
            && Arc::ptr_eq(&self.checkpoints, &other.checkpoints)
    }

    /// Changes with every commit that changes something.
    pub fn etag(&self) -> String {
        format!("{:x}", self.generation)
    }
    /// The document that describes it now: of the run if it runs.
    pub fn current(&self) -> Option<Either<'_>> {
        self.run
            .as_ref()
            .map(|r| Either::Live(&r.document))
            .or(self.config.as_ref().map(Either::Stored))
    }
    /// The document of its next start.
    pub fn inactive(&self) -> Option<Either<'_>> {
        self.config
            .as_ref()
            .map(Either::Stored)
            .or(self.run.as_ref().map(|r| Either::Live(&r.document)))
    }
    /// The run.
    ///
    /// # Errors
    /// `OperationInvalid` if it does not run, as libvirt words it.
    pub fn running(&self) -> Result<&Run> {
        self.run.as_ref().ok_or_else(crate::error::Error::not_running)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("name", &self.name)
            .field("uuid", &self.uuid)
            .field("id", &self.id())
            .field("condition", &self.condition)
            .field("persistent", &self.config.is_some())
            .finish_non_exhaustive()
    }
}
