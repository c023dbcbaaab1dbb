//! What to ask a QEMU binary, in order. The daemon's prober sends what [`queries`] lists and keeps the replies.
//!
//! Most properties are asked only of types that the binary has: hence stages. [`Stage::Basics`] comes first and shows
//! whether a second process without accelerator is needed, which gets [`Stage::TcgOnly`]; the first one goes on with
//! [`Stage::Schema`] and, with the replies so far, [`Stage::Details`]. Within a stage no question depends on an answer.

use serde_json::{Value, json};

use super::flag::{Flag, FlagSet};
use super::replies::Run;
use super::rule;

/// Which part of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Who it is, and what decides about the second process.
    Basics,
    /// What commands there are; takes QEMU longest.
    Schema,
    /// What depends on the answers so far.
    Details,
    /// What is asked of the second process.
    TcgOnly,
}

/// One command to send. A reply with an error is kept as it is, it is no failure of the probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Command name.
    pub execute: &'static str,
    /// Arguments, if any.
    pub arguments: Option<Value>,
}

const BASICS: &[&str] = &["query-version", "query-target", "query-kvm", "qom-list-types"];
const DETAILS: &[&str] = &[
    "query-machines",
    "query-cpu-definitions",
    "query-tpm-models",
    "query-tpm-types",
    "query-command-line-options",
    "query-migrate-capabilities",
];

/// Queries that only some flags make sensible.
const GATED: &[(&str, &[Flag])] = &[
    ("query-sev-capabilities", &[Flag::SevGuest, Flag::SevSnpGuest]),
    ("query-sgx-capabilities", &[Flag::SgxEpc]),
];

/// Types whose properties are asked, and the flag without which they are not.
const PROPERTIES: &[(&str, &str, Option<Flag>)] = &[
    ("device-list-properties", "virtio-blk-pci", None),
    ("device-list-properties", "virtio-net-pci", Some(Flag::VirtioNet)),
    (
        "device-list-properties",
        "virtio-scsi-pci",
        Some(Flag::VirtioScsiPci),
    ),
    ("device-list-properties", "virtio-blk-ccw", Some(Flag::VirtioCcw)),
    ("device-list-properties", "virtio-net-ccw", Some(Flag::VirtioNet)),
    (
        "device-list-properties",
        "virtio-scsi-ccw",
        Some(Flag::VirtioScsiPci),
    ),
    ("device-list-properties", "vfio-pci", Some(Flag::VfioPci)),
    ("device-list-properties", "scsi-hd", None),
    ("device-list-properties", "ide-hd", None),
    ("device-list-properties", "PIIX4_PM", None),
    ("device-list-properties", "usb-redir", Some(Flag::UsbRedir)),
    ("device-list-properties", "usb-storage", Some(Flag::UsbStorage)),
    ("device-list-properties", "kvm-pit", None),
    ("device-list-properties", "VGA", Some(Flag::Vga)),
    ("device-list-properties", "vmware-svga", Some(Flag::VmwareSvga)),
    ("device-list-properties", "qxl", Some(Flag::Qxl)),
    ("device-list-properties", "virtio-gpu-pci", Some(Flag::VirtioGpu)),
    (
        "device-list-properties",
        "virtio-gpu-device",
        Some(Flag::VirtioGpu),
    ),
    ("device-list-properties", "ICH9-LPC", None),
    ("device-list-properties", "virtio-balloon-pci", None),
    ("device-list-properties", "virtio-balloon-ccw", None),
    ("device-list-properties", "virtio-balloon-device", None),
    ("device-list-properties", "intel-iommu", Some(Flag::IntelIommu)),
    (
        "device-list-properties",
        "spapr-pci-host-bridge",
        Some(Flag::SpaprPciHostBridge),
    ),
    (
        "device-list-properties",
        "virtio-gpu-ccw",
        Some(Flag::VirtioGpuCcw),
    ),
    ("device-list-properties", "mch", Some(Flag::Mch)),
    ("device-list-properties", "nvdimm", Some(Flag::Nvdimm)),
    (
        "device-list-properties",
        "pcie-root-port",
        Some(Flag::PcieRootPort),
    ),
    ("device-list-properties", "usb-host", None),
    (
        "device-list-properties",
        "vhost-user-fs-device",
        Some(Flag::VhostUserFs),
    ),
    (
        "device-list-properties",
        "virtio-mem-pci",
        Some(Flag::VirtioMemPci),
    ),
    (
        "device-list-properties",
        "virtio-iommu-pci",
        Some(Flag::VirtioIommuPci),
    ),
    ("qom-list-properties", "memory-backend-file", None),
    (
        "qom-list-properties",
        "memory-backend-memfd",
        Some(Flag::MemoryBackendMemfd),
    ),
    ("qom-list-properties", "max-x86_64-cpu", Some(Flag::X86MaxCpu)),
    ("qom-list-properties", "max-arm-cpu", Some(Flag::ArmMaxCpu)),
    (
        "qom-list-properties",
        "pseries-machine",
        Some(Flag::SpaprPciHostBridge),
    ),
    ("qom-list-properties", "virt-machine", Some(Flag::ArmMaxCpu)),
    ("qom-list-properties", "none-machine", None),
    ("qom-list-properties", "generic-pc-machine", None),
];

/// The commands of a stage, given what the run answered so far.
pub fn queries(stage: Stage, so_far: &Run) -> Vec<Query> {
    match stage {
        Stage::Basics => BASICS.iter().map(|c| plain(c)).collect(),
        Stage::Schema => vec![plain("query-qmp-schema")],
        Stage::Details => details(so_far),
        Stage::TcgOnly => {
            let models = expansions("max", Hyperv::Skip);
            std::iter::once(plain("query-cpu-definitions"))
                .chain(models)
                .chain([plain("query-machines")])
                .collect()
        }
    }
}

/// Whether a second process has something to add, given the answers to [`Stage::Basics`]: the first one uses an
/// accelerator, and the binary can do without.
pub fn needs_tcg_run(so_far: &Run) -> bool {
    so_far.kvm_enabled() && so_far.lists("qom-list-types", "name", "tcg-accel")
}

fn details(so_far: &Run) -> Vec<Query> {
    let flags = rule::derive(so_far).unwrap_or_default();
    let asked = PROPERTIES
        .iter()
        .filter(|(_, _, gate)| gate.is_none_or(|f| flags.has(f)));
    let properties = asked.map(|(execute, ty, _)| Query {
        execute,
        arguments: Some(json!({ "typename": ty })),
    });
    let accelerated = flags.has(Flag::Kvm);
    let model = if accelerated { "host" } else { "max" };
    properties
        .chain(DETAILS.iter().map(|c| plain(c)))
        .chain(
            GATED
                .iter()
                .filter(|(_, gate)| any(&flags, gate))
                .map(|(c, _)| plain(c)),
        )
        .chain(expansions(
            model,
            if accelerated { Hyperv::Ask } else { Hyperv::Skip },
        ))
        .collect()
}

/// Whether the expansion with Hyper-V enlightenments is wanted.
enum Hyperv {
    Ask,
    Skip,
}

fn expansions(model: &str, hyperv: Hyperv) -> impl Iterator<Item = Query> + use<> {
    let query = |arguments| Query {
        execute: "query-cpu-model-expansion",
        arguments: Some(arguments),
    };
    let full = json!({"type": "full", "model": {"name": model, "props": {"migratable": false, "hv-passthrough": true}}});
    [
        Some(query(json!({"type": "static", "model": {"name": model}}))),
        Some(query(
            json!({"type": "static", "model": {"name": model, "props": {"migratable": false}}}),
        )),
        matches!(hyperv, Hyperv::Ask).then(|| query(full)),
    ]
    .into_iter()
    .flatten()
}

fn any(flags: &FlagSet, gate: &[Flag]) -> bool {
    gate.iter().any(|f| flags.has(*f))
}

const fn plain(execute: &'static str) -> Query {
    Query {
        execute,
        arguments: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types whose properties libvirt asks for, and the flag that has to be set: one line a type.
    const GATES: &str = include_str!("../../tests/data/caps/gates.tsv");

    #[test]
    fn properties_are_asked_of_the_types_that_libvirt_asks_them_of() {
        let ours = PROPERTIES
            .iter()
            .filter(|(_, ty, _)| !ty.ends_with("-machine"))
            .map(|(execute, ty, gate)| {
                let kind = if execute.starts_with("device") {
                    "device-prop"
                } else {
                    "object-prop"
                };
                format!("{kind}\t{ty}\t{}", gate.map_or("-", Flag::name))
            });
        assert_eq!(ours.collect::<Vec<_>>(), GATES.lines().collect::<Vec<_>>());
    }
}
