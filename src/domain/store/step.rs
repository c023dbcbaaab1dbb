//! What a change of a guest does to its files: all of it, or nothing.
//!
//! New contents are on the disk beside the files before the first file is replaced: what has no room, or no place, is told
//! while everything is as it was. From there on only names change.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{remove, snapshots, sync_parent};
use crate::error::{Error, Result};

/// One thing done to one file.
pub(super) enum Step {
    /// `durable`: it must outlive the host. `needed`: failing fails the change.
    Write {
        path: PathBuf,
        text: String,
        durable: bool,
        needed: bool,
    },
    Link {
        path: PathBuf,
        target: PathBuf,
    },
    Remove(PathBuf),
    /// A directory goes to where none is.
    Move {
        from: PathBuf,
        to: PathBuf,
    },
    /// A directory goes if nothing is in it.
    RemoveDir(PathBuf),
}

/// Carries steps out, one after the other.
///
/// # Errors
/// What the file system gives. If a file can't be written nothing has been done.
pub(super) fn carry_out(steps: Vec<Step>) -> Result<()> {
    // What is written into a directory that has to go there first can't be written before.
    let moves = steps.iter().any(|step| matches!(step, Step::Move { .. }));
    if moves || steps.len() == 1 {
        return steps.into_iter().try_for_each(|step| step.begin()?.end());
    }
    let begun: Vec<_> = steps.into_iter().map(Step::begin).collect::<Result<_>>()?;
    begun.into_iter().try_for_each(Begun::end)
}

/// A step of which all is done that can be done before others.
enum Begun {
    Written {
        file: Beside,
        path: PathBuf,
        needed: bool,
    },
    Other(Step),
    Nothing,
}

impl Step {
    fn begin(self) -> Result<Begun> {
        let Step::Write {
            path,
            text,
            durable,
            needed,
        } = self
        else {
            return Ok(Begun::Other(self));
        };
        match Beside::write(&path, text.as_bytes(), durable) {
            Ok(file) => Ok(Begun::Written { file, path, needed }),
            Err(error) => failed(&path, needed, error).map(|()| Begun::Nothing),
        }
    }

    fn carry_out(self) -> Result<()> {
        match self {
            Step::Write { .. } => self.begin()?.end(),
            Step::Link { path, target } => {
                let link = || {
                    path.parent().map_or(Ok(()), fs::create_dir_all)?;
                    remove(&path)?;
                    symlink(&target, &path)?;
                    sync_parent(&path)
                };
                link().map_err(|e| {
                    Error::system(
                        format_args!(
                            "Failed to create symlink '{}' to '{}'",
                            path.display(),
                            target.display()
                        ),
                        e,
                    )
                })
            }
            Step::Remove(path) => remove(&path)
                .and_then(|()| sync_parent(&path))
                .map_err(|e| Error::system(format_args!("cannot remove '{}'", path.display()), e)),
            Step::Move { from, to } => snapshots::move_dir(&from, &to)
                .and_then(|()| sync_parent(&to))
                .map_err(|e| Error::system(format_args!("cannot move '{}'", from.display()), e)),
            Step::RemoveDir(path) => snapshots::remove_dir(&path)
                .map_err(|e| Error::system(format_args!("cannot remove '{}'", path.display()), e)),
        }
    }
}

impl Begun {
    fn end(self) -> Result<()> {
        match self {
            Begun::Written { file, path, needed } => file.put().or_else(|error| failed(&path, needed, error)),
            Begun::Other(step) => step.carry_out(),
            Begun::Nothing => Ok(()),
        }
    }
}

fn failed(path: &Path, needed: bool, error: io::Error) -> Result<()> {
    if needed {
        return Err(Error::system(
            format_args!("cannot write '{}'", path.display()),
            error,
        ));
    }
    tracing::warn!(path = %path.display(), %error, "the status file is out of date");
    Ok(())
}

/// A file's new content, beside it. Dropped, it goes.
struct Beside {
    temporary: PathBuf,
    path: PathBuf,
    durable: bool,
    /// Of a file that was not there: it is synced when it has its name.
    new: Option<File>,
    is_put: bool,
}

impl Beside {
    fn write(path: &Path, content: &[u8], durable: bool) -> io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut beside = Self {
            temporary: PathBuf::from(temporary),
            path: path.to_owned(),
            durable,
            new: None,
            is_put: false,
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside.temporary)?;
        file.write_all(content)?;
        if durable && path.exists() {
            file.sync_data()?;
        } else if durable {
            beside.new = Some(file);
        }
        Ok(beside)
    }

    fn put(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        self.is_put = true;
        match (&self.new, self.durable) {
            (Some(file), _) => file.sync_all(),
            (None, true) => sync_parent(&self.path),
            (None, false) => Ok(()),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_put {
            // Nobody reads it; what counts is the first error.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces a file as a whole: a reader finds the old content or the new. With `durable` the new one is on the disk when
/// this returns, and a crash before leaves the old one.
///
/// A file that was not there is synced once, after it has its name: on ext4, XFS, btrfs and f2fs that commits name and
/// content together. A crash before leaves nothing, or an empty file, which [`Store::load`](super::Store::load) takes as
/// nothing: nobody was told of it.
///
/// # Errors
/// What the file system gives; the old file stands.
pub fn write(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    Beside::write(path, content, durable)?.put()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a.xml");
        write(&path, b"one", true).unwrap();
        write(&path, b"two", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // The directory is in the way: the old content stands and nothing is left behind.
        fs::create_dir(dir.path().join("a.xml.new")).unwrap();
        assert!(write(&path, b"three", true).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn of_files_that_can_not_all_be_written_none_is() {
        let dir = tempfile::TempDir::new().unwrap();
        let (one, gone, two) = (
            dir.path().join("a.xml"),
            dir.path().join("b.xml"),
            dir.path().join("none").join("c.xml"),
        );
        for path in [&one, &gone] {
            write(path, b"before", true).unwrap();
        }
        let steps = || {
            let write = |path: &Path| Step::Write {
                path: path.to_owned(),
                text: "after".to_owned(),
                durable: true,
                needed: true,
            };
            vec![write(&one), Step::Remove(gone.clone()), write(&two)]
        };
        // No directory can be made there.
        fs::write(dir.path().join("none"), "").unwrap();
        assert!(carry_out(steps()).is_err());
        assert_eq!(fs::read(&one).unwrap(), b"before");
        assert!(gone.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        fs::remove_file(dir.path().join("none")).unwrap();
        carry_out(steps()).unwrap();
        assert_eq!(fs::read(&one).unwrap(), b"after");
        assert_eq!(fs::read(&two).unwrap(), b"after");
        assert!(!gone.exists());
    }
}
