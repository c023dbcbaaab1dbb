//! Commands on their way: who waits for which id, and whether a command was written yet.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::Closed;

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) flight: Arc<Flight>,
}

/// Where a command is on its way: queued, then either written or given up, never both.
#[derive(Debug, Default)]
pub(crate) struct Flight(AtomicU8);

impl Flight {
    const QUEUED: u8 = 0;
    const WRITTEN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// Whether it may be written: nobody gave it up.
    pub(crate) fn take_off(&self) -> bool {
        self.leave_queue(Self::WRITTEN).is_ok()
    }

    /// Whether it was written before it could be given up.
    pub(crate) fn give_up(&self) -> bool {
        self.leave_queue(Self::GIVEN_UP) == Err(Self::WRITTEN)
    }

    fn leave_queue(&self, to: u8) -> Result<u8, u8> {
        self.0
            .compare_exchange(Self::QUEUED, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    next_id: AtomicU64,
    /// The monitor takes commands out of band.
    pub(crate) out_of_band: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(HashMap<String, oneshot::Sender<String>>),
    Closed(Closed),
}

impl Shared {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State::Open(HashMap::new()));
        Self {
            next_id: AtomicU64::new(1),
            state,
            out_of_band: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(&*self.lock(), State::Closed(_))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; if it did, the map would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids are short: QEMU reads a command byte by byte, each with several system calls of its own.
    pub(crate) fn new_id(&self) -> String {
        self.next_id.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// An id that looks like libvirt's: answers to raw commands are shown to users with it.
    pub(crate) fn new_shown_id(&self) -> String {
        format!("libvirt-{}", self.new_id())
    }

    pub(crate) fn wait_for(
        self: &Arc<Self>,
        id: String,
    ) -> Result<(Waiting, oneshot::Receiver<String>), Closed> {
        let (answer, reply) = oneshot::channel();
        match &mut *self.lock() {
            State::Closed(closed) => return Err(closed.clone()),
            State::Open(pending) => pending.insert(id.clone(), answer),
        };
        let waiting = Waiting {
            shared: Arc::clone(self),
            id,
            flight: Arc::default(),
        };
        Ok((waiting, reply))
    }

    pub(crate) fn answer(&self, id: Option<String>, line: String) {
        let waiting = match (&mut *self.lock(), &id) {
            (State::Open(pending), Some(id)) => pending.remove(id),
            _ => None,
        };
        match waiting.map(|answer| answer.send(line)) {
            Some(Ok(())) => {}
            _ => tracing::debug!(id, "reply that nobody waits for"),
        }
    }

    pub(crate) fn close(&self, closed: Closed) {
        // Dropping the map tells everybody who waits.
        *self.lock() = State::Closed(closed);
    }

    pub(crate) fn why_closed(&self) -> Closed {
        match &*self.lock() {
            State::Closed(closed) => closed.clone(),
            State::Open(_) => Closed::Dropped,
        }
    }
}

/// Somebody waits for an id; dropped when they stop, answered or not.
pub(crate) struct Waiting {
    shared: Arc<Shared>,
    id: String,
    pub(crate) flight: Arc<Flight>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _written_already = self.flight.give_up();
        if let State::Open(pending) = &mut *self.shared.lock() {
            pending.remove(&self.id);
        }
    }
}
