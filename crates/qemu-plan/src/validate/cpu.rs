//! The guest's CPU.

use domxml::cpu::{Cpu, CpuCacheMode, MaxPhysAddrMode};

use super::Guest;
use crate::error::{Error, Result};

fn cpu<'a>(guest: &Guest<'a>) -> Option<&'a Cpu> {
    guest.def.cpu.as_ref()
}

pub(super) fn cache(guest: &Guest<'_>) -> Result<()> {
    let Some(cache) = cpu(guest).and_then(|c| c.cache) else {
        return Ok(());
    };
    match (cache.mode, cache.level) {
        (CpuCacheMode::Emulate, level) if level != Some(3) => Err(Error::unsupported(
            "CPU cache mode 'emulate' can only be used with level='3'",
        )),
        (CpuCacheMode::Passthrough | CpuCacheMode::Disable, Some(_)) => Err(Error::unsupported(format!(
            "unsupported CPU cache level for mode '{}'",
            cache.mode.as_str()
        ))),
        _ => Ok(()),
    }
}

pub(super) fn address_bits(guest: &Guest<'_>) -> Result<()> {
    match cpu(guest).and_then(|c| c.maxphysaddr) {
        Some(bits) if bits.mode == MaxPhysAddrMode::Passthrough && bits.bits.is_some() => {
            Err(Error::unsupported(
                "CPU maximum physical address bits number specification cannot be used with mode='passthrough'",
            ))
        }
        _ => Ok(()),
    }
}

pub(super) fn distances(guest: &Guest<'_>) -> Result<()> {
    let Some(numa) = cpu(guest).and_then(|c| c.numa.as_ref()) else {
        return Ok(());
    };
    numa.cells.iter().try_for_each(|cell| {
        let stray = cell.distances.iter().find(|d| d.id as usize >= numa.cells.len());
        stray.map_or(Ok(()), |d| {
            let (sibling, cell) = (d.id, cell.id.unwrap_or(0));
            Err(Error::xml(format!(
                "'sibling_id {sibling}' does not refer to a valid cell within NUMA 'cell id {cell}'"
            )))
        })
    })
}
