//! Controllers: their indexes, and those that devices need and nobody wrote down.

use domxml::devices::{
    Address, ChannelTargetKind, ConsoleTargetKind, Controller, ControllerKind, Devices, DiskBus,
    DriveAddress, HostdevKind, UsbMaster, UsbModel,
};

use crate::error::{Error, Result};
use crate::facts::insert_controller;

/// First port that each companion serves.
const COMPANIONS: &[(UsbModel, u32)] = &[
    (UsbModel::Ich9Uhci1, 0),
    (UsbModel::Ich9Uhci2, 2),
    (UsbModel::Ich9Uhci3, 4),
];

/// Says of each companion which ports it serves.
pub(super) fn fill_companions(all: &mut [Controller]) {
    for c in all {
        if let Some((_, startport)) = c
            .usb_model()
            .and_then(|m| COMPANIONS.iter().find(|(k, _)| *k == m))
        {
            c.info.master.get_or_insert(UsbMaster {
                startport: *startport,
            });
        }
    }
}

/// Sorts the controllers of each kind by index; the leader of a USB 2 group comes before its companions.
pub(super) fn order(all: &mut Vec<Controller>) {
    let mut sorted: Vec<Controller> = Vec::with_capacity(all.len());
    for new in all.drain(..) {
        let same = |c: &Controller| c.kind == new.kind;
        let behind = |c: &Controller| match (c.index, new.index) {
            (_, None) => false,
            (here, Some(index)) => {
                here.is_some_and(|h| h > index)
                    || here == Some(index) && c.info.master.is_some() && new.info.master.is_none()
            }
        };
        let before = sorted.iter().position(|c| same(c) && behind(c));
        let at = before.or_else(|| sorted.iter().rposition(same).map(|last| last + 1));
        sorted.insert(at.unwrap_or(sorted.len()), new);
    }
    *all = sorted;
}

/// Whether a controller is there.
pub(super) fn has(devices: &Devices, kind: ControllerKind, index: u32) -> bool {
    devices
        .controllers
        .iter()
        .any(|c| c.kind == kind && c.index == Some(index))
}

/// Adds a controller unless it is there.
pub(super) fn ensure(devices: &mut Devices, kind: ControllerKind, index: u32, model: Option<&str>) {
    if !has(devices, kind, index) {
        let model = model.map(str::to_owned);
        insert_controller(
            &mut devices.controllers,
            Controller {
                kind,
                index: Some(index),
                model,
                ..Controller::default()
            },
        );
    }
}

/// Gives an index to controllers without one; a group of USB 2 controllers shares one.
pub(super) fn assign_indexes(devices: &mut Devices) {
    for at in 0..devices.controllers.len() {
        let c = &devices.controllers[at];
        if c.index.is_some() {
            continue;
        }
        let index = group(&devices.controllers[..at], c).unwrap_or_else(|| lowest_free(devices, c.kind));
        devices.controllers[at].index = Some(index);
    }
}

/// The number of a companion: that of the last one before it, unless one like it has that number.
fn group(before: &[Controller], controller: &Controller) -> Option<u32> {
    let model = |c: &Controller| c.usb_model().filter(|m| companion(*m));
    let own = model(controller)?;
    let index = before.iter().rev().find(|c| model(c).is_some())?.index;
    let is_taken = before.iter().any(|c| model(c) == Some(own) && c.index == index);
    index.filter(|_| !is_taken)
}

const fn companion(model: UsbModel) -> bool {
    matches!(
        model,
        UsbModel::Ich9Ehci1 | UsbModel::Ich9Uhci1 | UsbModel::Ich9Uhci2 | UsbModel::Ich9Uhci3
    )
}

fn lowest_free(devices: &Devices, kind: ControllerKind) -> u32 {
    (0..).find(|i| !has(devices, kind, *i)).unwrap_or(0)
}

/// Which controller carries the disks of a bus.
const DISK_CONTROLLERS: &[(DiskBus, ControllerKind)] = &[
    (DiskBus::Scsi, ControllerKind::Scsi),
    (DiskBus::Fdc, ControllerKind::Fdc),
    (DiskBus::Ide, ControllerKind::Ide),
    (DiskBus::Sata, ControllerKind::Sata),
];

/// Most controllers of a kind that are added for a device that names a high one.
const MAX_IMPLICIT: u32 = 256;

/// Adds the controllers that devices refer to.
pub(super) fn add_implicit(devices: &mut Devices) -> Result<()> {
    for (bus, kind) in DISK_CONTROLLERS {
        if let Some(highest) = highest_drive(devices, *bus) {
            ensure_up_to(devices, *kind, highest)?;
        }
    }
    for index in virtio_serials(devices) {
        ensure(devices, ControllerKind::VirtioSerial, index, None);
    }
    for index in ccids(devices) {
        ensure(devices, ControllerKind::Ccid, index, None);
    }
    Ok(())
}

/// Adds the controllers of SCSI host devices: before all others, each of the model of the one before it.
pub(super) fn add_for_hostdevs(devices: &mut Devices) {
    let Some(highest) = highest_scsi_hostdev(devices) else {
        return;
    };
    let mut model: Option<String> = None;
    for index in 0..=highest.min(MAX_IMPLICIT) {
        let there = |c: &&Controller| c.kind == ControllerKind::Scsi && c.index == Some(index);
        match devices.controllers.iter().find(there) {
            Some(found) => model = found.model.clone(),
            None => ensure(devices, ControllerKind::Scsi, index, model.as_deref()),
        }
    }
}

fn ensure_up_to(devices: &mut Devices, kind: ControllerKind, highest: u32) -> Result<()> {
    if highest > MAX_IMPLICIT {
        return Err(Error::xml(format!("controller index '{highest}' is too high")));
    }
    (0..=highest).for_each(|index| ensure(devices, kind, index, None));
    Ok(())
}

fn drive(address: Option<&Address>) -> Option<DriveAddress> {
    match address {
        Some(Address::Drive(a)) => Some(*a),
        _ => None,
    }
}

fn highest_drive(devices: &Devices, bus: DiskBus) -> Option<u32> {
    let disks = devices.disks.iter().filter(|d| d.target.bus == Some(bus));
    disks
        .filter_map(|d| drive(d.info.address.as_ref()))
        .map(|a| a.controller)
        .max()
}

fn highest_scsi_hostdev(devices: &Devices) -> Option<u32> {
    let scsi = devices.hostdevs.iter().filter(|h| h.kind == HostdevKind::Scsi);
    scsi.filter_map(|h| drive(h.info.address.as_ref()))
        .map(|a| a.controller)
        .max()
}

fn virtio_serials(devices: &Devices) -> Vec<u32> {
    let index = |a: Option<&Address>| match a {
        Some(Address::VirtioSerial(a)) => a.controller,
        _ => 0,
    };
    let channel = |k: Option<ChannelTargetKind>| k == Some(ChannelTargetKind::Virtio);
    let channels = devices
        .channels
        .iter()
        .filter(|c| channel(c.target.as_ref().and_then(|t| t.kind)));
    let console = |k: Option<ConsoleTargetKind>| k == Some(ConsoleTargetKind::Virtio);
    let consoles = devices
        .consoles
        .iter()
        .filter(|c| console(c.target.as_ref().and_then(|t| t.kind)));
    let infos = channels.map(|c| &c.info).chain(consoles.map(|c| &c.info));
    infos.map(|i| index(i.address.as_ref())).collect()
}

fn ccids(devices: &Devices) -> Vec<u32> {
    let index = |a: Option<&Address>| match a {
        Some(Address::Ccid(a)) => a.controller,
        _ => 0,
    };
    devices
        .smartcards
        .iter()
        .map(|s| index(s.info.address.as_ref()))
        .collect()
}
