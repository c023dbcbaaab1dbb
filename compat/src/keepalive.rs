//! When to ask a silent client whether it lives, and when to give it up. Pure: the session has the clock.
//!
//! Only a client that asked for it is pinged. Whatever it sends counts as life.

use std::time::Duration;

use tokio::time::Instant;

/// What a silence calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tick {
    /// Wait until then.
    Wait(Instant),
    /// Send a ping, then wait until then.
    Ping(Instant),
    /// The client is gone.
    Dead,
}

/// The silence of one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keepalive {
    interval: Duration,
    count: u32,
    last: Instant,
    unanswered: u32,
}

impl Keepalive {
    /// Begins to watch a client that is heard from `now`; `None` when an interval of zero turns it off.
    pub(crate) fn start(interval: Duration, count: u32, now: Instant) -> Option<Self> {
        (!interval.is_zero()).then_some(Self {
            interval,
            count,
            last: now,
            unanswered: 0,
        })
    }

    /// When to look first.
    pub(crate) fn first(&self) -> Instant {
        self.last + self.interval
    }

    /// Something came from the client.
    pub(crate) fn heard(&mut self, now: Instant) {
        (self.last, self.unanswered) = (now, 0);
    }

    /// What to do now.
    pub(crate) fn tick(&mut self, now: Instant) -> Tick {
        let due = self.last + self.interval * (self.unanswered + 1);
        if now < due {
            return Tick::Wait(due);
        }
        if self.unanswered >= self.count {
            return Tick::Dead;
        }
        self.unanswered += 1;
        Tick::Ping(self.last + self.interval * (self.unanswered + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_pings_five_seconds_apart_then_the_end_after_thirty() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Keepalive::start(Duration::from_secs(5), 5, start).unwrap();
        assert_eq!(silence.tick(at(4)), Tick::Wait(at(5)));
        for seconds in [5, 10, 15, 20, 25] {
            assert_eq!(silence.tick(at(seconds)), Tick::Ping(at(seconds + 5)));
        }
        assert_eq!(silence.tick(at(30)), Tick::Dead);
        silence.heard(at(29));
        assert_eq!(silence.tick(at(30)), Tick::Wait(at(34)));
        assert!(Keepalive::start(Duration::ZERO, 5, start).is_none());
    }
}
