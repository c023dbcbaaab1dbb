//! Devices and features of guests, as tables: a value and what of the emulator it needs.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use Needs::{All, Any, Nothing, One};
use domxml::domcaps::{Devices, Enum, Features, Group, Sev, Sgx};
use qemu_plan::caps::{Caps, Flag};

use crate::ops::host::{domcaps::Basis, programs};

/// Programs beside QEMU that some devices need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tools {
    /// An emulator of TPMs, with all its parts.
    pub(crate) swtpm: bool,
    /// Versions of TPMs that it has.
    pub(crate) tpm_versions: Vec<&'static str>,
    /// A server for the RDP protocol.
    pub(crate) rdp: bool,
}

impl Tools {
    /// Looks on the daemon's path. May block on files.
    pub(crate) fn find() -> Self {
        let find = |program: &str| programs::find(program, &[]);
        let parts = ["swtpm", "swtpm_setup", "swtpm_ioctl"].map(find);
        let swtpm = parts.iter().all(Option::is_some);
        let tpm_versions = parts[1]
            .as_deref()
            .filter(|_| swtpm)
            .map(tpm_versions)
            .unwrap_or_default();
        Self {
            swtpm,
            tpm_versions,
            rdp: find("qemu-rdp").is_some(),
        }
    }
}

/// Versions of TPMs that the emulator can set up; asked once.
fn tpm_versions(swtpm_setup: &Path) -> Vec<&'static str> {
    static VERSIONS: OnceLock<Vec<&str>> = OnceLock::new();
    let ask = || {
        let output = Command::new(swtpm_setup)
            .arg("--print-capabilities")
            .stdin(Stdio::null())
            .output();
        let answer: Option<serde_json::Value> =
            output.ok().and_then(|o| serde_json::from_slice(&o.stdout).ok());
        let features = answer
            .as_ref()
            .and_then(|a| a.get("features")?.as_array())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let has = |name: &str| features.iter().any(|f| f.as_str() == Some(name));
        [("tpm-1.2", "1.2"), ("tpm-2.0", "2.0")]
            .into_iter()
            .filter(|(name, _)| has(name))
            .map(|(_, version)| version)
            .collect()
    };
    VERSIONS.get_or_init(ask).clone()
}

/// What a value needs.
enum Needs {
    /// Nothing.
    Nothing,
    /// One flag.
    One(Flag),
    /// All of these.
    All(&'static [Flag]),
    /// One of these.
    Any(&'static [Flag]),
}

impl Needs {
    fn met(&self, caps: &Caps) -> bool {
        match self {
            Self::Nothing => true,
            Self::One(flag) => caps.has(*flag),
            Self::All(flags) => flags.iter().all(|f| caps.has(*f)),
            Self::Any(flags) => flags.iter().any(|f| caps.has(*f)),
        }
    }
}

type Table = &'static [(&'static str, Needs)];

const SOURCE_TYPE: Table = &[
    ("file", Nothing),
    ("anonymous", Nothing),
    ("memfd", One(Flag::MemoryBackendMemfd)),
];
const DISK_DEVICE: Table = &[
    ("disk", Nothing),
    ("cdrom", Nothing),
    ("floppy", Nothing),
    ("lun", Nothing),
];
const DISK_BUS: Table = &[
    ("fdc", Nothing),
    ("scsi", Nothing),
    ("virtio", Nothing),
    ("usb", One(Flag::UsbStorage)),
    ("sata", One(Flag::Ich9Ahci)),
];
const DISK_MODEL: Table = &[
    ("virtio", Nothing),
    ("virtio-transitional", One(Flag::VirtioPciNonTransitional)),
    ("virtio-non-transitional", One(Flag::VirtioPciNonTransitional)),
];
const VIDEO: Table = &[
    ("vga", One(Flag::Vga)),
    ("cirrus", One(Flag::CirrusVga)),
    ("vmvga", One(Flag::VmwareSvga)),
    ("qxl", One(Flag::Qxl)),
    ("virtio", One(Flag::VirtioGpu)),
    ("none", Nothing),
    ("bochs", One(Flag::BochsDisplay)),
    ("ramfb", One(Flag::Ramfb)),
];
const HOSTDEV_MODE: Table = &[("subsystem", Nothing)];
const HOSTDEV_POLICY: Table = &[
    ("default", Nothing),
    ("mandatory", Nothing),
    ("requisite", Nothing),
    ("optional", Nothing),
];
const HOSTDEV_TYPE: Table = &[
    (
        "usb",
        Any(&[
            Flag::Piix3UsbUhci,
            Flag::Piix4UsbUhci,
            Flag::UsbEhci,
            Flag::Ich9UsbEhci1,
            Flag::Vt82c686bUsbUhci,
            Flag::PciOhci,
            Flag::NecUsbXhci,
            Flag::QemuXhci,
        ]),
    ),
    ("pci", Nothing),
    ("scsi", Nothing),
];
const RNG_MODEL: Table = &[
    ("virtio", One(Flag::VirtioRng)),
    (
        "virtio-transitional",
        All(&[Flag::VirtioRng, Flag::VirtioPciNonTransitional]),
    ),
    (
        "virtio-non-transitional",
        All(&[Flag::VirtioRng, Flag::VirtioPciNonTransitional]),
    ),
];
const RNG_BACKEND: Table = &[
    ("random", One(Flag::RngRandom)),
    ("egd", One(Flag::RngEgd)),
    ("builtin", One(Flag::RngBuiltin)),
];
const FILESYSTEM: Table = &[
    ("path", Nothing),
    ("handle", Nothing),
    ("virtiofs", One(Flag::VhostUserFs)),
];
const TPM_MODEL: Table = &[("tpm-tis", One(Flag::TpmTis)), ("tpm-crb", One(Flag::TpmCrb))];
const REDIRDEV: Table = &[("usb", One(Flag::UsbRedir))];
const CHANNEL: Table = &[
    ("pty", Nothing),
    ("unix", Nothing),
    ("spicevmc", One(Flag::Spice)),
];
const CRYPTO_MODEL: Table = &[("virtio", One(Flag::VirtioCrypto))];
const CRYPTO_TYPE: Table = &[("qemu", Nothing)];
const CRYPTO_BACKEND: Table = &[("builtin", Nothing), ("lkcf", One(Flag::CryptodevBackendLkcf))];
const INTERFACE: Table = &[
    ("default", One(Flag::NetdevUser)),
    ("passt", One(Flag::NetdevStream)),
];
const PANIC: Table = &[
    ("isa", One(Flag::Pvpanic)),
    ("hyperv", Nothing),
    ("pvpanic", One(Flag::PvpanicPci)),
];
const LAUNCH_SECURITY: Table = &[("sev", One(Flag::SevGuest)), ("sev-snp", One(Flag::SevSnpGuest))];

/// Machine families, by the beginning of their names.
const I440FX: &[&str] = &["pc-i440fx-", "pc-0.", "pc-1.", "rhel6", "pc-i440fx", "xenfv"];

fn is_i440fx(machine: &str) -> bool {
    machine == "pc" || I440FX.iter().any(|family| machine.starts_with(family))
}

fn is_q35(machine: &str) -> bool {
    machine == "q35" || machine.starts_with("pc-q35-")
}

fn of(name: &str, table: Table, basis: &Basis) -> Enum {
    Enum::new(
        name,
        table
            .iter()
            .filter(|(_, needs)| needs.met(&basis.caps))
            .map(|(value, _)| *value),
    )
}

/// Supported if there is a value of the first kind.
fn if_any(enums: Vec<Enum>) -> Group {
    if enums.first().is_some_and(|first| first.values.is_empty()) {
        Group::NO
    } else {
        Group::with(enums)
    }
}

pub(crate) fn memory_backing(basis: &Basis) -> Group {
    Group::with(vec![of("sourceType", SOURCE_TYPE, basis)])
}

/// `<devices>`.
pub(crate) fn devices(basis: &Basis) -> Devices {
    Devices {
        disk: disk(basis),
        graphics: Group::with(vec![graphics(basis)]),
        video: Group::with(vec![of("modelType", VIDEO, basis)]),
        hostdev: hostdev(basis),
        rng: Group::with(vec![
            of("model", RNG_MODEL, basis),
            of("backendModel", RNG_BACKEND, basis),
        ]),
        filesystem: Group::with(vec![of("driverType", FILESYSTEM, basis)]),
        tpm: tpm(basis),
        redirdev: if_any(vec![of("bus", REDIRDEV, basis)]),
        channel: Group::with(vec![of("type", CHANNEL, basis)]),
        crypto: Group::with(vec![
            of("model", CRYPTO_MODEL, basis),
            of("type", CRYPTO_TYPE, basis),
            of("backendModel", CRYPTO_BACKEND, basis),
        ]),
        interface: Group::with(vec![of("backendType", INTERFACE, basis)]),
        panic: Group::with(vec![of("model", PANIC, basis)]),
    }
}

fn disk(basis: &Basis) -> Group {
    let machine = basis.machine.name.as_str();
    let mut bus = of("bus", DISK_BUS, basis);
    if is_i440fx(machine) {
        bus.values.insert(0, "ide".to_owned());
    }
    Group::with(vec![
        of("diskDevice", DISK_DEVICE, basis),
        bus,
        of("model", DISK_MODEL, basis),
    ])
}

fn graphics(basis: &Basis) -> Enum {
    let has = |flag| basis.caps.has(flag);
    let types = [
        ("sdl", has(Flag::Sdl)),
        ("vnc", has(Flag::Vnc)),
        ("rdp", has(Flag::DisplayDbus) && basis.host.tools.rdp),
        ("spice", has(Flag::Spice)),
        ("egl-headless", has(Flag::EglHeadless)),
        ("dbus", has(Flag::DisplayDbus)),
    ];
    Enum::new(
        "type",
        types
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| name),
    )
}

fn hostdev(basis: &Basis) -> Group {
    let vfio = basis.caps.has(Flag::VfioPci) && basis.host.vfio;
    let backends: &[&str] = if vfio { &["default", "vfio"] } else { &[] };
    Group::with(vec![
        of("mode", HOSTDEV_MODE, basis),
        of("startupPolicy", HOSTDEV_POLICY, basis),
        of("subsysType", HOSTDEV_TYPE, basis),
        of("capsType", &[], basis),
        Enum::new("pciBackend", backends.iter().copied()),
    ])
}

fn tpm(basis: &Basis) -> Group {
    let passthrough = basis.caps.has(Flag::TpmPassthrough);
    let emulator = basis.caps.has(Flag::TpmEmulator) && basis.host.tools.swtpm;
    let backends = [
        ("passthrough", passthrough),
        ("emulator", emulator),
        ("external", emulator),
    ];
    let backends = Enum::new(
        "backendModel",
        backends
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| name),
    );
    let mut enums = vec![of("model", TPM_MODEL, basis), backends];
    if emulator {
        enums.push(Enum::new(
            "backendVersion",
            basis.host.tools.tpm_versions.iter().copied(),
        ));
    }
    if_any(enums)
}

/// `<features>`.
pub(crate) fn features(basis: &Basis) -> Features {
    let machine = basis.machine.name.as_str();
    let has = |flag| Group::simple(basis.caps.has(flag));
    let keyboard = is_i440fx(machine) || is_q35(machine) || machine == "isapc";
    let hyperv = basis.caps.hyperv();
    Features {
        gic: Group::NO,
        vmcoreinfo: has(Flag::Vmcoreinfo),
        genid: has(Flag::Vmgenid),
        backing_store_input: Group::simple(true),
        backup: Group::simple(true),
        async_teardown: has(Flag::RunWithAsyncTeardown),
        ps2: Group::simple(basis.caps.has(Flag::MachineI8042Opt) && keyboard),
        sev: sev(basis),
        sgx: sgx(&basis.caps),
        hyperv: (!hyperv.is_empty())
            .then(|| Group::with(vec![Enum::new("features", hyperv.iter().copied())])),
        launch_security: if_any(vec![of("sectype", LAUNCH_SECURITY, basis)]),
    }
}

fn sev(basis: &Basis) -> Sev {
    let Some(known) = basis.caps.sev() else {
        return Sev::default();
    };
    let guests = basis.host.encrypted;
    Sev {
        supported: true.into(),
        cbitpos: Some(known.cbitpos),
        reduced_phys_bits: Some(known.reduced_phys_bits),
        max_guests: guests.map(|(all, first)| all.saturating_sub(first).saturating_add(1)),
        max_es_guests: guests.map(|(_, first)| first.saturating_sub(1)),
    }
}

fn sgx(caps: &Caps) -> Sgx {
    let Some(known) = caps.sgx() else {
        return Sgx::default();
    };
    Sgx {
        supported: true.into(),
        flc: Some(known.flc.into()),
        sgx1: Some(known.sgx1.into()),
        sgx2: Some(known.sgx2.into()),
    }
}
