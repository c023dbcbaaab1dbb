//! Identity, life cycle, clock, CPU placement: the parts of a document that no device has.

use domxml::clock::{Adjustment, Clock, ClockBasis, ClockOffset, LifecycleAction};
use domxml::devices::{IommuModel, OnOff};
use domxml::features::IoapicDriver;
use domxml::security::SeclabelType;
use domxml::tuning::{NumaMemory, NumaMode, NumaTune, Placement, Vcpu};
use domxml::{Bitmap, Domain};

use super::{Config, Ids};
use crate::error::{Error, Result};

/// Checks the name, and makes up a UUID for a guest without one.
pub(super) fn identify(def: &mut Domain, ids: &mut dyn Ids) -> Result<()> {
    if def.name.contains('/') {
        return Err(Error::xml(format!("name {} cannot contain '/'", def.name)));
    }
    if def.uuid.is_none() {
        def.uuid = Some(ids.uuid());
    }
    def.title = def.title.take().filter(|t| !t.is_empty());
    def.description = def.description.take().filter(|t| !t.is_empty());
    Ok(())
}

/// Fills in what follows an end of the guest, its clock and the placement of its CPUs.
pub(super) fn fill(def: &mut Domain, config: &Config) -> Result<()> {
    def.on_poweroff.get_or_insert(LifecycleAction::Destroy);
    def.on_reboot.get_or_insert(LifecycleAction::Restart);
    def.on_crash.get_or_insert(LifecycleAction::Destroy);
    fill_clock(def.clock.get_or_insert_with(Clock::default));
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
}

/// vCPUs above 255 need interrupts that only the I/O MMU of QEMU's own APIC can deliver.
pub(super) fn fill_iommu(def: &mut Domain) {
    let many = def.vcpu.as_ref().is_some_and(|v| v.count > 255);
    let Some(iommu) = def
        .devices
        .iommu
        .as_mut()
        .filter(|i| i.model == IommuModel::Intel)
    else {
        return;
    };
    if many {
        iommu
            .driver
            .get_or_insert_default()
            .eim
            .get_or_insert(OnOff::On);
    }
    let Some(driver) = &mut iommu.driver else {
        return;
    };
    if driver.eim == Some(OnOff::On) {
        driver.intremap.get_or_insert(OnOff::On);
    }
    if driver.intremap == Some(OnOff::On) {
        def.features
            .get_or_insert_default()
            .ioapic
            .get_or_insert(IoapicDriver::Qemu);
    }
}

fn fill_clock(clock: &mut Clock) {
    if clock.offset == ClockOffset::Variable {
        clock.adjustment.get_or_insert(Adjustment::Seconds(0));
        clock.basis.get_or_insert(ClockBasis::Utc);
    }
}

fn fill_vcpu(vcpu: &mut Vcpu) -> Result<()> {
    if vcpu.count == 0 {
        return Err(Error::xml("invalid maximum number of vCPUs '0'"));
    }
    if vcpu.current.is_some_and(|c| c > vcpu.count) {
        let (current, count) = (vcpu.current.unwrap_or(0), vcpu.count);
        return Err(Error::xml(format!(
            "maxvcpus must not be less than current vcpus ({count} < {current})"
        )));
    }
    vcpu.current = vcpu.current.filter(|c| *c != vcpu.count && *c != 0);
    if *vcpu.placement.get_or_insert(Placement::Static) == Placement::Auto {
        vcpu.cpuset = None;
    }
    Ok(())
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
    if memory.placement.is_none() && memory.nodeset.is_none() && auto {
        memory.placement = Some(Placement::Auto);
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
