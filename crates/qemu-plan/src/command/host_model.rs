//! The model that guests with `host-model` get: of libvirt's models the one that says best, in the
//! fewest words, what QEMU can give here. The choice must be libvirt's, oddities and all: guests that
//! migrate depend on it.

use std::collections::BTreeSet;

use hostinfo::{CpuModels, FeatureSet};
use serde_json::Value;

use super::resources::CpuExpansion;
use crate::caps::{AccelCaps, CpuModel};

type Model = hostinfo::CpuModel;

/// libvirt's names of vendors.
const VENDORS: [(&str, &str); 3] = [("GenuineIntel", "Intel"), ("AuthenticAMD", "AMD"), ("HygonGenuine", "Hygon")];

/// Works out the model from the CPU that QEMU gives with an accelerator; `None` when QEMU has not said
/// what that is.
pub fn expand(caps: &AccelCaps) -> Option<CpuExpansion> {
    let host = Host::of(caps)?;
    let mut best: Option<Candidate<'_>> = None;
    for model in host.tables.models.iter().rev().filter(|model| host.may_be(model)) {
        let Some(listed) = caps.cpus.iter().find(|cpu| cpu.name == model.name) else {
            continue;
        };
        let candidate = Candidate::new(&host, model, listed);
        if best.as_ref().is_none_or(|best| candidate.is_better_than(best)) {
            best = Some(candidate);
        }
    }
    Some(best?.expansion(host.tables))
}

/// Features that were part of a model once: they are switched off in guests that have it.
pub fn removed_from(model: &str) -> &'static [&'static str] {
    CpuModels::x86().model(model).map(|model| model.removed.as_slice()).unwrap_or_default()
}

/// What QEMU gives.
struct Host {
    tables: &'static CpuModels,
    has: FeatureSet,
    vendor: Option<&'static str>,
    /// Family, model, stepping.
    signature: Option<(u32, u32, u32)>,
}

impl Host {
    fn of(caps: &AccelCaps) -> Option<Self> {
        let tables = CpuModels::x86();
        let value = |name: &str| caps.host.properties.iter().find(|property| property.name == name).map(|property| &property.value);
        let number = |name: &str| value(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        let vendor = value("vendor").and_then(Value::as_str).unwrap_or_default();
        let signature = number("family").zip(number("model")).zip(number("stepping"));
        let on = caps.host.properties.iter().filter(|property| property.migratable && property.value == Value::Bool(true));
        let has: FeatureSet = on.filter_map(|property| tables.feature(&property.name)).collect();
        let mut host = Self {
            tables,
            has,
            vendor: VENDORS.iter().find(|(word, _)| *word == vendor).map(|(_, name)| *name),
            signature: signature.map(|((family, model), stepping)| (family, model, stepping)),
        };
        host.drop_broken_transactions();
        (!host.has.is_empty()).then_some(host)
    }

    /// Some CPUs tell of transactional memory and must not use it.
    fn drop_broken_transactions(&mut self) {
        let broken = matches!(self.signature, Some((6, 60 | 69 | 70, _) | (6, 63, 0..4)));
        if broken && self.vendor == Some("Intel") {
            let tables = self.tables;
            self.has.retain(|number| !matches!(tables.features[*number].name, "hle" | "rtm"));
        }
    }

    fn may_be(&self, model: &Model) -> bool {
        model.for_guest && model.vendor.is_none_or(|vendor| self.vendor == Some(vendor))
    }
}

/// A model, and what must be said beside it.
struct Candidate<'a> {
    model: &'a Model,
    signed: bool,
    /// Features that the host has beside, in the tables' order.
    require: Vec<usize>,
    /// Features of the model that the host has not, in the tables' order.
    disable: Vec<usize>,
}

impl<'a> Candidate<'a> {
    fn new(host: &Host, model: &'a Model, listed: &CpuModel) -> Self {
        let blockers = listed.blockers.iter().flatten().filter_map(|name| host.tables.feature(name));
        let wanted: BTreeSet<usize> = model.features.iter().copied().chain(blockers).collect();
        let signed = host.signature.is_some_and(|(family, number, stepping)| {
            model
                .signatures
                .iter()
                .any(|own| (own.family, own.model) == (family, number) && (own.steppings.is_empty() || own.steppings.contains(&stepping)))
        });
        Self {
            model,
            signed,
            require: host.has.difference(&model.features).copied().collect(),
            disable: wanted.difference(&host.has).copied().collect(),
        }
    }

    /// A model with the host's signature beats one without and never the reverse; of others the one
    /// with the lower score is better.
    fn is_better_than(&self, best: &Self) -> bool {
        match (self.signed, best.signed) {
            (true, false) => true,
            (false, true) => false,
            _ => {
                let ((enabled, penalty), (best_enabled, best_penalty)) = (self.score(), best.score());
                let (score, best_score) = (enabled + penalty, best_enabled + best_penalty);
                score < best_score || (score == best_score && penalty < best_penalty)
            }
        }
    }

    /// Each feature to switch off costs more than the one before. As libvirt shortens the list by one
    /// for each of them while it walks it, only about half of them count.
    fn score(&self) -> (usize, usize) {
        let mut enabled = self.require.len() + self.disable.len();
        let (mut penalty, mut cost) = (0, 2);
        let mut at = self.require.len();
        while at < enabled {
            enabled -= 1;
            penalty += cost;
            cost += 1;
            at += 1;
        }
        (enabled, penalty)
    }

    fn expansion(&self, tables: &CpuModels) -> CpuExpansion {
        let name = |number: &usize| tables.features[*number].name.to_owned();
        let movable = self.require.iter().filter(|number| tables.features[**number].migratable);
        let on = movable.map(|number| (name(number), true));
        let off = self.disable.iter().map(|number| (name(number), false));
        let mut features: Vec<_> = on.chain(off).collect();
        for removed in &self.model.removed {
            if !features.iter().any(|(known, _)| known == removed) {
                features.push(((*removed).to_owned(), false));
            }
        }
        CpuExpansion { model: self.model.name.to_owned(), vendor: None, features }
    }
}
