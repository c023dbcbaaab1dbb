//! Shares of caches and of memory bandwidth: groups of CPUs, what each may use, and what is measured of it.

use xmlform::{Area, Node};

use super::form::{Form, unsigned};
use super::rule::{Checked, Rule, Rules, check, domain, number, of, word};
use super::size::{Size, bytes_attr};
use super::tuning::{earlier, earlier_in_all, vcpus};
use crate::{Bitmap, Error, Kind};
use Rule::{Check, Each};

/// Groups of `<cputune>`.
pub(super) const RESCTRL: Rules = &[
    Each("cachetune", &[Check(cachetune)]),
    Each("memorytune", &[Check(memorytune)]),
];

const SPACE: Size = bytes_attr("size", "./@size");

const CACHE: Rules = &[
    number("id").needed(),
    number("level").needed(),
    word("type", crate::tuning::CacheType::WORDS).needed(),
    Rule::Size(SPACE),
    Check(caches_apart),
];

const NODE: Rules = &[
    number("id").needed(),
    Check(node_once),
    number("bandwidth").needed(),
];

/// No node has two shares in one group; groups of the same CPUs are one.
fn node_once(node: Node<'_>) -> Checked {
    let id = unsigned(node.attr("id"), 10);
    let group = node.parent();
    let same = group.into_iter().flat_map(|group| {
        let set = members(group);
        earlier_in_all(group, "memorytune").filter(move |other| members(*other) == set)
    });
    let mut shares = same
        .flat_map(|group| group.children_named("node"))
        .chain(earlier(node, "node"));
    match shares.any(|share| unsigned(share.attr("id"), 10) == id) {
        true => {
            let said = of(
                Area::Resctrl,
                "XML error: Memory Bandwidth already defined for node {}",
            );
            Err(said.of(&id.to_string()))
        }
        false => Ok(()),
    }
}

fn cachetune(node: Node<'_>) -> Checked {
    let set = group(node)?;
    if set.is_empty() {
        return Ok(());
    }
    apart_from(&set, earlier_in_all(node, "cachetune"))?;
    if earlier_in_all(node, "cachetune").any(|e| members(e) == set) {
        return Err(domain("XML error: Identical vcpus in cachetunes found").of(""));
    }
    node.children_named("cache")
        .try_for_each(|cache| check(cache, CACHE))?;
    monitors(node, &set)
}

fn memorytune(node: Node<'_>) -> Checked {
    let set = group(node)?;
    if set.is_empty() {
        return Ok(());
    }
    let caches = node
        .parent()
        .into_iter()
        .flat_map(|p| p.children_named("cachetune"));
    apart_from(&set, caches.chain(earlier_in_all(node, "memorytune")))?;
    node.children_named("node")
        .try_for_each(|share| check(share, NODE))?;
    monitors(node, &set)
}

/// The CPUs of a group or monitor, as far as the guest has them.
fn group(node: Node<'_>) -> Result<Bitmap, Error> {
    let name = node.name();
    let Some(list) = node.attr("vcpus") else {
        return Err(Error::xml(format!("Missing {name} attribute 'vcpus'")));
    };
    if Form::Set.check(list).is_err() {
        return Err(Error::xml(format!(
            "Invalid {name} attribute 'vcpus' value '{list}'"
        )));
    }
    Ok(members(node))
}

fn members(node: Node<'_>) -> Bitmap {
    let most = vcpus(node);
    let set: Bitmap = node
        .attr("vcpus")
        .and_then(|list| list.parse().ok())
        .unwrap_or_default();
    set.iter().filter(|id| u64::from(*id) < most).collect()
}

/// Groups that share a CPU share all.
fn apart_from<'d>(set: &Bitmap, groups: impl Iterator<Item = Node<'d>>) -> Checked {
    let mut clash = groups
        .map(members)
        .filter(|other| other.overlaps(set) && other != set);
    match clash.next() {
        Some(_) => Err(domain("XML error: Overlapping vcpus in resctrls").of("")),
        None => Ok(()),
    }
}

fn caches_apart(node: Node<'_>) -> Checked {
    let key = |of: Node<'_>| (unsigned(of.attr("level"), 10), unsigned(of.attr("id"), 10));
    let kind = node.attr("type").unwrap_or_default();
    let clash = earlier(node, "cache").any(|other| {
        let before = other.attr("type").unwrap_or_default();
        key(other) == key(node) && (before == kind || before == "both" || kind == "both")
    });
    if !clash {
        return Ok(());
    }
    let (level, id) = key(node);
    let said = format!("Colliding cache allocations for cache level '{level}' id '{id}', type '{kind}'");
    Err(Error::xml(said).in_area(Area::Resctrl))
}

const MONITOR: Rules = &[number("level").needed()];

/// Level of the caches that can be measured.
const MEASURED: u64 = 3;

fn monitors(node: Node<'_>, set: &Bitmap) -> Checked {
    let argument = |said: &str| Err(Error::new(Kind::InvalidArg, said).in_area(Area::Domain));
    let allocates = node.child("cache").is_some() || node.child("node").is_some();
    let mut before: Vec<Bitmap> = Vec::new();
    for monitor in node.children_named("monitor") {
        if node.name() == "cachetune" {
            check(monitor, MONITOR)?;
            let level = monitor.attr("level").unwrap_or_default();
            if unsigned(Some(level), 10) != MEASURED {
                return Err(domain("XML error: Invalid monitor cache level '{}'").of(level));
            }
        }
        let own = group(monitor)?;
        if own.is_empty() {
            return argument("vcpus is empty");
        }
        if own.iter().any(|id| !set.contains(id)) {
            return argument("Monitor vcpus conflicts with allocation");
        }
        if before.contains(&own) {
            return argument("Identical vcpus found in same type monitors");
        }
        let clash = |other: &Bitmap| other.overlaps(&own) && (!allocates || (other != set && own != *set));
        if before.iter().any(clash) {
            return argument("vcpus overlaps in resctrl groups");
        }
        before.push(own);
    }
    Ok(())
}
