//! One daemon for one set of files: PID files that stay locked as long as the daemon lives.
//!
//! The lock is libvirt's own, a POSIX write lock on the first byte, so that either kind of daemon keeps the
//! other out. POSIX locks end when the process closes *any* descriptor of the file, and do not go over
//! to children: the file must be locked by the process that serves, and never be opened by it again.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// A locked PID file.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    file: File,
}

/// Why a PID file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon runs.
    #[error(
        "another daemon{} runs on these files: it holds {}; stop it first, or use files of your own",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        path.display()
    )]
    Held {
        /// File.
        path: PathBuf,
        /// Process that holds it, if it can be seen.
        pid: Option<i32>,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

impl LockFile {
    /// Locks the file at `path`, which need not exist yet, and writes this process's number into it.
    pub(super) fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |reason| LockError::Io {
            path: path.to_owned(),
            reason,
        };
        loop {
            let file = open(path).map_err(failed)?;
            match fcntl(&file, FcntlArg::F_SETLK(&whole())) {
                Ok(_) => {}
                Err(Errno::EACCES | Errno::EAGAIN) => {
                    let pid = holder(&file);
                    return Err(LockError::Held {
                        path: path.to_owned(),
                        pid,
                    });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // A daemon that just ended may have unlinked the file after we opened it.
            if is_file_at(&file, path).map_err(failed)? {
                let mut locked = Self {
                    path: path.to_owned(),
                    file,
                };
                locked.write_number().map_err(failed)?;
                return Ok(locked);
            }
        }
    }

    /// Removes the file, then lets go of the lock.
    pub(super) fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the PID file");
        }
    }

    fn write_number(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        writeln!(self.file, "{}", std::process::id())
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
}

fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}

fn holder(file: &File) -> Option<i32> {
    let mut lock = whole();
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (lock.l_pid > 0).then_some(lock.l_pid)
}

fn is_file_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
