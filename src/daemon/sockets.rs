//! The daemon's sockets: handed over by systemd, or bound by the daemon itself.
//!
//! Systemd names descriptors after their unit unless told otherwise, so the names are those of libvirt's
//! units; where a name says nothing, the address does. Once systemd hands anything over, it alone decides
//! what there is. Sockets that the daemon bound are removed at its end, others are not.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, getsockopt, listen, sockopt};
use unixfd::Owner;

use crate::config::DaemonConfig;
use crate::paths::{Paths, Scope};

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// libvirt's protocol.
    Main,
    /// The same, to look only.
    ReadOnly,
    /// virt-admin.
    Admin,
    /// gRPC.
    Grpc,
    /// The same, to look only.
    GrpcReadOnly,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Socket {
    /// What it is for.
    pub(super) role: Role,
    /// The socket, non-blocking.
    pub(super) listener: UnixListener,
}

/// All sockets of the daemon.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) all: Vec<Socket>,
    bound: Vec<PathBuf>,
}

/// Why sockets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Binding one failed.
    #[error("cannot listen on {}: {reason}", path.display())]
    Bind {
        /// Address.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// There is no such group.
    #[error("virtqemud.conf: unix_sock_group: there is no group \"{0}\" on this host")]
    NoGroup(String),
    /// What systemd handed over cannot be used.
    #[error("socket {name} of systemd: {problem}")]
    Inherited {
        /// Name of the descriptor.
        name: String,
        /// Why.
        problem: String,
    },
}

/// Role, name of the file, unit of systemd.
const ROLES: [(Role, &str, &str); 5] = [
    (Role::Main, "virtqemud-sock", "virtqemud.socket"),
    (Role::ReadOnly, "virtqemud-sock-ro", "virtqemud-ro.socket"),
    (Role::Admin, "virtqemud-admin-sock", "virtqemud-admin.socket"),
    (Role::Grpc, "virtqemud-grpc-sock", "virtqemud-grpc.socket"),
    (
        Role::GrpcReadOnly,
        "virtqemud-grpc-sock-ro",
        "virtqemud-grpc-ro.socket",
    ),
];

impl Sockets {
    /// Those that systemd handed over, or else new ones.
    pub(super) fn open(config: &DaemonConfig, paths: &Paths) -> Result<Self, SocketError> {
        let inherited =
            sd_notify::listen_fds_with_names(false).map_err(|error| inherited_error("", &error))?;
        let inherited: Vec<(RawFd, String)> = inherited.collect();
        if inherited.is_empty() {
            Self::bind(config, paths)
        } else {
            Self::adopt(inherited)
        }
    }

    /// Removes what the daemon bound. Only while the daemon's lock is held.
    pub(super) fn remove(bound: &[PathBuf]) {
        for path in bound {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Files that the daemon made.
    pub(super) fn bound(&self) -> &[PathBuf] {
        &self.bound
    }

    fn bind(config: &DaemonConfig, paths: &Paths) -> Result<Self, SocketError> {
        let directory = config.sockets.directory.as_deref().unwrap_or(&paths.sockets);
        make_directory(directory, paths.scope).map_err(|reason| SocketError::Bind {
            path: directory.to_owned(),
            reason,
        })?;
        let owner = owner(config.sockets.group.as_deref())?;
        let mut sockets = Self {
            all: Vec::new(),
            bound: Vec::new(),
        };
        // libvirt's own comes last: whoever waits for it finds all of them.
        for (role, name, _) in ROLES.into_iter().rev() {
            let path = directory.join(name);
            match bind_one(&path, role, config, owner) {
                Ok(listener) => sockets.all.push(Socket { role, listener }),
                Err(reason) => {
                    Self::remove(&sockets.bound);
                    return Err(SocketError::Bind { path, reason });
                }
            }
            sockets.bound.push(path);
        }
        Ok(sockets)
    }

    fn adopt(inherited: Vec<(RawFd, String)>) -> Result<Self, SocketError> {
        let mut sockets = Self {
            all: Vec::new(),
            bound: Vec::new(),
        };
        for (number, name) in inherited {
            let listener = take(number).map_err(|error| inherited_error(&name, &error))?;
            match role_of(&name, &listener) {
                Some(role) if sockets.all.iter().any(|socket| socket.role == role) => {
                    return Err(inherited_error(&name, &"there are two for one purpose"));
                }
                Some(role) => sockets.all.push(Socket { role, listener }),
                None => {
                    return Err(inherited_error(
                        &name,
                        &"neither its name nor its address is known",
                    ));
                }
            }
        }
        Ok(sockets)
    }
}

impl Role {
    /// Whether its clients may only look.
    pub(super) fn read_only(self) -> bool {
        matches!(self, Self::ReadOnly | Self::GrpcReadOnly)
    }
}

fn bind_one(
    path: &Path,
    role: Role,
    config: &DaemonConfig,
    owner: Option<Owner>,
) -> io::Result<UnixListener> {
    let mode = match role {
        Role::Main | Role::Grpc => config.sockets.rw_mode,
        Role::ReadOnly | Role::GrpcReadOnly => config.sockets.ro_mode,
        Role::Admin => config.sockets.admin_mode,
    };
    let queue = match role {
        Role::Admin => config.admin_limits.queued_clients,
        _ => config.limits.queued_clients,
    };
    let listener = unixfd::bind_listener(path, mode, owner)?;
    // The kernel bounds the queue by net.core.somaxconn, and nix by what fits the call.
    let backlog = i32::try_from(queue)
        .ok()
        .and_then(|queue| Backlog::new(queue).ok());
    listen(&listener, backlog.unwrap_or(Backlog::MAXCONN))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn owner(group: Option<&str>) -> Result<Option<Owner>, SocketError> {
    let Some(group) = group else { return Ok(None) };
    let by_name = nix::unistd::Group::from_name(group)
        .ok()
        .flatten()
        .map(|group| group.gid.as_raw());
    let gid = by_name
        .or_else(|| group.strip_prefix('+').unwrap_or(group).parse().ok())
        .ok_or_else(|| SocketError::NoGroup(group.to_owned()))?;
    Ok(Some(Owner {
        uid: nix::unistd::geteuid().as_raw(),
        gid,
    }))
}

fn make_directory(directory: &Path, scope: Scope) -> io::Result<()> {
    let mode = match scope {
        Scope::System => 0o755,
        Scope::Session => 0o700,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
}

/// Takes over a descriptor by its number. The copy is ours; the number itself stays with the
/// process, closed on exec, as nothing says that nobody else uses it.
fn take(number: RawFd) -> io::Result<UnixListener> {
    let fd = unixfd::copy_of_inherited(number)?;
    let listening = getsockopt(&fd, sockopt::AcceptConn)?;
    let listener = UnixListener::from(fd);
    if !listening {
        return Err(io::Error::other("it is not listening"));
    }
    if family(&listener)? != Some(AddressFamily::Unix) {
        return Err(io::Error::other(
            "it is not a Unix socket; virtproxyd serves networks",
        ));
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn family(listener: &UnixListener) -> io::Result<Option<AddressFamily>> {
    use nix::sys::socket::{SockaddrLike, SockaddrStorage, getsockname};
    use std::os::fd::AsRawFd;
    let address: SockaddrStorage = getsockname(listener.as_fd().as_raw_fd())?;
    Ok(address.family())
}

fn role_of(name: &str, listener: &UnixListener) -> Option<Role> {
    let by_name = ROLES.iter().find(|(_, _, unit)| *unit == name);
    let address = listener.local_addr().ok();
    let file = address
        .as_ref()
        .and_then(|address| address.as_pathname()?.file_name());
    let by_address = || {
        ROLES
            .iter()
            .find(|(_, file_name, _)| file == Some((*file_name).as_ref()))
    };
    by_name.or_else(by_address).map(|(role, ..)| *role)
}

fn inherited_error(name: &str, problem: &dyn std::fmt::Display) -> SocketError {
    SocketError::Inherited {
        name: name.to_owned(),
        problem: problem.to_string(),
    }
}
