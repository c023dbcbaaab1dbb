//! What a document becomes when it is defined: everything left out is filled in.
//!
//! Libvirt does the same in the same order, because later steps look at what earlier ones filled in: identity, the
//! emulator and its machine, the guest's memory and CPUs, devices, the controllers that those need, addresses.

mod chardev;
mod context;
mod controllers;
mod cpu;
mod descriptor;
mod device;
mod disk;
mod domain;
mod firmware;
mod graphics;
mod machine;
mod memory;
mod net;
mod os;
mod small;
mod video;

use std::sync::Arc;

use domxml::Domain;
use domxml::devices::Devices;

pub use chardev::drop_generated_paths;
pub use context::{Config, Context, Emulators, HostAudio, Ids};
pub use descriptor::Firmware;
pub use device::{add_device, fill_device};

use crate::address;
use crate::caps::{Caps, Flag};
use crate::error::Result;
use crate::facts::MachineKind;
use crate::validate::{self, early};

/// Makes a document what it is once it is defined: [`post_parse`], then [`validate`](crate::validate::validate).
///
/// # Errors
/// Those of both.
pub fn define(def: &mut Domain, ctx: &mut Context<'_>) -> Result<Arc<Caps>> {
    let caps = post_parse(def, ctx)?;
    validate::validate(def, &caps)?;
    Ok(caps)
}

/// Fills in a document and gives every device its place. Returns what its emulator can do.
///
/// # Errors
/// Libvirt's, when the document makes no sense or this host cannot honour it.
pub fn post_parse(def: &mut Domain, ctx: &mut Context<'_>) -> Result<Arc<Caps>> {
    domain::identify(def, ctx.ids);
    domain::fill(def, ctx.config)?;
    memory::fill(def, ctx.age)?;
    let caps = os::emulator(def, ctx)?;
    let kind = os::machine(def, &caps)?;
    early::firmware(def, &caps)?;
    firmware::fill(def, ctx.config)?;
    if let Some(source) = def.os.nvram.as_mut().and_then(|nvram| nvram.source.as_mut()) {
        disk::fill_ports(source);
    }
    controllers::fill_companions(&mut def.devices.controllers);
    controllers::order(&mut def.devices.controllers);
    controllers::assign_indexes(&mut def.devices);
    machine::check_root(&def.devices, kind)?;
    cpu::fill(def, &caps)?;
    early::domain(def, &caps)?;
    early::serials(&def.devices.serials)?;
    fill_devices(def, kind, &caps, ctx)?;
    domain::fill_iommu(def, kind);
    early::devices(def, &caps)?;
    early::whole(def, &caps)?;
    domain::fill_hotplug(def);
    os::fill_boot(def);
    let legacy = if caps.has(Flag::PciePciBridge) {
        address::LegacyBridge::PcieToPci
    } else {
        address::LegacyBridge::DmiToPci
    };
    early::placeless(def)?;
    early::usb_leaders(&def.devices.controllers)?;
    let slots = def.max_memory.map(|m| m.slots.unwrap_or(0));
    address::assign(
        &mut def.devices,
        address::Machine {
            legacy,
            age: ctx.age,
            memory_slots: slots,
        },
    )?;
    chardev::mirror_console(&mut def.devices);
    early::last(def)?;
    Ok(caps)
}

/// A name that QEMU would not take is not kept.
fn drop_odd_aliases(devices: &mut Devices) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    devices.for_each_info(|_, info| {
        info.alias = info.alias.take().filter(|a| a.chars().all(plain));
    });
}

fn fill_devices(def: &mut Domain, kind: MachineKind, caps: &Caps, ctx: &mut Context<'_>) -> Result<()> {
    let ps2 = if kind.has_ps2() && !domain::ps2_is_off(def) {
        small::Ps2::Present
    } else {
        small::Ps2::Absent
    };
    let devices = &mut def.devices;
    drop_odd_aliases(devices);
    small::fill_hostdevs(devices)?;
    controllers::add_for_hostdevs(devices);
    disk::order(&mut devices.disks);
    for disk in &mut devices.disks {
        disk::fill(disk)?;
    }
    devices
        .interfaces
        .iter_mut()
        .for_each(|card| net::fill(card, ctx.ids));
    machine::add_builtin(devices, kind, caps);
    disk::place(devices)?;
    small::fill_inputs(devices, ps2);
    small::fill_memballoon(devices);
    small::fill_defaults(devices);
    chardev::fill(devices, &ctx.config.channel_dirs);
    controllers::add_implicit(devices)?;
    machine::fill_models(devices, kind, caps);
    for graphics in &mut devices.graphics {
        graphics::fill(graphics, &ctx.config.lib_dir)?;
    }
    small::fill_audio(devices, ctx.config.host_audio);
    video::fill(devices, machine::default_video(caps));
    Ok(())
}
