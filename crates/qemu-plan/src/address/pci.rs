//! PCI addresses of a whole document: which controllers are missing, then who goes where.

use domxml::devices::{
    Address, Controller, ControllerKind, ControllerTarget, DeviceInfo, DeviceMut, DeviceRef, Devices, OnOff,
    PciAddress, PciModelName, Place as DevicePlace, UsbModel,
};

use super::candidate::{self, Candidate, Role, Slots};
use super::chipset::{self, Chipset};
use super::connect::{BusKind, Connect};
use super::pci_set::{Chosen, Growth, LegacyBridge, PciSet, Place};
use crate::error::{Error, Result};
use crate::facts::{Age, insert_controller};

/// Gives every PCI device a place, and adds the controllers that this takes.
///
/// # Errors
/// Libvirt's, when a given address is wrong or there is no room.
pub(super) fn assign(devices: &mut Devices, legacy: LegacyBridge, age: Age) -> Result<()> {
    if devices
        .controllers
        .iter()
        .any(|c| c.kind == ControllerKind::Pci && c.model.is_none())
    {
        return Err(Error::internal("PCI controller model was not set correctly"));
    }
    let Some(root) = root(devices).or_else(|| first_bus(devices)) else {
        return no_pci(devices);
    };
    let given = highest_index(devices);
    let mut trial = devices.clone();
    let mut set = PciSet::new(bus_kinds(&trial, root), Growth::Allowed, legacy);
    place_all(&mut trial, &mut set, Reserve::SpareOn(root))?;
    if root == BusKind::PcieRoot && age == Age::New && given == 0 && set.len() > 1 {
        set.reserve_next(Connect::PCIE | Connect::HOTPLUGGABLE, 0)?;
    }
    adopt_moved(devices, &mut trial, Slots::of(root));
    add_controllers(devices, &set);
    let mut set = PciSet::new(bus_kinds(devices, root), Growth::Fixed, legacy);
    place_all(devices, &mut set, Reserve::Nothing)?;
    mark_multifunction(devices, &set, root);
    name_controllers(devices)
}

/// Devices that named a place and were moved to another bus keep the new one.
fn adopt_moved(devices: &mut Devices, trial: &mut Devices, slots: Slots) {
    let bus = |c: Candidate<'_>| place_of(c.info).map(|place| place.bus);
    let moved: Vec<_> = candidate::devices(trial, slots).into_iter().map(bus).collect();
    for (c, bus) in candidate::devices(devices, slots).into_iter().zip(moved) {
        if let (Some(place), Some(bus)) = (place_of(c.info), bus) {
            set_place(c.info, Place { bus, ..place }, None);
        }
    }
}

/// Gives the device at `new` a place on a bus that takes hot-plug, or checks the one that it names; no bus is added.
///
/// # Errors
/// When there is no room, or its place is taken or takes no hot-plug.
pub(crate) fn plug(devices: &mut Devices, new: DevicePlace) -> Result<()> {
    let Some(root) = root(devices) else {
        return no_pci(devices);
    };
    let slots = Slots::of(root);
    // Which bridge could be added does not matter here: none is.
    let mut set = PciSet::new(bus_kinds(devices, root), Growth::Fixed, LegacyBridge::PcieToPci);
    let closed = devices.controllers.iter().filter(|c| takes_no_hotplug(c));
    closed
        .filter_map(|c| c.index)
        .for_each(|index| set.forbid_hotplug(index));
    // The new device is looked at last: what it names is judged by what the others have.
    let own = devices.get_mut(new).and_then(DeviceMut::into_info);
    let Some(named) = own.map(|info| info.address.take()) else {
        return Ok(());
    };
    let is_pci = matches!(named, None | Some(Address::Pci(_)));
    collect(devices, &mut set, slots)?;
    reserve_fixed(&mut set, root)?;
    let own: *const DeviceInfo = match devices.get(new).and_then(DeviceRef::info) {
        Some(info) => info,
        None => return Ok(()),
    };
    let all = candidate::devices(devices, slots);
    let found = all.into_iter().find(|c| std::ptr::eq(&*c.info, own));
    match found.filter(|_| is_pci) {
        Some(c) => {
            c.info.address = named;
            plug_one(c, &mut set)
        }
        None => {
            if let Some(info) = devices.get_mut(new).and_then(DeviceMut::into_info) {
                info.address = named;
            }
            Ok(())
        }
    }
}

fn plug_one(c: Candidate<'_>, set: &mut PciSet) -> Result<()> {
    let wanted = c.wanted | Connect::HOTPLUGGABLE;
    match place_of(c.info) {
        Some(place) if place.function != 0 => Err(Error::internal(
            "Only PCI device addresses with function=0 are supported",
        )),
        Some(place) => set.reserve(place, wanted, Chosen::ForPlugging).map(drop),
        None => {
            let place = set.reserve_next(wanted, 0)?;
            set_place(c.info, place, None);
            Ok(())
        }
    }
}

/// What a chipset has in fixed places.
fn reserve_fixed(set: &mut PciSet, root: BusKind) -> Result<()> {
    let fixed: &[(u32, u32)] = if root == BusKind::PcieRoot {
        &[(0x1f, 0), (0x1f, 3)]
    } else {
        &[(1, 0)]
    };
    for (slot, function) in fixed {
        let place = Place {
            domain: 0,
            bus: 0,
            slot: *slot,
            function: *function,
        };
        if !set.slot_in_use(place) {
            set.reserve(place, Connect::ENDPOINTS, Chosen::ByUser)?;
        }
    }
    Ok(())
}

fn takes_no_hotplug(c: &Controller) -> bool {
    c.kind == ControllerKind::Pci && c.target.as_ref().and_then(|t| t.hotplug) == Some(OnOff::Off)
}

/// Whether the device at a place has others in its PCI slot.
pub(crate) fn shares_slot(devices: &Devices, place: DevicePlace) -> bool {
    let slot = |info: &DeviceInfo| place_of(info).map(|p| (p.domain, p.bus, p.slot));
    let Some(own) = devices.get(place).and_then(DeviceRef::info).and_then(slot) else {
        return false;
    };
    let infos = devices.iter().filter_map(DeviceRef::info);
    infos.filter(|info| slot(info) == Some(own)).count() > 1
}

/// A guest without PCI may have no device that needs it.
fn no_pci(devices: &mut Devices) -> Result<()> {
    let all = candidate::devices(devices, Slots::of(BusKind::PciRoot));
    let mut plain = all.into_iter().filter(|c| c.role != Role::FirstIde);
    if plain.any(|c| is_wanted(c.info) || c.info.pci().is_some()) {
        return Err(Error::xml("No PCI buses available"));
    }
    Ok(())
}

/// The root bus of a guest; `None` when it has no PCI.
pub(crate) fn root(devices: &Devices) -> Option<BusKind> {
    let mut pci = devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Pci);
    pci.find(|c| c.index == Some(0))
        .and_then(kind_of)
        .filter(|k| k.is_root())
}

/// What stands at the root where there are buses and none is one.
fn first_bus(devices: &Devices) -> Option<BusKind> {
    let mut buses = pci_indexes(devices);
    let first = buses.next()?;
    Some(match first {
        (0, kind) => kind,
        _ => BusKind::PciBridge,
    })
}

fn kind_of(c: &Controller) -> Option<BusKind> {
    BusKind::from_model(c.model.as_deref()?)
}

fn pci_indexes(devices: &Devices) -> impl Iterator<Item = (u32, BusKind)> + '_ {
    let pci = devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Pci);
    pci.filter_map(|c| Some((c.index?, kind_of(c)?)))
}

fn highest_index(devices: &Devices) -> u32 {
    pci_indexes(devices).map(|(i, _)| i).max().unwrap_or(0)
}

/// The kind of every bus up to the highest one named; gaps are of the kind that a machine would grow.
fn bus_kinds(devices: &Devices, root: BusKind) -> Vec<BusKind> {
    let gap = if root == BusKind::PcieRoot {
        BusKind::RootPort
    } else {
        BusKind::PciBridge
    };
    let highest = highest_index(devices).min(255);
    let mut kinds = vec![gap; highest as usize + 1];
    for (index, kind) in pci_indexes(devices) {
        if let Some(slot) = kinds.get_mut(index as usize) {
            *slot = kind;
        }
    }
    kinds
}

/// What a run sets aside that no device uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reserve {
    Nothing,
    /// A slot of the root bus for a bridge that may be needed.
    SpareOn(BusKind),
}

fn place_all(devices: &mut Devices, set: &mut PciSet, reserve: Reserve) -> Result<()> {
    let root = set.kinds().next().unwrap_or(BusKind::PciRoot);
    let slots = Slots::of(root);
    collect(devices, set, slots)?;
    match root {
        BusKind::PcieRoot => chipset::reserve(Chipset::Q35, devices, set)?,
        BusKind::PciRoot => chipset::reserve(Chipset::I440fx, devices, set)?,
        _ => {}
    }
    if reserve == Reserve::SpareOn(BusKind::PciRoot) && !set.is_full() {
        set.reserve_next(Connect::PCI, 0)?;
    }
    for c in candidate::pci_controllers(devices) {
        place(c, set, None)?;
    }
    let mut companions = Companions::of(devices);
    for c in candidate::devices(devices, slots) {
        let companion = companions.of_candidate(&c);
        let placed = place(c, set, companion)?;
        companions.remember(placed);
    }
    Ok(())
}

/// Takes the places that the document names.
fn collect(devices: &mut Devices, set: &mut PciSet, slots: Slots) -> Result<()> {
    let root = set.kinds().next().unwrap_or(BusKind::PciRoot);
    for c in candidate::taken(devices, slots) {
        take(c, root, set)?;
    }
    Ok(())
}

fn take(c: Candidate<'_>, root: BusKind, set: &mut PciSet) -> Result<()> {
    if let Some((place, wanted)) = given(&c, root)? {
        let got = set.reserve(place, wanted, Chosen::ByUser)?;
        if got != place {
            set_place(c.info, got, None);
        }
    }
    Ok(())
}

/// The place that a document names; functions of the PIIX3 are taken with it.
///
/// # Errors
/// When such a function is named where there is no PIIX3.
fn given(c: &Candidate<'_>, root: BusKind) -> Result<Option<(Place, Connect)>> {
    let Some(place) = place_of(c.info) else {
        return Ok(None);
    };
    let function = matches!(
        (c.role, place.function),
        (Role::FirstIde, 1) | (Role::FirstUsb, 2)
    );
    let implicit = function && (place.domain, place.bus, place.slot) == (0, 0, 1);
    if implicit && root != BusKind::PciRoot {
        return Err(Error::internal_qemu(
            "Bus 0 must be PCI for integrated PIIX3 USB or IDE controllers",
        ));
    }
    Ok((!implicit).then_some((place, c.wanted)))
}

/// The place that a device has.
pub(super) fn place_of(info: &DeviceInfo) -> Option<Place> {
    match &info.address {
        Some(Address::Pci(a)) if !a.is_empty() => Some(Place {
            domain: a.domain,
            bus: a.bus,
            slot: a.slot,
            function: a.function,
        }),
        _ => None,
    }
}

/// Whether a device is to be placed: it names no place, and no other kind of address.
pub(super) fn is_wanted(info: &DeviceInfo) -> bool {
    match &info.address {
        None => true,
        Some(Address::Pci(a)) => a.is_empty(),
        Some(_) => false,
    }
}

/// Writes a place into a device.
pub(super) fn set_place(info: &mut DeviceInfo, place: Place, multifunction: Option<OnOff>) {
    let before = match &info.address {
        Some(Address::Pci(a)) => *a,
        _ => PciAddress::default(),
    };
    info.address = Some(Address::Pci(PciAddress {
        domain: place.domain,
        bus: place.bus,
        slot: place.slot,
        function: place.function,
        // What the document says of a place that it does not name is nothing.
        multifunction: before
            .multifunction
            .filter(|_| !before.is_empty())
            .or(multifunction),
        ..before
    }));
}

fn place(
    c: Candidate<'_>,
    set: &mut PciSet,
    companion: Option<Place>,
) -> Result<Option<((u32, UsbModel), Place)>> {
    if !is_wanted(c.info) || c.role == Role::FirstIde {
        return Ok(None);
    }
    let Role::Usb2 { index, model } = c.role else {
        let place = set.reserve_next(c.wanted, 0)?;
        set_place(c.info, place, None);
        return Ok(None);
    };
    let (function, multi) = usb2_function(model);
    let place = match companion {
        Some(there) => {
            let place = Place { function, ..there };
            set.reserve(place, c.wanted, Chosen::ByUser)?;
            place
        }
        None => set.reserve_next(c.wanted, function)?,
    };
    set_place(c.info, place, multi);
    Ok(Some(((index, model), place)))
}

/// Which function of the shared slot a USB 2 controller is.
const fn usb2_function(model: UsbModel) -> (u32, Option<OnOff>) {
    match model {
        UsbModel::Ich9Uhci1 => (0, Some(OnOff::On)),
        UsbModel::Ich9Uhci2 => (1, None),
        UsbModel::Ich9Uhci3 => (2, None),
        _ => (7, None),
    }
}

/// Places of USB 2 controllers, by index: the first one placed decides the slot.
struct Companions(Vec<(u32, Place)>);

impl Companions {
    fn of(devices: &Devices) -> Self {
        let usb2 = devices
            .controllers
            .iter()
            .filter(|c| c.kind == ControllerKind::Usb && is_usb2(c));
        Self(
            usb2.filter_map(|c| Some((c.index?, place_of(&c.info)?)))
                .collect(),
        )
    }

    fn of_candidate(&self, c: &Candidate<'_>) -> Option<Place> {
        let Role::Usb2 { index, .. } = c.role else {
            return None;
        };
        self.0.iter().find(|(i, _)| *i == index).map(|(_, p)| *p)
    }

    fn remember(&mut self, placed: Option<((u32, UsbModel), Place)>) {
        self.0.extend(placed.map(|((index, _), place)| (index, place)));
    }
}

fn is_usb2(c: &Controller) -> bool {
    matches!(
        c.usb_model(),
        Some(UsbModel::Ich9Ehci1 | UsbModel::Ich9Uhci1 | UsbModel::Ich9Uhci2 | UsbModel::Ich9Uhci3)
    )
}

fn add_controllers(devices: &mut Devices, set: &PciSet) {
    for (index, kind) in (0u32..).zip(set.kinds()).skip(1) {
        let there = devices
            .controllers
            .iter()
            .any(|c| c.kind == ControllerKind::Pci && c.index == Some(index));
        if !there {
            let model = Some(kind.rule().model.to_owned());
            let new = Controller {
                kind: ControllerKind::Pci,
                index: Some(index),
                model,
                ..Controller::default()
            };
            insert_controller(&mut devices.controllers, new);
        }
    }
}

/// Function 0 of a shared slot has to say so.
fn mark_multifunction(devices: &mut Devices, set: &PciSet, root: BusKind) {
    let mark = |c: Candidate<'_>| {
        let shared = place_of(c.info).is_some_and(|p| p.function == 0 && set.slot_is_shared(p));
        if let Some(Address::Pci(a)) = &mut c.info.address
            && shared
            && a.multifunction.is_none()
        {
            a.multifunction = Some(OnOff::On);
        }
    };
    candidate::pci_controllers(devices).into_iter().for_each(mark);
    candidate::devices(devices, Slots::of(root))
        .into_iter()
        .for_each(mark);
}

/// QEMU device behind each kind of controller.
const NAMES: &[(BusKind, PciModelName)] = &[
    (BusKind::PciBridge, PciModelName::PciBridge),
    (BusKind::DmiToPciBridge, PciModelName::I82801b11Bridge),
    (BusKind::PcieToPciBridge, PciModelName::PciePciBridge),
    (BusKind::RootPort, PciModelName::PcieRootPort),
    (BusKind::UpstreamPort, PciModelName::X3130Upstream),
    (BusKind::DownstreamPort, PciModelName::Xio3130Downstream),
    (BusKind::ExpanderBus, PciModelName::Pxb),
    (BusKind::PcieExpanderBus, PciModelName::PxbPcie),
];

/// Fills in the QEMU device and the numbers of each PCI controller.
fn name_controllers(devices: &mut Devices) -> Result<()> {
    let mut free_number = lowest_bus_number(devices);
    for c in devices
        .controllers
        .iter_mut()
        .filter(|c| c.kind == ControllerKind::Pci)
    {
        let Some(kind) = kind_of(c) else { continue };
        let Some((_, name)) = NAMES.iter().find(|(k, _)| *k == kind) else {
            continue;
        };
        c.model_name.get_or_insert(*name);
        let index = c.index.unwrap_or(0);
        let place = place_of(&c.info).unwrap_or_default();
        let target = c.target.get_or_insert_with(ControllerTarget::default);
        match kind {
            BusKind::PciBridge => {
                if index <= place.bus {
                    return Err(backwards(index, place.bus));
                }
                target.chassis_nr.get_or_insert(index);
            }
            BusKind::RootPort => {
                target.chassis.get_or_insert(index);
                target.port.get_or_insert((place.slot << 3) + place.function);
            }
            BusKind::DownstreamPort => {
                target.chassis.get_or_insert(index);
                target.port.get_or_insert(place.slot);
            }
            BusKind::ExpanderBus | BusKind::PcieExpanderBus => {
                number_expander(target, place.bus, &mut free_number)?;
            }
            _ => {}
        }
        if *target == ControllerTarget::default() {
            c.target = None;
        }
    }
    Ok(())
}

/// A bridge is plugged into a bus that comes before its own.
fn backwards(index: u32, bus: u32) -> Error {
    Error::unsupported(format!(
        "PCI controller at index {index} (0x{index:02x}) has bus='0x{bus:02x}', but index must be larger than bus"
    ))
}

/// Expander buses are numbered from the top, with room for one bus below each.
fn lowest_bus_number(devices: &Devices) -> u32 {
    let numbers = devices
        .controllers
        .iter()
        .filter_map(|c| c.target.as_ref()?.bus_nr);
    numbers.min().unwrap_or(256)
}

fn number_expander(target: &mut ControllerTarget, bus: u32, free: &mut u32) -> Result<()> {
    if target.bus_nr.is_none() {
        let number = free.checked_sub(2).filter(|n| *n > 0);
        let number = number.ok_or_else(|| {
            Error::unsupported(format!(
                "No free busNr lower than current lowest busNr is available to auto-assign to bus {bus}. Must be manually assigned"
            ))
        })?;
        target.bus_nr = Some(number);
        *free = number;
    }
    Ok(())
}
