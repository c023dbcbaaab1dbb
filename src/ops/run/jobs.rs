//! Jobs inside QEMU: who waits for which, and how the last block jobs ended.
//!
//! QEMU tells each change of a job's state by an event. `supervise` hands it to [`Jobs::tell`]; what nobody waits for is a
//! block job's, which `blockjobs` sees to.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// The state of a job that has ended and is kept until it is dismissed.
pub(crate) const CONCLUDED: &str = "concluded";

/// Who waits for jobs of one QEMU, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    waiting: Mutex<HashMap<String, watch::Sender<String>>>,
}

/// A job that somebody waits for; dropped, nobody does.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    jobs: &'a Jobs,
    id: String,
    state: watch::Receiver<String>,
}

impl Jobs {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<String>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job from now on, also for one that is not there yet.
    pub(crate) fn expect(&self, id: &str) -> Waiting<'_> {
        let state = {
            let mut waiting = self.waiting();
            let sender = waiting
                .entry(id.to_owned())
                .or_insert_with(|| watch::Sender::new(String::new()));
            sender.subscribe()
        };
        let id = id.to_owned();
        Waiting {
            jobs: self,
            id,
            state,
        }
    }

    /// QEMU has told a job's state. Whether somebody waits for it.
    pub(crate) fn tell(&self, id: &str, state: &str) -> bool {
        let waiting = self.waiting();
        let Some(sender) = waiting.get(id) else {
            return false;
        };
        sender.send_replace(state.to_owned());
        true
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.jobs.waiting();
        // This one is counted, too.
        if waiting
            .get(&self.id)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            waiting.remove(&self.id);
        }
    }
}

impl Waiting<'_> {
    /// The job's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Waits until QEMU has told one of these states.
    pub(crate) async fn told(&mut self, states: &[&str]) {
        // The sender is kept as long as somebody waits.
        let _ = self
            .state
            .wait_for(|state| states.contains(&state.as_str()))
            .await;
    }
}

/// Most ends of block jobs that are remembered for whoever waits.
const ENDS: usize = 64;

/// How the last block jobs of a run ended, for those who wait: an error, or none.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    last: Mutex<VecDeque<(String, Option<String>)>>,
    told: watch::Sender<()>,
}

impl Ends {
    fn last(&self) -> MutexGuard<'_, VecDeque<(String, Option<String>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job of this id begins: what an earlier one came to is of no use any more.
    pub(crate) fn begins(&self, id: &str) {
        self.last().retain(|(known, _)| known != id);
    }

    /// A job is over, and everything that follows from it is done.
    pub(crate) fn over(&self, id: &str, error: Option<String>) {
        {
            let mut last = self.last();
            last.retain(|(known, _)| known != id);
            if last.len() == ENDS {
                last.pop_front();
            }
            last.push_back((id.to_owned(), error));
        }
        self.told.send_replace(());
    }

    /// Waits until a job is over; what it failed with, if it did.
    pub(crate) async fn wait(&self, id: &str) -> Option<String> {
        let mut told = self.told.subscribe();
        loop {
            let found = self.last().iter().find(|(known, _)| known == id).cloned();
            if let Some((_, error)) = found {
                return error;
            }
            // The sender is ours.
            let _ = told.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_nobody_waits_for_is_left_to_others() {
        let jobs = Jobs::default();
        assert!(!jobs.tell("a", "running"));
        let one = jobs.expect("a");
        let two = jobs.expect("a");
        assert!(jobs.tell("a", "running"));
        assert_eq!(*one.state.borrow(), "running");
        drop(one);
        assert!(jobs.tell("a", CONCLUDED));
        assert_eq!(*two.state.borrow(), CONCLUDED);
        drop(two);
        assert!(!jobs.tell("a", CONCLUDED));
    }

    #[tokio::test]
    async fn who_waits_for_a_job_is_told_of_its_own_end() {
        let ends = Ends::default();
        ends.over("a", Some("no space".into()));
        assert_eq!(ends.wait("a").await.as_deref(), Some("no space"));
        ends.begins("a");
        let (error, ()) = tokio::join!(ends.wait("a"), async {
            tokio::task::yield_now().await;
            ends.over("b", Some("b".into()));
            ends.over("a", None);
        });
        assert_eq!(error, None);
    }
}
