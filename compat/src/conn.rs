//! One connection as all its calls see it: who it is, what it has opened, what it listens to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use unixfd::{Peer, PeerCred};
use wire::typed::TypedParam;

use crate::events::Registry;
use crate::neighbours::Caller;
use crate::proto::SessionUpdate;
use crate::server::{Options, SocketKind};

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) options: Arc<Options>,
    pub(crate) socket: SocketKind,
    /// Who connected, from the kernel.
    pub(crate) cred: PeerCred,
    pub(crate) events: Registry,
    /// The session that guests are bound to which end with the connection: its id, and the stream that keeps it.
    pub(crate) session: tokio::sync::Mutex<Option<(String, tonic::Streaming<SessionUpdate>)>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    authenticated: bool,
    /// Whom it speaks for, where a trusted peer forwards the calls of others.
    identity: Option<(PeerCred, Vec<TypedParam>)>,
    open: Option<Open>,
}

/// What a client opened.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    /// The URI, as the client gave it or as it was found for it.
    pub(crate) uri: String,
    /// The client asked to change nothing.
    pub(crate) read_only: bool,
}

impl Conn {
    /// A connection of `cred`, by `socket`.
    pub(crate) fn new(options: Arc<Options>, socket: SocketKind, cred: PeerCred) -> Self {
        let authenticated = !options.authority.asks(socket);
        let state = Mutex::new(State { authenticated, ..State::default() });
        Self { options, socket, cred, events: Registry::default(), session: tokio::sync::Mutex::default(), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may call more than the procedures of authentication.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.state().authenticated
    }

    /// It has shown who it is.
    pub(crate) fn authenticate(&self) {
        self.state().authenticated = true;
    }

    /// The caller that requests are made for.
    pub(crate) fn peer(&self) -> Peer {
        let state = self.state();
        let by_flag = state.open.as_ref().is_some_and(|open| open.read_only);
        let cred = state.identity.as_ref().map_or(self.cred, |(cred, _)| *cred);
        Peer { cred, read_only: by_flag || self.socket == SocketKind::ReadOnly }
    }

    /// Makes the calls to come those of `cred`, described by `params`.
    pub(crate) fn speak_for(&self, cred: PeerCred, params: Vec<TypedParam>) {
        self.state().identity = Some((cred, params));
    }

    /// Whom neighbours are called for. `label` is what a security module calls the process that connected.
    pub(crate) fn caller(&self, label: Option<String>) -> Caller {
        let given = self.state().identity.as_ref().map(|(_, params)| params.clone());
        Caller { peer: self.peer(), given, label }
    }

    /// What it has opened.
    pub(crate) fn opened(&self) -> Option<Open> {
        self.state().open.clone()
    }

    /// Whether it has opened anything.
    pub(crate) fn is_open(&self) -> bool {
        self.state().open.is_some()
    }

    /// Opens `open` in place of what was open, which is returned.
    pub(crate) fn set_open(&self, open: Option<Open>) -> Option<Open> {
        std::mem::replace(&mut self.state().open, open)
    }
}
