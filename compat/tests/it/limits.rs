//! What clients may occupy.

use std::time::{Duration, Instant};

use compat::{Authority, Limits, SocketKind};
use wire::frame::{PacketType, put_packet};
use wire::keepalive::Keepalive;
use wire::remote::{AuthList, ConnectGetHostname, ConnectGetType, ConnectSupportsFeature};

use crate::Front;
use crate::client::Client;

fn ping() -> Vec<u8> {
    let mut out = Vec::new();
    put_packet(&mut out, &Keepalive::Ping.header(), |_| Ok(())).unwrap();
    out
}

#[test]
fn slow_calls_hold_up_neither_pings_nor_quick_calls() {
    // A name of the host takes 300 ms here, and is a call that never waits for a guest.
    let front = Front::with(
        Limits {
            max_client_requests: 2,
            ..Limits::default()
        },
        Authority::default(),
    );
    let mut client = front.open();
    let begin = Instant::now();
    let slow: Vec<_> = (0..4).map(|_| client.send(&ConnectGetHostname {})).collect();
    client.send_raw(&ping());
    assert_eq!(client.receive().unwrap().header.r#type, PacketType::MESSAGE);
    assert!(
        begin.elapsed() < Duration::from_millis(250),
        "{:?}",
        begin.elapsed()
    );
    let mut answered: Vec<_> = slow
        .iter()
        .map(|_| client.receive().unwrap().header.serial)
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, slow);
    // Two at a time.
    assert!(
        begin.elapsed() >= Duration::from_millis(590),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn answers_come_when_they_are_ready() {
    let front = Front::new();
    let mut client = front.open();
    let slow = client.send(&ConnectGetHostname {});
    let quick = client.send(&ConnectGetType {});
    let order = [client.receive().unwrap(), client.receive().unwrap()].map(|got| got.header.serial);
    assert_eq!(order, [quick, slow]);
}

#[test]
fn strangers_wait_until_one_of_them_is_known() {
    let limits = Limits {
        max_anonymous_clients: 2,
        ..Limits::default()
    };
    let authority = Authority::default().with(SocketKind::ReadWrite, |_, _| std::future::ready(true));
    let front = Front::with(limits, authority);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&front.path("rw"))).collect();
    for client in &mut clients {
        client.send_raw(&ping());
    }
    clients[0].receive().unwrap();
    clients[1].receive().unwrap();
    assert!(clients[2].hears_nothing());
    let authenticate = |client: &mut Client| client.call(&AuthList {}).map(|reply| reply.types[0].0);
    if authenticate(&mut clients[0]) == Ok(2) {
        clients[0].call(&wire::remote::AuthPolkit {}).unwrap();
    }
    clients[2].receive().unwrap();
}

#[test]
fn a_silent_client_that_asked_for_pings_is_let_go() {
    let interval = Duration::from_millis(50);
    let limits = Limits {
        keepalive_interval: interval,
        keepalive_count: 2,
        ..Limits::default()
    };
    let front = Front::with(limits, Authority::default());
    let mut quiet = front.open();
    quiet.call(&ConnectSupportsFeature { feature: 10 }).unwrap();
    let begin = Instant::now();
    for _ in 0..2 {
        assert_eq!(
            Keepalive::of(&quiet.receive().unwrap().header),
            Some(Keepalive::Ping)
        );
    }
    assert!(quiet.receive().is_none());
    assert!(begin.elapsed() >= 2 * interval, "{:?}", begin.elapsed());
    let mut unasked = front.open();
    assert!(unasked.hears_nothing());
}

#[test]
fn stopping_answers_what_was_called_and_hangs_up() {
    let front = Front::new();
    let mut client = front.open();
    let serial = client.send(&ConnectGetHostname {});
    std::thread::sleep(Duration::from_millis(50));
    front.stop.cancel();
    assert_eq!(client.receive().unwrap().header.serial, serial);
    assert!(client.receive().is_none());
    assert!(front.is_deserted());
}
