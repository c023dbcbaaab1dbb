//! Which firmware a guest boots with, and where its variables are kept.
//!
//! A document may name files, or only ask for EFI and for properties: then the first of the host's descriptors that
//! fits is written down, so that the guest keeps it.

use domxml::Domain;
use domxml::devices::{OnOff, StorageKind, YesNo};
use domxml::features::{Features, Smm};
use domxml::os::{FirmwareFeature, FirmwareFeatureName, Loader, LoaderType, Nvram, OsFirmware};

use super::descriptor::{Mapping, Variables};
use super::{Config, Firmware};
use crate::error::{Area, Code, Error, Result};

/// Chooses or completes the firmware of a guest.
pub(super) fn fill(def: &mut Domain, config: &Config) -> Result<()> {
    match def.os.firmware {
        Some(kind) => {
            let found = config.firmware.iter().find(|f| fits(f, def, Some(kind)));
            take(def, found.ok_or_else(|| none_found(kind))?);
        }
        None if path(def).is_some() => complete(def, config),
        None => {}
    }
    place_variables(def, config);
    Ok(())
}

fn path(def: &Domain) -> Option<&str> {
    def.os.loader.as_ref()?.path.as_deref().filter(|p| !p.is_empty())
}

fn wants(def: &Domain, name: FirmwareFeatureName) -> Option<bool> {
    def.os
        .firmware_features
        .iter()
        .find(|f| f.name == name)
        .map(|f| f.enabled.is_yes())
}

fn none_found(kind: OsFirmware) -> Error {
    let message = format!(
        "Unable to find '{}' firmware that is compatible with the current configuration",
        kind.as_str()
    );
    Error::new(Code::OperationFailed, Area::Qemu, message)
}

/// Whether a firmware can be this guest's. What the guest does not say fits all.
fn fits(f: &Firmware, def: &Domain, kind: Option<OsFirmware>) -> bool {
    let interface = |kind| if kind == OsFirmware::Efi { "uefi" } else { "bios" };
    let machine = def.os.kind.as_ref();
    let (arch, machine) = machine.map_or(("", ""), |t| {
        (
            t.arch.as_deref().unwrap_or_default(),
            t.machine.as_deref().unwrap_or_default(),
        )
    });
    kind.is_none_or(|kind| f.is(interface(kind)))
        && path(def).is_none_or(|path| path == f.executable)
        && f.runs_on(arch, machine)
        && fits_files(f, def)
        && fits_features(f, def)
}

fn fits_files(f: &Firmware, def: &Domain) -> bool {
    let (loader, nvram) = (def.os.loader.as_ref(), def.os.nvram.as_ref());
    let kind = loader.and_then(|l| l.kind);
    if loader.and_then(|l| l.readonly) == Some(YesNo::No) {
        return false;
    }
    let Mapping::Flash { format, variables } = &f.mapping else {
        return f.mapping == Mapping::Memory && kind != Some(LoaderType::Pflash);
    };
    // The variables tell the format of firmware of which nothing else is said.
    let wanted = match loader {
        Some(loader) => loader.format.as_deref(),
        None => nvram.and_then(|n| n.format.as_deref()),
    };
    let stateless = loader.and_then(|l| l.stateless) == Some(YesNo::Yes);
    let template = nvram.and_then(|n| n.template.as_deref());
    kind != Some(LoaderType::Rom)
        && matches!(format.as_str(), "raw" | "qcow2")
        && wanted.is_none_or(|wanted| wanted == format)
        && match variables {
            Variables::Split(file, _) => !stateless && template.is_none_or(|t| t == file),
            Variables::Stateless => stateless,
            Variables::Combined => false,
        }
}

fn fits_features(f: &Firmware, def: &Domain) -> bool {
    let agrees = |name, feature| wants(def, name).is_none_or(|w| w == f.has(feature));
    let secure = def.os.loader.as_ref().and_then(|l| l.secure);
    let smm = def.features.as_ref().and_then(|f| f.smm).map(|s| s.state);
    agrees(FirmwareFeatureName::EnrolledKeys, "enrolled-keys")
        && agrees(FirmwareFeatureName::SecureBoot, "secure-boot")
        && !(f.has("requires-smm") && (smm == Some(OnOff::Off) || secure == Some(YesNo::No)))
        && (secure != Some(YesNo::Yes) || f.has("requires-smm"))
}

/// Writes down the files of a firmware, and which properties it has.
fn take(def: &mut Domain, found: &Firmware) {
    def.os
        .firmware
        .get_or_insert(if found.interface() == Some("bios") {
            OsFirmware::Bios
        } else {
            OsFirmware::Efi
        });
    let variables_format = def.os.nvram.as_ref().and_then(|nvram| nvram.format.clone());
    let loader = def.os.loader.get_or_insert_with(Loader::default);
    loader.path = Some(found.executable.clone());
    match &found.mapping {
        Mapping::Flash { format, variables } => {
            loader.readonly = Some(YesNo::Yes);
            loader.kind = Some(LoaderType::Pflash);
            loader.format = Some(format.clone());
            if let Variables::Split(file, template) = variables {
                take_variables(def, file, template);
            }
        }
        Mapping::Memory | Mapping::Kernel => {
            loader.kind = Some(LoaderType::Rom);
            loader.format = loader.format.take().or(variables_format);
        }
    }
    if found.has("requires-smm") {
        if let Some(loader) = &mut def.os.loader {
            loader.secure = Some(YesNo::Yes);
        }
        let features = def.features.get_or_insert_with(Features::default);
        features.smm.get_or_insert(Smm {
            state: OnOff::On,
            ..Smm::default()
        });
    }
    let mut features = vec![
        (FirmwareFeatureName::EnrolledKeys, "enrolled-keys"),
        (FirmwareFeatureName::SecureBoot, "secure-boot"),
    ];
    // Which keys a variable store elsewhere has is not known.
    if def.os.nvram.as_ref().is_some_and(is_remote) {
        features.remove(0);
    }
    let feature = |(name, feature)| FirmwareFeature {
        enabled: YesNo::from(found.has(feature)),
        name,
    };
    def.os.firmware_features = features.into_iter().map(feature).collect();
}

/// Whether the document says where the variables are.
fn is_there(nvram: &Nvram) -> bool {
    nvram.source.is_some() || nvram.path.as_deref().is_some_and(|path| !path.is_empty())
}

fn is_remote(nvram: &Nvram) -> bool {
    nvram.kind == Some(StorageKind::Network)
}

/// A file that is there has the format that is said of it, or else the executable's; one that is made has that of what it
/// is made from.
fn take_variables(def: &mut Domain, file: &str, format: &str) {
    let executables = def.os.loader.as_ref().and_then(|l| l.format.clone());
    let nvram = def.os.nvram.get_or_insert_with(Nvram::default);
    nvram.format = match is_there(nvram) {
        true => nvram.format.take().or(executables),
        false => Some(format.to_owned()),
    };
    if !is_remote(nvram) {
        nvram.template.get_or_insert_with(|| file.to_owned());
        nvram.template_format = Some(format.to_owned());
    }
}

/// A file that is named: its kind, format, and what is known of it.
fn complete(def: &mut Domain, config: &Config) {
    let is_flash = def
        .os
        .loader
        .as_ref()
        .is_some_and(|l| l.kind == Some(LoaderType::Pflash));
    if let Some(found) = config.firmware.iter().find(|f| is_flash && fits(f, def, None)) {
        return take(def, found);
    }
    if let Some(nvram) = def.os.nvram.as_mut().filter(|nvram| !is_there(nvram)) {
        nvram.format = None;
    }
    if let Some(loader) = def.os.loader.as_mut().filter(|l| l.kind != Some(LoaderType::Rom)) {
        loader.kind.get_or_insert(LoaderType::Rom);
        loader.format.get_or_insert_with(|| "raw".to_owned());
    }
    if keeps_variables(def) {
        complete_variables(def, config);
    }
}

/// Those of a file that no descriptor tells of.
fn complete_variables(def: &mut Domain, config: &Config) {
    let (path, wanted) = (path(def), def.os.nvram.as_ref().and_then(|n| n.template.as_ref()));
    let agrees =
        |(code, template): &&(String, String)| path == Some(code) && wanted.is_none_or(|w| w == template);
    if let Some((_, template)) = config.legacy_firmware.iter().find(agrees) {
        let nvram = def.os.nvram.get_or_insert_with(Nvram::default);
        nvram.template = Some(template.clone());
        nvram.template_format = Some("raw".to_owned());
    }
}

fn keeps_variables(def: &Domain) -> bool {
    def.os.loader.as_ref().is_some_and(|l| {
        l.kind == Some(LoaderType::Pflash)
            && l.readonly == Some(YesNo::Yes)
            && l.stateless != Some(YesNo::Yes)
    })
}

fn place_variables(def: &mut Domain, config: &Config) {
    if !keeps_variables(def) {
        return;
    }
    let executables = def.os.loader.as_ref().and_then(|l| l.format.clone());
    let nvram = def.os.nvram.get_or_insert_with(Nvram::default);
    let format = nvram
        .format
        .get_or_insert_with(|| executables.unwrap_or_else(|| "raw".to_owned()));
    if nvram.path.as_deref().is_none_or(str::is_empty) && nvram.source.is_none() {
        let extension = if format == "qcow2" { "qcow2" } else { "fd" };
        nvram.path = Some(format!("{}/{}_VARS.{extension}", config.nvram_dir, def.name));
    }
}
