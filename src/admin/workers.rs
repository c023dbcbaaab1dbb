//! Places for calls: how many of a server's are worked on at one time.
//!
//! libvirt has a thread for each call that is worked on, and calls that find none wait. Here a call is a task and needs no
//! thread of its own, so a worker is a place: it is taken when a call begins and given back when it is answered. Without a
//! limit that somebody set, there are as many places as the clients of the server may have calls. Calls that never wait
//! for a guest have more places beside, so that they get through where all others wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wire::Priority;

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Places that are shown as there even if no call has them.
    pub min: u32,
    /// Most places; none: as many as clients may have calls.
    pub max: Option<u32>,
    /// Places beside, for calls that never wait for a guest.
    pub priority: u32,
}

/// The places of one server at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Calls that have a place.
    pub busy: usize,
    /// Calls that wait for one.
    pub waiting: usize,
}

/// The places of one server.
#[derive(Debug)]
pub struct Workers(Mutex<State>);

#[derive(Debug)]
struct State {
    settings: Settings,
    ordinary: usize,
    priority: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    priority: Priority,
    turn: oneshot::Sender<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Priority,
}

/// A place that a call has; it is given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    workers: Arc<Workers>,
    kind: Kind,
}

/// What a call finds.
#[derive(Debug)]
pub enum Entered {
    /// A place.
    Now(Place),
    /// None; it gets one when it is its turn.
    Later(oneshot::Receiver<Place>),
}

impl Workers {
    /// As many places as `settings` say.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Mutex::new(State {
            settings,
            ordinary: 0,
            priority: 0,
            waiting: VecDeque::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Settings {
        self.state().settings
    }

    /// Changes the settings by `change`, unless it refuses. Calls that have a place keep it.
    ///
    /// # Errors
    /// What `change` gives; nothing has changed then.
    pub fn change<E>(self: &Arc<Self>, change: impl FnOnce(&mut Settings) -> Result<(), E>) -> Result<(), E> {
        let mut state = self.state();
        let mut settings = state.settings;
        change(&mut settings)?;
        state.settings = settings;
        self.give_places(state);
        Ok(())
    }

    /// What there is now.
    pub fn count(&self) -> Count {
        let state = self.state();
        Count {
            busy: state.ordinary,
            waiting: state.waiting.len(),
        }
    }

    /// Takes a place for a call of `priority`, behind those that wait already.
    pub fn enter(self: &Arc<Self>, priority: Priority) -> Entered {
        let mut state = self.state();
        if let Some(kind) = state.take(priority) {
            return Entered::Now(Place {
                workers: Arc::clone(self),
                kind,
            });
        }
        let (turn, mine) = oneshot::channel();
        state.waiting.push_back(Waiting { priority, turn });
        Entered::Later(mine)
    }

    /// Gives free places to those who wait for one and are still there.
    fn give_places(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut given = Vec::new();
        state.waiting.retain(|waiting| !waiting.turn.is_closed());
        let mut at = 0;
        while let Some(priority) = state.waiting.get(at).map(|waiting| waiting.priority) {
            let Some(kind) = state.take(priority) else {
                at += 1;
                continue;
            };
            let place = Place {
                workers: Arc::clone(self),
                kind,
            };
            given.extend(state.waiting.remove(at).map(|waiting| (waiting.turn, place)));
        }
        drop(state);
        for (turn, place) in given {
            // Who went away meanwhile gives his place back: that takes the lock again.
            drop(turn.send(place));
        }
    }
}

impl State {
    fn take(&mut self, priority: Priority) -> Option<Kind> {
        let room = |count: usize, max: u32| u32::try_from(count).is_ok_and(|count| count < max);
        if self.settings.max.is_none_or(|max| room(self.ordinary, max)) {
            self.ordinary += 1;
            return Some(Kind::Ordinary);
        }
        if priority == Priority::High && room(self.priority, self.settings.priority) {
            self.priority += 1;
            return Some(Kind::Priority);
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.workers.state();
        match self.kind {
            Kind::Ordinary => state.ordinary -= 1,
            Kind::Priority => state.priority -= 1,
        }
        if !state.waiting.is_empty() {
            self.workers.give_places(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(max: Option<u32>, priority: u32) -> Arc<Workers> {
        Arc::new(Workers::new(Settings {
            min: 0,
            max,
            priority,
        }))
    }

    fn now(entered: Entered) -> Place {
        match entered {
            Entered::Now(place) => place,
            Entered::Later(_) => panic!("it must wait"),
        }
    }

    fn later(entered: Entered) -> oneshot::Receiver<Place> {
        match entered {
            Entered::Later(turn) => turn,
            Entered::Now(_) => panic!("it need not wait"),
        }
    }

    #[test]
    fn a_call_waits_for_its_turn_and_a_quick_one_does_not() {
        let workers = workers(Some(1), 1);
        let first = now(workers.enter(Priority::Low));
        let mut second = later(workers.enter(Priority::Low));
        let mut third = later(workers.enter(Priority::Low));
        let quick = now(workers.enter(Priority::High));
        assert_eq!(workers.count(), Count { busy: 1, waiting: 2 });
        drop(quick);
        assert!(second.try_recv().is_err(), "the place is for quick calls alone");
        drop(first);
        let second = second.try_recv().unwrap();
        assert!(third.try_recv().is_err());
        drop(second);
        assert!(third.try_recv().is_ok());
        assert_eq!(workers.count(), Count { busy: 0, waiting: 0 });
    }

    #[test]
    fn who_goes_away_takes_no_place_along() {
        let workers = workers(Some(1), 0);
        let first = now(workers.enter(Priority::Low));
        let given = later(workers.enter(Priority::Low));
        let gone = later(workers.enter(Priority::Low));
        let mut last = later(workers.enter(Priority::Low));
        drop(gone);
        drop(first);
        drop(given);
        assert!(last.try_recv().is_ok());
        assert_eq!(workers.count(), Count { busy: 0, waiting: 0 });
    }

    #[test]
    fn more_places_are_there_at_once_and_fewer_when_calls_end() {
        let workers = workers(None, 0);
        let mut places: Vec<_> = (0..3).map(|_| now(workers.enter(Priority::Low))).collect();
        let limit = |max| {
            workers.change(|settings| {
                settings.max = Some(max);
                Ok::<_, ()>(())
            })
        };
        limit(1).unwrap();
        let mut turn = later(workers.enter(Priority::High));
        places.truncate(1);
        assert!(turn.try_recv().is_err());
        limit(2).unwrap();
        assert!(turn.try_recv().is_ok());
    }
}
