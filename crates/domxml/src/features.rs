//! `<features>`: what the machine has that is not a device.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::Xml;

use crate::devices::common::{OnOff, YesNo, words};
use crate::units::{Kib, PrettyBytes, Signed};

words! {
    /// Whether Hyper-V enlightenments are listed or all of the host's.
    HypervMode { Custom "custom", Passthrough "passthrough" }
    /// Who emulates the I/O APIC.
    IoapicDriver { Qemu "qemu", Kvm "kvm" }
    /// Interrupt controller of ARM.
    GicVersion { V2 "2", V3 "3", Host "host" }
    /// Whether the page table can be resized.
    HptResizing { Enabled "enabled", Disabled "disabled", Required "required" }
    /// What an unknown MSR does.
    MsrsUnknown { Ignore "ignore", Fault "fault" }
    /// Capability policy of a container.
    CapabilitiesPolicy { Default "default", Allow "allow", Deny "deny" }
    /// Cache flush on privilege change.
    Cfpc { Broken "broken", Workaround "workaround", Fixed "fixed" }
    /// Speculation barrier.
    Sbbc { Broken "broken", Workaround "workaround", Fixed "fixed" }
    /// Indirect branch speculation.
    Ibs {
        Broken "broken", Workaround "workaround", FixedIbs "fixed-ibs", FixedCcd "fixed-ccd",
        FixedNa "fixed-na",
    }
    /// How Xen passes devices through.
    XenPassthroughMode { Default "default", SyncPt "sync_pt", SharePt "share_pt" }
    /// Interrupt architecture of RISC-V.
    AiaMode { None "none", Aplic "aplic", AplicImsic "aplic-imsic" }
}

/// `<features>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    #[xml(flag)]
    pub acpi: bool,
    #[xml(child, keep_empty)]
    pub apic: Option<Apic>,
    #[xml(flag)]
    pub pae: bool,
    #[xml(child)]
    pub hap: Option<Switch>,
    #[xml(flag)]
    pub viridian: bool,
    #[xml(flag)]
    pub privnet: bool,
    #[xml(child, paired)]
    pub hyperv: Option<Hyperv>,
    #[xml(child, paired)]
    pub kvm: Option<Kvm>,
    #[xml(child)]
    pub pvspinlock: Option<Switch>,
    #[xml(attr = "policy", wrap = "capabilities")]
    pub capabilities: Option<CapabilitiesPolicy>,
    #[xml(child)]
    pub pmu: Option<Switch>,
    #[xml(child)]
    pub vmport: Option<Switch>,
    #[xml(child, keep_empty)]
    pub gic: Option<Gic>,
    #[xml(child)]
    pub smm: Option<Smm>,
    #[xml(attr = "driver", wrap = "ioapic")]
    pub ioapic: Option<IoapicDriver>,
    #[xml(child, keep_empty)]
    pub hpt: Option<Hpt>,
    #[xml(child)]
    pub vmcoreinfo: Option<Switch>,
    #[xml(child)]
    pub htm: Option<Switch>,
    #[xml(child = "nested-hv")]
    pub nested_hv: Option<Switch>,
    #[xml(attr = "unknown", wrap = "msrs")]
    pub msrs: Option<MsrsUnknown>,
    #[xml(child = "ccf-assist")]
    pub ccf_assist: Option<Switch>,
    #[xml(child, paired)]
    pub xen: Option<Xen>,
    #[xml(attr = "value", wrap = "cfpc")]
    pub cfpc: Option<Cfpc>,
    #[xml(attr = "value", wrap = "sbbc")]
    pub sbbc: Option<Sbbc>,
    #[xml(attr = "value", wrap = "ibs")]
    pub ibs: Option<Ibs>,
    #[xml(child)]
    pub tcg: Option<Tcg>,
    #[xml(child = "async-teardown")]
    pub async_teardown: Option<AsyncTeardown>,
    #[xml(child)]
    pub ras: Option<Switch>,
    #[xml(child)]
    pub ps2: Option<Switch>,
    #[xml(attr = "value", wrap = "aia")]
    pub aia: Option<AiaMode>,
}

/// A feature that is on unless it says otherwise.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    #[xml(attr, default = "OnOff::On", always)]
    pub state: OnOff,
}

/// A feature that must say its state.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    #[xml(attr)]
    pub state: OnOff,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apic {
    /// End of interrupt without an exit.
    #[xml(attr)]
    pub eoi: Option<OnOff>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gic {
    #[xml(attr)]
    pub version: Option<GicVersion>,
}

/// `<hyperv>`: enlightenments.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Hyperv {
    #[xml(attr, default, always)]
    pub mode: HypervMode,
    #[xml(child)]
    pub relaxed: Option<State>,
    #[xml(child)]
    pub vapic: Option<State>,
    #[xml(child)]
    pub spinlocks: Option<HypervSpinlocks>,
    #[xml(child)]
    pub vpindex: Option<State>,
    #[xml(child)]
    pub runtime: Option<State>,
    #[xml(child)]
    pub synic: Option<State>,
    #[xml(child)]
    pub stimer: Option<HypervStimer>,
    #[xml(child)]
    pub reset: Option<State>,
    #[xml(child)]
    pub vendor_id: Option<HypervVendorId>,
    #[xml(child)]
    pub frequencies: Option<State>,
    #[xml(child)]
    pub reenlightenment: Option<State>,
    #[xml(child)]
    pub tlbflush: Option<HypervTlbflush>,
    #[xml(child)]
    pub ipi: Option<State>,
    #[xml(child)]
    pub evmcs: Option<State>,
    #[xml(child)]
    pub avic: Option<State>,
    #[xml(child)]
    pub emsr_bitmap: Option<State>,
    #[xml(child)]
    pub xmm_input: Option<State>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HypervSpinlocks {
    #[xml(attr)]
    pub state: OnOff,
    /// At least 4095.
    #[xml(attr, format = "Signed")]
    pub retries: Option<u32>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HypervStimer {
    #[xml(attr)]
    pub state: OnOff,
    #[xml(child)]
    pub direct: Option<State>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HypervVendorId {
    #[xml(attr)]
    pub state: OnOff,
    /// At most 12 characters.
    #[xml(attr)]
    pub value: Option<String>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HypervTlbflush {
    #[xml(attr)]
    pub state: OnOff,
    #[xml(child)]
    pub direct: Option<State>,
    #[xml(child)]
    pub extended: Option<State>,
}

/// `<kvm>`.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kvm {
    #[xml(child)]
    pub hidden: Option<State>,
    #[xml(child = "hint-dedicated")]
    pub hint_dedicated: Option<State>,
    #[xml(child = "poll-control")]
    pub poll_control: Option<State>,
    #[xml(child = "pv-ipi")]
    pub pv_ipi: Option<State>,
    #[xml(child = "dirty-ring")]
    pub dirty_ring: Option<DirtyRing>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtyRing {
    #[xml(attr)]
    pub state: OnOff,
    /// Entries: a power of two from 1024 to 65536.
    #[xml(attr)]
    pub size: Option<u32>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Smm {
    #[xml(attr, default = "OnOff::On", always)]
    pub state: OnOff,
    #[xml(child, blank)]
    pub tseg: Option<PrettyBytes>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hpt {
    #[xml(attr)]
    pub resizing: Option<HptResizing>,
    #[xml(child, blank)]
    pub maxpagesize: Option<Kib>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xen {
    #[xml(child)]
    pub e820_host: Option<State>,
    #[xml(child)]
    pub passthrough: Option<XenPassthrough>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XenPassthrough {
    #[xml(attr)]
    pub state: OnOff,
    #[xml(attr)]
    pub mode: Option<XenPassthroughMode>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcg {
    #[xml(child = "tb-cache", blank)]
    pub tb_cache: Option<Kib>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsyncTeardown {
    #[xml(attr, default = "YesNo::Yes", always)]
    pub enabled: YesNo,
}
