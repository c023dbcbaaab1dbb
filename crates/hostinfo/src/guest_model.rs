//! Which of libvirt's CPU models describes what a hypervisor can give a guest: the `host-model` of domain capabilities.
//!
//! Other than a host's description it may drop features of a model, and of the models only those that the hypervisor
//! has are looked at. The hard thing is to choose as libvirt does: dropping costs more the more is dropped.

use crate::cpu::vendor;
use crate::cpu_data::CpuSignature;
use crate::cpu_models::{CpuModel, CpuModels, FeatureSet};

/// What a hypervisor can give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offered {
    /// Features by their numbers in [`CpuModels::features`].
    pub features: FeatureSet,
    /// The CPU's own word of its vendor ("AuthenticAMD").
    pub vendor: Option<String>,
    /// Family, model, stepping.
    pub signature: Option<CpuSignature>,
    /// Models that the hypervisor has.
    pub models: Vec<OfferedModel>,
}

/// A model that the hypervisor has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfferedModel {
    /// Its name.
    pub name: String,
    /// Features that keep it from running here, by number: those of the hypervisor's own version of the model, which
    /// libvirt's may lack.
    pub blockers: FeatureSet,
}

/// A guest's CPU in libvirt's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestModel {
    /// The model.
    pub model: &'static str,
    /// libvirt's name of the vendor.
    pub vendor: Option<String>,
    /// Features to add, in libvirt's order.
    pub require: Vec<&'static str>,
    /// Features to drop, in libvirt's order.
    pub disable: Vec<&'static str>,
}

/// Features that no guest's CPU is described by: a guest can't have them, or switches them on itself.
const UNTOLD: &[&str] = &[
    "cmt",
    "mbm_local",
    "mbm_total",
    "ospke",
    "osxsave",
    "vmx-ept-uc",
    "vmx-ept-wb",
    "vmx-invvpid-single-context",
];
/// Features that no hypervisor has any more.
const GONE: &[&str] = &["cvt16", "pconfig"];

/// What a model is looked for by.
pub(crate) struct Search<'a> {
    /// The features to describe.
    pub(crate) has: &'a FeatureSet,
    /// libvirt's name of the vendor; models of others are not looked at.
    pub(crate) vendor: Option<&'a str>,
    /// A model that has it is better than one that has not.
    pub(crate) signature: Option<CpuSignature>,
    /// The hypervisor's models; `None`: all.
    pub(crate) models: Option<&'a [OfferedModel]>,
    /// The model that is taken if it may be.
    pub(crate) preferred: Option<&'a str>,
}

/// A model and what must be said beside it.
pub(crate) struct Candidate<'a> {
    pub(crate) model: &'a CpuModel,
    /// Features to add.
    pub(crate) require: FeatureSet,
    /// Features to drop.
    pub(crate) disable: FeatureSet,
    /// Once in the model: dropped too, so that it is the same guest under any hypervisor.
    pub(crate) removed: Vec<&'static str>,
    signed: bool,
}

/// What a description costs; less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    all: usize,
    penalties: usize,
}

impl CpuModels {
    /// Describes what a hypervisor can give a guest. None when no model of its vendor is offered.
    pub fn describe_guest(&self, offered: &Offered) -> Option<GuestModel> {
        let vendor = offered.vendor.as_deref().map(vendor);
        let has = self.without_broken(offered.features.clone(), vendor.as_deref(), offered.signature);
        let search = Search {
            has: &has,
            vendor: Some(vendor.as_deref().unwrap_or_default()),
            signature: offered.signature,
            models: Some(&offered.models),
            preferred: None,
        };
        let best = self.nearest(&search)?;
        Some(GuestModel {
            model: best.model.name,
            vendor,
            require: self.names(&best.require),
            disable: self.dropped(&best),
        })
    }

    /// Names of features, in libvirt's order.
    pub(crate) fn names(&self, set: &FeatureSet) -> Vec<&'static str> {
        set.iter().map(|number| self.features[*number].name).collect()
    }

    /// Names of all that a candidate drops.
    pub(crate) fn dropped(&self, candidate: &Candidate<'_>) -> Vec<&'static str> {
        let mut names = self.names(&candidate.disable);
        names.extend(&candidate.removed);
        names
    }

    /// The guest's model that says best what is searched for.
    pub(crate) fn nearest(&self, search: &Search<'_>) -> Option<Candidate<'_>> {
        let mut best: Option<Candidate<'_>> = None;
        for model in self.models.iter().rev().filter(|m| m.for_guest) {
            let Some(candidate) = search.candidate(model, self) else {
                continue;
            };
            if search.preferred == Some(model.name) {
                return Some(candidate);
            }
            if best.as_ref().is_none_or(|best| candidate.is_better_than(best)) {
                best = Some(candidate);
            }
        }
        best
    }
}

impl Search<'_> {
    /// The model as a description; none if it may not be one.
    fn candidate<'t>(&self, model: &'t CpuModel, tables: &'t CpuModels) -> Option<Candidate<'t>> {
        let none = FeatureSet::new();
        let blockers = match self.models {
            Some(models) => &models.iter().find(|offer| offer.name == model.name)?.blockers,
            None => &none,
        };
        if model
            .vendor
            .zip(self.vendor)
            .is_some_and(|(own, wanted)| own != wanted)
        {
            return None;
        }
        let is_told = |number: &usize| {
            let name = tables.features[*number].name;
            !UNTOLD.contains(&name) && (self.models.is_none() || !GONE.contains(&name))
        };
        let require: FeatureSet = self
            .has
            .difference(&model.features)
            .copied()
            .filter(is_told)
            .collect();
        let lacks = model
            .features
            .difference(self.has)
            .filter(|number| is_told(number));
        let disable: FeatureSet = lacks.chain(blockers.difference(&require)).copied().collect();
        let is_said = |name: &str| {
            require
                .union(&disable)
                .any(|number| tables.features[*number].name == name)
        };
        let removed = model
            .removed
            .iter()
            .copied()
            .filter(|name| !is_said(name))
            .collect();
        Some(Candidate {
            model,
            require,
            disable,
            removed,
            signed: model.is_signed(self.signature),
        })
    }
}

impl Candidate<'_> {
    /// Whether a model that is looked at later is the better description.
    fn is_better_than(&self, best: &Self) -> bool {
        match (self.signed, best.signed) {
            (true, false) => true,
            (false, true) => false,
            _ => self.cost() < best.cost(),
        }
    }

    /// libvirt walks the entries, those to add first, up to the number that are not seen to be dropped: about the later
    /// half of those to drop count like ones to add.
    fn cost(&self) -> Cost {
        let (add, all) = (
            self.require.len(),
            self.require.len() + self.disable.len() + self.removed.len(),
        );
        let (mut index, mut seen, mut penalties) = (add, 0, 0);
        while index < all - seen {
            seen += 1;
            penalties += seen + 1;
            index += 1;
        }
        Cost {
            all: all - seen + penalties,
            penalties,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(names: &[&str]) -> Vec<OfferedModel> {
        let model = |name: &&str| OfferedModel {
            name: (*name).to_owned(),
            blockers: FeatureSet::new(),
        };
        names.iter().map(model).collect()
    }

    fn with(tables: &CpuModels, model: &str, add: &[&str], drop: &[&str]) -> FeatureSet {
        let mut features = tables.model(model).unwrap().features.clone();
        features.extend(add.iter().map(|f| tables.feature(f).unwrap()));
        features.retain(|f| !drop.contains(&tables.features[*f].name));
        features
    }

    #[test]
    fn what_a_model_has_too_much_is_dropped() {
        let tables = CpuModels::x86();
        let features = with(tables, "Haswell", &["pdpe1gb"], &["aes"]);
        let offered = Offered {
            features,
            vendor: Some("GenuineIntel".into()),
            models: offer(&["Haswell", "kvm64", "EPYC"]),
            ..Offered::default()
        };
        let found = tables.describe_guest(&offered).unwrap();
        assert_eq!(
            (found.model, found.require.as_slice(), found.disable.as_slice()),
            ("Haswell", &["pdpe1gb"][..], &["aes"][..])
        );
        assert_eq!(found.vendor.as_deref(), Some("Intel"));
    }

    #[test]
    fn what_blocks_a_model_is_dropped_though_the_host_has_it() {
        let tables = CpuModels::x86();
        let mut models = offer(&["kvm64"]);
        models[0].blockers.insert(tables.feature("pni").unwrap());
        let offered = Offered {
            features: with(tables, "kvm64", &[], &[]),
            models,
            ..Offered::default()
        };
        let found = tables.describe_guest(&offered).unwrap();
        assert_eq!((found.require.len(), found.disable.as_slice()), (0, &["pni"][..]));
    }

    #[test]
    fn a_model_of_another_vendor_or_that_is_not_offered_is_none() {
        let tables = CpuModels::x86();
        let offered = Offered {
            features: with(tables, "Haswell", &[], &[]),
            vendor: Some("AuthenticAMD".into()),
            models: offer(&["Haswell"]),
            ..Offered::default()
        };
        assert_eq!(tables.describe_guest(&offered), None);
    }
}
