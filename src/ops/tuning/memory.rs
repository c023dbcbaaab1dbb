//! How much memory a guest's process may use.

use confine::cgroup::{Controller, Group, MemoryLimit, UNLIMITED_KIB};
use domxml::{Domain, tuning::MemoryTune, units::Kib};

use crate::{
    domain::View,
    error::{Error, Result},
    ops::{
        Driver,
        document::scope::{self, Scope},
        holdings::cgroup::refused,
        tuning::{group_with, not_in_session},
    },
};

const NO_GROUP: &str = "cgroup memory controller is not mounted";

/// Limits in KiB; what is none stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Of memory.
    pub hard: Option<u64>,
    /// Under pressure.
    pub soft: Option<u64>,
    /// Of memory and swap.
    pub swap_hard: Option<u64>,
}

/// The limits: of a running guest by the kernel's word.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration, or is in no group of memory.
pub fn read(driver: &Driver, view: &View, scope: Scope) -> Result<Limits> {
    not_in_session(driver, "Memory tuning")?;
    let document = scope::read(view, scope)?;
    if document.is_live() {
        return of_group(&group_with(driver, view, Controller::Memory, NO_GROUP)?);
    }
    let tune = document.facts().memory_tuning.unwrap_or_default();
    let shown = |limit: Option<Kib>| Some(limit.map_or(UNLIMITED_KIB, |kib| kib.0));
    Ok(Limits {
        hard: shown(tune.hard_limit),
        soft: shown(tune.soft_limit),
        swap_hard: shown(tune.swap_hard_limit),
    })
}

fn of_group(group: &Group) -> Result<Limits> {
    let of = |limit| group.memory_limit(limit).map_err(refused).map(Some);
    // Where the kernel does not count swap there is no limit of it.
    let swap_hard = of(MemoryLimit::SwapHard).unwrap_or(Some(UNLIMITED_KIB));
    Ok(Limits {
        hard: of(MemoryLimit::Hard)?,
        soft: of(MemoryLimit::Soft)?,
        swap_hard,
    })
}

pub(crate) fn apply(domain: &mut Domain, limits: Limits) -> Result<()> {
    let tune = domain.memtune.get_or_insert_default();
    let limit = |kib: u64| {
        if kib >= UNLIMITED_KIB {
            None
        } else {
            Some(Kib(kib))
        }
    };
    let places = [
        (&mut tune.hard_limit, limits.hard),
        (&mut tune.soft_limit, limits.soft),
        (&mut tune.swap_hard_limit, limits.swap_hard),
    ];
    for (place, value) in places {
        if let Some(kib) = value {
            *place = limit(kib);
        }
    }
    if let (Some(swap), Some(hard)) = (tune.swap_hard_limit, tune.hard_limit)
        && hard.0 > swap.0
    {
        return Err(Error::argument(
            "memory hard_limit tunable value must be lower than or equal to swap_hard_limit",
        ));
    }
    if *tune == MemoryTune::default() {
        domain.memtune = None;
    }
    Ok(())
}

/// What the guest has now of what is to be changed.
pub(crate) fn before(driver: &Driver, view: &View, limits: Limits) -> Result<Limits> {
    let had = read(driver, view, Scope::Live)?;
    Ok(Limits {
        hard: had.hard.filter(|_| limits.hard.is_some()),
        soft: had.soft.filter(|_| limits.soft.is_some()),
        swap_hard: had.swap_hard.filter(|_| limits.swap_hard.is_some()),
    })
}

pub(crate) fn carry_out(driver: &Driver, view: &View, limits: Limits) -> Result<()> {
    not_in_session(driver, "Memory tuning")?;
    let group = group_with(driver, view, Controller::Memory, NO_GROUP)?;
    let before = of_group(&group)?;
    let result = set(&group, before, limits);
    if result.is_err()
        && let Err(error) = set(&group, of_group(&group)?, before)
    {
        tracing::warn!(guest = %view.name, %error, "the guest's limits of memory are not what they were");
    }
    result
}

/// Memory may at no time be more than memory and swap: what rises, rises in swap first.
fn set(group: &Group, before: Limits, limits: Limits) -> Result<()> {
    let set = |limit, value: Option<u64>| {
        value.map_or(Ok(()), |kib| group.set_memory_limit(limit, kib).map_err(refused))
    };
    let rises = limits.swap_hard > before.swap_hard;
    if rises {
        set(MemoryLimit::SwapHard, limits.swap_hard)?;
    }
    set(MemoryLimit::Hard, limits.hard)?;
    set(MemoryLimit::Soft, limits.soft)?;
    if rises {
        Ok(())
    } else {
        set(MemoryLimit::SwapHard, limits.swap_hard)
    }
}
