//! A process held by descriptor: its number cannot be given to another while it is watched.
//!
//! Exit is seen here and nowhere else: an orphan stays a zombie until PID 1 reaps it, so `kill(pid, 0)`
//! answers "alive" for seconds after the end; a pidfd is readable at once.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process. It may have ended; it is never another one.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: i32,
    start_time: u64,
}

impl PidFd {
    /// The process that has number `pid` now.
    ///
    /// # Errors
    /// `ESRCH` when there is none (or it has ended and only waits to be reaped), else what
    /// `pidfd_open` gives.
    pub fn open(pid: i32) -> io::Result<Self> {
        let fd = pidfd_open(pid)?;
        let start_time = start_time(pid)?;
        let this = Self { fd, pid, start_time };
        // Still alive after /proc was read: so /proc spoke of this process.
        if this.has_exited() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(this)
    }

    /// The process that had number `pid` and began at `start_time` (see [`PidFd::start_time`]).
    ///
    /// # Errors
    /// `ESRCH` when it is gone, also when its number belongs to another now; else as [`PidFd::open`].
    pub fn open_started(pid: i32, start_time: u64) -> io::Result<Self> {
        let this = Self::open(pid)?;
        if this.start_time != start_time {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(this)
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it began, in clock ticks after boot: with the number it names a process until the next boot.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Whether it has ended, reaped or not. Does not block.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits for its end. Any number of tasks may wait; cancel safe.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    #[expect(unsafe_code, reason = "tokio wants to be told that the descriptor stays open")]
    pub async fn exited(&self) -> io::Result<()> {
        // A copy, because one descriptor can be registered once only.
        let copy = self.fd.try_clone()?;
        // SAFETY: an OwnedFd is open, and stays the same, as long as it lives; the AsyncFd owns it.
        let watched = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }?;
        watched.readable().await.map(drop)
    }

    /// Sends `signal` to it.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EPERM` when it may not be signalled.
    #[expect(unsafe_code, reason = "nix has no pidfd_send_signal")]
    pub fn send_signal(&self, signal: nix::sys::signal::Signal) -> io::Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: takes a descriptor and numbers; a null siginfo asks for the default one.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal as i32,
                none,
                0,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Another handle of the same process.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (pid, start_time) = (self.pid, self.start_time);
        Ok(Self {
            fd: self.fd.try_clone()?,
            pid,
            start_time,
        })
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// When process `pid` began, in clock ticks after boot (field 22 of `/proc/PID/stat`).
///
/// # Errors
/// `ESRCH` when there is no such process, `InvalidData` when the kernel's line is odd.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::from_raw_os_error(libc::ESRCH),
        _ => error,
    })?;
    parse_start_time(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The name in field 2 may hold spaces and parentheses: fields are counted from the last one.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[expect(unsafe_code, reason = "nix has no pidfd_open")]
fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel made `fd` in the call above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn start_time_is_found_behind_any_name() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194304 9 0 0 0 0 0 0 0 20 0 1 0 4711 1 2";
        assert_eq!(parse_start_time(line), Some(4711));
        for bad in [
            "",
            "7",
            "7 (x",
            "7 (x) S 1",
            "7 (x) S 1 7 7 0 -1 4 9 0 0 0 0 0 0 0 20 0 1 0 x 1",
        ] {
            assert_eq!(parse_start_time(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_end_is_seen_though_nobody_reaps() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = PidFd::open(child.id() as i32).unwrap();
        assert!(!pidfd.has_exited());
        let (one, two) = (pidfd.exited(), pidfd.exited());
        pidfd.send_signal(Signal::SIGKILL).unwrap();
        let both = async { tokio::try_join!(one, two) };
        tokio::time::timeout(Duration::from_secs(5), both)
            .await
            .unwrap()
            .unwrap();
        assert!(pidfd.has_exited());
        assert!(start_time(pidfd.pid()).is_ok(), "it is still there as a zombie");
        assert!(PidFd::open(pidfd.pid()).is_err());
        child.wait().unwrap();
        let error = pidfd.send_signal(Signal::SIGKILL).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_number_with_another_start_time_is_another_process() {
        let own = std::process::id() as i32;
        let start = start_time(own).unwrap();
        assert_eq!(PidFd::open_started(own, start).unwrap().pid(), own);
        let error = PidFd::open_started(own, start + 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
