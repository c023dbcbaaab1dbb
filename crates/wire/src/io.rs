//! Packets over a Unix socket, with the descriptors that follow them.
//!
//! [`Input`] takes what the socket has and hands out whole packets; [`Output`] gathers what is to be
//! sent and writes it in as few calls as possible. Both are driven by one task that owns the connection.
//! The hard thing is memory: the buffers hold what has arrived, never what a length word promises.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::net::UnixStream;
use unixfd::QuietStream;

use crate::frame::{FDS_MAX, FrameError, Header, LENGTH_LEN, PACKET_MIN, packet_len};
use crate::xdr::{Reader, Xdr};

/// Bytes of an input buffer at rest.
const AT_REST: usize = 512;
/// Longest packet of a stranger that is looked at.
const STRANGER_MAX: usize = 2048;
/// Largest input buffer kept when all in it has been taken.
const KEEP: usize = 65_536;
/// From this size on a packet is written from its own memory instead of being copied together with others.
const OWN_CHUNK: usize = 32_768;

/// What has been received and not yet taken.
#[derive(Debug)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that still come and are to be thrown away.
    skip: usize,
    fds: VecDeque<OwnedFd>,
    trust: Trust,
}

/// How much is taken from the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Packets of at most 2048 bytes, no descriptors: what is larger is read and thrown away.
    Stranger,
    /// All that the protocol allows.
    Known,
}

/// A whole packet at the front of an [`Input`].
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// Its header.
    pub header: Header,
    /// Descriptors that belong to it.
    pub fds: usize,
    payload: (usize, usize),
    len: usize,
    skip: usize,
}

impl Input {
    /// Nothing received yet.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self {
            buffer: vec![0; AT_REST],
            start: 0,
            end: 0,
            skip: 0,
            fds: VecDeque::new(),
            trust,
        }
    }

    /// Sets how much is taken from now on.
    pub fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// Receives what there is, at least one byte; `false` at end of file. Cancel safe.
    ///
    /// # Errors
    /// What the socket gives; `InvalidData` for more descriptors than any packet has.
    pub async fn fill(&mut self, stream: &UnixStream) -> io::Result<bool> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let received = unixfd::recv_with_fds(stream, room).await?;
        self.add(received)
    }

    /// [`Self::fill`] over a stream that is polled.
    ///
    /// # Errors
    /// As there.
    pub fn poll_fill(&mut self, stream: &QuietStream, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let received = ready!(stream.poll_recv(context, room));
        Poll::Ready(received.and_then(|received| self.add(received)))
    }

    /// [`Self::fill`] of what is there now.
    ///
    /// # Errors
    /// As there; `WouldBlock` when there is nothing.
    pub fn fill_now(&mut self, stream: &QuietStream) -> io::Result<bool> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let received = stream.try_recv(room)?;
        self.add(received)
    }

    fn add(&mut self, (len, fds): (usize, Vec<OwnedFd>)) -> io::Result<bool> {
        if self.trust == Trust::Known {
            self.fds.extend(fds);
        }
        if self.fds.len() > 2 * FDS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.end += len;
        self.drop_skipped();
        Ok(len > 0)
    }

    /// The packet at the front, once it and its descriptors are all there.
    ///
    /// # Errors
    /// When what is there is no packet: the connection can only be closed.
    pub fn front(&self) -> Result<Option<Arrived>, FrameError> {
        let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((word, _)) = bytes.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let len = packet_len(*word)?;
        let Some(head) = bytes.get(LENGTH_LEN..PACKET_MIN) else {
            return Ok(None);
        };
        let mut reader = Reader::new(head);
        let header = Header::decode(&mut reader).map_err(|_| FrameError::Short)?;
        let (fds, skip_count) = match (header.carries_fds(), bytes.get(PACKET_MIN..PACKET_MIN + 4)) {
            (false, _) => (0, 0),
            (true, _) if len < PACKET_MIN + 4 => return Err(FrameError::Fds),
            (true, None) => return Ok(None),
            (true, Some(count)) => (fds_count(count)?, 4),
        };
        let whole = len + fds;
        let payload = (self.start + PACKET_MIN + skip_count, self.start + len);
        if bytes.len() >= whole {
            return Ok(Some(Arrived {
                header,
                fds,
                payload,
                len: whole,
                skip: 0,
            }));
        }
        if self.trust == Trust::Stranger && whole > STRANGER_MAX {
            let none = (payload.0, payload.0);
            return Ok(Some(Arrived {
                header,
                fds,
                payload: none,
                len: bytes.len(),
                skip: whole - bytes.len(),
            }));
        }
        Ok(None)
    }

    /// The payload of the packet at the front.
    #[must_use]
    pub fn payload(&self, packet: &Arrived) -> &[u8] {
        self.buffer
            .get(packet.payload.0..packet.payload.1)
            .unwrap_or_default()
    }

    /// Removes the packet at the front; its descriptors, fewer than it has if they did not come.
    pub fn take(&mut self, packet: &Arrived) -> Vec<OwnedFd> {
        self.start = (self.start + packet.len).min(self.end);
        self.skip = packet.skip;
        let fds = packet.fds.min(self.fds.len());
        let fds = self.fds.drain(..fds).collect();
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEEP {
                self.buffer = vec![0; AT_REST];
            }
        }
        fds
    }

    /// Overwrites what was taken: it was secret.
    pub fn wipe(&mut self) {
        let waiting = self.start..self.end;
        let taken = self
            .buffer
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| !waiting.contains(at));
        taken.for_each(|(_, byte)| *byte = 0);
        std::hint::black_box(&self.buffer);
    }

    fn drop_skipped(&mut self) {
        let skipped = self.skip.min(self.end - self.start);
        self.start += skipped;
        self.skip -= skipped;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for at least a quarter of the buffer, which grows with what has come.
    fn make_room(&mut self) {
        let short = |input: &Self| input.buffer.len() - input.end < input.buffer.len() / 4;
        if short(self) && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if short(self) {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}

fn fds_count(word: &[u8]) -> Result<usize, FrameError> {
    let count = u32::decode(&mut Reader::new(word)).map_err(|_| FrameError::Fds)?;
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= FDS_MAX)
        .ok_or(FrameError::Fds)
}

/// What is to be sent.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have been sent.
    sent: usize,
    len: usize,
    /// Bytes ever queued, and where in that count each droppable packet ends.
    queued: u64,
    notices: VecDeque<(u64, usize)>,
    notice_len: usize,
}

#[derive(Debug)]
enum Chunk {
    Bytes(Vec<u8>),
    Fd(OwnedFd),
}

impl Output {
    /// Bytes waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes waiting that nobody asked for ([`Self::push_notice`]).
    #[must_use]
    pub fn notice_len(&self) -> usize {
        self.notice_len
    }

    /// Queues a packet.
    pub fn push(&mut self, packet: Vec<u8>) {
        self.len += packet.len();
        self.queued += packet.len() as u64;
        match self.chunks.back_mut() {
            Some(Chunk::Bytes(last)) if packet.len() < OWN_CHUNK && last.len() < OWN_CHUNK => {
                last.extend_from_slice(&packet);
            }
            _ => self.chunks.push_back(Chunk::Bytes(packet)),
        }
    }

    /// Queues a packet and the descriptors that follow it.
    pub fn push_with_fds(&mut self, packet: Vec<u8>, fds: Vec<OwnedFd>) {
        self.push(packet);
        self.len += fds.len();
        self.queued += fds.len() as u64;
        self.chunks.extend(fds.into_iter().map(Chunk::Fd));
    }

    /// Queues a packet that is counted apart: an event.
    pub fn push_notice(&mut self, packet: Vec<u8>) {
        let len = packet.len();
        self.push(packet);
        self.notices.push_back((self.queued, len));
        self.notice_len += len;
    }

    /// Sends bytes for as long as the socket takes them without waiting.
    ///
    /// # Errors
    /// What the socket gives.
    pub fn try_flush(&mut self, stream: &UnixStream) -> io::Result<()> {
        while let Some(Chunk::Bytes(bytes)) = self.chunks.front() {
            match stream.try_write(bytes.get(self.sent..).unwrap_or_default()) {
                Ok(sent) => self.account(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends some of what waits; returns at once when nothing does. Cancel safe.
    ///
    /// # Errors
    /// What the socket gives.
    pub async fn flush_some(&mut self, stream: &UnixStream) -> io::Result<()> {
        let sent = match self.chunks.front() {
            None => return Ok(()),
            Some(Chunk::Fd(fd)) => {
                unixfd::send_fd(stream, fd.as_fd()).await?;
                1
            }
            Some(Chunk::Bytes(bytes)) => loop {
                let rest = bytes.get(self.sent..).unwrap_or_default();
                match stream.try_write(rest) {
                    Ok(sent) => break sent,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
                    Err(error) => return Err(error),
                }
            },
        };
        self.account(sent);
        Ok(())
    }

    /// [`Self::flush_some`] over a stream that is polled.
    ///
    /// # Errors
    /// What the socket gives.
    pub fn poll_flush(&mut self, stream: &QuietStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.len;
        loop {
            self.send_now(stream)?;
            if self.is_empty() || self.len < before {
                return Poll::Ready(Ok(()));
            }
            ready!(stream.poll_room(context))?;
        }
    }

    /// Sends what the socket takes without waiting.
    ///
    /// # Errors
    /// What the socket gives.
    pub fn send_now(&mut self, stream: &QuietStream) -> io::Result<()> {
        while let Some(chunk) = self.chunks.front() {
            let sent = match chunk {
                Chunk::Bytes(bytes) => stream.try_send(bytes.get(self.sent..).unwrap_or_default()),
                Chunk::Fd(fd) => stream.try_send_fd(fd).map(|()| 1),
            };
            match sent {
                Ok(sent) => self.account(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn account(&mut self, sent: usize) {
        self.len -= sent;
        self.sent += sent;
        if self.chunks.front().is_some_and(|chunk| chunk.len() <= self.sent) {
            self.chunks.pop_front();
            self.sent = 0;
        }
        let done = self.queued - self.len as u64;
        while let Some((_, len)) = self.notices.front().copied().filter(|(end, _)| *end <= done) {
            self.notice_len -= len;
            self.notices.pop_front();
        }
    }
}

impl Chunk {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Fd(_) => 1,
        }
    }
}
