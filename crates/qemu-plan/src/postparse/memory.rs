//! How much memory, and on which of the guest's NUMA cells.

use domxml::cpu::{Cell, CellMemory, Numa, Sibling};
use domxml::devices::{MemoryAccess, MemoryModel, Size};
use domxml::units::Kib;
use domxml::{Bitmap, Domain};

use crate::error::{Error, Result};
use crate::facts::Age;
use crate::facts::size::size_kib;

/// Fills in the sizes and the cells.
pub(super) fn fill(def: &mut Domain, age: Age) -> Result<()> {
    number_cells(def);
    let plugged = plugged(def)?;
    fill_total(def, plugged, age)?;
    if age == Age::New {
        add_cell(def, plugged);
    }
    spread_cpus(def);
    fill_distances(def);
    whole_pages(def);
    fill_modules(def)
}

/// Cells in the order of their numbers.
fn number_cells(def: &mut Domain) {
    let Some(numa) = def.cpu.as_mut().and_then(|c| c.numa.as_mut()) else {
        return;
    };
    let count = numa.cells.len();
    let mut cells: Vec<Cell> = (0u32..)
        .map(|id| Cell {
            id: Some(id),
            ..Cell::default()
        })
        .take(count)
        .collect();
    // Of two with one number the later one counts; the shape has been checked.
    for (at, cell) in (0u32..).zip(numa.cells.drain(..)) {
        let id = cell.id.unwrap_or(at);
        if let Some(place) = cells.get_mut(id as usize) {
            *place = Cell { id: Some(id), ..cell };
        }
    }
    numa.cells = cells;
}

/// Pages of the first node are all pages of a guest without nodes.
fn whole_pages(def: &mut Domain) {
    let cells = cell_count(def);
    let pages = def.memory_backing.as_mut().and_then(|m| m.hugepages.as_mut());
    for page in pages
        .into_iter()
        .flat_map(|h| &mut h.pages)
        .filter(|_| cells == 0)
    {
        page.nodeset = page.nodeset.take().filter(|nodes| *nodes != Bitmap::range(0, 0));
    }
}

/// Memory on modules, KiB.
fn plugged(def: &Domain) -> Result<u64> {
    let sizes = def
        .devices
        .memories
        .iter()
        .filter_map(|m| m.target.as_ref()?.size.as_ref());
    sizes
        .map(size_kib)
        .try_fold(0u64, |sum, size| size?.checked_add(sum).ok_or_else(too_large))
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
    numa.cells
        .iter()
        .try_fold(0u64, |sum, c| sum.checked_add(c.memory.0).ok_or_else(too_large))
}

/// A guest that memory can be plugged into needs a cell to plug it into; modules that name none are on it.
fn add_cell(def: &mut Domain, plugged: u64) {
    let has_cells = def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .is_some_and(|n| !n.cells.is_empty());
    if def.max_memory.is_none() || has_cells {
        return;
    }
    for memory in &mut def.devices.memories {
        let celled = matches!(
            memory.model,
            MemoryModel::Dimm | MemoryModel::Nvdimm | MemoryModel::VirtioMem
        );
        if let Some(target) = memory.target.as_mut().filter(|_| celled) {
            target.node.get_or_insert(0);
        }
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

/// Distance of a cell to itself.
const LOCAL_DISTANCE: u32 = 10;

/// Distances go both ways, unless both are given.
fn fill_distances(def: &mut Domain) {
    let Some(numa) = def.cpu.as_mut().and_then(|c| c.numa.as_mut()) else {
        return;
    };
    let given: Vec<(u32, u32, u32)> = numa
        .cells
        .iter()
        .flat_map(|c| c.distances.iter().map(|d| (c.id.unwrap_or(0), d.id, d.value)))
        .collect();
    for cell in &mut numa.cells {
        let own = cell.id.unwrap_or(0);
        let back = given.iter().filter(|(from, to, _)| *to == own && *from != own);
        let mut missing: Vec<Sibling> = Vec::new();
        for (from, _, value) in back {
            if !cell.distances.iter().any(|d| d.id == *from) {
                missing.push(Sibling {
                    id: *from,
                    value: *value,
                });
            }
        }
        if cell.distances.is_empty() && missing.is_empty() {
            continue;
        }
        cell.distances.append(&mut missing);
        if !cell.distances.iter().any(|d| d.id == own) {
            cell.distances.push(Sibling {
                id: own,
                value: LOCAL_DISTANCE,
            });
        }
        cell.distances.sort_by_key(|d| d.id);
    }
}

/// Sizes of modules are kept in KiB.
pub(super) fn fill_modules(def: &mut Domain) -> Result<()> {
    for memory in &mut def.devices.memories {
        if memory.model == MemoryModel::VirtioPmem {
            memory.access.get_or_insert(MemoryAccess::Shared);
        }
        let source = memory.source.as_mut();
        let source = source
            .into_iter()
            .flat_map(|s| [&mut s.pagesize, &mut s.alignsize]);
        for size in source.flatten() {
            *size = in_kib(size)?;
        }
        let Some(target) = &mut memory.target else {
            continue;
        };
        if memory.model == MemoryModel::VirtioMem {
            target.requested.get_or_insert_default();
        }
        let label = target.label.as_mut().map(|l| &mut l.size);
        let sizes = [&mut target.size, &mut target.block, &mut target.requested];
        for size in sizes.into_iter().chain(label).flatten() {
            *size = in_kib(size)?;
        }
    }
    Ok(())
}

fn in_kib(size: &Size) -> Result<Size> {
    let value = size_kib(size)?;
    Ok(Size {
        unit: Some("KiB".to_owned()),
        value,
    })
}

fn cell_count(def: &Domain) -> usize {
    def.cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map_or(0, |n| n.cells.len())
}

/// More vCPUs than this are not looked at one by one.
const MAX_VCPUS: u32 = 8192;
