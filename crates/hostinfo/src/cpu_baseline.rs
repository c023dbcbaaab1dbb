//! The richest CPU that several hosts have in common, as a guest's: what a cluster gives its guests so that they can
//! run on each of its hosts.

use crate::cpu::is_vendor;
use crate::cpu_document::{CpuDescription, CpuError};
use crate::cpu_models::CpuModels;
use crate::guest_model::{OfferedModel, Search};

/// A guest's CPU that is had everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// The model.
    pub model: String,
    /// Whether a guest may have that model and no other.
    pub model_is_sure: bool,
    /// The vendor, if all name it.
    pub vendor: Option<String>,
    /// Features to add (true) or drop (false), in libvirt's order.
    pub features: Vec<(String, bool)>,
}

impl CpuModels {
    /// The common ground of CPUs. With `offered`, in models that the hypervisor has, without what keeps them from it.
    ///
    /// # Errors
    /// What is not in the tables; CPUs of several vendors; no CPU at all.
    pub fn baseline(
        &self,
        cpus: &[CpuDescription],
        offered: Option<&[OfferedModel]>,
    ) -> Result<Baseline, CpuError> {
        let (first, others) = cpus.split_first().ok_or(CpuError::NothingInCommon)?;
        if offered.is_some()
            && let Some(at) = cpus.iter().position(|cpu| cpu.model.is_none())
        {
            return Err(CpuError::NoModel(at));
        }
        let mut common = first.whole(self)?;
        let mut vendor = Vendor::of(first)?;
        let mut preferred = first.model.as_deref();
        for cpu in others {
            let features = cpu.whole(self)?;
            preferred = preferred.filter(|name| cpu.model.as_deref() == Some(*name));
            vendor.meet(cpu, self)?;
            common.retain(|feature| features.contains(feature));
        }
        if common.is_empty() {
            return Err(CpuError::NothingInCommon);
        }
        let search = Search {
            has: &common,
            vendor: vendor.known.as_deref(),
            signature: None,
            models: offered,
            preferred,
        };
        let nearest = self.nearest(&search).ok_or(CpuError::NoSuchCpu)?;
        let named =
            |names: Vec<&'static str>, on: bool| names.into_iter().map(move |name| (name.to_owned(), on));
        let features = named(self.names(&nearest.require), true)
            .chain(named(self.dropped(&nearest), false))
            .collect();
        Ok(Baseline {
            model: nearest.model.name.to_owned(),
            model_is_sure: offered.is_some() || preferred == Some(nearest.model.name),
            vendor: vendor.known.filter(|_| vendor.is_named_by_all),
            features,
        })
    }

    /// Leaves out what keeps a guest on its host.
    pub fn without_fixed(&self, baseline: &mut Baseline) {
        let fixed = |name: &str| {
            self.features
                .iter()
                .any(|feature| feature.name == name && !feature.migratable)
        };
        baseline.features.retain(|(name, _)| !fixed(name));
    }

    /// Names every feature of the CPU, the model's too, by the alphabet.
    ///
    /// # Errors
    /// The model is not in the tables.
    pub fn expand(&self, baseline: &mut Baseline) -> Result<(), CpuError> {
        let model = self
            .model(&baseline.model)
            .ok_or_else(|| CpuError::UnknownModel(baseline.model.clone()))?;
        for number in &model.features {
            let name = self.features[*number].name;
            if !baseline.features.iter().any(|(known, _)| known == name) {
                baseline.features.push((name.to_owned(), true));
            }
        }
        baseline.features.sort();
        Ok(())
    }
}

/// What is known of the vendor so far.
struct Vendor {
    known: Option<String>,
    is_named_by_all: bool,
}

impl Vendor {
    fn of(cpu: &CpuDescription) -> Result<Self, CpuError> {
        match &cpu.vendor {
            Some(name) if !is_vendor(name) => Err(CpuError::UnknownVendor(name.clone())),
            named => Ok(Self {
                known: named.clone(),
                is_named_by_all: named.is_some(),
            }),
        }
    }

    fn meet(&mut self, cpu: &CpuDescription, tables: &CpuModels) -> Result<(), CpuError> {
        let model = cpu.known_model(tables)?;
        let own = model.and_then(|model| model.vendor);
        if let (Some(own), Some(named), Some(model)) = (own, &cpu.vendor, model)
            && own != named.as_str()
        {
            let (own, model, named) = (own.to_owned(), model.name.to_owned(), named.clone());
            return Err(CpuError::VendorOfModel { own, model, named });
        }
        self.is_named_by_all &= cpu.vendor.is_some();
        let Some(name) = cpu.vendor.as_deref().or(own) else {
            return Ok(());
        };
        match &self.known {
            None if !is_vendor(name) => Err(CpuError::UnknownVendor(name.to_owned())),
            None => {
                self.known = Some(name.to_owned());
                Ok(())
            }
            Some(known) if known != name => Err(CpuError::Vendors),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_document::{CpuKind, Policy};

    /// "MODEL VENDOR FEATURE ...", a vendor `-` is none.
    fn host(text: &str) -> CpuDescription {
        let mut words = text.split_whitespace();
        CpuDescription {
            kind: CpuKind::Host,
            model: words.next().map(str::to_owned),
            vendor: words.next().filter(|vendor| *vendor != "-").map(str::to_owned),
            features: words.map(|word| (word.to_owned(), Policy::Require)).collect(),
            ..CpuDescription::default()
        }
    }

    fn told(of: Result<Baseline, CpuError>) -> String {
        match of {
            Ok(Baseline {
                model,
                model_is_sure,
                vendor,
                features,
            }) => {
                let sure = if model_is_sure { "!" } else { "" };
                let features = features
                    .iter()
                    .map(|(name, on)| format!(" {}{name}", if *on { '+' } else { '-' }));
                format!(
                    "{model}{sure} {}{}",
                    vendor.unwrap_or_default(),
                    features.collect::<String>()
                )
            }
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn hosts_have_in_common_what_each_of_them_has() {
        for (cpus, wanted) in [
            (&["Penryn Intel vmx popcnt"][..], "Penryn! Intel +vmx +popcnt"),
            (
                &["Haswell Intel", "Penryn Intel vmx popcnt"],
                "Penryn Intel +popcnt",
            ),
            (&["Haswell Intel", "Penryn -"], "Penryn "),
            (&["Haswell Intel", "Haswell Intel invtsc"], "Haswell! Intel"),
            (&["Skylake-Client -"], "Skylake-Client!  -mpx"),
            (&["Haswell Intel", "486 -"], "486  -vme"),
            (&["Haswell Intel", "EPYC AMD"], "error: CPU vendors do not match"),
            (&["Haswell Intel", "EPYC -"], "error: CPU vendors do not match"),
            (
                &["Haswell Intel", "EPYC Intel"],
                "error: CPU vendor AMD of model EPYC differs from vendor Intel",
            ),
            (&["486 Acme"], "error: Unknown CPU vendor Acme"),
            (
                &["Haswell Intel", "Nonsense -"],
                "error: Unknown CPU model Nonsense",
            ),
            (&[], "error: CPUs are incompatible"),
        ] {
            let cpus: Vec<_> = cpus.iter().map(|text| host(text)).collect();
            assert_eq!(
                told(CpuModels::x86().baseline(&cpus, None)).trim_end(),
                wanted.trim_end(),
                "{cpus:?}"
            );
        }
    }

    #[test]
    fn a_hypervisors_models_are_taken_without_what_it_has_not() {
        let tables = CpuModels::x86();
        let mut haswell = OfferedModel {
            name: "Haswell".into(),
            ..OfferedModel::default()
        };
        haswell
            .blockers
            .extend(["rtm", "hle"].map(|name| tables.feature(name).unwrap()));
        let offered = [
            haswell,
            OfferedModel {
                name: "486".into(),
                ..OfferedModel::default()
            },
        ];
        let of = |text: &str| told(tables.baseline(&[host(text)], Some(&offered)));
        assert_eq!(of("Haswell Intel"), "Haswell! Intel -hle -rtm");
        assert!(of("Haswell-noTSX Intel").starts_with("Haswell! Intel -hle -rtm"));
        let nameless = CpuDescription {
            model: None,
            ..host("486 -")
        };
        assert_eq!(
            tables.baseline(&[host("486 -"), nameless], Some(&offered)),
            Err(CpuError::NoModel(1))
        );
    }

    #[test]
    fn all_features_are_named_in_order_and_those_that_do_not_migrate_are_left_out() {
        let tables = CpuModels::x86();
        let mut found = tables.baseline(&[host("486 - invtsc nx")], None).unwrap();
        tables.without_fixed(&mut found);
        assert_eq!(told(Ok(found.clone())).trim_end(), "486!  +nx");
        found.features.push(("pse".into(), false));
        tables.expand(&mut found).unwrap();
        assert_eq!(told(Ok(found)).trim_end(), "486!  +fpu +nx -pse +vme");
    }
}
