//! Why a run ends, and the state, event and log line that follow.

use crate::domain::Condition;

/// Why a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody powered it off.
    Destroyed,
    /// It shut down.
    Shutdown,
    /// The guest's system crashed and is not to be kept.
    Crashed,
    /// Its state was saved.
    Saved,
    /// QEMU died without a word.
    Failed,
    /// A snapshot was made of it, or it is set back to one.
    FromSnapshot,
    /// It could not be started, or its start was not finished.
    NotStarted,
    /// A daemon that took it over was told by a script of the administrator to end it.
    Daemon,
}

impl Cause {
    /// The state afterwards, the detail of the event if there is one, and the word in the guest's log.
    pub(crate) fn outcome(self) -> (Condition, Option<i32>, &'static str) {
        match self {
            Cause::Shutdown => (Condition::SHUTOFF_SHUTDOWN, Some(0), "shutdown"),
            Cause::Destroyed => (Condition::SHUTOFF_DESTROYED, Some(1), "destroyed"),
            Cause::Crashed => (Condition::SHUTOFF_CRASHED, Some(2), "crashed"),
            Cause::Saved => (Condition::SHUTOFF_SAVED, Some(4), "saved"),
            Cause::Failed => (Condition::SHUTOFF_CRASHED, Some(5), "crashed"),
            Cause::Daemon => (Condition::SHUTOFF_DAEMON, Some(5), "daemon"),
            Cause::FromSnapshot => (Condition::SHUTOFF_FROM_SNAPSHOT, Some(6), "from-snapshot"),
            Cause::NotStarted => (Condition::SHUTOFF_FAILED, None, "failed"),
        }
    }
}
