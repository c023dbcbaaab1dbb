//! Elements of the namespace `qemu`: what is handed to QEMU past libvirt's model.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; units and limits are documented"
)]

use xmlform::{Error, FormatFlags, Node, Writer, Xml, field};

use crate::devices::common::words;

/// Its name in documents.
pub const NAMESPACE: xmlform::Namespace = xmlform::Namespace {
    uri: "http://libvirt.org/schemas/domain/qemu/1.0",
    prefix: "qemu",
};

words! {
    /// What QEMU does when something deprecated is used.
    DeprecationBehavior {
        None "none", Omit "omit", Reject "reject", Crash "crash",
    }
    /// Type of an overridden property.
    PropertyType {
        String "string", Signed "signed", Unsigned "unsigned", Bool "bool", Remove "remove",
    }
}

/// All of the namespace; declares it when anything is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QemuNamespace {
    pub commandline: Option<CommandLine>,
    pub capabilities: Option<Capabilities>,
    pub overrides: Option<Overrides>,
    pub deprecation: Option<Deprecation>,
}

impl QemuNamespace {
    /// Whether nothing of it would be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        if *self == Self::default() {
            return true;
        }
        let mut w = Writer::new(FormatFlags::NONE);
        self.write_content(&mut w);
        w.finish().is_empty()
    }
}

impl Xml for QemuNamespace {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        Ok(Self {
            commandline: field::child_merged(node, "qemu:commandline")?,
            capabilities: field::child_merged(node, "qemu:capabilities")?,
            overrides: field::child_merged(node, "qemu:override")?,
            deprecation: field::child_opt(node, "qemu:deprecation")?,
        })
    }

    fn write_attrs(&self, w: &mut Writer) {
        if !self.is_empty() {
            w.attr_str("xmlns:qemu", NAMESPACE.uri);
        }
    }

    fn write_content(&self, w: &mut Writer) {
        if let Some(value) = &self.commandline {
            w.element_unless_empty("qemu:commandline", value);
        }
        if let Some(value) = &self.capabilities {
            w.element_unless_empty("qemu:capabilities", value);
        }
        if let Some(value) = &self.overrides {
            w.element_unless_empty("qemu:override", value);
        }
        if let Some(value) = &self.deprecation {
            w.element_unless_empty("qemu:deprecation", value);
        }
    }
}

/// Arguments and environment of the QEMU process.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    #[xml(children = "qemu:arg")]
    pub args: Vec<Argument>,
    #[xml(children = "qemu:env")]
    pub env: Vec<Variable>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Argument {
    #[xml(attr, error = "internal error: No qemu command-line argument specified")]
    pub value: String,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Variable {
    #[xml(attr, error = "internal error: No qemu environment name specified")]
    pub name: String,
    #[xml(attr)]
    pub value: Option<String>,
}

/// Capabilities that a guest is to be treated as if QEMU had, or had not.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    #[xml(children = "qemu:add")]
    pub add: Vec<Capability>,
    #[xml(children = "qemu:del")]
    pub del: Vec<Capability>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Capability {
    #[xml(attr)]
    pub capability: String,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    #[xml(children = "qemu:device")]
    pub devices: Vec<DeviceOverride>,
}

/// Properties of the device with an alias.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOverride {
    #[xml(attr)]
    pub alias: String,
    #[xml(children = "qemu:property", wrap = "qemu:frontend")]
    pub frontend: Vec<Property>,
}

#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Property {
    #[xml(attr)]
    pub name: String,
    #[xml(attr = "type")]
    pub kind: PropertyType,
    #[xml(attr)]
    pub value: Option<String>,
}

#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deprecation {
    #[xml(attr, lax)]
    pub behavior: Option<DeprecationBehavior>,
}
