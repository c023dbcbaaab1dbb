//! Listening Unix sockets that never have wider permissions than asked, not even for a moment.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};

/// Owner of a socket file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Listens at `path` with exactly `mode` and, if given, `owner`.
///
/// A socket file that nobody listens on any more is replaced. The process's umask is neither needed
/// nor touched. The result blocks; set it non-blocking before handing it to tokio.
///
/// # Errors
/// `AddrInUse` when somebody listens there or the file is no socket, `InvalidInput` when the path is
/// longer than 107 bytes, else what the system calls give.
pub fn bind_listener(path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    remove_stale(path)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file takes its mode from the socket: it is tight from its first moment, whatever the umask.
    fchmod(&fd, Mode::from_bits_truncate(mode & 0o600))?;
    bind(fd.as_raw_fd(), &address)?;
    if let Some(owner) = owner {
        chown(path, Some(owner.uid), Some(owner.gid))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd.into())
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type().is_socket(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        return std::fs::remove_file(path);
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_exact_and_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        for mode in [0o700, 0o777, 0o660] {
            let listener = bind_listener(&path, mode, None).unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, mode);
            UnixStream::connect(&path).unwrap();
            drop(listener);
        }
    }

    #[test]
    fn a_living_socket_and_a_plain_file_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let _listener = bind_listener(&path, 0o700, None).unwrap();
        assert_eq!(
            bind_listener(&path, 0o700, None).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        UnixStream::connect(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "keep").unwrap();
        assert_eq!(
            bind_listener(&file, 0o700, None).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        assert_eq!(std::fs::read(&file).unwrap(), b"keep");
        let long = dir.path().join("x".repeat(120));
        assert_eq!(
            bind_listener(&long, 0o700, None).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
