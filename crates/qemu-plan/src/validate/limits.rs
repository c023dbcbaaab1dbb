//! Ranges of numbers: what CPUs may use, sizes of what a guest with encrypted memory is measured by.

use domxml::Domain;
use domxml::security::LaunchSecurity;

use crate::error::{Error, Result};

/// Ranges of periods and quotas, microseconds.
const PERIODS: (i64, i64) = (1000, 1_000_000);
const QUOTAS: (i64, i64) = (1000, 17_592_186_044_415);

/// Periods and quotas that the kernel takes; zero and less stand for none.
pub(super) fn cputune(def: &Domain) -> Result<()> {
    let Some(tune) = &def.cputune else { return Ok(()) };
    let number = |period: Option<u64>| period.map_or(0, |p| i64::try_from(p).unwrap_or(i64::MAX));
    let all = [
        ("period", number(tune.period), PERIODS),
        ("global_period", number(tune.global_period), PERIODS),
        ("emulator_period", number(tune.emulator_period), PERIODS),
        ("iothread_period", number(tune.iothread_period), PERIODS),
        ("quota", tune.quota.unwrap_or(0), QUOTAS),
        ("global_quota", tune.global_quota.unwrap_or(0), QUOTAS),
        ("emulator_quota", tune.emulator_quota.unwrap_or(0), QUOTAS),
        ("iothread_quota", tune.iothread_quota.unwrap_or(0), QUOTAS),
    ];
    let out =
        |(_, value, (low, high)): &&(&str, i64, (i64, i64))| *value > 0 && !(*low..=*high).contains(value);
    all.iter().find(out).map_or(Ok(()), |(name, _, (low, high))| {
        Err(Error::conflicting(format!(
            "Value of cputune '{name}' must be in range [{low}, {high}]"
        )))
    })
}

/// Lengths in bytes of what SEV-SNP takes in base64.
pub(super) fn launch_security(security: Option<&LaunchSecurity>) -> Result<()> {
    let Some(LaunchSecurity::SevSnp(snp)) = security else {
        return Ok(());
    };
    let all = [
        ("guestVisibleWorkarounds", &snp.guest_visible_workarounds, 16),
        ("idBlock", &snp.id_block, 96),
        ("idAuth", &snp.id_auth, 4096),
        ("hostData", &snp.host_data, 32),
    ];
    for (name, text, wanted) in all {
        let Some(length) = text.as_deref().map(decoded) else {
            continue;
        };
        if length != wanted {
            return Err(Error::conflicting(format!(
                "Unexpected length of '{name}', expected {wanted} got {length}"
            )));
        }
    }
    Ok(())
}

/// Bytes that base64 stands for.
fn decoded(text: &str) -> usize {
    let digit = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
    text.chars().filter(digit).count() * 3 / 4
}
