//! Where everything lies on disk: libvirt's places, for the system daemon and for a user's.
//!
//! Decided once at start-up and handed down. Nothing else in the daemon composes such a path.

use std::path::{Path, PathBuf};

/// Whether the daemon serves the host or one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Run by root: `qemu:///system`.
    System,
    /// Run by a user: `qemu:///session`.
    Session,
}

/// What the environment says of a user's directories.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Home directory.
    pub home: PathBuf,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub cache_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
}

/// All directories and well-known files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// System or session.
    pub scope: Scope,
    /// `virtqemud.conf`.
    pub daemon_conf: PathBuf,
    /// `qemu.conf`.
    pub qemu_conf: PathBuf,
    /// Sockets, unless `unix_sock_dir` says otherwise.
    pub sockets: PathBuf,
    /// PID file, unless an option says otherwise.
    pub pid_file: PathBuf,
    /// What daemons of one host share.
    pub common: PathBuf,
    /// Log of a daemon in the background that has neither journal nor syslog.
    pub daemon_log: PathBuf,
    /// Guests' documents: `NAME.xml`, and `autostart/`.
    pub config: PathBuf,
    /// Status documents, PID files, `driver.pid`, `autostarted`, `channel/`, helpers' sockets.
    pub state: PathBuf,
    /// Scripts of the administrator: the host's, for a user's daemon, too.
    pub hooks: PathBuf,
    /// A directory a running guest: `domain-ID-NAME`.
    pub domains: PathBuf,
    /// `save/`, `snapshot/`, `checkpoint/`, `dump/`, `nvram/`, `ram/`.
    pub lib: PathBuf,
    /// State of emulated TPMs.
    pub swtpm: PathBuf,
    /// What is known of QEMU binaries.
    pub capabilities: PathBuf,
    /// Guests' logs.
    pub log: PathBuf,
    /// Logs of emulated TPMs.
    pub swtpm_log: PathBuf,
}

impl Environment {
    /// That of this process. Variables that are empty or relative do not count.
    #[must_use]
    pub fn of_process() -> Self {
        let directory = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path: &PathBuf| path.is_absolute())
        };
        let passwd = || {
            nix::unistd::User::from_uid(nix::unistd::geteuid())
                .ok()
                .flatten()
                .map(|user| user.dir)
        };
        Self {
            home: directory("HOME")
                .or_else(passwd)
                .unwrap_or_else(|| PathBuf::from("/")),
            config_home: directory("XDG_CONFIG_HOME"),
            cache_home: directory("XDG_CACHE_HOME"),
            runtime_dir: directory("XDG_RUNTIME_DIR"),
        }
    }
}

impl Paths {
    /// Images of managed saves: `NAME.save`.
    #[must_use]
    pub fn saves(&self) -> PathBuf {
        self.lib.join("save")
    }

    /// Dumps that guests' documents ask for.
    #[must_use]
    pub fn dumps(&self) -> PathBuf {
        self.lib.join("dump")
    }

    /// Those of the system daemon, below `root`: "/" but in tests.
    #[must_use]
    pub fn system(root: &Path) -> Self {
        let (etc, run) = (root.join("etc/libvirt"), root.join("run"));
        let (lib, log) = (root.join("var/lib/libvirt"), root.join("var/log"));
        Self {
            scope: Scope::System,
            daemon_conf: etc.join("virtqemud.conf"),
            qemu_conf: etc.join("qemu.conf"),
            sockets: run.join("libvirt"),
            pid_file: run.join("virtqemud.pid"),
            common: run.join("libvirt/common"),
            daemon_log: log.join("libvirt/virtqemud.log"),
            config: etc.join("qemu"),
            hooks: etc.join("hooks"),
            state: run.join("libvirt/qemu"),
            domains: lib.join("qemu"),
            lib: lib.join("qemu"),
            swtpm: lib.join("swtpm"),
            capabilities: root.join("var/cache/libvirt/qemu/capabilities"),
            log: log.join("libvirt/qemu"),
            swtpm_log: log.join("swtpm/libvirt/qemu"),
        }
    }

    /// Those of a user's daemon.
    #[must_use]
    pub fn session(environment: &Environment) -> Self {
        let home = &environment.home;
        let config = environment
            .config_home
            .clone()
            .unwrap_or_else(|| home.join(".config"));
        let cache = environment
            .cache_home
            .clone()
            .unwrap_or_else(|| home.join(".cache"));
        let run = environment.runtime_dir.clone().unwrap_or_else(|| cache.clone());
        let (config, cache, run) = (config.join("libvirt"), cache.join("libvirt"), run.join("libvirt"));
        Self {
            scope: Scope::Session,
            daemon_conf: config.join("virtqemud.conf"),
            qemu_conf: config.join("qemu.conf"),
            pid_file: run.join("virtqemud.pid"),
            common: run.join("common"),
            daemon_log: cache.join("virtqemud.log"),
            hooks: "/etc/libvirt/hooks".into(),
            state: run.join("qemu/run"),
            domains: config.join("qemu/lib"),
            lib: config.join("qemu"),
            swtpm: config.join("qemu/swtpm"),
            capabilities: cache.join("qemu/cache/capabilities"),
            log: cache.join("qemu/log"),
            swtpm_log: cache.join("qemu/log"),
            config: config.join("qemu"),
            sockets: run,
        }
    }

    /// Those of this process: by its user, or below `root` when one is given.
    #[must_use]
    pub fn of_process(root: Option<&Path>) -> Self {
        match root {
            Some(root) => Self::system(root),
            None if nix::unistd::geteuid().is_root() => Self::system(Path::new("/")),
            None => Self::session(&Environment::of_process()),
        }
    }

    /// File that the driver keeps locked as long as it runs; libvirt's daemons honour it too.
    #[must_use]
    pub fn driver_lock(&self) -> PathBuf {
        self.state.join("driver.pid")
    }

    /// File that says that guests were started with the host already.
    #[must_use]
    pub fn autostarted(&self) -> PathBuf {
        self.state.join("autostarted")
    }

    /// Directories in which QEMU has files of its own, each after the one it is in.
    #[must_use]
    pub fn of_qemu(&self) -> Vec<PathBuf> {
        const OF_LIB: [&str; 6] = ["save", "snapshot", "checkpoint", "dump", "nvram", "ram"];
        let mut all = vec![self.state.clone(), self.state.join("channel"), self.lib.clone()];
        all.extend(OF_LIB.map(|name| self.lib.join(name)));
        all
    }

    /// Links to documents of guests that start with the host.
    #[must_use]
    pub fn autostart(&self) -> PathBuf {
        self.config.join("autostart")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_paths_are_libvirts() {
        let paths = Paths::system(Path::new("/"));
        let expected = [
            (paths.daemon_conf.clone(), "/etc/libvirt/virtqemud.conf"),
            (paths.pid_file.clone(), "/run/virtqemud.pid"),
            (paths.sockets.clone(), "/run/libvirt"),
            (paths.hooks.clone(), "/etc/libvirt/hooks"),
            (paths.driver_lock(), "/run/libvirt/qemu/driver.pid"),
            (paths.autostart(), "/etc/libvirt/qemu/autostart"),
            (paths.domains.clone(), "/var/lib/libvirt/qemu"),
            (paths.capabilities.clone(), "/var/cache/libvirt/qemu/capabilities"),
            (paths.log.clone(), "/var/log/libvirt/qemu"),
        ];
        for (path, libvirts) in expected {
            assert_eq!(path, Path::new(libvirts));
        }
    }

    #[test]
    fn session_paths_follow_the_environment_and_its_fallbacks() {
        let home = PathBuf::from("/home/u");
        let bare = Paths::session(&Environment {
            home: home.clone(),
            ..Environment::default()
        });
        assert_eq!(bare.sockets, Path::new("/home/u/.cache/libvirt"));
        assert_eq!(
            bare.daemon_conf,
            Path::new("/home/u/.config/libvirt/virtqemud.conf")
        );
        let set = Paths::session(&Environment {
            home,
            config_home: Some("/c".into()),
            cache_home: Some("/k".into()),
            runtime_dir: Some("/run/user/1000".into()),
        });
        let expected = [
            (set.sockets.clone(), "/run/user/1000/libvirt"),
            (set.hooks.clone(), "/etc/libvirt/hooks"),
            (set.state.clone(), "/run/user/1000/libvirt/qemu/run"),
            (set.domains.clone(), "/c/libvirt/qemu/lib"),
            (set.lib.clone(), "/c/libvirt/qemu"),
            (set.log.clone(), "/k/libvirt/qemu/log"),
            (set.capabilities.clone(), "/k/libvirt/qemu/cache/capabilities"),
        ];
        for (path, libvirts) in expected {
            assert_eq!(path, Path::new(libvirts));
        }
    }
}
