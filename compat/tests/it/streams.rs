//! A console, both ways.

use wire::WireError;
use wire::frame::{Header, PacketType, Status, StreamHole};
use wire::remote::DomainOpenConsole;
use wire::xdr::{Reader, Xdr};

use crate::Front;
use crate::client::Client;

fn console(front: &Front) -> (Client, Header) {
    let mut client = front.open();
    client.call(&DomainOpenConsole::default()).unwrap();
    let mut header = client.header::<DomainOpenConsole>();
    (client.serial, header.serial) = (client.serial - 1, client.serial - 1);
    header.r#type = PacketType::STREAM;
    header.status = Status::CONTINUE;
    (client, header)
}

#[test]
fn what_is_typed_comes_back_until_the_guest_ends() {
    let front = Front::new();
    let (mut client, header) = console(&front);
    for text in [&b"hello"[..], &[7; 300_000]] {
        client.send_packet(&header, text);
        let mut got = Vec::new();
        while got.len() < text.len() {
            let packet = client.receive().unwrap();
            assert_eq!(packet.header, header);
            assert!(packet.payload.len() <= 262_120);
            got.extend(packet.payload);
        }
        assert_eq!(got, text);
    }
    client.send_packet(&header, b"bye");
    let end = client.receive().unwrap();
    assert_eq!((end.header, end.payload.len()), (header, 0));
    client.send_packet(
        &Header {
            status: Status::OK,
            ..header
        },
        &[],
    );
    assert_eq!(
        client.receive().unwrap().header,
        Header {
            status: Status::OK,
            ..header
        }
    );
    client.send_packet(&header, b"after the end");
    assert!(client.hears_nothing());
    client.call(&wire::remote::ConnectGetType {}).unwrap();
}

#[test]
fn much_that_is_typed_into_silence_arrives() {
    let front = Front::new();
    let (mut client, header) = console(&front);
    client
        .socket
        .set_write_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    for _ in 0..256 {
        client.send_packet(&header, &[b'#'; 65_536]);
    }
    client.send_packet(&header, b"hello");
    assert_eq!(client.receive().unwrap().payload, b"hello");
}

#[test]
fn finishing_and_aborting_are_confirmed() {
    let front = Front::new();
    for status in [Status::OK, Status::ERROR] {
        let (mut client, header) = console(&front);
        client.send_packet(&Header { status, ..header }, &[]);
        let confirmation = client.receive().unwrap();
        assert_eq!(
            confirmation.header,
            Header {
                status: Status::OK,
                ..header
            }
        );
        assert!(confirmation.payload.is_empty());
    }
}

#[test]
fn holes_and_empty_packets_end_the_stream_with_an_error() {
    let front = Front::new();
    let mut hole = Vec::new();
    StreamHole {
        length: 4096,
        flags: 0,
    }
    .encode(&mut hole)
    .unwrap();
    for (r#type, payload) in [(PacketType::STREAM_HOLE, hole), (PacketType::STREAM, Vec::new())] {
        let (mut client, header) = console(&front);
        client.send_packet(&Header { r#type, ..header }, &payload);
        let got = client.receive().unwrap();
        assert_eq!(
            got.header,
            Header {
                status: Status::ERROR,
                ..header
            }
        );
        WireError::decode(&mut Reader::new(&got.payload)).unwrap();
        client.call(&wire::remote::ConnectGetType {}).unwrap();
    }
}
