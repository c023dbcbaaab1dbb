//! `--timeout`: when nobody has needed the daemon for long enough.

use std::time::{Duration, Instant};

/// How long nobody needs the daemon.
#[derive(Debug)]
pub(super) struct Idle {
    limit: Duration,
    since: Option<Instant>,
}

impl Idle {
    /// Counts from the first observation on.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: None }
    }

    /// Whether the limit is reached, seen at `now` with so many clients and running guests.
    pub(super) fn over(&mut self, users: usize, now: Instant) -> bool {
        if users > 0 {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now.duration_since(since) >= self.limit
    }

    /// How often to look: often enough that the limit is kept to about a tenth, at most every 50 ms.
    pub(super) fn pace(&self) -> Duration {
        (self.limit / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_start_the_time_anew() {
        let start = Instant::now();
        let mut idle = Idle::new(Duration::from_secs(30));
        let seen = [
            (0, 0, false),
            (20, 0, false),
            (29, 1, false),
            (40, 0, false),
            (69, 0, false),
            (70, 0, true),
        ];
        for (second, users, over) in seen {
            assert_eq!(
                idle.over(users, start + Duration::from_secs(second)),
                over,
                "{second}"
            );
        }
    }
}
