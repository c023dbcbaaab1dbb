//! What waits for a guest's owner: commits, and what QEMU said.
//!
//! A host has many guests at rest, so an empty mailbox is small. Both queues are bounded: who comes when one is full
//! waits, in order.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, Semaphore};

use super::owner::{Change, Message};

/// Commits that may wait; who comes then waits to be let in.
const COMMITS: usize = 16;
/// Events of QEMU that may wait; then the monitor's reader waits.
const EVENTS: usize = 64;

pub(super) struct Mailbox {
    queues: Mutex<Queues>,
    arrived: Notify,
    room_for_commits: Semaphore,
    room_for_events: Semaphore,
}

#[derive(Default)]
struct Queues {
    commits: VecDeque<Message>,
    events: VecDeque<Change>,
}

/// What comes next.
pub(super) enum Next {
    /// What QEMU said.
    Event(Change),
    /// What somebody wishes.
    Message(Message),
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            queues: Mutex::default(),
            arrived: Notify::new(),
            room_for_commits: Semaphore::new(COMMITS),
            room_for_events: Semaphore::new(EVENTS),
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message in when there is room; gives it back if the owner has ended.
    pub(super) async fn send(&self, message: Message) -> Result<(), Message> {
        let Ok(permit) = self.room_for_commits.acquire().await else {
            return Err(message);
        };
        let mut queues = self.queues();
        // Closed between the permit and the lock.
        if self.room_for_commits.is_closed() {
            return Err(message);
        }
        queues.commits.push_back(message);
        permit.forget();
        drop(queues);
        self.arrived.notify_one();
        Ok(())
    }

    /// Puts in what QEMU said when there is room; it is lost if the owner has ended.
    pub(super) async fn send_event(&self, change: Change) {
        let Ok(permit) = self.room_for_events.acquire().await else {
            return;
        };
        self.queues().events.push_back(change);
        permit.forget();
        self.arrived.notify_one();
    }

    /// Waits for what comes next. What QEMU said comes first: it has happened already, while a commit is somebody's wish
    /// that may rest on it. For the owner alone.
    pub(super) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self) -> Option<Next> {
        let mut queues = self.queues();
        if let Some(change) = queues.events.pop_front() {
            self.room_for_events.add_permits(1);
            return Some(Next::Event(change));
        }
        let message = queues.commits.pop_front()?;
        self.room_for_commits.add_permits(1);
        Some(Next::Message(message))
    }

    /// Lets nothing more in, and gives out what waits.
    pub(super) fn close(&self) -> VecDeque<Message> {
        let mut queues = self.queues();
        self.room_for_commits.close();
        self.room_for_events.close();
        std::mem::take(&mut queues.commits)
    }
}
