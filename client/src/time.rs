//! Times of the service as the plain numbers that other interfaces count in.
//!
//! What does not fit into a number is the nearest that does.

pub use prost_types::{Duration, Timestamp};

const NANOS: i64 = 1_000_000_000;

/// A span in nanoseconds; 0 if there is none, or it is negative.
#[must_use]
pub fn nanoseconds(span: Option<&Duration>) -> u64 {
    span.map_or(0, |span| {
        let seconds = u64::try_from(span.seconds).unwrap_or(0);
        let nanos = u64::try_from(span.nanos).unwrap_or(0);
        seconds
            .saturating_mul(NANOS.cast_unsigned())
            .saturating_add(nanos)
    })
}

/// Two spans together.
#[must_use]
pub fn sum(a: &Duration, b: &Duration) -> Duration {
    let nanos = i64::from(a.nanos) + i64::from(b.nanos);
    let seconds = a.seconds.saturating_add(b.seconds);
    Duration {
        seconds: seconds.saturating_add(nanos / NANOS),
        nanos: i32::try_from(nanos % NANOS).unwrap_or(0),
    }
}

/// A span in microseconds, negative or not.
#[must_use]
pub fn microseconds(span: &Duration) -> i64 {
    let micros = i64::from(span.nanos / 1_000);
    span.seconds.saturating_mul(1_000_000).saturating_add(micros)
}

/// A span in milliseconds; 0 if there is none, or it is negative.
#[must_use]
pub fn milliseconds(span: Option<&Duration>) -> u64 {
    nanoseconds(span) / 1_000_000
}

/// A span of so many seconds.
#[must_use]
pub fn of_seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// A span of so many nanoseconds.
#[must_use]
pub fn of_nanoseconds(count: u64) -> Duration {
    let seconds = count / NANOS.cast_unsigned();
    Duration {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(count % NANOS.cast_unsigned()).unwrap_or(0),
    }
}

/// A span of so many milliseconds.
#[must_use]
pub fn of_milliseconds(count: u32) -> Duration {
    of_microseconds(i64::from(count) * 1_000)
}

/// A span of so many microseconds, negative or not.
#[must_use]
pub fn of_microseconds(count: i64) -> Duration {
    Duration {
        seconds: count / 1_000_000,
        nanos: i32::try_from(count % 1_000_000 * 1_000).unwrap_or(0),
    }
}

/// A point in time as whole seconds since 1970.
#[must_use]
pub fn seconds_since_1970(at: &Timestamp) -> u64 {
    u64::try_from(at.seconds).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_went() {
        for count in [
            0,
            1,
            -1,
            999_999,
            1_000_000,
            -1_500_000,
            17_592_186_044_415,
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(microseconds(&of_microseconds(count)), count);
        }
        assert_eq!(milliseconds(Some(&of_milliseconds(1_500))), 1_500);
    }

    #[test]
    fn what_does_not_fit_is_the_nearest_number() {
        assert_eq!(nanoseconds(None), 0);
        assert_eq!(nanoseconds(Some(&of_seconds(-3))), 0);
        assert_eq!(nanoseconds(Some(&of_seconds(i64::MAX))), u64::MAX);
    }
}
