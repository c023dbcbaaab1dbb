//! What is known of the long job of a guest, and of the last one that ended: libvirt's job information.
//!
//! Whoever carries out a long job posts here how far it is; whoever asks reads it and waits for nobody. It outlives the
//! run, but not the daemon.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use uuid::Uuid;

/// Bytes a second that memory may go with: no limit, as libvirt says it. The most MiB that a number with a sign has.
pub const NO_LIMIT: u64 = (1 << 63) - (1 << 20);

/// What a long job does: libvirt's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// The guest is started.
    Start = 1,
    /// The guest is saved.
    Save = 2,
    /// The guest is restored.
    Restore = 3,
    /// The guest comes from another host.
    MigrationIn = 4,
    /// The guest leaves for another host.
    MigrationOut = 5,
    /// A snapshot is made.
    Snapshot = 6,
    /// The guest is set back to a snapshot.
    SnapshotRevert = 7,
    /// The guest is dumped.
    Dump = 8,
    /// Disks are backed up.
    Backup = 9,
    /// A snapshot is removed.
    SnapshotDelete = 10,
}

impl Kind {
    /// libvirt's number.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// How far the transfer of a guest's memory is, as QEMU counts it. What is not told is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes in all.
    pub total: u64,
    /// Bytes written.
    pub processed: u64,
    /// Bytes left.
    pub remaining: u64,
    /// Bytes a second.
    pub bps: Option<u64>,
    /// Pages of one byte repeated, which take no room.
    pub constant: u64,
    /// Other pages.
    pub normal: u64,
    /// Their bytes.
    pub normal_bytes: u64,
    /// Pages a second that the guest changes.
    pub dirty_rate: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Passes over memory.
    pub iteration: u64,
    /// Pages that the other side asked for.
    pub postcopy_requests: u64,
    /// Time until the first byte went.
    pub setup: Option<Duration>,
    /// Time that the CPUs are expected to stand, or stood.
    pub downtime: Option<Duration>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Statistics {
    /// It tells nothing but its time.
    #[default]
    None,
    /// Memory goes through QEMU's migration.
    Transfer(Transfer),
    /// QEMU dumps memory.
    Dump {
        /// Bytes in all.
        total: u64,
        /// Bytes written.
        processed: u64,
    },
    /// Disks are copied.
    Disks {
        /// Bytes in all.
        total: u64,
        /// Bytes copied.
        processed: u64,
    },
    /// Disks are served, and what the guest writes over is kept aside.
    Scratch {
        /// Bytes that may be needed.
        total: u64,
        /// Bytes in use.
        used: u64,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Completed,
    /// It failed.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

/// A long job that is at work.
#[derive(Clone, Debug)]
pub struct Current {
    /// The operation that carries it out.
    pub operation: Uuid,
    /// What it does.
    pub kind: Kind,
    /// Why it can't be cancelled, in libvirt's words; none if it can.
    pub uncancellable: Option<&'static str>,
    /// When it began.
    pub since: Instant,
    /// The same, for the status file.
    pub started: SystemTime,
    /// How far it is.
    pub statistics: Statistics,
}

/// A long job that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it did.
    pub kind: Kind,
    /// How long it took.
    pub elapsed: Duration,
    /// How far it came.
    pub statistics: Statistics,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed, if that is told.
    pub cause: Option<String>,
}

/// The long jobs of one guest.
#[derive(Debug, Default)]
pub struct LongJobs {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    completed: Option<Ended>,
}

impl LongJobs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job begins.
    pub fn begin(&self, job: Current) {
        self.state().current = Some(job);
    }

    /// How far the job of an operation is.
    pub fn update(&self, operation: Uuid, statistics: Statistics) {
        if let Some(current) = self.state().current.as_mut().filter(|c| c.operation == operation) {
            current.statistics = statistics;
        }
    }

    /// The job of an operation has ended: it is shown no more. What is kept of it, `keep` says.
    pub fn end(&self, operation: Uuid, keep: Option<Ended>) {
        let mut state = self.state();
        if state.current.take_if(|c| c.operation == operation).is_some() && keep.is_some() {
            state.completed = keep;
        }
    }

    /// The job at work.
    pub fn current(&self) -> Option<Current> {
        self.state().current.clone()
    }

    /// The last one that ended.
    pub fn completed(&self) -> Option<Ended> {
        self.state().completed.clone()
    }

    /// The last one that ended, and it is forgotten.
    pub fn take_completed(&self) -> Option<Ended> {
        self.state().completed.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(operation: u128) -> Current {
        Current {
            operation: Uuid::from_u128(operation),
            kind: Kind::Save,
            uncancellable: None,
            since: Instant::now(),
            started: SystemTime::now(),
            statistics: Statistics::None,
        }
    }

    #[test]
    fn only_its_own_operation_moves_and_ends_a_job() {
        let jobs = LongJobs::default();
        jobs.begin(job(1));
        let statistics = Statistics::Dump {
            total: 2,
            processed: 1,
        };
        jobs.update(Uuid::from_u128(2), statistics);
        assert_eq!(jobs.current().unwrap().statistics, Statistics::None);
        jobs.update(Uuid::from_u128(1), statistics);
        assert_eq!(jobs.current().unwrap().statistics, statistics);
        let ended = Ended {
            kind: Kind::Save,
            elapsed: Duration::ZERO,
            statistics,
            outcome: Outcome::Completed,
            cause: None,
        };
        jobs.end(Uuid::from_u128(2), Some(ended.clone()));
        assert!(jobs.current().is_some() && jobs.completed().is_none());
        jobs.end(Uuid::from_u128(1), Some(ended));
        assert!(jobs.current().is_none() && jobs.completed().is_some());
        assert!(jobs.take_completed().is_some() && jobs.completed().is_none());
    }
}
