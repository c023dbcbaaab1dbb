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

/// Removes an image, if it is a file and is there: a device that has been one stays.
pub(crate) fn remove_image(path: &std::path::Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            tracing::debug!(path = %path.display(), "an image that is no file stays");
            Ok(())
        }
        // A link that leads nowhere goes as well.
        _ => remove(path),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (file, node) = (dir.path().join("image"), dir.path().join("node"));
        std::fs::write(&file, "x").unwrap();
        let _listens = std::os::unix::net::UnixListener::bind(&node).unwrap();
        for path in [&file, &node, &dir.path().join("none")] {
            remove_image(path).unwrap();
        }
        assert!(!file.exists() && node.exists());
    }
}
