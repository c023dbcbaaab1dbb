//! libvirt's capabilities document: the host, and what guests it can run.
//!
//! The host's files are read anew for each document, for CPUs, memory and pages come and go; what KVM says of the CPU is
//! asked once. A text is kept with what it was made of, and given again while that is the same.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use domxml::{
    capabilities::{
        Baselabel, CacheBank, Capabilities, CellCpu, CellCpus, CellMemory, Guest, GuestArch, GuestDomain,
        GuestFeatures, GuestMachine, Host, HostCell, HostCells, HostCpu, HostFeature, HostTopology,
        MigrationFeatures, Pages, PowerManagement, Secmodel, Signature, Toggle,
    },
    cpu::{MaxPhysAddr, MaxPhysAddrMode, Sibling, Topology},
};
use hostinfo::{HostFacts, format_cpu_list};
use qemu_plan::caps::{Accel, Caps};

use crate::{
    error::Result,
    ops::{
        Driver,
        host::{
            arch::{ARCHES, cpu_facts},
            identity, place, suspend,
        },
    },
    paths::Scope,
};

/// Ways that guests migrate by.
const TRANSPORTS: &[&str] = &["tcp", "rdma"];
/// Of both security models.
const DOI: &str = "0";

/// A text and what it was made of.
#[derive(Default)]
pub struct Kept {
    last: Mutex<Option<Made>>,
}

struct Made {
    basis: Basis,
    text: Arc<str>,
}

#[derive(Clone)]
struct Basis {
    facts: Arc<HostFacts>,
    sleep: suspend::Offered,
    owner: String,
    emulators: Vec<Emulator>,
}

/// The emulator of an architecture.
#[derive(Clone)]
struct Emulator {
    arch: &'static str,
    word_size: u32,
    path: String,
    caps: Arc<Caps>,
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Emulator, b: &Emulator| a.path == b.path && Arc::ptr_eq(&a.caps, &b.caps);
        let emulators = self.emulators.len() == other.emulators.len()
            && self
                .emulators
                .iter()
                .zip(&other.emulators)
                .all(|(a, b)| same(a, b));
        emulators && self.facts == other.facts && (&self.sleep, &self.owner) == (&other.sleep, &other.owner)
    }
}

/// The document.
///
/// # Errors
/// The host's facts can't be read.
pub(crate) async fn document(driver: &Arc<Driver>) -> Result<String> {
    let emulators = emulators(driver).await;
    let owner = identity::label_of_all(&driver.config())?;
    let (facts, sleep) = (
        crate::ops::host::facts::of_host(driver).await?,
        suspend::offered(driver).await,
    );
    let basis = Basis {
        facts,
        sleep,
        owner,
        emulators,
    };
    Ok(driver.host_document.text(basis, &driver.host).to_string())
}

impl Kept {
    fn text(&self, basis: Basis, host: &place::Facts) -> Arc<str> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref().filter(|made| made.basis == basis) {
            Some(made) => Arc::clone(&made.text),
            None => {
                let text: Arc<str> = build(&basis, host).format().into();
                *last = Some(Made {
                    basis,
                    text: Arc::clone(&text),
                });
                text
            }
        }
    }
}

/// The emulators of the host that can be asked; others are left out.
async fn emulators(driver: &Arc<Driver>) -> Vec<Emulator> {
    let found = crate::ops::host::emulator::emulators(driver);
    let word_size = |arch: &str| {
        ARCHES
            .iter()
            .find(|(own, _)| *own == arch)
            .map_or(64, |(_, bits)| *bits)
    };
    let asked = found
        .iter()
        .map(|(arch, path)| (*arch, word_size(arch), path.clone()))
        .map(|(arch, word_size, path)| async move {
            match driver.prober.caps(Path::new(&path)).await {
                Ok(caps) => Some(Emulator {
                    arch,
                    word_size,
                    path,
                    caps,
                }),
                Err(error) => {
                    tracing::warn!(%path, %error, "an emulator is left out of the host's capabilities");
                    None
                }
            }
        });
    futures_util::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

fn build(basis: &Basis, host: &place::Facts) -> Capabilities {
    let facts = &basis.facts;
    let transports = TRANSPORTS.iter().map(|t| (*t).to_owned()).collect();
    let part = Host {
        uuid: Some(host.uuid.to_string()),
        cpu: cpu(facts, host),
        power_management: Some(power_management(&basis.sleep)),
        iommu: Some(facts.iommu.into()),
        migration_features: Some(MigrationFeatures {
            live: true,
            uri_transports: transports,
        }),
        topology: Some(topology(facts)),
        caches: facts.caches.iter().map(bank).collect(),
        secmodels: secmodels(host, &basis.owner),
    };
    Capabilities {
        host: part,
        guests: basis.emulators.iter().map(guest).collect(),
    }
}

fn power_management(sleep: &suspend::Offered) -> PowerManagement {
    PowerManagement {
        suspend_mem: sleep.mem,
        suspend_disk: sleep.disk,
        suspend_hybrid: sleep.hybrid,
    }
}

fn cpu(facts: &HostFacts, host: &place::Facts) -> HostCpu {
    let (known, told) = (cpu_facts(host), &facts.cpu);
    let feature = |name: &&str| HostFeature {
        name: (*name).to_owned(),
    };
    let pages = |size: &u64| Pages {
        unit: "KiB".to_owned(),
        size: *size,
        count: None,
    };
    HostCpu {
        arch: Some(host.arch.clone()),
        model: known.model.as_ref().map(|m| m.model.to_owned()),
        vendor: told.vendor.clone(),
        microcode: told.microcode,
        signature: known.data.signature().map(|s| Signature {
            family: s.family,
            model: s.model,
            stepping: s.stepping,
        }),
        counter: known.counter.clone(),
        topology: Some(Topology {
            sockets: facts.node.sockets,
            dies: 1,
            clusters: 1,
            cores: facts.node.cores,
            threads: facts.node.threads,
        }),
        maxphysaddr: told.physical_bits.map(|bits| MaxPhysAddr {
            mode: MaxPhysAddrMode::Emulate,
            bits: Some(bits),
            limit: None,
        }),
        features: known
            .model
            .iter()
            .flat_map(|m| &m.features)
            .map(feature)
            .collect(),
        pages: facts.page_sizes.iter().map(pages).collect(),
    }
}

fn topology(facts: &HostFacts) -> HostTopology {
    let cells: Vec<HostCell> = facts.cells.iter().map(cell).collect();
    HostTopology {
        cells: HostCells {
            num: count(cells.len()),
            cells,
        },
    }
}

fn cell(cell: &hostinfo::Cell) -> HostCell {
    let kib = || "KiB".to_owned();
    let cpus: Vec<CellCpu> = cell.cpus.iter().map(cell_cpu).collect();
    HostCell {
        id: cell.id,
        // A cell that has none says nothing of it.
        memory: (cell.memory > 0).then(|| CellMemory {
            unit: kib(),
            amount: cell.memory,
        }),
        pages: cell
            .pages
            .iter()
            .map(|p| Pages {
                unit: kib(),
                size: p.size,
                count: Some(p.total),
            })
            .collect(),
        distances: cell
            .distances
            .iter()
            .map(|d| Sibling {
                id: d.cell,
                value: d.value,
            })
            .collect(),
        cpus: CellCpus {
            num: count(cpus.len()),
            cpus,
        },
    }
}

fn cell_cpu(cpu: &hostinfo::CellCpu) -> CellCpu {
    CellCpu {
        id: cpu.id,
        socket_id: cpu.socket,
        die_id: cpu.die,
        cluster_id: cpu.cluster,
        core_id: cpu.core,
        siblings: format_cpu_list(&cpu.siblings),
    }
}

fn bank(bank: &hostinfo::Bank) -> CacheBank {
    let (size, unit) = [(1 << 20, "GiB"), (1 << 10, "MiB"), (1, "KiB")]
        .into_iter()
        .find(|(unit, _)| bank.size.is_multiple_of(*unit))
        .map_or((bank.size, "KiB"), |(by, name)| (bank.size / by, name));
    CacheBank {
        id: bank.id,
        level: bank.level,
        kind: bank.kind.name().to_owned(),
        size,
        unit: unit.to_owned(),
        cpus: format_cpu_list(&bank.cpus),
    }
}

fn secmodels(host: &place::Facts, owner: &str) -> Vec<Secmodel> {
    let none = Secmodel {
        model: "none".to_owned(),
        doi: DOI.to_owned(),
        baselabels: Vec::new(),
    };
    if host.scope == Scope::Session {
        return vec![none];
    }
    let label = |kind: &str| Baselabel {
        kind: kind.to_owned(),
        label: owner.to_owned(),
    };
    vec![
        none,
        Secmodel {
            model: "dac".to_owned(),
            doi: DOI.to_owned(),
            baselabels: vec![label("kvm"), label("qemu")],
        },
    ]
}

fn guest(emulator: &Emulator) -> Guest {
    let caps = &emulator.caps;
    let domain = |accel: Accel| {
        caps.accel(accel).map(|_| GuestDomain {
            kind: accel.virt_type().to_owned(),
        })
    };
    let machines = caps
        .accel(caps.preferred_accel())
        .map(|a| a.machines.as_slice())
        .unwrap_or_default();
    Guest {
        os_type: "hvm".to_owned(),
        arch: GuestArch {
            name: emulator.arch.to_owned(),
            wordsize: emulator.word_size,
            emulator: emulator.path.clone(),
            machines: machines.iter().flat_map(machine).collect(),
            domains: [Accel::Tcg, Accel::Kvm].into_iter().filter_map(domain).collect(),
        },
        features: features(emulator),
    }
}

/// A machine type, and its short name after it.
fn machine(machine: &qemu_plan::caps::Machine) -> impl Iterator<Item = GuestMachine> + use<> {
    let max_cpus = (machine.max_cpus > 0).then_some(machine.max_cpus);
    let deprecated = machine.deprecated.then_some(domxml::devices::YesNo::Yes);
    let own = GuestMachine {
        canonical: None,
        max_cpus,
        deprecated,
        name: machine.name.clone(),
    };
    let short = machine.alias.clone().map(|alias| GuestMachine {
        canonical: Some(machine.name.clone()),
        name: alias,
        ..own.clone()
    });
    [Some(own), short].into_iter().flatten()
}

fn features(emulator: &Emulator) -> GuestFeatures {
    let x86 = matches!(emulator.arch, "i686" | "x86_64");
    let has_models = emulator
        .caps
        .accel(emulator.caps.preferred_accel())
        .is_some_and(|a| !a.cpus.is_empty());
    GuestFeatures {
        pae: emulator.arch == "i686",
        nonpae: emulator.arch == "i686",
        acpi: (x86 || emulator.arch == "aarch64").then_some(Toggle::ON),
        apic: x86.then_some(Toggle::FIXED),
        cpuselection: has_models,
        deviceboot: true,
        disksnapshot: Some(Toggle::FIXED),
        external_snapshot: true,
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
