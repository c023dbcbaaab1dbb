//! `<sysinfo>`: SMBIOS strings, and files for the firmware.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{Empty, Error, FormatFlags, Node, Writer, Xml};

use crate::devices::common::words;

words! {
    /// What the entries are for.
    SysinfoType { Smbios "smbios", Fwcfg "fwcfg" }
}

/// The entries of each SMBIOS table, in output order. Others are dropped.
const TABLES: &[(&str, &[&str])] = &[
    ("bios", &["vendor", "version", "date", "release"]),
    (
        "system",
        &[
            "manufacturer",
            "product",
            "version",
            "serial",
            "uuid",
            "sku",
            "family",
        ],
    ),
    (
        "baseBoard",
        &[
            "manufacturer",
            "product",
            "version",
            "serial",
            "asset",
            "location",
        ],
    ),
    ("chassis", &["manufacturer", "version", "serial", "asset", "sku"]),
    (
        "processor",
        &[
            "socket_destination",
            "type",
            "family",
            "manufacturer",
            "signature",
            "version",
            "external_clock",
            "max_speed",
            "status",
            "serial_number",
            "part_number",
        ],
    ),
    (
        "memory_device",
        &[
            "size",
            "form_factor",
            "locator",
            "bank_locator",
            "type",
            "type_detail",
            "speed",
            "manufacturer",
            "serial_number",
            "part_number",
        ],
    ),
];

/// `<sysinfo>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysinfo {
    #[xml(attr = "type")]
    pub kind: SysinfoType,
    #[xml(child)]
    pub bios: Option<SmbiosTable>,
    #[xml(child)]
    pub system: Option<SmbiosTable>,
    #[xml(children = "baseBoard")]
    pub base_boards: Vec<SmbiosTable>,
    #[xml(child)]
    pub chassis: Option<SmbiosTable>,
    #[xml(text_child = "entry", wrap = "oemStrings")]
    pub oem_strings: Vec<String>,
    /// Of type `fwcfg`.
    #[xml(children = "entry")]
    pub files: Vec<FwcfgEntry>,
}

impl Sysinfo {
    /// Drops what another type has.
    pub(crate) fn drop_foreign(&mut self) {
        let kind = self.kind;
        *self = match kind {
            SysinfoType::Smbios => Self {
                files: Vec::new(),
                ..std::mem::take(self)
            },
            SysinfoType::Fwcfg => Self {
                kind,
                files: std::mem::take(&mut self.files),
                ..Self::default()
            },
        };
    }
}

/// `<sysinfo>` of a host.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSysinfo {
    #[xml(attr = "type")]
    pub kind: SysinfoType,
    #[xml(child)]
    pub bios: Option<SmbiosTable>,
    #[xml(child)]
    pub system: Option<SmbiosTable>,
    #[xml(children = "baseBoard")]
    pub base_boards: Vec<SmbiosTable>,
    #[xml(child)]
    pub chassis: Option<SmbiosTable>,
    #[xml(children = "processor")]
    pub processors: Vec<SmbiosTable>,
    #[xml(children = "memory_device")]
    pub memory_devices: Vec<SmbiosTable>,
    #[xml(text_child = "entry", wrap = "oemStrings")]
    pub oem_strings: Vec<String>,
}

impl HostSysinfo {
    /// libvirt's bytes.
    #[must_use]
    pub fn format(&self) -> String {
        let mut writer = Writer::new(FormatFlags::NONE);
        writer.element("sysinfo", self);
        writer.finish()
    }
}

/// One SMBIOS table: names and strings, in the table's own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmbiosTable {
    pub entries: Vec<(&'static str, String)>,
}

impl SmbiosTable {
    /// The string of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.entries.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Xml for SmbiosTable {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let table = TABLES.iter().find(|(name, _)| *name == node.name());
        let names = table.map(|(_, names)| *names).unwrap_or_default();
        let value = |name: &str| {
            let mut entries = node.children_named("entry");
            entries.find(|e| e.attr("name") == Some(name))
        };
        let entries = names.iter().filter_map(|name| {
            let text = value(name)?.text();
            (!text.is_empty()).then(|| (*name, text.to_owned()))
        });
        Ok(Self {
            entries: entries.collect(),
        })
    }

    fn write_attrs(&self, _: &mut Writer) {}

    fn write_content(&self, w: &mut Writer) {
        for (name, value) in &self.entries {
            w.element_with("entry", Empty::Keep, |w| {
                w.attr_str("name", name);
                w.text::<xmlform::codec::Plain, String>(value);
            });
        }
    }
}

/// A value that the firmware can read by name, or a file with it.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct FwcfgEntry {
    #[xml(attr, error = "XML error: Firmware entry is missing 'name' attribute")]
    pub name: String,
    #[xml(attr)]
    pub file: Option<String>,
    #[xml(text)]
    pub value: Option<String>,
}
