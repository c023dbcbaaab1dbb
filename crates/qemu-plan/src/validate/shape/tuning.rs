//! Tuning: threads, schedulers, shares of the host's caches.

use domxml::tuning::{CacheType, CpuTune, Scheduler};
use domxml::{Bitmap, Domain};

use super::super::guest::iothreads;
use crate::error::{Area, Code, Error, Result};

/// Threads and CPUs are named once, and are there.
pub(super) fn tuning(def: &Domain) -> Result<()> {
    threads(def)?;
    schedulers(def)?;
    tuned(def)?;
    overlaps(def)
}

fn threads(def: &Domain) -> Result<()> {
    let ids = def.iothreadids.as_ref().map_or(&[][..], |i| i.all.as_slice());
    if let Some((_, twin)) = ids
        .iter()
        .enumerate()
        .find(|(at, t)| ids[..*at].iter().any(|o| o.id == t.id))
    {
        return Err(Error::xml(format!("duplicate iothread id '{}' found", twin.id)));
    }
    let Some(tune) = &def.cputune else {
        return Ok(());
    };
    let pins = &tune.vcpupin;
    if let Some((_, twin)) = pins
        .iter()
        .enumerate()
        .find(|(at, p)| pins[..*at].iter().any(|o| o.vcpu == p.vcpu))
    {
        return Err(Error::internal(format!(
            "duplicate vcpupin for vcpu '{}'",
            twin.vcpu
        )));
    }
    Ok(())
}

/// Schedulers with priorities must name one.
fn schedulers(def: &Domain) -> Result<()> {
    let Some(tune) = &def.cputune else {
        return Ok(());
    };
    let vcpus = tune.vcpusched.iter().map(|s| ("vcpusched", &s.choice));
    let threads = tune.iothreadsched.iter().map(|s| ("iothreadsched", &s.choice));
    let mut all = vcpus
        .chain(threads)
        .chain(tune.emulatorsched.iter().map(|c| ("emulatorsched", c)));
    let realtime = |s: Scheduler| matches!(s, Scheduler::Fifo | Scheduler::Rr);
    match all.find(|(_, c)| realtime(c.scheduler) && c.priority.is_none()) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("Missing required attribute 'priority' in element '{name}'");
            Err(Error::new(Code::Xml, Area::Xml, message))
        }
    }
}

/// CPUs and threads that are tuned.
fn tuned(def: &Domain) -> Result<()> {
    let threads = iothreads(def);
    let count = def.vcpu.as_ref().map_or(1, |v| v.count);
    if let Some(tune) = &def.cputune {
        let scheduled = tune
            .vcpusched
            .iter()
            .flat_map(|s| s.vcpus.iter().collect::<Vec<_>>());
        if let Some(vcpu) = scheduled.into_iter().find(|v| *v >= count) {
            return Err(Error::conflicting(format!(
                "vCPU '{vcpu}' is not present in domain definition"
            )));
        }
        if let Some(pin) = tune.iothreadpin.iter().find(|p| !threads.contains(&p.iothread)) {
            return Err(Error::conflicting(format!(
                "Cannot find 'iothread' : {}",
                pin.iothread
            )));
        }
    }
    Ok(())
}

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

fn overlaps(def: &Domain) -> Result<()> {
    let Some(tune) = &def.cputune else {
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
    let ids = iothreads(def);
    let named = tune
        .iothreadsched
        .iter()
        .flat_map(|s| s.iothreads.iter().collect::<Vec<_>>());
    match named.into_iter().find(|id| !ids.contains(id)) {
        None => Ok(()),
        Some(id) => Err(Error::conflicting(format!("Cannot find 'iothread' : {id}"))),
    }
}
