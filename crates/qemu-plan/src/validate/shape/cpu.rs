//! The guest's CPU.

use domxml::Domain;
use domxml::cpu::{Cpu, CpuMode, MaxPhysAddrMode};

use crate::error::{Area, Code, Error, Result};

/// Levels of caches.
const CACHE_LEVELS: u32 = 3;

/// The parts of a CPU go together.
pub(super) fn cpu(def: &Domain) -> Result<()> {
    let Some(cpu) = &def.cpu else { return Ok(()) };
    let mode = cpu.mode.unwrap_or_default();
    let host = matches!(mode, CpuMode::HostPassthrough | CpuMode::Maximum);
    if cpu.migratable.is_some() && !host {
        return Err(Error::conflicting_cpu(
            "Attribute migratable is only allowed for 'host-passthrough' / 'maximum' CPU mode",
        ));
    }
    vendor(cpu, host)?;
    cpu.check_shape().map_err(|error| {
        let area = match error.area {
            domxml::Area::Xml => Area::Xml,
            _ => Area::Cpu,
        };
        Error::new(Code::Xml, area, error.message)
    })?;
    options(cpu)
}

fn vendor(cpu: &Cpu, host: bool) -> Result<()> {
    let model = cpu.model.as_ref();
    let id = model.and_then(|m| m.vendor_id.as_deref()).unwrap_or_default();
    if !host && !id.is_empty() {
        if id.len() != 12 {
            return Err(Error::xml_cpu("vendor_id must be exactly 12 characters long"));
        }
        if id.contains(',') {
            return Err(Error::xml_cpu("vendor id is invalid"));
        }
    }
    let named = model.is_some_and(|m| m.name.as_deref().is_some_and(|n| !n.is_empty()));
    if cpu.vendor.as_deref().is_some_and(|v| !v.is_empty()) && !named {
        return Err(Error::xml_cpu("CPU vendor specified without CPU model"));
    }
    Ok(())
}

fn options(cpu: &Cpu) -> Result<()> {
    let level = cpu.cache.and_then(|c| c.level);
    if level.is_some_and(|l| !(1..=CACHE_LEVELS).contains(&l)) {
        return Err(Error::xml_cpu("invalid CPU cache level, must be in range [1,3]"));
    }
    let Some((bits, limit)) = cpu.maxphysaddr.and_then(|b| Some((b, b.limit?))) else {
        return Ok(());
    };
    if limit == 0 {
        return Err(Error::attribute(
            "Invalid value for attribute 'limit' in element 'maxphysaddr': Zero is not permitted",
        ));
    }
    if bits.mode != MaxPhysAddrMode::Passthrough {
        return Err(Error::conflicting_cpu(
            "attribute 'limit' is only supported for maxphysaddr mode 'passthrough'",
        ));
    }
    Ok(())
}
