//! `-rtc` and timers, and what the guest's power buttons may do.

use domxml::Domain;
use domxml::clock::{Adjustment, Clock, ClockBasis, ClockOffset, TickPolicy, TimerName, TimerTrack};
use domxml::devices::common::YesNo;

use super::context::Context;
use super::line::CommandLine;
use crate::caps::Flag;
use crate::props::Keyval;
use crate::{Error, Result};

/// Appends clock and timers.
///
/// # Errors
/// When the guest's time must be worked out and was not.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let clock = cx.def.clock.clone().unwrap_or_default();
    let mut rtc = Keyval::new().with("base", base(cx, &clock)?);
    let timer = clock.timers.iter().find(|timer| timer.name == TimerName::Rtc);
    rtc.opt("clock", timer.and_then(|timer| timer.track).and_then(track));
    if timer.and_then(|timer| timer.tickpolicy) == Some(TickPolicy::Catchup) {
        rtc.set("driftfix", "slew");
    }
    line.push("-rtc", rtc);
    if clock.offset == ClockOffset::Timezone {
        line.opt_env("TZ", clock.timezone.as_deref());
    }
    build_pit(cx, &clock, line);
    Ok(())
}

fn track(track: TimerTrack) -> Option<&'static str> {
    match track {
        TimerTrack::Boot => None,
        TimerTrack::Guest => Some("vm"),
        TimerTrack::Wall => Some("host"),
        TimerTrack::Realtime => Some("rt"),
    }
}

fn base(cx: Context<'_>, clock: &Clock) -> Result<String> {
    match clock.offset {
        ClockOffset::Utc => Ok("utc".to_owned()),
        ClockOffset::Localtime | ClockOffset::Timezone => Ok("localtime".to_owned()),
        ClockOffset::Absolute => Ok(date_time(clock.start.unwrap_or_default())),
        ClockOffset::Variable => {
            let given = cx.res.rtc_base.clone();
            given.ok_or_else(|| Error::internal_qemu("the guest's time was not worked out"))
        }
    }
}

/// The time that a guest with a clock of its own (`<clock offset='variable'>`) starts at, for
/// [`super::Resources::rtc_base`]. `now` is seconds since 1970, `east` what local time is ahead of UTC.
pub fn start_time(def: &Domain, now: u64, east: i64) -> Option<String> {
    let clock = def
        .clock
        .as_ref()
        .filter(|clock| clock.offset == ClockOffset::Variable)?;
    let adjustment = match clock.adjustment {
        Some(Adjustment::Seconds(seconds)) => seconds,
        Some(Adjustment::Reset) | None => 0,
    };
    let local = if clock.basis == Some(ClockBasis::Localtime) {
        east
    } else {
        0
    };
    let at = i128::from(now) + i128::from(adjustment) + i128::from(local);
    Some(date_time(u64::try_from(at).unwrap_or_default()))
}

/// Seconds since 1970 as `YYYY-MM-DDTHH:MM:SS`, UTC.
pub fn date_time(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    // Days from the first of March of year 0, in cycles of 400 years.
    let days = seconds / DAY + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + cycle * 400 + u64::from(month <= 2);
    let second = seconds % DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// What the interval timer does with ticks that a guest missed.
fn build_pit(cx: Context<'_>, clock: &Clock, line: &mut CommandLine) {
    for pit in clock.timers.iter().filter(|timer| timer.name == TimerName::Pit) {
        let policy = match pit.tickpolicy {
            // What is said nothing of is as it is without the kernel's timer.
            None | Some(TickPolicy::Delay) => "delay",
            Some(TickPolicy::Discard) => "discard",
            _ => continue,
        };
        if cx.caps.has(Flag::KvmPitLostTickPolicy) {
            line.push("-global", format!("kvm-pit.lost_tick_policy={policy}"));
        }
    }
}

/// Appends which kinds of sleep the firmware offers.
pub fn build_power(cx: Context<'_>, line: &mut CommandLine) {
    let Some(power) = cx.def.pm else { return };
    let device = if cx.is_q35() { "ICH9-LPC" } else { "PIIX4_PM" };
    for (name, enabled) in [
        ("disable_s3", power.suspend_to_mem),
        ("disable_s4", power.suspend_to_disk),
    ] {
        if let Some(enabled) = enabled {
            line.push(
                "-global",
                format!("{device}.{name}={}", u8::from(enabled == YesNo::No)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_of_its_own_starts_at_now_and_the_adjustment() {
        let mut def = Domain {
            clock: Some(Clock::default()),
            ..Domain::default()
        };
        assert_eq!(start_time(&def, 0, 0), None);
        let clock = Clock {
            offset: ClockOffset::Variable,
            adjustment: Some(Adjustment::Seconds(-60)),
            ..Clock::default()
        };
        def.clock = Some(clock.clone());
        assert_eq!(
            start_time(&def, 3600, 7200).as_deref(),
            Some("1970-01-01T00:59:00")
        );
        def.clock = Some(Clock {
            basis: Some(ClockBasis::Localtime),
            ..clock
        });
        assert_eq!(
            start_time(&def, 3600, 7200).as_deref(),
            Some("1970-01-01T02:59:00")
        );
    }

    #[test]
    fn seconds_become_dates() {
        let known = [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_795_342_352, "2026-11-22T10:12:32"),
            (4_102_444_799, "2099-12-31T23:59:59"),
        ];
        for (seconds, text) in known {
            assert_eq!(date_time(seconds), text);
        }
    }
}
