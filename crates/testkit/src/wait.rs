//! Waiting for a condition with a deadline. Tests wait for what they need and never for a fixed time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const STEP: Duration = Duration::from_millis(10);

/// Polls until `f` gives a value, and gives that. Fails with the name of `what` after `within`.
pub fn wait_for<T>(what: &str, within: Duration, mut f: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = f() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not so after {within:?}");
        }
        pause(STEP);
    }
}

/// Polls until `f` is true. Fails with the name of `what` after `within`.
pub fn wait_until(what: &str, within: Duration, mut f: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, within, || f().then_some(()))
}

/// Lets time pass, for what has no condition to wait for: nobody who could be asked is there.
#[expect(clippy::disallowed_methods, reason = "a test's own thread, not a runtime's")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut left = 3;
        let seen = wait_for("countdown", Duration::from_secs(5), || {
            left -= 1;
            (left == 0).then_some("done")
        });
        assert_eq!(seen.unwrap(), "done");
    }

    #[test]
    fn a_deadline_that_passes_is_an_error_with_the_name_of_the_condition() {
        let error = wait_until("the impossible", Duration::ZERO, || false).unwrap_err();
        assert!(error.to_string().starts_with("the impossible"), "{error}");
    }
}
