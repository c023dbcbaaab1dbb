//! Which firmware a guest boots with, and where its variables are kept.
//!
//! A document may name files, or only ask for EFI and for properties: then the first of the host's descriptors that
//! fits is written down, so that the guest keeps it.

use domxml::Domain;
use domxml::devices::{OnOff, StorageKind, YesNo};
use domxml::features::{Features, Smm};
use domxml::os::{FirmwareFeature, FirmwareFeatureName, Loader, LoaderType, Nvram, OsFirmware};
use serde_json::Value;

use super::{Config, MachineKind};
use crate::error::{Area, Code, Error, Result};

/// What the host says of one firmware (`/usr/share/qemu/firmware/*.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    interfaces: Vec<String>,
    executable: String,
    format: String,
    template: Option<(String, String)>,
    targets: Vec<(String, Vec<String>)>,
    features: Vec<String>,
}

impl Firmware {
    /// Reads a descriptor. `None` when it is none, or for a kind of device that is not flash or memory.
    pub fn parse(json: &str) -> Option<Self> {
        let v: Value = serde_json::from_str(json).ok()?;
        let mapping = v.get("mapping")?;
        let file = |f: &Value| {
            let format = f.get("format").and_then(Value::as_str).unwrap_or("raw");
            Some((f.get("filename")?.as_str()?.to_owned(), format.to_owned()))
        };
        let (executable, format) = match mapping.get("device")?.as_str()? {
            "flash" => file(mapping.get("executable")?)?,
            "memory" => file(mapping)?,
            _ => return None,
        };
        let target = |t: &Value| Some((t.get("architecture")?.as_str()?.to_owned(), texts(t.get("machines"))));
        let targets = v.get("targets")?.as_array()?;
        Some(Self {
            interfaces: texts(v.get("interface-types")),
            executable,
            format,
            template: mapping.get("nvram-template").and_then(file),
            targets: targets.iter().filter_map(target).collect(),
            features: texts(v.get("features")),
        })
    }

    /// The file that the machine runs.
    pub fn executable(&self) -> &str {
        &self.executable
    }

    /// Whether software sees it as this: `uefi` or `bios`.
    pub fn is(&self, interface: &str) -> bool {
        self.interfaces.iter().any(|i| i == interface)
    }

    /// Whether it has a feature, by its name in the descriptor.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    /// Whether it is for guests of this architecture and machine type.
    pub fn runs_on(&self, arch: &str, machine: &str) -> bool {
        let machines = self.targets.iter().filter(|(a, _)| a == arch).flat_map(|(_, m)| m);
        machines.into_iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => machine.starts_with(prefix),
            None => machine == pattern,
        })
    }
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect()
}

/// Chooses or completes the firmware of a guest.
pub(super) fn fill(def: &mut Domain, config: &Config) -> Result<()> {
    check(def)?;
    match def.os.firmware {
        Some(kind) if path(def).is_none() => choose(def, kind, config)?,
        _ if path(def).is_some() => complete(def, config),
        _ => {}
    }
    secure(def)?;
    place_variables(def, config);
    let flash = def.os.loader.as_ref().is_some_and(|l| l.kind == Some(LoaderType::Pflash));
    if flash && !def.features.as_ref().is_some_and(|f| f.acpi) {
        return Err(Error::unsupported("UEFI requires ACPI on this architecture"));
    }
    Ok(())
}

/// Secure boot needs a machine and a mode that keep the guest off its variables.
fn secure(def: &mut Domain) -> Result<()> {
    let wanted = def.os.loader.as_ref().and_then(|l| l.secure) == Some(YesNo::Yes);
    if !wanted {
        return Ok(());
    }
    let machine = def.os.kind.as_ref().and_then(|t| t.machine.as_deref()).unwrap_or_default();
    if MachineKind::of(machine) != MachineKind::Q35 {
        return Err(Error::unsupported("Secure boot is supported with q35 machine types only"));
    }
    let features = def.features.get_or_insert_with(Features::default);
    features.smm.get_or_insert(Smm { state: OnOff::On, ..Smm::default() });
    Ok(())
}

fn path(def: &Domain) -> Option<&str> {
    def.os.loader.as_ref()?.path.as_deref().filter(|p| !p.is_empty())
}

fn wants(def: &Domain, name: FirmwareFeatureName) -> Option<bool> {
    def.os.firmware_features.iter().find(|f| f.name == name).map(|f| f.enabled.is_yes())
}

fn check(def: &Domain) -> Result<()> {
    let os = &def.os;
    let stateless = os.loader.as_ref().and_then(|l| l.stateless);
    if stateless == Some(YesNo::Yes) && os.nvram.is_some() {
        return Err(Error::detail("NVRAM is not permitted when loader is stateless"));
    }
    if os.firmware == Some(OsFirmware::Bios) && (os.nvram.is_some() || stateless == Some(YesNo::No)) {
        return Err(Error::detail("Only EFI firmware permits NVRAM"));
    }
    let files = os.loader.is_some() || os.nvram.is_some();
    if os.firmware.is_none() && files && path(def).is_none() {
        return Err(Error::detail("no loader path specified and firmware auto selection disabled"));
    }
    let (keys, boot) = (wants(def, FirmwareFeatureName::EnrolledKeys), wants(def, FirmwareFeatureName::SecureBoot));
    if keys == Some(true) && boot == Some(false) {
        return Err(Error::detail("firmware feature 'enrolled-keys' cannot be enabled when firmware feature 'secure-boot' is disabled"));
    }
    Ok(())
}

fn choose(def: &mut Domain, kind: OsFirmware, config: &Config) -> Result<()> {
    let Some(found) = config.firmware.iter().find(|f| fits(f, def, kind)) else {
        let message = format!("Unable to find '{}' firmware that is compatible with the current configuration", kind.as_str());
        return Err(Error::new(Code::OperationFailed, Area::Qemu, message));
    };
    let loader = def.os.loader.get_or_insert_with(Loader::default);
    loader.readonly = Some(YesNo::Yes);
    loader.kind = Some(LoaderType::Pflash);
    loader.format = Some(found.format.clone());
    loader.path = Some(found.executable.clone());
    if found.has("requires-smm") {
        loader.secure = Some(YesNo::Yes);
        let features = def.features.get_or_insert_with(Features::default);
        features.smm.get_or_insert(Smm { state: OnOff::On, ..Smm::default() });
    }
    describe(def, found);
    Ok(())
}

fn fits(f: &Firmware, def: &Domain, kind: OsFirmware) -> bool {
    let interface = if kind == OsFirmware::Efi { "uefi" } else { "bios" };
    let machine = def.os.kind.as_ref();
    let (arch, machine) = machine.map_or(("", ""), |t| (t.arch.as_deref().unwrap_or_default(), t.machine.as_deref().unwrap_or_default()));
    f.interfaces.iter().any(|i| i == interface) && f.runs_on(arch, machine) && fits_files(f, def) && fits_features(f, def)
}

fn fits_files(f: &Firmware, def: &Domain) -> bool {
    let (loader, nvram) = (def.os.loader.as_ref(), def.os.nvram.as_ref());
    let format = loader.and_then(|l| l.format.as_deref()).or_else(|| nvram.and_then(|n| n.format.as_deref()));
    let template = nvram.and_then(|n| n.template.as_deref());
    f.format == format.unwrap_or("raw")
        && loader.and_then(|l| l.stateless) != Some(YesNo::Yes)
        && template.is_none_or(|t| f.template.as_ref().is_some_and(|(file, _)| file == t))
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

/// Writes down the variable template, and which properties the firmware has.
fn describe(def: &mut Domain, found: &Firmware) {
    let remote = |n: &Nvram| n.kind == Some(StorageKind::Network);
    let mut features = Vec::new();
    if let Some((file, format)) = &found.template {
        let nvram = def.os.nvram.get_or_insert_with(Nvram::default);
        nvram.format = Some(format.clone());
        if !remote(nvram) {
            nvram.template.get_or_insert_with(|| file.clone());
            nvram.template_format = Some(format.clone());
            features.push((FirmwareFeatureName::EnrolledKeys, "enrolled-keys"));
        }
    }
    features.push((FirmwareFeatureName::SecureBoot, "secure-boot"));
    let feature = |(name, feature)| FirmwareFeature { enabled: YesNo::from(found.has(feature)), name };
    def.os.firmware_features = features.into_iter().map(feature).collect();
}

/// A file that is named: its kind, format, and what is known of it.
fn complete(def: &mut Domain, config: &Config) {
    let Some(loader) = &mut def.os.loader else {
        return;
    };
    let kind = *loader.kind.get_or_insert(LoaderType::Rom);
    loader.format.get_or_insert_with(|| "raw".to_owned());
    let executable = loader.path.clone().unwrap_or_default();
    if kind != LoaderType::Pflash || !keeps_variables(def) {
        return;
    }
    let wanted = def.os.nvram.as_ref().and_then(|n| n.template.clone());
    let agrees = |template: &str| wanted.as_deref().is_none_or(|w| w == template);
    let by_path = |f: &&Firmware| f.executable == executable && f.template.as_ref().is_some_and(|(t, _)| agrees(t));
    if let Some(found) = config.firmware.iter().find(by_path) {
        def.os.firmware = Some(OsFirmware::Efi);
        describe(def, found);
    } else if let Some((_, template)) = config.legacy_firmware.iter().find(|(code, vars)| *code == executable && agrees(vars)) {
        let nvram = def.os.nvram.get_or_insert_with(Nvram::default);
        nvram.template = Some(template.clone());
        nvram.template_format = Some("raw".to_owned());
    }
}

fn keeps_variables(def: &Domain) -> bool {
    def.os
        .loader
        .as_ref()
        .is_some_and(|l| l.kind == Some(LoaderType::Pflash) && l.readonly == Some(YesNo::Yes) && l.stateless != Some(YesNo::Yes))
}

fn place_variables(def: &mut Domain, config: &Config) {
    if !keeps_variables(def) {
        return;
    }
    let nvram = def.os.nvram.get_or_insert_with(Nvram::default);
    let format = nvram.format.get_or_insert_with(|| "raw".to_owned());
    if nvram.path.as_deref().is_none_or(str::is_empty) && nvram.source.is_none() {
        let extension = if format == "qcow2" { "qcow2" } else { "fd" };
        nvram.path = Some(format!("{}/{}_VARS.{extension}", config.nvram_dir, def.name));
    }
}
