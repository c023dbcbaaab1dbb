//! Where neighbours are looked for, and how long they may take.

use std::path::PathBuf;
use std::time::Duration;

use wire::procedure::Owner;

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
        Self { directory: "/run/libvirt".into(), system, patience: Patience::default() }
    }

    /// The sockets at which `owner` is looked for, in this order: its own, and that of a daemon that has every
    /// driver.
    pub(super) fn sockets(&self, owner: Owner, read_only: bool) -> Vec<PathBuf> {
        let suffix = if read_only { "-sock-ro" } else { "-sock" };
        let names = daemon(owner).into_iter().map(|(daemon, _)| daemon).chain(["libvirt"]);
        names.map(|name| self.directory.join(format!("{name}{suffix}"))).collect()
    }

    /// What is opened there.
    pub(super) fn uri(&self, owner: Owner) -> String {
        let scheme = daemon(owner).map_or("", |(_, scheme)| scheme);
        format!("{scheme}:///{}", if self.system { "system" } else { "session" })
    }
}

/// The daemon that serves `owner`'s driver, and the scheme of its URI; none for what is served here.
pub(super) fn daemon(owner: Owner) -> Option<(&'static str, &'static str)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modular_daemon_comes_before_the_one_that_has_all() {
        let places = Places { directory: "/run/user/7/libvirt".into(), ..Places::new(false) };
        let names = |read_only| places.sockets(Owner::Network, read_only).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(names(false), ["/run/user/7/libvirt/virtnetworkd-sock", "/run/user/7/libvirt/libvirt-sock"]);
        assert_eq!(names(true), ["/run/user/7/libvirt/virtnetworkd-sock-ro", "/run/user/7/libvirt/libvirt-sock-ro"]);
        assert_eq!(places.uri(Owner::Nodedev), "nodedev:///session");
        assert_eq!(Places::new(true).uri(Owner::Storage), "storage:///system");
    }
}
