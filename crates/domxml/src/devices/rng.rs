//! `<rng>`: a source of randomness.

use xmlform::Xml;

use super::chardev::{ChardevKind, ChardevLog, ChardevProtocol, ChardevSource};
use super::common::{VirtioDriver, VirtioModel, words};
use super::info::DeviceInfo;

words! {
    /// Where randomness comes from.
    RngBackendModel { Random "random", Egd "egd", Builtin "builtin" }
}

/// A source of randomness.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Rng {
    #[xml(attr)]
    pub model: VirtioModel,
    #[xml(child)]
    pub rate: Option<RngRate>,
    #[xml(child)]
    pub backend: Option<RngBackend>,
    #[xml(child)]
    pub driver: Option<VirtioDriver>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// How much a guest may take.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct RngRate {
    /// Bytes a period.
    #[xml(attr, blank, default, always)]
    pub bytes: u32,
    /// Milliseconds.
    #[xml(attr, blank)]
    pub period: Option<u32>,
}

/// `<backend>` of a source of randomness.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct RngBackend {
    #[xml(attr)]
    pub model: RngBackendModel,
    /// Character device of model `egd`.
    #[xml(attr = "type")]
    pub kind: Option<ChardevKind>,
    #[xml(children = "source")]
    pub sources: Vec<ChardevSource>,
    #[xml(attr = "type", wrap = "protocol")]
    pub protocol: Option<ChardevProtocol>,
    #[xml(child)]
    pub log: Option<ChardevLog>,
    /// File of model `random`; empty when there is none.
    #[xml(text, default, format = "super::codec::NotBlank")]
    pub path: String,
}
