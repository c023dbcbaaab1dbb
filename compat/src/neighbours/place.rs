//! Where neighbours are looked for, and how long they may take.

use std::path::PathBuf;
use std::time::Duration;

/// Where the daemons of the other drivers are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Directory of their sockets.
    pub directory: PathBuf,
    /// They serve the whole host (`network:///system`) and not one user.
    pub system: bool,
    /// How long they may take.
    pub patience: Patience,
}

/// How long a neighbour may take before its calls fail. One that answers pings may take any time for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From connecting to the opened connection; systemd may have to start the daemon.
    pub opening: Duration,
    /// Silence, while it owes something, before it is pinged.
    pub interval: Duration,
    /// Pings that may stay unanswered.
    pub count: u32,
    /// Between two attempts to register for events again: the first pause; it doubles up to `retry_max`.
    pub retry: Duration,
    /// Longest pause between two attempts.
    pub retry_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            opening: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            count: 5,
            retry: Duration::from_millis(250),
            retry_max: Duration::from_secs(5),
        }
    }
}

impl Places {
    /// libvirt's directory for all users.
    #[must_use]
    pub fn new(system: bool) -> Self {
        Self {
            directory: "/run/libvirt".into(),
            system,
            patience: Patience::default(),
        }
    }
}
