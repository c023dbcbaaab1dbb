//! Counters of the host's kernel and CPUs for one process.
#![expect(unsafe_code, reason = "a system call that no library here wraps")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, RawFd};

/// `PERF_TYPE_HARDWARE`.
pub const HARDWARE: u32 = 0;
/// `PERF_TYPE_SOFTWARE`.
pub const SOFTWARE: u32 = 1;

/// Bytes of `struct perf_event_attr` in its first version.
const ATTR_SIZE: u32 = 64;
/// Where its flags are.
const FLAGS: usize = 40;
/// The process's children and threads to come are counted, too.
const INHERIT: u8 = 1 << 1;

/// One counter, which counts from the moment it is there.
#[derive(Debug)]
pub struct Counter(File);

impl Counter {
    /// Counts an event of a kind, by the kernel's numbers, in the process and what it starts from now on.
    ///
    /// # Errors
    /// The host has no such event, or the caller lacks the right.
    pub fn open(kind: u32, event: u64, pid: i32) -> io::Result<Self> {
        let mut attr = [0_u8; ATTR_SIZE as usize];
        attr[0..4].copy_from_slice(&kind.to_ne_bytes());
        attr[4..8].copy_from_slice(&ATTR_SIZE.to_ne_bytes());
        attr[8..16].copy_from_slice(&event.to_ne_bytes());
        attr[FLAGS] = INHERIT;
        const ANY_CPU: libc::c_int = -1;
        const NO_GROUP: libc::c_int = -1;
        const CLOSE_ON_EXEC: libc::c_ulong = 8;
        // SAFETY: the kernel reads as many bytes as the structure says that it has, and it outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                attr.as_ptr(),
                pid,
                ANY_CPU,
                NO_GROUP,
                CLOSE_ON_EXEC,
            )
        };
        match RawFd::try_from(result) {
            // SAFETY: the call has just made this descriptor, and nobody else has it.
            Ok(fd) if fd >= 0 => Ok(Self(unsafe { File::from_raw_fd(fd) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How often it has happened.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn read(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_in_a_process_is_counted() {
        let pid = i32::try_from(std::process::id()).unwrap();
        // The kernel's own clock; where nobody may count, there is nothing to try.
        match Counter::open(SOFTWARE, 1, pid) {
            Ok(counter) => assert!(counter.read().is_ok()),
            Err(error) => assert!(error.raw_os_error().is_some()),
        }
        assert!(Counter::open(u32::MAX, 0, pid).is_err());
    }
}
