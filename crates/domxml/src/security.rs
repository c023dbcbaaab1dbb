//! Labels of the guest as a whole, keys, and memory encryption.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{Error, Node, Writer, Xml, field};

use crate::devices::common::{OnOff, YesNo, words};
use crate::units::Base16;

words! {
    /// Where a label comes from.
    SeclabelType { Dynamic "dynamic", Static "static", None "none" }
    /// A key that can be wrapped.
    CipherName { Aes "aes", Dea "dea" }
}

/// `<seclabel>` of the guest.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Seclabel {
    #[xml(attr = "type")]
    pub kind: Option<SeclabelType>,
    #[xml(attr)]
    pub model: Option<String>,
    /// Whether files are labelled for the guest.
    #[xml(attr)]
    pub relabel: Option<YesNo>,
    #[xml(text_child)]
    pub label: Option<String>,
    #[xml(text_child, when = "live")]
    pub imagelabel: Option<String>,
    #[xml(text_child)]
    pub baselabel: Option<String>,
    /// Whether the start made it, and no document has it: then it is no part of the configuration.
    #[xml(skip)]
    pub implicit: bool,
}

/// `<keywrap>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Keywrap {
    #[xml(children = "cipher")]
    pub ciphers: Vec<Cipher>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cipher {
    #[xml(attr)]
    pub name: CipherName,
    #[xml(attr)]
    pub state: OnOff,
}

/// `<launchSecurity>`, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchSecurity {
    /// AMD SEV and SEV-ES.
    Sev(Sev),
    /// AMD SEV-SNP.
    SevSnp(SevSnp),
    /// Protected virtualization of s390.
    S390Pv,
}

/// What the two kinds of SEV share.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SevCommon {
    #[xml(text_child, format = "auto")]
    pub cbitpos: Option<u32>,
    #[xml(text_child = "reducedPhysBits", format = "auto")]
    pub reduced_phys_bits: Option<u32>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sev {
    #[xml(attr = "kernelHashes")]
    pub kernel_hashes: Option<YesNo>,
    #[xml(flatten)]
    pub common: SevCommon,
    #[xml(text_child, format = "Base16<4>")]
    pub policy: Option<u32>,
    #[xml(text_child = "dhCert")]
    pub dh_cert: Option<String>,
    #[xml(text_child)]
    pub session: Option<String>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct SevSnp {
    #[xml(attr = "kernelHashes")]
    pub kernel_hashes: Option<YesNo>,
    #[xml(attr = "authorKey")]
    pub author_key: Option<YesNo>,
    #[xml(attr)]
    pub vcek: Option<YesNo>,
    #[xml(flatten)]
    pub common: SevCommon,
    #[xml(text_child, format = "Base16<8>")]
    pub policy: Option<u64>,
    #[xml(text_child = "guestVisibleWorkarounds")]
    pub guest_visible_workarounds: Option<String>,
    #[xml(text_child = "idBlock")]
    pub id_block: Option<String>,
    #[xml(text_child = "idAuth")]
    pub id_auth: Option<String>,
    #[xml(text_child = "hostData")]
    pub host_data: Option<String>,
}

impl Xml for LaunchSecurity {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        match node.attr("type") {
            Some("sev") => Sev::read(node).map(Self::Sev),
            Some("sev-snp") => SevSnp::read(node).map(Self::SevSnp),
            Some("s390-pv") => Ok(Self::S390Pv),
            Some(_) => Err(field::bad_attr(node, "type", "")),
            None => Err(field::missing_attr(node, "type")),
        }
    }

    fn write_attrs(&self, w: &mut Writer) {
        match self {
            Self::Sev(sev) => {
                w.attr_str("type", "sev");
                sev.write_attrs(w);
            }
            Self::SevSnp(snp) => {
                w.attr_str("type", "sev-snp");
                snp.write_attrs(w);
            }
            Self::S390Pv => w.attr_str("type", "s390-pv"),
        }
    }

    fn write_content(&self, w: &mut Writer) {
        match self {
            Self::Sev(sev) => sev.write_content(w),
            Self::SevSnp(snp) => snp.write_content(w),
            Self::S390Pv => {}
        }
    }
}
