//! What a run begins with that goes on from a snapshot.

use std::{fmt, sync::Arc};

use domxml::moment::Snapshot;

use super::{internal, records::Change};
use crate::{
    domain::{Condition, Effects, Stored, View},
    error::Result,
    ops::run::guest::Guest,
};

/// libvirt's lifecycle events.
const DEFINED_FROM_SNAPSHOT: (i32, i32) = (0, 3);
const STARTED_FROM_SNAPSHOT: (i32, i32) = (2, 3);
const SUSPENDED_FROM_SNAPSHOT: (i32, i32) = (3, 5);
const RESUMED_UNPAUSED: (i32, i32) = (4, 0);
const RESUMED_FROM_SNAPSHOT: (i32, i32) = (4, 2);

/// The way back to a snapshot.
pub struct Back {
    /// Where to.
    pub(crate) snapshot: Snapshot,
    /// The guest's memory comes from it, and it does not boot.
    pub(crate) memory: bool,
    /// The snapshot becomes the current one.
    pub(crate) change: Change,
    /// What is stored of the guest afterwards, if anything is.
    pub(crate) config: Option<Arc<Stored>>,
}

impl Back {
    /// Sets memory and disks of a run back whose CPUs have not run yet.
    ///
    /// # Errors
    /// What QEMU fails at.
    pub(crate) async fn load(&self, guest: &Guest) -> Result<()> {
        match self.memory {
            true => internal::load(guest, &self.snapshot).await,
            false => Ok(()),
        }
    }

    /// The guest is back, and runs.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub(crate) fn tell(&self, view: &mut View, effects: Effects, paused: bool) -> Result<Effects> {
        let (condition, events) = match (self.memory, paused) {
            (true, false) => (
                Condition::RUNNING_FROM_SNAPSHOT,
                [STARTED_FROM_SNAPSHOT, RESUMED_FROM_SNAPSHOT],
            ),
            (true, true) => (
                Condition::PAUSED_FROM_SNAPSHOT,
                [STARTED_FROM_SNAPSHOT, SUSPENDED_FROM_SNAPSHOT],
            ),
            (false, false) => (
                Condition::RUNNING_BOOTED,
                [RESUMED_UNPAUSED, STARTED_FROM_SNAPSHOT],
            ),
            (false, true) => (
                Condition::PAUSED_USER,
                [STARTED_FROM_SNAPSHOT, SUSPENDED_FROM_SNAPSHOT],
            ),
        };
        view.condition = condition;
        let effects = events
            .into_iter()
            .fold(effects, |effects, (kind, detail)| effects.lifecycle(kind, detail));
        self.settle(view, effects)
    }

    /// The documents of a guest that is back.
    ///
    /// # Errors
    /// Its snapshots were changed meanwhile.
    pub(crate) fn settle(&self, view: &mut View, effects: Effects) -> Result<Effects> {
        self.change.clone().apply(view)?;
        view.kept = false;
        let Some(config) = &self.config else {
            return Ok(effects);
        };
        view.config = Some(Arc::clone(config));
        let (kind, detail) = DEFINED_FROM_SNAPSHOT;
        Ok(effects.lifecycle(kind, detail))
    }
}

impl fmt::Debug for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Back")
            .field("snapshot", &self.snapshot.moment.name)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}
