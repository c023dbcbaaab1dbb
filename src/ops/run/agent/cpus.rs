//! CPUs as the guest's kernel has them: which are online, and setting them so.
//!
//! QEMU's CPUs are all plugged in; the guest need not use them. The hard thing is the number of CPUs: which of them are set
//! offline is ours to choose, and the agent may do only a part of what it is told, so it is told until it is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{Turn, reply::Reply};
use crate::{
    domain::Domain,
    error::{Code, Error, Result},
    ops::Driver,
};

const GET: &str = "guest-get-vcpus";
const SET: &str = "guest-set-vcpus";

/// A CPU of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The guest's number of it.
    pub id: u32,
    /// The guest uses it.
    pub online: bool,
    /// It can be set offline.
    pub can_offline: bool,
}

/// The guest's CPUs.
///
/// # Errors
/// As [`super::execute`].
pub async fn list(driver: &Arc<Driver>, domain: &Domain) -> Result<Vec<Cpu>> {
    super::available(&domain.view())?;
    let turn = Turn::take(driver, domain).await?;
    driver.tracked(async move { ask(&turn).await }).await
}

/// Sets CPUs online or offline, all of them or none.
///
/// # Errors
/// As [`super::execute`]; `InvalidArg` if the guest has no such CPU, `OperationUnsupported` for one that stays online.
pub async fn set(driver: &Arc<Driver>, domain: &Domain, ids: BTreeSet<u32>, online: bool) -> Result<()> {
    super::available(&domain.view())?;
    let turn = Turn::take(driver, domain).await?;
    let work = async move {
        let known = ask(&turn).await?;
        let wanted = chosen(&known, &ids, online)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let count = wanted.len();
        match tell(&turn, &wanted).await? {
            done if done < count => Err(super::malformed(SET)),
            _ => Ok(()),
        }
    };
    driver.tracked(work).await
}

/// Sets how many CPUs are online.
///
/// # Errors
/// As [`super::execute`]; `InvalidArg` if the guest has not so many, or cannot set enough of them offline.
pub async fn set_count(driver: &Arc<Driver>, domain: &Domain, count: u32) -> Result<()> {
    let view = domain.view();
    super::available(&view)?;
    let plugged = view.running()?.document.facts.vcpus;
    if count > plugged {
        return Err(Error::argument(format!(
            "requested vcpu count is greater than the count of enabled vcpus in the domain: {count} > {plugged}"
        )));
    }
    let turn = Turn::take(driver, domain).await?;
    driver.tracked(async move { reach(&turn, count).await }).await
}

async fn reach(turn: &Turn, count: u32) -> Result<()> {
    let known = ask(turn).await?;
    let mut wanted = changes(&known, usize::try_from(count).unwrap_or(usize::MAX))?;
    while !wanted.is_empty() {
        // An agent may stop half-way, and says how far it came.
        match tell(turn, &wanted).await? {
            0 => {
                return Err(Error::internal(
                    "failed to set state of a CPU via the guest agent",
                ));
            }
            done => drop(wanted.drain(..done.min(wanted.len()))),
        }
    }
    Ok(())
}

async fn ask(turn: &Turn) -> Result<Vec<Cpu>> {
    read(&turn.ask(GET, json!({})).await?)
}

fn read(told: &Value) -> Result<Vec<Cpu>> {
    let one = |cpu: Reply<'_>| {
        Ok(Cpu {
            id: cpu.number("logical-id")?,
            online: cpu.flag("online")?,
            can_offline: cpu.may_flag("can-offline").unwrap_or(false),
        })
    };
    Reply::new(GET, told).entries()?.map(one).collect()
}

/// How many of them the agent has set.
async fn tell(turn: &Turn, wanted: &[(u32, bool)]) -> Result<usize> {
    let one = |(id, online): &(u32, bool)| json!({"logical-id": id, "online": online});
    let list: Vec<Value> = wanted.iter().map(one).collect();
    let done = turn.ask(SET, json!({"vcpus": list})).await?;
    let done = done.as_u64().and_then(|done| usize::try_from(done).ok());
    done.ok_or_else(|| super::malformed(SET))
}

/// What to tell the agent to have these CPUs online or offline. Those that are so already are among it.
fn chosen(known: &[Cpu], ids: &BTreeSet<u32>, online: bool) -> Result<Vec<(u32, bool)>> {
    let by_id: BTreeMap<u32, Cpu> = known.iter().map(|cpu| (cpu.id, *cpu)).collect();
    let stays = ids
        .iter()
        .filter_map(|id| by_id.get(id))
        .find(|cpu| !cpu.can_offline);
    if let Some(cpu) = stays.filter(|_| !online) {
        return Err(Error::new(
            Code::OperationUnsupported,
            format!("vCPU '{}' is not offlinable", cpu.id),
        ));
    }
    let missing: BTreeSet<u32> = ids.iter().copied().filter(|id| !by_id.contains_key(id)).collect();
    if !missing.is_empty() {
        let list = hostinfo::format_cpu_list(&missing);
        return Err(Error::argument(format!("guest is missing vCPUs '{list}'")));
    }
    Ok(ids.iter().map(|id| (*id, online)).collect())
}

/// What to tell the agent to have `count` CPUs online. The first CPU stays, even if the guest would let it go.
fn changes(known: &[Cpu], count: usize) -> Result<Vec<(u32, bool)>> {
    let online = known.iter().filter(|cpu| cpu.online).count();
    if count > known.len() {
        return Err(Error::internal("guest agent reports less cpu than requested"));
    }
    let (number, offline) = match count.checked_sub(online) {
        Some(more) => (more, false),
        None => (online - count, true),
    };
    let may_go = |cpu: &&Cpu| cpu.online && cpu.can_offline && cpu.id != 0;
    let wanted: Vec<_> = match offline {
        true => known.iter().filter(may_go).take(number).collect(),
        false => known.iter().filter(|cpu| !cpu.online).take(number).collect(),
    };
    if wanted.len() < number {
        return Err(Error::argument("Cannot offline enough CPUs"));
    }
    Ok(wanted.into_iter().map(|cpu| (cpu.id, !offline)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(states: &str) -> Vec<Cpu> {
        let one = |(id, state): (usize, char)| Cpu {
            id: u32::try_from(id).unwrap(),
            online: state != 'o',
            can_offline: state != 'S',
        };
        states.chars().enumerate().map(one).collect()
    }

    #[test]
    fn what_an_agent_tells_of_its_cpus() {
        let told = json!([{"logical-id": 0, "online": true}, {"logical-id": 3, "online": false, "can-offline": true}]);
        let expected = [(0, true, false), (3, false, true)].map(|(id, online, can_offline)| Cpu {
            id,
            online,
            can_offline,
        });
        assert_eq!(read(&told).unwrap(), expected);
        assert!(read(&json!([{"logical-id": -1, "online": true}])).is_err());
        assert!(read(&json!({})).is_err());
    }

    #[test]
    fn cpus_that_are_missing_or_stay_are_refused() {
        let known = cpus("S+o");
        let refused = |ids: &[u32], online| {
            let ids = ids.iter().copied().collect();
            chosen(&known, &ids, online).map_err(|error| error.to_string())
        };
        assert_eq!(refused(&[1, 2], false), Ok(vec![(1, false), (2, false)]));
        assert_eq!(refused(&[0], true), Ok(vec![(0, true)]));
        let stays = refused(&[0, 9], false).unwrap_err();
        assert!(stays.contains("vCPU '0' is not offlinable"), "{stays}");
        let missing = refused(&[7, 8, 1], true).unwrap_err();
        assert!(missing.contains("guest is missing vCPUs '7-8'"), "{missing}");
    }

    #[test]
    fn a_number_of_cpus_is_reached_from_the_first_on() {
        let told = |states, count| changes(&cpus(states), count).map_err(|error| error.to_string());
        assert_eq!(told("S++o", 3), Ok(vec![]));
        assert_eq!(told("S+++", 2), Ok(vec![(1, false), (2, false)]));
        assert_eq!(told("Soo+", 3), Ok(vec![(1, true)]));
        assert_eq!(told("++", 1), Ok(vec![(1, false)]));
        assert!(told("++", 0).unwrap_err().contains("Cannot offline enough CPUs"));
        assert!(told("SS+", 1).unwrap_err().contains("Cannot offline enough CPUs"));
        assert!(told("S", 2).unwrap_err().contains("reports less cpu"));
    }
}
