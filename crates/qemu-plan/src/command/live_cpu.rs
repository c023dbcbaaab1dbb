//! The CPU that a running guest has: model and features as they stand on QEMU's command line and as QEMU confirms
//! them. A start writes it into the live document and keeps the document's own beside it, in the status file: another
//! daemon, another host and a saved image then know what the guest really sees, and not what `host-model` means there.
//!
//! Pure: whoever starts a guest asks QEMU, and hands in the names of the properties that are on.

use std::collections::BTreeSet;

use domxml::cpu::{Cpu, CpuCheck, CpuFallback, CpuFeature, CpuMatch, CpuMode, CpuModel, FeaturePolicy};
use hostinfo::CpuModels;

use super::cpu::libvirt_name;
use crate::props::Keyval;

/// What a guest's CPU turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveCpu {
    /// The CPU for the live document.
    pub cpu: Cpu,
    /// Features that were asked for, by the model or by name, and that QEMU did not give. A guest whose check is `full`
    /// can't go on if there are any.
    pub missing: Vec<&'static str>,
    /// Features that nobody asked for and that QEMU gave. The same holds for them.
    pub extra: Vec<&'static str>,
}

/// What QEMU says of a guest's first CPU, in its own names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfirmedCpu {
    /// Its boolean properties that are on.
    pub enabled: BTreeSet<String>,
    /// Its property `unavailable-features`: what the model or the command line asked for in vain.
    pub unavailable: BTreeSet<String>,
}

/// Works out the CPU of a running guest. `original` is the document's; `line` the value of `-cpu` that QEMU was started
/// with.
///
/// `None` when the document's CPU stays as it is: a guest that has all of the host's CPU, or all that QEMU can do, has
/// no model of its own.
pub fn live_cpu(original: &Cpu, line: &Keyval, confirmed: &ConfirmedCpu) -> Option<LiveCpu> {
    let mode = original.mode.unwrap_or_default();
    if matches!(mode, CpuMode::HostPassthrough | CpuMode::Maximum) {
        return None;
    }
    let tables = CpuModels::x86();
    let model = tables.model(line.kind());
    let named_by = |names: &BTreeSet<String>, number: usize| {
        let feature = &tables.features[number];
        let alias = |name: &&str| names.contains(*name);
        names.iter().any(|name| libvirt_name(name) == feature.name) || feature.aliases.iter().any(alias)
    };
    let has = |number: usize| named_by(&confirmed.enabled, number);
    let mut live = LiveCpu {
        cpu: named(original, line, model.and_then(|m| m.vendor)),
        missing: Vec::new(),
        extra: Vec::new(),
    };
    let mut told = BTreeSet::new();
    for (number, wanted) in on_line(line, tables) {
        let name = tables.features[number].name;
        match (wanted, has(number)) {
            (true, false) => live.missing.push(name),
            (false, true) => live.extra.push(name),
            _ => {}
        }
        told.insert(number);
        live.cpu.features.push(feature(name, has(number)));
    }
    let of_model = |number: usize| model.is_some_and(|m| m.features.contains(&number));
    for number in (0..tables.features.len()).filter(|number| !told.contains(number)) {
        let (name, given) = (tables.features[number].name, has(number));
        match (
            of_model(number) || named_by(&confirmed.unavailable, number),
            given,
        ) {
            (true, false) => live.missing.push(name),
            (false, true) => live.extra.push(name),
            _ => continue,
        }
        live.cpu.features.push(feature(name, given));
    }
    Some(live)
}

/// The document's CPU with the model of the command line, and no features yet.
fn named(original: &Cpu, line: &Keyval, vendor: Option<&str>) -> Cpu {
    // Only a model that was worked out from the host's brings its vendor along.
    let vendor = match original.mode {
        Some(CpuMode::HostModel) => vendor.map(str::to_owned),
        _ => None,
    };
    let minimum = original.match_ == Some(CpuMatch::Minimum);
    let own = original.model.as_ref().filter(|_| !minimum);
    Cpu {
        mode: Some(CpuMode::Custom),
        match_: Some(CpuMatch::Exact),
        check: Some(CpuCheck::Full),
        migratable: None,
        model: Some(CpuModel {
            fallback: Some(CpuFallback::Forbid),
            vendor_id: own.and_then(|m| m.vendor_id.clone()),
            name: Some(line.kind().to_owned()),
        }),
        vendor: original.vendor.clone().or(vendor),
        features: Vec::new(),
        ..original.clone()
    }
}

/// The features that a command line switches on or off, in its order. Interfaces of hypervisors and other settings of
/// the same switch are none.
fn on_line<'a>(line: &'a Keyval, tables: &'a CpuModels) -> impl Iterator<Item = (usize, bool)> + 'a {
    line.entries().filter_map(|(key, value)| {
        let wanted = match value {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        let name = libvirt_name(key);
        let exact = tables.features.iter().position(|f| f.name == name);
        Some((exact.or_else(|| tables.feature(key))?, wanted))
    })
}

fn feature(name: &str, on: bool) -> CpuFeature {
    let policy = if on {
        FeaturePolicy::Require
    } else {
        FeaturePolicy::Disable
    };
    CpuFeature {
        policy: Some(policy),
        name: name.to_owned(),
    }
}
