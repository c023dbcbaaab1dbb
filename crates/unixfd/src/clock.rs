//! How far local time is from UTC.

use std::mem::MaybeUninit;

/// Seconds that local time is ahead of UTC at a moment, by the process's time zone; 0 if the zone is not known.
#[must_use]
pub fn local_offset(seconds_since_1970: i64) -> i64 {
    let mut broken_down = MaybeUninit::<libc::tm>::uninit();
    #[expect(unsafe_code, reason = "the C library alone knows the time zone")]
    // SAFETY: both pointers are good for the call; what it wrote is read only if it says that it did.
    unsafe {
        if libc::localtime_r(&raw const seconds_since_1970, broken_down.as_mut_ptr()).is_null() {
            return 0;
        }
        broken_down.assume_init().tm_gmtoff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_is_further_than_a_day() {
        assert!(local_offset(1_800_000_000).abs() < 86_400);
    }
}
