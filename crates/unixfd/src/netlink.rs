//! Requests to the kernel's network configuration (rtnetlink), answered one at a time.
//!
//! Used by [`crate::links`]. The messages are those of `netlink-packet-route`; here is only their way to the kernel and
//! back, on the thread of the caller. Each request has a socket of its own, so that an answer can belong to no other.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

/// Largest answer that is read, bytes. One link with all its attributes is a tenth of it.
const ANSWER_MAX: usize = 65_536;

/// Sends a request and waits until the kernel has done it. `flags` are those beside "request" and "acknowledge".
///
/// # Errors
/// The kernel's.
pub(crate) fn carry_out(request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    ask(request, flags).map(drop)
}

/// Sends a request and gives back the first answer that is data, if there is one.
///
/// # Errors
/// The kernel's; `InvalidData` for an answer that is none.
pub(crate) fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = flags | NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = open()?;
    socket::sendto(
        socket.as_raw_fd(),
        &bytes,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    answer(&socket)
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
fn answer(socket: &OwnedFd) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut buffer = vec![0; ANSWER_MAX];
    let mut data = None;
    loop {
        let length = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((message, after)) = next(rest)? {
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(data),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(found) => data = data.or(Some(found)),
                _ => {}
            }
            rest = after;
        }
    }
}

/// The first message of these and what follows it; none at the end, or where the rest is cut short.
fn next(bytes: &[u8]) -> io::Result<Option<(NetlinkMessage<RouteNetlinkMessage>, &[u8])>> {
    let Ok(head) = NetlinkBuffer::new_checked(bytes) else {
        return Ok(None);
    };
    let length = head.length() as usize;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let message = NetlinkMessage::deserialize(bytes).map_err(invalid)?;
    Ok(Some((
        message,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_not_read() {
        for bytes in [
            &[][..],
            &[1],
            &[255, 255, 1, 0, 0],
            &[8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(next(bytes).unwrap().is_none(), "{bytes:?}");
        }
        let short_error = [18, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(next(&short_error).is_err());
    }
}
