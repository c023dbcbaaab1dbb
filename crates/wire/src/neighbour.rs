//! The daemons of the other drivers: where their sockets are, and how one is opened.
//!
//! Used by who relays a client's calls to them and by who calls them for itself.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use crate::client::{Client, ClientError};
use crate::consts::VIR_CONNECT_RO;
use crate::procedure::Owner;
use crate::remote::{AuthList, AuthPolkit, AuthType, ConnectOpen};
use crate::{ErrorCode, ErrorDomain, WireError};

/// How long to wait before a socket whose queue is full is tried again.
const FULL: Duration = Duration::from_millis(20);

/// The daemon that serves `owner`'s driver, and the scheme of its URI; none for what virtqemud serves itself.
#[must_use]
pub fn daemon(owner: Owner) -> Option<(&'static str, &'static str)> {
    Some(match owner {
        Owner::Network => ("virtnetworkd", "network"),
        Owner::Storage => ("virtstoraged", "storage"),
        Owner::Nodedev => ("virtnodedevd", "nodedev"),
        Owner::Interface => ("virtinterfaced", "interface"),
        Owner::Nwfilter => ("virtnwfilterd", "nwfilter"),
        Owner::Secret => ("virtsecretd", "secret"),
        Owner::Daemon | Owner::Qemu | Owner::Nobody => return None,
    })
}

/// The sockets in `directory` at which `owner` is looked for, in this order: its own, and that of a daemon that has
/// every driver.
#[must_use]
pub fn sockets(directory: &Path, owner: Owner, read_only: bool) -> Vec<PathBuf> {
    let suffix = if read_only { "-sock-ro" } else { "-sock" };
    let names = daemon(owner)
        .into_iter()
        .map(|(daemon, _)| daemon)
        .chain(["libvirt"]);
    names
        .map(|name| directory.join(format!("{name}{suffix}")))
        .collect()
}

/// What is opened there: of the whole host (`system`), or of one user.
#[must_use]
pub fn uri(owner: Owner, system: bool) -> String {
    let scheme = daemon(owner).map_or("", |(_, scheme)| scheme);
    format!("{scheme}:///{}", if system { "system" } else { "session" })
}

/// Connects to the first of `sockets` that is there; whether that is the first of all.
///
/// # Errors
/// That of the first when none is there; that of the one which is there and refuses.
pub async fn find(sockets: &[PathBuf]) -> Result<(UnixStream, bool), WireError> {
    let mut first = None;
    for (index, path) in sockets.iter().enumerate() {
        match connect(path).await {
            Ok(stream) => return Ok((stream, index == 0)),
            Err(error) => {
                let absent = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                );
                let failed = system_error(
                    &format!("Failed to connect socket to '{}'", path.display()),
                    &error,
                );
                if !absent {
                    return Err(failed);
                }
                first.get_or_insert(failed);
            }
        }
    }
    Err(first.unwrap_or_default())
}

/// Connects, however long it takes until the daemon has room in its queue.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL).await,
            result => return result,
        }
    }
}

/// Authenticates in the ways that there are between daemons, and opens `uri`.
///
/// # Errors
/// What the daemon answers.
pub async fn open(client: &mut Client, uri: &str, read_only: bool) -> Result<(), ClientError> {
    let types = client.call(&AuthList {}).await?.types;
    if !types.contains(&AuthType::NONE) && !types.is_empty() {
        if !types.contains(&AuthType::POLKIT) {
            let text = "the daemon asks for a way to authenticate that is not between daemons";
            let error = WireError::new(ErrorCode::AUTH_FAILED, ErrorDomain::RPC, text);
            return Err(ClientError::Remote(Box::new(error)));
        }
        client.call(&AuthPolkit {}).await?;
    }
    let flags = if read_only { VIR_CONNECT_RO } else { 0 };
    client
        .call(&ConnectOpen {
            name: Some(uri.into()),
            flags,
        })
        .await
}

/// Why a neighbour cannot be used, in libvirt's words.
impl From<ClientError> for WireError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Remote(error) => *error,
            ClientError::Closed => hung_up(),
            ClientError::Io(error) => system_error("Cannot recv data", &error),
            other => Self::rpc(&other.to_string()),
        }
    }
}

/// The neighbour closed the connection.
#[must_use]
pub fn hung_up() -> WireError {
    const EIO: i32 = 5;
    system_error(
        "End of file while reading data",
        &io::Error::from_raw_os_error(EIO),
    )
}

/// An error of the system while doing `what`.
#[must_use]
pub fn system_error(what: &str, error: &io::Error) -> WireError {
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or_default();
    let full = WireError::new(
        ErrorCode::SYSTEM_ERROR,
        ErrorDomain::RPC,
        &format!("{what}: {reason}"),
    );
    full.with_ints(error.raw_os_error().unwrap_or(-1), -1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modular_daemon_comes_before_the_one_that_has_all() {
        let names = |read_only| {
            let sockets = sockets(Path::new("/run/user/7/libvirt"), Owner::Network, read_only);
            sockets
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(false),
            [
                "/run/user/7/libvirt/virtnetworkd-sock",
                "/run/user/7/libvirt/libvirt-sock"
            ]
        );
        assert_eq!(
            names(true),
            [
                "/run/user/7/libvirt/virtnetworkd-sock-ro",
                "/run/user/7/libvirt/libvirt-sock-ro"
            ]
        );
        assert_eq!(uri(Owner::Nodedev, false), "nodedev:///session");
        assert_eq!(uri(Owner::Storage, true), "storage:///system");
    }
}
