//! From the messages of requests to the types of the daemon: the one place where a field of a request is judged.
//!
//! An enum that is needed must be set, and a number that this version does not know is refused: prost's getters turn
//! both into the first value, which is nobody's wish. A refusal names the field.

use std::time::Duration;

use domxml::clock::LifecycleAction;
use qemu_plan::keys::CodeSet;
use uuid::Uuid;

use crate::{
    domain::RunState,
    error::{Error, Result},
    ops::{
        Conditions, Target,
        change::configure::{Change, LifecycleEvent},
        device::vcpus,
        document::scope::Scope,
        run::{keys::Chord, once::DirtyMode, power::Mode},
    },
    pb,
};

/// A value of an enum that the request may leave unset.
///
/// # Errors
/// `InvalidArg` for an unknown number.
pub(super) fn known<E: TryFrom<i32>>(number: i32, field: &'static str) -> Result<E> {
    E::try_from(number).map_err(|_| Error::argument(format!("{field} has no value {number}")).at(field))
}

/// A value of an enum that the request must set.
///
/// # Errors
/// `InvalidArg` for an unknown number and for none.
pub(super) fn needed<E: TryFrom<i32> + Default + PartialEq>(number: i32, field: &'static str) -> Result<E> {
    let value = known::<E>(number, field)?;
    if value == E::default() {
        return Err(Error::argument(format!("{field} is not set")).at(field));
    }
    Ok(value)
}

/// All of a list of values.
///
/// # Errors
/// As [`needed`].
pub(super) fn all<E: TryFrom<i32> + Default + PartialEq>(
    numbers: &[i32],
    field: &'static str,
) -> Result<Vec<E>> {
    numbers.iter().map(|number| needed(*number, field)).collect()
}

/// A part that the request must have.
///
/// # Errors
/// `InvalidArg`.
pub(super) fn given<T>(part: Option<T>, field: &'static str) -> Result<T> {
    part.ok_or_else(|| Error::argument(format!("{field} is not set")).at(field))
}

/// Refuses two fields together, of these names.
///
/// # Errors
/// Both are set.
pub(super) fn exclude(one: bool, other: bool, names: (&'static str, &'static str)) -> Result<()> {
    match one && other {
        true => Err(Error::argument(format!("{} excludes {}", names.0, names.1)).at(names.1)),
        false => Ok(()),
    }
}

/// The reference to a guest.
///
/// # Errors
/// `InvalidArg` if it refers to none, or by something that is no UUID or no number of a run.
pub(super) fn target(domain: Option<&pb::DomainRef>) -> Result<Target> {
    use pb::domain_ref::Ref;
    match domain.and_then(|d| d.r#ref.as_ref()) {
        Some(Ref::Uuid(text)) => Uuid::parse_str(text)
            .map(Target::Uuid)
            .map_err(|_| Error::argument(format!("'{text}' is not a UUID")).at("domain.uuid")),
        Some(Ref::Name(name)) => Ok(Target::Name(name.clone())),
        Some(Ref::Id(id)) if *id < 1 => {
            Err(Error::argument(format!("{id} is not the id of a run")).at("domain.id"))
        }
        Some(Ref::Id(id)) => Ok(Target::Id(*id)),
        None => Err(Error::argument("the request names no domain").at("domain")),
    }
}

/// The preconditions of a change, and whether it is only a trial.
pub(super) fn conditions(options: Option<&pb::MutationOptions>) -> Conditions {
    let etag = options.map(|o| o.etag.clone()).filter(|e| !e.is_empty());
    Conditions {
        etag,
        trial: options.is_some_and(|o| o.validate_only),
    }
}

/// The configuration that a change is for.
///
/// # Errors
/// `InvalidArg` if it is not set or unknown.
pub(super) fn scope(number: i32) -> Result<Scope> {
    Ok(match needed(number, "scope")? {
        pb::Scope::Unspecified | pb::Scope::Current => Scope::Current,
        pb::Scope::Live => Scope::Live,
        pb::Scope::Config => Scope::Config,
        pb::Scope::LiveAndConfig => Scope::Both,
    })
}

/// The configuration that a reader asks for: one, and the current one if it is not set.
///
/// # Errors
/// `InvalidArg` for an unknown number and for both.
pub(super) fn read_scope(number: i32) -> Result<Scope> {
    match known(number, "scope")? {
        pb::Scope::Unspecified => Ok(Scope::Current),
        pb::Scope::LiveAndConfig => Err(Error::argument("one configuration is read at a time").at("scope")),
        _ => scope(number),
    }
}

/// The states of a filter.
///
/// # Errors
/// `InvalidArg` if one is not set or unknown.
pub(super) fn run_states(numbers: &[i32]) -> Result<Vec<RunState>> {
    let states = all::<pb::State>(numbers, "filter.states")?;
    Ok(states.into_iter().filter_map(run_state).collect())
}

fn run_state(state: pb::State) -> Option<RunState> {
    Some(match state {
        pb::State::Unspecified => return None,
        pb::State::Running | pb::State::Blocked => RunState::Running,
        pb::State::Paused => RunState::Paused,
        pb::State::Shutdown => RunState::Shutdown,
        pb::State::Shutoff => RunState::Shutoff,
        pb::State::Crashed => RunState::Crashed,
        pb::State::Pmsuspended => RunState::PmSuspended,
    })
}

/// Ways to ask a guest, in order; none: the best there is.
///
/// # Errors
/// `InvalidArg` if one is not set or unknown.
pub(super) fn modes(numbers: &[i32]) -> Result<Vec<Mode>> {
    let modes = all::<pb::PowerMode>(numbers, "modes")?;
    let mode = |mode| match mode {
        pb::PowerMode::Unspecified => Mode::Any,
        pb::PowerMode::Acpi => Mode::Acpi,
        pb::PowerMode::Agent => Mode::Agent,
        pb::PowerMode::Initctl => Mode::Other("initctl"),
        pb::PowerMode::Signal => Mode::Other("signal"),
        pb::PowerMode::Paravirt => Mode::Other("paravirt"),
    };
    Ok(modes.into_iter().map(mode).collect())
}

/// Keys that are pressed together.
///
/// # Errors
/// `InvalidArg` if their numbers' kind is not set or unknown, or their hold is no span; as [`Chord::new`].
pub(super) fn chord(request: &pb::SendKeysRequest) -> Result<Chord> {
    use pb::send_keys_request::CodeSet as S;
    let set = match needed(request.code_set, "code_set")? {
        S::Unspecified | S::Linux => CodeSet::Linux,
        S::Xt => CodeSet::Xt,
        S::Atset1 => CodeSet::AtSet1,
        S::Atset2 => CodeSet::AtSet2,
        S::Atset3 => CodeSet::AtSet3,
        S::Osx => CodeSet::OsX,
        S::XtKbd => CodeSet::XtKbd,
        S::Usb => CodeSet::Usb,
        S::Win32 => CodeSet::Win32,
        S::Qnum => CodeSet::Qnum,
    };
    let hold = request.hold.as_ref();
    let hold = hold.map_or(Ok(0), |hold| whole(hold, Unit::Milli, "hold"))?;
    Chord::new(set, &request.codes, Duration::from_millis(hold))
}

/// What a request to configure a guest asks for.
pub(super) enum Configured {
    /// A change of one thing.
    Change(Change),
    /// Other CPUs.
    Vcpus(vcpus::Wanted),
}

/// The change of a configuration.
///
/// # Errors
/// `InvalidArg` if there is none, or a part of it is out of its range.
pub(super) fn change(change: Option<pb::configure_request::Change>) -> Result<Configured> {
    use pb::configure_request::Change as C;
    let cpus = |count, field| match count {
        0 => Err(Error::argument("a guest has at least one CPU").at(field)),
        count => Ok(count),
    };
    let online = |count, hotpluggable| Ok(Configured::Vcpus(vcpus::Wanted::Count { count, hotpluggable }));
    Ok(Configured::Change(match given(change, "change")? {
        C::Vcpus(count) => return online(cpus(count, "vcpus")?, false),
        C::HotpluggableVcpus(count) => return online(cpus(count, "hotpluggable_vcpus")?, true),
        C::VcpuStates(states) if states.vcpus.is_empty() => {
            return Err(Error::argument("no CPU is named").at("vcpu_states.vcpus"));
        }
        C::VcpuStates(states) => {
            let cpus = states.vcpus.into_iter().collect();
            let online = states.online;
            return Ok(Configured::Vcpus(vcpus::Wanted::Each { cpus, online }));
        }
        C::Title(text) => Change::Title(text.value),
        C::Description(text) => Change::Description(text.value),
        C::Metadata(m) => Change::Metadata {
            uri: m.uri,
            key: m.key,
            xml: m.xml,
        },
        C::MemoryKib(kib) => Change::Memory(kib),
        C::MaxMemoryKib(kib) => Change::MaxMemory(kib),
        C::MaxVcpus(count) => Change::MaxVcpus(cpus(count, "max_vcpus")?),
        C::MemoryStatsPeriod(period) => {
            let seconds = whole(&period, Unit::Second, "memory_stats_period")?;
            let seconds = u32::try_from(seconds)
                .map_err(|_| Error::argument("the period is too long").at("memory_stats_period"))?;
            Change::MemoryStatsPeriod(seconds)
        }
        C::Lifecycle(it) => lifecycle(it)?,
    }))
}

/// How long and how a guest's writes are measured.
///
/// # Errors
/// `InvalidArg` for a time that is none, or an unknown mode.
pub(super) fn dirty_rate(request: &pb::MeasureDirtyRateRequest) -> Result<(i64, DirtyMode)> {
    use pb::measure_dirty_rate_request::Mode as M;
    let seconds = signed(given(request.period.as_ref(), "period")?, Unit::Second, "period")?;
    let mode = match known(request.mode, "mode")? {
        M::Unspecified | M::PageSampling => DirtyMode::PageSampling,
        M::DirtyBitmap => DirtyMode::DirtyBitmap,
        M::DirtyRing => DirtyMode::DirtyRing,
    };
    Ok((seconds, mode))
}

fn lifecycle(it: pb::configure_request::Lifecycle) -> Result<Change> {
    use pb::{LifecycleAction as A, LifecycleEvent as E};
    let event = match needed(it.event, "lifecycle.event")? {
        E::Unspecified | E::Poweroff => LifecycleEvent::Poweroff,
        E::Reboot => LifecycleEvent::Reboot,
        E::Crash => LifecycleEvent::Crash,
    };
    let action = match needed(it.action, "lifecycle.action")? {
        A::Unspecified | A::Destroy => LifecycleAction::Destroy,
        A::Restart => LifecycleAction::Restart,
        A::RestartRename => LifecycleAction::RenameRestart,
        A::Preserve => LifecycleAction::Preserve,
        A::CoredumpDestroy => LifecycleAction::CoredumpDestroy,
        A::CoredumpRestart => LifecycleAction::CoredumpRestart,
    };
    Ok(Change::Lifecycle { event, action })
}

/// What a duration is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Second,
    Milli,
    Micro,
    Nano,
}

impl Unit {
    /// How many there are in a second.
    fn per_second(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Milli => 1_000,
            Self::Micro => 1_000_000,
            Self::Nano => 1_000_000_000,
        }
    }
}

/// A duration as a number of whole units, negative or not.
///
/// # Errors
/// `InvalidArg` if it is not whole, too long, or malformed.
pub(super) fn signed(of: &prost_types::Duration, unit: Unit, field: &'static str) -> Result<i64> {
    let refused = |why: &str| Error::argument(format!("{field} {why}")).at(field);
    let (nanos, part) = (i64::from(of.nanos), 1_000_000_000 / unit.per_second());
    if nanos.abs() >= 1_000_000_000 || of.seconds.signum() * nanos.signum() < 0 {
        return Err(refused("is not a duration"));
    }
    if nanos % part != 0 {
        return Err(refused("is not a whole number of its unit"));
    }
    let units = of.seconds.checked_mul(unit.per_second());
    units
        .and_then(|units| units.checked_add(nanos / part))
        .ok_or_else(|| refused("is too long"))
}

/// A duration as a number of whole units, not negative.
///
/// # Errors
/// As [`signed`], and if it is negative.
pub(super) fn whole(of: &prost_types::Duration, unit: Unit, field: &'static str) -> Result<u64> {
    u64::try_from(signed(of, unit, field)?)
        .map_err(|_| Error::argument(format!("{field} is negative")).at(field))
}

/// A duration, to the nanosecond.
///
/// # Errors
/// `InvalidArg` if it is negative or malformed.
pub(super) fn duration(of: &prost_types::Duration, field: &'static str) -> Result<Duration> {
    Duration::try_from(*of)
        .map_err(|_| Error::argument(format!("{field} is negative or not a duration")).at(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().field.unwrap_or_default().into_owned()
    }

    #[test]
    fn a_choice_that_is_needed_is_refused_when_it_is_not_set_or_unknown() {
        assert_eq!(field(scope(0)), "scope");
        assert_eq!(field(scope(77)), "scope");
        assert_eq!(field(modes(&[1, 0])), "modes");
        assert_eq!(field(run_states(&[99])), "filter.states");
        let it = |event, action| pb::configure_request::Lifecycle { event, action };
        for (part, at) in [
            (it(0, 0), "lifecycle.event"),
            (it(1, 0), "lifecycle.action"),
            (it(1, 99), "lifecycle.action"),
            (it(9, 1), "lifecycle.event"),
        ] {
            assert_eq!(field(lifecycle(part)), at, "{part:?}");
        }
    }

    #[test]
    fn a_reader_gets_the_current_configuration_and_never_both() {
        assert_eq!(read_scope(0).unwrap(), Scope::Current);
        assert_eq!(read_scope(pb::Scope::Config.into()).unwrap(), Scope::Config);
        assert_eq!(field(read_scope(pb::Scope::LiveAndConfig.into())), "scope");
        assert_eq!(field(read_scope(-1)), "scope");
    }

    #[test]
    fn a_reference_to_a_guest_is_complete() {
        use pb::domain_ref::Ref;
        let of = |r#ref| target(Some(&pb::DomainRef { r#ref }));
        assert_eq!(field(of(None)), "domain");
        assert_eq!(field(target(None)), "domain");
        assert_eq!(field(of(Some(Ref::Id(0)))), "domain.id");
        assert_eq!(field(of(Some(Ref::Uuid("x".into())))), "domain.uuid");
        assert_eq!(of(Some(Ref::Id(7))).unwrap(), Target::Id(7));
    }

    #[test]
    fn durations_are_counted_in_whole_units() {
        let of = |seconds, nanos| prost_types::Duration { seconds, nanos };
        assert_eq!(signed(&of(1, 500_000_000), Unit::Milli, "x").unwrap(), 1_500);
        assert_eq!(signed(&of(0, -1_000), Unit::Micro, "x").unwrap(), -1);
        assert_eq!(whole(&of(70, 0), Unit::Second, "x").unwrap(), 70);
        for (bad, unit) in [
            (of(0, 1), Unit::Second),
            (of(1, -5), Unit::Micro),
            (of(0, 1_000_000_000), Unit::Second),
            (of(i64::MAX, 0), Unit::Micro),
        ] {
            assert_eq!(field(signed(&bad, unit, "x")), "x", "{bad:?}");
        }
        assert_eq!(field(whole(&of(-1, 0), Unit::Second, "x")), "x");
    }
}
