//! A character device as a stream: terminals and the like, which can be polled but are no sockets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A file that was opened with `O_NONBLOCK` and can be polled.
#[derive(Debug)]
pub struct AsyncFile {
    fd: AsyncFd<File>,
}

impl AsyncFile {
    /// Takes over `file`.
    ///
    /// # Errors
    /// When it cannot be polled, as regular files cannot.
    pub fn new(file: File) -> io::Result<Self> {
        #[expect(
            unsafe_code,
            reason = "tokio wants the promise that the descriptor stays open"
        )]
        // SAFETY: a `File` owns its descriptor and is not let go before the registration is.
        let fd = unsafe { AsyncFd::register(file) }?;
        Ok(Self { fd })
    }
}

impl AsyncRead for AsyncFile {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|fd| fd.get_ref().read(unfilled)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for AsyncFile {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| fd.get_ref().write(data)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_to_one_end_of_a_fifo_is_read_at_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .unwrap()
        };
        let (mut one, mut other) = (AsyncFile::new(open()).unwrap(), AsyncFile::new(open()).unwrap());
        let reading = tokio::spawn(async move {
            let mut word = [0; 5];
            other.read_exact(&mut word).await.unwrap();
            word
        });
        one.write_all(b"hello").await.unwrap();
        assert_eq!(&reading.await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn a_regular_file_is_refused() {
        assert!(AsyncFile::new(tempfile::tempfile().unwrap()).is_err());
    }
}
