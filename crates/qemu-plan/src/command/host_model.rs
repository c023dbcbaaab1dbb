//! The model that guests with `host-model` get: of libvirt's models the one that says best, in the
//! fewest words, what QEMU can give here and a guest can take to another host.

use hostinfo::{CpuModels, CpuSignature, Offered, OfferedModel};
use serde_json::Value;

use crate::caps::{AccelCaps, CpuModel, HostProperty};
use crate::resources::CpuExpansion;

/// What QEMU offers to guests with an accelerator, as the search for a model takes it: of the features that are on those
/// that are `wanted`.
pub fn offered(caps: &AccelCaps, wanted: impl Fn(&HostProperty) -> bool) -> Offered {
    let tables = CpuModels::x86();
    let value = |name: &str| {
        caps.host
            .properties
            .iter()
            .find(|property| property.name == name)
            .map(|property| &property.value)
    };
    let number = |name: &str| {
        value(name)
            .and_then(Value::as_u64)
            .and_then(|number| u32::try_from(number).ok())
    };
    let signature = || {
        Some(CpuSignature {
            family: number("family")?,
            model: number("model")?,
            stepping: number("stepping")?,
        })
    };
    let on = caps
        .host
        .properties
        .iter()
        .filter(|property| property.value == Value::Bool(true) && wanted(property));
    let blockers = |names: &[String]| names.iter().filter_map(|name| tables.feature(name)).collect();
    let model = |cpu: &CpuModel| OfferedModel {
        name: cpu.name.clone(),
        blockers: blockers(cpu.blockers.as_deref().unwrap_or_default()),
    };
    Offered {
        features: on.filter_map(|property| tables.feature(&property.name)).collect(),
        vendor: value("vendor").and_then(Value::as_str).map(str::to_owned),
        signature: signature(),
        models: caps.cpus.iter().map(model).collect(),
    }
}

/// Works out the model from the CPU that QEMU gives with an accelerator; `None` when QEMU has not said
/// what that is.
pub fn expand(caps: &AccelCaps) -> Option<CpuExpansion> {
    let tables = CpuModels::x86();
    let offered = offered(caps, |property| property.migratable);
    if offered.features.is_empty() {
        return None;
    }
    let found = tables.describe_guest(&offered)?;
    let moves = |name: &&&str| {
        tables
            .features
            .iter()
            .any(|feature| feature.name == **name && feature.migratable)
    };
    let on = found
        .require
        .iter()
        .filter(moves)
        .map(|name| ((*name).to_owned(), true));
    let off = found.disable.iter().map(|name| ((*name).to_owned(), false));
    Some(CpuExpansion {
        model: found.model.to_owned(),
        vendor: None,
        features: on.chain(off).collect(),
    })
}

/// libvirt's name of the vendor of the CPU that QEMU gives with an accelerator.
pub fn vendor(caps: &AccelCaps) -> Option<String> {
    let offered = offered(caps, |property| property.migratable);
    CpuModels::x86().describe_guest(&offered)?.vendor
}

/// Features that were part of a model once: they are switched off in guests that have it.
pub fn removed_from(model: &str) -> &'static [&'static str] {
    CpuModels::x86()
        .model(model)
        .map(|model| model.removed.as_slice())
        .unwrap_or_default()
}
