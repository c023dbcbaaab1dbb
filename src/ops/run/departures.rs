//! Devices that a guest was asked to let go: whoever asked waits here for what QEMU reports.
//!
//! `device::detach` waits; `supervise` passes on what QEMU said. The hard thing is an answer that comes when nobody waits any
//! more: [`Departures::tell`] says so, and the device is seen to by the one who brought the news.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// What became of a request to let a device go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// QEMU has it no more.
    Gone,
    /// The guest keeps it.
    Refused,
}

/// Who waits for which device, by alias.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    waiting: Mutex<HashMap<String, oneshot::Sender<Departure>>>,
}

impl Departures {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Departure>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What will be reported on a device. To be called before QEMU is asked to remove it.
    pub(crate) fn expect(&self, alias: &str) -> oneshot::Receiver<Departure> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(alias.to_owned(), sender);
        receiver
    }

    /// Passes on what QEMU reported; whether anybody still waits for it.
    pub(crate) fn tell(&self, alias: &str, what: Departure) -> bool {
        let waiting = self.waiting().remove(alias);
        waiting.is_some_and(|sender| sender.send(what).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_are_for_whoever_waits_and_otherwise_for_the_one_who_brings_them() {
        let departures = Departures::default();
        assert!(!departures.tell("net0", Departure::Gone));
        let waiting = departures.expect("net0");
        assert!(departures.tell("net0", Departure::Refused));
        assert_eq!(waiting.await, Ok(Departure::Refused));
        drop(departures.expect("net0"));
        assert!(!departures.tell("net0", Departure::Gone), "nobody waits any more");
    }
}
