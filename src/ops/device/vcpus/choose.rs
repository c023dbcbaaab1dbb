//! Which slots of a running guest come or go, so that it has the CPUs that are wanted.

use std::collections::BTreeSet;

use crate::{
    error::{Code, Error, Result},
    ops::run::slots::{Slot, Slots},
};

/// What is done to one slot.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It is plugged in.
    Plug(Slot),
    /// It is unplugged.
    Unplug(Slot),
}

/// The steps to so many CPUs: the first free slots come, the last ones that can go.
///
/// # Errors
/// The slots have more CPUs than are missing, or too few of them can come or go.
pub(super) fn for_count(slots: &Slots, wanted: u32) -> Result<Vec<Step>> {
    let mut online = slots.online();
    let mut steps = Vec::new();
    if wanted > online {
        for slot in slots.all.iter().filter(|slot| !slot.plugged) {
            if online >= wanted {
                break;
            }
            online += slot.count;
            steps.push(Step::Plug(slot.clone()));
        }
    } else {
        for slot in slots
            .all
            .iter()
            .rev()
            .filter(|slot| slot.plugged && slot.alias.is_some())
        {
            if online <= wanted {
                break;
            }
            online -= slot.count;
            steps.push(Step::Unplug(slot.clone()));
        }
    }
    let overshot = (online > wanted && matches!(steps.last(), Some(Step::Plug(_))))
        || (online < wanted && matches!(steps.last(), Some(Step::Unplug(_))));
    let refused = |text| Err(Error::new(Code::ConfigUnsupported, text));
    if overshot {
        return refused("target vm vcpu granularity does not allow the desired vcpu count");
    }
    if online != wanted {
        return refused(
            "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count",
        );
    }
    Ok(steps)
}

/// The step that puts these CPUs online or offline: those of one slot, all of them.
///
/// # Errors
/// There is no such CPU, it is so already, it can't go, or another slot is meant, too.
pub(super) fn for_each(slots: &Slots, cpus: &BTreeSet<u32>, online: bool) -> Result<Vec<Step>> {
    for cpu in cpus {
        let slot = slots
            .of_cpu(*cpu)
            .ok_or_else(|| Error::argument(format!("vcpu {cpu} is not present in live config")))?;
        if slot.plugged == online {
            return Err(Error::argument(format!(
                "vcpu '{cpu}' is already in requested state"
            )));
        }
    }
    let Some(slot) = cpus.first().and_then(|cpu| slots.of_cpu(*cpu)) else {
        return Ok(Vec::new());
    };
    if cpus.iter().any(|cpu| !slot.has(*cpu)) {
        let text = "only one hotpluggable entity can be selected";
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    let (first, last) = (slot.first, slot.first + slot.count - 1);
    if let Some(other) = (first..=last).find(|cpu| !cpus.contains(cpu)) {
        return Err(Error::argument(format!(
            "vcpu '{other}' was not selected but it belongs to hotpluggable entity '{first}-{last}' which was partially selected"
        )));
    }
    if online {
        return Ok(vec![Step::Plug(slot.clone())]);
    }
    if slot.alias.is_none() {
        let text = format!("vcpu '{first}' can't be unplugged");
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    Ok(vec![Step::Unplug(slot.clone())])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots of one CPU or more, each free, there from the beginning, or plugged in.
    fn slots(text: &str, count: u32) -> Slots {
        Slots::sketched(text, count)
    }

    fn said(result: Result<Vec<Step>>) -> String {
        match result {
            Ok(steps) => steps
                .iter()
                .map(|step| match step {
                    Step::Plug(slot) => format!("+{}", slot.first),
                    Step::Unplug(slot) => format!("-{}", slot.first),
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.message.into_owned(),
        }
    }

    #[test]
    fn the_first_free_slots_come_and_the_last_plugged_ones_go() {
        let few = "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count";
        let coarse = "target vm vcpu granularity does not allow the desired vcpu count";
        // table: slots (fixed, plugged, free), CPUs each, wanted, what is done
        for (text, count, wanted, done) in [
            ("f...", 1, 3, "+1 +2"),
            ("f.p.", 1, 4, "+1 +3"),
            ("fpp.", 1, 1, "-2 -1"),
            ("fpp.", 1, 3, ""),
            ("ff..", 1, 1, few),
            ("f..", 2, 4, "+2"),
            ("f..", 2, 3, coarse),
            ("fp.", 2, 3, coarse),
        ] {
            assert_eq!(
                said(for_count(&slots(text, count), wanted)),
                done,
                "{text} {wanted}"
            );
        }
    }

    #[test]
    fn single_cpus_are_those_of_one_slot() {
        for (text, count, cpus, online, done) in [
            ("f...", 1, vec![3], true, "+3"),
            ("fp..", 1, vec![1], false, "-1"),
            (
                "fp..",
                1,
                vec![1, 2],
                false,
                "vcpu '2' is already in requested state",
            ),
            (
                "fpp.",
                1,
                vec![1, 2],
                false,
                "only one hotpluggable entity can be selected",
            ),
            ("f...", 1, vec![0], false, "vcpu '0' can't be unplugged"),
            ("f...", 1, vec![9], true, "vcpu 9 is not present in live config"),
            ("f.", 2, vec![2, 3], true, "+2"),
            (
                "f.",
                2,
                vec![2],
                true,
                "vcpu '3' was not selected but it belongs to hotpluggable entity '2-3' which was partially selected",
            ),
        ] {
            let cpus = cpus.into_iter().collect();
            let said = said(for_each(&slots(text, count), &cpus, online));
            assert!(
                said.ends_with(done) && said.is_empty() == done.is_empty(),
                "{text}: {said}"
            );
        }
    }
}
