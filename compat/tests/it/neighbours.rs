//! What is relayed to the daemons of the other drivers, and what happens when they fail.

mod streams;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use wire::frame::{Header, PacketType, Status, StreamHole};
use wire::procedure::Owner;
use wire::remote::*;
use wire::typed::{TypedParam, TypedValue};
use wire::xdr::{Reader, Xdr};
use wire::{ErrorCode, ErrorDomain, Procedure, WireError};

use crate::Front;
use crate::client::{Client, Got};
use crate::neighbour::{Neighbour, Session};
use streams::streaming;

fn network(front: &Front) -> Neighbour {
    Neighbour::at(&front.path("virtnetworkd-sock"))
}

fn storage(front: &Front) -> Neighbour {
    Neighbour::at(&front.path("virtstoraged-sock"))
}

fn named(name: &str) -> NonnullNetwork {
    NonnullNetwork {
        name: name.into(),
        ..Default::default()
    }
}

fn lookup(name: &str) -> NetworkLookupByName {
    NetworkLookupByName { name: name.into() }
}

/// A client with one call that its neighbour has answered, and the neighbour's side of it.
fn connected(front: &Front, neighbour: &Neighbour) -> (Client, Session) {
    let mut client = front.open();
    client.send(&lookup("first"));
    let mut session = neighbour.accept();
    let (call, _) = session.call::<NetworkLookupByName>();
    session.reply(&call, &NetworkLookupByNameRet { net: named("first") });
    client.receive().unwrap();
    (client, session)
}

/// Whether our own calls are answered at once.
fn serves_its_own(client: &mut Client) {
    let start = Instant::now();
    client.call(&DomainLookupByName { name: "demo".into() }).unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn every_procedure_of_the_other_drivers_is_served() {
    let mut served = HashMap::<_, usize>::new();
    for (program, info) in compat::served() {
        if program.name == "Remote" {
            *served.entry(info.owner).or_default() += 1;
        }
    }
    let owners = [
        Owner::Network,
        Owner::Storage,
        Owner::Nodedev,
        Owner::Interface,
        Owner::Nwfilter,
        Owner::Secret,
    ];
    assert_eq!(owners.map(|owner| served[&owner]), [33, 45, 21, 16, 14, 12]);
}

#[test]
fn many_calls_are_answered_in_any_order_and_hold_up_nobody() {
    let front = Front::new();
    let neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    let sent: HashMap<u32, String> = (0..64)
        .map(|i| (client.send(&lookup(&format!("n{i}"))), format!("n{i}")))
        .collect();
    let calls: Vec<_> = (0..64).map(|_| session.call::<NetworkLookupByName>()).collect();
    serves_its_own(&mut client);
    for (call, args) in calls.iter().rev() {
        session.reply(
            call,
            &NetworkLookupByNameRet {
                net: named(&args.name.to_str()),
            },
        );
    }
    for _ in 0..64 {
        let got = client.receive().unwrap();
        let net = got.reply::<NetworkLookupByName>().unwrap().net;
        assert_eq!(sent[&got.header.serial], net.name.to_str());
    }
    assert!(client.hears_nothing());
}

#[test]
fn errors_come_as_the_neighbour_words_them() {
    let front = Front::new();
    let neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    let error = WireError {
        str3: Some("more".into()),
        net: Some(named("x")),
        ..WireError::new(ErrorCode(12_345), ErrorDomain(99), "odd")
    };
    client.send(&lookup("x"));
    let (call, _) = session.call::<NetworkLookupByName>();
    session.refuse(&call, &error);
    assert_eq!(
        client.receive().unwrap().reply::<NetworkLookupByName>(),
        Err(error)
    );
}

#[test]
fn the_neighbour_learns_who_calls_and_that_he_only_looks() {
    let front = Front::new();
    let (rw, ro) = (
        network(&front),
        Neighbour::at(&front.path("virtnetworkd-sock-ro")),
    );
    for (socket, neighbour, flags) in [("rw", &rw, 0), ("ro", &ro, 1)] {
        let mut client = Client::open(&front.path(socket));
        client.send(&lookup("x"));
        let session = neighbour.accept();
        assert_eq!(session.opened, ("network:///system".to_owned(), flags));
        let value = |name: &str| {
            let found = session
                .identity
                .params
                .iter()
                .find(|param| param.field.to_str() == name);
            found.map(|param| param.value.clone())
        };
        let pid = i64::from(std::process::id());
        assert_eq!(value("process-id"), Some(TypedValue::Llong(pid)));
        assert!(matches!(value("unix-user-id"), Some(TypedValue::Ullong(_))));
    }
    let mut client = Client::open(&front.path("ro"));
    let error = client.call(&NetworkDestroy::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "operation forbidden: read only access prevents virNetworkDestroy"
    );
    assert_eq!(
        client
            .call(&ConnectFindStoragePoolSources::default())
            .unwrap_err()
            .code,
        ErrorCode::OPERATION_DENIED
    );
    client.send(&NetworkLookupByName::default());
    // Nothing of what was refused has come before.
    ro.accept().call::<NetworkLookupByName>();
}

#[test]
fn who_speaks_for_another_gets_a_connection_of_that_one() {
    if !crate::served::peer_is_root() {
        return;
    }
    let front = Front::new();
    let neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    let params = vec![
        TypedParam::new("unix-user-id", 1000_u64),
        TypedParam::new("sasl-user-name", "joe"),
    ];
    client
        .call(&ConnectSetIdentity {
            params: params.clone().into(),
            flags: 0,
        })
        .unwrap();
    assert!(
        session.receive().is_none(),
        "the connection of the first one ends"
    );
    client.send(&lookup("x"));
    assert_eq!(neighbour.accept().identity.params.to_vec(), params);
}

#[test]
fn bad_arguments_and_closed_connections_are_refused_here() {
    let front = Front::new();
    let mut client = front.open();
    let header = client.header::<NetworkLookupByName>();
    client.send_packet(&header, &[0xff; 8]);
    assert_eq!(
        client.receive().unwrap().line(),
        "error 39 7 Unable to decode message payload"
    );
    let mut client = Client::connect(&front.path("rw"));
    let error = client.call(&ConnectNumOfNetworks {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "internal error: hypervisor connection not open"
    );
}

#[test]
fn without_a_neighbour_its_calls_fail_and_no_others() {
    let front = Front::new();
    let mut client = front.open();
    let error = client.call(&ConnectNumOfNetworks {}).unwrap_err();
    let path = front.path("virtnetworkd-sock");
    let text = format!(
        "Failed to connect socket to '{}': No such file or directory",
        path.display()
    );
    assert_eq!(
        (error.code, error.domain, error.int1),
        (ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, 2)
    );
    assert_eq!(error.to_string(), text);
    serves_its_own(&mut client);
    let error = client
        .call(&ConnectNetworkEventRegisterAny::default())
        .unwrap_err();
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_daemon_that_has_all_drivers_takes_the_place_of_one() {
    let front = Front::new();
    let all = Neighbour::at(&front.path("libvirt-sock"));
    let mut client = front.open();
    client.send(&ConnectNumOfNetworks {});
    let mut session = all.accept();
    assert_eq!(session.opened.0, "network:///system");
    let (call, _) = session.call::<ConnectNumOfNetworks>();
    session.reply(&call, &ConnectNumOfNetworksRet { num: 7 });
    assert_eq!(
        client
            .receive()
            .unwrap()
            .reply::<ConnectNumOfNetworks>()
            .unwrap()
            .num,
        7
    );
    // One that has not that driver.
    client.send(&ConnectNumOfInterfaces {});
    let mut session = Session {
        socket: all.accept_raw(),
        opened: Default::default(),
        identity: Default::default(),
    };
    let (call, _) = session.call::<AuthList>();
    session.reply(
        &call,
        &AuthListRet {
            types: vec![AuthType::NONE].into(),
        },
    );
    let (call, _) = session.call::<ConnectOpen>();
    session.refuse(
        &call,
        &WireError::new(ErrorCode::NO_CONNECT, ErrorDomain::NONE, "interface:///system"),
    );
    let error = client
        .receive()
        .unwrap()
        .reply::<ConnectNumOfInterfaces>()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "this function is not supported by the connection driver: virConnectNumOfInterfaces"
    );
}

#[test]
fn a_neighbour_that_dies_fails_its_calls_and_streams_and_is_opened_again() {
    let front = Front::new();
    let neighbour = storage(&front);
    let (mut client, ours, mut session, _) = streaming::<StorageVolDownload>(&front, &neighbour);
    let serial = client.send(&ConnectNumOfStoragePools {});
    session.call::<ConnectNumOfStoragePools>();
    drop(session);
    let text = "End of file while reading data: Input/output error";
    let got = client.receive().unwrap();
    assert_eq!(
        got.header,
        Header {
            status: Status::ERROR,
            ..ours
        }
    );
    assert_eq!(
        WireError::decode(&mut Reader::new(&got.payload))
            .unwrap()
            .to_string(),
        text
    );
    let got = client.receive().unwrap();
    assert_eq!(
        (got.header.serial, got.line()),
        (serial, format!("error 38 7 {text}"))
    );
    serves_its_own(&mut client);
    client.send(&ConnectNumOfStoragePools {});
    let mut session = neighbour.accept();
    let (call, _) = session.call::<ConnectNumOfStoragePools>();
    session.reply(&call, &ConnectNumOfStoragePoolsRet { num: 1 });
    assert_eq!(client.receive().unwrap().line(), "ok");
}

#[test]
fn what_a_neighbour_said_before_it_hung_up_is_still_told() {
    let front = Front::new();
    let neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    client.send(&lookup("x"));
    let (call, _) = session.call::<NetworkLookupByName>();
    session.reply(&call, &NetworkLookupByNameRet { net: named("x") });
    drop(session);
    assert_eq!(client.receive().unwrap().line(), "ok");
}

#[test]
fn a_neighbour_that_hangs_fails_its_calls_in_bounded_time() {
    let front = Front::new();
    let neighbour = network(&front);
    let (mut client, session) = connected(&front, &neighbour);
    let start = Instant::now();
    client.send(&lookup("x"));
    client.send(&lookup("y"));
    for _ in 0..5 {
        serves_its_own_while_waiting(&mut client);
    }
    let silent = "error 1 7 internal error: connection closed due to keepalive timeout";
    for _ in 0..2 {
        assert_eq!(client.receive().unwrap().line(), silent);
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    // It does not even take the next connection.
    client.send(&lookup("z"));
    let line = client.receive().unwrap().line();
    assert!(
        line.starts_with(
            "error 68 7 Timed out during operation: no answer to opening network:///system within "
        ),
        "{line}"
    );
    assert!(start.elapsed() < Duration::from_secs(4));
    drop(session);
}

/// As [`serves_its_own`], with calls to a neighbour outstanding that have not failed yet.
fn serves_its_own_while_waiting(client: &mut Client) {
    let serial = client.send(&DomainLookupByName { name: "demo".into() });
    let start = Instant::now();
    let got = client.receive().unwrap();
    assert_eq!((got.header.serial, got.line()), (serial, "ok".to_owned()));
    assert!(start.elapsed() < Duration::from_millis(50));
}

#[test]
fn a_slow_call_is_not_a_hanging_neighbour() {
    let front = Front::new();
    let neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    client.send(&lookup("x"));
    let (call, _) = session.call::<NetworkLookupByName>();
    let until = Instant::now() + Duration::from_millis(900);
    session
        .socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while Instant::now() < until {
        assert!(session.receive().is_none(), "pings only, which are answered");
    }
    session.reply(&call, &NetworkLookupByNameRet { net: named("x") });
    assert_eq!(client.receive().unwrap().line(), "ok");
}

fn lifecycle(callback_id: i32) -> NetworkEventLifecycle {
    NetworkEventLifecycle {
        callback_id,
        net: named("x"),
        event: 2,
        detail: 0,
    }
}

fn heard(client: &mut Client) -> i32 {
    let got = client.receive().unwrap();
    assert_eq!((got.header.r#type, got.header.serial), (PacketType::MESSAGE, 1));
    NetworkEventLifecycle::decode(&mut Reader::new(&got.payload))
        .unwrap()
        .callback_id
}

fn register(client: &mut Client, session: &mut Session, event_id: i32, callback_id: i32) -> i32 {
    client.send(&ConnectNetworkEventRegisterAny { event_id, net: None });
    let (call, args) = session.call::<ConnectNetworkEventRegisterAny>();
    assert_eq!(args.event_id, event_id);
    session.reply(&call, &ConnectNetworkEventRegisterAnyRet { callback_id });
    client
        .receive()
        .unwrap()
        .reply::<ConnectNetworkEventRegisterAny>()
        .unwrap()
        .callback_id
}

#[test]
fn events_are_registered_again_and_keep_their_ids() {
    let front = Front::new();
    let mut neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    assert_eq!(register(&mut client, &mut session, 0, 5), 5);
    assert_eq!(register(&mut client, &mut session, 1, 6), 6);
    session.tell(&lifecycle(5));
    assert_eq!(heard(&mut client), 5);
    // It restarts, and counts from the beginning; the other registration has the first one's id.
    drop((session, neighbour));
    std::thread::sleep(Duration::from_millis(100));
    neighbour = network(&front);
    let mut session = neighbour.accept();
    for (event_id, callback_id) in [(0, 6), (1, 5)] {
        let (call, args) = session.call::<ConnectNetworkEventRegisterAny>();
        assert_eq!(args.event_id, event_id);
        session.reply(&call, &ConnectNetworkEventRegisterAnyRet { callback_id });
    }
    session.tell(&lifecycle(6));
    session.tell(&lifecycle(5));
    assert_eq!((heard(&mut client), heard(&mut client)), (5, 6));
    // A third one that the neighbour gives an id the client has for another.
    assert_eq!(register(&mut client, &mut session, 0, 7), 7);
    client.send(&ConnectNetworkEventDeregisterAny { callback_id: 5 });
    let (call, args) = session.call::<ConnectNetworkEventDeregisterAny>();
    assert_eq!(args.callback_id, 6);
    session.reply(&call, &());
    assert_eq!(client.receive().unwrap().line(), "ok");
    session.tell(&lifecycle(6));
    session.tell(&lifecycle(7));
    assert_eq!(heard(&mut client), 7);
}

#[test]
fn a_registration_ends_while_the_neighbour_is_away() {
    let front = Front::new();
    let mut neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    register(&mut client, &mut session, 0, 0);
    drop((session, neighbour));
    std::thread::sleep(Duration::from_millis(50));
    client
        .call(&ConnectNetworkEventDeregisterAny { callback_id: 0 })
        .unwrap();
    neighbour = network(&front);
    client.send(&lookup("x"));
    neighbour.accept().call::<NetworkLookupByName>();
}

#[test]
fn what_nobody_takes_is_not_read_and_goes_on_when_it_is_taken() {
    let front = Front::new();
    let neighbour = storage(&front);
    let (mut client, ours, mut session, _) = streaming::<StorageVolUpload>(&front, &neighbour);
    let chunk = vec![3; 200_000];
    let mut packet = Vec::new();
    wire::frame::put_bytes(&mut packet, &ours, &chunk).unwrap();
    let upload = until_stuck(&mut client.socket, &packet);
    assert!(upload < 8 << 20, "{upload} bytes of an upload wait");
    // The neighbour takes it after all: the rest follows.
    let writer = {
        let (mut socket, rest) = (
            client.socket.try_clone().unwrap(),
            packet[upload % packet.len()..].to_vec(),
        );
        std::thread::spawn(move || socket.write_all(&rest))
    };
    let mut got = 0;
    while got < upload.div_ceil(packet.len()) * chunk.len() {
        got += session.receive().unwrap().payload.len();
    }
    writer.join().unwrap().unwrap();

    let (mut client, _, mut session, theirs) = streaming::<StorageVolDownload>(&front, &neighbour);
    let mut packet = Vec::new();
    wire::frame::put_bytes(&mut packet, &theirs, &chunk).unwrap();
    let download = until_stuck(&mut session.socket, &packet);
    assert!(download < 8 << 20, "{download} bytes of a download wait");
    let mut got = 0;
    while got < download / packet.len() * chunk.len() {
        got += client.receive().unwrap().payload.len();
    }
}

/// Writes `packet` over and over until nobody takes any more; the bytes written.
fn until_stuck(socket: &mut UnixStream, packet: &[u8]) -> usize {
    socket.set_nonblocking(true).unwrap();
    let (mut written, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(300) && written < 64 << 20 {
        match socket.write(&packet[written % packet.len()..]) {
            Ok(len) => (written, last) = (written + len, Instant::now()),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    socket.set_nonblocking(false).unwrap();
    written
}

#[test]
fn descriptors_go_along_in_both_directions() {
    let front = Front::new();
    let neighbour = network(&front);
    let (mut client, mut session) = connected(&front, &neighbour);
    let mut payload = vec![0, 0, 0, 1];
    lookup("x").encode(&mut payload).unwrap();
    let header = Header {
        r#type: PacketType::CALL_WITH_FDS,
        ..client.header::<NetworkLookupByName>()
    };
    client.send_packet(&header, &payload);
    pass_one(&front, &client.socket);
    let got = session.receive().unwrap();
    assert_eq!(
        (got.header.r#type, &got.payload),
        (PacketType::CALL_WITH_FDS, &payload)
    );
    assert!(takes_one(&front, &session.socket));
    let reply = Header {
        r#type: PacketType::REPLY_WITH_FDS,
        ..got.header
    };
    session.send(&reply, &payload);
    pass_one(&front, &session.socket);
    assert_eq!(
        client.receive().unwrap(),
        Got {
            header: Header {
                r#type: PacketType::REPLY_WITH_FDS,
                ..header
            },
            payload
        }
    );
    assert!(takes_one(&front, &client.socket));
}

fn in_runtime<T>(
    front: &Front,
    socket: &UnixStream,
    act: impl AsyncFnOnce(&tokio::net::UnixStream) -> T,
) -> T {
    let copy = socket.try_clone().unwrap();
    copy.set_nonblocking(true).unwrap();
    let result = front
        .runtime
        .block_on(async { act(&tokio::net::UnixStream::from_std(copy).unwrap()).await });
    socket.set_nonblocking(false).unwrap();
    result
}

fn pass_one(front: &Front, socket: &UnixStream) {
    let file = std::fs::File::open("/dev/null").unwrap();
    in_runtime(front, socket, async |socket| {
        unixfd::send_fd(socket, file.as_fd()).await.unwrap()
    });
}

fn takes_one(front: &Front, socket: &UnixStream) -> bool {
    in_runtime(front, socket, async |socket| {
        unixfd::recv_fd(socket).await.is_ok()
    })
}

#[test]
fn what_is_kept_of_registrations_is_bounded() {
    let front = Front::new();
    let neighbour = storage(&front);
    let mut client = front.open();
    let pool = |len: usize| {
        Some(NonnullStoragePool {
            name: "x".repeat(len).as_str().into(),
            ..Default::default()
        })
    };
    client.send(&ConnectStoragePoolEventRegisterAny {
        event_id: 0,
        pool: pool(200 << 10),
    });
    let mut session = neighbour.accept();
    let (call, _) = session.call::<ConnectStoragePoolEventRegisterAny>();
    session.reply(&call, &ConnectStoragePoolEventRegisterAnyRet { callback_id: 0 });
    assert_eq!(client.receive().unwrap().line(), "ok");
    let error = client
        .call(&ConnectStoragePoolEventRegisterAny {
            event_id: 0,
            pool: pool(100 << 10),
        })
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::RESOURCE_BUSY);
}

#[test]
fn neighbours_are_left_with_the_client() {
    let front = Front::new();
    let neighbour = network(&front);
    let (client, mut session) = connected(&front, &neighbour);
    drop(client);
    assert_eq!(session.socket.read(&mut [0; 1]).unwrap(), 0);
    assert!(front.is_deserted());
}
