//! Core scheduling: threads that have one cookie share the hardware threads of a core with nobody else.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::io;

const PR_SCHED_CORE: libc::c_int = 62;
const GET: libc::c_ulong = 0;
const CREATE: libc::c_ulong = 1;
const SHARE_TO: libc::c_ulong = 2;
const SHARE_FROM: libc::c_ulong = 3;
const OF_THREAD: libc::c_ulong = 0;
const OF_PROCESS: libc::c_ulong = 1;

/// Whether the kernel has core scheduling.
///
/// # Errors
/// The kernel's: a host whose cores have one hardware thread each (`ENODEV`), say.
pub fn has_core_scheduling() -> io::Result<bool> {
    match cookie(0) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The cookie of a thread, 0 for this one; 0 where it has none.
///
/// # Errors
/// The kernel's: no such thread, no core scheduling.
pub fn cookie(thread: i32) -> io::Result<u64> {
    let mut cookie = 0_u64;
    // SAFETY: the kernel writes eight bytes to a place on this stack that is aligned for them.
    let done = unsafe { libc::prctl(PR_SCHED_CORE, GET, thread, OF_THREAD, &raw mut cookie) };
    result(done).map(|()| cookie)
}

/// Gives a thread a cookie that nobody has; threads and processes that it makes from now on have it too.
///
/// # Errors
/// The kernel's: no such thread, no right to it, no core scheduling.
pub fn new_cookie(thread: i32) -> io::Result<()> {
    // SAFETY: takes numbers.
    result(unsafe { libc::prctl(PR_SCHED_CORE, CREATE, thread, OF_THREAD, 0) })
}

/// Gives a process, all its threads, a cookie that nobody has.
///
/// # Errors
/// As [`new_cookie`].
pub fn new_cookie_of_process(pid: i32) -> io::Result<()> {
    // SAFETY: takes numbers.
    result(unsafe { libc::prctl(PR_SCHED_CORE, CREATE, pid, OF_PROCESS, 0) })
}

/// Gives `others` the cookie of a thread. A thread that ends with this call carries it over, since the kernel only knows
/// taking for oneself and giving one's own.
///
/// # Errors
/// As [`new_cookie`].
pub fn share_cookie(thread: i32, others: Vec<i32>) -> io::Result<()> {
    let carry = move || {
        // SAFETY: takes numbers.
        result(unsafe { libc::prctl(PR_SCHED_CORE, SHARE_FROM, thread, OF_THREAD, 0) })?;
        others.into_iter().try_for_each(|other| {
            // SAFETY: takes numbers.
            result(unsafe { libc::prctl(PR_SCHED_CORE, SHARE_TO, other, OF_THREAD, 0) })
        })
    };
    let carrier = std::thread::Builder::new().spawn(carry)?;
    carrier
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the carrier of a cookie was cut off")))
}

fn result(done: libc::c_int) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// On kernels without core scheduling every call says so; on others threads have what they are given.
    #[test]
    fn threads_share_a_cookie_and_this_one_keeps_its_own() {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let waiting = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = ended.recv();
        });
        let other = told.recv().unwrap();
        if has_core_scheduling().is_ok_and(|there| there) {
            new_cookie(other).unwrap();
            let own = cookie(0).unwrap();
            assert_ne!((cookie(other).unwrap(), 0), (own, 0));
            share_cookie(0, vec![other]).unwrap();
            assert_eq!(cookie(other).unwrap(), own);
        } else {
            for refused in [
                new_cookie(other),
                new_cookie_of_process(other),
                share_cookie(0, vec![other]),
            ] {
                assert!(refused.is_err());
            }
        }
        drop(end);
        waiting.join().unwrap();
        assert!(cookie(-1).is_err());
    }
}
