//! What all connections share: the way to the services, limits, who decides whom to let in, and how many
//! there are.
//!
//! The daemon makes [`Options`] and hands them to [`crate::serve`]; limits may change at any time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use unixfd::PeerCred;
use wire::Program;

use crate::backend::Backend;
use crate::neighbours::Places;

/// Most strangers at once, whatever is configured: each may occupy up to 16 KiB.
const STRANGERS_MAX: usize = 1024;

/// What the clients of a socket may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// All.
    ReadWrite,
    /// Look, and change nothing.
    ReadOnly,
    /// Administrate the daemon.
    Admin,
}

impl SocketKind {
    /// The programs spoken on it.
    pub(crate) fn programs(self) -> &'static [&'static Program] {
        match self {
            Self::ReadWrite | Self::ReadOnly => &wire::PROGRAMS,
            Self::Admin => &[&wire::admin::PROGRAM],
        }
    }
}

/// What clients may occupy. Named as in virtqemud.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub max_clients: usize,
    /// Connections at once that have not authenticated; never more than 1024.
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

/// Asks somebody whether a peer may use a socket, such as polkit: `true` lets it in.
type Ask = dyn Fn(PeerCred, SocketKind) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync;

/// Who decides whom a client is let in, by socket.
#[derive(Clone, Default)]
pub struct Authority {
    read_write: Option<Arc<Ask>>,
    read_only: Option<Arc<Ask>>,
}

impl Authority {
    /// Has `ask` decide about the clients of `socket`, root excepted; without it the socket's mode decides alone.
    #[must_use]
    pub fn with<F, Fut>(mut self, socket: SocketKind, ask: F) -> Self
    where
        F: Fn(PeerCred, SocketKind) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let ask: Arc<Ask> = Arc::new(move |peer, socket| Box::pin(ask(peer, socket)));
        match socket {
            SocketKind::ReadWrite => self.read_write = Some(ask),
            SocketKind::ReadOnly => self.read_only = Some(ask),
            SocketKind::Admin => {}
        }
        self
    }

    pub(crate) fn of(&self, socket: SocketKind) -> Option<&Arc<Ask>> {
        match socket {
            SocketKind::ReadWrite => self.read_write.as_ref(),
            SocketKind::ReadOnly => self.read_only.as_ref(),
            SocketKind::Admin => None,
        }
    }

    /// Whether clients of `socket` must authenticate.
    pub(crate) fn asks(&self, socket: SocketKind) -> bool {
        self.of(socket).is_some()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asks = (self.read_write.is_some(), self.read_only.is_some());
        f.debug_tuple("Authority").field(&asks).finish()
    }
}

/// What all connections share.
#[derive(Debug)]
pub struct Options {
    /// What answers.
    pub backend: Backend,
    /// Limits, which may change at any time.
    pub limits: RwLock<Limits>,
    /// Who decides whom to let in.
    pub authority: Authority,
    /// The daemon serves the whole host (`qemu:///system`) and not one user.
    pub system: bool,
    /// Where the daemons of the other drivers are.
    pub neighbours: Places,
    /// How many are connected.
    pub clients: Clients,
    /// Ids of event registrations are the daemon's, not the connection's.
    next_callback: AtomicI32,
}

impl Options {
    /// Shares `backend`, with default limits.
    #[must_use]
    pub fn new(backend: Backend, system: bool) -> Self {
        Self {
            backend,
            limits: RwLock::default(),
            authority: Authority::default(),
            system,
            neighbours: Places::new(system),
            clients: Clients::default(),
            next_callback: AtomicI32::new(0),
        }
    }

    /// The limits as they are now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self
            .limits
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn next_callback(&self) -> i32 {
        self.next_callback.fetch_add(1, Ordering::Relaxed) & i32::MAX
    }
}

/// How many clients there are.
#[derive(Debug)]
pub struct Clients {
    all: watch::Sender<usize>,
    strangers: AtomicUsize,
    left: Notify,
    /// Replies sent to all of them together.
    replies: AtomicU64,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            all: watch::Sender::new(0),
            strangers: AtomicUsize::new(0),
            left: Notify::new(),
            replies: AtomicU64::new(0),
        }
    }
}

impl Clients {
    /// Follows the number of connections.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.all.subscribe()
    }

    /// Counts a reply; how many there were with it.
    pub(crate) fn replied(&self) -> u64 {
        self.replies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits until another may come.
    pub(crate) async fn room(options: &Options, stranger: bool) {
        let clients = &options.clients;
        loop {
            let left = clients.left.notified();
            let limits = options.limits();
            let strangers = limits.max_anonymous_clients.min(STRANGERS_MAX);
            let room = *clients.all.borrow() < limits.max_clients;
            if room && (!stranger || clients.strangers.load(Ordering::Relaxed) < strangers) {
                return;
            }
            // Limits may be raised meanwhile, so look again now and then.
            let _ = tokio::time::timeout(Duration::from_secs(1), left).await;
        }
    }
}

/// One counted client; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    options: Arc<Options>,
    stranger: bool,
}

impl Ticket {
    pub(crate) fn new(options: &Arc<Options>, stranger: bool) -> Self {
        options.clients.all.send_modify(|all| *all += 1);
        options
            .clients
            .strangers
            .fetch_add(usize::from(stranger), Ordering::Relaxed);
        Self {
            options: Arc::clone(options),
            stranger,
        }
    }

    /// The client has shown who it is.
    pub(crate) fn known(&mut self) {
        let clients = &self.options.clients;
        clients
            .strangers
            .fetch_sub(usize::from(self.stranger), Ordering::Relaxed);
        self.stranger = false;
        clients.left.notify_waiters();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.known();
        self.options.clients.all.send_modify(|all| *all -= 1);
        self.options.clients.left.notify_waiters();
    }
}
