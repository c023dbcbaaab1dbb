//! `<capabilities>`: the host, and which guests it can run. Written only.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{FormatFlags, Writer, Xml};

use crate::cpu::{MaxPhysAddr, Sibling, Topology};
use crate::devices::common::{OnOff, YesNo};

/// `<capabilities>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub host: Host,
    pub guests: Vec<Guest>,
}

impl Capabilities {
    /// libvirt's bytes: sections are set apart by blank lines.
    #[must_use]
    pub fn format(&self) -> String {
        let mut text = "<capabilities>\n\n".to_owned();
        text.push_str(&section("host", &self.host));
        for guest in &self.guests {
            text.push_str(&section("guest", guest));
        }
        text.push_str("</capabilities>\n");
        text
    }
}

fn section<T: Xml>(name: &str, value: &T) -> String {
    let mut writer = Writer::indented(FormatFlags::NONE, 1);
    writer.element(name, value);
    writer.finish() + "\n"
}

/// `<host>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    #[xml(text_child)]
    pub uuid: Option<String>,
    #[xml(child)]
    pub cpu: HostCpu,
    #[xml(child, keep_empty)]
    pub power_management: Option<PowerManagement>,
    #[xml(attr = "support", wrap = "iommu")]
    pub iommu: Option<YesNo>,
    #[xml(child)]
    pub migration_features: Option<MigrationFeatures>,
    #[xml(child)]
    pub topology: Option<HostTopology>,
    #[xml(children = "bank", wrap = "cache")]
    pub caches: Vec<CacheBank>,
    #[xml(children = "secmodel")]
    pub secmodels: Vec<Secmodel>,
}

/// `<cpu>` of the host.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCpu {
    #[xml(text_child)]
    pub arch: Option<String>,
    #[xml(text_child)]
    pub model: Option<String>,
    #[xml(text_child)]
    pub vendor: Option<String>,
    #[xml(attr = "version", wrap = "microcode")]
    pub microcode: Option<u32>,
    #[xml(child)]
    pub signature: Option<Signature>,
    #[xml(child)]
    pub counter: Option<Counter>,
    #[xml(child)]
    pub topology: Option<Topology>,
    #[xml(child)]
    pub maxphysaddr: Option<MaxPhysAddr>,
    #[xml(children = "feature")]
    pub features: Vec<HostFeature>,
    #[xml(children = "pages")]
    pub pages: Vec<Pages>,
}

/// What CPUID says of the make.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    #[xml(attr)]
    pub family: u32,
    #[xml(attr)]
    pub model: u32,
    #[xml(attr)]
    pub stepping: u32,
}

/// A clock of the CPU.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// "tsc".
    #[xml(attr)]
    pub name: String,
    /// Hz.
    #[xml(attr)]
    pub frequency: u64,
    /// Whether a guest can have another frequency.
    #[xml(attr)]
    pub scaling: Option<YesNo>,
}

/// A feature that the CPU has beside its model.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFeature {
    #[xml(attr, missing = "XML error: Invalid CPU feature name")]
    pub name: String,
}

/// Pages of one size: that there are such, or how many.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// "KiB".
    #[xml(attr)]
    pub unit: String,
    #[xml(attr)]
    pub size: u64,
    #[xml(text)]
    pub count: Option<u64>,
}

/// Ways to put the host to sleep.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerManagement {
    #[xml(flag)]
    pub suspend_mem: bool,
    #[xml(flag)]
    pub suspend_disk: bool,
    #[xml(flag)]
    pub suspend_hybrid: bool,
}

/// How guests can leave the host.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationFeatures {
    #[xml(flag)]
    pub live: bool,
    #[xml(text_child = "uri_transport", wrap = "uri_transports")]
    pub uri_transports: Vec<String>,
}

/// `<topology>` of the host.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTopology {
    #[xml(child)]
    pub cells: HostCells,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCells {
    #[xml(attr)]
    pub num: u32,
    #[xml(children = "cell")]
    pub cells: Vec<HostCell>,
}

/// A NUMA cell.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCell {
    #[xml(attr)]
    pub id: u32,
    #[xml(child)]
    pub memory: Option<CellMemory>,
    #[xml(children = "pages")]
    pub pages: Vec<Pages>,
    #[xml(children = "sibling", wrap = "distances")]
    pub distances: Vec<Sibling>,
    #[xml(child)]
    pub cpus: CellCpus,
}

/// Memory of a cell.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CellMemory {
    /// "KiB".
    #[xml(attr)]
    pub unit: String,
    #[xml(text)]
    pub amount: u64,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CellCpus {
    #[xml(attr)]
    pub num: u32,
    #[xml(children = "cpu")]
    pub cpus: Vec<CellCpu>,
}

/// A CPU of a cell.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CellCpu {
    #[xml(attr)]
    pub id: u32,
    #[xml(attr)]
    pub socket_id: i64,
    #[xml(attr)]
    pub die_id: i64,
    #[xml(attr)]
    pub cluster_id: i64,
    #[xml(attr)]
    pub core_id: i64,
    /// As `0-1`.
    #[xml(attr)]
    pub siblings: String,
}

/// A cache that CPUs share.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheBank {
    #[xml(attr)]
    pub id: u32,
    #[xml(attr)]
    pub level: u32,
    /// "both", "code" or "data".
    #[xml(attr = "type")]
    pub kind: String,
    #[xml(attr)]
    pub size: u64,
    #[xml(attr)]
    pub unit: String,
    /// As `0-1`.
    #[xml(attr)]
    pub cpus: String,
}

/// A security driver.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Secmodel {
    #[xml(text_child)]
    pub model: String,
    #[xml(text_child)]
    pub doi: String,
    #[xml(children = "baselabel")]
    pub baselabels: Vec<Baselabel>,
}

/// The label that guests of a type get.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Baselabel {
    #[xml(attr = "type")]
    pub kind: String,
    #[xml(text)]
    pub label: String,
}

/// Guests of one architecture.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    #[xml(text_child)]
    pub os_type: String,
    #[xml(child)]
    pub arch: GuestArch,
    #[xml(child)]
    pub features: GuestFeatures,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestArch {
    #[xml(attr)]
    pub name: String,
    #[xml(text_child)]
    pub wordsize: u32,
    #[xml(text_child)]
    pub emulator: String,
    #[xml(children = "machine")]
    pub machines: Vec<GuestMachine>,
    #[xml(children = "domain")]
    pub domains: Vec<GuestDomain>,
}

/// A machine type, or a short name of one.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestMachine {
    #[xml(attr)]
    pub canonical: Option<String>,
    #[xml(attr = "maxCpus")]
    pub max_cpus: Option<u32>,
    #[xml(attr)]
    pub deprecated: Option<YesNo>,
    #[xml(text)]
    pub name: String,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestDomain {
    /// "kvm" or "qemu".
    #[xml(attr = "type")]
    pub kind: String,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestFeatures {
    #[xml(flag)]
    pub pae: bool,
    #[xml(flag)]
    pub nonpae: bool,
    #[xml(child)]
    pub acpi: Option<Toggle>,
    #[xml(child)]
    pub apic: Option<Toggle>,
    #[xml(flag)]
    pub cpuselection: bool,
    #[xml(flag)]
    pub deviceboot: bool,
    #[xml(child)]
    pub disksnapshot: Option<Toggle>,
    #[xml(flag = "externalSnapshot")]
    pub external_snapshot: bool,
}

/// A feature that may be switched.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toggle {
    #[xml(attr)]
    pub default: OnOff,
    #[xml(attr)]
    pub toggle: YesNo,
}

impl Toggle {
    /// On, and it can be off.
    pub const ON: Self = Self {
        default: OnOff::On,
        toggle: YesNo::Yes,
    };
    /// On for good.
    pub const FIXED: Self = Self {
        default: OnOff::On,
        toggle: YesNo::No,
    };
}
