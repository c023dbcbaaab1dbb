//! Documents by which a guest's interfaces are made known to the daemons that serve them: a port of a network, and a
//! filter bound to the host's end.
#![expect(
    missing_docs,
    reason = "fields are libvirt's elements; what is not plain is documented"
)]

use xmlform::{Document, FormatFlags, Node, ParseFlags, Writer, Xml};

use crate::Error;
use crate::devices::common::YesNo;
use crate::devices::hostdev::HostdevAddress;
use crate::devices::interface::TypedHostdevAddress;
use crate::devices::interface::{
    ActualHostdev, ActualInterface, Interface, InterfaceKind, InterfaceSource, Mac, MacTableManager,
};
use crate::devices::netparts::{Bandwidth, FilterParameter, FilterRef, VirtualPort, Vlan};

/// Whose port it is.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct PortOwner {
    /// The guest's name.
    #[xml(text_child)]
    pub name: String,
    /// The guest's UUID.
    #[xml(text_child)]
    pub uuid: String,
}

/// `<networkport>`: what a guest asks of a network, and with the plug, what it got.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct NetworkPort {
    #[xml(text_child)]
    pub uuid: Option<String>,
    #[xml(child)]
    pub owner: PortOwner,
    /// The network's group of ports.
    #[xml(text_child)]
    pub group: Option<String>,
    #[xml(child)]
    pub mac: Mac,
    #[xml(child)]
    pub virtualport: Option<VirtualPort>,
    #[xml(child)]
    pub bandwidth: Option<Bandwidth>,
    #[xml(attr = "id", wrap = "class")]
    pub class_id: Option<u32>,
    #[xml(attr = "trustGuest", wrap = "rxfilters")]
    pub trust_guest_rx_filters: Option<YesNo>,
    #[xml(attr = "isolated", wrap = "port")]
    pub isolated: Option<YesNo>,
    #[xml(child)]
    pub vlan: Option<Vlan>,
    /// What the network gave; absent in what is asked.
    #[xml(child)]
    pub plug: Option<Plug>,
}

/// `<plug>`: what an interface is really plugged into. Which fields count follows from the type.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Plug {
    /// `none`, `network`, `bridge`, `direct` or `hostdev-pci`.
    #[xml(attr = "type")]
    pub kind: String,
    #[xml(attr)]
    pub bridge: Option<String>,
    #[xml(attr = "macTableManager")]
    pub mac_table_manager: Option<MacTableManager>,
    /// Of kind `direct`: the device below, and the mode of the macvtap.
    #[xml(attr)]
    pub dev: Option<String>,
    #[xml(attr)]
    pub mode: Option<String>,
    #[xml(attr)]
    pub managed: Option<YesNo>,
    /// Of kind `hostdev-pci`.
    #[xml(flatten)]
    pub hostdev: ActualHostdev,
    #[xml(child)]
    pub address: Option<PlugAddress>,
}

/// `<address>` of a card that a network gave: always of PCI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlugAddress(pub HostdevAddress);

impl Xml for PlugAddress {
    fn read(node: Node<'_>) -> Result<Self, xmlform::Error> {
        HostdevAddress::read(node).map(Self)
    }

    fn write_attrs(&self, w: &mut Writer) {
        self.0.write_attrs(w);
    }

    fn write_content(&self, _: &mut Writer) {}
}

impl NetworkPort {
    /// What an interface of type `network` asks of its network.
    #[must_use]
    pub fn asked(interface: &Interface, uuid: String, owner: PortOwner) -> Self {
        let address = interface
            .mac
            .as_ref()
            .map(|mac| mac.address.clone())
            .unwrap_or_default();
        Self {
            uuid: Some(uuid),
            owner,
            group: interface
                .source
                .as_ref()
                .and_then(|source| source.portgroup.clone()),
            mac: Mac {
                address,
                ..Mac::default()
            },
            virtualport: interface.virtualport.clone(),
            bandwidth: interface.bandwidth.clone(),
            trust_guest_rx_filters: interface.trust_guest_rx_filters,
            isolated: interface.isolated,
            vlan: interface.vlan.clone(),
            ..Self::default()
        }
    }

    /// The port that an interface of a running guest has, with its plug.
    #[must_use]
    pub fn had(interface: &Interface, uuid: String, owner: PortOwner) -> Self {
        let actual = interface.actual.clone().unwrap_or_default();
        let source = actual.source.unwrap_or_default();
        let kind = match actual.kind {
            InterfaceKind::Hostdev => "hostdev-pci",
            other => other.as_str(),
        };
        let plug = Plug {
            kind: kind.to_owned(),
            bridge: source.bridge,
            mac_table_manager: source.mac_table_manager,
            dev: source.dev,
            mode: source.mode,
            managed: actual.managed,
            hostdev: actual.hostdev.unwrap_or_default(),
            address: source.host_device.map(|address| PlugAddress(address.0)),
        };
        Self {
            virtualport: actual.virtualport,
            bandwidth: actual.bandwidth,
            class_id: actual.class_id,
            trust_guest_rx_filters: actual.trust_guest_rx_filters,
            isolated: actual.isolated,
            vlan: actual.vlan,
            plug: Some(plug),
            ..Self::asked(interface, uuid, owner)
        }
    }

    /// Reads a port's document.
    ///
    /// # Errors
    /// When it is not XML, its root is not `<networkport>`, or a value is not of its type.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document = Document::parse(text, &[], ParseFlags::NONE)?;
        let root = document.root();
        if !root.is("networkport") {
            return Err(Error::xml("XML does not contain expected 'networkport' element"));
        }
        Ok(Self::read(root)?)
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> String {
        let mut writer = Writer::new(FormatFlags::NONE);
        writer.element("networkport", self);
        writer.finish()
    }

    /// What the interface has become, as its live document keeps it.
    ///
    /// # Errors
    /// When the network gave no plug, or one of a kind that is not known.
    pub fn actual(&self) -> Result<ActualInterface, Error> {
        let plug = self.plug.clone().unwrap_or_default();
        let source = InterfaceSource {
            bridge: plug.bridge,
            mac_table_manager: plug.mac_table_manager,
            ..InterfaceSource::default()
        };
        let (kind, source, hostdev) = match plug.kind.as_str() {
            "network" => (InterfaceKind::Network, source, None),
            "bridge" => (InterfaceKind::Bridge, source, None),
            "direct" => (
                InterfaceKind::Direct,
                InterfaceSource {
                    dev: plug.dev,
                    mode: plug.mode,
                    ..InterfaceSource::default()
                },
                None,
            ),
            "hostdev-pci" => {
                let host_device = plug.address.map(|address| TypedHostdevAddress(address.0));
                (
                    InterfaceKind::Hostdev,
                    InterfaceSource {
                        host_device,
                        ..InterfaceSource::default()
                    },
                    Some(plug.hostdev),
                )
            }
            other => {
                return Err(Error::xml(format!(
                    "network port has an unknown plug type '{other}'"
                )));
            }
        };
        Ok(ActualInterface {
            kind,
            managed: plug.managed.filter(|_| kind == InterfaceKind::Hostdev),
            trust_guest_rx_filters: self.trust_guest_rx_filters,
            hostdev: hostdev.filter(|h| h.driver.is_some()),
            class_id: self.class_id,
            source: Some(source),
            vlan: self.vlan.clone(),
            virtualport: self.virtualport.clone(),
            bandwidth: self.bandwidth.clone(),
            isolated: self.isolated,
        })
    }
}

/// `<filterbinding>`: a filter at work on the host's end of an interface.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterBinding {
    #[xml(child)]
    pub owner: PortOwner,
    /// The host's end.
    #[xml(attr = "name", wrap = "portdev")]
    pub port_device: String,
    /// The device below a macvtap.
    #[xml(attr = "dev", wrap = "linkdev")]
    pub link_device: Option<String>,
    #[xml(child)]
    pub mac: Mac,
    #[xml(child)]
    pub filterref: FilterRef,
}

impl FilterBinding {
    /// The filter of an interface whose host's end exists; none if it has none.
    #[must_use]
    pub fn of(interface: &Interface, owner: PortOwner) -> Option<Self> {
        const MAC: &str = "MAC";
        let mut filterref = interface.filterref.clone()?;
        let port_device = interface.target.as_ref().and_then(|target| target.dev.clone())?;
        let address = interface
            .mac
            .as_ref()
            .map(|mac| mac.address.clone())
            .unwrap_or_default();
        if !filterref.parameters.iter().any(|parameter| parameter.name == MAC) {
            filterref.parameters.push(FilterParameter {
                name: MAC.to_owned(),
                value: address.clone(),
            });
        }
        let link_device = interface
            .actual
            .as_ref()
            .filter(|actual| actual.kind == InterfaceKind::Direct)
            .and_then(|actual| actual.source.as_ref())
            .and_then(|source| source.dev.clone());
        Some(Self {
            owner,
            port_device,
            link_device,
            mac: Mac {
                address,
                ..Mac::default()
            },
            filterref,
        })
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> String {
        let mut writer = Writer::new(FormatFlags::NONE);
        writer.element("filterbinding", self);
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERFACE: &str = "<domain type='qemu'><name>a</name><devices><interface type='network'><mac address='52:54:00:aa:00:01'/>\
        <source network='n' portgroup='g'/><target dev='vnet2'/><model type='virtio'/>\
        <filterref filter='f'><parameter name='IP' value='10.0.0.1'/></filterref></interface></devices></domain>";

    fn interface() -> Interface {
        crate::Domain::parse(INTERFACE, ParseFlags::NONE)
            .unwrap()
            .devices
            .interfaces
            .remove(0)
    }

    fn owner() -> PortOwner {
        PortOwner {
            name: "a".to_owned(),
            uuid: "41f9d15e-05dc-4524-8c78-491e95113433".to_owned(),
        }
    }

    #[test]
    fn a_port_is_asked_for_as_libvirt_asks() {
        let text = NetworkPort::asked(
            &interface(),
            "ddab70fd-0e5f-4ce0-a7ab-fc248a69cb06".to_owned(),
            owner(),
        )
        .document();
        let expected = "<networkport>\n  <uuid>ddab70fd-0e5f-4ce0-a7ab-fc248a69cb06</uuid>\n  <owner>\n    <name>a</name>\n    \
            <uuid>41f9d15e-05dc-4524-8c78-491e95113433</uuid>\n  </owner>\n  <group>g</group>\n  <mac address='52:54:00:aa:00:01'/>\n\
            </networkport>\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_plug_says_what_the_interface_becomes() {
        // The plug, the kind, and an attribute of the source.
        let table = [
            (
                "<plug type='network' bridge='virbr0' macTableManager='libvirt'/>",
                "<actual type='network'>",
                "bridge='virbr0'",
            ),
            (
                "<plug type='bridge' bridge='br0'/>",
                "<actual type='bridge'>",
                "bridge='br0'",
            ),
            (
                "<plug type='direct' dev='eth1' mode='vepa'/>",
                "<actual type='direct'>",
                "dev='eth1' mode='vepa'",
            ),
            (
                "<plug type='hostdev-pci' managed='yes'><driver name='vfio'/><address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></plug>",
                "<actual type='hostdev' managed='yes'>",
                "<address type='pci' domain='0x0000' bus='0x06' slot='0x02' function='0x0'/>",
            ),
        ];
        for (plug, kind, source) in table {
            let text = format!(
                "<networkport><uuid>u</uuid><owner><name>a</name><uuid>u</uuid></owner><mac address='m'/>{plug}</networkport>"
            );
            let mut writer = Writer::new(FormatFlags::NONE);
            writer.element("actual", &NetworkPort::parse(&text).unwrap().actual().unwrap());
            let actual = writer.finish();
            assert!(
                actual.contains(kind) && actual.contains(source),
                "{plug} became {actual}"
            );
            let port = NetworkPort::parse(&text).unwrap();
            let became = Interface {
                actual: Some(port.actual().unwrap()),
                ..interface()
            };
            assert_eq!(NetworkPort::had(&became, String::new(), owner()).plug, port.plug);
        }
        let none = "<networkport><owner><name>a</name><uuid>u</uuid></owner><mac address='m'/><plug type='none'/></networkport>";
        assert!(NetworkPort::parse(none).unwrap().actual().is_err());
        assert!(NetworkPort::parse("<network/>").is_err());
    }

    #[test]
    fn a_filter_gets_the_guests_address() {
        let text = FilterBinding::of(&interface(), owner()).unwrap().document();
        let expected = "<filterbinding>\n  <owner>\n    <name>a</name>\n    <uuid>41f9d15e-05dc-4524-8c78-491e95113433</uuid>\n  </owner>\n  \
            <portdev name='vnet2'/>\n  <mac address='52:54:00:aa:00:01'/>\n  <filterref filter='f'>\n    \
            <parameter name='IP' value='10.0.0.1'/>\n    <parameter name='MAC' value='52:54:00:aa:00:01'/>\n  </filterref>\n</filterbinding>\n";
        assert_eq!(text, expected);
    }
}
