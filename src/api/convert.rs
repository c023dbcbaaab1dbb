//! From the types of the daemon to the messages of answers.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::{
    domain::{Condition, Domain, Either, RunState, View},
    error::Result,
    ops::document::scope::Scope,
    pb,
};

/// State and reason of the protocol.
pub(super) fn state(condition: Condition) -> (pb::State, pb::StateReason) {
    let state = pb::State::try_from(condition.state_number()).unwrap_or_default();
    let reason = pb::StateReason::try_from(condition.state_number() * 100 + condition.reason_number())
        .unwrap_or_default();
    (state, reason)
}

/// Who and in what state.
pub(super) fn basic(view: &Arc<View>) -> pb::Domain {
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
pub(super) fn encoded(view: &Arc<View>) -> Bytes {
    view.encoded
        .get_or_init(|| basic(view).encode_to_vec().into())
        .clone()
}

/// Everything but the document.
pub(super) fn full(view: &Arc<View>) -> pb::Domain {
    full_of(view, view.current())
}

/// Everything but the document, with the sizes of that one.
fn full_of(view: &Arc<View>, document: Option<Either<'_>>) -> pb::Domain {
    let mut message = basic(view);
    message.version = Some(view.version.into());
    message.persistent = view.config.is_some();
    message.autostart = view.autostart;
    message.autostart_once = view.autostart_once;
    message.managed_save = view.managed_save;
    message.updated = match (&view.config, &view.run) {
        (Some(config), Some(run)) => run
            .launched
            .config
            .as_ref()
            .is_some_and(|started| !Arc::ptr_eq(started, config)),
        _ => false,
    };
    if let Some(document) = document {
        describe(&mut message, document, view);
    }
    if let Some(run) = &view.run {
        message.cpu_time = Some(nanoseconds(
            crate::ops::host::proc::cpu_time(run).map_or(0, |t| t.total_ns),
        ));
        message.degraded = run.seen.degraded.as_deref().unwrap_or_default().to_owned();
        message.unreachable = run.seen.unreachable.is_some();
        message.unreachable_cause = run.seen.unreachable.as_deref().unwrap_or_default().to_owned();
        message.taints = run.taints.iter().map(|t| (*t).to_owned()).collect();
        message.deprecations = run.deprecations.iter().map(|d| d.to_string()).collect();
        message.control = Some(control(run));
        message.dac_label = run.launched.label.as_deref().unwrap_or_default().to_owned();
    }
    message
}

fn describe(message: &mut pb::Domain, document: Either<'_>, view: &View) {
    let facts = document.facts();
    message.max_memory_kib = facts.memory_kib;
    let of_run = view.run.as_ref().filter(|_| document.is_live());
    message.memory_kib = of_run
        .and_then(|r| r.seen.balloon_kib)
        .unwrap_or(facts.current_memory_kib);
    message.vcpus = facts.vcpus;
    message.max_vcpus = facts.max_vcpus;
    message.os_type = facts.os_type.to_string();
    message.title = facts.title.as_deref().unwrap_or_default().to_owned();
    message.description = facts.description.as_deref().unwrap_or_default().to_owned();
    message.memory_limits = facts.memory_tuning.map(|tune| pb::MemoryLimits {
        hard_limit_kib: tune.hard_limit.map(|kib| kib.0),
        soft_limit_kib: tune.soft_limit.map(|kib| kib.0),
        swap_hard_limit_kib: tune.swap_hard_limit.map(|kib| kib.0),
    });
}

fn control(run: &crate::domain::Run) -> pb::Control {
    use pb::control::{Cause, State};
    let (state, cause) = match (&run.seen.unreachable, run.seen.occupied_since) {
        (Some(_), _) => (State::Error, Cause::Monitor),
        (None, Some(_)) => (State::Occupied, Cause::Unspecified),
        (None, None) => (State::Ok, Cause::Unspecified),
    };
    pb::Control {
        state: state.into(),
        cause: cause.into(),
        since: run.seen.occupied_since.map(|since| duration(since.elapsed())),
    }
}

/// A span of time.
pub(super) fn duration(of: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0),
    }
}

/// A span of time that is counted in nanoseconds.
pub(super) fn nanoseconds(count: u64) -> prost_types::Duration {
    duration(std::time::Duration::from_nanos(count))
}

/// A span of time, negative or not, that is counted in microseconds.
pub(super) fn microseconds(count: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: count / 1_000_000,
        nanos: i32::try_from(count % 1_000_000).unwrap_or(0) * 1_000,
    }
}

/// A guest in the view that was asked for.
///
/// # Errors
/// `OperationInvalid` if it has no configuration of that scope.
pub(super) fn domain(domain: &Domain, view: pb::View, scope: Scope) -> Result<pb::Domain> {
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

/// Which guests are wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    filter: pb::Filter,
    states: Vec<RunState>,
}

impl Wanted {
    /// The filter of a request.
    ///
    /// # Errors
    /// `InvalidArg` if a state is not set or unknown.
    pub(super) fn of(filter: Option<&pb::Filter>) -> Result<Self> {
        let filter = filter.cloned().unwrap_or_default();
        let states = super::decode::run_states(&filter.states)?;
        Ok(Self { filter, states })
    }

    /// Whether the guest is wanted.
    pub(super) fn passes(&self, view: &View) -> bool {
        let (filter, is) = (&self.filter, |wanted: Option<bool>, value: bool| {
            wanted.is_none_or(|w| w == value)
        });
        is(filter.active, view.active())
            && is(filter.persistent, view.config.is_some())
            && is(filter.autostart, view.autostart)
            && is(filter.managed_save, view.managed_save)
            && is(filter.snapshot, !view.snapshots.is_empty())
            && is(filter.checkpoint, !view.checkpoints.is_empty())
            && (self.states.is_empty() || self.states.contains(&view.condition.state()))
    }
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
