//! Names of devices in QEMU: given when a guest starts, and when one is plugged in later.
//!
//! Names that a user chose (`ua-...`) stay. Most families count on from the highest number in use, a few are numbered
//! by position; both are libvirt's, and status files depend on it.

use domxml::devices::{
    Address, Console, Controller, ControllerKind, Device, DeviceInfo, DeviceRef, Devices, Disk, DiskBus,
    Family, InterfaceKind, Memory, MemoryModel, ScsiModel,
};

use crate::address::{BusKind, root_bus};
use crate::command::net;
use crate::facts::disk_index;

/// How a family is numbered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    /// One more than the highest number in use.
    NextFree,
    /// By place in the list.
    Position,
    /// There is only one, with this whole name.
    Only,
}

/// One line a family; disks, controllers and memory have rules of their own, panic devices have no name.
const FAMILIES: &[(Family, &str, Count)] = &[
    (Family::Filesystem, "fs", Count::Position),
    (Family::Interface, "net", Count::NextFree),
    (Family::Smartcard, "smartcard", Count::Position),
    (Family::Serial, "serial", Count::NextFree),
    (Family::Parallel, "parallel", Count::NextFree),
    (Family::Console, "console", Count::NextFree),
    (Family::Channel, "channel", Count::NextFree),
    (Family::Input, "input", Count::NextFree),
    (Family::Tpm, "tpm", Count::Position),
    (Family::Sound, "sound", Count::Position),
    (Family::Video, "video", Count::Position),
    (Family::Redirdev, "redir", Count::NextFree),
    (Family::Hub, "hub", Count::Position),
    (Family::Watchdog, "watchdog", Count::NextFree),
    (Family::Memballoon, "balloon0", Count::Only),
    (Family::Rng, "rng", Count::NextFree),
    (Family::Nvram, "nvram", Count::Only),
    (Family::Shmem, "shmem", Count::NextFree),
    (Family::Iommu, "iommu0", Count::Only),
    (Family::Vsock, "vsock0", Count::Only),
    (Family::Crypto, "crypto", Count::NextFree),
    (Family::Pstore, "pstore0", Count::Only),
];

/// Names every device that has no name yet.
pub fn assign(devices: &mut Devices) {
    for family in Family::ALL {
        let count = devices.iter().filter(|d| d.family() == *family).count();
        for at in 0..count {
            let Some(name) = name_at(devices, *family, at) else {
                continue;
            };
            let mut of_family = devices.iter_mut().filter(|d| d.as_ref().family() == *family);
            if let Some(info) = of_family.nth(at).and_then(domxml::devices::DeviceMut::into_info) {
                info.alias = Some(name);
            }
        }
    }
    name_first_console(devices);
}

/// Names interfaces anew that networks have made devices of the host, which go by other names.
pub fn rename_passed(devices: &mut Devices) {
    for at in 0..devices.interfaces.len() {
        let is_other = |card: &domxml::devices::Interface| {
            let alias = card.info.alias.as_deref().unwrap_or_default();
            card.actual.is_some()
                && net::kind(card) == InterfaceKind::Hostdev
                && !card.info.has_user_alias()
                && !alias.starts_with("hostdev")
        };
        if devices.interfaces.get(at).is_some_and(is_other) {
            let name = hostdev_name(devices);
            if let Some(card) = devices.interfaces.get_mut(at) {
                card.info.alias = Some(name);
            }
        }
    }
}

/// The name for a device that is about to be added; `None` when it has one.
pub fn for_new(devices: &Devices, device: &Device) -> Option<String> {
    let device = device.as_ref();
    if device.info()?.alias.is_some() {
        return None;
    }
    let position = devices.iter().filter(|d| d.family() == device.family()).count();
    name(devices, device, position)
}

fn name_at(devices: &Devices, family: Family, at: usize) -> Option<String> {
    let device = devices.iter().filter(|d| d.family() == family).nth(at)?;
    if device.info()?.alias.is_some() {
        return None;
    }
    name(devices, device, at)
}

fn name(devices: &Devices, device: DeviceRef<'_>, position: usize) -> Option<String> {
    match device {
        DeviceRef::Disk(disk) => return Some(disk_name(devices, disk)),
        DeviceRef::Controller(controller) => return Some(controller_name(devices, controller)),
        DeviceRef::Memory(memory) => return Some(memory_name(devices, memory)),
        DeviceRef::Interface(card) if net::kind(card) == InterfaceKind::Hostdev => {
            return Some(hostdev_name(devices));
        }
        DeviceRef::Hostdev(_) => return Some(hostdev_name(devices)),
        // There is none.
        DeviceRef::Memballoon(balloon) if balloon.model.as_str() == "none" => return None,
        _ => {}
    }
    let (family, prefix, count) = *FAMILIES.iter().find(|(f, _, _)| *f == device.family())?;
    Some(match count {
        Count::Only => prefix.to_owned(),
        Count::Position => format!("{prefix}{position}"),
        Count::NextFree if family == Family::Console => {
            // The first is the serial port and has its name.
            let first = u32::from(devices.consoles.first().is_some_and(is_serial_port));
            format!("{prefix}{}", next_free(devices, family, prefix).max(first))
        }
        Count::NextFree => format!("{prefix}{}", next_free(devices, family, prefix)),
    })
}

/// Whether a console goes by the name of a serial port.
fn is_serial_port(console: &Console) -> bool {
    let alias = console.info.alias.as_deref();
    alias.is_some_and(|alias| alias.starts_with("serial"))
}

/// One more than the highest number that a family uses with a prefix.
fn next_free(devices: &Devices, family: Family, prefix: &str) -> u32 {
    let infos = devices
        .iter()
        .filter(|d| d.family() == family)
        .filter_map(DeviceRef::info);
    let used = infos.filter_map(|i| i.alias.as_deref()?.strip_prefix(prefix)?.parse::<u32>().ok());
    used.max().map_or(0, |highest| highest.saturating_add(1))
}

/// Disks on a controller are named by their place, others by the number in their name.
fn disk_name(devices: &Devices, disk: &Disk) -> String {
    let bus = disk.target.bus.unwrap_or_default();
    let Some(Address::Drive(a)) = &disk.info.address else {
        return format!(
            "{}-disk{}",
            bus.as_str(),
            disk_index(&disk.target.dev).unwrap_or(0)
        );
    };
    if bus == DiskBus::Scsi && !is_lsilogic(devices, a.controller) {
        return format!("scsi{}-{}-{}-{}", a.controller, a.bus, a.target, a.unit);
    }
    format!("{}{}-{}-{}", bus.as_str(), a.controller, a.bus, a.unit)
}

/// Devices of the host and interfaces that are such are counted together.
fn hostdev_name(devices: &Devices) -> String {
    let prefix = "hostdev";
    let free = |family| next_free(devices, family, prefix);
    format!("{prefix}{}", free(Family::Interface).max(free(Family::Hostdev)))
}

fn is_lsilogic(devices: &Devices, index: u32) -> bool {
    let mut scsi = devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Scsi);
    scsi.find(|c| c.index == Some(index))
        .and_then(Controller::scsi_model)
        == Some(ScsiModel::Lsilogic)
}

fn controller_name(devices: &Devices, c: &Controller) -> String {
    let index = c.index.unwrap_or(0);
    let root = root_bus(devices);
    match (c.kind, index, root) {
        (ControllerKind::Pci, 0, Some(BusKind::PcieRoot)) => "pcie.0".to_owned(),
        (ControllerKind::Pci, _, _) => format!("pci.{index}"),
        (ControllerKind::Ide, 0, Some(BusKind::PciRoot))
        | (ControllerKind::Sata, 0, Some(BusKind::PcieRoot)) => "ide".to_owned(),
        (ControllerKind::Usb, 0, _) => "usb".to_owned(),
        (kind, _, _) => format!("{}{index}", kind.as_str()),
    }
}

fn memory_name(devices: &Devices, memory: &Memory) -> String {
    let prefix = match memory.model {
        MemoryModel::Dimm => "dimm",
        MemoryModel::Nvdimm => "nvdimm",
        MemoryModel::VirtioPmem => "virtiopmem",
        MemoryModel::VirtioMem => "virtiomem",
        MemoryModel::SgxEpc => "epc",
    };
    let number = match &memory.info.address {
        Some(Address::Dimm(a)) => a.slot,
        _ => next_free(devices, Family::Memory, prefix),
    };
    format!("{prefix}{number}")
}

/// The console that is the first serial port has its name, too.
fn name_first_console(devices: &mut Devices) {
    use domxml::devices::ConsoleTargetKind;
    let serial = devices.serials.first().map(|s| s.info.alias.clone());
    if let (Some(alias), Some(console)) = (serial, devices.consoles.first_mut()) {
        let kind = console.target.as_ref().and_then(|t| t.kind);
        if matches!(kind, None | Some(ConsoleTargetKind::Serial)) {
            console.info = DeviceInfo {
                alias,
                ..std::mem::take(&mut console.info)
            };
        }
    }
}
