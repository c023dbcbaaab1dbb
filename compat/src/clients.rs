//! The clients of one server: who they are, how many there may be, and how one is disconnected.
//!
//! Every front that belongs to the server enters its connections here, so limits hold for all of them together. A client
//! past a limit waits in the socket's backlog instead of being turned away: accepting goes on when another leaves or has
//! shown who it is. What two sockets accepted at one time for one place is not served before there is another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::Caller;

/// Most strangers at once, whatever is configured: each may occupy up to 16 KiB.
const STRANGERS_MAX: usize = 1024;

/// What clients may occupy. Named as in virtqemud.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub max_clients: usize,
    /// Connections at once that have not authenticated; zero: no limit of its own. Never more than 1024.
    pub max_anonymous_clients: usize,
    /// Calls of one connection at once; more wait unread.
    pub max_client_requests: usize,
    /// Silence before a client that asked for it is pinged; zero: never.
    pub keepalive_interval: Duration,
    /// Pings that may stay unanswered.
    pub keepalive_count: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 5000,
            max_anonymous_clients: 20,
            max_client_requests: 5,
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 5,
        }
    }
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// libvirt's protocol.
    Libvirt,
    /// Another front of the daemon's, which shares the limits.
    Other,
}

/// A client as it is at one moment.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its number, never given twice.
    pub id: u64,
    /// When it connected.
    pub since: SystemTime,
    /// What it speaks.
    pub front: Front,
    /// For whom it calls.
    pub caller: Caller,
    /// It has not shown yet who it is.
    pub stranger: bool,
}

/// All clients of a server.
#[derive(Debug)]
pub struct Clients {
    table: Mutex<Table>,
    all: watch::Sender<usize>,
    /// There may be room now: somebody left, is known, or the limits are others.
    room: Notify,
    /// Replies sent to all of them together.
    replies: AtomicU64,
}

#[derive(Debug)]
struct Table {
    limits: Limits,
    last: u64,
    connected: BTreeMap<u64, Entry>,
    strangers: usize,
}

#[derive(Debug)]
struct Entry {
    client: Client,
    cut: CancellationToken,
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Clients {
    /// No clients yet, and so many to come.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            table: Mutex::new(Table {
                limits,
                last: 0,
                connected: BTreeMap::new(),
                strangers: 0,
            }),
            all: watch::Sender::new(0),
            room: Notify::new(),
            replies: AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits as they are now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.table().limits
    }

    /// Changes limits by `change`, unless it refuses. Nobody who is connected is let go.
    ///
    /// # Errors
    /// What `change` gives; nothing has changed then.
    pub fn change_limits<E>(&self, change: impl FnOnce(&mut Limits) -> Result<(), E>) -> Result<(), E> {
        let mut table = self.table();
        let mut limits = table.limits;
        change(&mut limits)?;
        table.limits = limits;
        drop(table);
        self.room.notify_waiters();
        Ok(())
    }

    /// Follows the number of connections.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.all.subscribe()
    }

    /// How many there are, and how many of them have not shown yet who they are.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let table = self.table();
        (table.connected.len(), table.strangers)
    }

    /// At most `most` clients with numbers greater than `after`, in the order of their numbers.
    #[must_use]
    pub fn list(&self, after: u64, most: usize) -> Vec<Client> {
        let table = self.table();
        let from = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let entries = table.connected.range(from).take(most);
        entries.map(|(_, entry)| entry.client.clone()).collect()
    }

    /// The client of that number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Client> {
        self.table().connected.get(&id).map(|entry| entry.client.clone())
    }

    /// Has the connection of that number end; whether there is one.
    pub fn disconnect(&self, id: u64) -> bool {
        let table = self.table();
        let found = table.connected.get(&id);
        if let Some(entry) = found {
            entry.cut.cancel();
        }
        found.is_some()
    }

    /// Counts a reply; how many there were with it.
    pub(crate) fn replied(&self) -> u64 {
        self.replies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits until another may come.
    pub async fn room(&self, stranger: bool) {
        loop {
            let changed = self.room.notified();
            if self.table().has_room(stranger) {
                return;
            }
            changed.await;
        }
    }

    /// Enters a client that was accepted, as soon as there is room.
    pub async fn enter(self: &Arc<Self>, front: Front, caller: Caller, stranger: bool) -> Ticket {
        loop {
            let changed = self.room.notified();
            if let Some(ticket) = self.try_enter(front, &caller, stranger) {
                return ticket;
            }
            changed.await;
        }
    }

    fn try_enter(self: &Arc<Self>, front: Front, caller: &Caller, stranger: bool) -> Option<Ticket> {
        let mut table = self.table();
        if !table.has_room(stranger) {
            return None;
        }
        table.last += 1;
        let (id, cut) = (table.last, CancellationToken::new());
        let client = Client {
            id,
            since: SystemTime::now(),
            front,
            caller: caller.clone(),
            stranger,
        };
        let entry = Entry {
            client,
            cut: cut.clone(),
        };
        table.connected.insert(id, entry);
        table.strangers += usize::from(stranger);
        let count = table.connected.len();
        self.all.send_replace(count);
        Some(Ticket {
            clients: Arc::clone(self),
            id,
            cut,
        })
    }
}

impl Table {
    fn has_room(&self, stranger: bool) -> bool {
        let strangers = match self.limits.max_anonymous_clients {
            0 => STRANGERS_MAX,
            max => max.min(STRANGERS_MAX),
        };
        self.connected.len() < self.limits.max_clients && (!stranger || self.strangers < strangers)
    }

    /// The client is a stranger no more.
    fn known(&mut self, id: u64) {
        if let Some(entry) = self.connected.get_mut(&id)
            && std::mem::take(&mut entry.client.stranger)
        {
            self.strangers -= 1;
        }
    }
}

/// One client that is counted; it leaves when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    clients: Arc<Clients>,
    id: u64,
    cut: CancellationToken,
}

impl Ticket {
    /// Cancelled when the connection is to end at once.
    #[must_use]
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// The client has shown who it is.
    pub(crate) fn known(&self) {
        self.clients.table().known(self.id);
        self.clients.room.notify_waiters();
    }

    /// The client calls for `caller` from now on.
    pub(crate) fn calls_for(&self, caller: Caller) {
        if let Some(entry) = self.clients.table().connected.get_mut(&self.id) {
            entry.client.caller = caller;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.clients.table();
        table.known(self.id);
        table.connected.remove(&self.id);
        let count = table.connected.len();
        self.clients.all.send_replace(count);
        drop(table);
        self.clients.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use unixfd::{Peer, PeerCred};

    use super::*;

    fn caller() -> Caller {
        let peer = Peer {
            cred: PeerCred::own(),
            read_only: false,
        };
        Caller {
            peer,
            more: None,
            call: None,
        }
    }

    fn small() -> Arc<Clients> {
        Arc::new(Clients::new(Limits {
            max_clients: 2,
            max_anonymous_clients: 1,
            ..Limits::default()
        }))
    }

    #[tokio::test]
    async fn limits_hold_over_all_fronts_and_may_be_below_what_there_is() {
        let clients = small();
        let first = clients.enter(Front::Libvirt, caller(), false).await;
        let second = clients.enter(Front::Other, caller(), false).await;
        let mut third = Box::pin(clients.enter(Front::Libvirt, caller(), false));
        assert!((&mut third).now_or_never().is_none());
        let set = |max| {
            clients.change_limits(|limits| {
                limits.max_clients = max;
                Ok::<_, ()>(())
            })
        };
        set(1).unwrap();
        drop(second);
        assert!((&mut third).now_or_never().is_none());
        assert_eq!(clients.count(), (1, 0));
        set(2).unwrap();
        let Some(third) = (&mut third).now_or_never() else {
            panic!("there is room");
        };
        drop((first, third));
        assert_eq!((clients.count(), *clients.watch().borrow()), ((0, 0), 0));
    }

    #[tokio::test]
    async fn a_stranger_makes_room_when_it_is_known() {
        let clients = small();
        let first = clients.enter(Front::Libvirt, caller(), true).await;
        let mut second = Box::pin(clients.enter(Front::Libvirt, caller(), true));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(clients.count(), (1, 1));
        first.known();
        assert!((&mut second).now_or_never().is_some());
        assert_eq!(clients.count(), (1, 0));
    }

    #[tokio::test]
    async fn a_refused_change_changes_nothing() {
        let clients = small();
        let refused = clients.change_limits(|limits| {
            limits.max_clients = 9;
            Err("no")
        });
        assert_eq!((refused, clients.limits().max_clients), (Err("no"), 2));
    }

    #[tokio::test]
    async fn clients_are_found_and_cut_by_their_number() {
        let clients = small();
        let first = clients.enter(Front::Libvirt, caller(), false).await;
        let second = clients.enter(Front::Other, caller(), false).await;
        let ids = |after, most| {
            let list = clients.list(after, most);
            list.iter().map(|client| client.id).collect::<Vec<_>>()
        };
        assert_eq!([ids(0, 9), ids(0, 1), ids(1, 9)], [vec![1, 2], vec![1], vec![2]]);
        assert!(clients.disconnect(2) && !clients.disconnect(3));
        assert!(second.cut().is_cancelled() && !first.cut().is_cancelled());
        drop(second);
        let third = clients.enter(Front::Other, caller(), false).await;
        assert_eq!((clients.get(2).is_none(), third.id), (true, 3));
    }
}
