//! Accepting connections within limits.
//!
//! A client past a limit waits in the socket's backlog instead of being turned away: accepting goes on
//! when another leaves or has shown who it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unixfd::{PeerCred, QuietStream};

use crate::conn::Conn;
use crate::options::{Clients, Options, SocketKind, Ticket};
use crate::session::Session;

/// How long accepting rests when the process is out of descriptors.
const OUT_OF_FDS: Duration = Duration::from_millis(100);

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
        Clients::room(options, stranger).await;
        match socket.listener.accept().await {
            Ok((stream, _)) => begin(stream, socket.kind, options, (stop, sessions)),
            Err(error) => {
                tracing::warn!(%error, socket = ?socket.kind, "cannot accept a client");
                tokio::time::sleep(OUT_OF_FDS).await;
            }
        }
    }
}

fn begin(
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
    let stream = match QuietStream::new(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "cannot watch a client"),
    };
    let ticket = Ticket::new(options, options.authority.asks(kind));
    let label = unixfd::peer_label(&stream);
    let conn = Arc::new(Conn::new(Arc::clone(options), kind, cred, label));
    sessions.spawn(Session::new(stream, conn, ticket, stop.clone()).run());
}
