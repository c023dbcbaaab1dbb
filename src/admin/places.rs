//! Gives every call its worker before the services see it, from whichever front it comes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tokio::sync::oneshot;
use tonic::body::Body;
use tower::Service;
use wire::Priority;

use super::Admin;
use super::workers::{Entered, Place, Workers};

/// Calls to administrate the daemon: they have workers of their own.
const ADMIN: &str = "/virtqemud.v1.Admin/";
/// Calls that never wait for others, whatever the limits are: a guest can always be powered off, and the daemon's health
/// always be asked.
const FREE: [&str; 2] = ["/virtqemud.v1.Domains/PowerOff", "/grpc.health.v1.Health/Check"];

/// A service whose calls have workers.
#[derive(Clone, Debug)]
pub struct Places<S> {
    inner: S,
    admin: Arc<Admin>,
}

impl<S> Places<S> {
    /// Has the calls of `inner` take the workers of `admin`'s servers.
    pub fn new(inner: S, admin: Arc<Admin>) -> Self {
        Self { inner, admin }
    }
}

/// The place of a call to `path`; none if it needs none.
pub fn enter(admin: &Admin, path: &str, priority: Priority) -> Option<Entered> {
    let [main, admin] = admin.servers();
    let workers: &Arc<Workers> = match path {
        path if path.starts_with(ADMIN) => &admin.workers,
        path if FREE.contains(&path) => return None,
        _ => &main.workers,
    };
    Some(workers.enter(priority))
}

impl<S> Service<Request<Body>> for Places<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Unpin,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Placed<S>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Placed<S> {
        let priority = request.extensions().get().copied().unwrap_or(Priority::Low);
        let entered = enter(&self.admin, request.uri().path(), priority);
        match entered {
            None => Placed::Served(self.inner.call(request), None),
            Some(Entered::Now(place)) => Placed::Served(self.inner.call(request), Some(place)),
            Some(Entered::Later(turn)) => {
                // The service that is ready is the one that is called.
                let ready = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, ready);
                Placed::Waiting(turn, Box::new(Some((inner, request))))
            }
        }
    }
}

/// A call on its way.
pub enum Placed<S: Service<Request<Body>>> {
    /// It waits for its turn.
    Waiting(oneshot::Receiver<Place>, Box<Option<(S, Request<Body>)>>),
    /// It is worked on. What follows an answer, a stream of events for example, needs no worker.
    Served(S::Future, Option<Place>),
}

impl<S> Future for Placed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Unpin,
    S::Future: Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut *self {
                Self::Served(call, _) => return Pin::new(call).poll(context),
                Self::Waiting(turn, call) => {
                    // The sender is never dropped before it was this call's turn: the queue lives as long as the daemon.
                    let place = ready!(Pin::new(turn).poll(context)).ok();
                    let Some((mut service, request)) = call.take() else {
                        return Poll::Pending;
                    };
                    let served = service.call(request);
                    *self = Self::Served(served, place);
                }
            }
        }
    }
}
