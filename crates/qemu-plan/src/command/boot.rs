//! `-boot`, direct kernel boot, and the boot order of devices.

use std::collections::BTreeMap;

use domxml::Domain;
use domxml::devices::common::{OnOff, YesNo};
use domxml::devices::controller::PciModel;
use domxml::devices::disk::DiskDevice;
use domxml::os::{AcpiTableType, BootDevice};

use super::context::Context;
use super::line::CommandLine;
use crate::props::Keyval;

/// Boot index of each device that takes part, by alias. A guest has either an order of families
/// (`<os><boot dev=..>`), of which the first device of each counts, or one of devices.
pub fn order(def: &Domain) -> BTreeMap<String, u32> {
    if def.os.boot.is_empty() {
        own_order(def)
    } else {
        family_order(def)
    }
}

fn own_order(def: &Domain) -> BTreeMap<String, u32> {
    let infos = def.devices.iter().filter_map(|device| device.info());
    let entry = |info: &domxml::devices::info::DeviceInfo| {
        let order = info.boot.as_ref()?.order;
        Some((info.alias.clone()?, order))
    };
    infos.filter_map(entry).filter(|(_, order)| *order != 0).collect()
}

fn family_order(def: &Domain) -> BTreeMap<String, u32> {
    let mut order = BTreeMap::new();
    for (place, boot) in def.os.boot.iter().enumerate() {
        let first = match boot.dev {
            BootDevice::Fd => first_disk(def, &[DiskDevice::Floppy]),
            BootDevice::Cdrom => first_disk(def, &[DiskDevice::Cdrom]),
            BootDevice::Hd => first_disk(def, &[DiskDevice::Disk, DiskDevice::Lun]),
            BootDevice::Network => def
                .devices
                .interfaces
                .first()
                .and_then(|net| net.info.alias.as_deref()),
        };
        if let Some(alias) = first {
            order.insert(alias.to_owned(), place as u32 + 1);
        }
    }
    order
}

fn first_disk<'a>(def: &'a Domain, kinds: &[DiskDevice]) -> Option<&'a str> {
    let disk = def
        .devices
        .disks
        .iter()
        .find(|disk| kinds.contains(&disk.device))?;
    disk.info.alias.as_deref()
}

/// Appends `-boot` and what is booted without a disk.
pub fn build(cx: Context<'_>, line: &mut CommandLine) {
    let os = &cx.def.os;
    let mut boot = Keyval::new();
    if let Some(menu) = os.bootmenu {
        boot.opt(
            "menu",
            menu.enable
                .map(|enable| OnOff::from(enable == YesNo::Yes).as_str()),
        );
        let timeout = menu.timeout.filter(|_| menu.enable == Some(YesNo::Yes));
        boot.opt("splash-time", timeout);
    }
    boot.opt("reboot-timeout", os.bios.and_then(|bios| bios.reboot_timeout));
    boot.set("strict", "on");
    line.push("-boot", boot);
    let files = [
        ("-kernel", &os.kernel),
        ("-initrd", &os.initrd),
        ("-append", &os.cmdline),
        ("-shim", &os.shim),
        ("-dtb", &os.dtb),
    ];
    for (switch, value) in files {
        if let Some(value) = value {
            line.push(switch, value.as_str());
        }
    }
    for table in &os.acpi_tables {
        let signed = match table.kind {
            AcpiTableType::Slic => Keyval::new().with("sig", "SLIC"),
            AcpiTableType::Msdm => Keyval::new().with("sig", "MSDM"),
            // The table says itself what it is.
            AcpiTableType::Raw | AcpiTableType::Rawset => Keyval::new(),
        };
        line.push("-acpitable", signed.with("file", &table.path));
    }
}

/// Appends whether devices on the root bus can be plugged and unplugged through ACPI.
pub fn build_root_hotplug(cx: Context<'_>, line: &mut CommandLine) {
    for controller in &cx.def.devices.controllers {
        let hotplug = controller.target.as_ref().and_then(|target| target.hotplug);
        if let (Some(PciModel::PciRoot), Some(hotplug)) = (controller.pci_model(), hotplug) {
            line.push(
                "-global",
                format!("PIIX4_PM.acpi-root-pci-hotplug={}", hotplug.as_str()),
            );
        }
    }
}
