//! Messages to the kernel's network configuration (rtnetlink): built, sent, and answered one at a time.
//!
//! Used by [`crate::links`]. A socket of its own for each request, so that an answer can belong to no other.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

/// A request of the caller's, which is answered in any case.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// What is made must not be there.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// What is not there is made.
pub(crate) const CREATE: u16 = 0x400;
/// An attribute that has attributes inside.
const NESTED: u16 = 0x8000;
const ERROR: u16 = 0x2;
const HEADER: usize = 16;
/// Largest answer that is read, bytes. One link with all its attributes is a tenth of it.
const ANSWER_MAX: usize = 65_536;

/// A message under way to the kernel.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    kind: u16,
    flags: u16,
}

impl Message {
    /// One of a kind, with the fixed part that the kind has.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(fixed);
        Self {
            bytes,
            kind,
            flags: flags | REQUEST | ACK,
        }
    }

    /// Appends an attribute. Whatever is too long for one is cut by the kernel's own checks: lengths have 16 bits.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(value);
        self.close(start, kind)
    }

    /// Appends an attribute of text, which ends with a zero.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that has inside what `fill` appends.
    pub(crate) fn put_nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        self.close(start, kind | NESTED)
    }

    fn close(&mut self, start: usize, kind: u16) -> &mut Self {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(head) = self.bytes.get_mut(start..start + 4) {
            head[..2].copy_from_slice(&length.to_ne_bytes());
            head[2..].copy_from_slice(&kind.to_ne_bytes());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Sends it and waits until it is done.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn carry_out(self) -> io::Result<()> {
        self.ask().map(drop)
    }

    /// Sends it and gives back the first answer that is data: what follows its header. Empty if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn ask(mut self) -> io::Result<Vec<u8>> {
        let length = u32::try_from(self.bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&self.flags.to_ne_bytes());
        let socket = open()?;
        socket::sendto(
            socket.as_raw_fd(),
            &self.bytes,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        answer(&socket)
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// Reads until the kernel says how the request went.
fn answer(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; ANSWER_MAX];
    let mut data = Vec::new();
    loop {
        let length = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, after)) = next(rest) {
            match (kind, i32_at(body, 0)) {
                (ERROR, Some(0)) => return Ok(data),
                (ERROR, Some(code)) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
                (ERROR, None) => return Err(io::ErrorKind::InvalidData.into()),
                _ if data.is_empty() => data = body.to_vec(),
                _ => {}
            }
            rest = after;
        }
    }
}

/// The first message of these: its kind, what follows its header, and what follows it.
fn next(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((
        kind,
        body,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// The attribute of a kind among these.
pub(crate) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// A number in an attribute or a fixed part.
pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Text in an attribute, without the zero that ends it.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_as_they_were_put() {
        let mut message = Message::new(16, 0, &[]);
        message
            .put_text(3, "abc")
            .put(5, &7_u32.to_ne_bytes())
            .put_nested(18, |inside| {
                inside.put_text(1, "macvtap");
            });
        let attributes = &message.bytes[HEADER..];
        assert_eq!(attributes.len() % 4, 0);
        assert_eq!(attribute(attributes, 3).map(text).as_deref(), Some("abc"));
        assert_eq!(attribute(attributes, 5).and_then(|v| i32_at(v, 0)), Some(7));
        let inside = attribute(attributes, 18).unwrap();
        assert_eq!(attribute(inside, 1).map(text).as_deref(), Some("macvtap"));
        assert_eq!(attribute(attributes, 9), None);
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        for bytes in [
            &[][..],
            &[1],
            &[255, 255, 1, 0, 0],
            &[0, 0, 1, 0],
            &[8, 0, 1, 0, 1],
        ] {
            assert_eq!(attribute(bytes, 9), None, "{bytes:?}");
            assert_eq!(attribute(bytes, 1).map(<[u8]>::len), None, "{bytes:?}");
            assert!(next(bytes).is_none(), "{bytes:?}");
        }
    }
}
