//! Where a guest sees a device. One enum, because exactly one bus is meant; the attributes
//! depend on `type`, so reading and writing is by hand.

use xmlform::codec::{Auto, Hex};
use xmlform::{Empty, Error, Node, Writer, Xml, field};

use super::codec::HexWord;
use super::common::{OnOff, words};

words! {
    /// Bus of an address, or that there is none.
    AddressKind {
        Pci "pci", Drive "drive", VirtioSerial "virtio-serial", Ccid "ccid", Usb "usb",
        SpaprVio "spapr-vio", Ccw "ccw", VirtioMmio "virtio-mmio", Isa "isa", Dimm "dimm",
        Unassigned "unassigned",
    }
}

/// `<address type='...'>` of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Pci(PciAddress),
    Drive(DriveAddress),
    VirtioSerial(VirtioSerialAddress),
    Ccid(CcidAddress),
    Usb(UsbAddress),
    SpaprVio(SpaprVioAddress),
    Ccw(CcwAddress),
    VirtioMmio,
    Isa(IsaAddress),
    Dimm(DimmAddress),
    /// The device is left out of the guest on purpose.
    Unassigned,
}

impl Address {
    /// Reads the address of the device whose element is given.
    ///
    /// # Errors
    /// When a part is not of its type, or `type` is absent or unknown.
    pub fn of(device: Node<'_>) -> Result<Option<Self>, Error> {
        field::child_opt(device, "address")
    }

    /// Bus of the address.
    #[must_use]
    pub const fn kind(&self) -> AddressKind {
        match self {
            Self::Pci(_) => AddressKind::Pci,
            Self::Drive(_) => AddressKind::Drive,
            Self::VirtioSerial(_) => AddressKind::VirtioSerial,
            Self::Ccid(_) => AddressKind::Ccid,
            Self::Usb(_) => AddressKind::Usb,
            Self::SpaprVio(_) => AddressKind::SpaprVio,
            Self::Ccw(_) => AddressKind::Ccw,
            Self::VirtioMmio => AddressKind::VirtioMmio,
            Self::Isa(_) => AddressKind::Isa,
            Self::Dimm(_) => AddressKind::Dimm,
            Self::Unassigned => AddressKind::Unassigned,
        }
    }
}

impl Xml for Address {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let kind = field::attr_required::<xmlform::codec::Plain, AddressKind>(node, "type")?;
        Ok(match kind {
            AddressKind::Pci => Self::Pci(Xml::read(node)?),
            AddressKind::Drive => Self::Drive(Xml::read(node)?),
            AddressKind::VirtioSerial => Self::VirtioSerial(Xml::read(node)?),
            AddressKind::Ccid => Self::Ccid(Xml::read(node)?),
            AddressKind::Usb => {
                let mut address = UsbAddress::read(node)?;
                address.port = address.port.filter(|port| !port.way().is_empty());
                Self::Usb(address)
            }
            AddressKind::SpaprVio => Self::SpaprVio(Xml::read(node)?),
            AddressKind::Ccw => Self::Ccw(CcwAddress {
                place: CcwPlace::of(node)?,
            }),
            AddressKind::VirtioMmio => Self::VirtioMmio,
            AddressKind::Isa => Self::Isa(Xml::read(node)?),
            AddressKind::Dimm => Self::Dimm(Xml::read(node)?),
            AddressKind::Unassigned => Self::Unassigned,
        })
    }

    fn write_attrs(&self, w: &mut Writer) {
        w.attr_str("type", self.kind().as_str());
        match self {
            Self::Pci(address) => address.write_attrs(w),
            Self::Drive(address) => address.write_attrs(w),
            Self::VirtioSerial(address) => address.write_attrs(w),
            Self::Ccid(address) => address.write_attrs(w),
            Self::Usb(address) => address.write_attrs(w),
            Self::SpaprVio(address) => address.write_attrs(w),
            Self::Ccw(CcwAddress { place: Some(place) }) => place.write_attrs(w),
            Self::Isa(address) => address.write_attrs(w),
            Self::Dimm(address) => address.write_attrs(w),
            Self::Ccw(CcwAddress { place: None }) | Self::VirtioMmio | Self::Unassigned => {}
        }
    }

    fn write_content(&self, w: &mut Writer) {
        if let Self::Pci(address) = self {
            address.write_content(w);
        }
    }
}

/// A PCI function of the guest. All zero means: not assigned yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u32,
    pub slot: u32,
    pub function: u32,
    pub multifunction: Option<OnOff>,
    pub zpci: Option<Zpci>,
}

impl PciAddress {
    /// Whether nothing was said: only the bus kind is known, the place is to be chosen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.domain == 0 && self.bus == 0 && self.slot == 0
    }
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            domain,
            bus,
            slot,
            function,
            ..
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    }
}

impl Xml for PciAddress {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let part = |name| field::attr_opt::<Auto, u32>(node, name).map(Option::unwrap_or_default);
        Ok(Self {
            domain: part("domain")?,
            bus: part("bus")?,
            slot: part("slot")?,
            function: part("function")?,
            multifunction: field::attr(node, "multifunction")?,
            zpci: field::child_opt(node, "zpci")?,
        })
    }

    fn write_attrs(&self, w: &mut Writer) {
        if !self.is_empty() {
            w.attr::<Hex<4>, _>("domain", &self.domain);
            w.attr::<Hex<2>, _>("bus", &self.bus);
            w.attr::<Hex<2>, _>("slot", &self.slot);
            w.attr::<Hex<1>, _>("function", &self.function);
        }
        field::write_attr_opt::<xmlform::codec::Plain, _>(w, "multifunction", self.multifunction.as_ref());
    }

    fn write_content(&self, w: &mut Writer) {
        if let Some(zpci) = &self.zpci {
            w.element_with("zpci", Empty::Drop, |w| zpci.write_attrs(w));
        }
    }
}

/// Identity of a PCI function on s390.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Zpci {
    #[xml(attr, format = "hex4")]
    pub uid: Option<u32>,
    #[xml(attr, format = "hex8")]
    pub fid: Option<u32>,
}

/// A unit on a disk controller.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DriveAddress {
    #[xml(attr, default, always)]
    pub controller: u32,
    #[xml(attr, default, always)]
    pub bus: u32,
    #[xml(attr, default, always)]
    pub target: u32,
    #[xml(attr, default, always)]
    pub unit: u32,
}

/// A port of a virtio-serial controller. Port 0 is reserved for the console of old guests.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VirtioSerialAddress {
    #[xml(attr, default, always)]
    pub controller: u32,
    #[xml(attr, default, always)]
    pub bus: u32,
    #[xml(attr, default, always)]
    pub port: u32,
}

/// A slot of a smart card reader.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CcidAddress {
    #[xml(attr, default, always)]
    pub controller: u32,
    #[xml(attr, default, always)]
    pub slot: u32,
}

/// A USB port, as a path through hubs: `1.2.1`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UsbAddress {
    #[xml(attr, default, always)]
    pub bus: u32,
    /// When absent, not assigned yet.
    #[xml(attr)]
    pub port: Option<UsbPort>,
}

/// A register of pSeries' virtual bus.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpaprVioAddress {
    #[xml(attr, format = "HexWord<8>")]
    pub reg: Option<u64>,
}

/// A channel subsystem address of s390.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CcwAddress {
    pub place: Option<CcwPlace>,
}

/// Place in the channel subsystem.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CcwPlace {
    #[xml(attr, format = "hex")]
    pub cssid: u32,
    #[xml(attr, format = "hex")]
    pub ssid: u32,
    #[xml(attr, format = "hex4")]
    pub devno: u32,
}

/// An ISA device's port and interrupt.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IsaAddress {
    #[xml(attr, format = "HexWord<1>")]
    pub iobase: Option<u32>,
    #[xml(attr, format = "HexWord<1>")]
    pub irq: Option<u32>,
}

/// A memory slot and the guest-physical address of the module.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DimmAddress {
    #[xml(attr, default, always)]
    pub slot: u32,
    #[xml(attr, format = "HexWord<1>")]
    pub base: Option<u64>,
}

impl CcwPlace {
    fn of(node: Node<'_>) -> Result<Option<Self>, Error> {
        let named = ["cssid", "ssid", "devno"]
            .iter()
            .any(|name| node.attr(name).is_some());
        if named {
            Self::read(node).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// Most hubs between a USB device and its root port, the root port included.
const USB_PORT_DEPTH: usize = 4;

/// A USB port as the way to it: the root port, then the port of each hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UsbPort([u32; USB_PORT_DEPTH]);

impl UsbPort {
    /// A port by its way; none when that is too long or has a zero.
    #[must_use]
    pub fn new(way: &[u32]) -> Option<Self> {
        if way.is_empty() || way.len() > USB_PORT_DEPTH || way.contains(&0) {
            return None;
        }
        let mut port = Self::default();
        port.0[..way.len()].copy_from_slice(way);
        Some(port)
    }

    /// The way to the port.
    #[must_use]
    pub fn way(&self) -> &[u32] {
        let length = self.0.iter().position(|step| *step == 0);
        &self.0[..length.unwrap_or(USB_PORT_DEPTH)]
    }
}

impl std::fmt::Display for UsbPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, step) in self.way().iter().enumerate() {
            let dot = if i == 0 { "" } else { "." };
            write!(f, "{dot}{step}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for UsbPort {
    type Err = xmlform::Expected;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const EXPECTED: xmlform::Expected = xmlform::Expected("Expected a USB port");
        let way: Result<Vec<u32>, _> = s
            .split('.')
            .take(USB_PORT_DEPTH + 1)
            .map(|step| step.trim_start().parse())
            .collect();
        let way = way.map_err(|_| EXPECTED)?;
        if way.len() > USB_PORT_DEPTH {
            return Err(EXPECTED);
        }
        // A step of 0 ends the way; a way of no step is no port yet.
        let length = way.iter().position(|step| *step == 0).unwrap_or(way.len());
        let mut port = Self::default();
        port.0[..length].copy_from_slice(&way[..length]);
        Ok(port)
    }
}

impl xmlform::Value for UsbPort {
    fn parse(s: &str) -> Result<Self, xmlform::Expected> {
        s.parse()
    }

    fn write(&self, w: &mut Writer) {
        w.push(&self.to_string());
    }
}
