//! The gRPC sockets: HTTP/2 over a Unix socket, straight into the service.
//!
//! The service is the very stack that the libvirt front calls in process. What is added here is what a
//! connection has: who is at its other end, how many calls it may have under way, whether it still lives.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use compat::{Clients, Ticket};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use unixfd::{Peer, PeerCred};
use wire::{Caller, More};

use super::authority::Lenient;
use crate::config::DaemonConfig;

/// What answers the calls: any tower stack.
pub type Service = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Streams of one connection at one time. Watches and consoles stay open, so they are not counted as
/// calls under way; this bounds them.
const STREAMS: u32 = 256;
/// Bytes of a request's metadata.
const HEADERS: u32 = 16 * 1024;
/// Bytes that a stream may have unsent before its service waits.
const SEND_BUFFER: usize = 256 * 1024;
/// How long calls under way may take once the daemon stops.
const GRACE: Duration = Duration::from_secs(3);
/// How long accepting rests when the process is out of descriptors.
const OUT_OF_FDS: Duration = Duration::from_millis(100);

/// What all gRPC connections share.
#[derive(Clone)]
pub(super) struct Front {
    service: Service,
    config: watch::Receiver<Arc<DaemonConfig>>,
    clients: Arc<Clients>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Front {
    pub(super) fn new(
        service: Service,
        config: watch::Receiver<Arc<DaemonConfig>>,
        clients: Arc<Clients>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            service,
            config,
            clients,
            stop,
            tracker: TaskTracker::new(),
        }
    }

    /// Serves until the daemon stops; the clients of `read_only` listeners may only look.
    pub(super) async fn serve(self, listeners: Vec<(UnixListener, bool)>) {
        let accepting = listeners.into_iter().map(|(listener, read_only)| {
            let front = self.clone();
            async move {
                front
                    .stop
                    .run_until_cancelled(front.accept(&listener, read_only))
                    .await
            }
        });
        futures_util::future::join_all(accepting).await;
        self.tracker.close();
        self.tracker.wait().await;
    }

    async fn accept(&self, listener: &UnixListener, read_only: bool) {
        loop {
            self.clients.room(false).await;
            match listener.accept().await {
                Ok((stream, _)) => self.begin(stream, read_only).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a gRPC client");
                    tokio::time::sleep(OUT_OF_FDS).await;
                }
            }
        }
    }

    async fn begin(&self, stream: UnixStream, read_only: bool) {
        let cred = match PeerCred::of(&stream) {
            Ok(cred) => cred,
            Err(error) => return tracing::warn!(%error, "gRPC client without credentials"),
        };
        tracing::debug!(pid = cred.pid, uid = cred.uid, read_only, "gRPC client connected");
        let label = unixfd::peer_label(&stream);
        let more = label.map(|label| {
            Arc::new(More {
                given: None,
                label: Some(label),
            })
        });
        let peer = Peer { cred, read_only };
        let call = None;
        let caller = Caller { peer, more, call };
        let ticket = self
            .clients
            .enter(compat::Front::Other, caller.clone(), false)
            .await;
        let front = self.clone();
        self.tracker
            .spawn(async move { front.connection(stream, caller, ticket).await });
    }

    async fn connection(&self, stream: UnixStream, caller: Caller, ticket: Ticket) {
        let config = Arc::clone(&self.config.borrow());
        let service = self.service_for(caller.clone(), config.limits.client_requests);
        let connection = builder(&config).serve_connection(
            TokioIo::new(Lenient::new(stream)),
            TowerToHyperService::new(service),
        );
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = ticket.cut().cancelled() => Ok(()),
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
            }
        };
        tracing::debug!(
            pid = caller.peer.cred.pid,
            error = ended.err().map(tracing::field::display),
            "gRPC client left"
        );
    }

    fn service_for(
        &self,
        caller: Caller,
        calls: usize,
    ) -> ConcurrencyLimit<
        impl tower::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + use<>,
    > {
        let service = self
            .service
            .clone()
            .map_request(move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(caller.peer);
                if let Some(more) = &caller.more {
                    request.extensions_mut().insert(Arc::clone(more));
                }
                request
            });
        ServiceBuilder::new().concurrency_limit(calls).service(service)
    }
}

fn builder(config: &DaemonConfig) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(SEND_BUFFER);
    if let Some(interval) = config.keepalive.interval {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(interval * config.keepalive.count.max(1));
    }
    builder
}
