//! Requests that carry a request_id are carried out once.
//!
//! The answer of the first is kept by user, call and id: while its work goes on and for an hour after its end. A later
//! request gets it, waiting if the work is not done. The hard thing is a caller that hangs up: the work runs on the
//! daemon's tracker, so it comes to an end and its answer is there when the caller repeats the request. Finished answers
//! are bounded in number and bytes; when there is no room the oldest go.
//!
//! What is to outlive the daemon replaces [`Table::enter`] and [`Table::settle`]: nothing else knows how answers are kept.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prost::Message;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::{
    error::{Error, Result},
    peers,
};

/// How long an answer is kept after the end of its work.
const KEEP: Duration = Duration::from_secs(3600);
/// How many finished answers are kept.
const KEEP_MAX: usize = 65_536;
/// Bytes of the finished answers that are kept.
const KEEP_BYTES: usize = 64 << 20;
/// Bytes that an entry takes beside its answer, roughly.
const ENTRY_BYTES: usize = 256;
/// Longest id, bytes.
const ID_MAX: usize = 128;

/// What the first request was answered.
type Answer = std::result::Result<Vec<u8>, Status>;
/// User, call and id.
type Key = (u32, &'static str, String);

/// A request with an id.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    key: Key,
    /// Tells a repeated request from a different one.
    content: u64,
}

impl Ticket {
    /// The ticket of `request`; none if it has no id.
    ///
    /// # Errors
    /// `InvalidArg` if the id is too long.
    pub(super) fn of(
        user: u32,
        call: &'static str,
        id: &str,
        request: &impl Message,
    ) -> Result<Option<Self>> {
        if id.is_empty() {
            return Ok(None);
        }
        if id.len() > ID_MAX {
            let text = format!("request_id has {} bytes; the most is {ID_MAX}", id.len());
            return Err(Error::argument(text).at("options.request_id"));
        }
        let mut hasher = DefaultHasher::new();
        request.encode_to_vec().hash(&mut hasher);
        Ok(Some(Self {
            key: (user, call, id.to_owned()),
            content: hasher.finish(),
        }))
    }
}

/// Answers by user, call and id.
#[derive(Clone, Default)]
pub(super) struct Once {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// Finished ones, the oldest first.
    finished: VecDeque<(Key, Instant, usize)>,
    bytes: usize,
}

struct Entry {
    content: u64,
    answer: watch::Receiver<Option<Answer>>,
}

/// What a request finds.
enum Found {
    /// It is the first: its answer is to be put here.
    First(watch::Sender<Option<Answer>>),
    /// An earlier one has the answer, or will.
    Earlier(watch::Receiver<Option<Answer>>),
    /// An earlier one was another request.
    Different,
}

impl Once {
    /// Carries out `work` on `tracker`, or gives the answer that a request with this ticket got before.
    pub(super) async fn run<T>(
        &self,
        tracker: &TaskTracker,
        ticket: Ticket,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> std::result::Result<T, Status>
    where
        T: Message + Default,
    {
        let found = self.table().enter(&ticket);
        let answer = match found {
            Found::First(sender) => {
                let receiver = sender.subscribe();
                let task = tracker.spawn(peers::on_behalf(peers::current(), async move {
                    work.await
                        .map(|answer| answer.encode_to_vec())
                        .map_err(Status::from)
                }));
                let once = self.clone();
                // Both halves are on the tracker: a caller that goes away takes nothing with it.
                tracker.spawn(async move {
                    let answer = task.await.unwrap_or_else(|panic| Err(panicked(panic).into()));
                    once.table().settle(&ticket.key, &answer);
                    sender.send_replace(Some(answer));
                });
                receiver
            }
            Found::Earlier(receiver) => receiver,
            Found::Different => return Err(different().into()),
        };
        decoded(answer).await
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The place of a new request, or what an earlier one with its ticket left.
    fn enter(&mut self, ticket: &Ticket) -> Found {
        self.expire(Instant::now());
        if let Some(entry) = self.entries.get(&ticket.key) {
            return match entry.content == ticket.content {
                true => Found::Earlier(entry.answer.clone()),
                false => Found::Different,
            };
        }
        let (sender, answer) = watch::channel(None);
        let entry = Entry {
            content: ticket.content,
            answer,
        };
        self.entries.insert(ticket.key.clone(), entry);
        Found::First(sender)
    }

    /// The work has ended with `answer`: from now on its time runs.
    fn settle(&mut self, key: &Key, answer: &Answer) {
        let bytes = match answer {
            Ok(bytes) => bytes.len(),
            Err(status) => status.message().len() + status.details().len(),
        };
        let bytes = bytes + key.2.len() + ENTRY_BYTES;
        self.finished.push_back((key.clone(), Instant::now(), bytes));
        self.bytes += bytes;
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, since, _)) = self.finished.front() {
            let full = self.finished.len() > KEEP_MAX || self.bytes > KEEP_BYTES;
            if !full && now.duration_since(*since) <= KEEP {
                return;
            }
            if let Some((key, _, bytes)) = self.finished.pop_front() {
                self.entries.remove(&key);
                self.bytes -= bytes;
            }
        }
    }
}

async fn decoded<T: Message + Default>(
    mut answer: watch::Receiver<Option<Answer>>,
) -> std::result::Result<T, Status> {
    let answer = match answer.wait_for(Option::is_some).await {
        Ok(answer) => answer.clone(),
        Err(_) => None,
    };
    let lost = || Error::internal("the daemon ended before the request was answered");
    let bytes = answer.unwrap_or_else(|| Err(lost().into()))?;
    T::decode(bytes.as_slice()).map_err(|error| {
        Error::internal("a kept answer does not decode")
            .caused_by(error)
            .into()
    })
}

fn panicked(panic: tokio::task::JoinError) -> Error {
    Error::internal("the operation met a bug in the daemon; see its log").caused_by(panic)
}

fn different() -> Error {
    Error::argument("a different request was made with this request_id")
        .because("REQUEST_ID_REUSED")
        .at("options.request_id")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::pb;

    fn ticket(id: &str, name: &str) -> Ticket {
        let request = pb::RenameRequest {
            new_name: name.to_owned(),
            ..Default::default()
        };
        Ticket::of(0, "Rename", id, &request).unwrap().unwrap()
    }

    /// Work that counts how often it is done, and takes a while.
    async fn slow(count: Arc<AtomicU32>) -> Result<pb::Version> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(pb::Version {
            epoch: 1,
            counter: count.fetch_add(1, Ordering::Relaxed).into(),
        })
    }

    #[tokio::test]
    async fn a_repeated_request_gets_the_first_answer() {
        let (once, tracker, count) = (Once::default(), TaskTracker::new(), Arc::default());
        let mut answers = Vec::new();
        for id in ["a", "a", "b"] {
            let work = slow(Arc::clone(&count));
            answers.push(once.run(&tracker, ticket(id, "x"), work).await.unwrap().counter);
        }
        assert_eq!(answers, [0, 0, 1]);
    }

    #[tokio::test]
    async fn a_caller_that_hung_up_gets_the_first_answer_when_it_repeats() {
        let (once, tracker, count) = (Once::default(), TaskTracker::new(), Arc::default());
        let first = once.run(&tracker, ticket("a", "x"), slow(Arc::clone(&count)));
        let gone = tokio::time::timeout(Duration::from_millis(2), first).await;
        assert!(gone.is_err(), "the work is done before the caller hangs up");
        let again = once
            .run(&tracker, ticket("a", "x"), slow(Arc::clone(&count)))
            .await;
        assert_eq!((again.unwrap().counter, count.load(Ordering::Relaxed)), (0, 1));
    }

    #[tokio::test]
    async fn a_different_request_with_a_used_id_is_refused() {
        let (once, tracker, count) = (Once::default(), TaskTracker::new(), Arc::default());
        once.run(&tracker, ticket("a", "x"), slow(Arc::clone(&count)))
            .await
            .unwrap();
        let other = once
            .run(&tracker, ticket("a", "y"), slow(Arc::clone(&count)))
            .await;
        assert_eq!(other.unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn errors_are_answers_too() {
        let (once, tracker) = (Once::default(), TaskTracker::new());
        let failed = async { Err::<pb::Version, _>(Error::invalid("no")) };
        let first = once.run(&tracker, ticket("a", "x"), failed).await.unwrap_err();
        let work = slow(Arc::default());
        let again = once.run(&tracker, ticket("a", "x"), work).await.unwrap_err();
        assert_eq!(
            (first.code(), first.message(), first.details()),
            (again.code(), again.message(), again.details())
        );
    }

    #[tokio::test]
    async fn work_that_panics_is_answered_and_not_done_again() {
        let (once, tracker, count) = (Once::default(), TaskTracker::new(), Arc::default());
        let bug = async {
            if true {
                panic!("boom")
            }
            Ok(pb::Version::default())
        };
        let first = once.run(&tracker, ticket("a", "x"), bug).await.unwrap_err();
        let again = once
            .run(&tracker, ticket("a", "x"), slow(Arc::clone(&count)))
            .await;
        assert_eq!(
            (first.code(), again.unwrap_err().code()),
            (tonic::Code::Internal, tonic::Code::Internal)
        );
    }

    #[test]
    fn an_answer_is_kept_for_its_time_after_the_end_and_work_for_as_long_as_it_takes() {
        let mut table = Table::default();
        let (working, done) = (ticket("a", "x"), ticket("b", "x"));
        let _first = table.enter(&working);
        let _second = table.enter(&done);
        table.settle(&done.key, &Ok(vec![1]));
        table.expire(Instant::now() + KEEP / 2);
        assert_eq!(table.entries.len(), 2);
        table.expire(Instant::now() + KEEP * 2);
        assert!(table.entries.contains_key(&working.key) && table.entries.len() == 1);
        assert_eq!((table.finished.len(), table.bytes), (0, 0));
    }

    #[test]
    fn finished_answers_have_a_bound() {
        let mut table = Table::default();
        for number in 0..=KEEP_MAX + 9 {
            let ticket = ticket(&number.to_string(), "x");
            let _ = table.enter(&ticket);
            table.settle(&ticket.key, &Ok(Vec::new()));
        }
        table.expire(Instant::now());
        assert!(table.finished.len() <= KEEP_MAX && table.entries.len() <= KEEP_MAX);
    }

    #[test]
    fn an_id_has_a_longest_length() {
        let request = pb::Version::default();
        assert!(Ticket::of(0, "Define", "", &request).unwrap().is_none());
        let error = Ticket::of(0, "Define", &"a".repeat(129), &request).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("options.request_id"));
    }
}
