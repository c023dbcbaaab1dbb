//! `<device>`: a device of the host as the daemon of node devices describes it. Only what a guest's driver needs of it is
//! read: its name, and where on PCI it is.
#![expect(missing_docs, reason = "fields are libvirt's elements")]

use xmlform::{ParseFlags, Xml};

use crate::Error;
use crate::parse::read_root;

/// A device of the host.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDevice {
    #[xml(text_child)]
    pub name: String,
    #[xml(children = "capability")]
    pub capabilities: Vec<NodeCapability>,
}

/// What a device is. Of type `pci` it has all the numbers.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCapability {
    #[xml(attr = "type")]
    pub kind: Option<String>,
    #[xml(text_child)]
    pub domain: Option<u32>,
    #[xml(text_child)]
    pub bus: Option<u32>,
    #[xml(text_child)]
    pub slot: Option<u32>,
    #[xml(text_child)]
    pub function: Option<u32>,
}

/// A place on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciPlace {
    pub domain: u32,
    pub bus: u32,
    pub slot: u32,
    pub function: u32,
}

impl NodeDevice {
    /// Reads the document of a device.
    ///
    /// # Errors
    /// When it is not XML, its root is not `<device>`, or a value is not of its type.
    pub fn parse(text: &str) -> Result<Self, Error> {
        read_root(text, "device", ParseFlags::NONE)
    }

    /// Where on PCI it is, if it is there.
    #[must_use]
    pub fn pci(&self) -> Option<PciPlace> {
        let found = self
            .capabilities
            .iter()
            .find(|c| c.kind.as_deref() == Some("pci"))?;
        Some(PciPlace {
            domain: found.domain?,
            bus: found.bus?,
            slot: found.slot?,
            function: found.function?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_tells_where_on_pci_it_is() {
        let text = "<device><name>pci_0000_06_02_1</name><path>/sys/devices</path><capability type='pci'><class>0x020000</class>\
            <domain>0</domain><bus>6</bus><slot>2</slot><function>1</function><capability type='phys_function'/></capability></device>";
        let device = NodeDevice::parse(text).unwrap();
        assert_eq!(
            device.pci(),
            Some(PciPlace {
                domain: 0,
                bus: 6,
                slot: 2,
                function: 1
            })
        );
        let text = "<device><name>net_lo</name><capability type='net'><interface>lo</interface></capability></device>";
        let device = NodeDevice::parse(text).unwrap();
        assert_eq!((device.name.as_str(), device.pci()), ("net_lo", None));
    }
}
