//! The way to the services, which are in this process: calls as the bytes of their messages, streams as requests without
//! HTTP/2.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tower::util::{BoxCloneSyncService, Oneshot};
use tower::{Service, ServiceExt};
use unixfd::Fds;
pub use virtqemud_client::direct::Answer;
use wire::{Caller, Priority};

/// The daemon's services behind all that a request passes.
pub type Stack = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// What answers the requests of every connection: the daemon's services.
#[derive(Clone)]
pub struct Backend {
    /// Calls of one request and one answer.
    pub calls: Arc<dyn Unary>,
    /// Calls that are streams.
    pub streams: Stack,
}

/// What carries out calls of one request and one answer.
pub trait Unary: Send + Sync {
    /// Carries out the call at `path`. Its work may be done at once or when the answer is waited for.
    fn unary(&self, path: &'static str, asked: Asked, request: Bytes) -> Answer;
}

/// What comes with a call beside its message.
#[derive(Debug, Clone)]
pub struct Asked {
    /// For whom it is.
    pub caller: Caller,
    /// Whether it may be held up by others.
    pub priority: Priority,
    /// Descriptors.
    pub fds: Fds,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

/// The backend as one call sees it: each request says for whom it is, and takes the call's descriptors along.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub(crate) backend: Arc<Backend>,
    pub(crate) asked: Asked,
}

impl virtqemud_client::direct::Unary for Calls {
    fn unary(&self, path: &'static str, request: Bytes) -> Answer {
        self.backend.calls.unary(path, self.asked.clone(), request)
    }
}

impl Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Oneshot<Stack, http::Request<Body>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Readiness is a matter of each request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Asked {
            caller,
            priority,
            fds,
        } = &self.asked;
        request.extensions_mut().insert(caller.peer);
        request.extensions_mut().insert(*priority);
        if let Some(more) = &caller.more {
            request.extensions_mut().insert(Arc::clone(more));
        }
        if !fds.is_empty() {
            request.extensions_mut().insert(fds.clone());
        }
        self.backend.streams.clone().oneshot(request)
    }
}
