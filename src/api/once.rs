//! Requests that carry a request_id are carried out once.
//!
//! The answer of the first is kept for an hour, by caller and id; a second one gets it, waiting if the first is still at
//! work. The table is bounded: when it is full the oldest answers go.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use unixfd::Peer;

use crate::error::Error;

/// How long an answer is kept.
const KEEP: Duration = Duration::from_secs(3600);
/// How many answers are kept.
const KEEP_MAX: usize = 4_096;
/// Longest id, bytes.
const ID_MAX: usize = 128;

type Answer = Result<Vec<u8>, Status>;
type Key = (u32, &'static str, String);

/// Answers by caller, call and id.
#[derive(Clone, Default)]
pub(super) struct Once {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    answers: HashMap<Key, watch::Receiver<Option<Answer>>>,
    order: VecDeque<(Key, Instant)>,
}

impl Once {
    /// Runs `work`, or gives the answer that a request with this id got before.
    pub(super) async fn run<T, F>(
        &self,
        peer: Option<&Peer>,
        call: &'static str,
        id: &str,
        work: F,
    ) -> Result<T, Status>
    where
        T: Message + Default,
        F: Future<Output = Result<T, Error>>,
    {
        if id.is_empty() {
            return work.await.map_err(Status::from);
        }
        if id.len() > ID_MAX {
            return Err(Error::argument(format!("request_id is longer than {ID_MAX} bytes")).into());
        }
        let key = (peer.map_or(u32::MAX, |p| p.cred.uid), call, id.to_owned());
        let sender = match self.enter(key.clone()) {
            Ok(sender) => sender,
            Err(receiver) => return repeat(receiver).await,
        };
        // If the caller goes away the sender is dropped and the entry with it: the request may be made again.
        let answer = work.await.map_err(Status::from);
        sender.send_replace(Some(
            answer.as_ref().map(Message::encode_to_vec).map_err(Clone::clone),
        ));
        answer
    }

    /// The place of a new request, or the answer to come of an earlier one.
    fn enter(&self, key: Key) -> Result<watch::Sender<Option<Answer>>, watch::Receiver<Option<Answer>>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire();
        if let Some(receiver) = table.answers.get(&key) {
            let abandoned = receiver.has_changed().is_err() && receiver.borrow().is_none();
            if !abandoned {
                return Err(receiver.clone());
            }
        }
        let (sender, receiver) = watch::channel(None);
        table.answers.insert(key.clone(), receiver);
        table.order.push_back((key, Instant::now()));
        Ok(sender)
    }
}

impl Table {
    fn expire(&mut self) {
        while self
            .order
            .front()
            .is_some_and(|(_, since)| self.order.len() > KEEP_MAX || since.elapsed() > KEEP)
        {
            if let Some((key, _)) = self.order.pop_front() {
                self.answers.remove(&key);
            }
        }
    }
}

async fn repeat<T: Message + Default>(mut receiver: watch::Receiver<Option<Answer>>) -> Result<T, Status> {
    let answer = receiver
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|a| a.clone());
    match answer {
        Some(Ok(bytes)) => T::decode(bytes.as_slice()).map_err(|e| {
            Error::internal("a kept answer does not decode")
                .caused_by(e)
                .into()
        }),
        Some(Err(status)) => Err(status),
        None => Err(Status::aborted(
            "the first request with this request_id was given up; make it again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::pb;

    async fn version(count: &AtomicU32) -> Result<pb::Version, Error> {
        Ok(pb::Version {
            epoch: 1,
            counter: u64::from(count.fetch_add(1, Ordering::Relaxed)),
        })
    }

    #[tokio::test]
    async fn a_repeated_request_gets_the_first_answer() {
        let (once, count) = (Once::default(), AtomicU32::new(0));
        let first = once.run(None, "Define", "a", version(&count)).await.unwrap();
        let again = once.run(None, "Define", "a", version(&count)).await.unwrap();
        let other = once.run(None, "Define", "b", version(&count)).await.unwrap();
        assert_eq!((first.counter, again.counter, other.counter), (0, 0, 1));
    }

    #[tokio::test]
    async fn errors_are_answers_too() {
        let once = Once::default();
        let failed = || async { Err::<pb::Version, _>(Error::invalid("no")) };
        let first = once.run(None, "Define", "a", failed()).await.unwrap_err();
        let again = once
            .run(None, "Define", "a", version(&AtomicU32::new(0)))
            .await
            .unwrap_err();
        assert_eq!((first.code(), first.message()), (again.code(), again.message()));
    }

    #[tokio::test]
    async fn a_request_given_up_can_be_made_again() {
        let once = Once::default();
        drop(once.enter((u32::MAX, "Define", "a".to_owned())));
        assert!(
            once.run(None, "Define", "a", version(&AtomicU32::new(0)))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn without_an_id_every_request_counts() {
        let (once, count) = (Once::default(), AtomicU32::new(0));
        for _ in 0..2 {
            once.run(None, "Define", "", version(&count)).await.unwrap();
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
