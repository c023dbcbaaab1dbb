//! A guest's threads for I/O: they are made, removed, and told how long to poll and how many helpers to have.

use std::sync::Arc;

use domxml::{
    Domain,
    tuning::{IoThread, IoThreadIds},
};
use qmp::commands;
use serde_json::{Map, Value};

use crate::{
    domain::View,
    error::{Code, Error, Result},
    ops::{
        Driver,
        holdings::cgroup::thread::Thread,
        tuning::{
            Told,
            pinning::{ids, numbered},
            tell, threads,
        },
    },
};

/// What is done to a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Change {
    /// It is made.
    Add {
        /// Its number.
        id: u32,
        /// How it works.
        params: Params,
    },
    /// It is removed.
    Remove {
        /// Its number.
        id: u32,
    },
    /// It works otherwise.
    Set {
        /// Its number.
        id: u32,
        /// What is to be changed.
        params: Params,
    },
}

/// How a thread works; what is none is not said, or stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Params {
    /// Longest time that it polls, nanoseconds.
    pub poll_max: Option<u64>,
    /// Factor by which that time grows; 0: QEMU's choice.
    pub poll_grow: Option<u64>,
    /// Divisor by which it shrinks; 0: QEMU's choice.
    pub poll_shrink: Option<u64>,
    /// Fewest helpers; -1 in a stored configuration: QEMU's choice.
    pub pool_min: Option<i32>,
    /// Most helpers; -1 in a stored configuration: QEMU's choice.
    pub pool_max: Option<i32>,
}

impl Params {
    fn of(thread: &IoThread) -> Self {
        let poll = thread.poll.unwrap_or_default();
        Self {
            poll_max: poll.max,
            poll_grow: poll.grow,
            poll_shrink: poll.shrink,
            pool_min: thread.pool.thread_pool_min,
            pool_max: thread.pool.thread_pool_max,
        }
    }

    fn put(self, thread: &mut IoThread) {
        let mut poll = thread.poll.unwrap_or_default();
        poll.max = self.poll_max.or(poll.max);
        poll.grow = self.poll_grow.or(poll.grow);
        poll.shrink = self.poll_shrink.or(poll.shrink);
        thread.poll = Some(poll).filter(|poll| *poll != Default::default());
        let count = |wanted: Option<i32>, had: Option<i32>| wanted.or(had).filter(|count| *count >= 0);
        let pool = &mut thread.pool;
        pool.thread_pool_min = count(self.pool_min, pool.thread_pool_min);
        pool.thread_pool_max = count(self.pool_max, pool.thread_pool_max);
    }

    /// Properties in QEMU, in the order in which they are set.
    fn properties(self) -> [(&'static str, Option<Value>); 5] {
        [
            ("poll-max-ns", self.poll_max.map(Value::from)),
            ("poll-grow", self.poll_grow.map(Value::from)),
            ("poll-shrink", self.poll_shrink.map(Value::from)),
            (POOL_MIN, self.pool_min.map(Value::from)),
            (POOL_MAX, self.pool_max.map(Value::from)),
        ]
    }
}

const POOL_MIN: &str = "thread-pool-min";
const POOL_MAX: &str = "thread-pool-max";

pub(crate) fn apply(domain: &mut Domain, change: &Change) -> Result<()> {
    match *change {
        Change::Add { id: 0, .. } | Change::Remove { id: 0 } | Change::Set { id: 0, .. } => {
            Err(Error::argument("invalid value of 0 for iothread_id"))
        }
        Change::Add { id, .. } if ids(domain).contains(&id) => Err(Error::argument(format!(
            "an IOThread is already using iothread_id '{id}'"
        ))),
        Change::Add { id, params } => {
            let mut all = listed(domain);
            let mut thread = IoThread {
                id,
                ..IoThread::default()
            };
            params.put(&mut thread);
            all.push(thread);
            put(domain, all, true);
            Ok(())
        }
        Change::Remove { id } => remove(domain, id),
        Change::Set { id, params } => {
            check(domain, params)?;
            let mut all = listed(domain);
            let thread = all
                .iter_mut()
                .find(|thread| thread.id == id)
                .ok_or_else(|| Error::argument(format!("cannot find IOThread '{id}' in iothreadids")))?;
            params.put(thread);
            let pool = thread.pool;
            // What is not said counts as less than all.
            let (min, max) = (
                pool.thread_pool_min.unwrap_or(-1),
                pool.thread_pool_max.unwrap_or(-1),
            );
            let is_given = params.pool_min.or(params.pool_max).is_some();
            if is_given && min > max {
                return Err(Error::invalid(format!(
                    "thread_pool_min ({min}) can't be greater than thread_pool_max ({max})"
                )));
            }
            put(domain, all, true);
            Ok(())
        }
    }
}

/// What no thread can have, and what one of a running guest can't.
fn check(domain: &Domain, params: Params) -> Result<()> {
    let unsupported = |text| Err(Error::new(Code::ConfigUnsupported, text));
    if let Some(min) = params.pool_min.filter(|min| *min < -1) {
        return unsupported(format!(
            "thread_pool_min ({min}) must be equal to or greater than -1"
        ));
    }
    if let Some(max) = params.pool_max.filter(|max| *max < -1 || *max == 0) {
        return unsupported(format!("thread_pool_max ({max}) must be a positive number or -1"));
    }
    // Only a document of a run has an id.
    let counts = [("min", params.pool_min), ("max", params.pool_max)];
    let chosen = counts.into_iter().find(|(_, count)| *count == Some(-1));
    match chosen.filter(|_| domain.id.is_some()) {
        Some((which, _)) => Err(Error::invalid(format!(
            "thread_pool_{which} (-1) must be equal to or greater than 0 for live change"
        ))),
        None => Ok(()),
    }
}

fn remove(domain: &mut Domain, id: u32) -> Result<()> {
    let mut all = listed(domain);
    let place = all
        .iter()
        .position(|thread| thread.id == id)
        .ok_or_else(|| Error::argument(format!("cannot find IOThread '{id}' in iothreadids list")))?;
    check_use(domain, id)?;
    all.remove(place);
    // Those that are only counted have the numbers from 1.
    let is_listed = domain.iothreadids.is_some() || place != all.len();
    put(domain, all, is_listed);
    if let Some(tune) = &mut domain.cputune {
        tune.iothreadpin.retain(|pin| pin.iothread != id);
        tune.iothreadsched
            .iter_mut()
            .for_each(|sched| sched.iothreads.remove(id));
        tune.iothreadsched.retain(|sched| !sched.iothreads.is_empty());
        if *tune == Default::default() {
            domain.cputune = None;
        }
    }
    Ok(())
}

/// A thread that a device uses stays.
fn check_use(domain: &Domain, id: u32) -> Result<()> {
    let disks = domain.devices.disks.iter();
    let user = disks.clone().find(|disk| {
        let driver = disk.driver.as_ref();
        let map = driver.and_then(|driver| driver.iothreads.as_ref());
        let mapped = map.is_some_and(|map| map.threads.iter().any(|thread| thread.id == id));
        mapped || driver.and_then(|driver| driver.iothread) == Some(id)
    });
    if let Some(disk) = user {
        let target = &disk.target.dev;
        return Err(Error::argument(format!(
            "cannot remove IOThread {id} since it is being used by disk '{target}'"
        )));
    }
    let is_used = domain.devices.controllers.iter().any(|controller| {
        let driver = controller.driver.as_ref();
        let map = driver.and_then(|driver| driver.iothreads.as_ref());
        let mapped = map.is_some_and(|map| map.threads.iter().any(|thread| thread.id == id));
        mapped || driver.and_then(|driver| driver.iothread) == Some(id)
    });
    match is_used {
        true => Err(Error::argument(format!(
            "cannot remove IOThread '{id}' since it is being used by controller"
        ))),
        false => Ok(()),
    }
}

/// Each thread by itself, whether the document lists them or only counts them.
fn listed(domain: &Domain) -> Vec<IoThread> {
    if let Some(list) = domain.iothreadids.as_ref().filter(|list| !list.all.is_empty()) {
        return list.all.clone();
    }
    let thread = |id| IoThread {
        id,
        ..IoThread::default()
    };
    ids(domain).into_iter().map(thread).collect()
}

fn put(domain: &mut Domain, all: Vec<IoThread>, is_listed: bool) {
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    domain.iothreads = Some(count).filter(|count| *count != 0);
    domain.iothreadids = Some(IoThreadIds { all }).filter(|ids| is_listed && !ids.all.is_empty());
}

/// Whether the document says that it was made.
pub(crate) fn is_in(document: &Domain, change: &Change) -> bool {
    match change {
        Change::Add { id, .. } => ids(document).contains(id),
        Change::Remove { id } => !ids(document).contains(id),
        Change::Set { .. } => {
            let mut changed = document.clone();
            apply(&mut changed, change).is_ok() && changed == *document
        }
    }
}

/// What takes the change of a running guest back.
pub(crate) async fn before(driver: &Arc<Driver>, view: &View, change: &Change) -> Result<Change> {
    match *change {
        Change::Add { id, .. } => Ok(Change::Remove { id }),
        Change::Remove { id } => {
            let all = listed(&view.running()?.document.domain);
            let thread = all.into_iter().find(|thread| thread.id == id);
            let params = thread.map(|thread| Params::of(&thread)).unwrap_or_default();
            Ok(Change::Add { id, params })
        }
        Change::Set { id, params } => {
            let params = now((driver, view), id, params).await?;
            Ok(Change::Set { id, params })
        }
    }
}

/// What QEMU has of what is to be changed.
async fn now(guest: Told<'_>, id: u32, wanted: Params) -> Result<Params> {
    let mut had = Params::default();
    let number = |value: Value| value.as_i64().and_then(|n| i32::try_from(n).ok());
    for (place, wanted, property) in [
        (&mut had.poll_max, wanted.poll_max, "poll-max-ns"),
        (&mut had.poll_grow, wanted.poll_grow, "poll-grow"),
        (&mut had.poll_shrink, wanted.poll_shrink, "poll-shrink"),
    ] {
        if wanted.is_some() {
            *place = get(guest, id, property).await?.as_u64();
        }
    }
    if wanted.pool_min.is_some() {
        had.pool_min = number(get(guest, id, POOL_MIN).await?);
    }
    if wanted.pool_max.is_some() {
        had.pool_max = number(get(guest, id, POOL_MAX).await?);
    }
    Ok(had)
}

fn path(id: u32) -> String {
    format!("/objects/iothread{id}")
}

async fn get(guest: Told<'_>, id: u32, property: &str) -> Result<Value> {
    let (path, property) = (path(id), property.to_owned());
    tell(guest, commands::QomGet { path, property }).await
}

pub(crate) async fn carry_out(driver: &Arc<Driver>, view: &View, change: &Change) -> Result<()> {
    let guest = (driver, view);
    match *change {
        Change::Add { id, params } => add(guest, id, params).await,
        Change::Remove { id } => {
            let told = tell(guest, commands::QueryIothreads {}).await?;
            if numbered(&told).iter().any(|(known, _)| *known == id) {
                let id = format!("iothread{id}");
                tell(guest, commands::ObjectDel { id }).await?;
            }
            threads::forget(driver, view.running()?, Thread::Io(id)).await;
            Ok(())
        }
        Change::Set { id, params } => set(guest, id, params).await,
    }
}

async fn add(guest: Told<'_>, id: u32, params: Params) -> Result<()> {
    let (driver, view) = guest;
    let name = format!("iothread{id}");
    let mut properties = Map::new();
    properties.insert("qom-type".to_owned(), "iothread".into());
    properties.insert("id".to_owned(), name.as_str().into());
    let known = params.properties().into_iter();
    properties.extend(known.filter_map(|(name, value)| Some((name.to_owned(), value?))));
    tell(guest, commands::ObjectAdd(properties)).await?;
    let placed = async {
        let told = tell(guest, commands::QueryIothreads {}).await?;
        let thread = numbered(&told).into_iter().find(|(known, _)| *known == id);
        let (_, tid) = thread
            .ok_or_else(|| Error::internal(format!("cannot find new IOThread '{id}' in QEMU monitor.")))?;
        threads::place(driver, view.running()?, vec![(Thread::Io(id), tid)]).await
    };
    let placed = placed.await;
    if placed.is_err() {
        tell(guest, commands::ObjectDel { id: name }).await?;
    }
    placed
}

async fn set(guest: Told<'_>, id: u32, params: Params) -> Result<()> {
    let mut properties = params.properties();
    if let (Some(min), Some(_)) = (params.pool_min, params.pool_max) {
        // QEMU takes no moment in which there are to be more at least than at most.
        let most = get(guest, id, POOL_MAX).await?.as_i64().unwrap_or(i64::MAX);
        if i64::from(min) > most {
            properties.swap(3, 4);
        }
    }
    for (property, value) in properties {
        let Some(value) = value else { continue };
        let (path, property) = (path(id), property.to_owned());
        tell(
            guest,
            commands::QomSet {
                path,
                property,
                value,
            },
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(xml: &str) -> Domain {
        let text = format!("<domain type='qemu'><name>a</name>{xml}<os><type>hvm</type></os></domain>");
        Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap()
    }

    fn add(id: u32) -> Change {
        let params = Params::default();
        Change::Add { id, params }
    }

    #[test]
    fn threads_are_listed_from_the_first_change_on() {
        // table: before, changes, numbers listed, numbers counted
        for (xml, changes, listed, counted) in [
            ("", vec![add(1)], vec![1], 1),
            ("", vec![add(7), add(2)], vec![7, 2], 2),
            ("<iothreads>2</iothreads>", vec![add(3)], vec![1, 2, 3], 3),
            (
                "<iothreads>2</iothreads>",
                vec![Change::Remove { id: 2 }],
                vec![],
                1,
            ),
            (
                "<iothreads>2</iothreads>",
                vec![Change::Remove { id: 1 }],
                vec![2],
                1,
            ),
            ("", vec![add(1), Change::Remove { id: 1 }], vec![], 0),
        ] {
            let mut domain = guest(xml);
            for change in &changes {
                apply(&mut domain, change).unwrap();
                assert!(is_in(&domain, change));
            }
            let ids: Vec<u32> = domain
                .iothreadids
                .iter()
                .flat_map(|l| &l.all)
                .map(|t| t.id)
                .collect();
            assert_eq!(
                (ids, domain.iothreads.unwrap_or(0)),
                (listed, counted),
                "{changes:?}"
            );
        }
    }

    #[test]
    fn what_is_known_of_a_thread_goes_with_it() {
        let mut domain = guest(
            "<iothreads>2</iothreads><cputune><iothreadpin iothread='1' cpuset='0'/>\
             <iothreadsched iothreads='1' scheduler='batch'/></cputune>",
        );
        apply(&mut domain, &Change::Remove { id: 1 }).unwrap();
        assert_eq!(domain.cputune, None);
    }

    #[test]
    fn threads_that_can_not_be_are_refused_in_libvirts_words() {
        let disk = "<devices><disk type='file' device='disk'><driver name='qemu' type='raw' iothread='1'/>\
            <source file='/a'/><target dev='vda' bus='virtio'/></disk></devices>";
        let set = |min, max| Change::Set {
            id: 1,
            params: Params {
                pool_min: min,
                pool_max: max,
                ..Params::default()
            },
        };
        for (change, error) in [
            (add(0), "invalid argument: invalid value of 0 for iothread_id"),
            (
                add(2),
                "invalid argument: an IOThread is already using iothread_id '2'",
            ),
            (
                Change::Remove { id: 9 },
                "invalid argument: cannot find IOThread '9' in iothreadids list",
            ),
            (
                Change::Remove { id: 1 },
                "invalid argument: cannot remove IOThread 1 since it is being used by disk 'vda'",
            ),
            (
                set(Some(9), Some(8)),
                "Requested operation is not valid: thread_pool_min (9) can't be greater than thread_pool_max (8)",
            ),
            (
                set(None, Some(0)),
                "unsupported configuration: thread_pool_max (0) must be a positive number or -1",
            ),
        ] {
            let mut domain = guest(&format!("<iothreads>2</iothreads>{disk}"));
            assert_eq!(apply(&mut domain, &change).unwrap_err().to_string(), error);
        }
    }
}
