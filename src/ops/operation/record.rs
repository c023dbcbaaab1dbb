//! What is known of the operations that are under way or were, by their ids.
//!
//! Written by [`super::Operation`]; read by the Operations service, by libvirt's job information and by recovery, which
//! leaves alone what is under way in this daemon. Finished ones are kept for an hour, the newest thousand.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a finished operation is kept.
const KEEP: Duration = Duration::from_secs(3600);
/// How many finished operations are kept.
const KEEP_MAX: usize = 1_000;

/// How far an operation is.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The step that it is at; empty before the first.
    pub phase: &'static str,
    /// How much is done, of `total`; in the unit of the operation (bytes, mostly).
    pub done: u64,
    /// How much there is to do; 0 where that is not known.
    pub total: u64,
    /// How it ended; none while it is under way.
    pub outcome: Option<Outcome>,
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When.
    pub at: SystemTime,
    /// The error's code and message; none if it succeeded.
    pub error: Option<(crate::error::Code, Arc<str>)>,
}

/// One operation.
#[derive(Debug)]
pub struct Record {
    /// Its id; no other has it.
    pub id: Uuid,
    /// The guest.
    pub guest: Uuid,
    /// The guest's name when it began.
    pub name: Arc<str>,
    /// What it does, as logs and clients name it: `attach-device`.
    pub kind: &'static str,
    /// When it began.
    pub started: SystemTime,
    state: watch::Sender<State>,
    cancel: CancellationToken,
}

impl Record {
    /// How far it is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until it has ended, or `limit` has passed; how far it is then.
    pub async fn wait(&self, limit: Duration) -> State {
        let mut receiver = self.state.subscribe();
        // After the limit it is shown as it is.
        let _ = tokio::time::timeout(limit, receiver.wait_for(|s| s.outcome.is_some())).await;
        self.state()
    }

    /// Asks it to stop. One that has passed the point of no return goes on.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Resolves when somebody asked it to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }
}

/// The operations of the daemon.
#[derive(Debug, Default)]
pub struct Operations {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    all: HashMap<Uuid, Arc<Record>>,
    finished: VecDeque<(Uuid, Instant)>,
}

impl Operations {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters an operation that begins.
    pub(super) fn begin(&self, guest: Uuid, name: Arc<str>, kind: &'static str) -> Arc<Record> {
        let record = Arc::new(Record {
            id: Uuid::new_v4(),
            guest,
            name,
            kind,
            started: SystemTime::now(),
            state: watch::Sender::new(State::default()),
            cancel: CancellationToken::new(),
        });
        self.table().all.insert(record.id, Arc::clone(&record));
        record
    }

    /// Notes how an operation ended.
    pub(super) fn end(&self, record: &Record, error: Option<(crate::error::Code, Arc<str>)>) {
        let at = SystemTime::now();
        record.update(|state| state.outcome = Some(Outcome { at, error }));
        let mut table = self.table();
        table.finished.push_back((record.id, Instant::now()));
        while table
            .finished
            .front()
            .is_some_and(|(_, since)| table.finished.len() > KEEP_MAX || since.elapsed() > KEEP)
        {
            if let Some((id, _)) = table.finished.pop_front() {
                table.all.remove(&id);
            }
        }
    }

    /// The operation of an id, if it is known.
    pub fn get(&self, id: Uuid) -> Option<Arc<Record>> {
        self.table().all.get(&id).cloned()
    }

    /// All operations that are known, the oldest first.
    pub fn all(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = self.table().all.values().cloned().collect();
        all.sort_by_key(|record| (record.started, record.id));
        all
    }

    /// Whether an operation is under way in this daemon.
    pub fn is_under_way(&self, id: Uuid) -> bool {
        self.get(id)
            .is_some_and(|record| record.state().outcome.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_is_known_while_it_works_and_after_it_ended() {
        let operations = Operations::default();
        let record = operations.begin(Uuid::nil(), "a".into(), "set-link");
        assert!(operations.is_under_way(record.id));
        assert!(record.wait(Duration::from_millis(1)).await.outcome.is_none());
        operations.end(&record, Some((crate::error::Code::Internal, "no".into())));
        assert!(!operations.is_under_way(record.id));
        let kept = operations
            .get(record.id)
            .unwrap()
            .wait(Duration::from_secs(1))
            .await;
        assert!(kept.outcome.unwrap().error.is_some());
    }

    #[test]
    fn the_oldest_finished_operations_are_forgotten() {
        let operations = Operations::default();
        let first = operations.begin(Uuid::nil(), "a".into(), "set-link");
        let under_way = operations.begin(Uuid::nil(), "a".into(), "set-link");
        operations.end(&first, None);
        for _ in 0..KEEP_MAX {
            operations.end(&operations.begin(Uuid::nil(), "a".into(), "set-link"), None);
        }
        assert!(operations.get(first.id).is_none());
        assert!(operations.get(under_way.id).is_some());
    }
}
