//! What libvirtd 11.3.0 does with odd and broken input, done here.

use wire::frame::{PACKET_MAX, PacketType};
use wire::xdr::Xdr;
use wire::{admin, keepalive, qemu, remote};

use crate::Front;
use crate::client::Client;

const REMOTE: u32 = remote::PROGRAM_NUMBER;
const GET_TYPE: i32 = 3;
const LOOKUP: i32 = 23;
const DENIED: &str = "error 39 7 authentication required";
const UNDECODABLE: &str = "error 39 7 Unable to decode message payload";
const NOT_OPEN: &str = "error 1 7 internal error: hypervisor connection not open";

/// A packet of the words program, version, procedure, type, serial, status, and a payload.
fn packet(words: [u32; 6], payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(28 + payload.len()).unwrap();
    let head = [len].into_iter().chain(words).flat_map(u32::to_be_bytes);
    head.chain(payload.iter().copied()).collect()
}

fn call(procedure: i32, payload: &[u8]) -> Vec<u8> {
    packet([REMOTE, 1, procedure.cast_unsigned(), 0, 7, 0], payload)
}

fn with_fds(count: u32) -> Vec<u8> {
    packet(
        [REMOTE, 1, GET_TYPE.cast_unsigned(), 4, 7, 0],
        &count.to_be_bytes(),
    )
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn open(name: Option<&str>, flags: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    remote::ConnectOpen {
        name: name.map(Into::into),
        flags,
    }
    .encode(&mut payload)
    .unwrap();
    call(1, &payload)
}

fn identity(params: u32) -> Vec<u8> {
    let mut payload = params.to_be_bytes().to_vec();
    for _ in 0..params {
        payload.extend(text(b"user-name"));
        payload.extend(1_u32.to_be_bytes().into_iter().chain([0; 4]));
    }
    payload.extend([0; 4]);
    call(419, &payload)
}

/// Sends `bytes`; what comes back, or "closed", or nothing at all.
fn answer(client: &mut Client, bytes: &[u8]) -> String {
    // A second call shows that nothing was answered to the first, and that the connection lives.
    let probe = packet([keepalive::PROGRAM, 1, 1, 2, 0, 0], &[]);
    client.send_raw(bytes);
    client.send_raw(&probe);
    let Some(got) = client.receive() else {
        return "closed".into();
    };
    if got.header.program == keepalive::PROGRAM && got.header.procedure == 2 {
        return "none".into();
    }
    let Some(pong) = client.receive() else {
        return format!("{} closed", got.line());
    };
    assert_eq!(pong.header.program, keepalive::PROGRAM);
    got.line()
}

fn check(client: &mut Client, name: &str, bytes: &[u8], expected: &str) {
    assert_eq!(answer(client, bytes), expected, "{name}");
}

#[test]
fn calls_are_refused_in_the_order_authentication_arguments_open() {
    let front = Front::asking();
    let mut client = Client::connect(&front.path("rw"));
    let steps: [(&str, Vec<u8>, &str); 11] = [
        ("call before open", call(GET_TYPE, &[]), DENIED),
        (
            "a large packet of a stranger",
            call(LOOKUP, &vec![0; 1 << 20]),
            DENIED,
        ),
        ("AUTH_LIST", call(66, &[]), "ok"),
        ("GET_TYPE before open", call(GET_TYPE, &[]), NOT_OPEN),
        ("LIST_NETWORKS without its arguments", call(38, &[]), UNDECODABLE),
        ("lib version before open", call(157, &[]), NOT_OPEN),
        (
            "keepalive feature before open",
            call(60, &10_u32.to_be_bytes()),
            "ok",
        ),
        ("first open", open(Some("qemu:///system"), 0), "ok"),
        (
            "second open",
            open(Some("qemu:///system"), 0),
            "error 1 7 internal error: connection already open",
        ),
        ("after second open", call(GET_TYPE, &[]), NOT_OPEN),
        ("third open", open(Some("qemu:///system"), 0), "ok"),
    ];
    for (name, bytes, expected) in steps {
        check(&mut client, name, &bytes, expected);
    }
}

#[test]
fn odd_packets_are_answered_as_libvirtd_does() {
    let front = Front::new();
    let mut client = front.open();
    let type_of = |r#type: PacketType| packet([REMOTE, 1, 3, r#type.0.cast_unsigned(), 7, 0], &[]);
    let flag = |flag: u32| {
        let mut payload = flag.to_be_bytes().to_vec();
        payload.extend(text(b"qemu"));
        call(5, &payload)
    };
    // Read, and so answered.
    let taken = "ok";
    let steps: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "unknown procedure",
            call(9999, &[]),
            "error 39 7 unknown procedure: 9999",
        ),
        ("procedure 0", call(0, &[]), "error 39 7 unknown procedure: 0"),
        ("procedure -1", call(-1, &[]), "error 39 7 unknown procedure: -1"),
        (
            "event as call",
            call(107, &[]),
            "error 39 7 unknown procedure: 107",
        ),
        (
            "unknown program",
            packet([0x1234_5678, 1, 3, 0, 7, 0], &[]),
            "error 39 7 Cannot find program 305419896 version 1",
        ),
        (
            "wrong version",
            packet([REMOTE, 2, 3, 0, 7, 0], &[]),
            "error 39 7 Cannot find program 536903814 version 2",
        ),
        (
            "wrong version, message",
            packet([REMOTE, 2, 3, 2, 7, 0], &[]),
            "none",
        ),
        (
            "status in call",
            packet([REMOTE, 1, 3, 0, 7, 1], &[]),
            "error 39 7 Unexpected message status 1",
        ),
        ("reply from client", type_of(PacketType::REPLY), "none"),
        ("message of a known program", type_of(PacketType::MESSAGE), "none"),
        ("type 9", type_of(PacketType(9)), "none"),
        ("stream packet, no stream", type_of(PacketType::STREAM), "none"),
        ("hole, no stream", type_of(PacketType::STREAM_HOLE), "none"),
        ("trailing garbage", call(GET_TYPE, b"garbage!"), "ok"),
        ("odd trailing bytes", call(GET_TYPE, b"abc"), "ok"),
        ("trailing after arguments", call(60, b"\0\0\0\x01more"), "ok"),
        ("truncated arguments", call(60, b"\0\0"), UNDECODABLE),
        ("missing arguments", call(60, &[]), UNDECODABLE),
        (
            "string with other padding",
            call(LOOKUP, b"\0\0\0\x05nope1xyz"),
            "error 42 10 Domain not found: no domain with matching name 'nope1'",
        ),
        (
            "string without padding",
            call(LOOKUP, b"\0\0\0\x05nope1"),
            UNDECODABLE,
        ),
        (
            "string with NUL",
            call(LOOKUP, b"\0\0\0\x04no\0x"),
            "error 42 10 Domain not found: no domain with matching name 'no'",
        ),
        (
            "string not UTF-8",
            call(LOOKUP, b"\0\0\0\x04no\xff\xfe"),
            "error 42 10 Domain not found: no domain with matching name 'no\u{fffd}\u{fffd}'",
        ),
        (
            "empty string",
            call(LOOKUP, &text(b"")),
            "error 42 10 Domain not found: no domain with matching name ''",
        ),
        (
            "string too long",
            call(LOOKUP, &text(&vec![b'x'; 4_194_305])),
            UNDECODABLE,
        ),
        ("string of 4 GiB", call(LOOKUP, &[0xff; 4]), UNDECODABLE),
        ("pointer flag 2", flag(2), taken),
        ("pointer flag of a little-endian client", flag(0x0100_0000), taken),
        ("pointer flag all ones", flag(u32::MAX), taken),
        (
            "typed parameter of type 99",
            call(419, b"\0\0\0\x01\0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0\0"),
            UNDECODABLE,
        ),
        ("21 identity parameters", identity(21), UNDECODABLE),
        ("20 identity parameters", identity(20), "ok"),
        ("no identity", identity(0), "ok"),
        ("call with 0 descriptors", with_fds(0), "ok"),
        ("longest packet", call(GET_TYPE, &vec![0; PACKET_MAX - 28]), "ok"),
        ("pings", packet([keepalive::PROGRAM, 1, 1, 2, 77, 0], &[]), "none"),
        (
            "ping as call",
            packet([keepalive::PROGRAM, 1, 1, 0, 7, 0], &[]),
            "error 39 7 Cannot find program 1801807216 version 1",
        ),
        (
            "pong unasked",
            packet([keepalive::PROGRAM, 1, 2, 2, 0, 0], &[]),
            "none",
        ),
        (
            "keepalive procedure 3",
            packet([keepalive::PROGRAM, 1, 3, 2, 0, 0], &[]),
            "none",
        ),
        (
            "keepalive version 2",
            packet([keepalive::PROGRAM, 2, 1, 2, 0, 0], &[]),
            "none",
        ),
        (
            "admin program",
            packet([admin::PROGRAM_NUMBER, 1, 1, 0, 7, 0], &[]),
            "error 39 7 Cannot find program 110102160 version 1",
        ),
        (
            "LXC program",
            packet([wire::lxc::PROGRAM_NUMBER, 1, 99, 0, 7, 0], &[]),
            "error 39 7 unknown procedure: 99",
        ),
        (
            "QEMU program",
            packet([qemu::PROGRAM_NUMBER, 1, 99, 0, 7, 0], &[]),
            "error 39 7 unknown procedure: 99",
        ),
        (
            "SASL",
            call(67, &[]),
            "error 45 7 authentication failed: authentication failed",
        ),
        ("still alive", call(GET_TYPE, &[]), "ok"),
        ("close", call(2, &[]), "ok closed"),
    ];
    for (name, bytes, expected) in steps {
        if name == "pings" {
            client.send_raw(&bytes);
            assert_eq!(client.receive().unwrap().header.serial, 0);
            continue;
        }
        check(&mut client, name, &bytes, expected);
    }
}

#[test]
fn bytes_that_are_no_packet_close_the_connection() {
    let front = Front::new();
    let length = |len: u32| len.to_be_bytes().to_vec();
    let long = u32::try_from(PACKET_MAX + 1).unwrap();
    let cases = [
        ("length 0", length(0)),
        ("length 3", length(3)),
        ("length 4 then a call", [length(4), call(GET_TYPE, &[])].concat()),
        ("short header", [length(27), vec![0; 23]].concat()),
        ("length beyond the longest", length(long)),
        ("33 descriptors", with_fds(33)),
        ("no count of descriptors", packet([REMOTE, 1, 3, 4, 7, 0], &[])),
        (
            "an error that fits no packet",
            call(LOOKUP, &text(&vec![b'x'; 4_194_304])),
        ),
    ];
    for (name, bytes) in cases {
        let mut client = front.open();
        assert_eq!(answer(&mut client, &bytes), "closed", "{name}");
    }
    assert!(front.is_deserted());
}

#[test]
fn opening_goes_by_the_uri() {
    let front = Front::new();
    let cases = [
        (None, 0, "error 1 7 internal error: connection not open"),
        (Some(""), 0, "ok"),
        (Some("qemu:///system"), 0x8000_0000, "ok"),
        (Some("qemu:///system?x=1"), 3, "ok"),
        (
            Some("qemu:///nope"),
            0,
            "error 1 0 internal error: unexpected qemu URI path '/nope', try qemu:///system",
        ),
        (
            Some("QEMU:///system"),
            0,
            "error 5 0 no connection driver available for QEMU:///system",
        ),
    ];
    for (name, flags, expected) in cases {
        let mut client = Client::connect(&front.path("rw"));
        check(&mut client, name.unwrap_or("NULL"), &open(name, flags), expected);
    }
}
