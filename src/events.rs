//! The journal of events, and what watches read.
//!
//! Called by `domain` when a change is committed and by `api::events` for every watch. Each event gets the next version;
//! versions of one epoch (one boot of the host) never repeat and have no gap. The journal lives in the daemon's runtime
//! directory: it outlives the daemon and ends with the host, as the guests do.
//!
//! The hard thing is that nothing is lost between a file of a guest and its event when the daemon is killed: the journal
//! keeps whom it has told of, and [`Journal::reconcile`] compares that with what was found at start-up.
//!
//! Watches hold no queue: each has a place in one ring that all share, so a slow one costs nothing and is told
//! ([`Next::Expired`]) when its place is gone.

mod file;
mod known;
pub mod model;

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::{broadcast, watch};

pub use file::{record, segment_events, split_record};
pub use known::{Found, Known};

use self::model as pb;

/// Events kept for resuming.
const RING_EVENTS: usize = 16_384;
/// Bytes of encoded events kept for resuming.
const RING_BYTES: usize = 4 << 20;
/// QEMU's own events that a watch may lag behind.
const MONITOR_LAG: usize = 1_024;

/// A point in the daemon's history; see `Version` in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Which journal.
    pub epoch: u64,
    /// Which event of it; 0 is before the first.
    pub counter: u64,
}

impl From<Version> for pb::Version {
    fn from(v: Version) -> Self {
        Self {
            epoch: v.epoch,
            counter: v.counter,
        }
    }
}

impl From<&pb::Version> for Version {
    fn from(v: &pb::Version) -> Self {
        Self {
            epoch: v.epoch,
            counter: v.counter,
        }
    }
}

/// What happened, to whom; the journal adds version and time.
#[derive(Clone, Debug)]
pub struct Happening {
    /// The guest's UUID.
    pub uuid: uuid::Uuid,
    /// Its name then.
    pub name: Arc<str>,
    /// The number of its run, 0 if it does not run.
    pub id: i32,
    /// What happened.
    pub kind: pb::EventKind,
    /// More about it.
    pub detail: Option<pb::event::Detail>,
}

impl Happening {
    fn event(self, version: Version) -> pb::Event {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        pb::Event {
            version: Some(version.into()),
            time: Some(prost_types::Timestamp {
                seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
            }),
            uuid: self.uuid.to_string(),
            name: self.name.to_string(),
            id: self.id,
            kind: self.kind.into(),
            detail: self.detail,
        }
    }
}

/// What a watch gets when it asks for more.
#[derive(Debug)]
pub enum Next {
    /// Events in order, at least one.
    Events(Vec<Arc<pb::Event>>),
    /// The watch's place is no longer kept: it lags too far, or asked for a version of another epoch.
    Expired,
}

/// The journal. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    epoch: u64,
    inner: Mutex<Inner>,
    /// Counter of the newest event: watches wait on it.
    newest: watch::Sender<u64>,
    monitor: broadcast::Sender<Arc<pb::Event>>,
}

struct Inner {
    ring: VecDeque<(Arc<pb::Event>, usize)>,
    bytes: usize,
    file: Option<file::Segments>,
    known: Known,
}

impl Journal {
    /// Opens the journal in `dir`, or begins one. A damaged tail, as a kill in the middle of a write leaves it, is cut off.
    ///
    /// # Errors
    /// The directory or its files can't be read or written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (segments, replay) = file::Segments::open(dir)?;
        let mut inner = Inner {
            ring: VecDeque::new(),
            bytes: 0,
            file: None,
            known: replay.known,
        };
        for (event, bytes) in replay.events {
            inner.push(Arc::new(event), bytes);
        }
        let newest = inner.newest().unwrap_or(segments.base());
        let epoch = segments.epoch();
        inner.file = Some(segments);
        Ok(Self::with(epoch, inner, newest))
    }

    /// A journal without a file, for tests and for hosts whose runtime directory can't be written.
    pub fn in_memory(epoch: u64) -> Self {
        Self::with(
            epoch,
            Inner {
                ring: VecDeque::new(),
                bytes: 0,
                file: None,
                known: Known::default(),
            },
            0,
        )
    }

    fn with(epoch: u64, inner: Inner, newest: u64) -> Self {
        let shared = Shared {
            epoch,
            inner: Mutex::new(inner),
            newest: watch::Sender::new(newest),
            monitor: broadcast::Sender::new(MONITOR_LAG),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the newest event.
    pub fn version(&self) -> Version {
        Version {
            epoch: self.shared.epoch,
            counter: *self.shared.newest.borrow(),
        }
    }

    /// Records what happened, in this order, and wakes the watches. Returns the version after it.
    ///
    /// A journal file that can't be written is given up with a warning: watches go on from memory, and the next start
    /// begins a new epoch rather than pretend.
    pub fn append(&self, happenings: Vec<Happening>) -> Version {
        self.append_after(happenings, |version| version)
    }

    /// The same, but `publish` runs first, with the version that the last of them gets: whoever sees the events finds
    /// what it published, and no other change comes between. `publish` must be quick and not use the journal.
    pub fn append_after<T>(&self, happenings: Vec<Happening>, publish: impl FnOnce(Version) -> T) -> T {
        let mut inner = self.inner();
        let mut counter = *self.shared.newest.borrow();
        let published = publish(Version {
            epoch: self.shared.epoch,
            counter: counter + happenings.len() as u64,
        });
        let number = |happening: Happening| {
            counter += 1;
            happening.event(Version {
                epoch: self.shared.epoch,
                counter,
            })
        };
        let events = happenings.into_iter().map(number).collect();
        inner.record(events);
        self.shared.newest.send_replace(counter);
        published
    }

    /// Passes one of QEMU's own events to the watches that asked for such. Not kept.
    pub fn monitor(&self, happening: Happening) {
        if self.shared.monitor.receiver_count() > 0 {
            let event = pb::Event {
                version: None,
                ..happening.event(self.version())
            };
            // No receiver is left: nobody wants it.
            let _ = self.shared.monitor.send(Arc::new(event));
        }
    }

    /// QEMU's own events from now on.
    pub fn watch_monitor(&self) -> broadcast::Receiver<Arc<pb::Event>> {
        self.shared.monitor.subscribe()
    }

    /// Whether every event after `version` can still be given.
    pub fn can_resume(&self, version: Version) -> bool {
        let inner = self.inner();
        let newest = *self.shared.newest.borrow();
        version.epoch == self.shared.epoch
            && version.counter <= newest
            && version.counter + 1 >= inner.oldest(newest)
    }

    /// Waits until there are events after `counter` and returns them, at most `max`.
    pub async fn next(&self, counter: u64, max: usize) -> Next {
        let mut newest = self.shared.newest.subscribe();
        // The sender lives in `self`: it can't be gone.
        let _ = newest.wait_for(|n| *n > counter).await;
        self.inner().after(counter, max)
    }

    /// Compares what the journal has told of with what is there at start-up, and returns what it missed. `why` gives
    /// libvirt's detail of the end of a run: who ended it is not to be seen from its absence.
    pub fn reconcile(&self, found: &[Found], why: impl Fn(uuid::Uuid, i32) -> i32) -> Vec<Happening> {
        self.inner().known.missed(found, why)
    }

    /// Sets what the journal takes as told, for the first start in an epoch: what is found then is no news.
    pub fn baseline(&self, found: &[Found]) {
        let mut inner = self.inner();
        if inner.known.is_empty() && inner.ring.is_empty() {
            inner.known = Known::from_found(found);
            let known = inner.known.clone();
            if let Some(file) = &mut inner.file
                && let Err(error) = file.checkpoint(&known)
            {
                tracing::warn!(%error, "cannot write the journal of events; versions will not outlive the daemon");
                inner.file = None;
            }
        }
    }
}

impl Inner {
    /// Takes in the events of one change.
    fn record(&mut self, events: Vec<pb::Event>) {
        events.iter().for_each(|event| self.known.note(event));
        let written = self
            .file
            .as_mut()
            .map_or(Ok(()), |file| file.append(&events, &self.known));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write the journal of events; versions will not outlive the daemon");
            if let Some(file) = self.file.take() {
                file.give_up();
            }
        }
        for event in events {
            let bytes = prost::Message::encoded_len(&event);
            self.push(Arc::new(event), bytes);
        }
    }

    fn push(&mut self, event: Arc<pb::Event>, bytes: usize) {
        self.bytes += bytes;
        self.ring.push_back((event, bytes));
        while self.ring.len() > RING_EVENTS || self.bytes > RING_BYTES {
            match self.ring.pop_front() {
                Some((_, gone)) => self.bytes -= gone,
                None => break,
            }
        }
    }

    fn newest(&self) -> Option<u64> {
        self.ring.back().map(|(e, _)| counter(e))
    }

    /// Counter of the oldest event kept; one past `newest` if none is.
    fn oldest(&self, newest: u64) -> u64 {
        self.ring.front().map_or(newest + 1, |(e, _)| counter(e))
    }

    fn after(&self, since: u64, max: usize) -> Next {
        let Some((first, _)) = self.ring.front() else {
            return Next::Expired;
        };
        let first = counter(first);
        if since + 1 < first {
            return Next::Expired;
        }
        // Counters have no gap, so the place follows from the number.
        let skip = usize::try_from(since + 1 - first).unwrap_or(usize::MAX);
        Next::Events(
            self.ring
                .iter()
                .skip(skip)
                .take(max)
                .map(|(e, _)| Arc::clone(e))
                .collect(),
        )
    }
}

/// The event's counter.
pub fn counter(event: &pb::Event) -> u64 {
    event.version.as_ref().map_or(0, |v| v.counter)
}

/// A lifecycle event's detail.
pub fn lifecycle(kind: i32, detail: i32) -> pb::event::Lifecycle {
    pb::event::Lifecycle {
        r#type: kind,
        detail,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
