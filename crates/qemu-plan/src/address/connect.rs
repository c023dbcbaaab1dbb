//! What plugs into what: kinds of PCI connection, and what each PCI controller's bus accepts.

use std::ops::{BitAnd, BitOr, BitOrAssign};

/// A set of connection kinds and wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connect(u16);

impl Connect {
    /// Nothing: the device is not on a PCI bus.
    pub const NONE: Self = Self(0);
    /// May be placed without being told where.
    pub const AUTOASSIGN: Self = Self(1);
    /// Can be, or wants to be, plugged while the guest runs.
    pub const HOTPLUGGABLE: Self = Self(1 << 1);
    /// Several may share one slot as functions.
    pub const AGGREGATE_SLOT: Self = Self(1 << 2);
    /// A conventional PCI device.
    pub const PCI_DEVICE: Self = Self(1 << 3);
    /// A PCI Express device.
    pub const PCIE_DEVICE: Self = Self(1 << 4);
    /// `pcie-root-port`.
    pub const ROOT_PORT: Self = Self(1 << 5);
    /// `pcie-switch-upstream-port`.
    pub const UPSTREAM_PORT: Self = Self(1 << 6);
    /// `pcie-switch-downstream-port`.
    pub const DOWNSTREAM_PORT: Self = Self(1 << 7);
    /// `dmi-to-pci-bridge`.
    pub const DMI_TO_PCI_BRIDGE: Self = Self(1 << 8);
    /// `pci-expander-bus`.
    pub const EXPANDER_BUS: Self = Self(1 << 9);
    /// `pcie-expander-bus`.
    pub const PCIE_EXPANDER_BUS: Self = Self(1 << 10);
    /// `pci-bridge`.
    pub const PCI_BRIDGE: Self = Self(1 << 11);
    /// `pcie-to-pci-bridge`.
    pub const PCIE_TO_PCI_BRIDGE: Self = Self(1 << 13);

    /// Belongs on the root bus.
    pub const INTEGRATED: Self = Self(1 << 12);

    const TYPES: Self = Self(0x2ff8);
    /// Both kinds of endpoint.
    pub const ENDPOINTS: Self = Self(Self::PCI_DEVICE.0 | Self::PCIE_DEVICE.0);

    /// A conventional device that libvirt places by itself.
    pub const PCI: Self = Self(Self::PCI_DEVICE.0 | Self::AUTOASSIGN.0);
    /// A PCI Express device that libvirt places by itself.
    pub const PCIE: Self = Self(Self::PCIE_DEVICE.0 | Self::AUTOASSIGN.0);

    /// Whether any of `other` is in the set.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in the set.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The raw bits, for messages.
    pub const fn bits(self) -> u16 {
        self.0
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Connect {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for Connect {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

impl BitAnd for Connect {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Kind of PCI controller, as far as addresses care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BusKind {
    /// Conventional root bus.
    PciRoot,
    /// PCI Express root complex.
    PcieRoot,
    /// Conventional bridge.
    PciBridge,
    /// Bridge from the root complex to conventional PCI.
    DmiToPciBridge,
    /// Bridge from a PCI Express slot to conventional PCI.
    PcieToPciBridge,
    /// Port of the root complex.
    RootPort,
    /// Upstream side of a switch.
    UpstreamPort,
    /// Downstream side of a switch.
    DownstreamPort,
    /// Extra conventional root bus.
    ExpanderBus,
    /// Extra root complex.
    PcieExpanderBus,
}

/// What a bus offers.
#[derive(Debug, Clone, Copy)]
pub struct BusRule {
    /// Model name in the document.
    pub model: &'static str,
    /// How the controller itself is plugged in.
    pub plugs_into: Connect,
    /// What it accepts.
    pub accepts: Connect,
    /// First usable slot.
    pub min_slot: u32,
    /// Last usable slot.
    pub max_slot: u32,
}

macro_rules! connect {
    ($($name:ident)|*) => { Connect(0 $(| Connect::$name.0)*) };
}

/// One line a kind, in the order of [`BusKind`].
const RULES: [(BusKind, BusRule); 10] = [
    (
        BusKind::PciRoot,
        rule(
            "pci-root",
            Connect::NONE,
            connect!(AUTOASSIGN | HOTPLUGGABLE | INTEGRATED | PCI_DEVICE | PCI_BRIDGE | EXPANDER_BUS),
            1,
            31,
        ),
    ),
    (
        BusKind::PcieRoot,
        rule(
            "pcie-root",
            Connect::NONE,
            connect!(INTEGRATED | PCIE_DEVICE | ROOT_PORT | DMI_TO_PCI_BRIDGE | PCIE_EXPANDER_BUS),
            1,
            31,
        ),
    ),
    (
        BusKind::PciBridge,
        rule(
            "pci-bridge",
            Connect::PCI_BRIDGE,
            connect!(AUTOASSIGN | HOTPLUGGABLE | PCI_DEVICE | PCI_BRIDGE),
            1,
            31,
        ),
    ),
    (
        BusKind::DmiToPciBridge,
        rule(
            "dmi-to-pci-bridge",
            Connect::DMI_TO_PCI_BRIDGE,
            connect!(PCI_DEVICE | PCI_BRIDGE),
            0,
            31,
        ),
    ),
    (
        BusKind::PcieToPciBridge,
        rule(
            "pcie-to-pci-bridge",
            Connect::PCIE_TO_PCI_BRIDGE,
            connect!(AUTOASSIGN | HOTPLUGGABLE | PCI_DEVICE | PCI_BRIDGE),
            1,
            31,
        ),
    ),
    (
        BusKind::RootPort,
        rule(
            "pcie-root-port",
            connect!(ROOT_PORT | AGGREGATE_SLOT),
            connect!(AUTOASSIGN | HOTPLUGGABLE | PCIE_DEVICE | UPSTREAM_PORT | PCIE_TO_PCI_BRIDGE),
            0,
            0,
        ),
    ),
    (
        BusKind::UpstreamPort,
        rule(
            "pcie-switch-upstream-port",
            Connect::UPSTREAM_PORT,
            connect!(DOWNSTREAM_PORT),
            0,
            31,
        ),
    ),
    (
        BusKind::DownstreamPort,
        rule(
            "pcie-switch-downstream-port",
            Connect::DOWNSTREAM_PORT,
            connect!(AUTOASSIGN | HOTPLUGGABLE | PCIE_DEVICE | UPSTREAM_PORT | PCIE_TO_PCI_BRIDGE),
            0,
            0,
        ),
    ),
    (
        BusKind::ExpanderBus,
        rule(
            "pci-expander-bus",
            Connect::EXPANDER_BUS,
            connect!(AUTOASSIGN | HOTPLUGGABLE | PCI_DEVICE | PCI_BRIDGE),
            0,
            31,
        ),
    ),
    (
        BusKind::PcieExpanderBus,
        rule(
            "pcie-expander-bus",
            Connect::PCIE_EXPANDER_BUS,
            connect!(ROOT_PORT | DMI_TO_PCI_BRIDGE),
            0,
            31,
        ),
    ),
];

const fn rule(
    model: &'static str,
    plugs_into: Connect,
    accepts: Connect,
    min_slot: u32,
    max_slot: u32,
) -> BusRule {
    BusRule {
        model,
        plugs_into,
        accepts,
        min_slot,
        max_slot,
    }
}

impl BusKind {
    /// What this kind of bus offers.
    pub const fn rule(self) -> &'static BusRule {
        &RULES[self as usize].1
    }

    /// The kind that a model name of a document means.
    pub fn from_model(model: &str) -> Option<Self> {
        RULES.iter().find(|(_, r)| r.model == model).map(|(k, _)| *k)
    }

    /// Whether this is one of the two root buses.
    pub const fn is_root(self) -> bool {
        matches!(self, Self::PciRoot | Self::PcieRoot)
    }
}

/// Names of connection kinds, for messages.
const NAMES: &[(Connect, &str)] = &[
    (Connect::PCI_DEVICE, "standard PCI device"),
    (Connect::PCIE_DEVICE, "PCI Express device"),
    (Connect::ROOT_PORT, "pcie-root-port"),
    (Connect::UPSTREAM_PORT, "pcie-switch-upstream-port"),
    (Connect::DOWNSTREAM_PORT, "pcie-switch-downstream-port"),
    (Connect::DMI_TO_PCI_BRIDGE, "dmi-to-pci-bridge"),
    (Connect::PCIE_TO_PCI_BRIDGE, "pcie-to-pci-bridge"),
    (Connect::EXPANDER_BUS, "pci-expander-bus"),
    (Connect::PCIE_EXPANDER_BUS, "pcie-expander-bus"),
    (Connect::PCI_BRIDGE, "pci-bridge"),
];

/// What a device that wants `wanted` is called in messages.
pub(super) fn name_of(wanted: Connect) -> &'static str {
    NAMES
        .iter()
        .find(|(c, _)| wanted.any(*c))
        .map_or("PCI device", |(_, n)| n)
}

/// Whether nothing of a kind that plugs in is shared: `Ok`, or which of the two fails.
pub(super) fn fits(bus: Connect, device: Connect) -> Fit {
    if device.any(Connect::INTEGRATED) {
        return if bus.any(Connect::INTEGRATED) {
            Fit::Fits
        } else {
            Fit::WrongKind
        };
    }
    if !(bus & device).any(Connect::TYPES) {
        return Fit::WrongKind;
    }
    if device.any(Connect::HOTPLUGGABLE) && !bus.any(Connect::HOTPLUGGABLE) {
        return Fit::NoHotplug;
    }
    if device.any(Connect::AUTOASSIGN) && !bus.any(Connect::AUTOASSIGN) {
        return Fit::NotByItself;
    }
    Fit::Fits
}

/// What [`fits`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It fits.
    Fits,
    /// The bus accepts other kinds only.
    WrongKind,
    /// The device wants hot-plug, the bus has none.
    NoHotplug,
    /// The device would have to name its place.
    NotByItself,
}
