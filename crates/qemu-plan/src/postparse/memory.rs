//! How much memory, and on which of the guest's NUMA cells.

use domxml::cpu::{Cell, CellMemory, Numa};
use domxml::devices::Size;
use domxml::units::{Kib, scale};
use domxml::{Bitmap, Domain};

use crate::address::Age;
use crate::error::{Area, Code, Error, Result};

/// Fills in the sizes and the cells.
pub(super) fn fill(def: &mut Domain, age: Age) -> Result<()> {
    number_cells(def)?;
    let plugged = plugged(def)?;
    fill_total(def, plugged, age)?;
    if age == Age::New {
        add_cell(def, plugged);
    }
    spread_cpus(def);
    check_limits(def)
}

fn number_cells(def: &mut Domain) -> Result<()> {
    let Some(numa) = def.cpu.as_mut().and_then(|c| c.numa.as_mut()) else {
        return Ok(());
    };
    for (at, cell) in (0u32..).zip(&mut numa.cells) {
        cell.id.get_or_insert(at);
    }
    numa.cells.sort_by_key(|c| c.id);
    let contiguous = (0u32..).zip(&numa.cells).all(|(at, c)| c.id == Some(at));
    if !contiguous {
        return Err(Error::xml(
            "Exactly one 'cell' element per guest NUMA cell allowed, non-contiguous ranges or ranges not starting from 0 are not allowed",
        ));
    }
    Ok(())
}

/// Memory on modules, KiB.
fn plugged(def: &Domain) -> Result<u64> {
    let sizes = def
        .devices
        .memories
        .iter()
        .filter_map(|m| m.target.as_ref()?.size.as_ref());
    sizes.map(size_kib).try_fold(0u64, |sum, size| {
        size?.checked_add(sum).ok_or_else(too_large)
    })
}

/// A size with its unit, KiB when it has none.
pub(crate) fn size_kib(size: &Size) -> Result<u64> {
    let bytes = scale(size.value, size.unit.as_deref().unwrap_or("KiB"));
    bytes
        .map(|b| b.div_ceil(1024))
        .map_err(|e| Error::new(Code::InvalidArg, Area::None, e.message))
}

fn too_large() -> Error {
    Error::xml("memory size is too large")
}

/// With cells their sum counts, and modules come on top; without, modules are part of the total.
fn fill_total(def: &mut Domain, plugged: u64, age: Age) -> Result<()> {
    let cells = def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map(cells_kib)
        .transpose()?
        .unwrap_or(0);
    let given = def.memory.unwrap_or_default();
    let total = if cells > 0 && (given.size.0 == 0 || age == Age::New) {
        cells.checked_add(plugged).ok_or_else(too_large)?
    } else {
        given.size.0
    };
    if total == 0 {
        return Err(Error::xml(
            "Memory size must be specified via <memory> or in the <numa> configuration",
        ));
    }
    if cells == 0 && plugged > total {
        return Err(Error::xml(
            "Total size of memory devices exceeds the total memory size",
        ));
    }
    def.memory = Some(domxml::domain::Memory {
        size: Kib(total),
        ..given
    });
    let current = def.current_memory.map_or(0, |k| k.0);
    def.current_memory = Some(Kib(if current == 0 || current > total {
        total
    } else {
        current
    }));
    Ok(())
}

fn cells_kib(numa: &Numa) -> Result<u64> {
    numa.cells.iter().try_fold(0u64, |sum, c| {
        sum.checked_add(c.memory.0).ok_or_else(too_large)
    })
}

/// A guest that memory can be plugged into needs a cell to plug it into.
fn add_cell(def: &mut Domain, plugged: u64) {
    let has_cells = def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .is_some_and(|n| !n.cells.is_empty());
    if def.max_memory.is_none() || has_cells {
        return;
    }
    let initial = def.memory.map_or(0, |m| m.size.0).saturating_sub(plugged);
    let vcpus = def.vcpu.as_ref().map_or(1, |v| v.count);
    let cell = Cell {
        id: Some(0),
        cpus: Some(Bitmap::range(0, vcpus.saturating_sub(1))),
        memory: CellMemory(initial),
        ..Cell::default()
    };
    def.cpu
        .get_or_insert_default()
        .numa
        .get_or_insert_default()
        .cells
        .push(cell);
}

/// CPUs that no cell names are in the first one.
fn spread_cpus(def: &mut Domain) {
    let vcpus = def.vcpu.as_ref().map_or(1, |v| v.count).min(MAX_VCPUS);
    let Some(numa) = def.cpu.as_mut().and_then(|c| c.numa.as_mut()) else {
        return;
    };
    let placed: usize = numa
        .cells
        .iter()
        .filter_map(|c| c.cpus.as_ref())
        .map(Bitmap::len)
        .sum();
    if numa.cells.is_empty() || placed >= vcpus as usize {
        return;
    }
    let free: Vec<u32> = (0..vcpus)
        .filter(|v| {
            !numa
                .cells
                .iter()
                .any(|c| c.cpus.as_ref().is_some_and(|b| b.contains(*v)))
        })
        .collect();
    if let Some(first) = numa.cells.first_mut() {
        let cpus = first.cpus.get_or_insert_default();
        free.into_iter().for_each(|v| cpus.insert(v));
    }
}

/// More vCPUs than this are not looked at one by one.
const MAX_VCPUS: u32 = 8192;

fn check_limits(def: &Domain) -> Result<()> {
    let Some(max) = def.max_memory else {
        return Ok(());
    };
    let slots = max.slots.unwrap_or(0);
    if max.size.0 == 0 && slots > 0 {
        return Err(Error::xml(
            "both maximum memory size and memory slot count must be specified",
        ));
    }
    if def.memory.map_or(0, |m| m.size.0) > max.size.0 {
        return Err(Error::xml(
            "memory size must be less than or equal to maximum size",
        ));
    }
    Ok(())
}
