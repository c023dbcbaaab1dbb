//! A neighbour that answers as the test says, packet by packet.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use wire::frame::{Header, PacketType, Status, put_bytes};
use wire::xdr::{Encode, Reader, Xdr};
use wire::{Procedure, WireError, remote};

use crate::client::Got;

/// A listening neighbour.
pub(crate) struct Neighbour {
    listener: UnixListener,
}

/// One of its connections.
pub(crate) struct Session {
    pub(crate) socket: UnixStream,
    /// The URI and flags it was opened with.
    pub(crate) opened: (String, u32),
    /// Whom it is for.
    pub(crate) identity: remote::ConnectSetIdentity,
}

impl Neighbour {
    pub(crate) fn at(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        Self {
            listener: UnixListener::bind(path).unwrap(),
        }
    }

    /// A connection that is not opened yet.
    pub(crate) fn accept_raw(&self) -> UnixStream {
        self.listener.set_nonblocking(true).unwrap();
        let start = Instant::now();
        loop {
            if let Ok((socket, _)) = self.listener.accept() {
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                return socket;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "nobody came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next connection, opened.
    pub(crate) fn accept(&self) -> Session {
        let mut session = Session {
            socket: self.accept_raw(),
            opened: Default::default(),
            identity: Default::default(),
        };
        let (call, _) = session.call::<remote::AuthList>();
        session.reply(
            &call,
            &remote::AuthListRet {
                types: vec![remote::AuthType::NONE].into(),
            },
        );
        let (call, open) = session.call::<remote::ConnectOpen>();
        session.opened = (open.name.unwrap().to_str().into_owned(), open.flags);
        session.reply(&call, &());
        let (call, identity) = session.call::<remote::ConnectSetIdentity>();
        session.identity = identity;
        session.reply(&call, &());
        session
    }
}

impl Session {
    /// The next packet that is no ping; those are answered. `None` at end of file.
    pub(crate) fn receive(&mut self) -> Option<Got> {
        loop {
            let mut word = [0; 4];
            self.socket.read_exact(&mut word).ok()?;
            let mut body = vec![0; wire::frame::packet_len(word).unwrap() - 4];
            self.socket.read_exact(&mut body).ok()?;
            let header = Header::decode(&mut Reader::new(&body)).unwrap();
            match wire::keepalive::Keepalive::of(&header) {
                Some(_) => self.send(&wire::keepalive::Keepalive::Pong.header(), &[]),
                None => {
                    return Some(Got {
                        header,
                        payload: body[24..].to_vec(),
                    });
                }
            }
        }
    }

    /// The next call, which is one of `P`.
    pub(crate) fn call<P: Procedure>(&mut self) -> (Header, P) {
        let got = self.receive().unwrap();
        assert_eq!(
            (got.header.r#type, got.header.procedure),
            (PacketType::CALL, P::INFO.number),
            "{}",
            P::INFO.name
        );
        (got.header, P::decode(&mut Reader::new(&got.payload)).unwrap())
    }

    pub(crate) fn send(&mut self, header: &Header, payload: &[u8]) {
        let mut out = Vec::new();
        put_bytes(&mut out, header, payload).unwrap();
        let _ = self.socket.write_all(&out);
    }

    pub(crate) fn reply(&mut self, call: &Header, reply: &impl Encode) {
        let mut payload = Vec::new();
        reply.put(&mut payload).unwrap();
        self.send(&call.reply(Status::OK), &payload);
    }

    pub(crate) fn refuse(&mut self, call: &Header, error: &WireError) {
        let mut payload = Vec::new();
        error.encode(&mut payload).unwrap();
        self.send(&call.reply(Status::ERROR), &payload);
    }

    /// An event.
    pub(crate) fn tell<P: Procedure>(&mut self, event: &P) {
        let mut payload = Vec::new();
        event.encode(&mut payload).unwrap();
        let (program, procedure) = (P::INFO.program, P::INFO.number);
        let header = Header {
            program,
            version: 1,
            procedure,
            r#type: PacketType::MESSAGE,
            serial: 1,
            status: Status::OK,
        };
        self.send(&header, &payload);
    }
}
