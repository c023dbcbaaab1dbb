//! What is known of the operations that are under way or were, by their ids.
//!
//! Written by [`super::Operation`]; read by the Operations service, by libvirt's job information and by recovery, which
//! leaves alone what is under way in this daemon and enters what a former one had begun. Finished ones are kept for an
//! hour, the newest thousand.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use crate::{
    domain::View,
    error::{Error, Result},
};

/// How long a finished operation is kept.
const KEEP: Duration = Duration::from_secs(3600);
/// How many finished operations are kept.
const KEEP_MAX: usize = 1_000;
/// How many phases of an operation are kept.
const PHASES_MAX: usize = 32;

/// How far an operation is.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The phases that it has gone through, the newest last; of many the last ones.
    pub phases: Vec<Phase>,
    /// How much is done, of `total`; in the unit of the operation (bytes, mostly).
    pub done: u64,
    /// How much there is to do; 0 where that is not known.
    pub total: u64,
    /// It can be asked to stop now.
    pub cancellable: bool,
    /// How it ended; none while it is under way.
    pub outcome: Option<Outcome>,
}

impl State {
    /// The phase that it is in, or ended in; empty before the first.
    pub fn phase(&self) -> &'static str {
        self.phases.last().map_or("", |phase| phase.word)
    }

    fn enter(&mut self, word: &'static str) {
        if self.phases.len() == PHASES_MAX {
            self.phases.remove(0);
        }
        let since = SystemTime::now();
        self.phases.push(Phase { word, since });
    }
}

/// A phase of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Its word.
    pub word: &'static str,
    /// When it began.
    pub since: SystemTime,
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When.
    pub at: SystemTime,
    /// The guest's etag then; empty if the guest was gone.
    pub etag: String,
    /// What it failed with, as a caller is told; none if it succeeded.
    pub error: Option<Status>,
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
    fn new(id: Uuid, view: &View, kind: &'static str) -> Arc<Self> {
        Arc::new(Self {
            id,
            guest: view.uuid,
            name: Arc::clone(&view.name),
            kind,
            started: SystemTime::now(),
            state: watch::Sender::new(State::default()),
            cancel: CancellationToken::new(),
        })
    }

    /// How far it is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// How far it is, and comes.
    pub fn follow(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Waits until it has ended, or `limit` has passed; how far it is then.
    pub async fn wait(&self, limit: Duration) -> State {
        let mut receiver = self.state.subscribe();
        // After the limit it is shown as it is.
        let _ = tokio::time::timeout(limit, receiver.wait_for(|s| s.outcome.is_some())).await;
        self.state()
    }

    /// Whether [`Self::cancel`] would ask it to stop.
    ///
    /// # Errors
    /// `OperationInvalid` if it has ended, or can't be stopped in its phase.
    pub fn may_cancel(&self) -> Result<()> {
        let state = self.state.borrow();
        let why = match (&state.outcome, state.cancellable) {
            (None, true) => return Ok(()),
            (None, false) => "it can't be stopped in this phase",
            (Some(_), _) => "it has ended",
        };
        let text = format!("operation {} ({}) can't be cancelled: {why}", self.id, self.kind);
        Err(Error::invalid(text))
    }

    /// Asks it to stop.
    ///
    /// # Errors
    /// As [`Self::may_cancel`].
    pub fn cancel(&self) -> Result<()> {
        self.may_cancel()?;
        self.cancel.cancel();
        Ok(())
    }

    /// Resolves when somebody asked it to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Whether somebody asked it to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    pub(super) fn enter(&self, word: &'static str) {
        self.update(|state| state.enter(word));
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
    pub(super) fn begin(&self, view: &View, kind: &'static str) -> Arc<Record> {
        let record = Record::new(Uuid::new_v4(), view, kind);
        self.table().all.insert(record.id, Arc::clone(&record));
        record
    }

    /// Notes how an operation ended, and the guest's etag then.
    pub(super) fn end(&self, record: &Record, etag: String, error: Option<&Error>) {
        let outcome = Outcome {
            at: SystemTime::now(),
            etag,
            error: error.map(Status::from),
        };
        record.update(|state| {
            if outcome.error.is_none() {
                state.done = state.total;
            }
            (state.cancellable, state.outcome) = (false, Some(outcome));
        });
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

    /// Enters an operation that a former daemon had begun and that has been brought to an end: in `phase`, with `error` if
    /// it was undone.
    pub fn recovered(
        &self,
        id: Uuid,
        (view, kind): (&View, &'static str),
        phase: &'static str,
        error: Option<&Error>,
    ) {
        let record = Record::new(id, view, kind);
        record.enter(phase);
        self.table().all.insert(id, Arc::clone(&record));
        self.end(&record, view.etag(), error);
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

/// The record of an operation that may take several attempts: of the first that begins, for all of them.
#[derive(Debug)]
pub struct Followed {
    record: watch::Sender<Option<Arc<Record>>>,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            record: watch::Sender::new(None),
        }
    }
}

impl Followed {
    /// The record; none before an attempt has begun.
    pub fn record(&self) -> Option<Arc<Record>> {
        self.record.borrow().clone()
    }

    /// The record, once an attempt has begun. It never resolves if none does.
    pub async fn begun(&self) -> Arc<Record> {
        let mut receiver = self.record.subscribe();
        loop {
            if let Some(record) = receiver.borrow_and_update().clone() {
                return record;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn record_or(&self, begin: impl FnOnce() -> Arc<Record>) -> Arc<Record> {
        let record = self.record().unwrap_or_else(begin);
        self.record.send_replace(Some(Arc::clone(&record)));
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> View {
        View::new(Uuid::nil(), "a".into(), 0)
    }

    #[tokio::test]
    async fn an_operation_is_known_while_it_works_and_after_it_ended() {
        let operations = Operations::default();
        let record = operations.begin(&guest(), "set-link");
        assert!(operations.is_under_way(record.id));
        assert!(record.wait(Duration::from_millis(1)).await.outcome.is_none());
        operations.end(&record, "1".to_owned(), Some(&Error::internal("no")));
        assert!(!operations.is_under_way(record.id));
        let kept = operations
            .get(record.id)
            .unwrap()
            .wait(Duration::from_secs(1))
            .await;
        assert_eq!(
            kept.outcome.unwrap().error.unwrap().message(),
            "internal error: no"
        );
    }

    #[test]
    fn what_succeeded_is_done_and_what_failed_is_as_far_as_it_came() {
        let operations = Operations::default();
        for (error, done) in [(None, 7), (Some(Error::internal("no")), 3)] {
            let record = operations.begin(&guest(), "set-link");
            record.update(|state| (state.done, state.total) = (3, 7));
            operations.end(&record, String::new(), error.as_ref());
            let state = record.state();
            assert_eq!((state.done, state.total), (done, 7));
        }
    }

    #[test]
    fn the_oldest_finished_operations_are_forgotten() {
        let operations = Operations::default();
        let first = operations.begin(&guest(), "set-link");
        let under_way = operations.begin(&guest(), "set-link");
        operations.end(&first, String::new(), None);
        for _ in 0..KEEP_MAX {
            operations.end(&operations.begin(&guest(), "set-link"), String::new(), None);
        }
        assert!(operations.get(first.id).is_none());
        assert!(operations.get(under_way.id).is_some());
    }

    #[test]
    fn only_what_can_be_stopped_is_asked_to() {
        let operations = Operations::default();
        let record = operations.begin(&guest(), "set-link");
        assert!(record.cancel().is_err());
        record.update(|state| state.cancellable = true);
        record.cancel().unwrap();
        assert!(record.cancel.is_cancelled());
        operations.end(&record, String::new(), None);
        let error = record.cancel().unwrap_err();
        assert!(error.message.contains("it has ended"), "{error}");
    }

    #[test]
    fn the_last_phases_are_kept() {
        let record = Operations::default().begin(&guest(), "attach-device");
        record.enter("first");
        (0..PHASES_MAX).for_each(|_| record.enter("next"));
        let state = record.state();
        assert_eq!((state.phases.len(), state.phase()), (PHASES_MAX, "next"));
        assert!(state.phases.iter().all(|phase| phase.word == "next"));
    }

    #[tokio::test]
    async fn attempts_share_one_record() {
        let (operations, followed) = (Operations::default(), Followed::default());
        let begin = || operations.begin(&guest(), "detach-device");
        let first = followed.record_or(begin);
        assert_eq!(followed.record_or(begin).id, first.id);
        assert_eq!(followed.begun().await.id, first.id);
        assert_eq!(operations.all().len(), 1);
    }
}
