//! Between the messages of the protocol and the types of the daemon.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::{
    domain::{Condition, Domain, Either, RunState, View},
    error::{Error, Result},
    ops::{
        Conditions, Driver, Target, change::configure::Change, document::scope::Scope, run::power::Mode,
        tuning,
    },
    pb,
};

/// The guest that a request names.
///
/// # Errors
/// `InvalidArg` if it names none, `NoDomain` if there is no such guest.
pub fn find(driver: &Driver, domain: Option<pb::DomainRef>) -> Result<Domain> {
    driver.find(&target(domain)?)
}

/// The name of a guest in a request.
///
/// # Errors
/// `InvalidArg`.
pub fn target(domain: Option<pb::DomainRef>) -> Result<Target> {
    match domain.and_then(|d| d.r#ref) {
        Some(pb::domain_ref::Ref::Uuid(text)) => {
            Ok(Target::Uuid(Uuid::parse_str(&text).map_err(|_| {
                Error::argument(format!("'{text}' is not a UUID"))
            })?))
        }
        Some(pb::domain_ref::Ref::Name(name)) => Ok(Target::Name(name)),
        Some(pb::domain_ref::Ref::Id(id)) => Ok(Target::Id(id)),
        None => Err(Error::argument("the request names no domain")),
    }
}

/// What a mutation asks to hold and whether it is only a trial.
pub fn conditions(options: Option<&pb::MutationOptions>) -> Conditions {
    let etag = options.map(|o| o.etag.clone()).filter(|e| !e.is_empty());
    Conditions {
        etag,
        trial: options.is_some_and(|o| o.validate_only),
    }
}

/// State and reason of the protocol.
pub fn state(condition: Condition) -> (pb::State, pb::StateReason) {
    let state = pb::State::try_from(condition.state_number()).unwrap_or_default();
    let reason = pb::StateReason::try_from(condition.state_number() * 100 + condition.reason_number())
        .unwrap_or_default();
    (state, reason)
}

/// A state of the daemon.
pub fn run_state(state: pb::State) -> Option<RunState> {
    match state {
        pb::State::Running | pb::State::Blocked => Some(RunState::Running),
        pb::State::Paused => Some(RunState::Paused),
        pb::State::Shutdown => Some(RunState::Shutdown),
        pb::State::Shutoff => Some(RunState::Shutoff),
        pb::State::Crashed => Some(RunState::Crashed),
        pb::State::Pmsuspended => Some(RunState::PmSuspended),
        pb::State::Unspecified => None,
    }
}

/// Who and in what state.
pub fn basic(view: &Arc<View>) -> pb::Domain {
    let (state, reason) = state(view.condition);
    pb::Domain {
        uuid: view.uuid.to_string(),
        name: view.name.to_string(),
        id: view.id(),
        state: state.into(),
        reason: reason.into(),
        etag: view.etag(),
        ..Default::default()
    }
}

/// The same, encoded once a view.
pub fn encoded(view: &Arc<View>) -> Bytes {
    view.encoded
        .get_or_init(|| basic(view).encode_to_vec().into())
        .clone()
}

/// Everything but the document.
pub fn full(view: &Arc<View>) -> pb::Domain {
    full_of(view, view.current())
}

/// Everything but the document, with the sizes of that one.
fn full_of(view: &Arc<View>, document: Option<Either<'_>>) -> pb::Domain {
    let mut message = basic(view);
    message.version = Some(view.version.into());
    message.persistent = view.config.is_some();
    message.autostart = view.autostart;
    message.managed_save = view.managed_save;
    message.updated = match (&view.config, &view.run) {
        (Some(config), Some(run)) => run
            .config
            .as_ref()
            .is_some_and(|started| !Arc::ptr_eq(started, config)),
        _ => false,
    };
    if let Some(document) = document {
        describe(&mut message, document, view);
    }
    if let Some(run) = &view.run {
        message.cpu_time_ns = crate::ops::host::proc::cpu_time(run).map_or(0, |t| t.total_ns);
        message.unreachable = run.unreachable.is_some();
        message.unreachable_cause = run.unreachable.as_deref().unwrap_or_default().to_owned();
        message.taints = run.taints.iter().map(|t| (*t).to_owned()).collect();
        message.deprecations = run.deprecations.iter().map(|d| d.to_string()).collect();
        message.control = Some(control(run));
        message.dac_label = run.label.as_deref().unwrap_or_default().to_owned();
    }
    message
}

fn describe(message: &mut pb::Domain, document: Either<'_>, view: &View) {
    let facts = document.facts();
    message.max_memory_kib = facts.memory_kib;
    let of_run = view.run.as_ref().filter(|_| document.is_live());
    message.memory_kib = of_run
        .and_then(|r| r.balloon_kib)
        .unwrap_or(facts.current_memory_kib);
    message.vcpus = facts.vcpus;
    message.max_vcpus = facts.max_vcpus;
    message.os_type = facts.os_type.to_string();
    message.title = facts.title.as_deref().unwrap_or_default().to_owned();
    message.description = facts.description.as_deref().unwrap_or_default().to_owned();
    message.memory_tuning = facts
        .memory_tuning
        .map(|tune| pb::configure_request::MemoryTuning {
            hard_limit_kib: tune.hard_limit.map(|kib| kib.0),
            soft_limit_kib: tune.soft_limit.map(|kib| kib.0),
            swap_hard_limit_kib: tune.swap_hard_limit.map(|kib| kib.0),
        });
}

fn control(run: &crate::domain::Run) -> pb::Control {
    use pb::control::State;
    let (state, details) = match (&run.unreachable, run.occupied_since) {
        // libvirt's number for "the monitor is broken".
        (Some(_), _) => (State::Error, 2),
        (None, Some(_)) => (State::Occupied, 0),
        (None, None) => (State::Ok, 0),
    };
    let since = run.occupied_since.map_or(0, |since| {
        u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
    });
    pb::Control {
        state: state.into(),
        details,
        since_ms: since,
    }
}

/// A guest in the view that was asked for.
///
/// # Errors
/// `OperationInvalid` if it has no configuration of that scope.
pub fn domain(domain: &Domain, view: pb::View, scope: Scope) -> Result<pb::Domain> {
    let newest = domain.view();
    Ok(match view {
        pb::View::Full => {
            let document = crate::ops::document::scope::read(&newest, scope)?;
            let mut message = full_of(&newest, Some(document));
            if let Some(control) = message
                .control
                .as_mut()
                .filter(|c| domain.busy() && c.state() == pb::control::State::Ok)
            {
                control.state = pb::control::State::Job.into();
            }
            message
        }
        pb::View::Basic | pb::View::Unspecified => basic(&newest),
    })
}

/// Whether the filter lets the guest through.
pub fn passes(filter: &pb::Filter, view: &View) -> bool {
    let is = |wanted: Option<bool>, value: bool| wanted.is_none_or(|w| w == value);
    is(filter.active, view.active())
        && is(filter.persistent, view.config.is_some())
        && is(filter.autostart, view.autostart)
        && is(filter.managed_save, view.managed_save)
        // Nothing that this daemon serves makes one of these two yet.
        && is(filter.snapshot, false)
        && is(filter.checkpoint, false)
        && (filter.states.is_empty() || filter.states().filter_map(run_state).any(|s| s == view.condition.state()))
}

/// How to ask a guest.
pub fn modes(modes: &[i32]) -> Vec<Mode> {
    let mode = |m: &i32| match pb::PowerMode::try_from(*m).unwrap_or_default() {
        pb::PowerMode::Unspecified => Mode::Any,
        pb::PowerMode::Acpi => Mode::Acpi,
        pb::PowerMode::Agent => Mode::Agent,
        pb::PowerMode::Initctl => Mode::Other("initctl"),
        pb::PowerMode::Signal => Mode::Other("signal"),
        pb::PowerMode::Paravirt => Mode::Other("paravirt"),
    };
    modes.iter().map(mode).collect()
}

/// Which configuration.
pub fn scope(scope: pb::Scope) -> Scope {
    match scope {
        pb::Scope::Current => Scope::Current,
        pb::Scope::Live => Scope::Live,
        pb::Scope::Config => Scope::Config,
        pb::Scope::LiveAndConfig => Scope::Both,
    }
}

/// What to change.
///
/// # Errors
/// `InvalidArg` if the request has no change.
pub fn change(change: Option<pb::configure_request::Change>) -> Result<Change> {
    use pb::configure_request::Change as C;
    Ok(
        match change.ok_or_else(|| Error::argument("the request has no change"))? {
            C::Title(text) => Change::Title(text.value),
            C::Description(text) => Change::Description(text.value),
            C::Metadata(m) => Change::Metadata {
                uri: m.uri,
                key: m.key,
                xml: m.xml,
            },
            C::MemoryKib(kib) => Change::Memory(kib),
            C::MaxMemoryKib(kib) => Change::MaxMemory(kib),
            C::Vcpus(n) => Change::Vcpus(n),
            C::MaxVcpus(n) => Change::MaxVcpus(n),
            C::MemoryStatsPeriod(seconds) => Change::MemoryStatsPeriod(seconds),
            C::Lifecycle(l) => Change::Lifecycle {
                event: l.event(),
                action: l.action(),
            },
            C::MemoryTuning(t) => Change::Tuning(tuning::Change::Memory(tuning::memory::Limits {
                hard: t.hard_limit_kib,
                soft: t.soft_limit_kib,
                swap_hard: t.swap_hard_limit_kib,
            })),
        },
    )
}

/// Interfaces with their addresses.
pub(super) fn interfaces(
    found: Vec<crate::ops::inspect::addresses::Addresses>,
) -> Vec<pb::InterfaceAddresses> {
    let address = |(address, prefix)| pb::interface_addresses::Address { address, prefix };
    let interface = |found: crate::ops::inspect::addresses::Addresses| pb::InterfaceAddresses {
        name: found.name,
        mac: found.mac.unwrap_or_default(),
        addresses: found.addresses.into_iter().map(address).collect(),
    };
    found.into_iter().map(interface).collect()
}
