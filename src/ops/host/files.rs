//! Removing files and directories that may not be there.

use crate::error::{Error, Result};

/// Removes a file if it is there.
pub(crate) fn remove(path: &std::path::Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::system(
            format_args!("cannot remove '{}'", path.display()),
            e,
        )),
        _ => Ok(()),
    }
}

/// Removes a directory of a run with everything in it.
pub(crate) fn remove_all(path: &std::path::Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::system(
            format_args!("cannot remove '{}'", path.display()),
            e,
        )),
        _ => Ok(()),
    }
}
