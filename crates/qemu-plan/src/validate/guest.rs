//! A completed document and what it is held against, with what many rules ask of it.

use domxml::Domain;
use domxml::clock::LifecycleAction;
use domxml::cpu::{Cell, MemAccess};
use domxml::devices::{DeviceSeclabel, OnOff, YesNo};
use domxml::tuning::MemoryAccess;

use crate::caps::{Accel, Caps};
use crate::facts::{MachineKind, accel_of};

/// A completed document and what it is held against.
pub(crate) struct Guest<'a> {
    pub(crate) def: &'a Domain,
    pub(crate) caps: &'a Caps,
    pub(crate) machine: MachineKind,
    pub(crate) accel: Accel,
}

/// More I/O threads than this are not looked at.
const MAX_IOTHREADS: u32 = 4096;

impl<'a> Guest<'a> {
    pub(crate) fn new(def: &'a Domain, caps: &'a Caps) -> Self {
        let machine = def.os.kind.as_ref().and_then(|t| t.machine.as_deref());
        Self {
            def,
            caps,
            machine: MachineKind::of(machine.unwrap_or_default()),
            accel: accel_of(def).unwrap_or(Accel::Tcg),
        }
    }

    pub(super) fn machine_name(&self) -> &'a str {
        let kind = self.def.os.kind.as_ref();
        kind.and_then(|t| t.machine.as_deref()).unwrap_or_default()
    }

    pub(super) fn arch(&self) -> &'a str {
        let kind = self.def.os.kind.as_ref();
        kind.and_then(|t| t.arch.as_deref()).unwrap_or_default()
    }

    pub(super) fn emulator(&self) -> &'a str {
        self.def.devices.emulator.as_deref().unwrap_or_default()
    }

    pub(super) fn is_x86(&self) -> bool {
        matches!(self.arch(), "i686" | "x86_64")
    }

    pub(super) fn is_s390(&self) -> bool {
        matches!(self.arch(), "s390" | "s390x")
    }

    pub(super) fn is_ppc64(&self) -> bool {
        matches!(self.arch(), "ppc64" | "ppc64le")
    }

    pub(super) fn is_pseries(&self) -> bool {
        let name = self.machine_name();
        self.is_ppc64() && (name == "pseries" || name.starts_with("pseries-"))
    }

    pub(super) fn is_arm_virt(&self) -> bool {
        self.is_virt_of(&["armv6l", "armv7l", "aarch64"])
    }

    /// Whether the machine is the one without hardware behind it, of one of these architectures.
    pub(super) fn is_virt_of(&self, arches: &[&str]) -> bool {
        let name = self.machine_name();
        arches.contains(&self.arch()) && (name == "virt" || name.starts_with("virt-"))
    }

    pub(super) fn cells(&self) -> &'a [Cell] {
        let numa = self.def.cpu.as_ref().and_then(|c| c.numa.as_ref());
        numa.map_or(&[], |n| n.cells.as_slice())
    }

    /// Whether another process can map the guest's memory.
    pub(super) fn shares_memory(&self) -> bool {
        let all = self.def.memory_backing.as_ref().and_then(|m| m.access) == Some(MemoryAccess::Shared);
        let shared = |cell: &Cell| match cell.mem_access {
            Some(access) => access == MemAccess::Shared,
            None => all,
        };
        match self.cells() {
            [] => all,
            cells => cells.iter().all(shared),
        }
    }

    /// I/O threads by id: those listed, then the lowest free ones up to their number.
    pub(super) fn iothreads(&self) -> Vec<u32> {
        iothreads(self.def)
    }

    pub(super) fn ps2_is_off(&self) -> bool {
        let ps2 = self.def.features.as_ref().and_then(|f| f.ps2);
        ps2.is_some_and(|p| p.state == OnOff::Off)
    }

    /// Whether a label of an image or a socket overrides one that must not be changed.
    pub(super) fn forbids_relabel(&self, labels: &[DeviceSeclabel]) -> bool {
        let fixed = |label: &DeviceSeclabel| {
            let mut of_guest = self.def.seclabels.iter();
            of_guest.any(|g| g.model == label.model && g.relabel == Some(YesNo::No))
        };
        labels.iter().any(fixed)
    }

    /// Whether the guest goes on when it restarts.
    pub(super) fn may_reboot(&self) -> bool {
        self.def.on_reboot != Some(LifecycleAction::Destroy)
    }
}

/// I/O threads by id: those listed, then the lowest free ones up to their number.
pub(super) fn iothreads(def: &Domain) -> Vec<u32> {
    let listed = def.iothreadids.iter().flat_map(|i| i.all.iter());
    let mut ids: Vec<u32> = listed.map(|t| t.id).collect();
    let count = def.iothreads.unwrap_or(0).min(MAX_IOTHREADS) as usize;
    let mut next = 1;
    while ids.len() < count {
        if !ids.contains(&next) {
            ids.push(next);
        }
        next += 1;
    }
    ids
}
