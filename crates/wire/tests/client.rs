//! The client against a daemon that says what it is told to say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use wire::client::{Client, ClientError};
use wire::frame::{EVENT_SERIAL, Header, PacketType, Status, decode_packet, put_packet, put_reply};
use wire::keepalive::Keepalive;
use wire::remote::{ConnectGetLibVersion, ConnectGetLibVersionRet, DomainEventReboot};
use wire::xdr::{TooLong, Xdr};
use wire::{ErrorCode, ErrorDomain, Procedure, WireError};

fn packet(header: &Header, payload: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>) -> Vec<u8> {
    let mut out = Vec::new();
    put_packet(&mut out, header, payload).unwrap();
    out
}

#[tokio::test]
async fn calls_are_answered_while_pings_and_events_come_between() {
    let path = std::env::temp_dir().join(format!("wire-client-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut call = [0; 28];
        socket.read_exact(&mut call).await.unwrap();
        let header = decode_packet(&call).unwrap().header;
        let event = Header {
            procedure: DomainEventReboot::INFO.number,
            r#type: PacketType::MESSAGE,
            serial: EVENT_SERIAL,
            ..header
        };
        let mut out = packet(&Keepalive::Ping.header(), |_| Ok(()));
        out.extend(packet(&event, |out| DomainEventReboot::default().encode(out)));
        put_reply(&mut out, &header, &ConnectGetLibVersionRet { lib_ver: 7 }, 0).unwrap();
        socket.write_all(&out).await.unwrap();
        let mut pong_and_call = [0; 56];
        socket.read_exact(&mut pong_and_call).await.unwrap();
        let pong = decode_packet(&pong_and_call).unwrap().header;
        assert_eq!(Keepalive::of(&pong), Some(Keepalive::Pong));
        let call = decode_packet(&pong_and_call[28..]).unwrap().header;
        let error = WireError::new(ErrorCode::NO_SUPPORT, ErrorDomain::NONE, "x");
        let refusal = packet(&call.reply(Status::ERROR), |out| error.encode(out));
        socket.write_all(&refusal).await.unwrap();
    };
    let client = async {
        let mut client = Client::connect(&path).await.unwrap();
        assert_eq!(client.call(&ConnectGetLibVersion {}).await.unwrap().lib_ver, 7);
        let refused = client.call(&ConnectGetLibVersion {}).await.unwrap_err();
        assert!(matches!(refused, ClientError::Remote(error) if error.code == ErrorCode::NO_SUPPORT));
        assert_eq!(
            client.event().await.unwrap().header.procedure,
            DomainEventReboot::INFO.number
        );
        client
    };
    let ((), mut client) = tokio::join!(daemon, client);
    assert!(matches!(client.event().await, Err(ClientError::Closed)));
    std::fs::remove_file(path).unwrap();
}
