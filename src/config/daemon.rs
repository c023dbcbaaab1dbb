//! What `virtqemud.conf` says, as values that the daemon uses.

use std::path::PathBuf;
use std::time::Duration;

use super::document::{Document, Error};
use super::key;

/// The file's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Sockets that the daemon makes.
    pub sockets: Sockets,
    /// Limits of the read-write and read-only sockets together.
    pub limits: Limits,
    /// Limits of the admin socket.
    pub admin_limits: AdminLimits,
    /// Workers of the read-write and read-only sockets together.
    pub workers: Workers,
    /// Workers of the admin socket.
    pub admin_workers: Workers,
    /// Dead connections of all but the admin socket.
    pub keepalive: Keepalive,
    /// Dead connections of the admin socket.
    pub admin_keepalive: Keepalive,
    /// Logging, still as text: environment and options have their say too.
    pub logging: Logging,
    /// The host's UUID.
    pub host_uuid: HostUuid,
}

/// Sockets that the daemon makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// Directory; `None` for the usual one.
    pub directory: Option<PathBuf>,
    /// Directory where the daemons of the other drivers listen.
    pub neighbours: Option<PathBuf>,
    /// Owning group, by name or number; `None` for that of the process.
    pub group: Option<String>,
    /// Mode of the read-write sockets.
    pub rw_mode: u32,
    /// Mode of the read-only sockets.
    pub ro_mode: u32,
    /// Mode of the admin socket.
    pub admin_mode: u32,
}

/// How much clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections, over all sockets but the admin one.
    pub clients: usize,
    /// Connections in the kernel's queue of one socket.
    pub queued_clients: u32,
    /// Connections that have not authenticated; `None` for no limit of its own.
    pub anonymous_clients: Option<usize>,
    /// Calls of one connection at one time.
    pub client_requests: usize,
}

/// How much clients of the admin socket may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminLimits {
    /// Connections.
    pub clients: usize,
    /// Connections in the kernel's queue.
    pub queued_clients: u32,
    /// Calls of one connection at one time.
    pub client_requests: usize,
}

/// How many calls of all clients are worked on at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Workers that are counted as there.
    pub min: u32,
    /// Most workers; `None`: as many as the clients may have calls.
    pub max: Option<u32>,
    /// Workers beside, for calls that never wait for a guest.
    pub priority: u32,
}

/// When a silent connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which the other end is asked; `None`: never asked.
    pub interval: Option<Duration>,
    /// Questions that may stay unanswered.
    pub count: u32,
}

/// What the file says on logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// 1 debug to 4 errors.
    pub level: u8,
    /// `log_filters`.
    pub filters: String,
    /// `log_outputs`.
    pub outputs: String,
}

/// Where the host's UUID comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostUuid {
    /// It is given.
    Fixed(uuid::Uuid),
    /// The firmware's tables.
    Smbios,
    /// `/etc/machine-id`.
    MachineId,
}

impl DaemonConfig {
    /// Takes the values out of a document of [`super::DAEMON`].
    ///
    /// # Errors
    /// When values do not go together or ask for what the daemon cannot do.
    pub fn from_document(document: &Document) -> Result<Self, Error> {
        refuse_unsupported_access(document)?;
        Ok(Self {
            sockets: sockets(document),
            limits: limits(document)?,
            admin_limits: AdminLimits {
                clients: document.count("admin_max_clients"),
                queued_clients: document.count("admin_max_queued_clients"),
                client_requests: document.count("admin_max_client_requests"),
            },
            workers: Workers {
                min: document.count("min_workers"),
                max: document.optional_count("max_workers"),
                priority: document.count("prio_workers"),
            },
            admin_workers: Workers {
                min: document.count("admin_min_workers"),
                max: document.optional_count("admin_max_workers"),
                priority: 0,
            },
            keepalive: keepalive(document, "keepalive_interval", "keepalive_count"),
            admin_keepalive: keepalive(document, "admin_keepalive_interval", "admin_keepalive_count"),
            logging: Logging {
                level: document.count("log_level"),
                filters: document.text("log_filters").unwrap_or_default().to_owned(),
                outputs: document.text("log_outputs").unwrap_or_default().to_owned(),
            },
            host_uuid: host_uuid(document),
        })
    }
}

impl DaemonConfig {
    /// These settings, but with those of `running` that only a restart changes.
    #[must_use]
    pub fn reloaded_over(self, running: &Self) -> Self {
        let limits = Limits {
            queued_clients: running.limits.queued_clients,
            ..self.limits
        };
        Self {
            limits,
            workers: self.workers,
            keepalive: self.keepalive,
            logging: self.logging,
            ..running.clone()
        }
    }
}

/// A daemon that ignored these would be open to more people than its administrator wants.
fn refuse_unsupported_access(document: &Document) -> Result<(), Error> {
    for name in ["auth_unix_rw", "auth_unix_ro"] {
        let asked = document.text(name).unwrap_or("none");
        if asked != "none" {
            return Err(document
                .meaning(name, format!("\"{asked}\" is not supported yet; set \"none\" and let the sockets' mode and group decide")));
        }
    }
    let drivers = document.list("access_drivers").unwrap_or_default();
    match drivers.iter().find(|driver| *driver != "none") {
        Some(driver) => Err(document.meaning(
            "access_drivers",
            format!("\"{driver}\" is not supported yet; leave the list empty"),
        )),
        None => Ok(()),
    }
}

fn sockets(document: &Document) -> Sockets {
    Sockets {
        directory: document.path("unix_sock_dir"),
        neighbours: document.path("neighbour_sock_dir"),
        group: document.text("unix_sock_group").map(str::to_owned),
        rw_mode: document.mode("unix_sock_rw_perms"),
        ro_mode: document.mode("unix_sock_ro_perms"),
        admin_mode: document.mode("unix_sock_admin_perms"),
    }
}

fn limits(document: &Document) -> Result<Limits, Error> {
    let limits = Limits {
        clients: document.count("max_clients"),
        queued_clients: document.count("max_queued_clients"),
        anonymous_clients: Some(document.count("max_anonymous_clients")).filter(|count| *count != 0),
        client_requests: document.count("max_client_requests"),
    };
    match limits.anonymous_clients {
        Some(anonymous) if anonymous > limits.clients => Err(document.meaning(
            "max_clients",
            format!(
                "it is {}, less than max_anonymous_clients, which is {anonymous}",
                limits.clients
            ),
        )),
        _ => Ok(limits),
    }
}

fn keepalive(document: &Document, interval: &str, count: &str) -> Keepalive {
    let seconds = document.number(interval);
    Keepalive {
        interval: u64::try_from(seconds)
            .ok()
            .filter(|s| *s > 0)
            .map(Duration::from_secs),
        count: document.count(count),
    }
}

fn host_uuid(document: &Document) -> HostUuid {
    match document.text("host_uuid").and_then(key::uuid) {
        Some(uuid) => HostUuid::Fixed(uuid),
        None if document.text("host_uuid_source") == Some("machine-id") => HostUuid::MachineId,
        None => HostUuid::Smbios,
    }
}
