//! Events as messages: libvirt's numbers become the contract's words.
//!
//! The contract numbers most of its words one higher than libvirt, so that its zero stays free for "not known"; the
//! tests hold its words against libvirt's numbers.

use crate::{
    events::model::{self, event::Detail as Kept},
    pb::{self, event as shown, event::Detail},
};

/// The event as watches get it.
pub(super) fn shown(event: &model::Event) -> pb::Event {
    pb::Event {
        version: event.version,
        time: event.time,
        uuid: event.uuid.clone(),
        name: event.name.clone(),
        id: event.id,
        kind: event.kind,
        detail: event.detail.as_ref().and_then(detail),
    }
}

/// A word of an enum whose numbers are libvirt's plus one; its zero for a number that has no word.
fn word<E: TryFrom<i32> + Default + Into<i32>>(number: i32) -> i32 {
    let word = number.checked_add(1).and_then(|number| E::try_from(number).ok());
    word.unwrap_or_default().into()
}

// table: one arm a kind
fn detail(of: &Kept) -> Option<Detail> {
    Some(match of {
        Kept::Lifecycle(it) => Detail::Lifecycle(lifecycle(it)),
        Kept::RtcChange(it) => Detail::RtcChange(shown::RtcChange {
            offset: Some(prost_types::Duration {
                seconds: it.offset,
                nanos: 0,
            }),
        }),
        Kept::Watchdog(it) => Detail::Watchdog(shown::Watchdog {
            action: word::<shown::watchdog::Action>(it.action),
        }),
        Kept::IoError(it) => Detail::IoError(shown::IoError {
            path: it.path.clone(),
            device: it.device.clone(),
            action: word::<shown::io_error::Action>(it.action),
            reason: it.reason.clone(),
        }),
        Kept::Graphics(it) => Detail::Graphics(graphics(it)),
        Kept::TrayChange(it) => Detail::TrayChange(shown::TrayChange {
            alias: it.alias.clone(),
            reason: word::<shown::tray_change::Reason>(it.reason),
        }),
        Kept::BalloonChange(it) => Detail::BalloonChange(shown::BalloonChange {
            actual_kib: it.actual,
        }),
        Kept::Device(it) => Detail::Device(shown::DeviceChange {
            alias: it.alias.clone(),
        }),
        Kept::AgentLifecycle(it) => Detail::AgentLifecycle(shown::AgentLifecycle {
            state: shown::agent_lifecycle::State::try_from(it.state)
                .unwrap_or_default()
                .into(),
            reason: word::<shown::agent_lifecycle::Reason>(it.reason),
        }),
        Kept::MetadataChange(it) => Detail::MetadataChange(shown::MetadataChange {
            r#type: word::<shown::metadata_change::Type>(it.r#type),
            uri: it.uri.clone(),
        }),
        Kept::Monitor(it) => Detail::Monitor(monitor(it)),
        // libvirt's reason is always the same.
        Kept::PmReason(_) => return None,
        Kept::BlockJob(it) => Detail::BlockJob(shown::BlockJob {
            path: it.path.clone(),
            target: it.target.clone(),
            r#type: word::<shown::block_job::Type>(it.r#type),
            status: word::<shown::block_job::Status>(it.status),
        }),
        Kept::BlockThreshold(it) => Detail::BlockThreshold(shown::BlockThreshold {
            target: it.target.clone(),
            path: it.path.clone(),
            threshold: it.threshold,
            excess: it.excess,
        }),
        Kept::NicMacChange(it) => Detail::NicMacChange(shown::NicMacChange {
            alias: it.alias.clone(),
            old_mac: it.old_mac.clone(),
            new_mac: it.new_mac.clone(),
        }),
        Kept::MemoryDeviceSizeChange(it) => Detail::MemoryDeviceSizeChange(shown::MemoryDeviceSizeChange {
            alias: it.alias.clone(),
            size_kib: it.size_kib,
        }),
        Kept::MemoryFailure(it) => Detail::MemoryFailure(shown::MemoryFailure {
            recipient: word::<shown::memory_failure::Recipient>(it.recipient),
            action: word::<shown::memory_failure::Action>(it.action),
            action_required: it.flags & 1 != 0,
            recursive: it.flags & 2 != 0,
        }),
        Kept::DiskChange(it) => Detail::DiskChange(shown::DiskChange {
            old_path: it.old_path.clone(),
            new_path: it.new_path.clone(),
            alias: it.alias.clone(),
            reason: word::<shown::disk_change::Reason>(it.reason),
        }),
        Kept::Job(it) => Detail::Job(super::jobs::of_journal(it)),
        Kept::MigrationIteration(iteration) => Detail::MigrationIteration(shown::MigrationIteration {
            iteration: *iteration,
        }),
        Kept::Moment(it) => Detail::Moment(shown::MomentChange {
            r#type: it.r#type,
            name: it.name.clone(),
            parent: it.parent.clone(),
            current: it.current,
        }),
        Kept::Tunable(it) => Detail::Tunable(shown::Tunable {
            values: it.values.iter().map(tunable).collect(),
        }),
    })
}

fn lifecycle(it: &model::event::Lifecycle) -> shown::Lifecycle {
    use shown::lifecycle::{Detail, Type};
    let number = it
        .r#type
        .checked_add(1)
        .and_then(|number| number.checked_mul(100)?.checked_add(it.detail));
    let detail = number.and_then(|number| Detail::try_from(number).ok());
    shown::Lifecycle {
        r#type: word::<Type>(it.r#type),
        detail: detail.unwrap_or_default().into(),
        state: it.state,
        reason: it.reason,
        gone: it.gone,
    }
}

fn graphics(it: &model::event::Graphics) -> shown::Graphics {
    use shown::graphics::{Address, Identity, Phase, address::Family};
    let address = |it: &model::event::graphics::Address| Address {
        family: word::<Family>(it.family),
        node: it.node.clone(),
        service: it.service.clone(),
    };
    let identity = |it: &model::event::graphics::Identity| Identity {
        r#type: it.r#type.clone(),
        name: it.name.clone(),
    };
    shown::Graphics {
        phase: word::<Phase>(it.phase),
        local: it.local.as_ref().map(address),
        remote: it.remote.as_ref().map(address),
        auth_scheme: it.auth_scheme.clone(),
        subject: it.subject.iter().map(identity).collect(),
    }
}

fn monitor(it: &model::event::Monitor) -> shown::Monitor {
    let nanos = it.microseconds.checked_mul(1_000);
    shown::Monitor {
        event: it.event.clone(),
        time: Some(prost_types::Timestamp {
            seconds: it.seconds,
            nanos: nanos.and_then(|nanos| i32::try_from(nanos).ok()).unwrap_or(0),
        }),
        details: it.details.clone(),
    }
}

fn tunable(it: &model::event::tunable::Value) -> shown::tunable::Value {
    use model::event::tunable::value::Value as Kept;
    use shown::tunable::value::Value;
    let value = it.value.as_ref().map(|value| match value {
        Kept::Text(text) => Value::Text(text.clone()),
        Kept::Unsigned(number) => Value::Unsigned(*number),
        Kept::Signed(number) => Value::Signed(*number),
    });
    shown::tunable::Value {
        name: it.name.clone(),
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a lifecycle event by libvirt's numbers.
    fn words(kind: i32, number: i32) -> (&'static str, &'static str) {
        let it = lifecycle(&crate::events::lifecycle(kind, number));
        (it.r#type().as_str_name(), it.detail().as_str_name())
    }

    #[test]
    fn a_lifecycle_event_has_words() {
        for (numbers, expected) in [
            ((0, 0), ("TYPE_DEFINED", "DETAIL_DEFINED_ADDED")),
            ((1, 1), ("TYPE_UNDEFINED", "DETAIL_UNDEFINED_RENAMED")),
            ((2, 0), ("TYPE_STARTED", "DETAIL_STARTED_BOOTED")),
            ((3, 2), ("TYPE_SUSPENDED", "DETAIL_SUSPENDED_IOERROR")),
            ((5, 1), ("TYPE_STOPPED", "DETAIL_STOPPED_DESTROYED")),
            ((6, 2), ("TYPE_SHUTDOWN", "DETAIL_SHUTDOWN_HOST")),
            ((8, 0), ("TYPE_CRASHED", "DETAIL_CRASHED_PANICKED")),
            ((2, 77), ("TYPE_STARTED", "DETAIL_UNSPECIFIED")),
            ((99, 0), ("TYPE_UNSPECIFIED", "DETAIL_UNSPECIFIED")),
        ] {
            assert_eq!(words(numbers.0, numbers.1), expected);
        }
    }

    #[test]
    fn words_are_one_above_libvirts_numbers() {
        use shown::{tray_change::Reason, watchdog::Action};
        assert_eq!(word::<Reason>(0), Reason::Open as i32);
        assert_eq!(word::<Action>(6), Action::InjectNmi as i32);
        assert_eq!(word::<Action>(i32::MAX), 0);
    }
}
