//! `<domain>`: one guest, in libvirt's output order.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use uuid::Uuid;
use xmlform::{RawXml, Xml};

use crate::clock::{Clock, LifecycleAction, LockFailureAction, Perf, PowerManagement};
use crate::cpu::Cpu;
use crate::devices::common::{OnOff, words};
use crate::devices::{Devices, IoTune};
use crate::features::Features;
use crate::os::{IdMap, Os};
use crate::qemu::QemuNamespace;
use crate::security::{Keywrap, LaunchSecurity, Seclabel};
use crate::sysinfo::Sysinfo;
use crate::tuning::{
    BlockTune, CpuTune, IoThreadIds, IoThreadPool, MemoryBacking, MemoryTune, NumaTune, Resource, Vcpu, Vcpus,
};
use crate::units::{Hyphenated, Kib};

words! {
    /// Hypervisor.
    VirtType {
        Qemu "qemu", Kvm "kvm", Hvf "hvf", Xen "xen", Lxc "lxc", Uml "uml", Openvz "openvz",
        Test "test", Vmware "vmware", Hyperv "hyperv", Vbox "vbox", Phyp "phyp",
        Parallels "parallels", Bhyve "bhyve", Vz "vz", None "none", Kqemu "kqemu",
    }
}

/// One guest.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Domain {
    /// Hypervisor.
    #[xml(
        attr = "type",
        error = "unsupported configuration: invalid domain type {}",
        missing = "internal error: missing domain type attribute"
    )]
    pub kind: VirtType,
    /// Number of the running guest.
    #[xml(attr, when = "live")]
    pub id: Option<i32>,
    #[xml(text_child, default)]
    pub name: String,
    #[xml(text_child, format = "Hyphenated")]
    pub uuid: Option<Uuid>,
    /// Changes whenever the guest may have run before.
    #[xml(child, keep_empty)]
    pub genid: Option<GenId>,
    #[xml(text_child)]
    pub title: Option<String>,
    #[xml(text_child)]
    pub description: Option<String>,
    /// What other programs keep with the guest.
    #[xml(raw)]
    pub metadata: Option<RawXml>,
    /// Up to where memory may be plugged in.
    #[xml(child = "maxMemory", blank)]
    pub max_memory: Option<MaxMemory>,
    /// Memory at start.
    #[xml(child, blank)]
    pub memory: Option<Memory>,
    /// Memory that the balloon leaves.
    #[xml(child = "currentMemory", blank)]
    pub current_memory: Option<Kib>,
    #[xml(child, merge)]
    pub blkiotune: Option<BlockTune>,
    #[xml(child, merge)]
    pub memtune: Option<MemoryTune>,
    #[xml(child = "memoryBacking", merge)]
    pub memory_backing: Option<MemoryBacking>,
    #[xml(child)]
    pub vcpu: Option<Vcpu>,
    #[xml(child, merge)]
    pub vcpus: Option<Vcpus>,
    /// How many I/O threads.
    #[xml(text_child, error = "XML error: invalid iothreads count '{}'")]
    pub iothreads: Option<u32>,
    #[xml(child, merge)]
    pub iothreadids: Option<IoThreadIds>,
    #[xml(child)]
    pub defaultiothread: Option<IoThreadPool>,
    #[xml(children = "throttlegroup", wrap = "throttlegroups", merge)]
    pub throttlegroups: Vec<IoTune>,
    #[xml(child, merge)]
    pub cputune: Option<CpuTune>,
    #[xml(child)]
    pub numatune: Option<NumaTune>,
    #[xml(child)]
    pub resource: Option<Resource>,
    #[xml(children = "sysinfo")]
    pub sysinfo: Vec<Sysinfo>,
    #[xml(text_child)]
    pub bootloader: Option<String>,
    #[xml(text_child)]
    pub bootloader_args: Option<String>,
    #[xml(child, merge)]
    pub os: Os,
    #[xml(child, merge)]
    pub idmap: Option<IdMap>,
    #[xml(child, merge)]
    pub features: Option<Features>,
    #[xml(child)]
    pub cpu: Option<Cpu>,
    #[xml(child, merge)]
    pub clock: Option<Clock>,
    #[xml(
        text_child,
        error = "unsupported configuration: unknown on_poweroff action: {}"
    )]
    pub on_poweroff: Option<LifecycleAction>,
    #[xml(text_child, error = "unsupported configuration: unknown on_reboot action: {}")]
    pub on_reboot: Option<LifecycleAction>,
    #[xml(text_child, error = "unsupported configuration: unknown on_crash action: {}")]
    pub on_crash: Option<LifecycleAction>,
    #[xml(
        text_child,
        error = "unsupported configuration: unknown on_lockfailure action: {}"
    )]
    pub on_lockfailure: Option<LockFailureAction>,
    #[xml(child, merge)]
    pub pm: Option<PowerManagement>,
    #[xml(child, merge)]
    pub perf: Option<Perf>,
    #[xml(child, merge, keep_empty)]
    pub devices: Devices,
    #[xml(children = "seclabel")]
    pub seclabels: Vec<Seclabel>,
    #[xml(child, merge)]
    pub keywrap: Option<Keywrap>,
    #[xml(child = "launchSecurity")]
    pub launch_security: Option<LaunchSecurity>,
    /// Elements of the namespace `qemu`.
    #[xml(flatten)]
    pub qemu: QemuNamespace,
}

/// `<genid>`: empty asks for one to be made.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenId {
    #[xml(
        text,
        format = "Hyphenated",
        error = "internal error: malformed genid element"
    )]
    pub value: Option<Uuid>,
}

/// `<memory>`.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Whether a core dump of QEMU has the guest's memory in it.
    #[xml(attr = "dumpCore")]
    pub dump_core: Option<OnOff>,
    #[xml(flatten)]
    pub size: Kib,
}

/// `<maxMemory>`.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxMemory {
    /// How many memory devices may be plugged in.
    #[xml(attr, blank, error = "XML error: Failed to parse memory slot count")]
    pub slots: Option<u32>,
    #[xml(flatten)]
    pub size: Kib,
}
