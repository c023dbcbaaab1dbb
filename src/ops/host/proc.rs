//! What the kernel says of a guest's process. Read from /proc: it never waits for the guest.

use std::{fs, sync::OnceLock};

use nix::unistd::{SysconfVar, sysconf};

use crate::domain::Run;

/// CPU time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user and system mode together.
    pub total_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

/// What /proc/PID/stat or /proc/PID/task/TID/stat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// One letter: R, S, D, T (stopped), Z (ended), ...
    pub state: char,
    /// CPU time.
    pub cpu: CpuTime,
    /// Resident memory, KiB.
    pub rss_kib: u64,
    /// Clock ticks after boot at which it started.
    pub start_time: u64,
    /// The host CPU that it ran on last.
    pub processor: i32,
}

/// CPU time of a run, if its process is there.
pub fn cpu_time(run: &Run) -> Option<CpuTime> {
    process(run).map(|s| s.cpu)
}

/// The process of a run; none if it is gone or its number is another's.
pub fn process(run: &Run) -> Option<Stat> {
    let stat = read(&format!("/proc/{}/stat", run.launched.pid))?;
    (run.launched.start_time == 0 || stat.start_time == run.launched.start_time).then_some(stat)
}

/// One thread of a process.
pub fn thread(pid: i32, tid: i32) -> Option<Stat> {
    read(&format!("/proc/{pid}/task/{tid}/stat"))
}

/// Nanoseconds that a thread waited for a CPU though it could run.
pub fn delay_ns(pid: i32, tid: i32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"))
        .ok()?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Nanoseconds that a thread waited, as the scheduler's debug file has it; 0 without such a file.
pub fn wait_ns(pid: i32, tid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/sched")).unwrap_or_default();
    let line = text.lines().find(|l| {
        ["wait_sum", "se.statistics.wait_sum", "se.wait_sum"]
            .iter()
            .any(|p| l.starts_with(p))
    });
    let millis: Option<f64> = line
        .and_then(|l| l.split(':').nth(1))
        .and_then(|v| v.trim().parse().ok());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of nanoseconds, not negative"
    )]
    millis.map_or(0, |m| (m * 1e6) as u64)
}

/// The host CPUs that a thread may run on, a bit each, the first CPU in the lowest bit of the first byte.
pub fn cpumap(pid: i32, tid: i32) -> Vec<u8> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed:"))
        .map(mask)
        .unwrap_or_default()
}

/// The kernel writes a mask in hexadecimal, the last CPUs first, with a comma every 32.
fn mask(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .rev()
        .filter_map(|b| u8::try_from(char::from(b).to_digit(16)?).ok())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair.iter().rev().fold(0, |byte, digit| byte << 4 | digit))
        .collect()
}

fn read(path: &str) -> Option<Stat> {
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything, so count from the last one.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    let (user, system) = (number(11)?, number(12)?);
    let ns = |ticks: u64| ticks.saturating_mul(1_000_000_000 / ticks_per_second());
    Some(Stat {
        state: fields.first()?.chars().next()?,
        cpu: CpuTime {
            total_ns: ns(user + system),
            user_ns: ns(user),
            system_ns: ns(system),
        },
        rss_kib: number(21)?.saturating_mul(page_kib()),
        start_time: number(19)?,
        processor: fields.get(36).and_then(|p| p.parse().ok()).unwrap_or(0),
    })
}

fn ticks_per_second() -> u64 {
    static TICKS: OnceLock<u64> = OnceLock::new();
    *TICKS.get_or_init(|| system(SysconfVar::CLK_TCK, 100))
}

fn page_kib() -> u64 {
    static PAGE: OnceLock<u64> = OnceLock::new();
    *PAGE.get_or_init(|| system(SysconfVar::PAGE_SIZE, 4096) / 1024)
}

fn system(variable: SysconfVar, otherwise: u64) -> u64 {
    sysconf(variable)
        .ok()
        .flatten()
        .and_then(|v| u64::try_from(v).ok())
        .filter(|v| *v > 0)
        .unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let text = "42 (a) R (b) x) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 7777 1000 25 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0";
        let stat = parse(text).expect("parses");
        assert_eq!((stat.state, stat.start_time, stat.processor), ('S', 7777, 3));
        assert_eq!(stat.cpu.total_ns, 200 * 1_000_000_000 / ticks_per_second());
        assert_eq!(stat.rss_kib, 25 * page_kib());
        assert_eq!(parse("42 (x"), None);
    }

    #[test]
    fn masks_of_cpus_begin_with_the_first() {
        assert_eq!(mask("\t3\n"), [3]);
        assert_eq!(mask("ff,80000001"), [1, 0, 0, 0x80, 0xff]);
        assert_eq!(mask("1ff"), [0xff, 1]);
    }

    #[test]
    fn our_own_process_is_there() {
        assert!(read("/proc/self/stat").is_some());
    }
}
