//! A client that sends what it likes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use wire::frame::{Header, PacketType, Status, put_packet};
use wire::xdr::{Reader, Xdr};
use wire::{Procedure, WireError, remote};

/// A packet as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Got {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Client {
    pub(crate) socket: UnixStream,
    pub(crate) serial: u32,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, serial: 0 }
    }

    pub(crate) fn open(path: &Path) -> Self {
        let mut client = Self::connect(path);
        client.call(&remote::AuthList {}).unwrap();
        let open = remote::ConnectOpen {
            name: Some("qemu:///system".into()),
            flags: 0,
        };
        client.call(&open).unwrap();
        client
    }

    pub(crate) fn header<P: Procedure>(&mut self) -> Header {
        self.serial += 1;
        Header {
            program: P::INFO.program,
            version: 1,
            procedure: P::INFO.number,
            r#type: PacketType::CALL,
            serial: self.serial,
            status: Status::OK,
        }
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        // A server that has hung up is seen when reading.
        let _ = self.socket.write_all(bytes);
    }

    pub(crate) fn send_packet(&mut self, header: &Header, payload: &[u8]) {
        let mut out = Vec::new();
        put_packet(&mut out, header, |out| {
            out.extend_from_slice(payload);
            Ok(())
        })
        .unwrap();
        self.send_raw(&out);
    }

    pub(crate) fn send<P: Procedure>(&mut self, args: &P) -> u32 {
        let header = self.header::<P>();
        let mut payload = Vec::new();
        args.encode(&mut payload).unwrap();
        self.send_packet(&header, &payload);
        header.serial
    }

    /// The next packet; `None` when the server has hung up.
    pub(crate) fn receive(&mut self) -> Option<Got> {
        let mut word = [0; 4];
        self.socket.read_exact(&mut word).ok()?;
        let mut body = vec![0; wire::frame::packet_len(word).unwrap() - 4];
        self.socket.read_exact(&mut body).ok()?;
        let header = Header::decode(&mut Reader::new(&body)).unwrap();
        Some(Got {
            header,
            payload: body[24..].to_vec(),
        })
    }

    /// Whether nothing comes for a while.
    pub(crate) fn hears_nothing(&mut self) -> bool {
        self.socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let result = self.socket.read(&mut [0; 1]);
        self.socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        result.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    pub(crate) fn call<P: Procedure>(&mut self, args: &P) -> Result<P::Reply, WireError> {
        let serial = self.send(args);
        let got = self.receive().unwrap();
        assert_eq!(
            (got.header.serial, got.header.procedure),
            (serial, P::INFO.number)
        );
        got.reply::<P>()
    }
}

impl Got {
    pub(crate) fn reply<P: Procedure>(&self) -> Result<P::Reply, WireError> {
        let mut reader = Reader::new(&self.payload);
        match self.header.status {
            Status::OK => Ok(P::Reply::decode(&mut reader).unwrap()),
            _ => Err(WireError::decode(&mut reader).unwrap()),
        }
    }

    /// As one line: type, status, and the error where it is one.
    pub(crate) fn line(&self) -> String {
        match (self.header.r#type, self.header.status) {
            (PacketType::REPLY, Status::OK) => "ok".into(),
            (PacketType::REPLY, Status::ERROR) => {
                let error = WireError::decode(&mut Reader::new(&self.payload)).unwrap();
                format!("error {} {} {error}", error.code.0, error.domain.0)
            }
            other => format!("{other:?}"),
        }
    }
}
