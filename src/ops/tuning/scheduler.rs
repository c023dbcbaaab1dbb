//! How much of the host's CPUs a guest gets.

use confine::cgroup::{Controller, Group};
use domxml::{Domain, tuning::CpuTune};

use crate::{
    domain::{Run, View},
    error::{Error, Result},
    events::model::event::tunable::value::Value,
    ops::{
        Driver,
        document::scope::{self, Scope},
        holdings::cgroup::{
            refused,
            thread::{Thread, part_of},
        },
        tuning::{group_with, not_in_session, pinning},
    },
};

/// Microseconds of a period.
const PERIODS: (u64, u64) = (1_000, 1_000_000);
/// Microseconds of CPU time in a period.
const QUOTAS: (i64, i64) = (1_000, 17_592_186_044_415);
/// The four that bandwidth is given to, by libvirt's names.
const WHOM: [&str; 4] = ["vcpu", "emulator", "iothread", "global"];
/// The kernel's words, as libvirt has them.
const NO_GROUP: &str = "cgroup CPU controller is not mounted";

/// What a guest gets; what is none is not said, or stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Scheduler {
    /// Weight against others.
    pub shares: Option<u64>,
    /// Of each CPU, of QEMU's own thread, of each thread for I/O, and of all together.
    pub bandwidths: [Bandwidth; 4],
}

/// A part of each period, both in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bandwidth {
    /// Length of a period.
    pub period: Option<u64>,
    /// CPU time in it; negative: no limit.
    pub quota: Option<i64>,
}

/// What a guest gets: a running one by the kernel's word.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration, or is in no group of CPUs.
pub fn read(driver: &Driver, view: &View, scope: Scope) -> Result<Scheduler> {
    not_in_session(driver, "CPU tuning")?;
    let document = scope::read(view, scope)?;
    if document.is_live() {
        let run = view.running()?;
        return of_group(&group_with(driver, view, Controller::Cpu, NO_GROUP)?, run);
    }
    let mut tune = document.domain()?.cputune.clone().unwrap_or_default();
    let shares = Some(tune.shares.unwrap_or(0));
    let bandwidths = places(&mut tune).map(|(period, quota)| Bandwidth {
        period: Some(period.unwrap_or(0)),
        quota: Some(quota.unwrap_or(0)),
    });
    Ok(Scheduler { shares, bandwidths })
}

fn of_group(group: &Group, run: &Run) -> Result<Scheduler> {
    let shares = Some(group.shares().map_err(refused)?);
    if !group.has_bandwidth() {
        return Ok(Scheduler {
            shares,
            bandwidths: Default::default(),
        });
    }
    let bandwidths = [0, 1, 2, 3].map(|whom| match members(group, run, whom).first() {
        Some(group) => group.bandwidth().map(|told| Bandwidth {
            period: Some(told.period),
            quota: Some(told.quota),
        }),
        // What the kernel gives a thread that nobody has said anything of.
        None => Ok(Bandwidth {
            period: Some(100_000),
            quota: Some(-1),
        }),
    });
    let [vcpu, emulator, iothread, global] = bandwidths;
    let read = || Ok([vcpu?, emulator?, iothread?, global?]);
    Ok(Scheduler {
        shares,
        bandwidths: read().map_err(refused)?,
    })
}

/// The groups of those that a bandwidth is given to, by place in [`WHOM`].
fn members(group: &Group, run: &Run, whom: usize) -> Vec<Group> {
    let of = |thread| group.part(part_of(thread));
    match whom {
        0 => run
            .status
            .vcpus
            .iter()
            .map(|vcpu| of(Thread::Vcpu(vcpu.id)))
            .collect(),
        1 => vec![of(Thread::Emulator)],
        2 => pinning::ids(&run.document.domain)
            .into_iter()
            .map(|id| of(Thread::Io(id)))
            .collect(),
        _ => vec![group.clone()],
    }
}

/// Where a document has the four.
fn places(tune: &mut CpuTune) -> [(&mut Option<u64>, &mut Option<i64>); 4] {
    [
        (&mut tune.period, &mut tune.quota),
        (&mut tune.emulator_period, &mut tune.emulator_quota),
        (&mut tune.iothread_period, &mut tune.iothread_quota),
        (&mut tune.global_period, &mut tune.global_quota),
    ]
}

pub(crate) fn apply(domain: &mut Domain, wanted: &Scheduler) -> Result<()> {
    check(wanted)?;
    // Only a document of a run has an id. In it, zero changes nothing; in a stored one, it is no word about it.
    let live = domain.id.is_some();
    let tune = domain.cputune.get_or_insert_default();
    if wanted.shares.is_some_and(|shares| shares != 0 || !live) {
        tune.shares = wanted.shares;
    }
    for ((period, quota), wanted) in places(tune).into_iter().zip(wanted.bandwidths) {
        match wanted.period {
            Some(0) if !live => *period = None,
            Some(value) if value != 0 => *period = Some(value),
            _ => {}
        }
        match wanted.quota {
            Some(0) if !live => *quota = None,
            Some(value) if value != 0 => *quota = Some(value),
            _ => {}
        }
    }
    if *tune == CpuTune::default() {
        domain.cputune = None;
    }
    Ok(())
}

fn check(wanted: &Scheduler) -> Result<()> {
    for (whom, bandwidth) in WHOM.iter().zip(wanted.bandwidths) {
        let out_of = |what: &str, least: i64, most: i64| {
            Err(Error::argument(format!(
                "value of '{whom}_{what}' is out of range [{least}, {most}]"
            )))
        };
        if bandwidth
            .period
            .is_some_and(|p| p > 0 && !(PERIODS.0..=PERIODS.1).contains(&p))
        {
            return out_of("period", PERIODS.0.cast_signed(), PERIODS.1.cast_signed());
        }
        if bandwidth
            .quota
            .is_some_and(|q| q > 0 && !(QUOTAS.0..=QUOTAS.1).contains(&q))
        {
            return out_of("quota", QUOTAS.0, QUOTAS.1);
        }
    }
    Ok(())
}

/// What the guest has now of what is to be changed.
pub(crate) fn before(driver: &Driver, view: &View, wanted: &Scheduler) -> Result<Scheduler> {
    let had = read(driver, view, Scope::Live)?;
    let mut before = Scheduler {
        shares: had.shares.filter(|_| wanted.shares.is_some()),
        ..Scheduler::default()
    };
    let each = before.bandwidths.iter_mut().zip(had.bandwidths);
    for ((place, had), wanted) in each.zip(wanted.bandwidths) {
        place.period = had.period.filter(|_| wanted.period.is_some());
        place.quota = had.quota.filter(|_| wanted.quota.is_some());
    }
    Ok(before)
}

pub(crate) fn carry_out(driver: &Driver, view: &View, wanted: &Scheduler) -> Result<()> {
    not_in_session(driver, "CPU tuning")?;
    let group = group_with(driver, view, Controller::Cpu, NO_GROUP)?;
    let run = view.running()?;
    let before = of_group(&group, run)?;
    let result = set(&group, run, wanted);
    if result.is_err()
        && let Err(error) = set(&group, run, &before)
    {
        tracing::warn!(guest = %view.name, %error, "the guest's share of the CPUs is not what it was");
    }
    result
}

fn set(group: &Group, run: &Run, wanted: &Scheduler) -> Result<()> {
    if let Some(shares) = wanted.shares.filter(|shares| *shares != 0) {
        let (least, most) = group.shares_range().map_err(refused)?;
        if !(least..=most).contains(&shares) {
            return Err(Error::argument(format!(
                "shares '{shares}' must be in range [{least}, {most}]"
            )));
        }
        group.set_shares(shares).map_err(refused)?;
    }
    for (whom, bandwidth) in wanted.bandwidths.iter().enumerate() {
        let (period, quota) = (
            bandwidth.period.filter(|p| *p != 0),
            bandwidth.quota.filter(|q| *q != 0),
        );
        if period.is_some() || quota.is_some() {
            members(group, run, whom)
                .iter()
                .try_for_each(|group| group.set_bandwidth(period, quota))
                .map_err(refused)?;
        }
    }
    Ok(())
}

/// What the event says of it.
pub(crate) fn told(wanted: &Scheduler) -> Vec<(String, Value)> {
    let shares = wanted
        .shares
        .filter(|s| *s != 0)
        .map(|shares| ("cputune.cpu_shares".to_owned(), Value::Unsigned(shares)));
    let each = WHOM.iter().zip(wanted.bandwidths).flat_map(|(whom, bandwidth)| {
        let period = bandwidth
            .period
            .filter(|p| *p != 0)
            .map(|p| (format!("cputune.{whom}_period"), Value::Unsigned(p)));
        let quota = bandwidth
            .quota
            .filter(|q| *q != 0)
            .map(|q| (format!("cputune.{whom}_quota"), Value::Signed(q)));
        period.into_iter().chain(quota)
    });
    shares.into_iter().chain(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(live: bool) -> Domain {
        let mut domain = Domain::parse(
            "<domain type='qemu'><name>a</name><os><type>hvm</type></os></domain>",
            domxml::ParseFlags::INACTIVE,
        )
        .unwrap();
        domain.id = live.then_some(1);
        domain
    }

    fn vcpu(period: u64, quota: i64) -> Scheduler {
        let mut wanted = Scheduler::default();
        wanted.bandwidths[0] = Bandwidth {
            period: Some(period),
            quota: Some(quota),
        };
        wanted
    }

    #[test]
    fn zero_is_no_word_in_a_stored_document_and_nothing_in_a_live_one() {
        for (live, after) in [(true, Some(2000)), (false, None)] {
            let mut domain = guest(live);
            apply(&mut domain, &vcpu(2000, -1)).unwrap();
            apply(&mut domain, &vcpu(0, 0)).unwrap();
            assert_eq!(domain.cputune.and_then(|tune| tune.period), after);
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_its_name() {
        let refused = |wanted| apply(&mut guest(true), &wanted).unwrap_err().to_string();
        assert_eq!(
            refused(vcpu(100, 0)),
            "invalid argument: value of 'vcpu_period' is out of range [1000, 1000000]"
        );
        assert_eq!(
            refused(vcpu(0, 5)),
            "invalid argument: value of 'vcpu_quota' is out of range [1000, 17592186044415]"
        );
    }

    #[test]
    fn the_event_has_libvirts_names() {
        let names: Vec<_> = told(&vcpu(2000, -1)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cputune.vcpu_period", "cputune.vcpu_quota"]);
        assert!(told(&Scheduler::default()).is_empty());
    }
}
