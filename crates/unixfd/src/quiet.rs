//! A socket that wakes its task for what arrives, and for room to send only while a send waits.
//!
//! tokio's own streams ask for both at once: each packet that the other side takes wakes the sender for nothing,
//! just when the other side needs the processor to work on it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, send};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::passing::{recv_once, send_once};

/// A connected Unix socket; all its calls come from one task.
#[derive(Debug)]
pub struct QuietStream {
    reader: AsyncFd<OwnedFd>,
    /// Another descriptor of the same socket, while a send waits.
    writer: OnceLock<AsyncFd<OwnedFd>>,
    /// The last send found no room, and nobody has been told of any since.
    full: AtomicBool,
}

impl QuietStream {
    /// Takes over `stream`.
    ///
    /// # Errors
    /// What the runtime gives.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let fd = OwnedFd::from(stream.into_std()?);
        Ok(Self {
            reader: watch(fd, Interest::READABLE)?,
            writer: OnceLock::new(),
            full: AtomicBool::new(false),
        })
    }

    /// Receives what there is and the descriptors that came with it; 0 bytes: end of file.
    ///
    /// # Errors
    /// As [`crate::recv_with_fds`].
    pub fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, Vec<OwnedFd>)>> {
        loop {
            let mut guard = ready!(self.reader.poll_read_ready(context))?;
            match recv_once(self.reader.as_raw_fd(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Ok((len, fds)) if len > 0 && len < buffer.len() && fds.is_empty() => {
                    // Not cut short by descriptors: nothing is left, which spares the call that would say so.
                    guard.clear_ready();
                    return Poll::Ready(Ok((len, fds)));
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Receives without waiting, though nothing has been told to be there yet.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, else as [`crate::recv_with_fds`].
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        recv_once(self.reader.as_raw_fd(), buffer)
    }

    /// Sends some of `data` without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, and then until [`Self::poll_room`] tells of some; else what the socket gives.
    pub fn try_send(&self, data: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        self.unless_full(|socket| Ok(send(socket, data, flags)?))
    }

    /// Sends one descriptor with one byte of zero, without waiting.
    ///
    /// # Errors
    /// As [`Self::try_send`].
    pub fn try_send_fd(&self, fd: &OwnedFd) -> io::Result<()> {
        self.unless_full(|socket| send_once(socket, &[0], &[fd.as_raw_fd()]))
            .map(drop)
    }

    fn unless_full<T>(&self, send: impl FnOnce(RawFd) -> io::Result<T>) -> io::Result<T> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = send(self.reader.as_raw_fd());
        let full = result
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.full.store(full, Ordering::Relaxed);
        result
    }

    /// Waits for room, after a send that found none.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let writer = match self.writer.get() {
            Some(writer) => writer,
            None => {
                let writer = watch(self.reader.get_ref().try_clone()?, Interest::WRITABLE)?;
                self.writer.get_or_init(|| writer)
            }
        };
        // The next send says whether there is room: this only tells that something has changed.
        ready!(writer.poll_write_ready(context))?.clear_ready();
        self.full.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Nothing more is to be sent for now.
    pub fn rest(&mut self) {
        self.writer = OnceLock::new();
        *self.full.get_mut() = false;
    }
}

impl AsRawFd for QuietStream {
    fn as_raw_fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }
}

#[expect(unsafe_code, reason = "tokio wants to be told that the descriptor stays open")]
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and stays the same, as long as it lives; the AsyncFd owns it.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(watched?)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn receive(stream: &QuietStream) -> (String, usize) {
        let mut buffer = [0; 16];
        let (len, fds) = poll_fn(|context| stream.poll_recv(context, &mut buffer))
            .await
            .unwrap();
        (String::from_utf8_lossy(&buffer[..len]).into_owned(), fds.len())
    }

    #[tokio::test]
    async fn a_packet_that_is_taken_wakes_nobody() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let quiet = QuietStream::new(ours).unwrap();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(
            quiet
                .poll_recv(&mut Context::from_waker(&waker), &mut [0; 4])
                .is_pending()
        );
        assert_eq!(quiet.try_send(b"call").unwrap(), 4);
        theirs.readable().await.unwrap();
        assert_eq!(theirs.try_read(&mut [0; 16]).unwrap(), 4);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        theirs.try_write(b"reply").unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn everything_arrives_in_pieces_with_descriptors_and_to_the_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let quiet = QuietStream::new(ours).unwrap();
        let file = tempfile::tempfile().unwrap();
        for _ in 0..3 {
            theirs.try_write(b"0123456789").unwrap();
            crate::send_fd(&theirs, file.as_fd()).await.unwrap();
        }
        theirs.try_write(b"end").unwrap();
        drop(theirs);
        let (mut text, mut fds) = (String::new(), 0);
        loop {
            let (piece, with) = receive(&quiet).await;
            if piece.is_empty() {
                break;
            }
            (text, fds) = (text + &piece, fds + with);
        }
        assert_eq!((text.len(), fds), (36, 3));
    }

    #[tokio::test]
    async fn who_finds_no_room_is_woken_when_there_is() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut quiet = QuietStream::new(ours).unwrap();
        let theirs = theirs.into_std().unwrap();
        let reader = std::thread::spawn(move || {
            theirs.set_nonblocking(false).unwrap();
            let mut sink = Vec::new();
            std::io::copy(&mut &theirs, &mut sink).unwrap();
            sink.flush().unwrap();
            sink.len()
        });
        let mut sent = 0;
        while sent < 4 << 20 {
            match quiet.try_send(&[7; 65_536]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| quiet.poll_room(context)).await.unwrap()
                }
                Err(error) => panic!("{error}"),
            }
        }
        quiet.rest();
        drop(quiet);
        assert_eq!(reader.join().unwrap(), sent);
    }
}
