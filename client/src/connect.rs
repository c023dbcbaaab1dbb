//! The way to a daemon: its Unix socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Error, Uri};
use tower::service_fn;

use crate::services::{Channel, Services};

/// The socket of the host's daemon.
pub const SOCKET: &str = "/run/libvirt/virtqemud-grpc-sock";

/// The authority of requests. A socket's path is none, so it is never sent.
const AUTHORITY: &str = "http://localhost";

/// Connects to the daemon at `socket`. When the connection breaks, the next call connects anew.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(socket: impl AsRef<Path>) -> Result<Services<Channel>, Error> {
    let connector = connector(socket.as_ref().to_owned());
    let channel = Endpoint::from_static(AUTHORITY)
        .connect_with_connector(connector)
        .await?;
    Ok(Services::new(channel))
}

/// The same, connected by the first call: for a daemon that is still to start.
pub fn connect_lazily(socket: impl AsRef<Path>) -> Services<Channel> {
    let connector = connector(socket.as_ref().to_owned());
    Services::new(Endpoint::from_static(AUTHORITY).connect_with_connector_lazy(connector))
}

fn connector(
    socket: PathBuf,
) -> impl tower::Service<Uri, Response = TokioIo<UnixStream>, Error = std::io::Error, Future: Send> + Send + 'static
{
    service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    })
}
