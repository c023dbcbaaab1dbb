//! What a neighbour owes its client: calls, streams, registrations for events. Pure.
//!
//! ```text
//! call ── reply: error ──► gone          call ── reply ──► stream ── OK or ERROR of the neighbour ──► gone
//!  └───── reply ─────────► gone           └─ connection lost ─► error      └─ connection lost ─► ERROR
//!
//! registration: told to the client ─► lost with the connection ─► made again, known to the client by its first id
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use unixfd::Fds;
use wire::frame::{Header, PacketType, Status, put_packet};
use wire::procedure::{Procedure, ProcedureInfo};
use wire::remote::{
    ConnectNetworkEventDeregisterAny, ConnectNetworkEventRegisterAny, ConnectNodeDeviceEventDeregisterAny,
    ConnectNodeDeviceEventRegisterAny, ConnectSecretEventDeregisterAny, ConnectSecretEventRegisterAny,
    ConnectStoragePoolEventDeregisterAny, ConnectStoragePoolEventRegisterAny,
};
use wire::xdr::Xdr;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::Call;

/// Streams under way with one neighbour.
const STREAMS_MAX: usize = 32;
/// Registrations with one neighbour, and the bytes that are kept to make them again.
const REGISTRATIONS_MAX: usize = 1024;
const REGISTRATIONS_BYTES: usize = 256 << 10;
/// No id of a registration: ids count from 0.
const NO_ID: i32 = -1;

/// Calls that begin and that end a registration, one pair a driver.
const LISTENING: [(ProcedureInfo, ProcedureInfo); 4] = [
    (
        ConnectNetworkEventRegisterAny::INFO,
        ConnectNetworkEventDeregisterAny::INFO,
    ),
    (
        ConnectStoragePoolEventRegisterAny::INFO,
        ConnectStoragePoolEventDeregisterAny::INFO,
    ),
    (
        ConnectNodeDeviceEventRegisterAny::INFO,
        ConnectNodeDeviceEventDeregisterAny::INFO,
    ),
    (
        ConnectSecretEventRegisterAny::INFO,
        ConnectSecretEventDeregisterAny::INFO,
    ),
];

/// What goes to the client.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A reply or stream data, and the descriptors that follow it.
    Packet(Vec<u8>, Fds),
    /// An event.
    Notice(Vec<u8>),
    /// Nothing: there is room again for what the client sends.
    Room,
}

/// What is under way with one neighbour.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    serial: u32,
    /// By the serial that the neighbour knows.
    entries: BTreeMap<u32, Entry>,
    registrations: Vec<Registration>,
    /// Packets for the neighbour, and their bytes.
    outgoing: VecDeque<(Vec<u8>, Fds)>,
    outgoing_len: usize,
    /// What the client gets.
    pub(super) incoming: VecDeque<Delivery>,
}

#[derive(Debug)]
struct Entry {
    /// The client's call, or ours.
    call: Header,
    info: &'static ProcedureInfo,
    purpose: Purpose,
    /// The reply has come, the stream goes on.
    streaming: bool,
}

/// Whom a call is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// The client.
    Relay,
    /// The client, who begins to listen with this payload.
    Listen(Vec<u8>),
    /// The client, who ends the registration that it knows by this id.
    Unlisten(i32),
    /// Nobody: the registration of this id is made again.
    Again(i32),
    /// Nobody: a registration was made again and the client wants it no more.
    Forget,
}

/// A registration for events.
#[derive(Debug)]
struct Registration {
    /// The id that the client was told.
    client: i32,
    /// The id that the neighbour knows, while it knows it.
    neighbour: Option<i32>,
    info: &'static ProcedureInfo,
    payload: Vec<u8>,
}

impl Ledger {
    /// Calls and streams that the client waits for.
    pub(super) fn owed(&self) -> usize {
        self.entries.len()
    }

    /// Whether the client listens to events.
    pub(super) fn is_listening(&self) -> bool {
        !self.registrations.is_empty()
    }

    /// Takes the next packet for the neighbour.
    pub(super) fn next_outgoing(&mut self) -> Option<(Vec<u8>, Fds)> {
        let next = self.outgoing.pop_front()?;
        self.outgoing_len -= next.0.len();
        Some(next)
    }

    /// Bytes that wait for the neighbour.
    pub(super) fn outgoing_len(&self) -> usize {
        self.outgoing_len
    }

    fn push(&mut self, packet: Vec<u8>, fds: Fds) {
        self.outgoing_len += packet.len();
        self.outgoing.push_back((packet, fds));
    }

    /// Takes a call of the client.
    pub(super) fn call(
        &mut self,
        Call {
            header,
            info,
            payload,
            fds,
        }: Call<'_>,
    ) {
        let begins = LISTENING
            .iter()
            .any(|(register, _)| register.number == info.number);
        let ends = LISTENING
            .iter()
            .any(|(_, deregister)| deregister.number == info.number);
        if begins {
            if !self.may_listen(payload.len()) {
                return self.refuse(
                    header,
                    &busy("too many registrations for events on this connection"),
                );
            }
            return self.send(header, info, Purpose::Listen(payload.to_vec()), (payload, fds));
        }
        if ends {
            return self.unlisten(header, info, payload);
        }
        let streams = || {
            self.entries
                .values()
                .filter(|entry| entry.info.stream.is_some())
                .count()
        };
        if info.stream.is_some() && streams() >= STREAMS_MAX {
            return self.refuse(header, &busy("too many streams on this connection"));
        }
        self.send(header, info, Purpose::Relay, (payload, fds));
    }

    fn may_listen(&self, len: usize) -> bool {
        let asked = self.entries.values().filter_map(|entry| match &entry.purpose {
            Purpose::Listen(payload) => Some(payload.len()),
            _ => None,
        });
        let (count, bytes) = self
            .registrations
            .iter()
            .map(|known| known.payload.len())
            .chain(asked)
            .fold((1, len), |(n, sum), len| (n + 1, sum + len));
        count <= REGISTRATIONS_MAX && bytes <= REGISTRATIONS_BYTES
    }

    fn unlisten(&mut self, header: Header, info: &'static ProcedureInfo, payload: &[u8]) {
        let client = first_word(payload).unwrap_or(NO_ID);
        let Some(index) = self.registrations.iter().position(|known| known.client == client) else {
            // The neighbour says that there is none: not by an id that another registration has there.
            let taken = self
                .registrations
                .iter()
                .any(|known| known.neighbour == Some(client));
            let id = if taken { NO_ID } else { client };
            return self.send(header, info, Purpose::Relay, (&id.to_be_bytes(), Fds::default()));
        };
        match self.registrations.get(index).and_then(|known| known.neighbour) {
            Some(id) => self.send(
                header,
                info,
                Purpose::Unlisten(client),
                (&id.to_be_bytes(), Fds::default()),
            ),
            None => {
                // It is not registered now, and will not be.
                self.registrations.remove(index);
                self.incoming
                    .push_back(packet(&header.reply(Status::OK), &[], Vec::new()));
            }
        }
    }

    /// Asks for everything again that the client listens to, before anything else: the connection is new.
    pub(super) fn listen_again(&mut self) {
        let waiting = std::mem::take(&mut self.outgoing);
        let again: Vec<_> = self
            .registrations
            .iter()
            .map(|known| (known.info, known.client, known.payload.clone()))
            .collect();
        for (info, client, payload) in again {
            self.send(
                call_of(info),
                info,
                Purpose::Again(client),
                (&payload, Fds::default()),
            );
        }
        self.outgoing.extend(waiting);
    }

    fn send(
        &mut self,
        call: Header,
        info: &'static ProcedureInfo,
        purpose: Purpose,
        (payload, fds): (&[u8], Fds),
    ) {
        self.serial = self.serial.wrapping_add(1);
        while self.entries.contains_key(&self.serial) {
            self.serial = self.serial.wrapping_add(1);
        }
        let header = Header {
            serial: self.serial,
            ..call
        };
        self.entries.insert(
            self.serial,
            Entry {
                call,
                info,
                purpose,
                streaming: false,
            },
        );
        self.push(bytes(&header, payload, fds.len()), fds);
    }

    /// Takes a stream packet of the client; `false` when the stream is none of this neighbour's.
    pub(super) fn receive(&mut self, header: &Header, payload: &[u8]) -> bool {
        let same = |entry: &Entry| {
            let of_client = !matches!(entry.purpose, Purpose::Again(_) | Purpose::Forget);
            of_client
                && entry.info.stream.is_some()
                && (entry.call.serial, entry.call.procedure) == (header.serial, header.procedure)
        };
        let Some((serial, _)) = self.entries.iter().find(|(_, entry)| same(entry)) else {
            return false;
        };
        let header = Header {
            serial: *serial,
            ..*header
        };
        self.push(bytes(&header, payload, 0), Fds::default());
        true
    }

    /// Takes a packet of the neighbour.
    pub(super) fn on_packet(&mut self, header: &Header, payload: &[u8], fds: Vec<OwnedFd>) {
        match header.r#type {
            PacketType::REPLY | PacketType::REPLY_WITH_FDS => self.on_reply(header, payload, fds),
            PacketType::STREAM | PacketType::STREAM_HOLE => self.on_stream(header, payload),
            PacketType::MESSAGE => self.on_event(header, payload),
            _ => {}
        }
    }

    fn on_reply(&mut self, header: &Header, payload: &[u8], fds: Vec<OwnedFd>) {
        let ok = header.status == Status::OK;
        let Some(entry) = self
            .entries
            .get_mut(&header.serial)
            .filter(|entry| !entry.streaming)
        else {
            return;
        };
        let reply = Header {
            r#type: header.r#type,
            status: header.status,
            ..entry.call
        };
        if ok && entry.info.stream.is_some() {
            entry.streaming = true;
            self.incoming.push_back(packet(&reply, payload, fds));
            return;
        }
        let Some(Entry { info, purpose, .. }) = self.entries.remove(&header.serial) else {
            return;
        };
        let id = first_word(payload).filter(|_| ok);
        match (purpose, id) {
            (Purpose::Again(client), Some(id)) => self.registered_again(info, client, id),
            (Purpose::Again(_) | Purpose::Forget, _) => {}
            (Purpose::Listen(args), Some(id)) => {
                let client = self.registered(info, args, id);
                self.incoming
                    .push_back(packet(&reply, &client.to_be_bytes(), fds));
            }
            (purpose, _) => {
                if let (Purpose::Unlisten(client), true) = (purpose, ok) {
                    self.registrations.retain(|known| known.client != client);
                }
                self.incoming.push_back(packet(&reply, payload, fds));
            }
        }
    }

    /// Remembers a registration; the id that the client knows it by: the neighbour's, unless it is in use.
    fn registered(&mut self, info: &'static ProcedureInfo, payload: Vec<u8>, id: i32) -> i32 {
        let highest = self.registrations.iter().map(|known| known.client).max();
        let taken = self.registrations.iter().any(|known| known.client == id);
        let client = if taken {
            highest.map_or(id, |highest| highest.wrapping_add(1) & i32::MAX)
        } else {
            id
        };
        self.registrations.push(Registration {
            client,
            neighbour: Some(id),
            info,
            payload,
        });
        client
    }

    fn registered_again(&mut self, info: &'static ProcedureInfo, client: i32, id: i32) {
        if let Some(known) = self.registrations.iter_mut().find(|known| known.client == client) {
            known.neighbour = Some(id);
            return;
        }
        let pair = LISTENING
            .iter()
            .find(|(register, _)| register.number == info.number);
        if let Some((_, deregister)) = pair {
            self.send(
                call_of(deregister),
                deregister,
                Purpose::Forget,
                (&id.to_be_bytes(), Fds::default()),
            );
        }
    }

    fn on_stream(&mut self, header: &Header, payload: &[u8]) {
        let Some(entry) = self
            .entries
            .get(&header.serial)
            .filter(|entry| entry.info.stream.is_some())
        else {
            return;
        };
        let relayed = Header {
            serial: entry.call.serial,
            ..*header
        };
        if header.status != Status::CONTINUE {
            self.entries.remove(&header.serial);
        }
        self.incoming.push_back(packet(&relayed, payload, Vec::new()));
    }

    /// Relays an event of a registration that the client knows. Others were ended, or are not answered yet;
    /// clients make nothing of those.
    fn on_event(&mut self, header: &Header, payload: &[u8]) {
        let Some((id, rest)) = payload.split_first_chunk() else {
            return;
        };
        let id = i32::from_be_bytes(*id);
        let Some(known) = self
            .registrations
            .iter()
            .find(|known| known.neighbour == Some(id))
        else {
            return;
        };
        let mut out = Vec::with_capacity(payload.len() + 28);
        let put = put_packet(&mut out, header, |out| {
            known.client.encode(out)?;
            out.extend_from_slice(rest);
            Ok(())
        });
        if put.is_ok() {
            self.incoming.push_back(Delivery::Notice(out));
        }
    }

    /// The connection is lost: everything that is owed ends with an error, and registrations are to be made again.
    pub(super) fn lose(&mut self, error: impl Fn(&ProcedureInfo) -> WireError) {
        (self.outgoing, self.outgoing_len) = (VecDeque::new(), 0);
        for registration in &mut self.registrations {
            registration.neighbour = None;
        }
        for entry in std::mem::take(&mut self.entries).into_values() {
            match entry.purpose {
                Purpose::Again(_) | Purpose::Forget => {}
                Purpose::Unlisten(client) => {
                    self.registrations.retain(|known| known.client != client);
                    self.incoming
                        .push_back(packet(&entry.call.reply(Status::OK), &[], Vec::new()));
                }
                Purpose::Relay | Purpose::Listen(_) => {
                    let status = Status::ERROR;
                    let header = if entry.streaming {
                        entry.call.stream(status)
                    } else {
                        entry.call.reply(status)
                    };
                    self.refuse(header, &error(entry.info));
                }
            }
        }
    }

    fn refuse(&mut self, call: Header, error: &WireError) {
        let header = match call.r#type {
            PacketType::STREAM => call,
            _ => call.reply(Status::ERROR),
        };
        let mut out = Vec::with_capacity(256);
        if put_packet(&mut out, &header, |out| error.encode(out)).is_ok() {
            self.incoming.push_back(Delivery::Packet(out, Fds::default()));
        }
    }
}

fn busy(detail: &str) -> WireError {
    WireError::new(ErrorCode::RESOURCE_BUSY, ErrorDomain::RPC, detail)
}

fn first_word(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().map(|word| i32::from_be_bytes(*word))
}

/// The header of a call of ours; its serial is set when it is sent.
fn call_of(info: &ProcedureInfo) -> Header {
    Header {
        program: info.program,
        version: 1,
        procedure: info.number,
        r#type: PacketType::CALL,
        serial: 0,
        status: Status::OK,
    }
}

fn packet(header: &Header, payload: &[u8], fds: Vec<OwnedFd>) -> Delivery {
    Delivery::Packet(bytes(header, payload, fds.len()), Fds::new(fds))
}

/// A packet of what was one before, with the count of its descriptors where its type has one.
fn bytes(header: &Header, payload: &[u8], fds: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 32);
    let _ = put_packet(&mut out, header, |out| {
        if header.carries_fds() {
            u32::try_from(fds).unwrap_or_default().encode(out)?;
        }
        out.extend_from_slice(payload);
        Ok(())
    });
    out
}
