//! What belongs to no device: vCPUs, SMBIOS, features, labels, memory modules.

use domxml::Domain;
use domxml::devices::{Address, DeviceRef, DeviceSeclabel, OnOff, YesNo};
use domxml::os::AcpiTableType;
use domxml::security::LaunchSecurity;

use super::Guest;
use crate::caps::Flag;
use crate::error::{Area, Code, Error, Result};
use crate::facts::MachineKind;
use crate::facts::size::size_kib;

/// The name of the guest's machine.
pub(super) fn machine_name<'a>(guest: &Guest<'a>) -> &'a str {
    guest
        .def
        .os
        .kind
        .as_ref()
        .and_then(|t| t.machine.as_deref())
        .unwrap_or_default()
}

pub(super) fn machine(guest: &Guest<'_>) -> Result<()> {
    let name = machine_name(guest);
    if guest.caps.machine(guest.accel, name).is_some() {
        return Ok(());
    }
    let emulator = guest.def.devices.emulator.as_deref().unwrap_or_default();
    Err(Error::unsupported(format!(
        "Emulator '{emulator}' does not support machine type '{name}'"
    )))
}

pub(super) fn vcpus(guest: &Guest<'_>) -> Result<()> {
    let all = guest.def.vcpus.as_ref().map_or(&[][..], |v| v.all.as_slice());
    if all.iter().any(|v| v.id == 0 && v.enabled == YesNo::No) {
        return Err(Error::unsupported("vcpu 0 can't be offline"));
    }
    Ok(())
}

pub(super) fn acpi_tables(guest: &Guest<'_>) -> Result<()> {
    let mut tables = guest.def.os.acpi_tables.iter();
    match tables.any(|table| table.kind == AcpiTableType::Rawset) {
        true => Err(Error::unsupported("ACPI table type 'rawset' is not supported")),
        false => Ok(()),
    }
}

pub(super) fn sysinfo(guest: &Guest<'_>) -> Result<()> {
    guest.def.sysinfo.iter().try_for_each(|info| {
        if info
            .bios
            .as_ref()
            .and_then(|b| b.get("date"))
            .is_some_and(|d| !is_date(d))
        {
            return Err(Error::detail("Invalid BIOS 'date' format"));
        }
        let uuid = info
            .system
            .as_ref()
            .and_then(|s| s.get("uuid"))
            .and_then(|u| uuid::Uuid::parse_str(u).ok());
        if uuid.is_some_and(|u| Some(u) != guest.def.uuid) {
            return Err(Error::detail("UUID mismatch between <uuid> and <sysinfo>"));
        }
        Ok(())
    })
}

/// `mm/dd/yyyy`, or `mm/dd/yy` of the twentieth century.
fn is_date(text: &str) -> bool {
    let parts: Vec<Option<u32>> = text.split('/').map(|p| p.parse().ok()).collect();
    match parts.as_slice() {
        [Some(month), Some(day), Some(year)] => {
            (1..=12).contains(month)
                && (1..=31).contains(day)
                && (*year < 100 || (1900..10000).contains(year))
        }
        _ => false,
    }
}

pub(super) fn features(guest: &Guest<'_>) -> Result<()> {
    let Some(features) = &guest.def.features else {
        return Ok(());
    };
    let ps2_off = features.ps2.is_some_and(|p| p.state == OnOff::Off);
    if ps2_off && features.vmport.is_some_and(|v| v.state == OnOff::On) {
        return Err(Error::unsupported(
            "vmport feature requires the ps2 feature not to be disabled",
        ));
    }
    let Some(tseg) = features.smm.and_then(|s| s.tseg) else {
        return Ok(());
    };
    if guest.machine != MachineKind::Q35 {
        return Err(Error::unsupported(
            "SMM TSEG is only supported with q35 machine type",
        ));
    }
    if tseg.0 % (1 << 20) != 0 {
        return Err(Error::unsupported("SMM TSEG size must be divisible by 1 MiB"));
    }
    Ok(())
}

pub(super) fn launch_security(guest: &Guest<'_>) -> Result<()> {
    let (name, flag) = match guest.def.launch_security {
        None => return Ok(()),
        Some(LaunchSecurity::Sev(_)) => ("sev", Flag::SevGuest),
        Some(LaunchSecurity::SevSnp(_)) => ("sev-snp", Flag::SevSnpGuest),
        Some(LaunchSecurity::S390Pv) => ("s390-pv", Flag::S390PvGuest),
    };
    if guest.caps.has(flag) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "'{name}' launch security is not supported with this QEMU binary"
    )))
}

pub(super) fn seclabels(def: &Domain) -> Result<()> {
    let models: Vec<&str> = def.seclabels.iter().filter_map(|s| s.model.as_deref()).collect();
    let twice = models
        .iter()
        .enumerate()
        .find(|(at, m)| models[..*at].contains(m));
    if let Some((_, model)) = twice {
        return Err(Error::detail(format!(
            "seclabel for model {model} is already provided"
        )));
    }
    let sources = def.devices.disks.iter().filter_map(|d| d.source.as_ref());
    sources
        .into_iter()
        .try_for_each(|s| device_seclabels(&s.seclabels))
}

fn device_seclabels(labels: &[DeviceSeclabel]) -> Result<()> {
    for (at, label) in labels.iter().enumerate() {
        let model = label.model.as_deref();
        if labels.len() > 1 && labels[..at].iter().any(|l| l.model.as_deref() == model) {
            return Err(Error::xml("missing security model when using multiple labels"));
        }
        let empty = label.label.as_deref().is_none_or(str::is_empty);
        if label.relabel == Some(YesNo::Yes) && empty {
            let model = model.unwrap_or("NULL");
            return Err(Error::xml(format!(
                "Cannot specify relabel if label is missing. model={model}"
            )));
        }
    }
    Ok(())
}

/// Numbers that no PCI address has.
pub(super) fn addresses(def: &Domain) -> Result<()> {
    let infos = def.devices.iter().filter_map(DeviceRef::info);
    let mut pci = infos.filter_map(|i| match &i.address {
        Some(Address::Pci(a)) => Some(a),
        _ => None,
    });
    let wrong = pci.find_map(|a| match (a.bus, a.slot, a.function) {
        (bus, _, _) if bus > 0xff => Some(format!("bus='{bus:#x}', must be <= 0xFF")),
        (_, slot, _) if slot > 0x1f => Some(format!("slot='{slot:#x}', must be <= 0x1F")),
        (_, _, function) if function > 7 => Some(format!("function={function:#x}, must be <= 7")),
        _ => None,
    });
    match wrong {
        Some(wrong) => {
            let message = format!("Invalid PCI address {wrong}");
            Err(Error::new(Code::Xml, Area::None, message))
        }
        None if def.devices.iter().filter_map(DeviceRef::info).any(has_zpci) => {
            Err(Error::unsupported("This QEMU binary doesn't support zPCI"))
        }
        None => Ok(()),
    }
}

fn has_zpci(info: &domxml::devices::DeviceInfo) -> bool {
    matches!(&info.address, Some(Address::Pci(a)) if a.zpci.is_some())
}

pub(super) fn memory_devices(guest: &Guest<'_>) -> Result<()> {
    let cells = guest
        .def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map_or(0, |n| n.cells.len());
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for target in guest
        .def
        .devices
        .memories
        .iter()
        .filter_map(|m| m.target.as_ref())
    {
        if let Some(node) = target.node.filter(|n| *n as usize >= cells) {
            return Err(Error::detail(format!(
                "can't add memory backend for guest node '{node}' as the guest has only '{cells}' NUMA nodes configured"
            )));
        }
        let (Some(start), Some(size)) = (target.address, &target.size) else {
            continue;
        };
        let end = start.saturating_add(size_kib(size)?.saturating_mul(1024));
        ranges.push((start, end));
    }
    let overlaps = |(at, (start, end)): (usize, &(u64, u64))| {
        let other = ranges
            .iter()
            .enumerate()
            .find(|(i, (s, e))| *i != at && s < end && start < e)?;
        Some((*start, *end, other.1.0))
    };
    match ranges.iter().enumerate().find_map(overlaps) {
        None => Ok(()),
        Some((start, end, other)) => Err(Error::conflicting(format!(
            "memory device address [{start:#x}:{end:#x}] overlaps with other memory device ({other:#x})"
        ))),
    }
}
