//! Requests that carry a request_id are carried out once.
//!
//! The answer of the first is kept by user, call and id: while its work goes on and for an hour after its end. A later
//! request gets it, waiting if the work is not done. The hard thing is a caller that hangs up: the work runs on the
//! daemon's tracker, so it comes to an end and its answer is there when the caller repeats the request. Finished answers
//! are bounded in number and bytes; when there is no room the oldest go.
//!
//! They outlive the daemon: the beginning of the work is noted before it begins ([`file`]), its answer before anybody gets
//! it. A request whose work a daemon did not end is never carried out again: it is answered that it was interrupted.

mod file;

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    future::Future,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::Status;

use self::file::{Line, Segments, Told};
use crate::{
    error::{Code, Error, Result},
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
type Key = (u32, Cow<'static, str>, String);

/// A request with an id.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    key: Key,
    /// Tells a repeated request from a different one.
    content: Content,
}

/// A digest of a request.
type Content = [u8; 32];

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
        Ok(Some(Self {
            key: (user, Cow::Borrowed(call), id.to_owned()),
            content: Sha256::digest(request.encode_to_vec()).into(),
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
    /// Where they are kept over the daemon's end; none where that can't be.
    segments: Option<Segments>,
}

struct Entry {
    content: Content,
    /// Its work has ended and its answer is noted.
    is_settled: bool,
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
    /// Answers that are kept in `dir` over the daemon's end, and those that were kept there.
    pub(super) fn kept_in(dir: &Path) -> Self {
        let mut table = Table::default();
        match Segments::open(dir) {
            Ok((segments, lines)) => {
                table.recall(lines, Instant::now(), now());
                table.segments = Some(segments);
            }
            Err(error) => {
                tracing::warn!(%error, "answers to requests with an id can't be kept over the daemon's end");
            }
        }
        Self {
            table: Arc::new(Mutex::new(table)),
        }
    }

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
                let task = peers::track(tracker, async move {
                    work.await
                        .map(|answer| answer.encode_to_vec())
                        .map_err(Status::from)
                });
                let once = self.clone();
                // Both halves are on the tracker: a caller that goes away takes nothing with it.
                tracker.spawn(async move {
                    let answer = task.await.unwrap_or_else(|panic| Err(panicked(panic).into()));
                    once.table().settle(&ticket, &answer);
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
            is_settled: false,
            answer,
        };
        self.note(&line(&ticket.key, &ticket.content, None));
        self.entries.insert(ticket.key.clone(), entry);
        Found::First(sender)
    }

    /// The work has ended with `answer`: from now on its time runs.
    fn settle(&mut self, ticket: &Ticket, answer: &Answer) {
        if let Some(entry) = self.entries.get_mut(&ticket.key) {
            entry.is_settled = true;
        }
        self.note(&line(&ticket.key, &ticket.content, Some(answer)));
        self.finish(ticket.key.clone(), answer, Instant::now());
    }

    fn finish(&mut self, key: Key, answer: &Answer, since: Instant) {
        let bytes = match answer {
            Ok(bytes) => bytes.len(),
            Err(status) => status.message().len() + status.details().len(),
        };
        let bytes = bytes + key.2.len() + ENTRY_BYTES;
        self.finished.push_back((key, since, bytes));
        self.bytes += bytes;
    }

    /// Writes a line. Files that can't be written are given up: answers last as long as the daemon then.
    fn note(&mut self, line: &Line) {
        let Some(mut segments) = self.segments.take() else {
            return;
        };
        let keep = u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX);
        let noted =
            segments
                .append(line)
                .and_then(|()| match segments.is_full(line.at.saturating_sub(keep)) {
                    true => segments.roll(&self.under_way()),
                    false => Ok(()),
                });
        match noted {
            Ok(()) => self.segments = Some(segments),
            Err(error) => {
                tracing::error!(%error, "answers to requests with an id can't be kept over the daemon's end");
            }
        }
    }

    /// The requests that are under way.
    fn under_way(&self) -> Vec<Line> {
        let begun = self.entries.iter().filter(|(_, entry)| !entry.is_settled);
        begun
            .map(|(key, entry)| line(key, &entry.content, None))
            .collect()
    }

    /// Takes in what a former daemon has noted. What it did not end counts from now on.
    fn recall(&mut self, lines: Vec<Line>, now: Instant, clock: u64) {
        // Of each request the last line counts.
        let by_key: HashMap<Key, Line> = lines.into_iter().map(|line| (key_of(&line), line)).collect();
        let mut latest: Vec<_> = by_key.into_iter().collect();
        latest.sort_by_key(|(_, line)| (line.told.is_none(), line.at));
        for (key, line) in latest {
            let Ok(content) = Content::try_from(line.content.as_slice()) else {
                continue;
            };
            let age = Duration::from_millis(clock.saturating_sub(line.at));
            let (answer, since) = match line.told {
                Some(_) if age > KEEP => continue,
                Some(told) => (answer_of(told), now.checked_sub(age).unwrap_or(now)),
                None => (Err(interrupted().into()), now),
            };
            self.finish(key.clone(), &answer, since);
            let (_, answer) = watch::channel(Some(answer));
            let is_settled = true;
            self.entries.insert(
                key,
                Entry {
                    content,
                    is_settled,
                    answer,
                },
            );
        }
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

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn line(key: &Key, content: &Content, answer: Option<&Answer>) -> Line {
    let told = |answer: &Answer| match answer {
        Ok(bytes) => Told {
            body: bytes.clone(),
            ..Told::default()
        },
        Err(status) => Told {
            code: status.code().into(),
            message: status.message().to_owned(),
            body: status.details().to_vec(),
        },
    };
    Line {
        user: key.0,
        call: key.1.to_string(),
        id: key.2.clone(),
        content: content.to_vec(),
        at: now(),
        told: answer.map(told),
    }
}

fn key_of(line: &Line) -> Key {
    (line.user, Cow::Owned(line.call.clone()), line.id.clone())
}

fn answer_of(told: Told) -> Answer {
    match tonic::Code::from_i32(told.code) {
        tonic::Code::Ok => Ok(told.body),
        code => Err(Status::with_details(code, told.message, told.body.into())),
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

fn interrupted() -> Error {
    let text = "the daemon ended while it carried out this request, and does not do so again: \
                what the request is about shows how far it has come";
    Error::new(Code::OperationAborted, text).because("REQUEST_INTERRUPTED")
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
        table.settle(&done, &Ok(vec![1]));
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
            table.settle(&ticket, &Ok(Vec::new()));
        }
        table.expire(Instant::now());
        assert!(table.finished.len() <= KEEP_MAX && table.entries.len() <= KEEP_MAX);
    }

    #[tokio::test]
    async fn answers_outlive_the_daemon_and_what_it_did_not_end_is_not_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let (tracker, count) = (TaskTracker::new(), Arc::default());
        let work = || slow(Arc::clone(&count));
        let former = Once::kept_in(dir.path());
        let first = former.run(&tracker, ticket("a", "x"), work()).await.unwrap();
        let failed = async { Err::<pb::Version, _>(Error::invalid("no")) };
        let refused = former.run(&tracker, ticket("b", "x"), failed).await.unwrap_err();
        let _sender = former.table().enter(&ticket("c", "x"));
        drop(former);
        for _ in 0..2 {
            let once = Once::kept_in(dir.path());
            let again = once.run(&tracker, ticket("a", "x"), work()).await.unwrap();
            assert_eq!(again, first);
            let again = once.run(&tracker, ticket("b", "x"), work()).await.unwrap_err();
            assert_eq!(
                (again.code(), again.message(), again.details()),
                (refused.code(), refused.message(), refused.details())
            );
            let cut_off = once.run(&tracker, ticket("c", "x"), work()).await.unwrap_err();
            assert_eq!(cut_off.code(), tonic::Code::Aborted, "{cut_off:?}");
            for id in ["a", "c"] {
                let other = once.run(&tracker, ticket(id, "y"), work()).await.unwrap_err();
                assert_eq!(other.code(), tonic::Code::InvalidArgument, "{other:?}");
            }
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_recalled_has_its_age() {
        let (done, cut_off, mut table) = (ticket("a", "x"), ticket("b", "x"), Table::default());
        let lines = vec![
            line(&done.key, &done.content, Some(&Ok(vec![1]))),
            line(&cut_off.key, &cut_off.content, None),
        ];
        let hour = u64::try_from(KEEP.as_millis()).unwrap();
        table.recall(lines.clone(), Instant::now(), now() + hour / 2);
        assert_eq!(table.entries.len(), 2);
        let mut later = Table::default();
        later.recall(lines, Instant::now(), now() + 2 * hour);
        assert!(later.entries.len() == 1 && later.entries.contains_key(&cut_off.key));
    }

    #[test]
    fn an_id_has_a_longest_length() {
        let request = pb::Version::default();
        assert!(Ticket::of(0, "Define", "", &request).unwrap().is_none());
        let error = Ticket::of(0, "Define", &"a".repeat(129), &request).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("options.request_id"));
    }
}
