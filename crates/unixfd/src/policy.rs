//! The policy by which the host's scheduler picks a thread.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::io;

/// A policy, with the priority where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Work that nobody waits for (`SCHED_BATCH`).
    Batch,
    /// Only when nobody else wants the CPU (`SCHED_IDLE`).
    Idle,
    /// Before all others, as long as it likes (`SCHED_FIFO`).
    Fifo(i32),
    /// Before all others, in turns (`SCHED_RR`).
    RoundRobin(i32),
}

impl Policy {
    fn number(self) -> libc::c_int {
        match self {
            Self::Batch => libc::SCHED_BATCH,
            Self::Idle => libc::SCHED_IDLE,
            Self::Fifo(_) => libc::SCHED_FIFO,
            Self::RoundRobin(_) => libc::SCHED_RR,
        }
    }

    fn priority(self) -> i32 {
        match self {
            Self::Batch | Self::Idle => 0,
            Self::Fifo(priority) | Self::RoundRobin(priority) => priority,
        }
    }

    /// The priorities that the host has for it.
    #[must_use]
    pub fn priorities(self) -> std::ops::RangeInclusive<i32> {
        // SAFETY: both take a number.
        unsafe {
            let number = self.number();
            libc::sched_get_priority_min(number)..=libc::sched_get_priority_max(number)
        }
    }
}

/// Gives a thread a policy; threads that it makes from now on inherit it.
///
/// # Errors
/// The kernel's: no such thread, no right to it, or no time for it in the thread's control group.
pub fn set_policy(thread: i32, policy: Policy) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: policy.priority(),
    };
    // SAFETY: reads a struct on this stack.
    if unsafe { libc::sched_setscheduler(thread, policy.number(), &raw const parameters) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_the_policy_that_it_is_given() {
        let thread = std::thread::spawn(|| {
            let own = nix::unistd::gettid().as_raw();
            set_policy(own, Policy::Batch).unwrap();
            set_policy(own, Policy::Idle).unwrap();
            // The policy is the 41st field, after the name in parentheses.
            let stat = std::fs::read_to_string(format!("/proc/self/task/{own}/stat")).unwrap();
            let after = stat.rsplit(')').next().unwrap();
            assert_eq!(after.split_whitespace().nth(38), Some("5"));
        });
        thread.join().unwrap();
        assert_eq!(Policy::Fifo(1).priorities(), 1..=99);
        assert_eq!(
            set_policy(-1, Policy::Idle).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}
