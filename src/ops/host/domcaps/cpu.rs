//! The ways in which a guest's CPU can be chosen, and what each would give.

use std::collections::BTreeSet;

use domxml::{
    cpu::{CpuFallback, CpuFeature, CpuModel, FeaturePolicy, MaxPhysAddr, MaxPhysAddrMode},
    devices::YesNo,
    domcaps::{Blocker, Blockers, CpuModeCaps, Enum, Model, Models, NamedModel},
};
use hostinfo::{CpuModels, GuestModel, Place};
use qemu_plan::{
    caps::{self, Accel, Caps, Flag},
    command::host_model,
};

use crate::ops::host::domcaps::Basis;

/// The modes in libvirt's order.
pub(crate) fn modes(basis: &Basis) -> Vec<CpuModeCaps> {
    vec![
        passthrough(basis),
        maximum(basis),
        host_model(basis),
        custom(basis),
    ]
}

fn mode(name: &str, supported: bool) -> CpuModeCaps {
    CpuModeCaps {
        name: name.to_owned(),
        supported: supported.into(),
        ..CpuModeCaps::default()
    }
}

fn passthrough(basis: &Basis) -> CpuModeCaps {
    const NAME: &str = "host-passthrough";
    if basis.accel != Accel::Kvm {
        return mode(NAME, false);
    }
    let migratable = basis
        .caps
        .has(Flag::CpuMigratable)
        .then_some("on")
        .into_iter()
        .chain(["off"]);
    CpuModeCaps {
        enums: vec![Enum::new("hostPassthroughMigratable", migratable)],
        ..mode(NAME, true)
    }
}

fn maximum(basis: &Basis) -> CpuModeCaps {
    let supported = basis.caps.has(Flag::CpuMax);
    let enums = supported.then(|| Enum::new("maximumMigratable", ["on", "off"]));
    CpuModeCaps {
        enums: enums.into_iter().collect(),
        ..mode("maximum", supported)
    }
}

fn host_model(basis: &Basis) -> CpuModeCaps {
    const NAME: &str = "host-model";
    let Some(found) = describe(&basis.caps, basis.accel) else {
        return mode(NAME, false);
    };
    let entry = |policy| {
        move |name: &&str| CpuFeature {
            policy: Some(policy),
            name: (*name).to_owned(),
        }
    };
    let require = found.require.iter().map(entry(FeaturePolicy::Require));
    let bits = basis.host.physical_bits.filter(|_| basis.accel == Accel::Kvm);
    CpuModeCaps {
        model: Some(CpuModel {
            fallback: Some(CpuFallback::Forbid),
            vendor_id: None,
            name: Some(found.model.to_owned()),
        }),
        vendor: found.vendor,
        maxphysaddr: bits.map(|bits| MaxPhysAddr {
            mode: MaxPhysAddrMode::Passthrough,
            bits: None,
            limit: Some(bits),
        }),
        features: require
            .chain(found.disable.iter().map(entry(FeaturePolicy::Disable)))
            .collect(),
        ..mode(NAME, true)
    }
}

/// The model nearest to what QEMU can give a guest here; only for architectures of which libvirt has models.
pub(crate) fn describe(caps: &Caps, accel: Accel) -> Option<GuestModel> {
    let tables = CpuModels::x86();
    let accel = caps.accel(accel)?;
    // A QEMU that can't say what it lacks can't be trusted with features that only registers tell of.
    let registers = caps.has(Flag::CpuUnavailableFeatures);
    let in_register = |name: &str| {
        let feature = tables
            .feature(name)
            .and_then(|number| tables.features.get(number));
        matches!(feature.map(|f| f.place), Some(Place::Msr { .. }))
    };
    let offered = host_model::offered(accel, |property| registers || !in_register(&property.name));
    (!offered.features.is_empty()).then(|| tables.describe_guest(&offered))?
}

/// QEMU's own models, each with what keeps it from running, in QEMU's order and libvirt's names.
pub(crate) fn models(caps: &Caps, accel: Accel) -> Vec<(String, Vec<String>)> {
    let tables = CpuModels::x86();
    let blockers = |m: &caps::CpuModel| {
        m.blockers
            .iter()
            .flatten()
            .map(|name| libvirts(tables, name).to_owned())
            .collect()
    };
    caps.accel(accel)
        .iter()
        .flat_map(|accel| &accel.cpus)
        .map(|m| (m.name.clone(), blockers(m)))
        .collect()
}

/// Features, by libvirt's names, that a guest can have and not take to another host.
pub(crate) fn fixed(caps: &Caps, accel: Accel) -> Vec<String> {
    let tables = CpuModels::x86();
    let properties = caps
        .accel(accel)
        .into_iter()
        .flat_map(|accel| &accel.host.properties);
    properties
        .filter(|p| !p.migratable)
        .map(|p| libvirts(tables, &p.name).to_owned())
        .collect()
}

fn custom(basis: &Basis) -> CpuModeCaps {
    let models = basis
        .caps
        .accel(basis.accel)
        .map(|a| a.cpus.as_slice())
        .unwrap_or_default();
    let mut models: Vec<Model> = models.iter().filter_map(named).collect();
    models.sort_by(|a, b| a.shown.name.cmp(&b.shown.name));
    let has_models = !models.is_empty();
    CpuModeCaps {
        models: Models(models),
        ..mode("custom", has_models)
    }
}

/// libvirt's name of a feature that QEMU names.
fn libvirts<'a>(tables: &CpuModels, name: &'a str) -> &'a str {
    tables
        .feature(name)
        .and_then(|number| tables.features.get(number))
        .map_or(name, |feature| feature.name)
}

/// A model that libvirt knows as well.
fn named(model: &caps::CpuModel) -> Option<Model> {
    let tables = CpuModels::x86();
    let known = tables.model(&model.name).filter(|known| known.name != "host")?;
    let usable = match model.blockers.as_deref() {
        None => "unknown",
        Some([]) => "yes",
        Some(_) => "no",
    };
    let blockers: BTreeSet<&str> = model
        .blockers
        .iter()
        .flatten()
        .map(|name| libvirts(tables, name))
        .collect();
    Some(Model {
        shown: NamedModel {
            usable: usable.to_owned(),
            deprecated: model.deprecated.then_some(YesNo::Yes),
            vendor: known.vendor.unwrap_or("unknown").to_owned(),
            canonical: known.canonical.map(str::to_owned),
            name: model.name.clone(),
        },
        blockers: Blockers {
            model: model.name.clone(),
            features: blockers
                .into_iter()
                .map(|name| Blocker {
                    name: name.to_owned(),
                })
                .collect(),
        },
    })
}
