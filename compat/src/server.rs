//! Accepting connections within the limits that [`Clients`](crate::Clients) keep.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unixfd::{Peer, PeerCred, QuietStream};
use wire::{Caller, More};

use crate::clients::{Front, Ticket};
use crate::conn::Conn;
use crate::options::{Options, SocketKind};
use crate::session::Session;

/// How long accepting rests when the process is out of descriptors.
const OUT_OF_FDS: Duration = Duration::from_millis(100);
/// How long a client that is turned away may take until it speaks.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listening socket and what its clients may do.
#[derive(Debug)]
pub struct Socket {
    /// What its clients may do.
    pub kind: SocketKind,
    /// Where they come.
    pub listener: UnixListener,
}

/// Serves `sockets` until `stop`; returns when every connection has ended.
///
/// At `stop` no client is accepted any more; calls that are being served are finished and answered, then
/// each connection is closed.
pub async fn serve(sockets: Vec<Socket>, options: Arc<Options>, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    let acceptors = sockets.into_iter().map(|socket| {
        let (options, stop, sessions) = (Arc::clone(&options), stop.clone(), sessions.clone());
        async move {
            stop.run_until_cancelled(accept(&socket, &options, &stop, &sessions))
                .await
        }
    });
    futures_util::future::join_all(acceptors).await;
    sessions.close();
    sessions.wait().await;
}

async fn accept(socket: &Socket, options: &Arc<Options>, stop: &CancellationToken, sessions: &TaskTracker) {
    loop {
        let stranger = options.authority.asks(socket.kind);
        options.clients.room(stranger).await;
        match socket.listener.accept().await {
            Ok((stream, _)) => begin(stream, socket.kind, options, (stop, sessions)).await,
            Err(error) => {
                tracing::warn!(%error, socket = ?socket.kind, "cannot accept a client");
                tokio::time::sleep(OUT_OF_FDS).await;
            }
        }
    }
}

async fn begin(
    stream: UnixStream,
    kind: SocketKind,
    options: &Arc<Options>,
    (stop, sessions): (&CancellationToken, &TaskTracker),
) {
    let cred = match PeerCred::of(&stream) {
        Ok(cred) => cred,
        Err(error) => return tracing::warn!(%error, "client without credentials"),
    };
    tracing::debug!(pid = cred.pid, uid = cred.uid, socket = ?kind, "client connected");
    let more = unixfd::peer_label(&stream).map(|label| {
        Arc::new(More {
            given: None,
            label: Some(label),
        })
    });
    let peer = Peer {
        cred,
        read_only: kind == SocketKind::ReadOnly,
    };
    let call = None;
    let caller = Caller { peer, more, call };
    if kind == SocketKind::Admin && cred.uid != PeerCred::own().uid {
        tracing::warn!(
            pid = cred.pid,
            uid = cred.uid,
            "only the daemon's own user may administrate it"
        );
        let ticket = options.clients.enter(Front::Libvirt, caller, false).await;
        sessions.spawn(turn_away(stream, ticket));
        return;
    }
    let stream = match QuietStream::new(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "cannot watch a client"),
    };
    let conn = Arc::new(Conn::new(Arc::clone(options), kind, &caller));
    let stranger = options.authority.asks(kind);
    let ticket = options.clients.enter(Front::Libvirt, caller, stranger).await;
    sessions.spawn(Session::new(stream, conn, ticket, stop.clone()).run());
}

/// Hangs up once the client has begun to speak, so that it learns that from its answer and not from its question.
async fn turn_away(stream: UnixStream, ticket: Ticket) {
    let _ = tokio::time::timeout(PATIENCE, stream.readable()).await;
    drop((stream, ticket));
}
