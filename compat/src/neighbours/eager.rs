//! Whether to stay awake until a reply comes.
//!
//! A neighbour on the same host answers most calls within some 50 µs, and to sleep and be woken in between costs
//! as much again where processors are virtual. So the link looks for the reply itself for a while, and lets other
//! tasks go first each time. Where processors are scarce that is no gain, for the neighbour needs one too: so both
//! ways are timed, and the one that has been quicker lately is gone. What it may cost is bounded: only for the one
//! call under way, never longer than [`LONGEST`], and for one link of the process at a time.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest time to stay awake for one reply.
const LONGEST: Duration = Duration::from_micros(100);
/// Where a call takes longer than this, it makes no difference.
const WORTH_TRYING: Duration = Duration::from_micros(300);
/// What one slow reply counts at most.
const SLOW: Duration = Duration::from_millis(1);
/// Calls after which a way is judged, without the first ones: the system's scheduler takes a while to adapt.
const WINDOW: u32 = 40;
const SETTLING: u32 = 8;
/// One window in so many goes the other way, to know what that would take.
const TRIAL: u32 = 8;

/// Some link of this process is awake.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// There is another processor for the neighbour to work on.
static WORTHWHILE: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1));

/// What one link knows of its neighbour's speed.
#[derive(Debug, Default)]
pub(super) struct Eager {
    /// The quicker way so far, and what a call took.
    best: (Way, Duration),
    /// Windows until the other one is tried.
    due: u32,
    /// The way of this window, how many calls it has seen, and their time.
    way: Way,
    calls: u32,
    time: Duration,
    asked: Option<Instant>,
    turn: Option<Turn>,
}

/// How a reply is waited for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Way {
    #[default]
    Asleep,
    Awake,
}

/// The right to stay awake, held until it is dropped.
#[derive(Debug)]
struct Turn;

impl Eager {
    /// The only call under way was sent.
    pub(super) fn asked(&mut self, now: Instant) {
        self.rest();
        self.turn = if self.way == Way::Awake {
            Turn::take()
        } else {
            None
        };
        let as_planned = (self.way == Way::Awake) == self.turn.is_some();
        self.asked = as_planned.then_some(now);
    }

    /// More than one call is under way, or none any more.
    pub(super) fn rest(&mut self) {
        (self.asked, self.turn) = (None, None);
    }

    /// The reply has come.
    pub(super) fn answered(&mut self, now: Instant) {
        if let Some(asked) = self.asked {
            self.judge(now.duration_since(asked));
        }
        self.rest();
    }

    /// Whether to look for the reply again at once.
    pub(super) fn stays_awake(&mut self) -> bool {
        if self.turn.is_some() && self.asked.is_none_or(|asked| asked.elapsed() > LONGEST) {
            self.turn = None;
        }
        self.turn.is_some()
    }

    fn judge(&mut self, time: Duration) {
        self.calls += 1;
        if self.calls > SETTLING {
            self.time += time.min(SLOW);
        }
        if self.calls < WINDOW {
            return;
        }
        let average = self.time / (WINDOW - SETTLING);
        (self.calls, self.time) = (0, Duration::ZERO);
        let (best, best_time) = self.best;
        let trial = self.way != best;
        if !trial || average < best_time {
            self.best = (self.way, average);
        }
        if self.best.0 == Way::Awake && average > LONGEST {
            self.best = (Way::Asleep, SLOW);
        }
        self.due = if trial {
            TRIAL - 1
        } else {
            self.due.saturating_sub(1)
        };
        let (best, time) = self.best;
        self.way = if self.due == 0 && time <= WORTH_TRYING {
            best.other()
        } else {
            best
        };
    }
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Asleep => Self::Awake,
            Self::Awake => Self::Asleep,
        }
    }
}

impl Turn {
    fn take() -> Option<Self> {
        let free = *WORTHWHILE
            && TAKEN
                .compare_exchange(false, true, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        free.then_some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_that_has_been_quicker_is_gone_and_the_other_tried_now_and_then() {
        let mut eager = Eager::default();
        let mut awake = |asleep: u64, awake: u64| {
            let mut count = 0;
            for call in 0..32 * WINDOW {
                let time = if eager.way == Way::Awake { awake } else { asleep };
                // The first half is for getting used to it.
                count += u32::from(call >= 16 * WINDOW && eager.way == Way::Awake);
                eager.judge(Duration::from_micros(time));
            }
            count / WINDOW
        };
        assert_eq!(
            [awake(80, 40), awake(80, 95), awake(80, 40), awake(9000, 9000)],
            [14, 2, 14, 0]
        );
    }
}
