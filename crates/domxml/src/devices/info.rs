//! What every device has: boot order, alias, option ROM, ACPI index and address.
//!
//! Written by hand because of the alias: one that the daemon made up is no part of the
//! configuration, one that a user chose is.

use xmlform::{Error, FormatFlags, Node, ParseFlags, Writer, Xml, field};

use super::address::Address;
use super::common::{OnOff, YesNo};

/// What an alias begins with that a user chose.
pub const USER_ALIAS_PREFIX: &str = "ua-";

/// The part that all devices share, in output order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceInfo {
    /// Place in the boot order.
    pub boot: Option<Boot>,
    /// QEMU's id of the device. Without the prefix `ua-` it was made up at start, and is
    /// neither read nor written in the inactive form.
    pub alias: Option<String>,
    /// First port of a USB controller's companions, for controllers in a group.
    pub master: Option<UsbMaster>,
    /// Option ROM, of PCI devices that may have one.
    pub rom: Option<Rom>,
    /// ACPI index, for stable names in the guest.
    pub acpi_index: Option<u32>,
    /// Where the guest sees the device.
    pub address: Option<Address>,
}

impl DeviceInfo {
    /// The PCI address, if that is what the device has.
    #[must_use]
    pub fn pci(&self) -> Option<&super::address::PciAddress> {
        match &self.address {
            Some(Address::Pci(address)) => Some(address),
            _ => None,
        }
    }

    /// Whether the alias is a user's own.
    #[must_use]
    pub fn has_user_alias(&self) -> bool {
        let alias = self.alias.as_deref();
        alias.is_some_and(|alias| alias.starts_with(USER_ALIAS_PREFIX))
    }

    fn writes_alias(&self, flags: FormatFlags) -> bool {
        self.has_user_alias() || !flags.has(FormatFlags::INACTIVE)
    }
}

impl Xml for DeviceInfo {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let acpi = node.child("acpi");
        let mut this = Self {
            boot: field::child_opt(node, "boot")?,
            // The first that says a name; an empty one is none.
            alias: node
                .children_named("alias")
                .find_map(|alias| alias.attr("name"))
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            master: field::child_opt(node, "master")?,
            rom: field::child_opt(node, "rom")?,
            acpi_index: match acpi {
                Some(acpi) => field::attr(acpi, "index")?,
                None => None,
            },
            address: Address::of(node)?,
        };
        if node.flags().has(ParseFlags::INACTIVE) && !this.has_user_alias() {
            this.alias = None;
        }
        Ok(this)
    }

    fn write_attrs(&self, _: &mut Writer) {}

    fn write_content(&self, w: &mut Writer) {
        if let Some(boot) = &self.boot {
            w.element("boot", boot);
        }
        if let Some(alias) = self.alias.as_deref().filter(|_| self.writes_alias(w.flags())) {
            w.element_with("alias", xmlform::Empty::Keep, |w| w.attr_str("name", alias));
        }
        if let Some(master) = &self.master {
            w.element("master", master);
        }
        if let Some(rom) = &self.rom {
            w.element_unless_empty("rom", rom);
        }
        if let Some(index) = self.acpi_index {
            w.element_with("acpi", xmlform::Empty::Keep, |w| {
                w.attr::<xmlform::codec::Plain, _>("index", &index);
            });
        }
        if let Some(address) = &self.address {
            w.element("address", address);
        }
    }
}

/// `<boot order='...'>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// From 1.
    #[xml(attr)]
    pub order: u32,
    /// Loader parameter of s390 guests.
    #[xml(attr)]
    pub loadparm: Option<String>,
}

/// `<master startport='...'>`.
#[derive(Xml, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsbMaster {
    /// First port of the master that this companion serves.
    #[xml(attr)]
    pub startport: u32,
}

/// `<rom>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Rom {
    /// Whether there is a ROM at all.
    #[xml(attr)]
    pub enabled: Option<YesNo>,
    /// Whether the ROM's BAR is visible to the guest.
    #[xml(attr)]
    pub bar: Option<OnOff>,
    /// Image on the host.
    #[xml(attr)]
    pub file: Option<String>,
}
