//! Passwords of displays: QEMU is told when a guest starts, when one changes, and again by a daemon that finds that a
//! change was cut off.

use std::time::{SystemTime, UNIX_EPOCH};

use domxml::devices::{Graphics, GraphicsKind, OnPasswordChange};
use qmp::commands;

use crate::{
    error::Result,
    ops::{Driver, run::guest::Guest},
    qemu::Monitor,
};

/// Whether QEMU must be told of another password, or that one is good for another time.
pub(crate) fn differs(old: &Graphics, new: &Graphics) -> bool {
    old.passwd != new.passwd
        || old.passwd_valid_to.is_some()
        || new.passwd_valid_to.is_some()
        || old.connected != new.connected
        || new.kind == GraphicsKind::Spice && new.connected == Some(OnPasswordChange::Disconnect)
}

/// Tells a running QEMU a display's password: its own, or that of all displays.
///
/// # Errors
/// What QEMU refuses, or that it does not answer.
pub(crate) async fn set(driver: &Driver, guest: &Guest, display: &Graphics) -> Result<()> {
    tell(driver, &guest.monitor()?, display).await
}

/// The same over a connection.
///
/// # Errors
/// As [`set`].
pub(crate) async fn tell(driver: &Driver, monitor: &Monitor, display: &Graphics) -> Result<()> {
    let Some((password, expiry)) = commands_of(driver, display) else {
        return Ok(());
    };
    monitor.execute(password).await?;
    monitor.execute(expiry).await.map(drop)
}

/// The two commands that tell QEMU a display's password; none if it has none. The first of them done, the second is a
/// step of its own.
pub(crate) fn commands_of(
    driver: &Driver,
    display: &Graphics,
) -> Option<(commands::SetPassword, commands::ExpirePassword)> {
    let config = driver.config();
    let default = match display.kind {
        GraphicsKind::Vnc => config.vnc.password.as_ref(),
        GraphicsKind::Spice => config.spice.password.as_ref(),
        _ => None,
    };
    let password = display.passwd.as_ref().or(default).cloned()?;
    let protocol = display.kind.as_str().to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = expiry(&password, display.passwd_valid_to.as_deref(), now.as_secs());
    let connected = display.connected.unwrap_or(OnPasswordChange::Keep);
    let command = commands::SetPassword {
        protocol: protocol.clone(),
        password,
        connected: Some(connected.as_str().to_owned()),
    };
    Some((command, commands::ExpirePassword { protocol, time }))
}

/// Until when a password is good, in QEMU's words.
fn expiry(password: &str, valid_to: Option<&str>, now: u64) -> String {
    let until = valid_to.and_then(seconds);
    match until {
        _ if password.is_empty() => "now".to_owned(),
        Some(until) if until <= now => "now".to_owned(),
        Some(until) => until.to_string(),
        None => "never".to_owned(),
    }
}

/// Seconds since 1970 of a time in UTC, `2030-01-31T23:59:59`.
fn seconds(time: &str) -> Option<u64> {
    let (date, clock) = time.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<[u64; 3]> {
        let parts: Vec<u64> = text
            .split(by)
            .map(|part| part.parse().ok())
            .collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(clock, ':')?);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // March begins the year, so that the leap day is its last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_good_until_its_time() {
        let now = 1_700_000_000;
        for (password, valid_to, time) in [
            ("a", None, "never"),
            ("", None, "now"),
            ("a", Some("2001-01-01T00:00:00"), "now"),
            ("a", Some("2030-01-01T00:00:00"), "1893456000"),
            ("a", Some("2032-02-29T12:30:15"), "1961670615"),
            ("a", Some("nonsense"), "never"),
        ] {
            assert_eq!(expiry(password, valid_to, now), time, "{valid_to:?}");
        }
    }
}
