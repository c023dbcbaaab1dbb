//! How long a call for statistics waits for a guest, and what it tells of a guest that it does not wait for. Decisions only.
//!
//! Used by `ask`. Two things must hold together: no call is held up by a guest that hangs, and nothing is left out that the
//! caller would have got a moment later. So a call waits for seconds, but for the same hanging guest only once: what was
//! waited for in vain is known, and is left alone until it answers.

use std::time::Duration;

use crate::{domain::JOB_WAIT, ops::run::counters::OVERDUE};

/// What the caller asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// One guest. It is waited for as long as libvirt's callers wait for each other.
    One,
    /// Any number of guests, all asked at the same time.
    Many,
    /// Any number of guests, without those at which a job is at work.
    NoWait,
}

impl Call {
    /// How long a guest is waited for.
    pub fn limit(self) -> Duration {
        match self {
            Call::One => JOB_WAIT,
            Call::Many | Call::NoWait => OVERDUE,
        }
    }
}

/// What is known of a guest before it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// It can be asked.
    Ready,
    /// It is being started, or the daemon has not connected to it yet.
    Coming,
    /// The same, and a call has waited for it in vain.
    Absent,
    /// It owes an answer for longer than a call about many guests waits.
    Overdue,
    /// It is shown as unreachable.
    Unreachable,
}

/// What to do with a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask it, and wait that long.
    Ask(Duration),
    /// Look again in a moment.
    Look,
    /// Tell of it without asking it.
    Leave(Left),
}

/// Why a guest is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// A job is at work, and the caller does not want to wait.
    Busy,
    /// It hangs, or could not be asked in time.
    Silent,
}

/// What to do with a guest, `waited` after the call began. `busy`: a job is at work that excludes questions.
pub(super) fn next(call: Call, contact: Contact, busy: bool, waited: Duration) -> Next {
    let left = call.limit().saturating_sub(waited);
    match (call, contact) {
        (Call::NoWait, Contact::Coming | Contact::Absent) => Next::Leave(Left::Busy),
        (_, Contact::Unreachable) => Next::Leave(Left::Silent),
        (Call::NoWait, _) if busy => Next::Leave(Left::Busy),
        (Call::Many | Call::NoWait, Contact::Overdue) | (Call::Many, Contact::Absent) => {
            Next::Leave(Left::Silent)
        }
        _ if left.is_zero() => Next::Leave(Left::Silent),
        (_, Contact::Ready | Contact::Overdue) => Next::Ask(left),
        (_, Contact::Coming | Contact::Absent) => Next::Look,
    }
}

/// Whether a guest's last answer is told instead of a new one. `age` is none unless it is whole; `most` is the age that the
/// caller allows, any if none.
pub(super) fn instead(left: Left, age: Option<Duration>, most: Option<Duration>) -> Option<Duration> {
    match left {
        Left::Busy => None,
        Left::Silent => age.filter(|age| most.is_none_or(|most| *age <= most)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_waited_for_how_long() {
        use Call::{Many, NoWait, One};
        use Contact as C;
        let (silent, busy) = (Next::Leave(Left::Silent), Next::Leave(Left::Busy));
        let table = [
            // (call, contact, busy, seconds waited) => what is done
            (One, C::Ready, false, 0, Next::Ask(30 * S)),
            (One, C::Ready, true, 0, Next::Ask(30 * S)),
            (One, C::Overdue, false, 0, Next::Ask(30 * S)),
            (One, C::Coming, false, 0, Next::Look),
            (One, C::Absent, false, 29, Next::Look),
            (One, C::Ready, false, 29, Next::Ask(S)),
            (One, C::Coming, false, 30, silent),
            (One, C::Overdue, false, 30, silent),
            (One, C::Unreachable, false, 0, silent),
            (Many, C::Ready, false, 0, Next::Ask(5 * S)),
            (Many, C::Ready, true, 0, Next::Ask(5 * S)),
            (Many, C::Ready, false, 5, silent),
            (Many, C::Coming, true, 4, Next::Look),
            (Many, C::Coming, true, 5, silent),
            (Many, C::Absent, true, 0, silent),
            (Many, C::Overdue, false, 0, silent),
            (Many, C::Unreachable, false, 0, silent),
            (NoWait, C::Ready, false, 0, Next::Ask(5 * S)),
            (NoWait, C::Ready, true, 0, busy),
            (NoWait, C::Coming, false, 0, busy),
            (NoWait, C::Absent, false, 0, busy),
            (NoWait, C::Overdue, true, 0, busy),
            (NoWait, C::Overdue, false, 0, silent),
            (NoWait, C::Unreachable, true, 0, silent),
        ];
        for (call, contact, busy, waited, expected) in table {
            let found = next(call, contact, busy, waited * S);
            assert_eq!(
                found, expected,
                "{call:?} {contact:?} busy {busy} after {waited} s"
            );
        }
    }

    #[test]
    fn a_last_answer_is_told_if_it_is_whole_and_young_enough() {
        let table = [
            (Left::Silent, Some(S), None, Some(S)),
            (Left::Silent, Some(3600 * S), None, Some(3600 * S)),
            (Left::Silent, Some(5 * S), Some(5 * S), Some(5 * S)),
            (Left::Silent, Some(6 * S), Some(5 * S), None),
            (Left::Silent, Some(S), Some(Duration::ZERO), None),
            (Left::Silent, None, None, None),
            (Left::Busy, Some(S), None, None),
        ];
        for (left, age, most, expected) in table {
            assert_eq!(instead(left, age, most), expected, "{left:?} {age:?} {most:?}");
        }
    }
}
