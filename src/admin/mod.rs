//! The daemon as its administrator sees it: servers with their clients, limits and workers, the log, and its end.
//!
//! ```text
//! api::admin ──► Admin ─┬─ servers: who is connected, how many may be ([`compat::Clients`], shared with gRPC)
//!                       │           how many calls are worked on ([`Workers`], taken in [`Places`] by both fronts)
//!                       ├─ log:     filters and outputs
//!                       └─ wishes:  how long the daemon stays idle, its end (heeded by `daemon`)
//! ```
//!
//! What is set here holds until the daemon ends, or until a reload finds that the file says something else than before.

mod client;
mod limits;
mod log;
mod places;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use compat::{Clients, Limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Area, Code, Error, Result};
use crate::logging::{self, Surroundings};

pub use client::{Identity, identity};
pub use limits::{ClientLimits, WorkerLimits};
pub use places::{Placed, Places, enter};
pub use workers::{Count, Entered, Settings, Workers};

/// Names of the servers: libvirt calls the first by the daemon's name.
const NAMES: [&str; 2] = ["virtqemud", "admin"];

/// How long who stops the daemon has to read the answer and to hang up.
const FAREWELL: Duration = Duration::from_millis(200);

/// What can be administrated.
#[derive(Debug)]
pub struct Admin {
    servers: [Server; 2],
    log: logging::Handle,
    around: Surroundings,
    idle: watch::Sender<Option<Duration>>,
    end: CancellationToken,
}

/// Sockets that share limits: those for guests, and that of the administrator.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// Places for calls.
    pub workers: Arc<Workers>,
}

impl Admin {
    /// A daemon whose servers have these limits and places, whose log is `log`, and that stays for `idle` without a user.
    #[must_use]
    pub fn new(
        limits: [(Limits, Settings); 2],
        (log, around): (logging::Handle, Surroundings),
        idle: Option<Duration>,
    ) -> Self {
        let [main, admin] = limits;
        let server = |name, (limits, workers)| Server {
            name,
            clients: Arc::new(Clients::new(limits)),
            workers: Arc::new(Workers::new(workers)),
        };
        Self {
            servers: [server(NAMES[0], main), server(NAMES[1], admin)],
            log,
            around,
            idle: watch::Sender::new(idle),
            end: CancellationToken::new(),
        }
    }

    /// The server for guests and that for the administrator.
    #[must_use]
    pub fn servers(&self) -> &[Server; 2] {
        &self.servers
    }

    /// The server of that name.
    ///
    /// # Errors
    /// `NoServer`.
    pub fn server(&self, name: &str) -> Result<&Server> {
        let found = self.servers.iter().find(|server| server.name == name);
        found
            .ok_or_else(|| Error::new(Code::NoServer, format!("No server named '{name}'")).in_area(Area::Rpc))
    }

    /// How long the daemon stays without a client and without a running guest.
    #[must_use]
    pub fn idle(&self) -> watch::Receiver<Option<Duration>> {
        self.idle.subscribe()
    }

    /// Has the daemon stay for `limit` without a client and without a running guest; none: for ever.
    pub fn set_idle(&self, limit: Option<Duration>) {
        tracing::info!(?limit, "told how long to stay idle");
        self.idle.send_replace(limit);
    }

    /// Ends the daemon, as a signal does, a moment later: who asked for it has the answer and hangs up. Call it within the
    /// runtime.
    pub fn stop(&self) {
        tracing::info!("told to stop");
        let end = self.end.clone();
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            end.cancel();
        });
    }

    /// Returns when the daemon is to end.
    pub async fn stopped(&self) {
        self.end.cancelled().await;
    }
}

impl Server {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Replaces the files of its TLS listener.
    ///
    /// # Errors
    /// Always: no server of this daemon listens for TLS.
    pub fn update_tls(&self) -> Result<()> {
        let text = "no tls service found, unable to update tls files";
        Err(Error::internal(text).in_area(Area::Rpc))
    }

    /// The client of that number.
    ///
    /// # Errors
    /// `NoClient`.
    pub fn client(&self, id: u64) -> Result<compat::Client> {
        self.clients.get(id).ok_or_else(|| no_client(id))
    }

    /// Ends the connection of a client. What it has begun goes on.
    ///
    /// # Errors
    /// `NoClient`.
    pub fn disconnect(&self, id: u64) -> Result<()> {
        if !self.clients.disconnect(id) {
            return Err(no_client(id));
        }
        tracing::info!(server = self.name, client = id, "client disconnected");
        Ok(())
    }
}

fn no_client(id: u64) -> Error {
    Error::new(Code::NoClient, format!("No client with matching ID '{id}'")).in_area(Area::Rpc)
}
