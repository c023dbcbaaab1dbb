//! For whom the daemons of the other drivers are called: they decide about the client whose call leads there.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Result, bail};
use testkit::Sandbox;
use wire::frame::{Header, Status, packet_len, put_reply};
use wire::remote::{AuthList, AuthListRet, AuthType, ConnectOpen, ConnectSetIdentity, NetworkLookupByName};
use wire::typed::TypedValue;
use wire::xdr::{Reader, Xdr};
use wire::{ErrorCode, ErrorDomain, Procedure, WireError};

use crate::grpc::{Grpc, QEMU, daemon, small};

/// What a connection had said of its caller when it asked for a network: a process, or nothing.
type Told = Option<i64>;

const PORT: &str = "<interface type='network'><source network='n'/></interface></devices>";

/// A daemon of networks that has none.
fn serve(listener: &UnixListener, told: &Sender<Told>) {
    for stream in listener.incoming().flatten() {
        let told = told.clone();
        std::thread::spawn(move || converse(stream, &told));
    }
}

fn converse(mut stream: UnixStream, told: &Sender<Told>) -> Result<()> {
    let mut caller = None;
    loop {
        let (call, payload) = match receive(&mut stream) {
            Err(error)
                if error
                    .downcast_ref()
                    .is_some_and(|e: &std::io::Error| e.kind() == ErrorKind::UnexpectedEof) =>
            {
                return Ok(());
            }
            other => other?,
        };
        let mut answer = Vec::new();
        match call.procedure {
            n if n == AuthList::INFO.number => put_reply(
                &mut answer,
                &call,
                &AuthListRet {
                    types: vec![AuthType::NONE].into(),
                },
                0,
            )?,
            n if n == ConnectOpen::INFO.number => put_reply(&mut answer, &call, &(), 0)?,
            n if n == ConnectSetIdentity::INFO.number => {
                caller = process(&ConnectSetIdentity::decode(&mut Reader::new(&payload))?);
                put_reply(&mut answer, &call, &(), 0)?;
            }
            other => {
                if other == NetworkLookupByName::INFO.number {
                    told.send(caller)?;
                }
                let error = WireError::new(ErrorCode::NO_NETWORK, ErrorDomain::NETWORK, "none");
                wire::frame::put_packet(&mut answer, &call.reply(Status::ERROR), |out| error.encode(out))?;
            }
        }
        stream.write_all(&answer)?;
    }
}

fn receive(stream: &mut UnixStream) -> Result<(Header, Vec<u8>)> {
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    let mut body = vec![0; packet_len(word)? - word.len()];
    stream.read_exact(&mut body)?;
    let mut reader = Reader::new(&body);
    let header = Header::decode(&mut reader)?;
    Ok((header, body.split_off(wire::frame::HEADER_LEN)))
}

fn process(identity: &ConnectSetIdentity) -> Told {
    let param = identity
        .params
        .iter()
        .find(|param| param.field.as_bytes() == b"process-id")?;
    match param.value {
        TypedValue::Llong(pid) => Some(pid),
        _ => None,
    }
}

fn neighbour(path: &Path) -> Result<Receiver<Told>> {
    let listener = UnixListener::bind(path)?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || serve(&listener, &sender));
    Ok(receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_asks_for_what_it_needs_as_the_one_who_starts() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let told = neighbour(&sandbox.path("run/libvirt/virtnetworkd-sock"))?;
    let wait = Duration::from_secs(20);
    let guest = small("a", Path::new(QEMU), "").replace("</devices>", PORT);
    sandbox.virsh().define(&guest)?;
    let mut virsh = sandbox.virsh().spawn(&["start", "a"])?;
    assert_eq!(
        told.recv_timeout(wait)?,
        Some(virsh.id().into()),
        "by libvirt's protocol"
    );
    assert!(!virsh.wait()?.success());
    // What may have been given is handed in by the daemon itself, whoever started.
    assert_eq!(told.recv_timeout(wait)?, None, "by the daemon");
    let Err(refused) = Grpc::of(&sandbox).await?.start("a").await else {
        bail!("started without its network")
    };
    assert!(refused.to_string().contains("none"), "{refused:?}");
    assert_eq!(
        told.recv_timeout(wait)?,
        Some(std::process::id().into()),
        "by gRPC"
    );
    Ok(())
}
