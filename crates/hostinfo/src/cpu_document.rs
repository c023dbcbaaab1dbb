//! A CPU as a document describes it, and the features that it means.
//!
//! What compares CPUs and what finds their common ground begins here. A guest's description says of each feature what
//! is to be done with it; a host's only names what it has.

use thiserror::Error;

use crate::cpu_models::{CpuModel, CpuModels, FeatureSet};

/// A CPU that a document describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuDescription {
    /// Whose it is.
    pub kind: CpuKind,
    /// libvirt's name of the architecture.
    pub arch: Option<String>,
    /// The model's name.
    pub model: Option<String>,
    /// libvirt's name of the vendor.
    pub vendor: Option<String>,
    /// Features beside the model's, in the document's order, none twice.
    pub features: Vec<(String, Policy)>,
}

/// Whose CPU is described.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CpuKind {
    /// A host's: it has its features, policies mean nothing.
    Host,
    /// A guest's.
    #[default]
    Guest,
    /// A guest's that is to have nothing else.
    StrictGuest,
}

/// What is to be done with a feature of a guest's CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The guest has it whatever the host has.
    Force,
    /// The guest has it, and so must the host.
    Require,
    /// The guest has it if the host has.
    Optional,
    /// The guest has it not.
    Disable,
    /// The guest has it not, and neither may the host.
    Forbid,
}

/// Why descriptions can't be worked with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CpuError {
    /// No model of the tables.
    #[error("Unknown CPU model {0}")]
    UnknownModel(String),
    /// A model that the hypervisor has and the tables have not.
    #[error("unknown CPU model {0}")]
    HypervisorsModel(String),
    /// No feature of the tables.
    #[error("Unknown CPU feature {0}")]
    UnknownFeature(String),
    /// No vendor that libvirt knows.
    #[error("Unknown CPU vendor {0}")]
    UnknownVendor(String),
    /// A description without model, by its place from 0, where one is needed.
    #[error("no CPU model specified at index {0}")]
    NoModel(usize),
    /// A description that names another vendor than its model's.
    #[error("CPU vendor {own} of model {model} differs from vendor {named}")]
    VendorOfModel {
        /// The model's vendor.
        own: String,
        /// The model.
        model: String,
        /// The vendor that is named.
        named: String,
    },
    /// Descriptions of several vendors.
    #[error("CPU vendors do not match")]
    Vendors,
    /// Descriptions that have no feature in common.
    #[error("CPUs are incompatible")]
    NothingInCommon,
    /// No model describes the features.
    #[error("Cannot find suitable CPU model for given data")]
    NoSuchCpu,
}

impl CpuDescription {
    /// Whether it is a host's.
    pub fn is_host(&self) -> bool {
        self.kind == CpuKind::Host
    }

    /// The features that are named with a policy. A host's are all required.
    pub(crate) fn named(&self, tables: &CpuModels, policy: Policy) -> Result<FeatureSet, CpuError> {
        let of = |own: Policy| if self.is_host() { Policy::Require } else { own };
        let wanted = self.features.iter().filter(|(_, own)| of(*own) == policy);
        wanted.map(|(name, _)| known_feature(tables, name)).collect()
    }

    /// The features of a CPU that is as described: the model's, more and fewer. Optional ones are not counted.
    pub(crate) fn whole(&self, tables: &CpuModels) -> Result<FeatureSet, CpuError> {
        self.features
            .iter()
            .try_for_each(|(name, _)| known_feature(tables, name).map(drop))?;
        let mut features = self.models_features(tables)?;
        for policy in [Policy::Force, Policy::Require] {
            features.extend(self.named(tables, policy)?);
        }
        for policy in [Policy::Disable, Policy::Forbid] {
            let without = self.named(tables, policy)?;
            features.retain(|feature| !without.contains(feature));
        }
        Ok(features)
    }

    /// The features of the model; none without a model.
    pub(crate) fn models_features(&self, tables: &CpuModels) -> Result<FeatureSet, CpuError> {
        Ok(self
            .known_model(tables)?
            .map(|model| model.features.clone())
            .unwrap_or_default())
    }

    /// The model in the tables, if one is named.
    pub(crate) fn known_model<'t>(&self, tables: &'t CpuModels) -> Result<Option<&'t CpuModel>, CpuError> {
        let Some(name) = &self.model else { return Ok(None) };
        tables
            .model(name)
            .map(Some)
            .ok_or_else(|| CpuError::UnknownModel(name.clone()))
    }
}

/// A feature's number by its name. Documents use libvirt's names and no other.
fn known_feature(tables: &CpuModels, name: &str) -> Result<usize, CpuError> {
    let found = tables.features.iter().position(|feature| feature.name == name);
    found.ok_or_else(|| CpuError::UnknownFeature(name.to_owned()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn policy(text: &str) -> Policy {
        match text {
            "force" => Policy::Force,
            "require" => Policy::Require,
            "optional" => Policy::Optional,
            "disable" => Policy::Disable,
            _ => Policy::Forbid,
        }
    }

    #[test]
    fn a_description_means_its_model_with_more_and_less() {
        let tables = CpuModels::x86();
        let with = |kind, features: &[(&str, Policy)]| CpuDescription {
            kind,
            model: Some("Penryn".into()),
            features: features
                .iter()
                .map(|(name, policy)| ((*name).to_owned(), *policy))
                .collect(),
            ..CpuDescription::default()
        };
        let changed = |cpu: CpuDescription| -> Vec<String> {
            let (whole, model) = (cpu.whole(tables).unwrap(), cpu.models_features(tables).unwrap());
            let name = |mark: &str, number: &usize| format!("{mark}{}", tables.features[*number].name);
            let more = whole.difference(&model).map(|number| name("+", number));
            more.chain(model.difference(&whole).map(|number| name("-", number)))
                .collect()
        };
        let features = [
            ("avx", Policy::Force),
            ("fma", Policy::Require),
            ("aes", Policy::Optional),
            ("sse2", Policy::Disable),
            ("nx", Policy::Forbid),
        ];
        assert_eq!(
            changed(with(CpuKind::Guest, &features)),
            ["+fma", "+avx", "-sse2", "-nx"]
        );
        assert_eq!(changed(with(CpuKind::Host, &features)), ["+fma", "+aes", "+avx"]);
    }
}
