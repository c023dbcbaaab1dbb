//! Directories that a run's memory is in: of huge pages, and of memory that is kept in files.
//!
//! Made at a start for guests whose document asks for such memory, empty when QEMU has opened what is in them, and
//! removed at the end of the run.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use nix::unistd::{Gid, Uid, chown};

use crate::{
    error::{Error, Result},
    ops::{document::resources::OF_GUESTS, host::identity::Identity},
};

/// Makes a directory of a run for QEMU's user. Blocks.
///
/// # Errors
/// What the system gives.
pub(crate) fn make(path: &Path, identity: Identity) -> Result<()> {
    make_all(path, identity)
        .map_err(|error| Error::system(format_args!("Unable to create {}", path.display()), error))
}

fn make_all(path: &Path, identity: Identity) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
        pass_through(path, identity)?;
        give(parent, identity)?;
    }
    if let Err(error) = DirBuilder::new().mode(0o700).create(path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    give(path, identity)
}

/// QEMU's user must come through the place that huge pages are mounted at.
fn pass_through(path: &Path, identity: Identity) -> io::Result<()> {
    let mount = path.ancestors().nth(3);
    let of_guests = path.parent().is_some_and(|parent| parent.ends_with(OF_GUESTS));
    let Some(mount) = mount.filter(|_| of_guests && identity.run_as().is_some()) else {
        return Ok(());
    };
    let mode = fs::metadata(mount)?.permissions().mode();
    fs::set_permissions(mount, Permissions::from_mode(mode | 0o011))
}

fn give(path: &Path, identity: Identity) -> io::Result<()> {
    if identity.run_as().is_none() {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    chown(path, Some(user), Some(group)).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_there_already_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libvirt/qemu/1-a");
        let identity = Identity {
            uid: 0,
            gid: 0,
            privileged: false,
        };
        make(&path, identity).unwrap();
        make(&path, identity).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
