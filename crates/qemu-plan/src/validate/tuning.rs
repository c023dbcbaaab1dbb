//! Tuning: schedulers, caches of the host, NUMA placement, huge pages.

use domxml::tuning::{CacheType, CpuTune, NumaMode};
use domxml::{Bitmap, Domain, VirtType};

use super::Guest;
use crate::error::{Area, Code, Error, Result};

/// Shares of the host's caches and bandwidth: no two for the same thing.
pub(super) fn resctrl(def: &Domain) -> Result<()> {
    let Some(tune) = &def.cputune else {
        return Ok(());
    };
    for (at, cache) in tune.cachetune.iter().enumerate() {
        if tune.cachetune[..at].iter().any(|c| c.vcpus == cache.vcpus) {
            return Err(Error::xml("Identical vcpus in cachetunes found"));
        }
        for (n, allocation) in cache.caches.iter().enumerate() {
            let clash = |a: &&domxml::tuning::CacheAllocation| {
                let both = a.kind == CacheType::Both || allocation.kind == CacheType::Both;
                (a.level, a.id) == (allocation.level, allocation.id) && (both || a.kind == allocation.kind)
            };
            if cache.caches[..n].iter().any(|a| clash(&a)) {
                let (level, id, kind) = (allocation.level, allocation.id, allocation.kind.as_str());
                let message =
                    format!("Colliding cache allocations for cache level '{level}' id '{id}', type '{kind}'");
                return Err(Error::new(Code::Xml, Area::Resctrl, message));
            }
        }
        let conflict =
            |m: &domxml::tuning::CacheMonitor| m.vcpus != cache.vcpus && !is_within(&m.vcpus, &cache.vcpus);
        if cache.monitors.iter().any(conflict) {
            return Err(Error::new(
                Code::InvalidArg,
                Area::Domain,
                "Monitor vcpus conflicts with allocation",
            ));
        }
    }
    overlapping(tune)
}

fn is_within(part: &Bitmap, whole: &Bitmap) -> bool {
    part.iter().all(|n| whole.contains(n))
}

fn overlapping(tune: &CpuTune) -> Result<()> {
    let caches = || tune.cachetune.iter().map(|c| &c.vcpus);
    let clash = |m: &Bitmap| caches().any(|c| c != m && c.overlaps(m));
    if tune.memorytune.iter().any(|m| clash(&m.vcpus)) {
        return Err(Error::xml("Overlapping vcpus in resctrls"));
    }
    Ok(())
}

pub(super) fn schedulers(guest: &Guest<'_>) -> Result<()> {
    let Some(tune) = &guest.def.cputune else {
        return Ok(());
    };
    for (at, sched) in tune.vcpusched.iter().enumerate() {
        if tune.vcpusched[..at]
            .iter()
            .any(|s| s.vcpus.overlaps(&sched.vcpus))
        {
            return Err(Error::detail("'vcpusched' attributes 'vcpus' must not overlap"));
        }
    }
    let ids = iothread_ids(guest.def);
    let named = tune
        .iothreadsched
        .iter()
        .flat_map(|s| s.iothreads.iter().collect::<Vec<_>>());
    match named.into_iter().find(|id| !ids.contains(id)) {
        None => Ok(()),
        Some(id) => Err(Error::conflicting(format!("Cannot find 'iothread' : {id}"))),
    }
}

/// I/O threads by id: those listed, then the lowest free ones up to their number.
pub(super) fn iothread_ids(def: &Domain) -> Vec<u32> {
    let mut ids: Vec<u32> = def
        .iothreadids
        .iter()
        .flat_map(|i| i.all.iter().map(|t| t.id))
        .collect();
    let count = def.iothreads.unwrap_or(0).min(MAX_IOTHREADS) as usize;
    let mut next = 1;
    while ids.len() < count {
        if !ids.contains(&next) {
            ids.push(next);
        }
        next += 1;
    }
    ids
}

/// More I/O threads than this are not looked at.
const MAX_IOTHREADS: u32 = 4096;

pub(super) fn cache_needs_kvm(guest: &Guest<'_>) -> Result<()> {
    let tuned = guest
        .def
        .cputune
        .as_ref()
        .is_some_and(|t| !t.cachetune.is_empty() || !t.memorytune.is_empty());
    if tuned && guest.def.kind != VirtType::Kvm {
        return Err(Error::unsupported("cachetune is only supported for KVM domains"));
    }
    Ok(())
}

fn cell_count(def: &Domain) -> usize {
    def.cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map_or(0, |n| n.cells.len())
}

pub(super) fn memory_nodes(guest: &Guest<'_>) -> Result<()> {
    let Some(tune) = guest.def.numatune.as_ref().filter(|n| !n.memnodes.is_empty()) else {
        return Ok(());
    };
    if cell_count(guest.def) == 0 {
        return Err(Error::xml(
            "Element 'memnode' is invalid without any guest NUMA cells",
        ));
    }
    let restrictive = |m: Option<NumaMode>| m == Some(NumaMode::Restrictive);
    let overall = tune.memory.as_ref().is_some_and(|m| restrictive(m.mode));
    if !overall && tune.memnodes.iter().any(|n| restrictive(n.mode)) {
        return Err(Error::xml(
            "'restrictive' mode is required in memory element when mode is 'restrictive' in memnode element",
        ));
    }
    Ok(())
}

pub(super) fn hugepages(guest: &Guest<'_>) -> Result<()> {
    let pages = guest
        .def
        .memory_backing
        .as_ref()
        .and_then(|m| m.hugepages.as_ref());
    let cells = cell_count(guest.def).max(1);
    let nodes = pages
        .map_or(&[][..], |h| h.pages.as_slice())
        .iter()
        .filter_map(|p| p.nodeset.as_ref());
    let mut stray = nodes
        .flat_map(|n| n.iter().collect::<Vec<_>>())
        .filter(|n| *n as usize >= cells);
    stray.next().map_or(Ok(()), |node| {
        Err(Error::detail(format!("hugepages: node {node} not found")))
    })
}
