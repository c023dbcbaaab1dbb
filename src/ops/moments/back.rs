//! What a run begins with that goes on from a snapshot.

use std::{fmt, sync::Arc};

use domxml::moment::Snapshot;
use qemu_plan::block::Chain;

use super::{choose::Kind, external, internal, records::Change};
use crate::{
    domain::{Condition, Effects, Stored, View},
    error::Result,
    ops::{graph, operation::Context, run::guest::Guest},
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
    /// Where the guest's memory comes from; none if it boots.
    pub(crate) memory: Option<Kind>,
    /// Overlays that are put on once the memory is loaded.
    pub(crate) overlays: Option<Snapshot>,
    /// The snapshot becomes the current one.
    pub(crate) change: Change,
    /// What is stored of the guest afterwards, if anything is.
    pub(crate) config: Option<Arc<Stored>>,
}

impl Back {
    /// Sets memory and disks of a run back whose CPUs have not run yet: of one with memory in a file the memory is loaded
    /// already. `document` follows.
    ///
    /// # Errors
    /// What QEMU fails at.
    pub(crate) async fn load(
        &self,
        context: &Context,
        guest: &Arc<Guest>,
        document: &mut domxml::Domain,
    ) -> Result<()> {
        if self.memory == Some(Kind::Internal) {
            internal::load(guest, &self.snapshot).await?;
        }
        let Some(overlays) = &self.overlays else {
            return Ok(());
        };
        for after in external::on_loaded(context, guest, overlays).await? {
            let disk = graph::disk_mut(document, &after.target.dev)?;
            Chain::of(&after).put(disk);
        }
        Ok(())
    }

    /// The guest is back, and runs.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub(crate) fn tell(&self, view: &mut View, effects: Effects, paused: bool) -> Result<Effects> {
        let (condition, events) = match (self.memory.is_some(), paused) {
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
