//! An event of the service as libvirt's messages. Pure.

use wire::Procedure;
use wire::frame::{EVENT_SERIAL, Header, PacketType, Status, put_packet};
use wire::qemu::DomainMonitorEvent;
use wire::remote::*;
use wire::typed::TypedParam;
use wire::xdr::Text;

use super::registration::{Registration, Style};
use crate::jobs;
use crate::proto::event::{self, Detail};
use crate::proto::{Event, EventKind};

/// Highest event id that the legacy registration knows.
pub(crate) const LEGACY_ID_MAX: i32 = 15;
/// Highest event id there is.
pub(crate) const ID_MAX: i32 = 27;

/// libvirt's event ids that some kinds have beside their own number less one.
const IO_ERROR_REASON: i32 = 7;
const BLOCK_JOB_2: i32 = 16;

/// The service numbers details of lifecycle events by the event's number times this, plus libvirt's.
const DETAILS: i32 = 100;
/// libvirt's reason of events of power management: there is one.
const NO_REASON: i32 = 0;

/// libvirt's number of a word: the service counts from 1.
fn libvirts(word: i32) -> i32 {
    word - 1
}

/// The packet that `event` makes for `registration`, if it is of its kind.
pub(crate) fn packet(event: &Event, registration: &Registration) -> Option<Vec<u8>> {
    let kind = event.kind();
    let own = kind as i32 - 1;
    let also = match kind {
        EventKind::IoError => IO_ERROR_REASON,
        EventKind::BlockJob => BLOCK_JOB_2,
        _ => own,
    };
    if registration.event != own && registration.event != also {
        return None;
    }
    match registration.style {
        Style::Legacy => legacy(event, registration.event, None),
        Style::Callback(id) if registration.event <= LEGACY_ID_MAX => {
            legacy(event, registration.event, Some(id))
        }
        Style::Callback(id) => modern(event, registration.event, id),
    }
}

/// The packet of one of QEMU's own events for registration `id`.
pub(crate) fn monitor_packet(id: i32, event: &Event, monitor: &event::Monitor) -> Option<Vec<u8>> {
    let at = monitor.time.unwrap_or_default();
    encode(&DomainMonitorEvent {
        callback_id: id,
        dom: domain(event),
        event: monitor.event.as_str().into(),
        seconds: at.seconds,
        micros: u32::try_from(at.nanos / 1_000).unwrap_or(0),
        details: (!monitor.details.is_empty()).then(|| monitor.details.as_str().into()),
    })
}

fn encode<P: Procedure>(message: &P) -> Option<Vec<u8>> {
    let header = Header {
        program: P::INFO.program,
        version: 1,
        procedure: P::INFO.number,
        r#type: PacketType::MESSAGE,
        serial: EVENT_SERIAL,
        status: Status::OK,
    };
    let mut out = Vec::with_capacity(128);
    put_packet(&mut out, &header, |out| message.encode(out)).ok()?;
    Some(out)
}

fn domain(event: &Event) -> NonnullDomain {
    NonnullDomain {
        name: event.name.as_str().into(),
        uuid: event.uuid.parse().unwrap_or_default(),
        id: if event.id > 0 { event.id } else { -1 },
    }
}

fn some(text: &str) -> Option<Text> {
    (!text.is_empty()).then(|| text.into())
}

/// Sends `$message` as it is, or within `$with`, which begins with the id.
macro_rules! either {
    ($id:expr, $message:expr, $with:ident $(, $field:ident = $value:expr)?) => {
        match $id {
            None => encode(&$message),
            Some(callback_id) => encode(&$with { callback_id, $($field: $value,)? msg: $message }),
        }
    };
}

/// An event of those that have both a legacy message and one with an id around it.
// table: one arm an event
fn legacy(event: &Event, number: i32, id: Option<i32>) -> Option<Vec<u8>> {
    let dom = domain(event);
    match (event.kind(), event.detail.as_ref()) {
        (EventKind::Lifecycle, Some(Detail::Lifecycle(it))) => {
            either!(
                id,
                DomainEventLifecycle {
                    dom,
                    event: libvirts(it.r#type),
                    detail: it.detail % DETAILS
                },
                DomainEventCallbackLifecycle
            )
        }
        (EventKind::Reboot, _) => either!(id, DomainEventReboot { dom }, DomainEventCallbackReboot),
        (EventKind::RtcChange, Some(Detail::RtcChange(it))) => {
            either!(
                id,
                DomainEventRtcChange {
                    dom,
                    offset: it.offset.map_or(0, |offset| offset.seconds)
                },
                DomainEventCallbackRtcChange
            )
        }
        (EventKind::Watchdog, Some(Detail::Watchdog(it))) => {
            either!(
                id,
                DomainEventWatchdog {
                    dom,
                    action: libvirts(it.action)
                },
                DomainEventCallbackWatchdog
            )
        }
        (EventKind::IoError, Some(Detail::IoError(it))) => io_error(dom, it, number, id),
        (EventKind::Graphics, Some(Detail::Graphics(it))) => {
            either!(id, graphics(dom, it), DomainEventCallbackGraphics)
        }
        (EventKind::ControlError, _) => {
            either!(
                id,
                DomainEventControlError { dom },
                DomainEventCallbackControlError
            )
        }
        (EventKind::BlockJob, Some(Detail::BlockJob(it))) => either!(
            id,
            DomainEventBlockJob {
                dom,
                path: it.path.as_str().into(),
                r#type: libvirts(it.r#type),
                status: libvirts(it.status)
            },
            DomainEventCallbackBlockJob
        ),
        (EventKind::DiskChange, Some(Detail::DiskChange(it))) => {
            either!(id, disk_change(dom, it), DomainEventCallbackDiskChange)
        }
        (EventKind::TrayChange, Some(Detail::TrayChange(it))) => either!(
            id,
            DomainEventTrayChange {
                dom,
                dev_alias: it.alias.as_str().into(),
                reason: libvirts(it.reason)
            },
            DomainEventCallbackTrayChange
        ),
        (EventKind::BalloonChange, Some(Detail::BalloonChange(it))) => {
            either!(
                id,
                DomainEventBalloonChange {
                    dom,
                    actual: it.actual_kib
                },
                DomainEventCallbackBalloonChange
            )
        }
        (EventKind::DeviceRemoved, Some(Detail::Device(it))) => {
            either!(
                id,
                DomainEventDeviceRemoved {
                    dom,
                    dev_alias: it.alias.as_str().into()
                },
                DomainEventCallbackDeviceRemoved
            )
        }
        (kind, _) => power(kind, dom, id),
    }
}

fn power(kind: EventKind, dom: NonnullDomain, id: Option<i32>) -> Option<Vec<u8>> {
    match kind {
        EventKind::PmWakeup => {
            either!(
                id,
                DomainEventPmwakeup { dom },
                DomainEventCallbackPmwakeup,
                reason = NO_REASON
            )
        }
        EventKind::PmSuspend => {
            either!(
                id,
                DomainEventPmsuspend { dom },
                DomainEventCallbackPmsuspend,
                reason = NO_REASON
            )
        }
        EventKind::PmSuspendDisk => {
            either!(
                id,
                DomainEventPmsuspendDisk { dom },
                DomainEventCallbackPmsuspendDisk,
                reason = NO_REASON
            )
        }
        _ => None,
    }
}

fn io_error(dom: NonnullDomain, it: &event::IoError, number: i32, id: Option<i32>) -> Option<Vec<u8>> {
    let (src_path, dev_alias, action) = (
        it.path.as_str().into(),
        it.device.as_str().into(),
        libvirts(it.action),
    );
    if number == IO_ERROR_REASON {
        let reason = it.reason.as_str().into();
        return either!(
            id,
            DomainEventIoErrorReason {
                dom,
                src_path,
                dev_alias,
                action,
                reason
            },
            DomainEventCallbackIoErrorReason
        );
    }
    either!(
        id,
        DomainEventIoError {
            dom,
            src_path,
            dev_alias,
            action
        },
        DomainEventCallbackIoError
    )
}

fn graphics(dom: NonnullDomain, it: &event::Graphics) -> DomainEventGraphics {
    let address = |address: Option<&event::graphics::Address>| {
        address.map_or_else(DomainEventGraphicsAddress::default, |it| {
            DomainEventGraphicsAddress {
                family: libvirts(it.family),
                node: it.node.as_str().into(),
                service: it.service.as_str().into(),
            }
        })
    };
    let identity = |it: &event::graphics::Identity| DomainEventGraphicsIdentity {
        r#type: it.r#type.as_str().into(),
        name: it.name.as_str().into(),
    };
    DomainEventGraphics {
        dom,
        phase: libvirts(it.phase),
        local: address(it.local.as_ref()),
        remote: address(it.remote.as_ref()),
        auth_scheme: it.auth_scheme.as_str().into(),
        subject: it.subject.iter().map(identity).collect(),
    }
}

fn disk_change(dom: NonnullDomain, it: &event::DiskChange) -> DomainEventDiskChange {
    DomainEventDiskChange {
        dom,
        old_src_path: some(&it.old_path),
        new_src_path: some(&it.new_path),
        dev_alias: it.alias.as_str().into(),
        reason: libvirts(it.reason),
    }
}

fn tunable(it: &event::tunable::Value) -> Option<TypedParam> {
    use event::tunable::value::Value;
    Some(match it.value.as_ref()? {
        Value::Text(text) => TypedParam::new(it.name.as_str(), text.as_str()),
        Value::Unsigned(number) => TypedParam::new(it.name.as_str(), *number),
        Value::Signed(number) => TypedParam::new(it.name.as_str(), *number),
    })
}

/// An event of those that came after libvirt gave every registration an id.
// table: one arm an event
fn modern(event: &Event, number: i32, callback_id: i32) -> Option<Vec<u8>> {
    let dom = domain(event);
    match (event.kind(), event.detail.as_ref()?) {
        (EventKind::BlockJob, Detail::BlockJob(it)) if number == BLOCK_JOB_2 => {
            encode(&DomainEventBlockJob2 {
                callback_id,
                dom,
                dst: it.target.as_str().into(),
                r#type: libvirts(it.r#type),
                status: libvirts(it.status),
            })
        }
        (EventKind::AgentLifecycle, Detail::AgentLifecycle(it)) => {
            encode(&DomainEventCallbackAgentLifecycle {
                callback_id,
                dom,
                state: it.state,
                reason: libvirts(it.reason),
            })
        }
        (EventKind::DeviceAdded, Detail::Device(it)) => encode(&DomainEventCallbackDeviceAdded {
            callback_id,
            dom,
            dev_alias: it.alias.as_str().into(),
        }),
        (EventKind::DeviceRemovalFailed, Detail::Device(it)) => {
            encode(&DomainEventCallbackDeviceRemovalFailed {
                callback_id,
                dom,
                dev_alias: it.alias.as_str().into(),
            })
        }
        (EventKind::MetadataChange, Detail::MetadataChange(it)) => {
            encode(&DomainEventCallbackMetadataChange {
                callback_id,
                dom,
                r#type: libvirts(it.r#type),
                nsuri: some(&it.uri),
            })
        }
        (EventKind::Tunable, Detail::Tunable(it)) => encode(&DomainEventCallbackTunable {
            callback_id,
            dom,
            params: it.values.iter().filter_map(tunable).collect(),
        }),
        (EventKind::BlockThreshold, Detail::BlockThreshold(it)) => encode(&DomainEventBlockThreshold {
            callback_id,
            dom,
            dev: it.target.as_str().into(),
            path: some(&it.path),
            threshold: it.threshold,
            excess: it.excess,
        }),
        (EventKind::JobCompleted, Detail::Job(it)) => encode(&DomainEventCallbackJobCompleted {
            callback_id,
            dom,
            params: jobs::params(it).into(),
        }),
        (EventKind::MigrationIteration, Detail::MigrationIteration(it)) => {
            encode(&DomainEventCallbackMigrationIteration {
                callback_id,
                dom,
                iteration: it.iteration,
            })
        }
        (EventKind::MemoryFailure, Detail::MemoryFailure(it)) => encode(&DomainEventMemoryFailure {
            callback_id,
            dom,
            recipient: libvirts(it.recipient),
            action: libvirts(it.action),
            flags: u32::from(it.action_required) | u32::from(it.recursive) << 1,
        }),
        (EventKind::MemoryDeviceSizeChange, Detail::MemoryDeviceSizeChange(it)) => {
            encode(&DomainEventMemoryDeviceSizeChange {
                callback_id,
                dom,
                alias: it.alias.as_str().into(),
                size: it.size_kib,
            })
        }
        (EventKind::NicMacChange, Detail::NicMacChange(it)) => encode(&DomainEventNicMacChange {
            callback_id,
            dom,
            alias: it.alias.as_str().into(),
            old_mac: it.old_mac.as_str().into(),
            new_mac: it.new_mac.as_str().into(),
        }),
        _ => None,
    }
}
