//! Whether a host, or its hypervisor, has the CPU that a document describes.

use crate::cpu_document::{CpuDescription, CpuError, CpuKind, Policy};
use crate::cpu_models::{CpuModels, FeatureSet};

/// What a comparison comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The host's CPU is the one described.
    Identical,
    /// The host's CPU has more.
    Superset,
    /// A guest can't have it here; why, in libvirt's words.
    Incompatible(String),
}

/// The two names of what x86 hosts run.
const X86: [&str; 2] = ["i686", "x86_64"];

impl CpuModels {
    /// Compares a CPU with the host's.
    ///
    /// # Errors
    /// A model or feature that the tables do not have.
    pub fn compare(&self, host: &CpuDescription, cpu: &CpuDescription) -> Result<Comparison, CpuError> {
        if let Some(arch) = cpu.arch.as_deref().filter(|arch| !X86.contains(arch)) {
            return Ok(Comparison::Incompatible(format!(
                "CPU arch {arch} does not match host arch"
            )));
        }
        if let Some(vendor) = cpu
            .vendor
            .as_ref()
            .filter(|vendor| host.vendor.as_ref() != Some(vendor))
        {
            let message = format!("host CPU vendor does not match required CPU vendor {vendor}");
            return Ok(Comparison::Incompatible(message));
        }
        let has = host.whole(self)?;
        let named = |policy| cpu.named(self, policy);
        let (force, optional) = (named(Policy::Force)?, named(Policy::Optional)?);
        let (disable, forbid) = (named(Policy::Disable)?, named(Policy::Forbid)?);
        let mut require = cpu.models_features(self)?;
        require.extend(named(Policy::Require)?);
        require.retain(|feature| {
            ![&force, &optional, &disable]
                .iter()
                .any(|set| set.contains(feature))
        });

        let forbidden: FeatureSet = has.intersection(&forbid).copied().collect();
        if !forbidden.is_empty() {
            return Ok(self.incompatible("Host CPU provides forbidden features", &forbidden));
        }
        let missing: FeatureSet = require.difference(&has).copied().collect();
        if !missing.is_empty() {
            return Ok(self.incompatible(MISSING, &missing));
        }
        let spoken_of = |feature: &usize| {
            [&optional, &require, &disable, &force]
                .iter()
                .any(|set| set.contains(feature))
        };
        let extra: FeatureSet = has.into_iter().filter(|feature| !spoken_of(feature)).collect();
        Ok(match (extra.is_empty(), cpu.kind) {
            (true, _) => Comparison::Identical,
            (false, CpuKind::StrictGuest) => self.incompatible(
                "Host CPU does not strictly match guest CPU: Extra features",
                &extra,
            ),
            (false, _) => Comparison::Superset,
        })
    }

    /// Compares a CPU with what the hypervisor gives, which also says of its own models whether they can run.
    /// `blockers` are the features that keep the described model from it, in the hypervisor's order and libvirt's
    /// names; `None` for a model that it does not have.
    ///
    /// # Errors
    /// A model or feature that the tables do not have.
    pub fn compare_offered(
        &self,
        offered: &CpuDescription,
        cpu: &CpuDescription,
        blockers: Option<&[String]>,
    ) -> Result<Comparison, CpuError> {
        let (Some(blockers), Some(name)) = (blockers, &cpu.model) else {
            return self.compare(offered, cpu);
        };
        if blockers.is_empty()
            && cpu
                .features
                .iter()
                .all(|(_, policy)| *policy == Policy::Disable && !cpu.is_host())
        {
            return Ok(Comparison::Superset);
        }
        let model = self
            .model(name)
            .ok_or_else(|| CpuError::HypervisorsModel(name.clone()))?;
        if model.compat_check {
            return self.compare(offered, cpu);
        }
        let with = |feature: &str, wanted| {
            cpu.features
                .iter()
                .any(|(name, policy)| name == feature && *policy == wanted)
        };
        let has = offered.whole(self)?;
        let is_there = |name: &str| has.iter().any(|number| self.features[*number].name == name);
        let blocked = blockers.iter().filter(|name| !with(name, Policy::Disable));
        let required = cpu
            .features
            .iter()
            .filter(|(name, policy)| !cpu.is_host() && *policy == Policy::Require && !is_there(name));
        let missing: Vec<&str> = blocked
            .map(String::as_str)
            .chain(required.map(|(name, _)| name.as_str()))
            .collect();
        Ok(if missing.is_empty() {
            Comparison::Superset
        } else {
            because(MISSING, &missing)
        })
    }

    fn incompatible(&self, what: &str, features: &FeatureSet) -> Comparison {
        let names: Vec<&str> = features
            .iter()
            .map(|number| self.features[*number].name)
            .collect();
        because(what, &names)
    }
}

const MISSING: &str = "Host CPU does not provide required features";

fn because(what: &str, names: &[&str]) -> Comparison {
    Comparison::Incompatible(format!("{what}: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "MODEL NAME=POLICY ..."; a host's features have no policy.
    fn cpu(text: &str) -> CpuDescription {
        let mut words = text.split_whitespace();
        let model = words.next().map(str::to_owned);
        let mut kind = CpuKind::Guest;
        let features = words.map(|word| match word.split_once('=') {
            Some((name, policy)) => (name.to_owned(), crate::cpu_document::tests::policy(policy)),
            None => {
                kind = CpuKind::Host;
                (word.to_owned(), Policy::Require)
            }
        });
        let features = features.collect();
        CpuDescription {
            model,
            features,
            kind,
            ..CpuDescription::default()
        }
    }

    fn told(of: Result<Comparison, CpuError>) -> String {
        match of {
            Ok(Comparison::Identical) => "identical".to_owned(),
            Ok(Comparison::Superset) => "superset".to_owned(),
            Ok(Comparison::Incompatible(why)) => why,
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn a_guests_cpu_is_compared_by_what_it_says_of_each_feature() {
        let host = cpu("Penryn popcnt vmx");
        for (text, wanted) in [
            ("Penryn", "superset"),
            ("Penryn popcnt=require vmx=force", "identical"),
            ("Penryn popcnt=optional vmx=disable", "identical"),
            (
                "Penryn avx=require",
                "Host CPU does not provide required features: avx",
            ),
            ("Penryn avx=optional", "superset"),
            ("Penryn avx=force", "superset"),
            ("Penryn vmx=forbid", "Host CPU provides forbidden features: vmx"),
            ("Penryn avx=forbid", "superset"),
            ("Nehalem sse4.2=disable", "superset"),
            ("Nehalem", "Host CPU does not provide required features: sse4.2"),
            ("Nonsense", "error: Unknown CPU model Nonsense"),
            ("Penryn sse4-1=require", "error: Unknown CPU feature sse4-1"),
        ] {
            assert_eq!(
                told(CpuModels::x86().compare(&host, &cpu(text))),
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn vendor_architecture_and_strictness_count() {
        let host = CpuDescription {
            vendor: Some("Intel".into()),
            ..cpu("Penryn vmx")
        };
        let compare = |cpu: CpuDescription| told(CpuModels::x86().compare(&host, &cpu));
        let of = |vendor: &str| CpuDescription {
            vendor: Some(vendor.into()),
            ..cpu("Penryn")
        };
        assert_eq!(compare(of("Intel")), "superset");
        assert_eq!(
            compare(of("AMD")),
            "host CPU vendor does not match required CPU vendor AMD"
        );
        assert_eq!(
            compare(CpuDescription {
                arch: Some("i686".into()),
                ..cpu("Penryn")
            }),
            "superset"
        );
        assert_eq!(
            compare(CpuDescription {
                arch: Some("s390x".into()),
                ..cpu("Penryn")
            }),
            "CPU arch s390x does not match host arch"
        );
        let strict = |text| CpuDescription {
            kind: CpuKind::StrictGuest,
            ..cpu(text)
        };
        assert_eq!(
            compare(strict("Penryn")),
            "Host CPU does not strictly match guest CPU: Extra features: vmx"
        );
        assert_eq!(compare(strict("Penryn vmx=require")), "identical");
    }

    #[test]
    fn a_model_that_the_hypervisor_has_is_judged_by_the_hypervisor() {
        let offered = cpu("Penryn popcnt=require");
        let blockers = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (text, blocked, wanted) in [
            // What the tables say of a model that runs does not matter.
            ("Haswell", Some(""), "superset"),
            ("Haswell-v1", Some(""), "superset"),
            ("max", Some(""), "superset"),
            ("max avx=require", Some(""), "error: unknown CPU model max"),
            (
                "Haswell-v1",
                Some("rtm hle"),
                "Host CPU does not provide required features: rtm, hle",
            ),
            (
                "Haswell-v1 rtm=disable",
                Some("rtm hle"),
                "Host CPU does not provide required features: hle",
            ),
            ("Haswell-v1 rtm=disable hle=disable", Some("rtm hle"), "superset"),
            (
                "Haswell-v1 popcnt=require avx=require",
                Some(""),
                "Host CPU does not provide required features: avx",
            ),
            // Older models are compared feature by feature.
            (
                "Nehalem avx=require",
                Some("avx"),
                "Host CPU does not provide required features: sse4.2, avx",
            ),
            (
                "Nehalem",
                None,
                "Host CPU does not provide required features: sse4.2",
            ),
        ] {
            let blocked = blocked.map(blockers);
            let answer = CpuModels::x86().compare_offered(&offered, &cpu(text), blocked.as_deref());
            assert_eq!(told(answer), wanted, "{text}");
        }
    }
}
