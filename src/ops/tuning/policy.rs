//! The host's scheduling policies of a guest's threads, as its document chooses them: set when a thread is there, and with
//! it gone.

use domxml::{
    Domain,
    tuning::{Scheduler, SchedulerChoice},
};
use unixfd::Policy;

use crate::{
    error::{Code, Error, Result},
    ops::holdings::cgroup::thread::Thread,
};

/// What the document chooses for a thread; a thread of which it says nothing has what made it.
pub(crate) fn of(document: &Domain, thread: Thread) -> Option<SchedulerChoice> {
    let tune = document.cputune.as_ref()?;
    match thread {
        Thread::Emulator => tune.emulatorsched,
        Thread::Vcpu(id) => {
            let own = tune.vcpusched.iter().find(|s| s.vcpus.contains(id));
            own.map(|s| s.choice)
        }
        Thread::Io(id) => {
            let own = tune.iothreadsched.iter().find(|s| s.iothreads.contains(id));
            own.map(|s| s.choice)
        }
    }
}

/// Gives a thread, by the host's number, the policy that the document chooses for it.
///
/// # Errors
/// `ConfigUnsupported` for a priority that the host has not; what the kernel refuses.
pub(crate) fn set(document: &Domain, thread: Thread, tid: i32) -> Result<()> {
    let Some(policy) = of(document, thread).map(policy) else {
        return Ok(());
    };
    check(policy)?;
    unixfd::set_policy(tid, policy).map_err(|error| {
        Error::system(
            format_args!("Cannot set scheduler parameters for pid {tid}"),
            error,
        )
    })
}

fn check(policy: Policy) -> Result<()> {
    let (Policy::Fifo(priority) | Policy::RoundRobin(priority)) = policy else {
        return Ok(());
    };
    let there = policy.priorities();
    if there.contains(&priority) {
        return Ok(());
    }
    let (least, most) = (there.start(), there.end());
    Err(Error::new(
        Code::ConfigUnsupported,
        format!("Scheduler priority {priority} out of range [{least}, {most}]"),
    ))
}

fn policy(choice: SchedulerChoice) -> Policy {
    let priority = choice.priority.unwrap_or(0);
    match choice.scheduler {
        Scheduler::Batch => Policy::Batch,
        Scheduler::Idle => Policy::Idle,
        Scheduler::Fifo => Policy::Fifo(priority),
        Scheduler::Rr => Policy::RoundRobin(priority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_what_is_said_of_it() {
        let text = "<domain type='qemu'><name>a</name><memory>1</memory><vcpu>3</vcpu><iothreads>2</iothreads><cputune>
            <emulatorsched scheduler='batch'/>
            <vcpusched vcpus='0-1' scheduler='fifo' priority='3'/>
            <iothreadsched iothreads='2' scheduler='idle'/></cputune></domain>";
        let document = Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        let chosen = |thread| of(&document, thread).map(policy);
        assert_eq!(chosen(Thread::Emulator), Some(Policy::Batch));
        assert_eq!(chosen(Thread::Vcpu(1)), Some(Policy::Fifo(3)));
        assert_eq!((chosen(Thread::Vcpu(2)), chosen(Thread::Io(1))), (None, None));
        assert_eq!(chosen(Thread::Io(2)), Some(Policy::Idle));
    }

    #[test]
    fn priorities_are_the_hosts() {
        assert!(check(Policy::Fifo(1)).is_ok() && check(Policy::Idle).is_ok());
        assert_eq!(
            check(Policy::RoundRobin(100)).unwrap_err().message,
            "Scheduler priority 100 out of range [1, 99]"
        );
    }
}
