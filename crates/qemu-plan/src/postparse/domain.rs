//! Identity, life cycle, clock, CPU placement: the parts of a document that no device has.

use domxml::clock::{Adjustment, Clock, ClockBasis, ClockOffset, LifecycleAction};
use domxml::devices::{Iommu, IommuModel, OnOff, YesNo};
use domxml::features::IoapicDriver;
use domxml::security::SeclabelType;
use domxml::tuning::{IoThread, NumaMemory, NumaMode, NumaTune, Placement, Vcpu};
use domxml::{Bitmap, Domain};

use super::{Config, Ids};
use crate::error::{Error, Result};
use crate::facts::MachineKind;

/// Makes up a UUID for a guest without one.
pub(super) fn identify(def: &mut Domain, ids: &mut dyn Ids) {
    if let Some(genid) = def.genid.as_mut().filter(|g| g.value.is_none()) {
        genid.value = Some(ids.uuid());
    }
    if def.uuid.is_none() {
        def.uuid = smbios_uuid(def).or_else(|| Some(ids.uuid()));
    }
    def.sanitize_metadata();
    def.title = def.title.take().filter(|t| !t.is_empty());
    def.description = def.description.take().filter(|t| !t.is_empty());
}

/// The UUID that the guest's firmware is told.
fn smbios_uuid(def: &Domain) -> Option<uuid::Uuid> {
    let mut systems = def.sysinfo.iter().filter_map(|i| i.system.as_ref());
    uuid::Uuid::parse_str(systems.find_map(|s| s.get("uuid"))?).ok()
}

/// Fills in what follows an end of the guest, its clock and the placement of its CPUs.
pub(super) fn fill(def: &mut Domain, config: &Config) -> Result<()> {
    def.on_poweroff.get_or_insert(LifecycleAction::Destroy);
    def.on_reboot.get_or_insert(LifecycleAction::Restart);
    def.on_crash.get_or_insert(LifecycleAction::Destroy);
    fill_clock(def.clock.get_or_insert_with(Clock::default));
    fill_vcpus(def);
    fill_placement(def);
    fill_iothreads(def);
    fill_vcpu(def.vcpu.get_or_insert_with(|| Vcpu {
        count: 1,
        ..Vcpu::default()
    }))?;
    trim_resctrl(def);
    fill_seclabel(def, config);
    for info in &mut def.sysinfo {
        info.base_boards.retain(|b| !b.entries.is_empty());
    }
    fill_numatune(def)
}

/// Caches and bandwidth are for CPUs that there are.
fn trim_resctrl(def: &mut Domain) {
    let count = def.vcpu.as_ref().map_or(1, |v| v.count);
    let Some(tune) = &mut def.cputune else { return };
    let trim = |vcpus: &mut Bitmap| {
        let beyond: Vec<u32> = vcpus.iter().filter(|v| *v >= count).collect();
        beyond.into_iter().for_each(|v| vcpus.remove(v));
        !vcpus.is_empty()
    };
    tune.vcpupin.retain(|p| p.vcpu < count);
    tune.cachetune.retain_mut(|c| trim(&mut c.vcpus));
    tune.memorytune.retain_mut(|m| trim(&mut m.vcpus));
}

/// A label that names no model is one of the host's first model, which may be that there is none.
fn fill_seclabel(def: &mut Domain, config: &Config) {
    if let [label] = def.seclabels.as_mut_slice()
        && label.model.is_none()
    {
        label.model = Some(config.security_model.clone());
        if config.security_model == "none" {
            (label.kind, label.relabel) = (Some(SeclabelType::None), None);
        }
    }
    for label in &mut def.seclabels {
        if label.kind == Some(SeclabelType::Dynamic) {
            label.relabel.get_or_insert(YesNo::Yes);
        }
    }
}

/// vCPUs above 255 need interrupts that only the I/O MMU of QEMU's own APIC can deliver.
pub(super) fn fill_iommu(def: &mut Domain, kind: MachineKind) {
    let many = def.vcpu.as_ref().is_some_and(|v| v.count > 255);
    if many && kind == MachineKind::Q35 && def.devices.iommu.is_none() {
        def.devices.iommu = Some(Iommu::default());
    }
    let Some(iommu) = def
        .devices
        .iommu
        .as_mut()
        .filter(|i| i.model == IommuModel::Intel)
    else {
        return;
    };
    if many {
        let driver = iommu.driver.get_or_insert_default();
        driver.intremap.get_or_insert(OnOff::On);
        driver.eim.get_or_insert(OnOff::On);
    }
    let Some(driver) = &mut iommu.driver else {
        return;
    };
    if driver.intremap == Some(OnOff::On) {
        def.features
            .get_or_insert_default()
            .ioapic
            .get_or_insert(IoapicDriver::Qemu);
    }
}

fn fill_clock(clock: &mut Clock) {
    // A fixed offset with so many seconds on top is a variable one.
    let basis = match clock.offset {
        ClockOffset::Utc => Some(ClockBasis::Utc),
        ClockOffset::Localtime => Some(ClockBasis::Localtime),
        _ => None,
    };
    if let (Some(basis), Some(Adjustment::Seconds(_))) = (basis, clock.adjustment) {
        clock.offset = ClockOffset::Variable;
        clock.basis = Some(basis);
    }
    if clock.offset == ClockOffset::Variable {
        clock.adjustment.get_or_insert(Adjustment::Seconds(0));
        clock.basis.get_or_insert(ClockBasis::Utc);
    }
}

fn fill_vcpu(vcpu: &mut Vcpu) -> Result<()> {
    if vcpu.count == 0 {
        return Err(Error::internal("CPU IDs in <numa> exceed the <vcpu> count"));
    }
    if vcpu.current.is_some_and(|c| c > vcpu.count) {
        return Err(Error::conflicting(
            "maximum vCPU count must not be less than current vCPU count",
        ));
    }
    vcpu.current = vcpu.current.filter(|c| *c != vcpu.count);
    if *vcpu.placement.get_or_insert(Placement::Static) == Placement::Auto {
        vcpu.cpuset = None;
    }
    Ok(())
}

/// CPUs listed one by one say how many there are at start.
fn fill_vcpus(def: &mut Domain) {
    let Some(all) = def.vcpus.as_ref().filter(|v| !v.all.is_empty()) else {
        return;
    };
    let enabled = all.all.iter().filter(|v| v.enabled.is_yes()).count();
    if let (Some(vcpu), Ok(enabled)) = (&mut def.vcpu, u32::try_from(enabled)) {
        vcpu.current = Some(enabled);
    }
}

/// CPUs that are there stay, others can come, unless the document says otherwise.
pub(super) fn fill_hotplug(def: &mut Domain) {
    for state in def.vcpus.iter_mut().flat_map(|v| &mut v.all) {
        let default = YesNo::from(!state.enabled.is_yes());
        state.hotpluggable.get_or_insert(default);
    }
}

/// I/O threads are counted or listed; once one is listed, all are.
fn fill_iothreads(def: &mut Domain) {
    let Some(ids) = def.iothreadids.as_mut().filter(|i| !i.all.is_empty()) else {
        return;
    };
    let listed = u32::try_from(ids.all.len()).unwrap_or(u32::MAX);
    let count = def
        .iothreads
        .unwrap_or(0)
        .clamp(listed, listed.max(MAX_IOTHREADS));
    let mut next = 1;
    while u32::try_from(ids.all.len()).is_ok_and(|n| n < count) {
        if !ids.all.iter().any(|t| t.id == next) {
            ids.all.push(IoThread {
                id: next,
                ..IoThread::default()
            });
        }
        next += 1;
    }
    def.iothreads = Some(count);
}

/// More I/O threads than this are not made up.
const MAX_IOTHREADS: u32 = 4096;

/// Automatic placement of memory means automatic placement of CPUs that have no set, whatever is said of them.
fn fill_placement(def: &mut Domain) {
    let auto = |n: &NumaTune| n.memory.as_ref().and_then(|m| m.placement) == Some(Placement::Auto);
    if !def.numatune.as_ref().is_some_and(auto) {
        return;
    }
    let vcpu = def.vcpu.get_or_insert_with(|| Vcpu {
        count: 1,
        ..Vcpu::default()
    });
    if vcpu.cpuset.is_none() {
        vcpu.placement = Some(Placement::Auto);
    }
}

/// Automatic placement of CPUs means automatic placement of memory, and nodes given as well are ignored.
fn fill_numatune(def: &mut Domain) -> Result<()> {
    let auto = def.vcpu.as_ref().and_then(|v| v.placement) == Some(Placement::Auto);
    if auto && def.numatune.as_ref().is_none_or(|n| n.memory.is_none()) {
        let memory = NumaMemory {
            placement: Some(Placement::Auto),
            ..NumaMemory::default()
        };
        def.numatune.get_or_insert_with(NumaTune::default).memory = Some(memory);
    }
    let Some(memory) = def.numatune.as_mut().and_then(|n| n.memory.as_mut()) else {
        return Ok(());
    };
    memory.mode.get_or_insert(NumaMode::Strict);
    if memory.placement.is_none() && memory.nodeset.is_none() {
        memory.placement = Some(if auto { Placement::Auto } else { Placement::Static });
    }
    match memory.placement {
        Some(Placement::Auto) => memory.nodeset = None,
        Some(Placement::Static) if memory.nodeset.is_none() => {
            return Err(Error::conflicting(
                "nodeset for NUMA memory tuning must be set if 'placement' is 'static'",
            ));
        }
        _ => memory.placement = None,
    }
    Ok(())
}

/// Whether the PS/2 controller is switched off.
pub(super) fn ps2_is_off(def: &Domain) -> bool {
    def.features
        .as_ref()
        .and_then(|f| f.ps2)
        .is_some_and(|p| p.state == OnOff::Off)
}
