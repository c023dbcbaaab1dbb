//! Where the variables of a UEFI firmware are stored.

use domxml::devices::StorageKind;
use domxml::os::Nvram;

use super::Guest;
use super::device::source;
use super::rule::{check, rules};
use crate::error::Result;

/// Checks the place of the firmware's variables.
pub(super) fn nvram(guest: &Guest<'_>) -> Result<()> {
    guest
        .def
        .os
        .nvram
        .as_ref()
        .map_or(Ok(()), |nvram| check(NVRAM, guest, nvram))
}

rules! {
    /// A plain image, and all of it.
    NVRAM(guest, nvram: Nvram) {
        unsupported "unsupported nvram disk type '{}'" (nvram.kind.map_or("", |k| k.as_str()))
            if nvram.kind.is_some_and(|k| !matches!(k, StorageKind::File | StorageKind::Block | StorageKind::Network));
        unsupported "slices are not supported with NVRAM"
            if nvram.source.as_ref().is_some_and(source::has_slice);
        unsupported "persistent reservations are not supported with NVRAM"
            if nvram.source.as_ref().is_some_and(|s| s.reservations.is_some());
    }
}
