//! Descriptors over Unix sockets (`SCM_RIGHTS`) for tokio's streams.
//!
//! Two shapes are in use: QEMU takes descriptors along with the bytes of a command
//! ([`send_with_fds`]); libvirt's RPC sends one byte a descriptor after the packet
//! ([`send_fd`], [`recv_fd`]).

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Most descriptors in one message (the kernel's `SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Sends all of `data`, `fds` going with its first byte.
///
/// Not cancel safe: a dropped call may have sent a part.
///
/// # Errors
/// `InvalidInput` for more than [`MAX_FDS`] descriptors or for descriptors without data; else what
/// the socket gives.
pub async fn send_with_fds(stream: &UnixStream, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS || (data.is_empty() && !fds.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut sent = 0;
    while sent < data.len() {
        let with: &[RawFd] = if sent == 0 { &raw } else { &[] };
        sent += stream
            .async_io(Interest::WRITABLE, || {
                send_once(stream.as_raw_fd(), &data[sent..], with)
            })
            .await?;
    }
    Ok(())
}

/// Receives up to `buffer.len()` bytes and the descriptors that came with them; 0 bytes: end of file.
///
/// Cancel safe: nothing is taken before it returns.
///
/// # Errors
/// `InvalidData` when the kernel had to drop descriptors (none are handed out then); else what the
/// socket gives.
pub async fn recv_with_fds(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    loop {
        stream.readable().await?;
        match try_recv_with_fds(stream, buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// [`recv_with_fds`] of what is there now.
///
/// # Errors
/// As there; `WouldBlock` when there is nothing, and who waits for it is woken when something comes.
pub fn try_recv_with_fds(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut received = None;
    let result = stream.try_io(Interest::READABLE, || {
        let (len, fds) = recv_once(stream.as_raw_fd(), buffer)?;
        // Less than fits, not cut short by descriptors: nothing is left, which spares the call that would say so.
        let empty = len > 0 && len < buffer.len() && fds.is_empty();
        received = Some((len, fds));
        if empty {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    match (received, result) {
        (Some(received), _) => Ok(received),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Sends one descriptor with one byte of zero, as libvirt's RPC does after a packet.
///
/// # Errors
/// What the socket gives.
pub async fn send_fd(stream: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    send_with_fds(stream, &[0], &[fd]).await
}

/// Receives one byte and the one descriptor with it.
///
/// # Errors
/// `UnexpectedEof` at end of file, `InvalidData` unless exactly one descriptor came; else what the
/// socket gives.
pub async fn recv_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let (len, mut fds) = recv_with_fds(stream, &mut [0]).await?;
    match (len, fds.pop()) {
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        (_, Some(fd)) if fds.is_empty() => Ok(fd),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A copy of the descriptor that this process was started with as `number`.
///
/// # Errors
/// `EBADF` when there is none.
#[expect(unsafe_code, reason = "a number from a command line is no BorrowedFd")]
pub fn copy_of_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: copying takes nothing from whoever owns `number`, and fails when it is not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(own(copy))
    }
}

pub(crate) fn send_once(socket: RawFd, data: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let sent = sendmsg::<()>(socket, &[IoSlice::new(data)], control, flags, None)?;
    Ok(sent)
}

pub(crate) fn recv_once(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    thread_local! {
        /// Room for what comes beside the bytes; every receipt of a thread takes the same.
        static SPACE: RefCell<Vec<u8>> = RefCell::new(nix::cmsg_space!([RawFd; MAX_FDS]));
    }
    SPACE.with_borrow_mut(|space| recv_into(socket, buffer, space))
}

fn recv_into(socket: RawFd, buffer: &mut [u8], space: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut iov = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket, &mut iov, Some(space), flags)?;
    let mut fds = Vec::new();
    let truncated = message.flags.contains(MsgFlags::MSG_CTRUNC);
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received.into_iter().map(own));
        }
    }
    if truncated {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, fds))
}

#[expect(
    unsafe_code,
    reason = "recvmsg made this descriptor for us; nobody else knows its number"
)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel installed `fd` in this very call, so it is open and ours alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn file_with(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn text_of(fd: OwnedFd) -> String {
        let (mut file, mut text) = (File::from(fd), String::new());
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn descriptors_arrive_in_order_with_the_first_byte() {
        let (a, b) = UnixStream::pair().unwrap();
        let (one, two) = (file_with("one"), file_with("two"));
        send_with_fds(&a, b"hello", &[one.as_fd(), two.as_fd()])
            .await
            .unwrap();
        let mut buffer = [0; 16];
        let (len, fds) = recv_with_fds(&b, &mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"hello");
        let texts: Vec<_> = fds.into_iter().map(text_of).collect();
        assert_eq!(texts, ["one", "two"]);
    }

    #[tokio::test]
    async fn one_byte_a_descriptor_as_libvirt_sends_them() {
        let (a, b) = UnixStream::pair().unwrap();
        for text in ["one", "two"] {
            send_fd(&a, file_with(text).as_fd()).await.unwrap();
        }
        for text in ["one", "two"] {
            assert_eq!(text_of(recv_fd(&b).await.unwrap()), text);
        }
        send_with_fds(&a, b"x", &[]).await.unwrap();
        assert_eq!(recv_fd(&b).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(a);
        assert_eq!(
            recv_fd(&b).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn more_than_a_socket_buffer_is_sent_whole() {
        let (a, b) = UnixStream::pair().unwrap();
        let data = vec![7; 1 << 20];
        let reader = tokio::spawn(async move {
            let (mut total, mut buffer, mut fds) = (0, vec![0; 65536], 0);
            loop {
                let (len, more) = recv_with_fds(&b, &mut buffer).await.unwrap();
                if len == 0 {
                    return (total, fds);
                }
                (total, fds) = (total + len, fds + more.len());
            }
        });
        send_with_fds(&a, &data, &[file_with("x").as_fd()]).await.unwrap();
        drop(a);
        assert_eq!(reader.await.unwrap(), (1 << 20, 1));
    }
}
