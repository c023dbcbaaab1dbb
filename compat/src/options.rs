//! What all connections share: the way to the services, who decides whom to let in, and who is there.
//!
//! The daemon makes [`Options`] and hands them to [`crate::serve`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use unixfd::PeerCred;
use wire::Program;

use crate::backend::Backend;
use crate::clients::{Clients, Limits};
use crate::neighbours::Places;

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
    pub backend: Arc<Backend>,
    /// Who decides whom to let in.
    pub authority: Authority,
    /// The daemon serves the whole host (`qemu:///system`) and not one user.
    pub system: bool,
    /// Where the daemons of the other drivers are.
    pub neighbours: Places,
    /// Who is connected, and how many may be.
    pub clients: Arc<Clients>,
    /// Ids of event registrations are the daemon's, not the connection's.
    next_callback: AtomicI32,
}

impl Options {
    /// Shares `backend`, with default limits.
    #[must_use]
    pub fn new(backend: Backend, system: bool) -> Self {
        Self {
            backend: Arc::new(backend),
            authority: Authority::default(),
            system,
            neighbours: Places::new(system),
            clients: Arc::default(),
            next_callback: AtomicI32::new(0),
        }
    }

    /// The limits as they are now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.clients.limits()
    }

    pub(crate) fn next_callback(&self) -> i32 {
        self.next_callback.fetch_add(1, Ordering::Relaxed) & i32::MAX
    }
}
