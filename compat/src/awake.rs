//! How long a session stays awake for the next call after a reply. Pure: the session has the clock.
//!
//! Putting a thread to sleep and waking it again costs more than most calls do. A client that sends its next
//! call at once is therefore waited for awake, for as long as its last pauses suggest, as hypervisors poll
//! before they halt a CPU. The hard thing is to know when this is of no use: a session stays awake only while
//! no other connection is served, never longer than [`LONGEST`], and a wait in vain is not repeated for a
//! while. A client that sends nothing costs nothing.

use std::time::Duration;

/// Longest time awake.
const LONGEST: Duration = Duration::from_micros(200);
/// Shortest time that is worth it.
const SHORTEST: Duration = Duration::from_micros(10);
/// Most replies that are followed by no wait after waits in vain.
const MOST_SKIPPED: u32 = 256;

/// How a call was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not yet.
    Due,
    /// Asleep.
    Asleep,
    /// Awake until it came.
    Awake,
    /// Awake for a time, and then asleep after all.
    InVain,
}

/// What is known of the pauses of one client.
#[derive(Debug, Default)]
pub(crate) struct Awake {
    /// How long to stay awake; zero: not at all.
    limit: Duration,
    /// Replies to come that no wait follows, and how many after the next wait in vain.
    skip: u32,
    penalty: u32,
}

impl Awake {
    /// How long to stay awake after a reply, if at all; `alone`: no other connection was served since the last.
    pub(crate) fn after_reply(&mut self, alone: bool) -> Option<Duration> {
        if !alone {
            self.limit = Duration::ZERO;
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        (!self.limit.is_zero()).then_some(self.limit)
    }

    /// The client sent its next call after `pause`.
    pub(crate) fn next_call(&mut self, pause: Duration, wait: Wait) {
        match wait {
            Wait::Due | Wait::Asleep => {}
            Wait::Awake => self.penalty = 0,
            Wait::InVain => {
                self.penalty = (self.penalty * 2).clamp(1, MOST_SKIPPED);
                self.skip = self.penalty;
            }
        }
        self.limit = if pause > LONGEST {
            Duration::ZERO
        } else {
            (pause * 2).clamp(SHORTEST, LONGEST)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn the_last_pause_says_how_long() {
        let mut awake = Awake::default();
        assert_eq!(awake.after_reply(true), None, "nothing is known yet");
        for (pause, limit) in [
            (30, Some(60)),
            (2, Some(10)),
            (150, Some(200)),
            (201, None),
            (20, Some(40)),
        ] {
            awake.next_call(micros(pause), Wait::Asleep);
            assert_eq!(awake.after_reply(true), limit.map(micros), "{pause}");
        }
    }

    #[test]
    fn nobody_waits_awake_while_others_are_served() {
        let mut awake = Awake::default();
        awake.next_call(micros(20), Wait::Asleep);
        assert_eq!(awake.after_reply(false), None);
        assert_eq!(
            awake.after_reply(true),
            None,
            "its own pauses have to be seen again first"
        );
        awake.next_call(micros(20), Wait::Asleep);
        assert_eq!(awake.after_reply(true), Some(micros(40)));
    }

    /// How many of `count` replies a wait followed, each in vain.
    fn in_vain(awake: &mut Awake, count: u32) -> u32 {
        let mut waits = 0;
        for _ in 0..count {
            let waited = awake.after_reply(true).is_some();
            waits += u32::from(waited);
            awake.next_call(micros(50), if waited { Wait::InVain } else { Wait::Asleep });
        }
        waits
    }

    #[test]
    fn waits_in_vain_become_rare_and_success_forgives() {
        let mut awake = Awake::default();
        awake.next_call(micros(20), Wait::Asleep);
        assert_eq!(in_vain(&mut awake, 1000), 11);
        while awake.after_reply(true).is_none() {
            awake.next_call(micros(50), Wait::Asleep);
        }
        awake.next_call(micros(50), Wait::Awake);
        assert_eq!(awake.after_reply(true), Some(micros(100)));
        awake.next_call(micros(50), Wait::InVain);
        assert_eq!(in_vain(&mut awake, 3), 1, "the first penalty is one reply again");
    }
}
