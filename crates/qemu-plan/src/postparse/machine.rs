//! What each kind of machine has built in or gets by default.

use domxml::devices::{
    Address, ControllerKind, Devices, ScsiModel, Size, SpaprVioAddress, VideoModelKind, Watchdog,
    WatchdogAction, WatchdogModel,
};

use super::controllers;
use crate::caps::{Caps, Flag};
use crate::error::{Area, Code, Error, Result};
use crate::facts::MachineKind;
use crate::facts::size::size_kib;

/// Adds what the machine has anyway: USB, SATA, the root bus, the chipset's watchdog.
pub(super) fn add_builtin(devices: &mut Devices, kind: MachineKind, caps: &Caps) {
    if let Some(model) = default_usb(kind, caps) {
        controllers::ensure(devices, ControllerKind::Usb, 0, Some(model));
    }
    if kind == MachineKind::Q35 {
        controllers::ensure(devices, ControllerKind::Sata, 0, None);
    }
    if let Some(model) = kind.root_bus() {
        controllers::ensure(devices, ControllerKind::Pci, 0, Some(model));
    }
    for watchdog in &mut devices.watchdogs {
        watchdog.action.get_or_insert(WatchdogAction::Reset);
    }
    let itco = |w: &Watchdog| w.model == WatchdogModel::Itco;
    if kind == MachineKind::Q35 && !devices.watchdogs.iter().any(itco) {
        // All watchdogs do the same: QEMU has one action.
        let first = devices.watchdogs.first().and_then(|w| w.action);
        devices.watchdogs.push(Watchdog {
            model: WatchdogModel::Itco,
            action: first.or(Some(WatchdogAction::Reset)),
            ..Watchdog::default()
        });
    }
}

fn default_usb(kind: MachineKind, caps: &Caps) -> Option<&'static str> {
    match kind {
        MachineKind::I440fx => Some("piix3-uhci"),
        MachineKind::Q35 if caps.has(Flag::QemuXhci) => Some("qemu-xhci"),
        MachineKind::Q35 if caps.has(Flag::NecUsbXhci) => Some("nec-xhci"),
        MachineKind::Other => Some("piix3-uhci"),
        MachineKind::Q35 | MachineKind::IsaPc => None,
    }
}

/// The root bus, if the document names it, is the machine's.
pub(super) fn check_root(devices: &Devices, kind: MachineKind) -> Result<()> {
    let Some(model) = kind.root_bus() else {
        return Ok(());
    };
    let mut pci = devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Pci);
    let found = pci
        .find(|c| c.index == Some(0))
        .map(|c| c.model.as_deref().unwrap_or("(null)"));
    match found {
        Some(found) if found != model => Err(Error::new(
            Code::Xml,
            Area::Qemu,
            format!(
                "The PCI controller with index='0' must be model='{model}' for this machine type, but model='{found}' was found instead"
            ),
        )),
        _ => Ok(()),
    }
}

/// Register of the first IBM virtual SCSI controller.
const IBMVSCSI_REG: u64 = 0x2000;

/// Models of controllers that name none.
pub(super) fn fill_models(devices: &mut Devices, kind: MachineKind, caps: &Caps) {
    for c in &mut devices.controllers {
        match c.kind {
            ControllerKind::Usb if c.model.is_none() => {
                let model = if kind.has_ps2() && caps.has(Flag::Piix3UsbUhci) {
                    Some("piix3-uhci")
                } else {
                    default_usb(kind, caps)
                };
                c.model = model.map(str::to_owned);
            }
            ControllerKind::Scsi if c.model.as_deref().is_none_or(|m| m == "auto") => {
                c.model = Some(
                    if caps.has(Flag::Lsi) {
                        "lsilogic"
                    } else {
                        "virtio-scsi"
                    }
                    .to_owned(),
                );
            }
            ControllerKind::Scsi if c.scsi_model() == Some(ScsiModel::Ibmvscsi) => {
                c.info.address.get_or_insert(Address::SpaprVio(SpaprVioAddress {
                    reg: Some(IBMVSCSI_REG),
                }));
            }
            _ => {}
        }
        if let Some(hole) = &mut c.pcihole64
            && let Ok(kib) = size_kib(hole)
        {
            *hole = Size {
                unit: Some("KiB".to_owned()),
                value: kib,
            };
        }
    }
}

/// The display adapter of a guest that names none.
pub(super) fn default_video(caps: &Caps) -> VideoModelKind {
    const PREFERENCE: &[(Flag, VideoModelKind)] = &[
        (Flag::CirrusVga, VideoModelKind::Cirrus),
        (Flag::Vga, VideoModelKind::Vga),
        (Flag::VirtioGpu, VideoModelKind::Virtio),
    ];
    PREFERENCE
        .iter()
        .find(|(f, _)| caps.has(*f))
        .map_or(VideoModelKind::Vga, |(_, k)| *k)
}
