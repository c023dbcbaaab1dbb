//! Who is at the other end of a socket, and what came with a request beside its bytes.
//!
//! [`Peer`] and [`Fds`] are carried in a request's extensions, from the socket that accepted a call to
//! the handler that serves it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::net::UnixStream;

/// Longest label of a security module, in bytes.
const LABEL_MAX: usize = 4096;

/// A process at the other end of a Unix socket, as the kernel noted it at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerCred {
    /// Process; 0 when it lives in a PID namespace that ours cannot see. It may be gone by now.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl PeerCred {
    /// Asks the kernel for the peer of `stream`.
    ///
    /// # Errors
    /// What `getsockopt(SO_PEERCRED)` gives.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let cred = stream.peer_cred()?;
        Ok(Self {
            pid: cred.pid().unwrap_or(0),
            uid: cred.uid(),
            gid: cred.gid(),
        })
    }

    /// The user's name. Blocks: name services may be asked.
    #[must_use]
    pub fn user_name(&self) -> Option<String> {
        nix::unistd::User::from_uid(self.uid.into())
            .ok()
            .flatten()
            .map(|user| user.name)
    }

    /// The group's name. Blocks: name services may be asked.
    #[must_use]
    pub fn group_name(&self) -> Option<String> {
        nix::unistd::Group::from_gid(self.gid.into())
            .ok()
            .flatten()
            .map(|group| group.name)
    }

    /// The calling process itself: the peer of calls the daemon makes to itself.
    #[must_use]
    pub fn own() -> Self {
        Self {
            pid: nix::unistd::getpid().as_raw(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }
}

/// The label that a security module (SELinux, AppArmor) gave the peer of `stream`; none without such a module.
#[must_use]
#[expect(unsafe_code, reason = "nix does not know SO_PEERSEC")]
pub fn peer_label(stream: &impl AsRawFd) -> Option<String> {
    let mut label = vec![0_u8; LABEL_MAX];
    let mut len = libc::socklen_t::try_from(label.len()).ok()?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERSEC);
    // SAFETY: the buffer is as long as is said, and the kernel says how much of it it has filled.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            level,
            option,
            label.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return None;
    }
    label.truncate(usize::try_from(len).ok()?);
    let text = String::from_utf8(label).ok()?;
    Some(text.trim_end_matches(['\0', '\n']).to_owned()).filter(|label| !label.is_empty())
}

/// The caller of a request: extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The process that connected.
    pub cred: PeerCred,
    /// It came by the read-only socket.
    pub read_only: bool,
}

/// Descriptors that came with a request, or go with a reply, in order: extension of either.
#[derive(Debug, Clone, Default)]
pub struct Fds(pub Arc<Vec<OwnedFd>>);

impl Fds {
    /// Takes over `fds`.
    #[must_use]
    pub fn new(fds: Vec<OwnedFd>) -> Self {
        Self(Arc::new(fds))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The descriptor at `index`, in the order they were sent.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.0.get(index).map(AsFd::as_fd)
    }

    /// Own copies of all of them.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Vec<OwnedFd>> {
        self.0.iter().map(OwnedFd::try_clone).collect()
    }
}
