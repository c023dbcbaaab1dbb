//! Directories of the host.

use domxml::Domain;
use domxml::devices::{Devices, Filesystem, FilesystemDriverKind};

use super::{Rules, Side, first, invalid, is_named, missing};
use crate::error::{Error, Result};

impl Rules for Filesystem {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        let taken = |other: &Filesystem| other.target == self.target;
        match side {
            Side::Live => only_virtiofs(self),
            Side::Stored if def.devices.filesystems.iter().any(taken) => {
                Err(invalid("Target already exists"))
            }
            Side::Stored => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        let same_target = |other: &Filesystem| other.target == self.target;
        let all = &devices.filesystems;
        match side {
            Side::Live => {
                let is_meant = |other: &Filesystem| {
                    (self.target.is_none() || same_target(other)) && is_named(&self.info, &other.info)
                };
                first(all, is_meant, || missing("matching filesystem not found"))
            }
            Side::Stored => first(all, same_target, || {
                missing("no matching filesystem device was found")
            }),
        }
    }

    fn detach(&self, _: &Devices) -> Result<()> {
        only_virtiofs(self)
    }
}

fn only_virtiofs(fs: &Filesystem) -> Result<()> {
    match fs.driver.as_ref().and_then(|driver| driver.kind) {
        Some(FilesystemDriverKind::Virtiofs) => Ok(()),
        _ => Err(Error::not_pluggable(
            "only virtiofs filesystems can be hotplugged",
        )),
    }
}
