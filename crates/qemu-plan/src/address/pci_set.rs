//! Which PCI functions are taken, and where the next device goes.
//!
//! Two uses: a dry run that grows buses as needed, to learn which controllers a guest lacks; then the real run on
//! the buses that there are.

use super::connect::{BusKind, Connect, Fit, fits, name_of};
use crate::error::{Area, Code, Error, Result};

/// A function on a PCI bus of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Place {
    /// PCI domain; only 0 is there.
    pub domain: u32,
    /// Index of the controller.
    pub bus: u32,
    /// Slot, 0 to 31.
    pub slot: u32,
    /// Function, 0 to 7.
    pub function: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.domain, self.bus, self.slot, self.function
        )
    }
}

/// Who chose a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// The document: more is allowed.
    ByUser,
    /// The document of a device that is plugged in: its bus must take that.
    ForPlugging,
    /// These rules.
    ByRules,
}

impl Chosen {
    /// The code of what is wrong with the place.
    const fn code(self) -> Code {
        match self {
            Self::ByUser | Self::ForPlugging => Code::Xml,
            Self::ByRules => Code::Internal,
        }
    }
}

/// Whether buses may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// A dry run: add what is missing.
    Allowed,
    /// The buses that there are must do.
    Fixed,
}

/// How conventional devices get a bus on a PCI Express machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyBridge {
    /// QEMU has `pcie-pci-bridge`.
    PcieToPci,
    /// Only `i82801b11-bridge` and `pci-bridge` behind it.
    DmiToPci,
}

/// Most buses of a guest.
const MAX_BUSES: usize = 256;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    functions: u8,
    aggregate: bool,
}

#[derive(Debug, Clone)]
struct Bus {
    kind: BusKind,
    /// Devices can come and go while the guest runs, as far as the kind goes.
    hotplug: bool,
    slots: [Slot; 32],
}

/// The PCI buses of a guest.
#[derive(Debug, Clone)]
pub struct PciSet {
    buses: Vec<Bus>,
    growth: Growth,
    legacy: LegacyBridge,
}

impl PciSet {
    /// A set of the given buses, the root first. At most 256 are kept.
    pub fn new(kinds: impl IntoIterator<Item = BusKind>, growth: Growth, legacy: LegacyBridge) -> Self {
        let buses = kinds.into_iter().take(MAX_BUSES).map(Bus::new).collect();
        Self {
            buses,
            growth,
            legacy,
        }
    }

    /// Nothing is plugged into this bus while the guest runs.
    pub fn forbid_hotplug(&mut self, index: u32) {
        if let Some(bus) = self.buses.get_mut(index as usize) {
            bus.hotplug = false;
        }
    }

    /// The kinds of the buses, by index.
    pub fn kinds(&self) -> impl Iterator<Item = BusKind> + '_ {
        self.buses.iter().map(|b| b.kind)
    }

    /// Number of buses.
    pub fn len(&self) -> usize {
        self.buses.len()
    }

    /// Whether there is no PCI at all.
    pub fn is_empty(&self) -> bool {
        self.buses.is_empty()
    }

    /// Whether anything is in the slot of a place.
    pub fn slot_in_use(&self, place: Place) -> bool {
        self.slot(place).is_some_and(|s| s.functions != 0)
    }

    /// Whether more than one function of the slot of a place is taken.
    pub fn slot_is_shared(&self, place: Place) -> bool {
        self.slot(place).is_some_and(|s| s.functions.count_ones() > 1)
    }

    /// Whether no slot at all is left on any bus.
    pub fn is_full(&self) -> bool {
        self.buses.iter().all(Bus::is_full)
    }

    /// Takes a place, and says which: the first conventional device of a PCI Express guest is moved to the bus
    /// behind the one it names when both are added for it.
    ///
    /// # Errors
    /// When the place does not exist, is taken, or is on a bus that the device does not fit.
    pub fn reserve(&mut self, named: Place, wanted: Connect, chosen: Chosen) -> Result<Place> {
        let mut place = named;
        if self.growth == Growth::Allowed {
            place.bus += self.grow_to(named.bus as usize, wanted)?;
        }
        self.validate(place, named, wanted, chosen)?;
        let code = chosen.code();
        let slot = self.slot_mut(place).ok_or_else(no_buses)?;
        let bit = 1u8 << (place.function & 7);
        if slot.functions & bit != 0 {
            return Err(Error::new(
                code,
                Area::Domain,
                format!("Attempted double use of PCI Address {place}"),
            ));
        }
        if slot.functions == 0 && wanted.any(Connect::AGGREGATE_SLOT) {
            slot.aggregate = true;
        }
        slot.functions |= bit;
        Ok(place)
    }

    /// Finds the next free place for a device and takes it.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve_next(&mut self, wanted: Connect, function: u32) -> Result<Place> {
        let place = self.next(wanted, function)?;
        self.reserve(place, wanted, Chosen::ByRules)
    }

    fn next(&mut self, wanted: Connect, function: u32) -> Result<Place> {
        if self.buses.is_empty() {
            return Err(no_buses());
        }
        if let Some(place) = self.find(0, wanted, function) {
            return Ok(place);
        }
        if self.growth == Growth::Allowed {
            let first_new = self.buses.len();
            self.grow_to(first_new, wanted)?;
            if let Some(place) = self.find(first_new, wanted, function) {
                return Ok(place);
            }
        }
        Err(Error::new(
            Code::Internal,
            Area::Domain,
            "No more available PCI slots",
        ))
    }

    fn find(&self, from: usize, wanted: Connect, function: u32) -> Option<Place> {
        let fitting = self.buses.iter().enumerate().skip(from);
        let mut fitting = fitting.filter(|(_, b)| fits(b.accepts(), wanted) == Fit::Fits);
        fitting.find_map(|(index, bus)| {
            let (slot, function) = bus.find(wanted, function)?;
            Some(Place {
                domain: 0,
                bus: u32::try_from(index).ok()?,
                slot,
                function,
            })
        })
    }

    /// Adds buses until `bus` exists. Conventional devices may need a bridge, and so one more: answers how many buses
    /// further the wanted one is.
    fn grow_to(&mut self, bus: usize, wanted: Connect) -> Result<u32> {
        if bus < self.buses.len() {
            return Ok(0);
        }
        let Some(root) = self.buses.first().map(|b| b.kind) else {
            return Err(no_buses());
        };
        if bus >= MAX_BUSES {
            return Err(Error::new(
                Code::Internal,
                Area::Domain,
                format!("Invalid PCI bus {bus}, must be <= 255"),
            ));
        }
        let legacy = wanted.any(Connect::PCI_DEVICE | Connect::PCI_BRIDGE);
        let kind = self.kind_to_add(root, legacy, wanted)?;
        if root == BusKind::PcieRoot && legacy && !self.accepts_bridge() {
            return Ok(self.add_legacy_bridge(bus));
        }
        self.buses.resize_with(bus + 1, || Bus::new(kind));
        Ok(0)
    }

    fn kind_to_add(&self, root: BusKind, legacy: bool, wanted: Connect) -> Result<BusKind> {
        if legacy {
            return Ok(BusKind::PciBridge);
        }
        if root == BusKind::PcieRoot && wanted.any(Connect::PCIE_DEVICE | Connect::UPSTREAM_PORT) {
            return Ok(BusKind::RootPort);
        }
        let message = if wanted.any(
            Connect::DOWNSTREAM_PORT
                | Connect::ROOT_PORT
                | Connect::DMI_TO_PCI_BRIDGE
                | Connect::EXPANDER_BUS
                | Connect::PCIE_EXPANDER_BUS
                | Connect::UPSTREAM_PORT,
        ) {
            format!(
                "a PCI slot is needed to connect a PCI controller model='{}', but none is available, and it cannot be automatically added",
                name_of(wanted)
            )
        } else {
            format!(
                "Cannot automatically add a new PCI bus for a device with connect flags {:02x}",
                wanted.bits()
            )
        };
        Err(Error::internal(message))
    }

    fn accepts_bridge(&self) -> bool {
        self.buses
            .iter()
            .any(|b| b.kind.rule().accepts.any(Connect::PCI_BRIDGE))
    }

    /// The first conventional bus of a PCI Express guest: two controllers, the first one used up by the second.
    /// Whoever asked for one bus gets the second; further ones are behind it.
    fn add_legacy_bridge(&mut self, bus: usize) -> u32 {
        let (below, above) = match self.legacy {
            LegacyBridge::PcieToPci => (BusKind::RootPort, BusKind::PcieToPciBridge),
            LegacyBridge::DmiToPci => (BusKind::DmiToPciBridge, BusKind::PciBridge),
        };
        let moved = bus == self.buses.len();
        let mut lower = Bus::new(below);
        lower.slots[0].functions = 0xff;
        self.buses.push(lower);
        self.buses.push(Bus::new(above));
        let length = self.buses.len().max(bus + 1);
        self.buses.resize_with(length, || Bus::new(BusKind::PciBridge));
        u32::from(moved)
    }

    /// Whether a device fits at a place; messages have the place that was named.
    fn validate(&self, place: Place, named: Place, wanted: Connect, chosen: Chosen) -> Result<()> {
        let code = chosen.code();
        let fail = |message: String| Err(Error::new(code, Area::Domain, message));
        if self.buses.is_empty() {
            return fail("No PCI buses available".to_owned());
        }
        if place.domain != 0 {
            return fail(format!(
                "Invalid PCI address {named}. Only PCI domain 0 is available"
            ));
        }
        let Some(bus) = self.buses.get(place.bus as usize) else {
            return fail(format!(
                "Invalid PCI address {named}. Only PCI buses up to {} are available",
                self.buses.len() - 1
            ));
        };
        if let Some(message) = misfit(place, bus.accepts(), wanted, chosen) {
            return fail(message);
        }
        let rule = bus.kind.rule();
        if place.slot < rule.min_slot {
            return fail(format!(
                "Invalid PCI address {named}. slot must be >= {}",
                rule.min_slot
            ));
        }
        if place.slot > rule.max_slot {
            return fail(format!(
                "Invalid PCI address {named}. slot must be <= {}",
                rule.max_slot
            ));
        }
        if place.function > 7 {
            return fail(format!("Invalid PCI address {named}. function must be <= 7"));
        }
        Ok(())
    }

    fn slot(&self, place: Place) -> Option<&Slot> {
        self.buses.get(place.bus as usize)?.slots.get(place.slot as usize)
    }

    fn slot_mut(&mut self, place: Place) -> Option<&mut Slot> {
        self.buses
            .get_mut(place.bus as usize)?
            .slots
            .get_mut(place.slot as usize)
    }
}

impl Bus {
    const fn new(kind: BusKind) -> Self {
        Self {
            kind,
            hotplug: true,
            slots: [Slot {
                functions: 0,
                aggregate: false,
            }; 32],
        }
    }

    fn accepts(&self) -> Connect {
        let accepts = self.kind.rule().accepts;
        if self.hotplug {
            accepts
        } else {
            accepts.without(Connect::HOTPLUGGABLE)
        }
    }

    fn usable(&self) -> impl Iterator<Item = (u32, &Slot)> {
        let rule = self.kind.rule();
        (0u32..)
            .zip(&self.slots)
            .filter(|(n, _)| (rule.min_slot..=rule.max_slot).contains(n))
    }

    fn is_full(&self) -> bool {
        self.usable().all(|(_, s)| s.functions != 0)
    }

    fn find(&self, wanted: Connect, function: u32) -> Option<(u32, u32)> {
        self.usable().find_map(|(n, slot)| {
            if slot.functions == 0 {
                return Some((n, function));
            }
            let shares = slot.aggregate && wanted.any(Connect::AGGREGATE_SLOT) && slot.functions != 0xff;
            shares.then(|| (n, slot.functions.trailing_ones()))
        })
    }
}

fn misfit(place: Place, mut accepts: Connect, wanted: Connect, chosen: Chosen) -> Option<String> {
    if wanted.any(Connect::INTEGRATED) && place.bus != 0 {
        return Some(format!(
            "The device at PCI address {place} needs to be an integrated device (bus=0)"
        ));
    }
    let mut wanted = wanted;
    if chosen != Chosen::ByRules {
        // A bridge that somebody puts somewhere is a device like others.
        if wanted.any(Connect::PCI_BRIDGE) {
            wanted = wanted.without(Connect::PCI_BRIDGE) | Connect::PCI_DEVICE;
        }
        if accepts.any(Connect::ENDPOINTS) {
            accepts |= Connect::ENDPOINTS;
        }
        accepts |= Connect::AUTOASSIGN;
    }
    if chosen == Chosen::ByUser {
        accepts |= Connect::HOTPLUGGABLE;
    }
    // The fixed devices of a chipset are put on the root complex by name, so AUTOASSIGN does not count here.
    match fits(accepts | Connect::AUTOASSIGN, wanted) {
        Fit::Fits | Fit::NotByItself => None,
        Fit::WrongKind => Some(format!(
            "The device at PCI address {place} cannot be plugged into the PCI controller with index='{}'. It requires a controller that accepts a {}.",
            place.bus,
            name_of(wanted)
        )),
        Fit::NoHotplug => Some(format!(
            "The device at PCI address {place} requires hotplug capability, but the PCI controller with index='{}' doesn't support hotplug",
            place.bus
        )),
    }
}

fn no_buses() -> Error {
    Error::new(Code::Xml, Area::Domain, "No PCI buses available")
}
