//! Firmware: what of it goes together. Completing a document looks at these rules already, since what it looks for
//! depends on them.

use domxml::Domain;
use domxml::devices::YesNo;
use domxml::os::{FirmwareFeatureName, LoaderType, OsFirmware};

use super::Guest;
use super::rule::{check, rules};
use crate::error::Result;

/// Checks loader, variables and features.
pub(super) fn os(guest: &Guest<'_>) -> Result<()> {
    check(OS, guest, guest.def)
}

rules! {
    /// Loader, variables and features.
    OS(guest, def: Domain) {
        detail "firmware feature 'enrolled-keys' cannot be enabled when firmware feature 'secure-boot' is disabled"
            if def.os.firmware.is_some() && feature(def, FirmwareFeatureName::EnrolledKeys) == Some(YesNo::Yes)
                && feature(def, FirmwareFeatureName::SecureBoot) == Some(YesNo::No);
        detail "firmware type '{}' does not support nvram" (OsFirmware::Bios.as_str())
            if def.os.firmware == Some(OsFirmware::Bios) && def.os.nvram.is_some();
        detail "cannot use feature-based firmware autoselection when firmware autoselection is disabled"
            if def.os.firmware.is_none() && !def.os.firmware_features.is_empty();
        detail "no loader path specified and firmware auto selection disabled"
            if def.os.firmware.is_none() && (def.os.loader.is_some() || def.os.nvram.is_some())
                && def.os.loader.as_ref().is_none_or(|l| l.path.as_deref().is_none_or(str::is_empty));
        detail "NVRAM template is not permitted when loader is stateless"
            if stateless(def) == Some(YesNo::Yes)
                && def.os.nvram.as_ref().is_some_and(|n| n.template.is_some());
        detail "NVRAM is not permitted when loader is stateless"
            if stateless(def) == Some(YesNo::Yes)
                && def.os.nvram.as_ref().is_some_and(|n| n.path.is_some() || n.source.is_some());
        detail "Only pflash loader type permits NVRAM"
            if stateless(def) == Some(YesNo::No) && def.os.firmware.is_none()
                && def.os.loader.as_ref().is_some_and(|l| l.kind != Some(LoaderType::Pflash));
        detail "Only EFI firmware permits NVRAM"
            if stateless(def) == Some(YesNo::No) && def.os.firmware.is_some_and(|f| f != OsFirmware::Efi);
        conflicting "shim only allowed with kernel option"
            if def.os.shim.is_some() && def.os.kernel.is_none() && (def.os.loader.is_some()
                || def.os.nvram.is_some());
    }
}

fn feature(def: &Domain, name: FirmwareFeatureName) -> Option<YesNo> {
    let mut features = def.os.firmware_features.iter();
    features.find(|f| f.name == name).map(|f| f.enabled)
}

fn stateless(def: &Domain) -> Option<YesNo> {
    def.os.loader.as_ref()?.stateless
}
