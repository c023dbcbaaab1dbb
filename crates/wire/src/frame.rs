//! Packets: a length word, a header of six words, a payload.
//!
//! ```text
//! length | program | version | procedure | type | serial | status | payload
//! ```
//!
//! The length counts itself. Descriptors follow a packet outside its length, one byte each; how many
//! is the first word of the payload of the two types that carry them. Pure: bytes in, bytes out.

use thiserror::Error;

use crate::xdr::{DecodeError, Encode, Reader, TooLong, Xdr};
use crate::{xdr_enum, xdr_struct};

/// Bytes of the length word.
pub const LENGTH_LEN: usize = 4;
/// Bytes of the header.
pub const HEADER_LEN: usize = 24;
/// Shortest packet, length word included.
pub const PACKET_MIN: usize = LENGTH_LEN + HEADER_LEN;
/// Longest packet, length word included.
pub const PACKET_MAX: usize = 33_554_432 + LENGTH_LEN;
/// Longest payload.
pub const PAYLOAD_MAX: usize = PACKET_MAX - PACKET_MIN;
/// Most descriptors with one packet.
pub const FDS_MAX: usize = 32;
/// Most stream data libvirt puts in one packet.
pub const STREAM_CHUNK: usize = 262_120;
/// Serial that events carry.
pub const EVENT_SERIAL: u32 = 1;

xdr_enum! {
    /// What a packet is.
    PacketType { CALL = 0, REPLY = 1, MESSAGE = 2, STREAM = 3, CALL_WITH_FDS = 4, REPLY_WITH_FDS = 5, STREAM_HOLE = 6 }
    /// How the exchange stands.
    Status { OK = 0, ERROR = 1, CONTINUE = 2 }
}

xdr_struct! {
    /// The six words before a payload.
    #[derive(Copy, Eq)]
    Header {
        /// Number of the program.
        program: u32,
        /// Version of the program.
        version: u32,
        /// Number of the procedure.
        procedure: i32,
        /// What the packet is.
        r#type: PacketType,
        /// Which call it belongs to, counted by the client.
        serial: u32,
        /// How the exchange stands.
        status: Status,
    }
    /// Payload of a stream hole: a run of zero bytes that is not sent.
    #[derive(Copy, Eq)]
    StreamHole {
        /// Bytes that are left out.
        length: i64,
        /// None are defined.
        flags: u32,
    }
}

impl Header {
    /// Whether its payload begins with a count of descriptors.
    #[must_use]
    pub fn carries_fds(&self) -> bool {
        matches!(
            self.r#type,
            PacketType::CALL_WITH_FDS | PacketType::REPLY_WITH_FDS
        )
    }

    /// The header of a reply to this call.
    #[must_use]
    pub fn reply(&self, status: Status) -> Self {
        Self {
            r#type: PacketType::REPLY,
            status,
            ..*self
        }
    }

    /// The header of a stream packet that belongs to this call.
    #[must_use]
    pub fn stream(&self, status: Status) -> Self {
        Self {
            r#type: PacketType::STREAM,
            status,
            ..*self
        }
    }
}

/// Bytes that are no packet: after any of these the two sides disagree on where packets begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length word is below [`PACKET_MIN`] or above [`PACKET_MAX`].
    #[error("packet length {0} is out of range")]
    Length(u32),
    /// There are fewer bytes than the length word says.
    #[error("packet is cut short")]
    Short,
    /// More than [`FDS_MAX`] descriptors, or no count of them.
    #[error("bad count of descriptors")]
    Fds,
}

/// A whole packet, split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packet<'a> {
    /// Its header.
    pub header: Header,
    /// How many descriptors follow it.
    pub fds: usize,
    /// The rest: arguments, a reply, an error, stream data.
    pub payload: &'a [u8],
}

/// Checks a length word: bytes of the packet, length word included.
///
/// # Errors
/// When it is out of range.
pub fn packet_len(word: [u8; LENGTH_LEN]) -> Result<usize, FrameError> {
    let len = u32::from_be_bytes(word);
    match usize::try_from(len) {
        Ok(bytes) if (PACKET_MIN..=PACKET_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(FrameError::Length(len)),
    }
}

/// Splits the packet that `bytes` begin with.
///
/// # Errors
/// When they are not a whole packet.
pub fn decode_packet(bytes: &[u8]) -> Result<Packet<'_>, FrameError> {
    let (word, _) = bytes.split_first_chunk().ok_or(FrameError::Short)?;
    let body = bytes
        .get(LENGTH_LEN..packet_len(*word)?)
        .ok_or(FrameError::Short)?;
    let mut reader = Reader::new(body);
    let header = Header::decode(&mut reader).map_err(|_| FrameError::Short)?;
    let fds = if header.carries_fds() {
        fds_count(&mut reader)?
    } else {
        0
    };
    Ok(Packet {
        header,
        fds,
        payload: reader.rest(),
    })
}

fn fds_count(reader: &mut Reader<'_>) -> Result<usize, FrameError> {
    let count = u32::decode(reader).map_err(|_: DecodeError| FrameError::Fds)?;
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= FDS_MAX)
        .ok_or(FrameError::Fds)
}

/// Appends a packet to `out`: `header` and what `payload` appends. On an error `out` is as before.
///
/// # Errors
/// When the payload is larger than its type or a packet allows.
pub fn put_packet(
    out: &mut Vec<u8>,
    header: &Header,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_LEN]);
    let done = header.encode(out).and_then(|()| payload(out)).and_then(|()| {
        let len = out.len() - start;
        let word = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        let place = out
            .get_mut(start..start + LENGTH_LEN)
            .filter(|_| len <= PACKET_MAX);
        place
            .ok_or(TooLong { len, max: PACKET_MAX })?
            .copy_from_slice(&word);
        Ok(())
    });
    if done.is_err() {
        out.truncate(start);
    }
    done
}

/// Appends a reply to `call`, with the count of descriptors that follow it where there are any.
///
/// # Errors
/// When the reply is larger than its type or a packet allows.
pub fn put_reply(out: &mut Vec<u8>, call: &Header, reply: &impl Encode, fds: usize) -> Result<(), TooLong> {
    let mut header = call.reply(Status::OK);
    if fds == 0 {
        return put_packet(out, &header, |out| reply.put(out));
    }
    header.r#type = PacketType::REPLY_WITH_FDS;
    let count = u32::try_from(fds)
        .ok()
        .filter(|_| fds <= FDS_MAX)
        .ok_or(TooLong {
            len: fds,
            max: FDS_MAX,
        })?;
    put_packet(out, &header, |out| {
        count.encode(out)?;
        reply.put(out)
    })
}

/// Appends a packet whose payload is `bytes` as they are.
///
/// # Errors
/// When they are more than a packet holds.
pub fn put_bytes(out: &mut Vec<u8>, header: &Header, bytes: &[u8]) -> Result<(), TooLong> {
    put_packet(out, header, |out| {
        out.extend_from_slice(bytes);
        Ok(())
    })
}
