//! Which events a connection has registered for, and in which of libvirt's two styles.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use wire::xdr::Uuid;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::convert;
use super::registration::{Registration, Style};
use crate::ctx::internal;
use crate::proto::Event;

/// The registrations of a connection.
#[derive(Debug)]
pub(crate) struct Registry {
    guests: Mutex<Vec<Registration>>,
    /// Monitor registrations: id, guest, event name, flags.
    monitors: Mutex<Vec<(i32, MonitorKey)>>,
    feed: watch::Sender<FeedState>,
}

/// What makes two monitor registrations the same.
pub(crate) type MonitorKey = (Option<Uuid>, Option<String>, u32);

/// The watch behind the registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FeedState {
    Off,
    Starting,
    On,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            guests: Mutex::default(),
            monitors: Mutex::default(),
            feed: watch::Sender::new(FeedState::Off),
        }
    }
}

/// What the caller of [`Registry::add`] has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// Nothing: the watch runs.
    Watched,
    /// Start the watch and say [`Registry::started`].
    First,
}

impl Registry {
    fn guests(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn monitors(&self) -> MutexGuard<'_, Vec<(i32, MonitorKey)>> {
        self.monitors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers, and waits for a watch that another call is starting.
    ///
    /// # Errors
    /// When the same is registered already.
    pub(crate) async fn add(&self, new: Registration) -> Result<Added, WireError> {
        self.insert(new)?;
        loop {
            let mut first = false;
            self.feed.send_if_modified(|state| {
                first = *state == FeedState::Off;
                if first {
                    *state = FeedState::Starting;
                }
                first
            });
            if first {
                return Ok(Added::First);
            }
            let mut feed = self.feed.subscribe();
            match feed
                .wait_for(|state| *state != FeedState::Starting)
                .await
                .map(|state| *state)
            {
                Ok(FeedState::Off) => {}
                _ => return Ok(Added::Watched),
            }
        }
    }

    fn insert(&self, new: Registration) -> Result<(), WireError> {
        let mut guests = self.guests();
        // libvirt does not tell the two styles apart here.
        let same = |old: &Registration| (old.event, old.domain) == (new.event, new.domain);
        if guests.iter().any(same) {
            return Err(already_tracked());
        }
        guests.push(new);
        Ok(())
    }

    /// Says how starting the watch went; a registration that cannot be watched is taken back.
    pub(crate) fn started(&self, new: &Registration, watching: bool) {
        if !watching {
            self.guests().retain(|old| old != new);
        }
        self.feed
            .send_replace(if watching { FeedState::On } else { FeedState::Off });
    }

    /// Ends a registration; `true` when nobody listens any more.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn remove(&self, style: Style, event: Option<i32>) -> Result<bool, WireError> {
        let mut guests = self.guests();
        let matches = |old: &Registration| old.style == style && event.is_none_or(|event| old.event == event);
        let index = guests.iter().position(matches).ok_or_else(|| match style {
            Style::Legacy => internal(&format!("domain event {} not registered", event.unwrap_or(0))),
            Style::Callback(id) => internal(&format!("domain event callback {id} not registered")),
        })?;
        guests.remove(index);
        if guests.is_empty() {
            self.feed.send_replace(FeedState::Off);
        }
        Ok(guests.is_empty())
    }

    /// Registers for QEMU's own events.
    ///
    /// # Errors
    /// When the same is registered already.
    pub(crate) fn add_monitor(&self, id: i32, key: MonitorKey) -> Result<(), WireError> {
        let mut monitors = self.monitors();
        if monitors.iter().any(|(_, old)| *old == key) {
            return Err(already_tracked());
        }
        monitors.push((id, key));
        Ok(())
    }

    /// Ends a registration for QEMU's own events.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn remove_monitor(&self, id: i32) -> Result<(), WireError> {
        let mut monitors = self.monitors();
        let index = monitors.iter().position(|(old, _)| *old == id);
        let missing = || internal(&format!("qemu monitor event callback {id} not registered"));
        monitors.remove(index.ok_or_else(missing)?);
        Ok(())
    }

    /// The packets that `event` makes, one a matching registration, in the order of registering.
    pub(crate) fn packets(&self, event: &Event) -> Vec<Vec<u8>> {
        let guests = self.guests();
        let wanted = |registration: &&Registration| {
            let uuid = event.uuid.parse().ok();
            registration.domain.is_none() || registration.domain == uuid
        };
        guests
            .iter()
            .filter(wanted)
            .filter_map(|registration| convert::packet(event, registration))
            .collect()
    }
}

fn already_tracked() -> WireError {
    WireError::new(
        ErrorCode::INVALID_ARG,
        ErrorDomain::NONE,
        "event callback already tracked",
    )
}
