//! Files that live in memory only.

use std::fs::File;
use std::io::{self, Seek, Write};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// An empty file in memory, closed on exec; `name` shows in `/proc/PID/fd` only.
///
/// # Errors
/// What `memfd_create` gives: a name with a NUL or longer than 249 bytes, no descriptors, no memory.
pub fn memfd(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?.into())
}

/// A file in memory of `size` zero bytes that cannot grow: writing beyond fails with `EPERM`. What a
/// program is given to write on whose amount is not trusted.
///
/// # Errors
/// As [`memfd`].
pub fn bounded_memfd(name: &str, size: u64) -> io::Result<File> {
    let file = memfd(name)?;
    file.set_len(size)?;
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// A file in memory that holds `contents`, can never be changed, and stands at its begin.
///
/// # Errors
/// As [`memfd`], and what writing gives.
pub fn sealed_memfd(name: &str, contents: &[u8]) -> io::Result<File> {
    let mut file = memfd(name)?;
    file.write_all(contents)?;
    file.rewind()?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_bounded_file_takes_as_much_as_it_was_made_for() {
        let mut file = bounded_memfd("test", 4).unwrap();
        file.write_all(b"1234").unwrap();
        assert_eq!(file.write(b"5").unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn a_sealed_file_reads_and_refuses_writes() {
        let mut file = sealed_memfd("test", b"secret").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "secret");
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
