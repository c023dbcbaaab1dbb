//! Events, in every style of registering.

use std::time::Duration;

use virtqemud_client::proto::{self, EventKind, event};
use wire::frame::PacketType;
use wire::remote::*;
use wire::xdr::{Reader, Uuid};
use wire::{Procedure, qemu};

use crate::Front;
use crate::backend::GUEST;
use crate::client::Client;

fn lifecycle(r#type: i32) -> proto::Event {
    let detail = event::Detail::Lifecycle(event::Lifecycle {
        // The service's numbers: types count from 1, details by their type.
        r#type: r#type + 1,
        detail: (r#type + 1) * 100 + 1,
        ..Default::default()
    });
    about(EventKind::Lifecycle, detail)
}

fn about(kind: EventKind, detail: event::Detail) -> proto::Event {
    let (name, uuid, id) = GUEST;
    let version = Some(proto::Version { epoch: 1, counter: 1 });
    proto::Event {
        version,
        uuid: uuid.into(),
        name: name.into(),
        id,
        kind: kind.into(),
        detail: Some(detail),
        ..Default::default()
    }
}

fn next<P: Procedure>(client: &mut Client) -> P {
    let got = client.receive().unwrap();
    assert_eq!((got.header.r#type, got.header.serial), (PacketType::MESSAGE, 1));
    assert_eq!(
        (got.header.program, got.header.procedure),
        (P::INFO.program, P::INFO.number)
    );
    P::decode(&mut Reader::new(&got.payload)).unwrap()
}

#[test]
fn each_registration_gets_its_own_message() {
    let front = Front::new();
    let mut client = front.open();
    client.call(&ConnectDomainEventRegister {}).unwrap();
    let register = |event_id, dom| ConnectDomainEventCallbackRegisterAny { event_id, dom };
    client.call(&register(0, None)).unwrap_err();
    let demo = NonnullDomain {
        uuid: GUEST.1.parse().unwrap(),
        ..Default::default()
    };
    let one = client.call(&register(0, Some(demo))).unwrap().callback_id;
    let other = NonnullDomain {
        uuid: Uuid([9; 16]),
        ..Default::default()
    };
    client.call(&register(0, Some(other))).unwrap();
    client.call(&register(3, None)).unwrap();
    front.fake.events.send(lifecycle(2)).unwrap();
    let message: DomainEventLifecycle = next(&mut client);
    assert_eq!((message.event, message.detail, message.dom.id), (2, 1, 3));
    let message: DomainEventCallbackLifecycle = next(&mut client);
    assert_eq!(
        (message.callback_id, message.msg.dom.name.to_str().as_ref()),
        (one, "demo")
    );
    assert!(client.hears_nothing());

    client
        .call(&ConnectDomainEventCallbackDeregisterAny { callback_id: one })
        .unwrap();
    client.call(&ConnectDomainEventDeregister {}).unwrap();
    front.fake.events.send(lifecycle(5)).unwrap();
    assert!(client.hears_nothing());
}

#[test]
fn one_event_of_the_service_may_be_two_of_libvirts() {
    let front = Front::new();
    let mut client = front.open();
    for event_id in [4, 7] {
        client.call(&ConnectDomainEventRegisterAny { event_id }).unwrap();
    }
    let io_error = event::IoError {
        path: "/a".into(),
        device: "vda".into(),
        action: event::io_error::Action::Pause.into(),
        reason: "enospc".into(),
    };
    front
        .fake
        .events
        .send(about(EventKind::IoError, event::Detail::IoError(io_error)))
        .unwrap();
    assert_eq!(next::<DomainEventIoError>(&mut client).dev_alias.to_str(), "vda");
    assert_eq!(
        next::<DomainEventIoErrorReason>(&mut client).reason.to_str(),
        "enospc"
    );
}

#[test]
fn monitor_events_are_filtered_by_name() {
    let front = Front::new();
    let mut client = front.open();
    let nocase = qemu::ConnectDomainMonitorEventRegister {
        dom: None,
        event: Some("rtc_change".into()),
        flags: 2,
    };
    let id = client.call(&nocase).unwrap().callback_id;
    for name in ["STOP", "RTC_CHANGE"] {
        let monitor = event::Monitor {
            event: name.into(),
            time: Some(virtqemud_client::time::Timestamp {
                seconds: 5,
                nanos: 6_000,
            }),
            details: String::new(),
        };
        front
            .fake
            .events
            .send(about(EventKind::Monitor, event::Detail::Monitor(monitor)))
            .unwrap();
    }
    let message: qemu::DomainMonitorEvent = next(&mut client);
    assert_eq!(
        (
            message.callback_id,
            message.event.to_str().as_ref(),
            message.details
        ),
        (id, "RTC_CHANGE", None)
    );
    client
        .call(&qemu::ConnectDomainMonitorEventDeregister { callback_id: id })
        .unwrap();
    assert!(client.hears_nothing());
}

#[test]
fn unknown_flags_of_a_monitor_registration_are_named() {
    let front = Front::new();
    let mut client = front.open();
    let flags = qemu::ConnectDomainMonitorEventRegister {
        flags: 99,
        ..Default::default()
    };
    let error = client.call(&flags).unwrap_err();
    let text = "unsupported flags (0x60) in function virDomainQemuMonitorEventStateRegisterID";
    assert_eq!(
        (error.code.0, error.int1, error.to_string().as_str()),
        (8, 0, text)
    );
}

#[test]
fn wrong_registrations_are_refused_in_libvirts_words() {
    let front = Front::new();
    let mut client = front.open();
    let any = |event_id| ConnectDomainEventRegisterAny { event_id };
    client.call(&any(1)).unwrap();
    let twice = client.call(&any(1)).unwrap_err();
    assert_eq!(
        (twice.code.0, twice.domain.0, twice.to_string().as_str()),
        (8, 0, "invalid argument: event callback already tracked")
    );
    let errors = [
        (client.call(&any(16)).unwrap_err(), "unsupported event ID 16"),
        (
            client
                .call(&ConnectDomainEventDeregisterAny { event_id: 2 })
                .unwrap_err(),
            "domain event 2 not registered",
        ),
        (
            client
                .call(&ConnectDomainEventCallbackDeregisterAny { callback_id: 99 })
                .unwrap_err(),
            "domain event callback 99 not registered",
        ),
        (
            client
                .call(&ConnectDomainEventCallbackRegisterAny {
                    event_id: 28,
                    dom: None,
                })
                .unwrap_err(),
            "unsupported event ID 28",
        ),
    ];
    for (error, detail) in errors {
        assert_eq!((error.code.0, error.domain.0), (1, 7));
        assert_eq!(error.to_string(), format!("internal error: {detail}"));
    }
}

#[test]
fn a_client_that_does_not_read_its_events_is_let_go() {
    let front = Front::new();
    let mut client = front.open();
    client.call(&ConnectDomainEventRegister {}).unwrap();
    // More than the socket's buffer and the megabyte that may wait: 80 bytes each.
    for _ in 0..30_000 {
        front.fake.events.send(lifecycle(2)).unwrap();
    }
    assert!(front.is_deserted(), "the client is still connected");
    let mut got = 0;
    while client.receive().is_some() {
        got += 1;
    }
    assert!((1..30_000).contains(&got), "{got}");
    std::thread::sleep(Duration::from_millis(1));
}
