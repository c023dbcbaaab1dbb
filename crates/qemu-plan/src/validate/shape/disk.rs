//! Disks.

use domxml::Domain;
use domxml::devices::{Disk, ErrorPolicy, NetProtocol};

use crate::error::{Error, Result};

/// What a source says once, and what it can't do without.
pub(super) fn disks(def: &Domain) -> Result<()> {
    def.devices.disks.iter().try_for_each(disk)
}

fn disk(disk: &Disk) -> Result<()> {
    let source = disk.source.as_ref();
    if disk.auth.is_some() && source.is_some_and(|s| s.auth.is_some()) {
        return Err(Error::conflicting(
            "an <auth> definition already found for disk source",
        ));
    }
    if disk.encryption.is_some() && source.is_some_and(|s| s.encryption.is_some()) {
        return Err(Error::conflicting(
            "an <encryption> definition already found for disk source",
        ));
    }
    if disk.driver.as_ref().and_then(|d| d.rerror_policy) == Some(ErrorPolicy::Enospace) {
        return Err(Error::conflicting("Invalid disk read error policy: 'enospace'"));
    }
    let named = source.is_some_and(|s| s.name.is_some());
    if source
        .and_then(|s| s.protocol)
        .is_some_and(|p| p != NetProtocol::Nbd)
        && !named
    {
        return Err(Error::xml("missing name for disk source"));
    }
    Ok(())
}
