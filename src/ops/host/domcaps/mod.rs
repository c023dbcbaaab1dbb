//! libvirt's domain capabilities document: what one emulator can give a guest.
//!
//! A text is kept with what it was made of (the emulator's answers, the machine, the host's firmware and tools), and given
//! again while that is the same.

mod cpu;
mod devices;

pub(crate) use cpu::{describe, models};

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use domxml::{
    devices::YesNo,
    domcaps::{DomainCapabilities, Enum, Group, LoaderCaps, Os},
};
use hostinfo::GuestModel;
use qemu_plan::{
    caps::{Accel, Caps, Machine},
    postparse::Firmware,
};

use crate::{
    error::{Error, Result},
    ops::{
        Driver,
        host::{
            domcaps::devices::Tools,
            emulator::{Named, Runnable, emulator_for},
        },
    },
};

/// libvirt's types of guests.
const VIRT_TYPES: &[&str] = &[
    "qemu",
    "kqemu",
    "kvm",
    "xen",
    "lxc",
    "uml",
    "openvz",
    "test",
    "vmware",
    "hyperv",
    "vbox",
    "phyp",
    "parallels",
    "bhyve",
    "vz",
    "hvf",
];
/// Texts kept: a few machines of a few emulators.
const KEPT_MAX: usize = 16;
/// The leaf of CPUID that tells of encrypted guests.
const ENCRYPTION: (u32, u32) = (0x8000_001f, 0);

/// What is asked for; empty: the host's best.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Path of the emulator.
    pub emulator: String,
    /// Architecture.
    pub arch: String,
    /// Machine type.
    pub machine: String,
    /// "kvm" or "qemu".
    pub virt_type: String,
    /// Which emulators may be asked.
    pub runnable: Runnable,
}

/// Texts and what they were made of, the last one first.
#[derive(Default)]
pub struct Kept {
    made: Mutex<Vec<(Basis, Arc<str>)>>,
}

/// What a document is made of.
struct Basis {
    path: String,
    arch: String,
    caps: Arc<Caps>,
    accel: Accel,
    machine: Machine,
    firmware: Arc<Vec<Firmware>>,
    legacy_firmware: Vec<String>,
    host: Host,
}

/// What of the host is in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Host {
    tools: Tools,
    physical_bits: Option<u32>,
    max_vcpus: Option<u32>,
    vfio: bool,
    /// What CPUID says of encrypted guests: how many, and how many of them not of the first kind.
    encrypted: Option<(u32, u32)>,
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.caps, &other.caps)
            && Arc::ptr_eq(&self.firmware, &other.firmware)
            && (&self.path, &self.arch, self.accel, &self.machine)
                == (&other.path, &other.arch, other.accel, &other.machine)
            && (&self.legacy_firmware, &self.host) == (&other.legacy_firmware, &other.host)
    }
}

/// The document.
///
/// # Errors
/// `InvalidArg` for what the emulator does not have; `OperationDenied` for one that the caller may not have run.
pub(crate) async fn document(driver: &Arc<Driver>, asked: Asked) -> Result<String> {
    let Emulator { path, arch, caps } = emulator(driver, &asked).await?;
    let accel = accel(&caps, &asked, &path)?;
    let machine = machine(&caps, accel, &asked, &path)?.clone();
    let owned = Arc::clone(driver);
    let text = crate::blocking::file("reading what the host gives to guests", move || {
        let firmware = owned.firmware.read();
        let legacy_firmware = crate::ops::host::legacy_firmware::legacy_firmware(&owned.config())
            .into_iter()
            .map(|(code, _)| code)
            .collect();
        let basis = Basis {
            path,
            arch,
            caps,
            accel,
            machine,
            firmware,
            legacy_firmware,
            host: Host::read(&owned),
        };
        Ok(owned.domain_capabilities.text(basis))
    });
    Ok(text.await?.to_string())
}

/// A QEMU, and the architecture of its guests that is meant.
struct Emulator {
    path: String,
    arch: String,
    caps: Arc<Caps>,
}

async fn emulator(driver: &Arc<Driver>, asked: &Asked) -> Result<Emulator> {
    if !asked.virt_type.is_empty() && !VIRT_TYPES.contains(&asked.virt_type.as_str()) {
        return Err(wrong(format!("unknown virttype: {}", asked.virt_type)));
    }
    if !asked.arch.is_empty() && !crate::ops::host::arch::is_arch(&asked.arch) {
        return Err(wrong(format!("unknown architecture: {}", asked.arch)));
    }
    let named = Named {
        path: &asked.emulator,
        arch: &asked.arch,
    };
    let path = emulator_for(driver, named, asked.runnable).await?;
    let caps = driver.prober.caps(Path::new(&path)).await?;
    let arch = wanted_arch(driver, asked);
    check_arch(&caps, &arch, &path)?;
    Ok(Emulator { path, arch, caps })
}

/// What a hypervisor gives to its guests' CPUs.
pub(crate) struct HypervisorCpu {
    /// The emulator's path.
    pub(crate) path: String,
    /// The guests' architecture.
    pub(crate) arch: String,
    /// What runs them.
    pub(crate) accel: Accel,
    /// Features that keep a guest on this host, by libvirt's names.
    pub(crate) fixed: Vec<String>,
    /// The model that `host-model` is.
    pub(crate) model: Option<GuestModel>,
    /// The hypervisor's own models, each with the features that keep it from running, in its order and libvirt's names.
    pub(crate) models: Vec<(String, Vec<String>)>,
}

/// What the hypervisor that is meant gives to its guests' CPUs. A type of guest that QEMU does not run is taken for one
/// without KVM, as libvirt takes it.
///
/// # Errors
/// As of [`document`].
pub(crate) async fn hypervisor_cpu(driver: &Arc<Driver>, asked: Asked) -> Result<HypervisorCpu> {
    let Emulator { path, arch, caps } = emulator(driver, &asked).await?;
    let accel = match asked.virt_type.as_str() {
        "" => caps.preferred_accel(),
        named => Accel::from_virt_type(named).unwrap_or(Accel::Tcg),
    };
    if !asked.machine.is_empty() {
        machine(&caps, accel, &asked, &path)?;
    }
    Ok(HypervisorCpu {
        model: cpu::describe(&caps, accel),
        models: cpu::models(&caps, accel),
        fixed: cpu::fixed(&caps, accel),
        accel,
        path,
        arch,
    })
}

/// What KVM gives to a guest.
fn kvms_most() -> Option<u32> {
    crate::ops::host::arch::KVM
        .as_ref()
        .and_then(|kvm| kvm.max_vcpus().ok())
}

fn most_vcpus(accel: Accel, machine: &Machine, kvms: Option<u32>) -> u32 {
    match accel {
        Accel::Kvm => kvms.map_or(machine.max_cpus, |most| most.min(machine.max_cpus)),
        Accel::Tcg => machine.max_cpus,
    }
}

fn wrong(message: String) -> Error {
    Error::argument(message)
}

/// The architecture that is asked for: the host's if none is named.
fn wanted_arch(driver: &Driver, asked: &Asked) -> String {
    if asked.arch.is_empty() {
        driver.host.arch.clone()
    } else {
        asked.arch.clone()
    }
}

fn check_arch(caps: &Caps, arch: &str, path: &str) -> Result<()> {
    let x86 = |arch: &str| matches!(arch, "i686" | "x86_64");
    if caps.runs_arch(arch) {
        return Ok(());
    }
    Err(wrong(if x86(arch) && x86(caps.arch()) {
        format!("Emulator '{path}' does not support arch '{arch}'")
    } else {
        format!(
            "architecture from emulator '{}' doesn't match given architecture '{arch}'",
            caps.arch()
        )
    }))
}

fn accel(caps: &Caps, asked: &Asked, path: &str) -> Result<Accel> {
    if asked.virt_type.is_empty() {
        return Ok(caps.preferred_accel());
    }
    let found = Accel::from_virt_type(&asked.virt_type).filter(|accel| caps.accel(*accel).is_some());
    found.ok_or_else(|| {
        wrong(format!(
            "Emulator '{path}' does not support virt type '{}'",
            asked.virt_type
        ))
    })
}

fn machine<'a>(caps: &'a Caps, accel: Accel, asked: &Asked, path: &str) -> Result<&'a Machine> {
    let found = if asked.machine.is_empty() {
        caps.default_machine(accel)
    } else {
        caps.machine(accel, &asked.machine)
    };
    found.ok_or_else(|| {
        wrong(format!(
            "the machine '{}' is not supported by emulator '{path}'",
            asked.machine
        ))
    })
}

impl Kept {
    fn text(&self, basis: Basis) -> Arc<str> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = made.iter().position(|(known, _)| *known == basis) {
            made[..=at].rotate_right(1);
        } else {
            let text: Arc<str> = build(&basis).format().into();
            made.insert(0, (basis, text));
            made.truncate(KEPT_MAX);
        }
        made.first().map(|(_, text)| Arc::clone(text)).unwrap_or_default()
    }
}

impl Host {
    fn read(driver: &Driver) -> Self {
        let root = hostinfo::Root::at(&driver.host.root);
        let vfio = hostinfo::has_iommu(&root).unwrap_or(false) && root.path("dev/vfio/vfio").exists();
        Self {
            tools: Tools::find(),
            physical_bits: hostinfo::cpu_identity(&root).ok().and_then(|c| c.physical_bits),
            max_vcpus: kvms_most(),
            vfio,
            encrypted: crate::ops::host::arch::cpu_facts(&driver.host)
                .data
                .cpuid
                .get(&ENCRYPTION)
                .map(|[_, _, all, first]| (*all, *first)),
        }
    }
}

fn build(basis: &Basis) -> DomainCapabilities {
    let most = most_vcpus(basis.accel, &basis.machine, basis.host.max_vcpus);
    DomainCapabilities {
        path: basis.path.clone(),
        domain: basis.accel.virt_type().to_owned(),
        machine: Some(basis.machine.name.clone()),
        arch: basis.arch.clone(),
        max_vcpus: (most > 0).then_some(most),
        iothreads: Group::simple(true),
        os: os(basis),
        cpu: cpu::modes(basis),
        memory_backing: devices::memory_backing(basis),
        devices: devices::devices(basis),
        features: devices::features(basis),
    }
}

fn os(basis: &Basis) -> Os {
    let fitting: Vec<&Firmware> = basis
        .firmware
        .iter()
        .filter(|f| f.runs_on(&basis.arch, &basis.machine.name))
        .collect();
    let interfaces = [("bios", "bios"), ("efi", "uefi")]
        .into_iter()
        .filter(|(_, interface)| fitting.iter().any(|f| f.is(interface)));
    let named: Vec<&str> = if fitting.is_empty() {
        basis.legacy_firmware.iter().map(String::as_str).collect()
    } else {
        fitting.iter().map(|f| f.executable()).collect()
    };
    let mut files: Vec<String> = Vec::new();
    for file in named {
        if !files.iter().any(|known| known == file) && Path::new(file).exists() {
            files.push(file.to_owned());
        }
    }
    let secure = fitting.iter().any(|f| f.has("requires-smm"));
    Os {
        supported: YesNo::Yes,
        enums: vec![Enum::new("firmware", interfaces.map(|(name, _)| name))],
        loader: LoaderCaps {
            supported: YesNo::Yes,
            files,
            enums: vec![
                Enum::new("type", ["rom", "pflash"]),
                Enum::new("readonly", ["yes", "no"]),
                Enum::new("secure", secure.then_some("yes").into_iter().chain(["no"])),
            ],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &str =
        include_str!("../../../../crates/qemu-plan/tests/data/caps/replies-10.0.2-x86_64.json");

    fn basis(accel: Accel, machine: &str) -> Basis {
        let caps = Arc::new(Caps::derive(&serde_json::from_str(REPLIES).unwrap()).unwrap());
        Basis {
            path: "/usr/bin/qemu-system-x86_64".to_owned(),
            arch: "x86_64".to_owned(),
            machine: caps.machine(accel, machine).unwrap().clone(),
            caps,
            accel,
            firmware: Arc::default(),
            legacy_firmware: Vec::new(),
            host: Host {
                physical_bits: Some(48),
                max_vcpus: Some(1024),
                ..Host::default()
            },
        }
    }

    /// What libvirt says of the same QEMU; custom models are counted, they are QEMU's list.
    #[test]
    fn recorded_answers_give_the_model_that_libvirt_chooses() {
        let chosen = |accel| {
            let document = build(&basis(accel, "q35"));
            let mode = document.cpu[2].clone();
            let named = |policy| {
                mode.features
                    .iter()
                    .filter(|f| f.policy == Some(policy))
                    .map(|f| f.name.clone())
                    .collect::<Vec<_>>()
            };
            let dropped = named(domxml::cpu::FeaturePolicy::Disable).join(" ");
            (
                mode.model.unwrap().name.unwrap(),
                named(domxml::cpu::FeaturePolicy::Require).len(),
                dropped,
                document.cpu[3].models.0.len(),
                document.max_vcpus,
            )
        };
        let tcg = (
            "EPYC".to_owned(),
            27,
            "vme xsavec misalignsse osvw topoext fxsr_opt nrip-save".to_owned(),
            145,
            Some(4096),
        );
        assert_eq!(chosen(Accel::Tcg), tcg);
        let kvm = chosen(Accel::Kvm);
        assert_eq!(
            (kvm.0.as_str(), kvm.2.as_str(), kvm.4),
            ("kvm64", "pni", Some(1024))
        );
    }

    #[test]
    fn what_a_machine_has_not_is_not_told() {
        let of = |machine| {
            let document = build(&basis(Accel::Tcg, machine));
            (
                document.devices.disk.enums[1].values.contains(&"ide".to_owned()),
                document.features.ps2 == Group::simple(true),
            )
        };
        assert_eq!(
            [of("pc"), of("q35"), of("isapc"), of("microvm")],
            [(true, true), (false, true), (false, true), (false, false)]
        );
    }

    #[test]
    fn a_text_is_made_once_while_nothing_changes() {
        let kept = Kept::default();
        let one = basis(Accel::Tcg, "q35");
        let again = Basis {
            caps: Arc::clone(&one.caps),
            firmware: Arc::clone(&one.firmware),
            ..basis(Accel::Tcg, "q35")
        };
        let other = Basis {
            caps: Arc::clone(&one.caps),
            firmware: Arc::default(),
            ..basis(Accel::Tcg, "q35")
        };
        let first = kept.text(one);
        assert!(Arc::ptr_eq(&first, &kept.text(again)));
        assert!(!Arc::ptr_eq(&first, &kept.text(other)));
    }
}
