//! Devices that a client or a helper brings: `<smartcard>`, `<redirdev>`, `<redirfilter>`.

use xmlform::Xml;

use super::chardev::{ChardevKind, ChardevLog, ChardevProtocol, ChardevSource};
use super::common::{YesNo, words};
use super::info::DeviceInfo;

words! {
    /// Where a smart card comes from.
    SmartcardMode { Host "host", HostCertificates "host-certificates", Passthrough "passthrough" }
    /// Bus of a redirected device.
    RedirdevBus { Usb "usb" }
}

/// `<smartcard>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Smartcard {
    #[xml(attr)]
    pub mode: SmartcardMode,
    #[xml(attr = "type")]
    pub kind: Option<ChardevKind>,
    #[xml(children = "certificate")]
    pub certificates: Vec<Certificate>,
    #[xml(text_child)]
    pub database: Option<String>,
    #[xml(children = "source")]
    pub sources: Vec<ChardevSource>,
    #[xml(attr = "type", wrap = "protocol")]
    pub protocol: Option<ChardevProtocol>,
    #[xml(child)]
    pub log: Option<ChardevLog>,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// Name of a certificate in the host's database.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    #[xml(text)]
    pub name: String,
}

/// `<redirdev>`: a USB device of who watches the display.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Redirdev {
    #[xml(attr)]
    pub bus: RedirdevBus,
    #[xml(flatten)]
    pub chardev: super::chardev::Chardev,
    #[xml(flatten)]
    pub info: DeviceInfo,
}

/// `<redirfilter>`: which USB devices may be redirected.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirfilter {
    #[xml(children = "usbdev")]
    pub rules: Vec<RedirRule>,
}

/// A rule; the first that fits decides. What is absent fits anything.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct RedirRule {
    #[xml(attr, format = "super::codec::UpperHex<2>")]
    pub class: Option<i32>,
    #[xml(attr, format = "super::codec::UpperHex<4>")]
    pub vendor: Option<i32>,
    #[xml(attr, format = "super::codec::UpperHex<4>")]
    pub product: Option<i32>,
    /// Device version in binary-coded decimal, as written: `1.10`.
    #[xml(attr)]
    pub version: Option<String>,
    #[xml(attr)]
    pub allow: YesNo,
}
