//! The owner task of one guest: the only writer of what is known of it.
//!
//! A change is a closure over a copy of the newest [`View`]. The owner runs it, writes the guest's files, publishes the
//! copy and appends the events, in that order, one change after another. The hard thing is the order: a reader that has
//! seen an event finds its effect in the view, and a daemon that is killed between two of the steps finds in the files
//! what it had not yet told.
//!
//! ```text
//!  monitor ──▶┐
//!             ├─▶ change(&mut next) ─▶ files ─▶ publish ─▶ events ─▶ answer
//!  commits ──▶┘        │ error: nothing happened
//! ```

use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::{oneshot, watch};

use super::{
    Registry, View,
    mailbox::{Mailbox, Next},
    snapshots::Snapshots,
    store::Store,
};
use crate::{
    error::{Error, Result},
    events::{Happening, Journal, lifecycle, model as pb},
};

/// What a change is to bring about beside the new view.
#[derive(Debug, Default)]
pub struct Effects {
    /// Events, in order. Those of a lifecycle get state and reason of the new view. What became of snapshots and
    /// checkpoints is found by comparing, and told first.
    pub events: Vec<(pb::EventKind, Option<pb::event::Detail>)>,
}

impl Effects {
    /// No events.
    pub fn none() -> Self {
        Self::default()
    }
    /// One lifecycle event, by libvirt's numbers.
    #[must_use]
    pub fn lifecycle(mut self, kind: i32, detail: i32) -> Self {
        self.events.push((
            pb::EventKind::Lifecycle,
            Some(pb::event::Detail::Lifecycle(lifecycle(kind, detail))),
        ));
        self
    }
    /// One event of another kind.
    #[must_use]
    pub fn event(mut self, kind: pb::EventKind, detail: Option<pb::event::Detail>) -> Self {
        self.events.push((kind, detail));
        self
    }
}

/// One change of a guest.
pub type Change = Box<dyn FnOnce(&mut View) -> Result<Effects> + Send>;

/// What the owner is told. Closed: whoever adds a variant decides its order in `run`.
pub(super) enum Message {
    /// Commit a change and say what came of it.
    Commit(Change, oneshot::Sender<Result<Arc<View>>>),
    /// The daemon ends: commit nothing more.
    Close,
}

/// What every owner shares.
pub(super) struct World {
    pub(super) store: Store,
    pub(super) journal: Journal,
    pub(super) registry: Weak<Registry>,
}

pub(super) struct Owner {
    pub(super) world: Arc<World>,
    pub(super) view: Arc<View>,
    pub(super) publish: watch::Sender<Arc<View>>,
    pub(super) mailbox: Arc<Mailbox>,
}

impl Owner {
    /// Serves until the guest is gone or the daemon ends.
    pub(super) async fn run(mut self) {
        loop {
            match self.mailbox.next().await {
                Next::Event(change) => {
                    if let Err(error) = self.commit(change).await {
                        tracing::warn!(guest = %self.view.name, %error, "an event of QEMU could not be taken in");
                    }
                }
                Next::Message(Message::Commit(change, answer)) => {
                    let result = self.commit(change).await;
                    // Who asked may be gone; the change stands all the same.
                    let _ = answer.send(result);
                }
                Next::Message(Message::Close) => return,
            }
            if !self.view.exists() {
                return self.leave();
            }
        }
    }

    async fn commit(&mut self, change: Change) -> Result<Arc<View>> {
        let mut next = View::clone(&self.view);
        let effects = change(&mut next)?;
        // What QEMU reports is often known: an etag that moved for it would refuse the caller's next change.
        if effects.events.is_empty() && next.exists() && next.is_same(&self.view) {
            return Ok(Arc::clone(&self.view));
        }
        next.generation += 1;
        next.encoded = OnceLock::new();
        self.world.store.save(&self.view, &next).await?;
        // What the files hold now need not be kept.
        if let Some(settled) = next.snapshots.settled() {
            next.snapshots = Arc::new(settled);
        }
        if let Some(settled) = next.checkpoints.settled() {
            next.checkpoints = Arc::new(settled);
        }
        let mut events = moments(&self.view, &next);
        events.extend(effects.events);
        let happenings = happenings(&self.view, &next, events);
        let registry = self.world.registry.upgrade();
        if let Some(registry) = &registry {
            registry.announce(&self.view, &next);
        }
        let view = self.publish(next, happenings);
        if let Some(registry) = &registry {
            registry.retire(&self.view, &view);
        }
        self.view = Arc::clone(&view);
        Ok(view)
    }

    /// Publishes the view, then its events, as one step in the eyes of every watch.
    fn publish(&self, mut next: View, happenings: Vec<Happening>) -> Arc<View> {
        let publish = &self.publish;
        self.world.journal.append_after(happenings, move |version| {
            next.version = version;
            let view = Arc::new(next);
            publish.send_replace(Arc::clone(&view));
            view
        })
    }

    /// Takes the guest out of the registry.
    fn leave(&self) {
        self.turn_away();
        if let Some(registry) = self.world.registry.upgrade() {
            registry.remove(&self.view);
        }
    }

    /// Lets nothing more in. Who defined the guest again just now is told to try again with a new handle.
    fn turn_away(&self) {
        for message in self.mailbox.close() {
            if let Message::Commit(_, answer) = message {
                // Who asked may be gone.
                let _ = answer.send(Err(gone()));
            }
        }
    }
}

// However the task ends, nobody waits for it in vain.
impl Drop for Owner {
    fn drop(&mut self) {
        self.turn_away();
    }
}

/// The reason of the error that a handle of a guest gives that is gone.
pub const GONE: &str = "DOMAIN_GONE";

pub(super) fn gone() -> Error {
    Error::new(crate::error::Code::NoDomain, "the domain is gone").because(GONE)
}

type Events = Vec<(pb::EventKind, Option<pb::event::Detail>)>;

/// What became of the guest's snapshots and checkpoints. Those of a guest that is gone are not told of.
fn moments(before: &View, after: &View) -> Events {
    use pb::EventKind::{Checkpoint, Snapshot};
    if !after.exists() {
        return Vec::new();
    }
    let trees = [
        (Snapshot, &before.snapshots, &after.snapshots),
        (Checkpoint, &before.checkpoints, &after.checkpoints),
    ];
    let changed = trees
        .into_iter()
        .filter(|(_, one, other)| !Arc::ptr_eq(one, other));
    let told = |(kind, before, after): (pb::EventKind, &Arc<Snapshots>, &Arc<Snapshots>)| {
        let changes = after.changes_since(before).into_iter();
        changes.map(move |change| (kind, Some(pb::event::Detail::Moment(change))))
    };
    changed.flat_map(told).collect()
}

fn happenings(before: &View, after: &View, events: Events) -> Vec<Happening> {
    let last = events.len().saturating_sub(1);
    // A run's last events still carry its number.
    let id = if after.id() != 0 { after.id() } else { before.id() };
    let one = |(index, (kind, detail)): (usize, (pb::EventKind, Option<pb::event::Detail>))| {
        let detail = detail.map(|d| finish(d, after, index == last && !after.exists()));
        Happening {
            uuid: after.uuid,
            name: name_at(before, after, &detail),
            id,
            kind,
            detail,
        }
    };
    events.into_iter().enumerate().map(one).collect()
}

/// A guest that is renamed was undefined under its old name.
fn name_at(before: &View, after: &View, detail: &Option<pb::event::Detail>) -> Arc<str> {
    match detail {
        Some(pb::event::Detail::Lifecycle(l)) if l.r#type == 1 && l.detail == 1 => Arc::clone(&before.name),
        _ => Arc::clone(&after.name),
    }
}

fn finish(detail: pb::event::Detail, after: &View, gone: bool) -> pb::event::Detail {
    match detail {
        pb::event::Detail::Lifecycle(mut l) => {
            l.state = after.condition.state_number();
            l.reason = after.condition.state_number() * 100 + after.condition.reason_number();
            l.gone = gone;
            pb::event::Detail::Lifecycle(l)
        }
        other => other,
    }
}
