//! The guest's CPU: model, and what is checked of it at start.

use domxml::Domain;
use domxml::cpu::{Cpu, CpuCheck, CpuFallback, CpuFeature, CpuMatch, CpuMode, CpuModel, FeaturePolicy};
use domxml::devices::OnOff;

use crate::caps::{Accel, Caps, Flag};
use crate::error::Result;
use crate::facts::accel_of;

/// Fills in mode, model, match and check. A guest that says nothing gets the machine's default model, written down.
pub(super) fn fill(def: &mut Domain, caps: &Caps) -> Result<()> {
    let accel = accel_of(def);
    let machine = def
        .os
        .kind
        .as_ref()
        .and_then(|t| t.machine.clone())
        .unwrap_or_default();
    let default = accel.and_then(|a| default_model(caps, a, &machine));
    let cpu = def.cpu.get_or_insert_with(Cpu::default);
    for feature in &mut cpu.features {
        feature.policy.get_or_insert(FeaturePolicy::Require);
    }
    let named = cpu
        .model
        .as_ref()
        .is_some_and(|m| m.name.as_deref().is_some_and(|n| !n.is_empty()));
    if !named && matches!(cpu.mode, None | Some(CpuMode::Custom)) {
        let Some(model) = default else {
            drop_empty(def);
            return Ok(());
        };
        use_default(cpu, model);
    }
    complete_vector_lengths(cpu);
    match *cpu.mode.get_or_insert(CpuMode::Custom) {
        CpuMode::Custom => fill_custom(cpu, accel),
        CpuMode::HostModel => fill_host_model(cpu),
        CpuMode::HostPassthrough => fill_host(cpu, caps),
        CpuMode::Maximum => fill_maximum(cpu),
    }
    Ok(())
}

/// Lengths of scalable vectors need those vectors.
fn complete_vector_lengths(cpu: &mut Cpu) {
    let is_length = |f: &CpuFeature| f.name.len() > SCALABLE.len() && f.name.starts_with(SCALABLE);
    if !cpu.features.iter().any(is_length) {
        return;
    }
    match cpu.features.iter_mut().find(|f| f.name == SCALABLE) {
        Some(sve) if matches!(sve.policy, Some(FeaturePolicy::Disable | FeaturePolicy::Forbid)) => {}
        Some(sve) => sve.policy = Some(FeaturePolicy::Require),
        None => cpu.features.push(CpuFeature {
            policy: Some(FeaturePolicy::Require),
            name: SCALABLE.to_owned(),
        }),
    }
}

/// The feature of scalable vectors.
const SCALABLE: &str = "sve";

/// The machine's default CPU by its model name: `qemu64-x86_64-cpu` is `qemu64`.
fn default_model(caps: &Caps, accel: Accel, machine: &str) -> Option<String> {
    let typename = caps.machine(accel, machine)?.default_cpu.as_deref()?;
    let by_type = caps
        .accel(accel)?
        .cpus
        .iter()
        .find(|c| c.typename == typename)
        .map(|c| c.name.clone());
    by_type.or_else(|| Some(typename.strip_suffix("-cpu")?.rsplit_once('-')?.0.to_owned()))
}

fn use_default(cpu: &mut Cpu, model: String) {
    cpu.mode = Some(CpuMode::Custom);
    cpu.match_ = Some(CpuMatch::Exact);
    cpu.check = Some(CpuCheck::None);
    cpu.model = Some(CpuModel {
        fallback: Some(CpuFallback::Forbid),
        name: Some(model),
        ..CpuModel::default()
    });
}

fn fill_custom(cpu: &mut Cpu, accel: Option<Accel>) {
    cpu.match_.get_or_insert(CpuMatch::Exact);
    // What TCG gives is not known before the guest runs, so there is nothing to check.
    let check = if accel == Some(Accel::Kvm) {
        CpuCheck::Partial
    } else {
        CpuCheck::None
    };
    cpu.check.get_or_insert(check);
    if let Some(model) = &mut cpu.model {
        model.fallback.get_or_insert(CpuFallback::Allow);
    }
}

/// The model is found when the guest starts: until then only the wish is kept.
fn fill_host_model(cpu: &mut Cpu) {
    cpu.match_ = None;
    cpu.check.get_or_insert(CpuCheck::Partial);
    if let Some(model) = &mut cpu.model {
        let named = model.name.as_deref().is_some_and(|n| !n.is_empty());
        model.fallback = model.fallback.filter(|_| named);
    }
    cpu.model = cpu
        .model
        .take()
        .filter(|m| m.name.is_some() || m.vendor_id.is_some());
}

fn fill_maximum(cpu: &mut Cpu) {
    cpu.match_ = None;
    cpu.check.get_or_insert(CpuCheck::None);
    cpu.model = None;
}

fn fill_host(cpu: &mut Cpu, caps: &Caps) {
    fill_maximum(cpu);
    let migratable = if caps.has(Flag::CpuMigratable) {
        OnOff::On
    } else {
        OnOff::Off
    };
    cpu.migratable.get_or_insert(migratable);
}

fn drop_empty(def: &mut Domain) {
    def.cpu = def.cpu.take().filter(|c| *c != Cpu::default());
}
