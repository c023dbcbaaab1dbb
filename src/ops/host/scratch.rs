//! Files by which QEMU hands over what no reply of its monitor holds: pictures of screens, memory.
//!
//! Each lies in the run's own directory, which QEMU can reach and others can't, and is gone when it was read, or when
//! whoever wanted it has left.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    domain::Run,
    error::{Code, Error, Result},
    ops::{Driver, host::identity},
};

/// A file that QEMU may write.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one for a run; `what` begins its name.
    ///
    /// # Errors
    /// `System` if it can't be made.
    pub(crate) async fn new(driver: &Driver, run: &Run, what: &str) -> Result<Self> {
        let dir = run
            .status
            .lib_dir
            .clone()
            .ok_or_else(|| Error::internal("the run has no directory of its own"))?;
        let path = PathBuf::from(dir).join(format!("qemu.{what}.{}", uuid::Uuid::new_v4().simple()));
        let identity = identity::run_as(&driver.config())?;
        crate::blocking::file("making a file for QEMU", move || {
            let failed = |error| Error::system(format_args!("Unable to create '{}'", path.display()), error);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            let made = Self { path };
            if let Some(identity) = identity {
                std::os::unix::fs::chown(&made.path, Some(identity.uid), Some(identity.gid)).map_err(
                    |error| {
                        Error::system(
                            format_args!("unable to set user and group of '{}'", made.path.display()),
                            error,
                        )
                    },
                )?;
            }
            Ok(made)
        })
        .await
    }

    /// Where it is, as QEMU is told.
    pub(crate) fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// What QEMU has put into it; more than `most` bytes are an error.
    ///
    /// # Errors
    /// `System` if it can't be read, `OperationFailed` if it is too long.
    pub(crate) async fn read(self, most: u64) -> Result<Vec<u8>> {
        crate::blocking::file("reading what QEMU has written", move || {
            let failed = |error| {
                Error::system(
                    format_args!("Failed to read file '{}'", self.path.display()),
                    error,
                )
            };
            let mut bytes = Vec::new();
            fs::File::open(&self.path)
                .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
                .map_err(failed)?;
            match bytes.len() as u64 > most {
                true => Err(Error::new(
                    Code::OperationFailed,
                    format!("QEMU has written more than {most} bytes"),
                )),
                false => Ok(bytes),
            }
        })
        .await
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// What can't be removed goes with the run's directory.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(file = %path.display(), %error, "a file that QEMU wrote is left until the guest ends");
    }
}
