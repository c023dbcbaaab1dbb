//! Streams that a neighbour serves: both ways, with holes, aborted by either side.

use super::*;

/// A client with an open stream, its stream header, and the neighbour's side.
pub(super) fn streaming<P: Procedure + Default>(
    front: &Front,
    neighbour: &Neighbour,
) -> (Client, Header, Session, Header) {
    let mut client = front.open();
    // So that serials differ on the two sides.
    client.serial = 900;
    client.send(&P::default());
    let mut session = neighbour.accept();
    let (call, _) = session.call::<P>();
    session.send(&call.reply(Status::OK), &[]);
    let reply = client.receive().unwrap().header;
    assert_eq!(
        (reply.serial, reply.r#type, reply.status),
        (901, PacketType::REPLY, Status::OK)
    );
    (
        client,
        reply.stream(Status::CONTINUE),
        session,
        call.stream(Status::CONTINUE),
    )
}

pub(super) fn hole(length: i64) -> Vec<u8> {
    let mut hole = Vec::new();
    StreamHole { length, flags: 0 }.encode(&mut hole).unwrap();
    hole
}

#[test]
fn an_upload_goes_through_with_its_holes_to_its_confirmation() {
    let front = Front::new();
    let neighbour = storage(&front);
    let (mut client, ours, mut session, theirs) = streaming::<StorageVolUpload>(&front, &neighbour);
    let as_hole = |header: Header| Header {
        r#type: PacketType::STREAM_HOLE,
        ..header
    };
    let parts = [
        (ours, vec![1; 262_120]),
        (as_hole(ours), hole(1 << 30)),
        (ours, vec![2; 5]),
        (as_hole(ours), hole(4096)),
    ];
    for (header, payload) in &parts {
        client.send_packet(header, payload);
        let got = session.receive().unwrap();
        assert_eq!(
            (got.header, got.payload),
            (
                Header {
                    serial: theirs.serial,
                    ..*header
                },
                payload.clone()
            )
        );
    }
    client.send_packet(
        &Header {
            status: Status::OK,
            ..ours
        },
        &[],
    );
    assert_eq!(
        session.receive().unwrap().header,
        Header {
            status: Status::OK,
            ..theirs
        }
    );
    session.send(
        &Header {
            status: Status::OK,
            ..theirs
        },
        &[],
    );
    let confirmed = Got {
        header: Header {
            status: Status::OK,
            ..ours
        },
        payload: Vec::new(),
    };
    assert_eq!(client.receive(), Some(confirmed));
    client.send_packet(&ours, b"after the end");
    client.send(&ConnectNumOfStoragePools {});
    session.call::<ConnectNumOfStoragePools>();
}

#[test]
fn a_download_goes_through_with_its_holes_to_its_end() {
    let front = Front::new();
    let neighbour = storage(&front);
    let (mut client, ours, mut session, theirs) = streaming::<StorageVolDownload>(&front, &neighbour);
    let as_hole = |header: Header| Header {
        r#type: PacketType::STREAM_HOLE,
        ..header
    };
    let parts = [
        (theirs, vec![1; 262_120]),
        (as_hole(theirs), hole(1 << 30)),
        (theirs, vec![2; 5]),
        (theirs, Vec::new()),
    ];
    for (header, payload) in parts {
        session.send(&header, &payload);
        let expected = Got {
            header: Header {
                serial: ours.serial,
                ..header
            },
            payload,
        };
        assert_eq!(client.receive(), Some(expected));
    }
    client.send_packet(
        &Header {
            status: Status::OK,
            ..ours
        },
        &[],
    );
    assert_eq!(session.receive().unwrap().header.status, Status::OK);
    session.send(
        &Header {
            status: Status::OK,
            ..theirs
        },
        &[],
    );
    assert_eq!(
        client.receive().unwrap().header,
        Header {
            status: Status::OK,
            ..ours
        }
    );
}

#[test]
fn either_side_aborts_a_stream() {
    let front = Front::new();
    let neighbour = storage(&front);
    let (mut client, ours, mut session, theirs) = streaming::<StorageVolDownload>(&front, &neighbour);
    client.send_packet(
        &Header {
            status: Status::ERROR,
            ..ours
        },
        &[],
    );
    assert_eq!(
        session.receive().unwrap().header,
        Header {
            status: Status::ERROR,
            ..theirs
        }
    );
    session.send(&theirs, b"on its way");
    session.send(
        &Header {
            status: Status::OK,
            ..theirs
        },
        &[],
    );
    assert_eq!(client.receive().unwrap().payload, b"on its way");
    assert_eq!(
        client.receive().unwrap().header,
        Header {
            status: Status::OK,
            ..ours
        }
    );

    let (mut client, ours, mut session, theirs) = streaming::<StorageVolUpload>(&front, &neighbour);
    session.send(
        &Header {
            status: Status::ERROR,
            ..theirs
        },
        b"an error",
    );
    let failed = Got {
        header: Header {
            status: Status::ERROR,
            ..ours
        },
        payload: b"an error".to_vec(),
    };
    assert_eq!(client.receive(), Some(failed));
    client.send_packet(&ours, b"too late");
    assert!(client.hears_nothing());
    serves_its_own(&mut client);
}
