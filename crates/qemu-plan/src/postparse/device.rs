//! One device on its own: put into a document, or made ready to be plugged into a running guest.
//!
//! For a document that is kept, a device is added and the whole is defined again. A running guest keeps every bus and
//! place it has: the new device must find room on a bus that takes hot-plug.

use domxml::Domain;
use domxml::devices::{Device, DeviceRef, Devices};

use super::{Context, chardev, controllers, disk, machine, memory, net, small};
use crate::address;
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::facts::MachineKind;

/// Puts a device behind those of its family.
///
/// # Errors
/// When the guest can have only one of the family, and has it.
pub fn add_device(devices: &mut Devices, device: Device) -> Result<()> {
    macro_rules! add {
        ($($family:ident => $list:ident),+; $($single:ident => $slot:ident),+) => {
            match device {
                $(Device::$family(device) => devices.$list.push(*device),)+
                $(Device::$single(device) => only(&mut devices.$slot, *device)?,)+
            }
        };
    }
    add!(
        Disk => disks, Controller => controllers, Lease => leases, Filesystem => filesystems, Interface => interfaces,
        Smartcard => smartcards, Serial => serials, Parallel => parallels, Console => consoles, Channel => channels,
        Input => inputs, Tpm => tpms, Graphics => graphics, Sound => sounds, Audio => audios, Video => videos,
        Hostdev => hostdevs, Redirdev => redirdevs, Hub => hubs, Watchdog => watchdogs, Rng => rngs, Panic => panics,
        Shmem => shmems, Memory => memories, Crypto => cryptos;
        Redirfilter => redirfilter, Memballoon => memballoon, Nvram => nvram, Iommu => iommu, Vsock => vsock,
        Pstore => pstore
    );
    Ok(())
}

fn only<T>(slot: &mut Option<T>, device: T) -> Result<()> {
    if slot.is_some() {
        return Err(Error::unsupported(
            "the guest already has a device of this kind and can have only one",
        ));
    }
    *slot = Some(device);
    Ok(())
}

/// Fills in a device and finds it a place in a running guest, whose document stays as it is. Controllers that the
/// device refers to and the guest lacks are left to the caller.
///
/// # Errors
/// Libvirt's, when the device makes no sense or there is no room for it.
pub fn plug(def: &Domain, device: Device, caps: &Caps, ctx: &mut Context<'_>) -> Result<Device> {
    let family = device.as_ref().family();
    let mut trial = def.clone();
    add_device(&mut trial.devices, device)?;
    let at = trial.devices.iter().filter(|d| d.family() == family).count();
    fill(&mut trial, caps, ctx)?;
    let hubs = trial.devices.hubs.len();
    let slots = def.max_memory.and_then(|m| m.slots).unwrap_or(0);
    address::plug(&mut trial.devices, slots)?;
    if trial.devices.hubs.len() > hubs {
        return Err(Error::internal("No free USB ports"));
    }
    let mut same = trial.devices.iter().filter(|d| d.family() == family);
    let found = same.nth(at.saturating_sub(1)).map(DeviceRef::to_device);
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
    small::fill_hostdevs(devices)?;
    for disk in &mut devices.disks {
        disk::fill(disk)?;
    }
    devices
        .interfaces
        .iter_mut()
        .for_each(|card| net::fill(card, ctx.ids));
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
    chardev::fill_targets(devices, &ctx.config.channel_dir);
    machine::fill_models(devices, kind, caps);
    Ok(())
}
