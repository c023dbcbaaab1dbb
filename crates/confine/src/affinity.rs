//! The host's CPUs that a thread may run on.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Lets a thread run on `cpus` only; threads that it makes from now on inherit that. CPUs that the host has not are
/// passed over, as the kernel does.
///
/// # Errors
/// The kernel's: no such thread, or none of the CPUs is there.
pub fn set_affinity(thread: i32, cpus: impl IntoIterator<Item = u32>) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        // More than the kernel's set holds: no such CPU.
        let _ = set.set(usize::try_from(cpu).unwrap_or(usize::MAX));
    }
    Ok(sched_setaffinity(Pid::from_raw(thread), &set)?)
}

/// The CPUs that a thread may run on, in their order.
///
/// # Errors
/// The kernel's: no such thread.
pub fn affinity(thread: i32) -> io::Result<Vec<u32>> {
    let set = sched_getaffinity(Pid::from_raw(thread))?;
    let is_in = |cpu: &u32| usize::try_from(*cpu).is_ok_and(|cpu| set.is_set(cpu).unwrap_or(false));
    Ok((0..u32::try_from(CpuSet::count()).unwrap_or(u32::MAX))
        .filter(is_in)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_may() {
        let own = || nix::unistd::gettid().as_raw();
        let thread = std::thread::spawn(move || {
            let all = affinity(own()).unwrap();
            let first = all[0];
            set_affinity(own(), [first, 1 << 20]).unwrap();
            assert_eq!(affinity(own()).unwrap(), [first]);
            assert!(set_affinity(own(), []).is_err());
        });
        thread.join().unwrap();
    }
}
