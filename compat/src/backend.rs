//! The way to the services: in process, as bytes, without HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;
use unixfd::Fds;
use wire::{Caller, Priority};

/// What answers the requests of every connection: the daemon's service stack.
pub type Backend = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// The backend as one call sees it: each request says for whom it is, and takes the call's descriptors along.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub(crate) inner: Backend,
    pub(crate) caller: Caller,
    /// Whether the call may be held up by others.
    pub(crate) priority: Priority,
    pub(crate) fds: Fds,
}

impl Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = <Backend as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.caller.peer);
        request.extensions_mut().insert(self.priority);
        if let Some(more) = &self.caller.more {
            request.extensions_mut().insert(Arc::clone(more));
        }
        if !self.fds.is_empty() {
            request.extensions_mut().insert(self.fds.clone());
        }
        self.inner.call(request)
    }
}
