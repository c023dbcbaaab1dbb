//! Devices that a chipset has at fixed places, and those that habit puts at one.

use domxml::devices::{ControllerKind, DeviceInfo, Devices, OnOff, SoundModel, UsbModel};

use super::candidate::{self, Slots};
use super::connect::{BusKind, Connect};
use super::pci::{is_wanted, place_of, set_place};
use super::pci_set::{Chosen, PciSet, Place};
use crate::error::{Area, Code, Error, Result};

/// Which chipset a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chipset {
    I440fx,
    Q35,
}

const fn at(slot: u32, function: u32) -> Place {
    Place {
        domain: 0,
        bus: 0,
        slot,
        function,
    }
}

/// Takes the places of the chipset's own devices.
pub(super) fn reserve(chipset: Chipset, devices: &mut Devices, set: &mut PciSet) -> Result<()> {
    match chipset {
        Chipset::I440fx => {
            piix3_functions(devices, set)?;
            take(set, at(1, 0), Connect::PCI_DEVICE)?;
            take(set, at(1, 3), Connect::PCI_DEVICE)?;
            primary_video(devices, set, (2, Slots::of(BusKind::PciRoot)))
        }
        Chipset::Q35 => {
            q35_controllers(devices, set)?;
            take(set, at(0x1f, 0), Connect::PCIE_DEVICE)?;
            take(set, at(0x1f, 3), Connect::PCIE_DEVICE)?;
            primary_video(devices, set, (1, Slots::of(BusKind::PcieRoot)))?;
            ich9_sound(devices, set)
        }
    }
}

fn take(set: &mut PciSet, place: Place, wanted: Connect) -> Result<()> {
    set.reserve(place, wanted, Chosen::ByUser).map(|_| ())
}

/// The first IDE and USB controllers are functions of the PIIX3.
fn piix3_functions(devices: &mut Devices, set: &mut PciSet) -> Result<()> {
    for c in devices.controllers.iter_mut().filter(|c| c.index == Some(0)) {
        let fixed = match c.kind {
            ControllerKind::Ide => (at(1, 1), "Primary IDE controller must have PCI address 0:0:1.1"),
            ControllerKind::Usb if c.model.is_none() || c.usb_model() == Some(UsbModel::Piix3Uhci) => (
                at(1, 2),
                "PIIX3 USB controller at index 0 must have PCI address 0:0:1.2",
            ),
            _ => continue,
        };
        fix(&mut c.info, fixed)?;
        take(set, fixed.0, Connect::PCI_DEVICE)?;
    }
    Ok(())
}

fn fix(info: &mut DeviceInfo, (place, complaint): (Place, &str)) -> Result<()> {
    match place_of(info) {
        Some(given) if given != place => Err(Error::new(Code::Internal, Area::Qemu, complaint)),
        Some(_) => Ok(()),
        None => {
            set_place(info, place, None);
            Ok(())
        }
    }
}

fn q35_controllers(devices: &mut Devices, set: &mut PciSet) -> Result<()> {
    for c in &mut devices.controllers {
        match c.kind {
            ControllerKind::Sata if c.index == Some(0) => {
                let fresh = place_of(&c.info).is_none();
                fix(
                    &mut c.info,
                    (
                        at(0x1f, 2),
                        "Primary SATA controller must have PCI address 0:0:1f.2",
                    ),
                )?;
                if fresh {
                    take(set, at(0x1f, 2), Connect::PCIE_DEVICE)?;
                }
            }
            // Real machines have these at 1d and 1a, and the bridge at 1e.
            ControllerKind::Usb if c.usb_model() == Some(UsbModel::Ich9Uhci1) && is_wanted(&c.info) => {
                if let Some(place) = [at(0x1d, 0), at(0x1a, 0)]
                    .into_iter()
                    .find(|p| !set.slot_in_use(*p))
                {
                    take(set, place, Connect::PCIE_DEVICE)?;
                    set_place(&mut c.info, place, Some(OnOff::On));
                }
            }
            ControllerKind::Pci if c.model.as_deref() == Some("dmi-to-pci-bridge") && is_wanted(&c.info) => {
                let place = at(0x1e, 0);
                if !set.slot_in_use(place) {
                    take(set, place, Connect::DMI_TO_PCI_BRIDGE)?;
                    set_place(&mut c.info, place, None);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Firmware and guests expect the first display adapter in the first slot after the chipset; if something else is there,
/// it gets the next one before all others.
fn primary_video(devices: &mut Devices, set: &mut PciSet, (slot, slots): (u32, Slots)) -> Result<()> {
    let Some(video) = devices.videos.first_mut() else {
        return Ok(());
    };
    let wanted = candidate::video(video, slots);
    if wanted.is_none() || !is_wanted(&video.info) {
        return Ok(());
    }
    let place = match set.slot_in_use(at(slot, 0)) {
        true => set.reserve_next(wanted, 0)?,
        false => {
            take(set, at(slot, 0), Connect::ENDPOINTS)?;
            at(slot, 0)
        }
    };
    set_place(&mut video.info, place, None);
    Ok(())
}

/// The chipset's own sound is at 1b.
fn ich9_sound(devices: &mut Devices, set: &mut PciSet) -> Result<()> {
    let place = at(0x1b, 0);
    let mut ich9 = devices.sounds.iter_mut().filter(|s| s.model == SoundModel::Ich9);
    match ich9.find(|s| is_wanted(&s.info)) {
        Some(sound) if !set.slot_in_use(place) => {
            take(set, place, Connect::ENDPOINTS)?;
            set_place(&mut sound.info, place, None);
            Ok(())
        }
        _ => Ok(()),
    }
}
