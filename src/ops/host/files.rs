//! Removing files and directories that may not be there, and trying whether a file can be made.

use std::{fs, io, path::Path};

use nix::errno::Errno;

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

/// Refuses what the making of a file would fail at for its place, with `what` and the system's reason. It makes nothing: a
/// trial asks.
///
/// # Errors
/// `System`: a directory is there, or the one that it is to be in is not.
pub(crate) async fn may_make(path: &Path, what: String) -> Result<()> {
    let path = path.to_owned();
    let look = move || look_at_place(&path).map_err(|error| Error::system(what, error));
    crate::blocking::file("looking at a file's place", look).await
}

fn look_at_place(path: &Path) -> io::Result<()> {
    let refused = |errno: Errno| Err(io::Error::from(errno));
    if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return refused(Errno::EISDIR);
    }
    match path.parent().map(fs::metadata) {
        Some(Ok(found)) if !found.is_dir() => refused(Errno::ENOTDIR),
        Some(Err(error)) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR)) => {
            Err(error)
        }
        // Whoever makes it may see more than this process.
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

    #[tokio::test]
    async fn a_place_where_no_file_can_be_made_is_refused_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        for (path, reason) in [
            (file.clone(), None),
            (dir.path().join("new"), None),
            (dir.path().to_owned(), Some("Is a directory")),
            (dir.path().join("none/new"), Some("No such file or directory")),
            (file.join("new"), Some("Not a directory")),
        ] {
            let said = may_make(&path, "no".to_owned())
                .await
                .err()
                .map(|error| error.to_string());
            assert_eq!(said, reason.map(|reason| format!("no: {reason}")), "{path:?}");
        }
        assert!(!dir.path().join("new").exists());
    }
}
