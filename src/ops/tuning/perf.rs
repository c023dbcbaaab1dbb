//! Which events of the host's CPUs and kernel are counted for a guest.

use domxml::{
    Domain,
    clock::{PerfEvent, PerfEventName},
    devices::YesNo,
};
use serde::{Deserialize, Serialize};

use crate::{
    domain::View,
    error::{Area, Code, Error, Result},
    ops::{Driver, tuning::Told},
};

/// Events by their names, and whether each is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change(pub Vec<(String, bool)>);

fn event(name: &str) -> Result<PerfEventName> {
    name.parse().map_err(|_| {
        Error::new(
            Code::ArgumentUnsupported,
            format!("parameter '{name}' not supported"),
        )
        .in_area(Area::None)
    })
}

pub(crate) fn apply(domain: &mut Domain, change: &Change) -> Result<()> {
    for (name, counted) in &change.0 {
        let name = event(name)?;
        let enabled = YesNo::from(*counted);
        let events = &mut domain.perf.get_or_insert_default().events;
        match events.iter_mut().find(|known| known.name == name) {
            Some(known) => known.enabled = enabled,
            None => events.push(PerfEvent { name, enabled }),
        }
        events.sort_by_key(|event| event.name);
    }
    Ok(())
}

/// What takes the change of a running guest back.
pub(crate) fn before(view: &View, change: &Change) -> Result<Change> {
    let perf = view.running()?.document.domain.perf.as_ref();
    let known = |name: &str| {
        let mut events = perf.into_iter().flat_map(|perf| &perf.events);
        events.any(|event| event.name.as_str() == name && event.enabled.is_yes())
    };
    let names = change.0.iter().map(|(name, _)| name);
    Ok(Change(names.map(|name| (name.clone(), known(name))).collect()))
}

/// The change in a running guest; what fails in its midst leaves nothing changed.
pub(crate) fn carry_out((driver, view): Told<'_>, change: &Change) -> Result<()> {
    let result = set(driver, view, change);
    if result.is_err() {
        set(driver, view, &before(view, change)?)?;
    }
    result
}

fn set(driver: &Driver, view: &View, change: &Change) -> Result<()> {
    let guest = driver.guests.of(view)?;
    let pid = view.running()?.launched.pid;
    let set = |(name, counted): &(String, bool)| guest.perf.set(pid, event(name)?, *counted);
    change.0.iter().try_for_each(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stand_in_libvirts_order_and_once() {
        let text = "<domain type='qemu'><name>a</name><os><type>hvm</type></os></domain>";
        let mut domain = Domain::parse(text, domxml::ParseFlags::INACTIVE).unwrap();
        let change = |list: &[(&str, bool)]| {
            Change(
                list.iter()
                    .map(|(name, counted)| ((*name).to_owned(), *counted))
                    .collect(),
            )
        };
        apply(&mut domain, &change(&[("page_faults", true), ("cmt", false)])).unwrap();
        apply(
            &mut domain,
            &change(&[("page_faults", false), ("instructions", true)]),
        )
        .unwrap();
        let events = domain.perf.clone().unwrap().events;
        let told: Vec<_> = events
            .iter()
            .map(|e| (e.name.as_str(), e.enabled.is_yes()))
            .collect();
        assert_eq!(
            told,
            [("cmt", false), ("instructions", true), ("page_faults", false)]
        );
        let error = apply(&mut domain, &change(&[("nope", true)])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "argument unsupported: parameter 'nope' not supported"
        );
    }
}
