//! The threads of a guest and the parts of its control group that they are in.

use confine::cgroup::Part;

/// A thread of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Thread {
    /// A CPU's, by its number.
    Vcpu(u32),
    /// QEMU's own.
    Emulator,
    /// A thread for I/O, by its number.
    Io(u32),
}

/// The group of a thread.
pub(crate) fn part_of(thread: Thread) -> Part {
    match thread {
        Thread::Vcpu(id) => Part::Vcpu(id),
        Thread::Emulator => Part::Emulator,
        Thread::Io(id) => Part::IoThread(id),
    }
}
