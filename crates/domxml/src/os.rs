//! `<os>`: machine, firmware, kernel, boot order; and `<idmap>`.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::Xml;

use crate::devices::Source;
use crate::devices::common::{YesNo, words};

words! {
    /// How the guest boots when no firmware file is named.
    OsFirmware { Bios "bios", Efi "efi" }
    /// Property of a firmware that may be asked for.
    FirmwareFeatureName { EnrolledKeys "enrolled-keys", SecureBoot "secure-boot" }
    /// How a loader is put into the guest.
    LoaderType { Rom "rom", Pflash "pflash" }
    /// A family of devices to boot from.
    BootDevice { Fd "fd", Hd "hd", Cdrom "cdrom", Network "network" }
    /// Where SMBIOS strings come from.
    SmbiosMode { Emulate "emulate", Host "host", Sysinfo "sysinfo" }
    /// Kind of an ACPI table.
    AcpiTableType { Slic "slic", Raw "raw", Rawset "rawset", Msdm "msdm" }
}

/// `<os>`.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Os {
    #[xml(attr, blank, error = "XML error: unknown firmware value {}")]
    pub firmware: Option<OsFirmware>,
    #[xml(child = "type")]
    pub kind: Option<OsType>,
    #[xml(children = "feature", wrap = "firmware")]
    pub firmware_features: Vec<FirmwareFeature>,
    #[xml(child)]
    pub loader: Option<Loader>,
    #[xml(child)]
    pub nvram: Option<Nvram>,
    /// What a container runs; of OS type `exe`.
    #[xml(text_child)]
    pub init: Option<String>,
    #[xml(text_child)]
    pub kernel: Option<String>,
    #[xml(text_child)]
    pub initrd: Option<String>,
    #[xml(text_child)]
    pub cmdline: Option<String>,
    #[xml(text_child)]
    pub shim: Option<String>,
    #[xml(text_child)]
    pub dtb: Option<String>,
    #[xml(text_child)]
    pub root: Option<String>,
    #[xml(children = "table", wrap = "acpi")]
    pub acpi_tables: Vec<AcpiTable>,
    #[xml(children = "boot")]
    pub boot: Vec<Boot>,
    #[xml(child)]
    pub bootmenu: Option<BootMenu>,
    #[xml(child)]
    pub bios: Option<BiosOptions>,
    #[xml(attr = "mode", wrap = "smbios", lax)]
    pub smbios: Option<SmbiosMode>,
}

/// `<type>`: architecture and machine; the text is `hvm` for full virtualization.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct OsType {
    #[xml(attr)]
    pub arch: Option<String>,
    #[xml(attr)]
    pub machine: Option<String>,
    #[xml(text, default)]
    pub value: String,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirmwareFeature {
    #[xml(attr)]
    pub enabled: YesNo,
    #[xml(attr)]
    pub name: FirmwareFeatureName,
}

/// `<loader>`: a firmware image; without a path, what is asked of the one to be chosen.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Loader {
    #[xml(attr)]
    pub readonly: Option<YesNo>,
    #[xml(attr)]
    pub secure: Option<YesNo>,
    #[xml(attr = "type")]
    pub kind: Option<LoaderType>,
    #[xml(attr)]
    pub stateless: Option<YesNo>,
    #[xml(attr)]
    pub format: Option<String>,
    #[xml(text)]
    pub path: Option<String>,
}

/// `<nvram>`: the firmware's variables; a path, or a source as a disk has it.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Nvram {
    #[xml(attr)]
    pub template: Option<String>,
    #[xml(attr = "templateFormat")]
    pub template_format: Option<String>,
    #[xml(attr = "type")]
    pub kind: Option<crate::devices::StorageKind>,
    #[xml(attr)]
    pub format: Option<String>,
    #[xml(text)]
    pub path: Option<String>,
    #[xml(child)]
    pub source: Option<Source>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiTable {
    #[xml(attr = "type")]
    pub kind: AcpiTableType,
    #[xml(text, default)]
    pub path: String,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    #[xml(attr)]
    pub dev: BootDevice,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootMenu {
    #[xml(attr)]
    pub enable: Option<YesNo>,
    /// Milliseconds, at most 65535.
    #[xml(attr)]
    pub timeout: Option<u32>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BiosOptions {
    #[xml(attr, format = "YesOrNo")]
    pub useserial: Option<YesNo>,
    /// Milliseconds until a reboot when nothing boots; -1 for never, at most 65535.
    #[xml(attr = "rebootTimeout")]
    pub reboot_timeout: Option<i32>,
}

/// `yes`, or anything else for `no`.
pub enum YesOrNo {}

impl xmlform::codec::Codec<YesNo> for YesOrNo {
    fn parse(s: &str) -> Result<YesNo, xmlform::Expected> {
        Ok((s == "yes").into())
    }
    fn write(value: &YesNo, w: &mut xmlform::Writer) {
        w.push(value.as_str());
    }
}

/// `<idmap>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    #[xml(children = "uid")]
    pub uid: Vec<IdRange>,
    #[xml(children = "gid")]
    pub gid: Vec<IdRange>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRange {
    #[xml(attr, error = "XML error: invalid idmap start/target/count settings")]
    pub start: u32,
    #[xml(attr, error = "XML error: invalid idmap start/target/count settings")]
    pub target: u32,
    #[xml(attr, error = "XML error: invalid idmap start/target/count settings")]
    pub count: u32,
}
