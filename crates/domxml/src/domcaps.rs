//! `<domainCapabilities>`: what one emulator can give a guest. Written only.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{FormatFlags, Writer, Xml};

use crate::cpu::{CpuFeature, CpuModel, MaxPhysAddr};
use crate::devices::common::YesNo;

/// `<domainCapabilities>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainCapabilities {
    #[xml(text_child)]
    pub path: String,
    /// "kvm" or "qemu".
    #[xml(text_child)]
    pub domain: String,
    #[xml(text_child)]
    pub machine: Option<String>,
    #[xml(text_child)]
    pub arch: String,
    /// Most CPUs of a guest.
    #[xml(attr = "max", wrap = "vcpu")]
    pub max_vcpus: Option<u32>,
    #[xml(child)]
    pub iothreads: Group,
    #[xml(child)]
    pub os: Os,
    #[xml(children = "mode", wrap = "cpu")]
    pub cpu: Vec<CpuModeCaps>,
    #[xml(child = "memoryBacking")]
    pub memory_backing: Group,
    #[xml(child)]
    pub devices: Devices,
    #[xml(child)]
    pub features: Features,
}

impl DomainCapabilities {
    /// libvirt's bytes.
    #[must_use]
    pub fn format(&self) -> String {
        let mut writer = Writer::new(FormatFlags::NONE);
        writer.element("domainCapabilities", self);
        writer.finish()
    }
}

/// Whether there is something, and the values that it can have. Without it nothing is inside.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    #[xml(attr)]
    pub supported: YesNo,
    #[xml(children = "enum")]
    pub enums: Vec<Enum>,
}

impl Group {
    /// There is none.
    pub const NO: Self = Self {
        supported: YesNo::No,
        enums: Vec::new(),
    };

    /// There is, with these values.
    #[must_use]
    pub const fn with(enums: Vec<Enum>) -> Self {
        Self {
            supported: YesNo::Yes,
            enums,
        }
    }

    /// There is or not; nothing more is to say.
    #[must_use]
    pub fn simple(supported: bool) -> Self {
        Self {
            supported: supported.into(),
            enums: Vec::new(),
        }
    }
}

/// Values of one attribute.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Enum {
    #[xml(attr)]
    pub name: String,
    #[xml(text_child = "value")]
    pub values: Vec<String>,
}

impl Enum {
    /// Of a name and its values.
    #[must_use]
    pub fn new<V: Into<String>>(name: &str, values: impl IntoIterator<Item = V>) -> Self {
        Self {
            name: name.to_owned(),
            values: values.into_iter().map(Into::into).collect(),
        }
    }
}

/// `<os>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Os {
    #[xml(attr)]
    pub supported: YesNo,
    #[xml(children = "enum")]
    pub enums: Vec<Enum>,
    #[xml(child)]
    pub loader: LoaderCaps,
}

/// `<loader>`: files first, then values.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct LoaderCaps {
    #[xml(attr)]
    pub supported: YesNo,
    #[xml(text_child = "value")]
    pub files: Vec<String>,
    #[xml(children = "enum")]
    pub enums: Vec<Enum>,
}

/// One way to choose the CPU. `models` is for custom, `model` and what follows for host-model.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuModeCaps {
    #[xml(attr)]
    pub name: String,
    #[xml(attr)]
    pub supported: YesNo,
    #[xml(children = "enum")]
    pub enums: Vec<Enum>,
    #[xml(child)]
    pub model: Option<CpuModel>,
    #[xml(text_child)]
    pub vendor: Option<String>,
    #[xml(child)]
    pub maxphysaddr: Option<MaxPhysAddr>,
    #[xml(children = "feature")]
    pub features: Vec<CpuFeature>,
    #[xml(flatten)]
    pub models: Models,
}

/// Models that have names, each followed by what keeps it from running here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Models(pub Vec<Model>);

impl Xml for Models {
    fn read(_: xmlform::Node<'_>) -> Result<Self, xmlform::Error> {
        Ok(Self::default())
    }
    fn write_attrs(&self, _: &mut Writer) {}
    fn write_content(&self, w: &mut Writer) {
        for model in &self.0 {
            w.element("model", &model.shown);
            if !model.blockers.features.is_empty() {
                w.element("blockers", &model.blockers);
            }
        }
    }
}

/// A model that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub shown: NamedModel,
    pub blockers: Blockers,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedModel {
    /// "yes", "no" or "unknown".
    #[xml(attr)]
    pub usable: String,
    #[xml(attr)]
    pub deprecated: Option<YesNo>,
    #[xml(attr)]
    pub vendor: String,
    /// The same model with its version.
    #[xml(attr)]
    pub canonical: Option<String>,
    #[xml(text)]
    pub name: String,
}

/// Features that keep a model from running here.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Blockers {
    #[xml(attr)]
    pub model: String,
    #[xml(children = "feature")]
    pub features: Vec<Blocker>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocker {
    #[xml(attr)]
    pub name: String,
}

/// `<devices>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    #[xml(child)]
    pub disk: Group,
    #[xml(child)]
    pub graphics: Group,
    #[xml(child)]
    pub video: Group,
    #[xml(child)]
    pub hostdev: Group,
    #[xml(child)]
    pub rng: Group,
    #[xml(child)]
    pub filesystem: Group,
    #[xml(child)]
    pub tpm: Group,
    #[xml(child)]
    pub redirdev: Group,
    #[xml(child)]
    pub channel: Group,
    #[xml(child)]
    pub crypto: Group,
    #[xml(child)]
    pub interface: Group,
    #[xml(child)]
    pub panic: Group,
}

/// `<features>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    #[xml(child)]
    pub gic: Group,
    #[xml(child)]
    pub vmcoreinfo: Group,
    #[xml(child)]
    pub genid: Group,
    #[xml(child = "backingStoreInput")]
    pub backing_store_input: Group,
    #[xml(child)]
    pub backup: Group,
    #[xml(child = "async-teardown")]
    pub async_teardown: Group,
    #[xml(child)]
    pub ps2: Group,
    #[xml(child)]
    pub sev: Sev,
    #[xml(child)]
    pub sgx: Sgx,
    #[xml(child)]
    pub hyperv: Option<Group>,
    #[xml(child = "launchSecurity")]
    pub launch_security: Group,
}

/// `<sev>`: AMD's encrypted guests.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sev {
    #[xml(attr)]
    pub supported: YesNo,
    #[xml(text_child)]
    pub cbitpos: Option<u32>,
    #[xml(text_child = "reducedPhysBits")]
    pub reduced_phys_bits: Option<u32>,
    #[xml(text_child = "maxGuests")]
    pub max_guests: Option<u32>,
    #[xml(text_child = "maxESGuests")]
    pub max_es_guests: Option<u32>,
}

/// `<sgx>`: Intel's enclaves.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sgx {
    #[xml(attr)]
    pub supported: YesNo,
    #[xml(text_child)]
    pub flc: Option<YesNo>,
    #[xml(text_child)]
    pub sgx1: Option<YesNo>,
    #[xml(text_child)]
    pub sgx2: Option<YesNo>,
}
