//! One device on its own: put into a document, and filled in before it is plugged into a running guest.
//!
//! For a document that is kept, a device is added and the whole is defined again. A running guest keeps every bus and
//! place it has, so only the new device is filled in.

use domxml::Domain;
use domxml::devices::{Device, DeviceRef, Devices, Place};

use super::{
    Context, chardev, controllers, disk, drop_odd_aliases, graphics, machine, memory, net, small, video,
};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::facts::{MachineKind, controller_position, disk_position};

/// Puts a device where libvirt has it: disks and controllers by their names and indexes, others behind their family.
///
/// # Errors
/// When the guest can have only one of the family, and has it.
pub fn add_device(devices: &mut Devices, device: Device) -> Result<Place> {
    let at = match &device {
        Device::Disk(disk) => disk_position(&devices.disks, disk),
        Device::Controller(controller) => controller_position(&devices.controllers, controller),
        other => devices.count(other.as_ref().family()),
    };
    devices
        .insert(device, at)
        .map_err(|_| Error::unsupported("the guest already has a device of this kind and can have only one"))
}

/// Fills in a device as one of a guest, whose document stays as it is. It gets no place on a bus but the one that its
/// name stands for.
///
/// # Errors
/// Libvirt's, when the device makes no sense.
pub fn fill_device(def: &Domain, device: Device, caps: &Caps, ctx: &mut Context<'_>) -> Result<Device> {
    let mut trial = def.clone();
    // Behind all others of its family: where it goes depends on what is filled in.
    let at = trial.devices.count(device.as_ref().family());
    let inserted = trial.devices.insert(device, at);
    let place = inserted.or_else(|device| {
        // Whether the guest can have two is asked later.
        let family = device.as_ref().family();
        trial.devices.remove(Place { family, at: 0 });
        trial.devices.insert(device, 0)
    });
    let place = place.map_err(|_| Error::internal("the device got lost"))?;
    fill(&mut trial, caps, ctx)?;
    let found = trial.devices.get(place).map(DeviceRef::to_device);
    found.ok_or_else(|| Error::internal("the device got lost"))
}

/// What is filled in of a new device; for those that were filled in before it changes nothing.
fn fill(def: &mut Domain, caps: &Caps, ctx: &mut Context<'_>) -> Result<()> {
    let name = def
        .os
        .kind
        .as_ref()
        .and_then(|t| t.machine.as_deref())
        .unwrap_or_default();
    let kind = MachineKind::of(name);
    memory::fill_modules(def)?;
    let devices = &mut def.devices;
    drop_odd_aliases(devices);
    small::fill_hostdevs(devices)?;
    for disk in &mut devices.disks {
        disk::fill(disk)?;
    }
    devices
        .interfaces
        .iter_mut()
        .for_each(|card| net::fill(card, ctx.ids));
    for display in &mut devices.graphics {
        graphics::fill(display, &ctx.config.lib_dir)?;
    }
    controllers::fill_companions(&mut devices.controllers);
    controllers::assign_indexes(devices);
    disk::place(devices)?;
    small::fill_defaults(devices);
    let ps2 = if kind.has_ps2() {
        small::Ps2::Present
    } else {
        small::Ps2::Absent
    };
    small::fill_buses(devices, ps2);
    chardev::fill_targets(devices, &ctx.config.channel_dirs);
    machine::fill_models(devices, kind, caps);
    video::fill_models(devices, machine::default_video(caps));
    Ok(())
}
