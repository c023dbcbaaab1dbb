//! Limits of a process that runs.

#![expect(unsafe_code, reason = "a system call that no library here wraps")]

use std::io;

/// How many bytes a process may lock; `u64::MAX`: as many as it likes.
///
/// # Errors
/// There is no such process, or the caller may not look at it.
pub fn locked_memory(pid: i32) -> io::Result<u64> {
    match exchange(pid, None) {
        // Of another user's process it is read without a right to change it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => shown(pid),
        other => other,
    }
}

/// What the kernel shows of the limit.
fn shown(pid: i32) -> io::Result<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    match soft {
        Some("unlimited") => Ok(u64::MAX),
        Some(number) => number.parse().map_err(io::Error::other),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sets how many bytes a process may lock.
///
/// # Errors
/// There is no such process, or the caller may not raise its limit.
pub fn set_locked_memory(pid: i32, bytes: u64) -> io::Result<()> {
    exchange(pid, Some(bytes)).map(drop)
}

/// Sets the limit, if one is given; what it was.
fn exchange(pid: i32, bytes: Option<u64>) -> io::Result<u64> {
    let new = bytes.map(|bytes| libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    });
    let mut old = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let given = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are to values that outlive the call, or null.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_MEMLOCK, given, &raw mut old) };
    match result {
        0 => Ok(old.rlim_cur),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_process_is_changed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        set_locked_memory(pid, 64 << 10).unwrap();
        assert_eq!(locked_memory(pid).unwrap(), 64 << 10);
        let shown = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = shown
            .lines()
            .find(|line| line.starts_with("Max locked memory"))
            .unwrap();
        assert!(line.contains(" 65536 "), "{line}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(locked_memory(pid).is_err());
    }
}
