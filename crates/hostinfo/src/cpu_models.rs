//! libvirt's models of x86 CPUs and their features, and which of them a host's CPU is.
//!
//! The tables are data/x86-features.tsv and data/x86-models.tsv. Their order means something: features are written in
//! it, and of several models that fit the later is looked at first.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::cpu_data::{CpuData, CpuSignature, Place};

const FEATURES: &str = include_str!("../data/x86-features.tsv");
const MODELS: &str = include_str!("../data/x86-models.tsv");

/// Features by their numbers in [`CpuModels::features`].
pub type FeatureSet = BTreeSet<usize>;

/// A feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuFeature {
    /// libvirt's name.
    pub name: &'static str,
    /// Its bit.
    pub place: Place,
    /// Whether a guest that has it can migrate.
    pub migratable: bool,
    /// QEMU's other names for it.
    pub aliases: Vec<&'static str>,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuModel {
    /// libvirt's name, which is QEMU's.
    pub name: &'static str,
    /// Whose CPUs it describes; all when absent.
    pub vendor: Option<&'static str>,
    /// Whether it may describe a host's CPU.
    pub for_host: bool,
    /// Whether it may describe a guest's CPU.
    pub for_guest: bool,
    /// Whether libvirt itself compares it with the host for a partial check.
    pub compat_check: bool,
    /// The versioned name of the same model.
    pub canonical: Option<&'static str>,
    /// CPUs that are of the model without doubt.
    pub signatures: Vec<ModelSignature>,
    /// What it means.
    pub features: FeatureSet,
    /// Once in it: written out as disabled when a guest uses the model.
    pub removed: Vec<&'static str>,
    /// Learnt later: a hypervisor may have them in the model.
    pub added: Vec<&'static str>,
}

/// A family, model and some steppings; all when empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSignature {
    /// Family.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Steppings.
    pub steppings: Vec<u32>,
}

/// Both tables.
#[derive(Debug)]
pub struct CpuModels {
    /// In libvirt's order.
    pub features: Vec<CpuFeature>,
    /// In libvirt's order.
    pub models: Vec<CpuModel>,
}

/// A host's CPU in libvirt's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostModel {
    /// The nearest model that the CPU wholly has.
    pub model: &'static str,
    /// Features that it has beside, in libvirt's order.
    pub features: Vec<&'static str>,
}

impl CpuModels {
    /// The tables for x86.
    pub fn x86() -> &'static Self {
        static TABLES: LazyLock<CpuModels> = LazyLock::new(CpuModels::read);
        &TABLES
    }

    /// A model by its name.
    pub fn model(&self, name: &str) -> Option<&CpuModel> {
        self.models.iter().find(|model| model.name == name)
    }

    /// A feature's number by its name, or one of QEMU's for it.
    pub fn feature(&self, name: &str) -> Option<usize> {
        self.features
            .iter()
            .position(|feature| feature.name == name)
            .or_else(|| {
                self.features
                    .iter()
                    .position(|feature| feature.aliases.contains(&name))
            })
    }

    /// The features that a CPU has.
    pub fn features_of(&self, data: &CpuData) -> FeatureSet {
        (0..self.features.len())
            .filter(|number| data.has(self.features[*number].place))
            .collect()
    }

    /// Describes a host's CPU: of the models that it wholly has one with its signature, else the one with the fewest
    /// features beside. None when it has not even the least model.
    pub fn describe_host(&self, data: &CpuData) -> Option<HostModel> {
        let (vendor, signature) = (data.vendor(), data.signature());
        let has = self.without_broken(self.features_of(data), vendor.as_deref(), signature);
        let fits = |model: &&CpuModel| {
            let same = model.vendor.is_none_or(|own| vendor.as_deref() == Some(own));
            model.for_host && same && model.features.is_subset(&has)
        };
        let mut best: Option<&CpuModel> = None;
        for model in self.models.iter().rev().filter(fits) {
            if best.is_none_or(|best| is_better(model, best, signature)) {
                best = Some(model);
            }
        }
        let best = best?;
        let beside = has
            .difference(&best.features)
            .map(|number| self.features[*number].name);
        Some(HostModel {
            model: best.name,
            features: beside.collect(),
        })
    }

    /// Without the transactional memory that some CPUs tell of and must not use.
    pub(crate) fn without_broken(
        &self,
        mut has: FeatureSet,
        vendor: Option<&str>,
        signature: Option<CpuSignature>,
    ) -> FeatureSet {
        let broken = signature.is_some_and(
            |CpuSignature {
                 family,
                 model,
                 stepping,
             }| { family == 6 && (matches!(model, 60 | 69 | 70) || model == 63 && stepping < 4) },
        );
        if broken && vendor == Some("Intel") {
            has.retain(|number| !matches!(self.features[*number].name, "hle" | "rtm"));
        }
        has
    }

    fn read() -> Self {
        let features = rows(FEATURES).filter_map(read_feature).collect();
        let mut tables = Self {
            features,
            models: Vec::new(),
        };
        for row in rows(MODELS) {
            let model = tables.read_model(&row);
            tables.models.push(model);
        }
        tables
    }

    fn read_model(&self, row: &[&'static str]) -> CpuModel {
        let column = |number: usize| row.get(number).copied().unwrap_or_default();
        let some = |text: &'static str| (!text.is_empty()).then_some(text);
        let mut model = CpuModel {
            name: column(0),
            vendor: some(column(1)),
            for_host: column(2).contains('h'),
            for_guest: column(2).contains('g'),
            compat_check: column(2).contains('c'),
            canonical: some(column(3)),
            signatures: column(4).split_whitespace().filter_map(read_signature).collect(),
            features: self
                .model(column(5))
                .map(|base| base.features.clone())
                .unwrap_or_default(),
            ..CpuModel::default()
        };
        for word in column(6).split_whitespace() {
            self.add_word(&mut model, word);
        }
        model
    }

    fn add_word(&self, model: &mut CpuModel, word: &'static str) {
        let (mark, name) = word.split_at(1);
        match (mark, self.feature(name)) {
            ("+", Some(number)) => drop(model.features.insert(number)),
            ("-", Some(number)) => drop(model.features.remove(&number)),
            ("!", _) => model.removed.push(name),
            ("?", _) => model.added.push(name),
            _ => {}
        }
    }
}

/// Whether a model that is looked at later describes the host better: with a signature over one without and never the
/// reverse, else with fewer features beside, that is with more in it.
fn is_better(model: &CpuModel, best: &CpuModel, signature: Option<CpuSignature>) -> bool {
    match (model.is_signed(signature), best.is_signed(signature)) {
        (true, false) => true,
        (false, true) => false,
        _ => model.features.len() > best.features.len(),
    }
}

impl CpuModel {
    pub(crate) fn is_signed(&self, signature: Option<CpuSignature>) -> bool {
        signature.is_some_and(|signature| {
            self.signatures.iter().any(|own| {
                (own.family, own.model) == (signature.family, signature.model)
                    && (own.steppings.is_empty() || own.steppings.contains(&signature.stepping))
            })
        })
    }
}

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('\t').collect())
}

fn read_feature(row: Vec<&'static str>) -> Option<CpuFeature> {
    let (kind, place) = row.get(1)?.split_once(' ')?;
    let parts: Vec<&str> = place.split('.').collect();
    let place = match (kind, parts.as_slice()) {
        ("cpuid", [leaf, sub, register, bit]) => Place::Cpuid {
            leaf: (u32::from_str_radix(leaf, 16).ok()?, sub.parse().ok()?),
            register: "abcd".find(register)?,
            bit: bit.parse().ok()?,
        },
        ("msr", [index, bit]) => Place::Msr {
            index: u32::from_str_radix(index, 16).ok()?,
            bit: bit.parse().ok()?,
        },
        _ => return None,
    };
    let aliases = row.get(3).copied().unwrap_or_default().split_whitespace();
    Some(CpuFeature {
        name: row.first()?,
        place,
        migratable: row.get(2).copied() != Some("fixed"),
        aliases: aliases.filter(|alias| !alias.contains(':')).collect(),
    })
}

fn read_signature(text: &str) -> Option<ModelSignature> {
    let mut parts = text.split('/');
    let (family, model) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let steppings = parts
        .next()
        .unwrap_or_default()
        .split(',')
        .filter_map(|part| part.parse().ok());
    Some(ModelSignature {
        family,
        model,
        steppings: steppings.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_is_understood() {
        let tables = CpuModels::x86();
        assert_eq!(tables.features.len(), rows(FEATURES).count());
        assert_eq!((tables.features.len(), tables.models.len()), (364, 150));
        for row in rows(MODELS) {
            let known = |word: &&str| tables.feature(&word[1..]).is_some();
            let words = || row[6].split_whitespace();
            assert!(
                words()
                    .filter(|word| word.starts_with(['+', '-']))
                    .all(|word| known(&word)),
                "{row:?}"
            );
            assert!(row[5].is_empty() || tables.model(row[5]).is_some(), "{row:?}");
        }
    }

    #[test]
    fn a_model_told_by_its_difference_has_all_its_features() {
        let tables = CpuModels::x86();
        let names = |model: &str| -> Vec<&str> {
            tables
                .model(model)
                .unwrap()
                .features
                .iter()
                .map(|number| tables.features[*number].name)
                .collect()
        };
        assert_eq!(
            names("pentium"),
            ["fpu", "vme", "de", "pse", "tsc", "msr", "mce", "cx8", "mmx"]
        );
        assert!(names("Skylake-Server").contains(&"avx512f"));
        assert!(!names("Skylake-Server").contains(&"mpx"));
    }

    #[test]
    fn a_cpu_of_a_models_very_features_is_that_model() {
        let tables = CpuModels::x86();
        let mut data = CpuData::default();
        for number in &tables.model("Haswell").unwrap().features {
            if let Place::Cpuid { leaf, register, bit } = tables.features[*number].place {
                data.cpuid.entry(leaf).or_default()[register] |= 1 << bit;
            }
        }
        data.cpuid
            .insert((0, 0), [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
        // family 6, model 63, stepping 4
        data.cpuid.entry((1, 0)).or_default()[0] = 0x306f4;
        let host = tables.describe_host(&data).unwrap();
        assert!(
            host.model.starts_with("Haswell") && host.features.is_empty(),
            "{host:?}"
        );
    }
}
