//! What a disk of a guest may do: bytes and operations a second, on average and in bursts; the same for groups of disks.
//!
//! [`Limits`] is what a client wants of either; [`Change`] and [`GroupChange`] put it into documents and QEMU. The hard
//! thing is what a client does not say: a family of limits, such as bytes a second, is replaced as a whole once one of it
//! is given, and stays otherwise.

use std::sync::Arc;

use domxml::{
    Domain,
    devices::{Disk, IoTune, StorageKind},
};
use qemu_plan::{block, command::plug};
use qmp::commands;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    domain::View,
    error::{Code, Error, Result},
    events::model::event::tunable::value::Value as Shown,
    ops::{
        Driver,
        holdings::storage::chain,
        tuning::{Told, tell},
    },
};

/// How many numbers there are.
pub const COUNT: usize = 19;
/// The largest one that QEMU takes.
const LARGEST: u64 = 1_000_000_000_000_000;

/// Their names. A family follows the other: on average bytes and operations, in a burst bytes and operations, each in all,
/// read and written; the size; how long bursts may last.
const NAMES: &[&str; COUNT] = &domxml::tuning::THROTTLES;

/// Families, by their first number and how many they have.
const FAMILIES: [(usize, usize); 7] = [(0, 3), (3, 3), (6, 3), (9, 3), (SIZE, 1), (LENGTHS, 3), (16, 3)];
/// Families in which a total and its parts exclude each other.
const TOTALS: [(usize, &str); 4] = [
    (0, "bytes_sec"),
    (3, "iops_sec"),
    (6, "bytes_sec_max"),
    (9, "iops_sec_max"),
];
/// From an average to its burst.
const TO_BURST: usize = 6;
const SIZE: usize = 12;
const LENGTHS: usize = 13;

/// All numbers, 0 where there is none.
type Numbers = [u64; COUNT];

/// What a client wants; what is none is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The numbers, in the order of libvirt's parameters but for the lengths, which are last.
    pub numbers: [Option<u64>; COUNT],
    /// Disks with the same group share the limits.
    pub group: Option<String>,
}

impl Limits {
    /// Refuses what no disk can have.
    fn check(&self) -> Result<()> {
        if self.numbers.iter().flatten().any(|number| *number > LARGEST) {
            let text = format!("block I/O throttle limit value must be no more than {LARGEST}");
            return Err(Error::new(Code::ArgumentUnsupported, text));
        }
        let is_given = |at: usize| self.numbers[at].is_some_and(|number| number > 0);
        let clash = |(at, _): &&(usize, &str)| is_given(*at) && (is_given(at + 1) || is_given(at + 2));
        match TOTALS.iter().find(clash) {
            Some((_, name)) => Err(Error::argument(format!(
                "total and read/write of {name} cannot be set at the same time"
            ))),
            None => Ok(()),
        }
    }

    /// The numbers once these are put over others.
    fn over(&self, had: &Numbers) -> Numbers {
        let mut numbers = *had;
        for (first, count) in FAMILIES {
            let family = first..first + count;
            if self.numbers[family.clone()].iter().any(Option::is_some) {
                for at in family {
                    numbers[at] = self.numbers[at].unwrap_or(0);
                }
            }
        }
        numbers
    }

    /// What an event says of it.
    fn told(&self) -> impl Iterator<Item = (String, Shown)> {
        let given = NAMES.iter().zip(self.numbers);
        given.filter_map(|(name, number)| Some((format!("blkdeviotune.{name}"), Shown::Unsigned(number?))))
    }
}

/// Refuses a burst without an average, and a smaller one.
fn check_bursts(numbers: &Numbers) -> Result<()> {
    for at in 0..TO_BURST {
        let (average, burst) = (numbers[at], numbers[at + TO_BURST]);
        let (name, burst_name) = (NAMES[at], NAMES[at + TO_BURST]);
        let text = if burst != 0 && average == 0 {
            format!("cannot reset '{name}' when '{burst_name}' is set")
        } else if burst != 0 && burst < average {
            format!("value '{burst_name}' cannot be smaller than '{name}'")
        } else {
            continue;
        };
        return Err(Error::new(Code::ConfigUnsupported, text));
    }
    Ok(())
}

/// Where a document has the numbers.
fn places(tune: &mut IoTune) -> [&mut Option<u64>; COUNT] {
    [
        &mut tune.total_bytes_sec,
        &mut tune.read_bytes_sec,
        &mut tune.write_bytes_sec,
        &mut tune.total_iops_sec,
        &mut tune.read_iops_sec,
        &mut tune.write_iops_sec,
        &mut tune.total_bytes_sec_max,
        &mut tune.read_bytes_sec_max,
        &mut tune.write_bytes_sec_max,
        &mut tune.total_iops_sec_max,
        &mut tune.read_iops_sec_max,
        &mut tune.write_iops_sec_max,
        &mut tune.size_iops_sec,
        &mut tune.total_bytes_sec_max_length,
        &mut tune.read_bytes_sec_max_length,
        &mut tune.write_bytes_sec_max_length,
        &mut tune.total_iops_sec_max_length,
        &mut tune.read_iops_sec_max_length,
        &mut tune.write_iops_sec_max_length,
    ]
}

fn numbers_of(tune: Option<&IoTune>) -> Numbers {
    let mut tune = tune.cloned().unwrap_or_default();
    places(&mut tune).map(|number| number.unwrap_or(0))
}

fn tune_of(numbers: &Numbers, group: Option<String>) -> IoTune {
    let mut tune = IoTune::default();
    for (place, number) in places(&mut tune).into_iter().zip(numbers) {
        *place = Some(*number).filter(|number| *number != 0);
    }
    tune.group_name = group;
    tune
}

/// A change of one disk's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The disk, by its target or its source.
    pub disk: String,
    /// What it gets.
    pub limits: Limits,
    /// The limits are all of it: what they do not say is none.
    #[serde(default)]
    pub whole: bool,
}

/// The disk of a name.
fn find<'a>(document: &'a Domain, name: &str) -> Result<&'a Disk> {
    let is_named = |disk: &&Disk| {
        let path = chain::local_path(disk.kind, disk.source.as_ref());
        disk.target.dev == name || path.is_some_and(|path| path.as_os_str() == name)
    };
    let found = document.devices.disks.iter().find(is_named);
    found.ok_or_else(|| {
        // Only a document of a run has an id.
        let text = match document.id {
            Some(_) => format!("disk '{name}' not found in domain"),
            None => format!("missing persistent configuration for disk '{name}'"),
        };
        Error::argument(text)
    })
}

/// Refuses a disk that can have no limits of its own.
fn check_disk(disk: &Disk, name: &str) -> Result<()> {
    let unsupported = |text| Err(Error::new(Code::ConfigUnsupported, text));
    if disk.kind == StorageKind::VhostUser {
        return unsupported(format!("block I/O throttling is not supported for disk '{name}'"));
    }
    let filters = disk.throttlefilters.as_ref();
    if filters.is_some_and(|filters| !filters.filters.is_empty()) {
        return unsupported(format!(
            "block 'iotune' can't be used together with 'throttlefilters' for disk '{name}'"
        ));
    }
    Ok(())
}

/// The limits of the disk after the change, and its target.
fn changed(document: &Domain, change: &Change) -> Result<(String, IoTune)> {
    let Change {
        disk: name,
        limits,
        whole,
    } = change;
    if *whole {
        let disk = find(document, name)?;
        let numbers = limits.numbers.map(Option::unwrap_or_default);
        return Ok((disk.target.dev.clone(), tune_of(&numbers, limits.group.clone())));
    }
    limits.check()?;
    let disk = find(document, name)?;
    check_disk(disk, name)?;
    let own = disk.iotune.as_ref();
    let group = limits.group.clone().filter(|group| !group.is_empty());
    let group = group.or_else(|| own?.group_name.clone());
    // Who joins a group has its limits.
    let is_of = |tune: &&IoTune| tune.group_name == group && group.is_some();
    let tunes = document
        .devices
        .disks
        .iter()
        .filter_map(|disk| disk.iotune.as_ref());
    let had = own.filter(is_of).or_else(|| tunes.clone().find(is_of)).or(own);
    let numbers = limits.over(&numbers_of(had));
    // What is stored is looked at when the guest starts. Only a document of a run has an id.
    if document.id.is_some() {
        if group.is_some() && numbers == Numbers::default() {
            let text =
                "creating a new group/updating existing with all tune parameters zero is not supported";
            return Err(Error::new(Code::ConfigUnsupported, text));
        }
        check_bursts(&numbers)?;
    }
    let group = group.filter(|_| numbers != Numbers::default());
    Ok((disk.target.dev.clone(), tune_of(&numbers, group)))
}

pub(crate) fn apply(domain: &mut Domain, change: &Change) -> Result<()> {
    let (target, tune) = changed(domain, change)?;
    for disk in &mut domain.devices.disks {
        let theirs = disk.iotune.as_ref().and_then(|tune| tune.group_name.as_ref());
        let shares = theirs.is_some() && theirs == tune.group_name.as_ref();
        if disk.target.dev == target || shares {
            disk.iotune = Some(tune.clone()).filter(|tune| *tune != IoTune::default());
        }
    }
    Ok(())
}

/// What takes the change of a running guest back.
pub(crate) fn before(view: &View, change: &Change) -> Result<Change> {
    let disk = find(&view.running()?.document.domain, &change.disk)?;
    let numbers = numbers_of(disk.iotune.as_ref()).map(Some);
    let group = disk.iotune.as_ref().and_then(|tune| tune.group_name.clone());
    Ok(Change {
        disk: disk.target.dev.clone(),
        limits: Limits { numbers, group },
        whole: true,
    })
}

pub(crate) async fn carry_out(driver: &Arc<Driver>, view: &View, change: &Change) -> Result<()> {
    let document = &view.running()?.document.domain;
    let (target, tune) = changed(document, change)?;
    let disk = find(document, &target)?;
    // It gets them with its medium.
    if block::is_empty(disk) {
        return Ok(());
    }
    let id = block::qom_name(disk).ok_or_else(|| {
        let text = format!("block I/O throttling is not supported for disk '{target}'");
        Error::new(Code::ConfigUnsupported, text)
    })?;
    let arguments = match plug::limits(id, &tune).into_value() {
        Value::Object(arguments) => arguments,
        _ => Map::new(),
    };
    tell((driver, view), commands::BlockSetIoThrottle(arguments))
        .await
        .map(drop)
}

/// What an event says of it.
pub(crate) fn told(document: &Domain, change: &Change) -> Vec<(String, Shown)> {
    let disk = find(document, &change.disk).map(|disk| disk.target.dev.clone());
    let name = (
        "blkdeviotune.disk".to_owned(),
        Shown::Text(disk.unwrap_or_default()),
    );
    let group = change.limits.group.clone();
    let group = group.map(|group| (GROUP.to_owned(), Shown::Text(group)));
    [name]
        .into_iter()
        .chain(change.limits.told())
        .chain(group)
        .collect()
}

const GROUP: &str = "blkdeviotune.group_name";

/// A change of a group whose limits disks pass through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupChange {
    /// It is made, or its limits are changed.
    Set {
        /// Its name.
        group: String,
        /// Its limits.
        limits: Box<Limits>,
    },
    /// It is removed.
    Remove {
        /// Its name.
        group: String,
    },
    /// What another change did to it is undone.
    Restore {
        /// Its name.
        group: String,
        /// All its limits; none: it was not there.
        numbers: Option<Vec<u64>>,
    },
}

fn group_of<'a>(document: &'a Domain, name: &str) -> Option<&'a IoTune> {
    let mut groups = document.throttlegroups.iter();
    groups.find(|tune| tune.group_name.as_deref() == Some(name))
}

/// The numbers of a group after a change.
fn changed_group(document: &Domain, name: &str, limits: &Limits) -> Result<Numbers> {
    limits.check()?;
    let numbers = limits.over(&numbers_of(group_of(document, name)));
    if document.id.is_some() {
        check_bursts(&numbers)?;
    }
    Ok(numbers)
}

pub(crate) fn apply_group(domain: &mut Domain, change: &GroupChange) -> Result<()> {
    match change {
        GroupChange::Set { group, limits } => {
            let tune = tune_of(&changed_group(domain, group, limits)?, Some(group.clone()));
            let mut groups = domain.throttlegroups.iter_mut();
            match groups.find(|known| known.group_name.as_ref() == Some(group)) {
                Some(known) => *known = tune,
                None => domain.throttlegroups.push(tune),
            }
            Ok(())
        }
        GroupChange::Remove { group } => {
            let uses = |disk: &&Disk| {
                let mut filters = disk.throttlefilters.iter().flat_map(|filters| &filters.filters);
                filters.any(|filter| filter.group.as_ref() == Some(group))
            };
            if let Some(disk) = domain.devices.disks.iter().find(uses) {
                let target = &disk.target.dev;
                return Err(Error::argument(format!(
                    "throttle group '{group}' is still being used by disk {target}"
                )));
            }
            domain
                .throttlegroups
                .retain(|known| known.group_name.as_ref() != Some(group));
            Ok(())
        }
        GroupChange::Restore { .. } => Err(Error::internal("a document takes nothing back")),
    }
}

/// Whether the document says that it was made.
pub(crate) fn is_in(document: &Domain, change: &GroupChange) -> bool {
    match change {
        GroupChange::Remove { group } => group_of(document, group).is_none(),
        GroupChange::Restore { .. } => false,
        GroupChange::Set { group, limits } => {
            let wanted = changed_group(document, group, limits).ok();
            group_of(document, group).is_some_and(|tune| Some(numbers_of(Some(tune))) == wanted)
        }
    }
}

/// What takes the change of a running guest back; none: nothing is there that could be changed.
pub(crate) fn before_group(view: &View, change: &GroupChange) -> Result<Option<GroupChange>> {
    let (GroupChange::Set { group, .. } | GroupChange::Remove { group } | GroupChange::Restore { group, .. }) =
        change;
    let known = group_of(&view.running()?.document.domain, group);
    if known.is_none() && matches!(change, GroupChange::Remove { .. }) {
        return Ok(None);
    }
    Ok(Some(GroupChange::Restore {
        group: group.clone(),
        numbers: known.map(|tune| numbers_of(Some(tune)).to_vec()),
    }))
}

pub(crate) async fn carry_out_group(driver: &Arc<Driver>, view: &View, change: &GroupChange) -> Result<()> {
    let guest = (driver, view);
    let document = &view.running()?.document.domain;
    match change {
        GroupChange::Set { group, limits } => {
            let numbers = changed_group(document, group, limits)?;
            match group_of(document, group) {
                Some(_) => set_group(guest, group, &numbers).await,
                None => add_group(guest, group, &numbers).await,
            }
        }
        GroupChange::Remove { group } => remove_group(guest, group).await,
        GroupChange::Restore { group, numbers } => {
            let is_there = has_group(guest, group).await?;
            let Some(numbers) = numbers
                .as_ref()
                .and_then(|all| Numbers::try_from(all.as_slice()).ok())
            else {
                return match is_there {
                    true => remove_group(guest, group).await,
                    false => Ok(()),
                };
            };
            match is_there {
                true => set_group(guest, group, &numbers).await,
                false => add_group(guest, group, &numbers).await,
            }
        }
    }
}

/// The object of a group as QEMU is told it.
fn object(group: &str, numbers: &Numbers) -> Map<String, Value> {
    match block::group_object(&tune_of(numbers, Some(group.to_owned()))).into_value() {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

async fn add_group(guest: Told<'_>, group: &str, numbers: &Numbers) -> Result<()> {
    tell(guest, commands::ObjectAdd(object(group, numbers)))
        .await
        .map(drop)
}

async fn set_group(guest: Told<'_>, group: &str, numbers: &Numbers) -> Result<()> {
    let limits = object(group, numbers).remove(LIMITS).unwrap_or_default();
    let limits = commands::QomSet {
        path: block::group_id(group),
        property: LIMITS.to_owned(),
        value: limits,
    };
    tell(guest, limits).await.map(drop)
}

const LIMITS: &str = "limits";

async fn remove_group(guest: Told<'_>, group: &str) -> Result<()> {
    tell(
        guest,
        commands::ObjectDel {
            id: block::group_id(group),
        },
    )
    .await
    .map(drop)
}

async fn has_group(guest: Told<'_>, group: &str) -> Result<bool> {
    let path = "/objects".to_owned();
    let objects = tell(guest, commands::QomList { path }).await?;
    Ok(objects.iter().any(|entry| entry.name == block::group_id(group)))
}

/// What an event says of it; libvirt does not tell of a group that is removed.
pub(crate) fn group_told(change: &GroupChange) -> Vec<(String, Shown)> {
    match change {
        GroupChange::Set { group, limits } => {
            let name = (GROUP.to_owned(), Shown::Text(group.clone()));
            [name].into_iter().chain(limits.told()).collect()
        }
        GroupChange::Remove { .. } | GroupChange::Restore { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Domain {
        let disk = |target: &str, tune: &str| {
            format!(
                "<disk type='file' device='disk'><source file='/{target}'/><target dev='{target}' bus='virtio'/>{tune}</disk>"
            )
        };
        let tune = "<iotune><total_bytes_sec>1000000</total_bytes_sec><read_iops_sec>100</read_iops_sec>\
            <read_iops_sec_max>300</read_iops_sec_max><group_name>g</group_name></iotune>";
        let filters = "<throttlefilters><throttlefilter group='t'/></throttlefilters>";
        let disks = [disk("vda", tune), disk("vdb", ""), disk("vdc", filters)].concat();
        let text = format!(
            "<domain type='qemu' id='1'><name>a</name><throttlegroups><throttlegroup><total_iops_sec>5</total_iops_sec>\
             <group_name>t</group_name></throttlegroup></throttlegroups><os><type>hvm</type></os>\
             <devices>{disks}</devices></domain>"
        );
        Domain::parse(&text, domxml::ParseFlags::NONE).unwrap()
    }

    fn limits(given: &[(&str, u64)], group: Option<&str>) -> Limits {
        let mut limits = Limits {
            group: group.map(str::to_owned),
            ..Limits::default()
        };
        for (name, number) in given {
            let at = NAMES.iter().position(|known| known == name).unwrap();
            limits.numbers[at] = Some(*number);
        }
        limits
    }

    fn change(disk: &str, limits: Limits) -> Change {
        let disk = disk.to_owned();
        Change {
            disk,
            limits,
            whole: false,
        }
    }

    #[test]
    fn a_family_is_replaced_as_a_whole_and_groups_share() {
        let mut domain = guest();
        apply(
            &mut domain,
            &change("vdb", limits(&[("read_iops_sec", 200)], Some("g"))),
        )
        .unwrap();
        let tunes: Vec<_> = domain
            .devices
            .disks
            .iter()
            .map(|disk| disk.iotune.clone())
            .collect();
        assert_eq!(tunes[0], tunes[1]);
        let tune = tunes[1].clone().unwrap();
        assert_eq!(
            (tune.total_bytes_sec, tune.read_iops_sec, tune.read_iops_sec_max),
            (Some(1_000_000), Some(200), Some(300))
        );
        apply(
            &mut domain,
            &change("/vdb", limits(&[("write_bytes_sec", 9)], None)),
        )
        .unwrap();
        let tune = domain.devices.disks[1].iotune.clone().unwrap();
        assert_eq!((tune.total_bytes_sec, tune.write_bytes_sec), (None, Some(9)));
    }

    #[test]
    fn limits_that_can_not_be_are_refused_in_libvirts_words() {
        for (disk, given, group, error) in [
            (
                "vda",
                &[("total_bytes_sec", 10), ("read_bytes_sec", 10)][..],
                None,
                "invalid argument: total and read/write of bytes_sec cannot be set at the same time",
            ),
            (
                "vda",
                &[("total_iops_sec", 56)],
                None,
                "unsupported configuration: cannot reset 'read_iops_sec' when 'read_iops_sec_max' is set",
            ),
            (
                "vdb",
                &[("write_iops_sec", 500), ("write_iops_sec_max", 100)],
                None,
                "unsupported configuration: value 'write_iops_sec_max' cannot be smaller than 'write_iops_sec'",
            ),
            (
                "vdq",
                &[("total_iops_sec", 0)],
                None,
                "invalid argument: disk 'vdq' not found in domain",
            ),
            (
                "vdc",
                &[("total_iops_sec", 5)],
                None,
                "unsupported configuration: block 'iotune' can't be used together with 'throttlefilters' for disk 'vdc'",
            ),
            (
                "vdb",
                &[("total_iops_sec", 0)],
                Some("new"),
                "unsupported configuration: creating a new group/updating existing with all tune parameters zero is not supported",
            ),
        ] {
            let refused = apply(&mut guest(), &change(disk, limits(given, group)));
            assert_eq!(refused.unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn groups_come_change_and_go() {
        let mut domain = guest();
        let set = |group: &str, given: &[(&str, u64)]| GroupChange::Set {
            group: group.to_owned(),
            limits: Box::new(limits(given, None)),
        };
        let remove = |group: &str| GroupChange::Remove {
            group: group.to_owned(),
        };
        for change in [
            set("t", &[("total_iops_sec", 7)]),
            set("u", &[]),
            remove("u"),
            remove("none"),
        ] {
            apply_group(&mut domain, &change).unwrap();
            assert!(is_in(&domain, &change), "{change:?}");
        }
        assert_eq!(domain.throttlegroups.len(), 1);
        assert_eq!(
            apply_group(&mut domain, &remove("t")).unwrap_err().to_string(),
            "invalid argument: throttle group 't' is still being used by disk vdc"
        );
        let numbers =
            changed_group(&domain, "t", &limits(&[("read_bytes_sec_max_length", 3)], None)).unwrap();
        let told = object("t", &numbers);
        let limits = told["limits"].as_object().unwrap();
        assert_eq!((limits.len(), &limits["iops-total"]), (14, &Value::from(7)));
    }
}
