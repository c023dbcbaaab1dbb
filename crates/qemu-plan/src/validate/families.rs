//! Rules of single families: watchdogs, panics, audio, what a guest has at most one of, and what no PC has.

use domxml::Domain;
use domxml::devices::{
    AudioKind, Controller, ControllerKind, DeviceRef, Filesystem, FilesystemDriverKind, FilesystemKind,
    GraphicsKind, Hostdev, HostdevKind, HostdevMode, InputBus, InputKind, MemballoonModel, PanicModel, Shmem,
    ShmemModelKind, SoundModel, WatchdogModel,
};

use super::Guest;
use crate::error::{Area, Code, Error, Result};
use crate::facts::MachineKind;

/// What a bus carries.
pub(super) fn input_buses(def: &Domain) -> Result<()> {
    def.devices.inputs.iter().try_for_each(|input| match input.bus {
        Some(InputBus::Ps2) if !matches!(input.kind, InputKind::Mouse | InputKind::Keyboard) => {
            let kind = input.kind.as_str();
            Err(Error::internal(format!(
                "ps2 bus does not support {kind} input device"
            )))
        }
        Some(bus @ (InputBus::Xen | InputBus::Parallels)) => {
            Err(Error::internal(format!("unsupported input bus {}", bus.as_str())))
        }
        _ => Ok(()),
    })
}

pub(super) fn boot_order(def: &Domain) -> Result<()> {
    let infos = def.devices.iter().filter_map(DeviceRef::info);
    let all: Vec<u32> = infos.filter_map(|i| i.boot.as_ref()).map(|b| b.order).collect();
    let loadparms = def.devices.iter().filter_map(DeviceRef::info);
    let mut loadparms = loadparms.filter_map(|i| i.boot.as_ref()?.loadparm.as_deref());
    if let Some(long) = loadparms.find(|p| !(1..=8).contains(&p.len())) {
        return Err(Error::internal(format!(
            "loadparm value '{long}' must be between 1 and 8 characters"
        )));
    }
    if all.contains(&0) {
        let message = "Invalid value for attribute 'order' in element 'boot': Zero is not permitted";
        return Err(Error::new(Code::Xml, Area::Xml, message));
    }
    match all.iter().enumerate().find(|(at, o)| all[..*at].contains(o)) {
        None => Ok(()),
        Some((_, order)) => Err(Error::conflicting(format!(
            "boot order '{order}' used for more than one device"
        ))),
    }
}

/// Attributes that must be there.
pub(super) fn required(def: &Domain) -> Result<()> {
    let audio = def.devices.audios.iter().any(|a| a.id.is_none());
    let mdev = |h: &Hostdev| h.kind == HostdevKind::Mdev && h.model.is_none();
    let (attribute, element) = match (audio, def.devices.hostdevs.iter().any(mdev)) {
        (true, _) => ("id", "audio"),
        (_, true) => ("model", "hostdev"),
        _ => return Ok(()),
    };
    let message = format!("Missing required attribute '{attribute}' in element '{element}'");
    Err(Error::new(Code::Xml, Area::Xml, message))
}

pub(super) fn watchdogs(guest: &Guest<'_>) -> Result<()> {
    let all = &guest.def.devices.watchdogs;
    if all.windows(2).any(|two| two[0].action != two[1].action) {
        return Err(Error::unsupported(
            "watchdogs with different actions are not supported with this QEMU binary",
        ));
    }
    for watchdog in all {
        let wrong = match watchdog.model {
            WatchdogModel::Diag288 => "diag288 model of watchdog is allowed for s390 and s390x only",
            WatchdogModel::Itco if guest.machine != MachineKind::Q35 => {
                "itco model of watchdog is only part of q35 machine"
            }
            WatchdogModel::Ib700 if guest.machine == MachineKind::Q35 => {
                "ib700 model of watchdog cannot be used with this machine type"
            }
            _ => continue,
        };
        return Err(Error::unsupported(wrong));
    }
    Ok(())
}

pub(super) fn panics(guest: &Guest<'_>) -> Result<()> {
    let models: Vec<PanicModel> = guest.def.devices.panics.iter().filter_map(|p| p.model).collect();
    for (at, model) in models.iter().enumerate() {
        if models[..at].contains(model) {
            return Err(Error::xml(format!(
                "Multiple panic devices with model '{}'",
                model.as_str()
            )));
        }
        match model {
            PanicModel::Pseries => {
                return Err(Error::unsupported(
                    "only pSeries guests support panic device of model 'pseries'",
                ));
            }
            PanicModel::S390 => {
                return Err(Error::unsupported(
                    "only S390 guests support panic device of model 's390'",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn audio(guest: &Guest<'_>) -> Result<()> {
    let devices = &guest.def.devices;
    let ids: Vec<u32> = devices.audios.iter().filter_map(|a| a.id).collect();
    if let Some((_, id)) = ids.iter().enumerate().find(|(at, id)| ids[..*at].contains(id)) {
        return Err(Error::xml(format!("audio ID {id} is used multiple times")));
    }
    let used = devices
        .sounds
        .iter()
        .filter_map(|s| s.audio)
        .chain(devices.graphics.iter().filter_map(|g| g.audio));
    if let Some(id) = used.into_iter().find(|id| !ids.contains(id)) {
        return Err(Error::xml(format!("no audio device with ID {id}")));
    }
    let spice = devices.graphics.iter().any(|g| g.kind == GraphicsKind::Spice);
    if !spice && devices.audios.iter().any(|a| a.kind == AudioKind::Spice) {
        return Err(Error::unsupported(
            "Spice audio is not supported without spice graphics",
        ));
    }
    Ok(())
}

/// Devices of which a guest has one at most, and those of other machines.
pub(super) fn singles(guest: &Guest<'_>) -> Result<()> {
    let devices = &guest.def.devices;
    let old_shmem = |s: &Shmem| matches!(s.model, None | Some(ShmemModelKind::Ivshmem));
    let refusals = [
        (
            devices.nvram.is_some(),
            "nvram device is only supported for PPC64",
        ),
        (
            devices.tpms.len() > 1,
            "only a single TPM non-proxy device is supported",
        ),
        (
            devices.smartcards.len() > 1,
            "this QEMU binary lacks multiple smartcard support",
        ),
        (
            devices.shmems.iter().any(old_shmem),
            "ivshmem device is no longer supported",
        ),
        (
            devices
                .filesystems
                .iter()
                .any(|f| f.kind != FilesystemKind::Mount),
            "only supports mount filesystem type",
        ),
        (
            devices
                .hostdevs
                .iter()
                .any(|h| h.mode == HostdevMode::Capabilities),
            "hostdev mode 'capabilities' is not supported in qemu",
        ),
    ];
    let found = refusals.iter().find(|(wrong, _)| *wrong);
    found.map_or(Ok(()), |(_, message)| Err(Error::unsupported(*message)))
}

pub(super) fn virtiofs(guest: &Guest<'_>) -> Result<()> {
    let kind = |f: &Filesystem| f.driver.as_ref().and_then(|d| d.kind);
    let virtiofs = |f: &Filesystem| kind(f) == Some(FilesystemDriverKind::Virtiofs);
    if guest.def.devices.filesystems.iter().any(virtiofs) && !super::net::shares_memory(guest) {
        return Err(Error::unsupported("'virtiofs' requires shared memory"));
    }
    Ok(())
}

pub(super) fn vsock(guest: &Guest<'_>) -> Result<()> {
    let cid = guest
        .def
        .devices
        .vsock
        .as_ref()
        .and_then(|v| v.cid.as_ref())
        .and_then(|c| c.address);
    if cid.is_some_and(|c| c < 3) {
        return Err(Error::conflicting("guest CIDs must be >= 3"));
    }
    Ok(())
}

/// Devices that have no place on any bus of a PC.
pub(super) fn placeless(guest: &Guest<'_>) -> Result<()> {
    let devices = &guest.def.devices;
    let controller = |c: &Controller| matches!(c.kind, ControllerKind::Isa | ControllerKind::Xenbus);
    let balloon = devices
        .memballoon
        .as_ref()
        .is_some_and(|b| b.model == MemballoonModel::Xen);
    let sound = devices.sounds.iter().any(|s| s.model == SoundModel::Ich7);
    if balloon || sound || devices.controllers.iter().any(controller) {
        return Err(Error::internal(
            "Cannot automatically add a new PCI bus for a device with connect flags 00",
        ));
    }
    Ok(())
}
