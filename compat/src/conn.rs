//! One connection as all its calls see it: who it is, what it has opened, what it listens to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use unixfd::{Peer, PeerCred};
use wire::typed::TypedParam;
use wire::{Caller, More};

use crate::events::Registry;
use crate::options::{Options, SocketKind};
use crate::proto::SessionUpdate;

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
    identity: Option<PeerCred>,
    /// What else is known of the caller.
    more: Option<Arc<More>>,
    open: Option<Open>,
    /// The version that the service told: it stays while the daemon runs, and clients ask for it to see whether we live.
    version: Option<u64>,
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
    /// A connection of `caller`, by `socket`.
    pub(crate) fn new(options: Arc<Options>, socket: SocketKind, caller: &Caller) -> Self {
        let authenticated = !options.authority.asks(socket);
        let state = Mutex::new(State {
            authenticated,
            more: caller.more.clone(),
            ..State::default()
        });
        Self {
            options,
            socket,
            cred: caller.peer.cred,
            events: Registry::default(),
            session: tokio::sync::Mutex::default(),
            state,
        }
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
        self.caller().peer
    }

    /// The same, with all that is known of it.
    pub(crate) fn caller(&self) -> Caller {
        let state = self.state();
        let by_flag = state.open.as_ref().is_some_and(|open| open.read_only);
        let peer = Peer {
            cred: state.identity.unwrap_or(self.cred),
            read_only: by_flag || self.socket == SocketKind::ReadOnly,
        };
        Caller {
            peer,
            more: state.more.clone(),
            call: None,
        }
    }

    /// Makes the calls to come those of `cred`, described by `params`.
    pub(crate) fn speak_for(&self, cred: PeerCred, params: Vec<TypedParam>) {
        let mut state = self.state();
        state.identity = Some(cred);
        // Whether the new caller may know it, the service decides.
        state.version = None;
        state.more = Some(Arc::new(More {
            given: Some(params),
            label: None,
        }));
    }

    /// The service's version, if it was told on this connection.
    pub(crate) fn version(&self) -> Option<u64> {
        self.state().version
    }

    /// Keeps what the service told.
    pub(crate) fn know_version(&self, version: u64) {
        self.state().version = Some(version);
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
