//! The host and the daemon's place on it.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::{
    config::HostUuid,
    error::{Error, Result},
    paths::Scope,
};

/// What is read once at start-up.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Below which the host's files are read: "/" but in tests.
    pub root: PathBuf,
    /// Architecture, with libvirt's name.
    pub arch: String,
    /// The host's UUID as clients are told it.
    pub uuid: Uuid,
    /// System or session.
    pub scope: Scope,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// The kernel does not tell the architecture.
    pub fn read(root: &Path, scope: Scope, source: &HostUuid) -> Result<Self> {
        let host = hostinfo::Root::at(root);
        let arch = hostinfo::arch(&host).map_err(unreadable)?;
        let firmware = || hostinfo::smbios_uuid(&host).ok().flatten().map(Uuid::from_bytes);
        let machine = || hostinfo::machine_id(&host).ok().flatten().map(Uuid::from_bytes);
        let uuid = match source {
            HostUuid::Fixed(uuid) => Some(*uuid),
            HostUuid::Smbios => firmware().or_else(machine),
            HostUuid::MachineId => machine(),
        };
        // Without any, one for the life of the daemon, as libvirt does.
        let uuid = uuid.unwrap_or_else(Uuid::new_v4);
        Ok(Self {
            root: root.to_owned(),
            arch,
            uuid,
            scope,
        })
    }
}

/// The kernel's files are not as they should be.
pub(crate) fn unreadable(error: hostinfo::Error) -> Error {
    Error::internal(error.to_string()).caused_by(error)
}
