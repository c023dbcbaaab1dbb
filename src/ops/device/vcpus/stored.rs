//! CPUs in the stored configuration.

use std::collections::BTreeSet;

use domxml::{
    Domain,
    devices::YesNo,
    tuning::{VcpuState, Vcpus},
};

use super::Wanted;
use crate::{
    error::{Error, Result},
    ops::run::slots::listed,
};

/// The change in a stored document.
///
/// # Errors
/// `InvalidArg`: the guest can't have so many CPUs, or has no such CPU, or it can't be changed.
pub(super) fn apply(domain: &mut Domain, wanted: &Wanted) -> Result<()> {
    match wanted {
        Wanted::Count { count, hotpluggable } => set_count(domain, *count, *hotpluggable),
        Wanted::Each { cpus, online } => set_each(domain, cpus, *online),
    }
}

/// Refuses more CPUs than a document allows.
///
/// # Errors
/// `InvalidArg`.
pub(super) fn check_count(domain: &Domain, count: u32) -> Result<()> {
    // Only a document of a run has an id.
    let which = if domain.id.is_some() { "live" } else { "persistent" };
    let most = domain.vcpu.as_ref().map_or(1, |vcpu| vcpu.count);
    if count == 0 || count > most {
        return Err(Error::argument(format!(
            "requested vcpus is greater than max allowable vcpus for the {which} domain: {count} > {most}"
        )));
    }
    Ok(())
}

fn set_count(domain: &mut Domain, count: u32, hotpluggable: bool) -> Result<()> {
    check_count(domain, count)?;
    let mut states = listed(domain);
    states.sort_by_key(|state| state.id);
    let online = |states: &[VcpuState]| states.iter().filter(|state| state.enabled.is_yes()).count();
    let wanted = count as usize;
    let is_listed = domain.vcpus.is_some() || (hotpluggable && wanted > online(&states));
    let mut missing = wanted.saturating_sub(online(&states));
    // What stays comes before what can be unplugged.
    let mut can_go = hotpluggable;
    for state in &mut states {
        if missing == 0 {
            break;
        }
        if state.enabled.is_yes() {
            can_go |= state.hotpluggable == Some(YesNo::Yes);
            continue;
        }
        state.enabled = YesNo::Yes;
        state.hotpluggable = Some(YesNo::from(can_go));
        missing -= 1;
    }
    let excess = online(&states).saturating_sub(wanted);
    for state in states
        .iter_mut()
        .rev()
        .filter(|state| state.enabled.is_yes())
        .take(excess)
    {
        state.enabled = YesNo::No;
        state.hotpluggable = Some(YesNo::Yes);
    }
    put(domain, states, is_listed);
    Ok(())
}

fn set_each(domain: &mut Domain, cpus: &BTreeSet<u32>, online: bool) -> Result<()> {
    let mut states = listed(domain);
    states.sort_by_key(|state| state.id);
    for cpu in cpus {
        let Some(at) = states.iter().position(|state| state.id == *cpu) else {
            return Err(Error::argument(format!(
                "vcpu {cpu} is not present in persistent config"
            )));
        };
        if *cpu == 0 {
            return Err(Error::argument("vCPU '0' can't be modified"));
        }
        let stays = |state: &VcpuState| state.enabled.is_yes() && state.hotpluggable != Some(YesNo::Yes);
        if states[at + 1..].iter().any(stays) {
            return Err(Error::argument(format!(
                "vcpu '{cpu}' can't be modified as it is followed by non-hotpluggable online vcpus"
            )));
        }
        states[at].enabled = YesNo::from(online);
        states[at].hotpluggable = Some(YesNo::Yes);
    }
    put(domain, states, true);
    Ok(())
}

/// Puts the states into the document. The order in which they come need not fit any more.
fn put(domain: &mut Domain, mut states: Vec<VcpuState>, is_listed: bool) {
    let online = states.iter().filter(|state| state.enabled.is_yes()).count();
    let online = u32::try_from(online).unwrap_or(u32::MAX);
    let vcpu = domain.vcpu.get_or_insert_default();
    vcpu.current = Some(online).filter(|online| *online != vcpu.count);
    if is_listed {
        states.iter_mut().for_each(|state| state.order = None);
        domain.vcpus = Some(Vcpus { all: states });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(cpus: &str) -> Domain {
        let text = format!("<domain type='qemu'><name>a</name>{cpus}<os><type>hvm</type></os></domain>");
        Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap()
    }

    /// The CPUs as a few letters: online or off, and whether they can be unplugged.
    fn told(domain: &Domain) -> String {
        let vcpu = domain.vcpu.as_ref().unwrap();
        let mut text = format!("{}/{}", vcpu.current.unwrap_or(vcpu.count), vcpu.count);
        for state in domain.vcpus.iter().flat_map(|list| &list.all) {
            let online = if state.enabled.is_yes() { '+' } else { '-' };
            let mark = match state.hotpluggable {
                Some(YesNo::Yes) => "h",
                Some(YesNo::No) => "n",
                None => "",
            };
            text += &format!(" {online}{mark}");
        }
        text
    }

    #[test]
    fn counts_and_single_cpus_are_stored_as_libvirt_stores_them() {
        let count = |count, hotpluggable| Wanted::Count { count, hotpluggable };
        let each = |cpus: &[u32], online| Wanted::Each {
            cpus: cpus.iter().copied().collect(),
            online,
        };
        let plain = "<vcpu current='1'>4</vcpu>";
        let list = "<vcpu current='2'>4</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>\
            <vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/><vcpu id='2' enabled='no' hotpluggable='yes'/>\
            <vcpu id='3' enabled='no' hotpluggable='yes'/></vcpus>";
        let fixed = "<vcpu current='1'>3</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/>\
            <vcpu id='1' enabled='no' hotpluggable='yes'/><vcpu id='2' enabled='no' hotpluggable='yes'/></vcpus>";
        let later = "<vcpu current='2'>4</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/>\
            <vcpu id='1' enabled='no' hotpluggable='yes'/><vcpu id='2' enabled='no' hotpluggable='yes'/>\
            <vcpu id='3' enabled='yes' hotpluggable='yes'/></vcpus>";
        for (cpus, wanted, expected) in [
            (plain, count(2, false), "2/4"),
            (plain, count(4, false), "4/4"),
            (plain, count(2, true), "2/4 +n +h -h -h"),
            (plain, each(&[1], true), "2/4 +n +h -h -h"),
            (fixed, count(2, false), "2/3 +n +n -h"),
            (later, count(3, false), "3/4 +n +n -h +h"),
            (list, count(3, false), "3/4 +n +h +h -h"),
            (list, count(1, false), "1/4 +n -h -h -h"),
            (list, each(&[1], false), "1/4 +n -h -h -h"),
        ] {
            let mut domain = guest(cpus);
            apply(&mut domain, &wanted).unwrap();
            assert_eq!(told(&domain), expected, "{wanted:?}");
            let orders = domain
                .vcpus
                .iter()
                .flat_map(|list| &list.all)
                .filter_map(|state| state.order);
            assert_eq!(orders.count(), 0);
        }
        let refused = |cpus, wanted| apply(&mut guest(cpus), &wanted).unwrap_err().message.into_owned();
        assert_eq!(refused(plain, each(&[0], false)), "vCPU '0' can't be modified");
        assert_eq!(
            refused(plain, each(&[9], true)),
            "vcpu 9 is not present in persistent config"
        );
        assert_eq!(
            refused("<vcpu current='3'>4</vcpu>", each(&[1], false)),
            "vcpu '1' can't be modified as it is followed by non-hotpluggable online vcpus"
        );
        assert_eq!(
            refused(plain, count(9, false)),
            "requested vcpus is greater than max allowable vcpus for the persistent domain: 9 > 4"
        );
    }
}
