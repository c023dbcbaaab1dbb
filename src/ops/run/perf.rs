//! Events of the host's CPUs and kernel that are counted for a run.
//!
//! A counter lives as long as the daemon keeps it: one that comes to a guest begins to count anew what the document says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domxml::{Domain, clock::PerfEventName as Event};
use unixfd::perf::{Counter, HARDWARE, SOFTWARE};

use super::guest::Guest;
use crate::error::{Area, Code, Error, Result};

/// The counters of a run.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    open: Mutex<BTreeMap<Event, Counter>>,
}

/// The kernel's numbers of an event; none: of what no kernel counts any more.
fn numbers(event: Event) -> Option<(u32, u64)> {
    use Event as E;
    Some(match event {
        E::Cmt | E::Mbmt | E::Mbml => return None,
        E::CpuCycles => (HARDWARE, 0),
        E::Instructions => (HARDWARE, 1),
        E::CacheReferences => (HARDWARE, 2),
        E::CacheMisses => (HARDWARE, 3),
        E::BranchInstructions => (HARDWARE, 4),
        E::BranchMisses => (HARDWARE, 5),
        E::BusCycles => (HARDWARE, 6),
        E::StalledCyclesFrontend => (HARDWARE, 7),
        E::StalledCyclesBackend => (HARDWARE, 8),
        E::RefCpuCycles => (HARDWARE, 9),
        E::CpuClock => (SOFTWARE, 0),
        E::TaskClock => (SOFTWARE, 1),
        E::PageFaults => (SOFTWARE, 2),
        E::ContextSwitches => (SOFTWARE, 3),
        E::CpuMigrations => (SOFTWARE, 4),
        E::PageFaultsMin => (SOFTWARE, 5),
        E::PageFaultsMaj => (SOFTWARE, 6),
        E::AlignmentFaults => (SOFTWARE, 7),
        E::EmulationFaults => (SOFTWARE, 8),
    })
}

impl Counters {
    fn open(&self) -> MutexGuard<'_, BTreeMap<Event, Counter>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event of the process, or does not any more.
    ///
    /// # Errors
    /// `ArgumentUnsupported` for what no kernel counts, `System` if this one does not.
    pub(crate) fn set(&self, pid: i32, event: Event, counted: bool) -> Result<()> {
        if !counted {
            self.open().remove(&event);
            return Ok(());
        }
        let name = event.as_str();
        let (kind, number) = numbers(event).ok_or_else(|| {
            let text = format!("unable to enable host cpu perf event for {name}");
            Error::new(Code::ArgumentUnsupported, text).in_area(Area::Perf)
        })?;
        if self.open().contains_key(&event) {
            return Ok(());
        }
        let counter = Counter::open(kind, number, pid).map_err(|error| {
            let text = format_args!("unable to open host cpu perf event for {name}");
            Error::system(text, error).in_area(Area::Perf)
        })?;
        self.open().insert(event, counter);
        Ok(())
    }

    /// Keeps what was counted of the process before it was a guest.
    pub(crate) fn keep(&self, begun: Counters) {
        let begun = begun.open.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.open().extend(begun);
    }

    /// How often each event has happened.
    pub(crate) fn read(&self) -> Vec<(Event, u64)> {
        let open = self.open();
        open.iter()
            .filter_map(|(event, counter)| Some((*event, counter.read().ok()?)))
            .collect()
    }
}

/// The events that a document has counted.
fn counted(document: &Domain) -> impl Iterator<Item = Event> {
    let events = document.perf.iter().flat_map(|perf| &perf.events);
    events
        .filter(|event| event.enabled.is_yes())
        .map(|event| event.name)
}

/// Counts what the document says, of a process that waits to become QEMU: so all of its threads are counted.
///
/// # Errors
/// As [`Counters::set`].
pub(crate) fn begin(document: &Domain, pid: i32) -> Result<Counters> {
    let counters = Counters::default();
    counted(document).try_for_each(|event| counters.set(pid, event, true))?;
    Ok(counters)
}

/// Counts anew what the document says, for a daemon that comes to a guest. What the host does not count any more is logged.
pub(crate) fn begin_anew(guest: &Arc<Guest>) {
    let view = guest.domain.view();
    let Some(run) = &view.run else { return };
    for event in counted(&run.document.domain) {
        if let Err(error) = guest.perf.set(run.launched.pid, event, true) {
            tracing::warn!(guest = %view.name, %error, "an event is not counted any more");
        }
    }
}
