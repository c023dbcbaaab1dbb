//! `<tpm>`.

use xmlform::Xml;

use super::common::{YesNo, words};
use super::info::DeviceInfo;
use super::private::TpmPrivate;

words! {
    /// TPM device the guest sees.
    TpmModel {
        TpmTis "tpm-tis", TpmCrb "tpm-crb", TpmSpapr "tpm-spapr",
        SpaprTpmProxy "spapr-tpm-proxy",
    }
    /// Who is behind a TPM.
    TpmBackendKind { Passthrough "passthrough", Emulator "emulator", External "external" }
    /// TPM specification.
    TpmVersion { V1_2 "1.2", V2_0 "2.0" }
    /// Kind of an emulator's state, or of an external emulator's socket.
    TpmSourceKind { File "file", Dir "dir", Unix "unix" }
    /// What is done with algorithms the host forbids.
    TpmRemoveDisabled { Check "check", FipsHost "fips-host" }
}

/// A TPM.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Tpm {
    #[xml(attr)]
    pub model: Option<TpmModel>,
    #[xml(child)]
    pub backend: Option<TpmBackend>,
    #[xml(flatten)]
    pub info: DeviceInfo,
    /// What the daemon keeps of the TPM while the guest runs.
    #[xml(child = "privateData", when = "status")]
    pub private_data: Option<TpmPrivate>,
}

/// `<backend>` of a TPM.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct TpmBackend {
    #[xml(attr = "type")]
    pub kind: TpmBackendKind,
    #[xml(attr)]
    pub version: Option<TpmVersion>,
    #[xml(attr)]
    pub persistent_state: Option<YesNo>,
    /// Level of the emulator's log.
    #[xml(attr)]
    pub debug: Option<u32>,
    #[xml(child)]
    pub encryption: Option<TpmEncryption>,
    #[xml(child)]
    pub active_pcr_banks: Option<PcrBanks>,
    #[xml(child)]
    pub source: Option<TpmSource>,
    #[xml(child)]
    pub profile: Option<TpmProfile>,
    /// Host device of kind `passthrough`.
    #[xml(child)]
    pub device: Option<TpmDevice>,
}

/// Secret that encrypts an emulator's state.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmEncryption {
    #[xml(attr)]
    pub secret: String,
}

/// PCR banks that are active.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct PcrBanks {
    #[xml(flag)]
    pub sha1: bool,
    #[xml(flag)]
    pub sha256: bool,
    #[xml(flag)]
    pub sha384: bool,
    #[xml(flag)]
    pub sha512: bool,
}

/// State of an emulator, or socket of one that somebody else runs.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmSource {
    #[xml(attr = "type")]
    pub kind: Option<TpmSourceKind>,
    #[xml(attr)]
    pub mode: Option<super::chardev::ChardevMode>,
    #[xml(attr)]
    pub path: Option<String>,
}

/// What an emulator's TPM can do.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmProfile {
    #[xml(attr)]
    pub source: Option<String>,
    #[xml(attr = "removeDisabled")]
    pub remove_disabled: Option<TpmRemoveDisabled>,
    #[xml(attr)]
    pub name: Option<String>,
}

/// A TPM of the host.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmDevice {
    #[xml(attr)]
    pub path: Option<String>,
}
