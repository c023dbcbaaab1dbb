//! The client's side: calls to another daemon that speaks this protocol, one at a time.
//!
//! Who forwards or tests owns one of these. Pings are answered while a call waits; events that arrive
//! meanwhile are kept, up to a limit, until they are asked for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use thiserror::Error;
use tokio::net::UnixStream;

use crate::frame::{FrameError, Header, PacketType, Status, put_bytes, put_packet};
use crate::io::{Input, Output, Trust};
use crate::keepalive::Keepalive;
use crate::xdr::{DecodeError, Reader, TooLong, Xdr};
use crate::{Procedure, WireError, remote};

/// Events that are kept; beyond it the oldest is dropped.
const EVENTS_KEPT: usize = 1024;

/// Why a call has no reply.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The daemon answered with an error.
    #[error(transparent)]
    Remote(Box<WireError>),
    /// The daemon hung up.
    #[error("connection closed by the daemon")]
    Closed,
    /// The daemon sent what is no packet.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The daemon sent what is no such reply.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The arguments are larger than the protocol allows.
    #[error(transparent)]
    Encode(#[from] TooLong),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Says which event it is.
    pub header: Header,
    /// Its payload, to be read as the type of its procedure.
    pub payload: Vec<u8>,
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    input: Input,
    output: Output,
    serial: u32,
    events: VecDeque<Message>,
}

impl Client {
    /// Connects to the socket at `path`; nothing is opened yet.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::over(UnixStream::connect(path).await?))
    }

    /// Takes over a connected socket; nothing is opened yet.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        let (input, output) = (Input::new(Trust::Known), Output::default());
        Self {
            stream,
            input,
            output,
            serial: 0,
            events: VecDeque::new(),
        }
    }

    /// Connects to the socket at `path`, authenticates as this process, and opens `uri`.
    ///
    /// # Errors
    /// When nobody listens there, or the daemon refuses.
    pub async fn open(path: &Path, uri: &str) -> Result<Self, ClientError> {
        let mut client = Self::connect(path).await?;
        client.call(&remote::AuthList {}).await?;
        client
            .call(&remote::ConnectOpen {
                name: Some(uri.into()),
                flags: 0,
            })
            .await?;
        Ok(client)
    }

    /// Calls a procedure and waits for its reply. Not cancel safe: a dropped call leaves its reply to come.
    ///
    /// # Errors
    /// What the daemon answers, or why there is no answer.
    pub async fn call<P: Procedure>(&mut self, args: &P) -> Result<P::Reply, ClientError> {
        let mut payload = Vec::new();
        args.encode(&mut payload)?;
        let reply = self.call_raw(P::INFO.program, P::INFO.number, &payload).await?;
        Ok(P::Reply::decode(&mut Reader::new(&reply))?)
    }

    /// [`Self::call`] for a reply that is secret: nothing of it stays in memory but what is given back.
    ///
    /// # Errors
    /// As there.
    pub async fn call_secret<P: Procedure>(&mut self, args: &P) -> Result<P::Reply, ClientError> {
        let mut payload = Vec::new();
        args.encode(&mut payload)?;
        let mut reply = self.call_raw(P::INFO.program, P::INFO.number, &payload).await?;
        let decoded = P::Reply::decode(&mut Reader::new(&reply));
        reply.fill(0);
        std::hint::black_box(&reply);
        self.input.wipe();
        Ok(decoded?)
    }

    /// The same with a reply that brings descriptors.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_for_fds<P: Procedure>(
        &mut self,
        args: &P,
    ) -> Result<(P::Reply, Vec<OwnedFd>), ClientError> {
        let mut payload = Vec::new();
        args.encode(&mut payload)?;
        let (reply, fds) = self.exchange(P::INFO.program, P::INFO.number, &payload).await?;
        Ok((P::Reply::decode(&mut Reader::new(&reply))?, fds))
    }

    /// Calls a procedure with encoded arguments; the encoded reply.
    ///
    /// # Errors
    /// What the daemon answers, or why there is no answer.
    pub async fn call_raw(
        &mut self,
        program: u32,
        procedure: i32,
        args: &[u8],
    ) -> Result<Vec<u8>, ClientError> {
        Ok(self.exchange(program, procedure, args).await?.0)
    }

    async fn exchange(
        &mut self,
        program: u32,
        procedure: i32,
        args: &[u8],
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), ClientError> {
        self.serial = self.serial.wrapping_add(1);
        let (r#type, status) = (PacketType::CALL, Status::OK);
        let call = Header {
            program,
            version: 1,
            procedure,
            r#type,
            serial: self.serial,
            status,
        };
        let mut packet = Vec::with_capacity(args.len() + 28);
        put_bytes(&mut packet, &call, args)?;
        self.output.push(packet);
        loop {
            let (Message { header, payload }, fds) = self.receive().await?;
            match (header.r#type, header.status) {
                (PacketType::REPLY | PacketType::REPLY_WITH_FDS, status) if header.serial == call.serial => {
                    if status == Status::OK {
                        return Ok((payload, fds));
                    }
                    let error = WireError::decode(&mut Reader::new(&payload))?;
                    return Err(ClientError::Remote(Box::new(error)));
                }
                (PacketType::MESSAGE, _) => self.keep(Message { header, payload }),
                _ => {}
            }
        }
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn event(&mut self) -> Result<Message, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let (message, _) = self.receive().await?;
            if message.header.r#type == PacketType::MESSAGE {
                return Ok(message);
            }
        }
    }

    /// The connection itself, for who goes on by his own rules. The serials used so far are below the number of
    /// calls made, plus one.
    #[must_use]
    pub fn into_parts(self) -> (UnixStream, Input) {
        (self.stream, self.input)
    }

    fn keep(&mut self, event: Message) {
        if self.events.len() >= EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next packet but pings, which are answered.
    async fn receive(&mut self) -> Result<(Message, Vec<OwnedFd>), ClientError> {
        loop {
            while !self.output.is_empty() {
                self.output.flush_some(&self.stream).await?;
            }
            let Some(packet) = self.input.front()? else {
                if !self.input.fill(&self.stream).await? {
                    return Err(ClientError::Closed);
                }
                continue;
            };
            let message = Message {
                header: packet.header,
                payload: self.input.payload(&packet).to_vec(),
            };
            let fds = self.input.take(&packet);
            match Keepalive::of(&message.header) {
                None => return Ok((message, fds)),
                Some(Keepalive::Pong) => {}
                Some(Keepalive::Ping) => {
                    let mut pong = Vec::new();
                    put_packet(&mut pong, &Keepalive::Pong.header(), |_| Ok(()))?;
                    self.output.push(pong);
                }
            }
        }
    }
}
