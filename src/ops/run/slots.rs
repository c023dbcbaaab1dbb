//! The CPUs of a guest as QEMU has them: slots, what is plugged in, and the threads that run them.
//!
//! A start plugs in what its document wants to be able to unplug; `device::vcpus` plugs and unplugs while the guest runs;
//! a daemon that comes to a guest asks what there is. The hard thing is the number of a CPU: QEMU lists its slots from the
//! last to the first and names no numbers, so they are counted.

use domxml::{Domain, devices::YesNo, status::VcpuThread, tuning::VcpuState};
use qmp::{
    commands,
    types::{CpuInfoFast, CpuInstanceProperties, HotpluggableCpu},
};
use serde_json::{Map, Value};

use crate::{
    domain::View,
    error::{Code, Error, Result},
    qemu::Monitor,
};

/// Where QEMU keeps what has an id.
const PERIPHERAL: &str = "/machine/peripheral/";
/// How the ids of CPUs begin.
const ALIAS: &str = "vcpu";

/// A slot of one CPU, or of several that come and go together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    /// The number of its first CPU.
    pub(crate) first: u32,
    /// How many CPUs it has.
    pub(crate) count: u32,
    /// It is plugged in.
    pub(crate) plugged: bool,
    /// The id of what is plugged in; what was there from the beginning has none, and stays.
    pub(crate) alias: Option<String>,
    /// When it came, counted from 1.
    pub(crate) order: Option<u32>,
    /// Its CPUs' threads.
    pub(crate) threads: Vec<VcpuThread>,
    driver: String,
    props: CpuInstanceProperties,
}

impl Slot {
    /// The id that it gets when it is plugged in.
    pub(crate) fn id(&self) -> String {
        format!("{ALIAS}{}", self.first)
    }

    /// Whether a CPU is in it.
    pub(crate) fn has(&self, cpu: u32) -> bool {
        (self.first..self.first.saturating_add(self.count)).contains(&cpu)
    }

    /// What QEMU is told to plug it in.
    pub(crate) fn device(&self) -> commands::DeviceAdd {
        let mut properties = Map::new();
        properties.insert("driver".to_owned(), self.driver.as_str().into());
        properties.insert("id".to_owned(), self.id().into());
        let place = &self.props;
        let places = [
            ("node-id", place.node_id),
            ("socket-id", place.socket_id),
            ("die-id", place.die_id),
            ("cluster-id", place.cluster_id),
            ("module-id", place.module_id),
            ("core-id", place.core_id),
            ("thread-id", place.thread_id),
        ];
        let known = places
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        properties.extend(known.map(|(name, value)| (name.to_owned(), Value::from(value))));
        commands::DeviceAdd(properties)
    }
}

/// The id of a CPU that has left, from QEMU's path of it or of a part of it: of some, QEMU tells only that a part has gone.
pub(crate) fn alias_in(path: &str) -> Option<&str> {
    let alias = path.strip_prefix(PERIPHERAL)?.split('/').next()?;
    is_alias(alias).then_some(alias)
}

/// Whether an id is that of a CPU.
pub(crate) fn is_alias(alias: &str) -> bool {
    let number = alias.strip_prefix(ALIAS).unwrap_or_default();
    number.parse::<u32>().is_ok_and(|n| n.to_string() == number)
}

/// All slots, the first one first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slots {
    pub(crate) all: Vec<Slot>,
}

impl Slots {
    /// Asks QEMU.
    ///
    /// # Errors
    /// It does not answer, or its machine has no slots.
    pub(crate) async fn read(monitor: &Monitor) -> Result<Self> {
        let slots = monitor.execute(commands::QueryHotpluggableCpus {});
        let (slots, cpus) = tokio::try_join!(slots, monitor.cpus())?;
        Ok(Self::of(&slots, &cpus))
    }

    fn of(slots: &[HotpluggableCpu], cpus: &[CpuInfoFast]) -> Self {
        let mut next = 0;
        let mut all: Vec<Slot> = slots
            .iter()
            .rev()
            .map(|slot| {
                let first = next;
                next += slot.vcpus_count;
                let path = slot.qom_path.as_deref();
                let is_in = |cpu: &&CpuInfoFast| path.is_some_and(|path| is_part(&cpu.qom_path, path));
                let threads = (first..).zip(cpus.iter().filter(is_in));
                Slot {
                    first,
                    count: slot.vcpus_count,
                    plugged: path.is_some(),
                    alias: path
                        .and_then(|path| path.strip_prefix(PERIPHERAL))
                        .map(str::to_owned),
                    order: None,
                    threads: threads
                        .map(|(id, cpu)| VcpuThread {
                            id,
                            pid: cpu.thread_id,
                        })
                        .collect(),
                    driver: slot.r#type.clone(),
                    props: slot.props.clone(),
                }
            })
            .collect();
        // QEMU lists its CPUs as they came.
        let mut order = 0;
        for cpu in cpus {
            let its = |slot: &HotpluggableCpu| {
                slot.qom_path
                    .as_deref()
                    .is_some_and(|path| is_part(&cpu.qom_path, path))
            };
            let slot = slots.iter().rev().position(its).and_then(|at| all.get_mut(at));
            if let Some(slot) = slot.filter(|slot| slot.order.is_none()) {
                order += 1;
                slot.order = Some(order);
            }
        }
        Self { all }
    }

    /// The slot of a CPU.
    pub(crate) fn of_cpu(&self, cpu: u32) -> Option<&Slot> {
        self.all.iter().find(|slot| slot.has(cpu))
    }

    /// How many CPUs are plugged in.
    pub(crate) fn online(&self) -> u32 {
        self.all
            .iter()
            .filter(|slot| slot.plugged)
            .map(|slot| slot.count)
            .sum()
    }

    /// The threads of all CPUs.
    fn threads(&self) -> Vec<VcpuThread> {
        self.all
            .iter()
            .flat_map(|slot| slot.threads.iter().copied())
            .collect()
    }

    /// Whether these are the slots of a guest with so many CPUs: a machine without any tells of none.
    fn fit(&self, most: u32) -> bool {
        self.all.iter().map(|slot| slot.count).sum::<u32>() == most
    }
}

fn is_part(path: &str, whole: &str) -> bool {
    path.strip_prefix(whole)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
impl Slots {
    /// Slots of `count` CPUs each: `f` was there from the beginning, `p` was plugged in, `.` is free.
    pub(crate) fn sketched(text: &str, count: u32) -> Self {
        let slot = |(first, what): (u32, char)| Slot {
            first,
            count,
            plugged: what != '.',
            alias: (what == 'p').then(|| format!("{ALIAS}{first}")),
            order: None,
            threads: Vec::new(),
            driver: "cpu".to_owned(),
            props: CpuInstanceProperties::default(),
        };
        let firsts = (0u32..).map(|at| at * count);
        Self {
            all: firsts.zip(text.chars()).map(slot).collect(),
        }
    }
}

/// Each CPU of a document by itself, whether it lists them or only counts them.
pub(crate) fn listed(domain: &Domain) -> Vec<VcpuState> {
    if let Some(list) = domain.vcpus.as_ref().filter(|list| !list.all.is_empty()) {
        return list.all.clone();
    }
    let vcpu = domain.vcpu.as_ref();
    let most = vcpu.map_or(1, |vcpu| vcpu.count);
    let online = vcpu.and_then(|vcpu| vcpu.current).unwrap_or(most);
    let state = |id| VcpuState {
        id,
        enabled: YesNo::from(id < online),
        hotpluggable: Some(YesNo::from(id >= online)),
        order: None,
    };
    (0..most).map(state).collect()
}

/// The document of a run lists the CPUs that QEMU has. One that only counts them and is right stays as it is.
pub(crate) fn follow(domain: &mut Domain, slots: &Slots) {
    let most = domain.vcpu.as_ref().map_or(1, |vcpu| vcpu.count);
    if !slots.fit(most) {
        return;
    }
    let mut states = listed(domain);
    let was = states.clone();
    for state in &mut states {
        let slot = slots.of_cpu(state.id).filter(|slot| slot.plugged);
        state.enabled = YesNo::from(slot.is_some());
        state.order = slot.and_then(|slot| slot.order);
        state.hotpluggable = Some(YesNo::from(slot.is_none_or(|slot| slot.alias.is_some())));
    }
    let is_right = was.iter().zip(&states).all(|(was, is)| was.enabled == is.enabled);
    if is_right && domain.vcpus.is_none() {
        return;
    }
    domain.vcpus.get_or_insert_default().all = states;
    domain.vcpu.get_or_insert_default().current = Some(slots.online()).filter(|online| *online != most);
}

/// The run has the CPUs that QEMU has: its document and its status file; whether anything is new.
pub(crate) fn put_into(view: &mut View, slots: &Slots) -> bool {
    let Some(run) = &mut view.run else { return false };
    let mut document = Domain::clone(&run.document.domain);
    follow(&mut document, slots);
    let mut status = domxml::StatusDocument::clone(&run.status);
    let threads = slots.threads();
    if !threads.is_empty() {
        status.vcpus = threads;
    }
    let is_new = document != *run.document.domain || status.vcpus != run.status.vcpus;
    if is_new {
        run.document = crate::domain::Document::live(document);
        run.status = std::sync::Arc::new(status);
    }
    is_new
}

/// Plugs in the CPUs of a document that are there at the start and can be unplugged later, in their order; the document
/// says then in which order all have come.
///
/// # Errors
/// What QEMU refuses.
pub(crate) async fn plug_at_start(monitor: &Monitor, domain: &mut Domain) -> Result<()> {
    if domain.vcpus.as_ref().is_none_or(|list| list.all.is_empty()) {
        return Ok(());
    }
    let states = listed(domain).into_iter();
    let mut coming: Vec<VcpuState> = states
        .filter(|state| state.enabled.is_yes() && state.hotpluggable == Some(YesNo::Yes))
        .collect();
    coming.sort_by_key(|state| (state.order.unwrap_or(0), state.id));
    let mut slots = Slots::read(monitor).await?;
    check_order(&coming, &listed(domain), &slots)?;
    for state in &coming {
        let free = |slot: &&mut Slot| slot.has(state.id) && !slot.plugged;
        if let Some(slot) = slots.all.iter_mut().find(free) {
            monitor.execute(slot.device()).await?;
            slot.plugged = true;
        }
    }
    if !coming.is_empty() {
        slots = Slots::read(monitor).await?;
    }
    follow(domain, &slots);
    Ok(())
}

/// Whether CPUs that come can come in the order that the document asks for: CPUs of one slot come together, and slots one
/// after the other.
fn check_order(coming: &[VcpuState], all: &[VcpuState], slots: &Slots) -> Result<()> {
    if coming.is_empty() {
        return Ok(());
    }
    let refuse = |text: String| Err(Error::new(Code::ConfigUnsupported, text));
    let slot = |id: u32| slots.all.iter().position(|slot| slot.has(id));
    let first_of = |state: &VcpuState| all.iter().find(|other| slot(other.id) == slot(state.id));
    let mut seen = std::collections::BTreeSet::new();
    for state in all {
        let Some(first) = first_of(state) else { continue };
        if first.id != state.id {
            let same = (first.enabled, first.hotpluggable, first.order)
                == (state.enabled, state.hotpluggable, state.order);
            if !same {
                return refuse(format!(
                    "vcpus '{}' and '{}' are in the same hotplug group but differ in configuration",
                    first.id, state.id
                ));
            }
            continue;
        }
        let Some(order) = state.order.filter(|order| *order != 0) else {
            continue;
        };
        if order > u32::try_from(all.len()).unwrap_or(u32::MAX) {
            return refuse(format!("vcpu order '{order}' exceeds vcpu count"));
        }
        if !seen.insert(order) {
            return refuse(format!("duplicate vcpu order '{order}'"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_come_in_an_order_that_can_be() {
        let state = |id, order, enabled: bool| VcpuState {
            id,
            enabled: YesNo::from(enabled),
            hotpluggable: Some(YesNo::from(id > 0)),
            order,
        };
        let check = |orders: [Option<u32>; 4]| {
            let all: Vec<_> = (0..4)
                .map(|id| state(id, orders[id as usize], orders[id as usize].is_some()))
                .collect();
            let coming: Vec<_> = all
                .iter()
                .filter(|s| s.id > 0 && s.order.is_some())
                .copied()
                .collect();
            check_order(&coming, &all, &slots()).map_err(|error| error.message.into_owned())
        };
        let says = |orders, text: &str| check(orders).is_err_and(|said: String| said.ends_with(text));
        assert!(check([Some(1), Some(2), None, Some(3)]).is_ok());
        assert!(says(
            [Some(1), Some(2), Some(2), None],
            "duplicate vcpu order '2'"
        ));
        assert!(says(
            [Some(1), Some(9), None, None],
            "vcpu order '9' exceeds vcpu count"
        ));
    }

    /// What QEMU 10.0.2 tells of a guest with four CPUs, of which the second and the fourth were plugged in.
    pub(crate) const SLOTS: &str = r#"[
        {"props": {"core-id": 0, "thread-id": 0, "node-id": 0, "socket-id": 3}, "vcpus-count": 1,
         "qom-path": "/machine/peripheral/vcpu3", "type": "qemu64-x86_64-cpu"},
        {"props": {"core-id": 0, "thread-id": 0, "node-id": 0, "socket-id": 2}, "vcpus-count": 1,
         "type": "qemu64-x86_64-cpu"},
        {"props": {"core-id": 0, "thread-id": 0, "node-id": 0, "socket-id": 1}, "vcpus-count": 1,
         "qom-path": "/machine/peripheral/vcpu1", "type": "qemu64-x86_64-cpu"},
        {"props": {"core-id": 0, "thread-id": 0, "node-id": 0, "socket-id": 0}, "vcpus-count": 1,
         "qom-path": "/machine/unattached/device[0]", "type": "qemu64-x86_64-cpu"}]"#;
    const CPUS: &str = r#"[
        {"thread-id": 30, "qom-path": "/machine/unattached/device[0]", "cpu-index": 0},
        {"thread-id": 33, "qom-path": "/machine/peripheral/vcpu3", "cpu-index": 3},
        {"thread-id": 31, "qom-path": "/machine/peripheral/vcpu1", "cpu-index": 1}]"#;

    fn slots() -> Slots {
        Slots::of(
            &serde_json::from_str::<Vec<_>>(SLOTS).unwrap(),
            &serde_json::from_str::<Vec<_>>(CPUS).unwrap(),
        )
    }

    fn guest(cpus: &str) -> Domain {
        let text =
            format!("<domain type='qemu' id='1'><name>a</name>{cpus}<os><type>hvm</type></os></domain>");
        Domain::parse(&text, domxml::ParseFlags::NONE).unwrap()
    }

    #[test]
    fn slots_are_counted_from_the_last_listed_one() {
        let slots = slots();
        let told: Vec<_> = slots
            .all
            .iter()
            .map(|s| (s.first, s.alias.as_deref(), s.order))
            .collect();
        assert_eq!(
            told,
            [
                (0, None, Some(1)),
                (1, Some("vcpu1"), Some(3)),
                (2, None, None),
                (3, Some("vcpu3"), Some(2))
            ]
        );
        let device = serde_json::to_value(slots.all[2].device()).unwrap();
        let expected = serde_json::json!({"driver": "qemu64-x86_64-cpu", "id": "vcpu2", "socket-id": 2, "core-id": 0,
            "thread-id": 0, "node-id": 0});
        assert_eq!(device, expected);
    }

    #[test]
    fn a_document_lists_what_qemu_has_from_the_first_change_on() {
        let mut domain = guest("<vcpu current='1'>4</vcpu>");
        follow(&mut domain, &slots());
        assert_eq!(domain.vcpu.as_ref().unwrap().current, Some(3));
        let told: Vec<_> = domain
            .vcpus
            .unwrap()
            .all
            .into_iter()
            .map(|s| (s.enabled, s.hotpluggable, s.order))
            .collect();
        let (yes, no) = (YesNo::Yes, YesNo::No);
        assert_eq!(
            told,
            [
                (yes, Some(no), Some(1)),
                (yes, Some(yes), Some(3)),
                (no, Some(yes), None),
                (yes, Some(yes), Some(2))
            ]
        );
        // What is right, or a machine that tells nothing, changes nothing.
        for (cpus, slots) in [
            ("<vcpu current='1'>4</vcpu>", Slots::default()),
            ("<vcpu>3</vcpu>", slots()),
        ] {
            let mut domain = guest(cpus);
            follow(&mut domain, &slots);
            assert_eq!(domain, guest(cpus));
        }
    }

    #[test]
    fn a_cpu_is_known_by_what_has_gone_of_it() {
        for (path, alias) in [
            ("/machine/peripheral/vcpu1/lapic", Some("vcpu1")),
            ("/machine/peripheral/vcpu12", Some("vcpu12")),
            ("/machine/peripheral/vcpux/lapic", None),
            ("/machine/peripheral/net0/virtio-backend", None),
            ("/machine/unattached/device[0]", None),
        ] {
            assert_eq!(alias_in(path), alias);
        }
    }
}
