//! Architectures that libvirt knows, the host's KVM, and its CPU.

use std::{
    path::Path,
    sync::{LazyLock, OnceLock},
};

use domxml::capabilities::Counter;
use hostinfo::{CpuData, CpuModels, FEATURE_MSRS, HostModel, Root};

use crate::ops::host::place;

/// Architectures that QEMU runs guests of, in libvirt's order, and the bits of a word.
// table
pub(crate) const ARCHES: &[(&str, u32)] = &[
    ("alpha", 64),
    ("armv6l", 32),
    ("armv7l", 32),
    ("armv7b", 32),
    ("aarch64", 64),
    ("cris", 32),
    ("i686", 32),
    ("loongarch64", 64),
    ("m68k", 32),
    ("microblaze", 32),
    ("microblazeel", 32),
    ("mips", 32),
    ("mipsel", 32),
    ("mips64", 64),
    ("mips64el", 64),
    ("ppc", 32),
    ("ppc64", 64),
    ("ppc64le", 64),
    ("riscv32", 32),
    ("riscv64", 64),
    ("s390x", 64),
    ("sh4", 32),
    ("sh4eb", 64),
    ("sparc", 32),
    ("sparc64", 64),
    ("x86_64", 64),
    ("xtensa", 32),
    ("xtensaeb", 32),
];

/// What of the CPU is asked once.
pub(crate) struct HostCpuFacts {
    pub(crate) model: Option<HostModel>,
    pub(crate) data: CpuData,
    pub(crate) counter: Option<Counter>,
}

impl HostCpuFacts {
    /// libvirt's description of the CPU; none for one that has not even the least model.
    pub(crate) fn model(&self) -> Option<&HostModel> {
        self.model.as_ref()
    }
}

/// Whether QEMU runs guests of an architecture.
pub(crate) fn is_arch(name: &str) -> bool {
    ARCHES.iter().any(|(arch, _)| *arch == name)
}

/// The CPU in libvirt's words, with what KVM alone can read of it.
pub(crate) fn cpu_facts(host: &place::Facts) -> &'static HostCpuFacts {
    static FACTS: OnceLock<HostCpuFacts> = OnceLock::new();
    FACTS.get_or_init(|| {
        let root = Root::at(&host.root);
        let mut data = crate::ops::host::cpu_survey::data(&root);
        let kvm = KVM.as_ref();
        for index in FEATURE_MSRS {
            if let Some(value) = kvm.and_then(|k| k.feature_msr(index)) {
                data.msrs.entry(index).or_insert(value);
            }
        }
        let counter = kvm.and_then(|k| k.tsc().ok()).map(|tsc| Counter {
            name: "tsc".to_owned(),
            frequency: tsc.khz.saturating_mul(1000),
            scaling: Some(tsc.scaling.into()),
        });
        HostCpuFacts {
            model: CpuModels::x86().describe_host(&data),
            data,
            counter,
        }
    })
}

/// The host's KVM, if it may be used.
pub(crate) static KVM: LazyLock<Option<unixfd::Kvm>> =
    LazyLock::new(|| unixfd::Kvm::open(Path::new("/dev/kvm")).ok());
