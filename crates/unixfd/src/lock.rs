//! Who holds a file locked: a pid file's lock names the process that wrote it, which a number in a file cannot.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

/// The process that holds a write lock (`fcntl`) on the first byte of the file at `path`; none: it is not locked, or
/// its holder is in a PID namespace that ours cannot see.
///
/// A guest's pid file is locked by its QEMU as long as that lives: so this is QEMU's number, and nobody else's.
///
/// # Errors
/// When the file cannot be opened.
pub fn lock_holder(path: &Path) -> io::Result<Option<i32>> {
    let file = File::open(path)?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
    let is_held = i32::from(lock.l_type) != libc::F_UNLCK && lock.l_pid > 0;
    Ok(is_held.then_some(lock.l_pid))
}
