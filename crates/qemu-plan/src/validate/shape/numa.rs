//! The guest's NUMA cells, and where their memory comes from.

use domxml::Domain;
use domxml::cpu::{Cell, Numa};
use domxml::tuning::{NumaTune, Placement};

use crate::error::{Error, Result};

/// Distances that ACPI has: to the cell itself, and the longest.
const LOCAL: u32 = 10;
const FARTHEST: u32 = 255;

/// Cells share no CPU and lie at distances that there are.
pub(super) fn cells(def: &Domain) -> Result<()> {
    let Some(numa) = def.cpu.as_ref().and_then(|c| c.numa.as_ref()) else {
        return Ok(());
    };
    if numa.cells.is_empty() {
        return Err(Error::xml("NUMA topology defined without NUMA cells"));
    }
    for at in 0..numa.cells.len() {
        cell(numa, at)?;
    }
    let vcpus = def.vcpu.as_ref().map_or(1, |v| v.count);
    let cpus = || numa.cells.iter().filter_map(|c| c.cpus.as_ref());
    if cpus().map(domxml::Bitmap::len).sum::<usize>() > vcpus as usize {
        return Err(Error::internal(
            "Number of CPUs in <numa> exceeds the <vcpu> count",
        ));
    }
    if cpus().filter_map(domxml::Bitmap::last).any(|last| last >= vcpus) {
        return Err(Error::internal("CPU IDs in <numa> exceed the <vcpu> count"));
    }
    Ok(())
}

fn id(numa: &Numa, at: usize) -> u32 {
    let own = numa.cells[at].id;
    own.or_else(|| u32::try_from(at).ok()).unwrap_or(u32::MAX)
}

fn cell(numa: &Numa, at: usize) -> Result<()> {
    let (cell, own) = (&numa.cells[at], id(numa, at));
    let count = numa.cells.len();
    if own as usize >= count {
        return Err(Error::xml(
            "Exactly one 'cell' element per guest NUMA cell allowed, non-contiguous ranges or ranges not starting from 0 are not allowed",
        ));
    }
    // A cell without memory counts as one that was not there yet.
    let twin = (0..at).any(|before| id(numa, before) == own && numa.cells[before].memory.0 > 0);
    if twin {
        return Err(Error::xml(format!(
            "Duplicate NUMA cell info for cell id '{own}'"
        )));
    }
    if let Some(cpus) = &cell.cpus {
        let clash = (0..at).find(|b| numa.cells[*b].cpus.as_ref().is_some_and(|c| c.overlaps(cpus)));
        if let Some(other) = clash {
            return Err(Error::conflicting(format!(
                "NUMA cells {own} and {} have overlapping vCPU ids",
                id(numa, other)
            )));
        }
    }
    distances(cell, own, count)
}

fn distances(cell: &Cell, own: u32, count: usize) -> Result<()> {
    for sibling in &cell.distances {
        let (id, value) = (sibling.id, sibling.value);
        if id as usize >= count {
            return Err(Error::xml(format!(
                "'sibling_id {id}' does not refer to a valid cell within NUMA 'cell id {own}'"
            )));
        }
        let local = id == own;
        if !(LOCAL..=FARTHEST).contains(&value) || local != (value == LOCAL) {
            return Err(Error::xml(format!(
                "'value {value}' is invalid for 'sibling id {id}' under NUMA 'cell id {own}'"
            )));
        }
    }
    Ok(())
}

/// Nodes of the host are named once, and are not none.
pub(super) fn placement(def: &Domain) -> Result<()> {
    let Some(tune) = &def.numatune else { return Ok(()) };
    let memory = tune.memory.as_ref();
    if memory
        .and_then(|m| m.nodeset.as_ref())
        .is_some_and(domxml::Bitmap::is_empty)
    {
        return Err(empty("nodeset"));
    }
    if !tune.memnodes.is_empty() && is_automatic(def, tune) {
        return Err(Error::conflicting(
            "Per-node binding is not compatible with automatic NUMA placement.",
        ));
    }
    let cells = def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map_or(0, |n| n.cells.len());
    if cells == 0 && !tune.memnodes.is_empty() {
        return Err(Error::xml(
            "Element 'memnode' is invalid without any guest NUMA cells",
        ));
    }
    for (at, node) in tune.memnodes.iter().enumerate() {
        if node.cellid as usize >= cells {
            return Err(Error::xml(
                "Argument 'cellid' in memnode element must correspond to existing guest's NUMA cell",
            ));
        }
        if tune.memnodes[..at].iter().any(|n| n.cellid == node.cellid) {
            return Err(Error::xml(format!(
                "Multiple memnode elements with cellid {}",
                node.cellid
            )));
        }
        if node.nodeset.is_empty() {
            return Err(empty("nodeset"));
        }
    }
    Ok(())
}

/// Whether a daemon of the host chooses the nodes.
fn is_automatic(def: &Domain, tune: &NumaTune) -> bool {
    let of_memory = tune.memory.as_ref().and_then(|m| m.placement);
    let of_cpus = def.vcpu.as_ref().and_then(|v| v.placement);
    let named = tune.memory.as_ref().is_some_and(|m| m.nodeset.is_some());
    match of_memory {
        Some(placement) => placement == Placement::Auto,
        None => of_cpus == Some(Placement::Auto) && !named,
    }
}

/// A list from which everything is excluded. What was written is gone by now.
fn empty(name: &str) -> Error {
    Error::conflicting(format!("Invalid value of '{name}': 0,^0"))
}
