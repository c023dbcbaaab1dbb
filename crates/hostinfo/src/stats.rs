//! Time that the CPUs spent, for `virsh nodecpustats`.

use crate::error::Result;
use crate::root::Root;

/// The kernel counts in hundredths of a second whatever its own clock is.
const TICK: u64 = 10_000_000;

const STAT: &str = "proc/stat";

/// Time in nanoseconds since the host started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// The kernel's, with interrupts.
    pub kernel: u64,
    /// Programs', with those of low priority.
    pub user: u64,
    /// Nothing to do.
    pub idle: u64,
    /// Nothing to do but wait for a device.
    pub iowait: u64,
}

/// Times of one CPU, or of all together; `None` when there is no such CPU online.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn cpu_times(root: &Root, cpu: Option<u32>) -> Result<Option<CpuTimes>> {
    let Some(cpu) = cpu else {
        // The first line.
        return Ok(root.head(STAT)?.lines().find_map(|line| times(line, "cpu")));
    };
    let (text, name) = (root.text(STAT)?, format!("cpu{cpu}"));
    Ok(text.lines().find_map(|line| times(line, &name)))
}

fn times(line: &str, name: &str) -> Option<CpuTimes> {
    let mut words = line.split_whitespace();
    if words.next()? != name {
        return None;
    }
    let mut next = || words.next()?.parse::<u64>().ok();
    let (user, nice, system, idle) = (next()?, next()?, next()?, next()?);
    let (iowait, irq, softirq) = (next().unwrap_or(0), next().unwrap_or(0), next().unwrap_or(0));
    let sum = |ticks: &[u64]| {
        ticks
            .iter()
            .fold(0_u64, |sum, ticks| sum.saturating_add(ticks.saturating_mul(TICK)))
    };
    Some(CpuTimes {
        kernel: sum(&[system, irq, softirq]),
        user: sum(&[user, nice]),
        idle: sum(&[idle]),
        iowait: sum(&[iowait]),
    })
}
