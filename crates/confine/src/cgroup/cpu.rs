//! CPU time: how much a group may use, and has used.

use super::{Backend, Controller, Error, Group, Result};

/// How much of each period a group may run: both in microseconds. A negative quota is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Length of a period.
    pub period: u64,
    /// CPU time in it, of all CPUs together.
    pub quota: i64,
}

/// CPU time used, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In all.
    pub total: u64,
    /// By programs.
    pub user: u64,
    /// By the kernel for them.
    pub system: u64,
}

impl Group {
    /// Whether the kernel gives time by [`Bandwidth`].
    #[must_use]
    pub fn has_bandwidth(&self) -> bool {
        self.directory(Controller::Cpu)
            .is_some_and(|(backend, directory)| {
                directory
                    .join(if backend == Backend::V1 {
                        "cpu.cfs_period_us"
                    } else {
                        "cpu.max"
                    })
                    .exists()
            })
    }

    /// Its weight against others that want to run: shares, from 2 with version 1, weight from 1 to 10000 with version 2.
    ///
    /// # Errors
    /// The kernel's.
    pub fn shares(&self) -> Result<u64> {
        number(&self.read(Controller::Cpu, shares_file(self.required(Controller::Cpu)?.0))?)
    }

    /// The least and the most weight.
    ///
    /// # Errors
    /// There is no controller of CPUs.
    pub fn shares_range(&self) -> Result<(u64, u64)> {
        Ok(if self.required(Controller::Cpu)?.0 == Backend::V1 {
            (2, 262_144)
        } else {
            (1, 10_000)
        })
    }

    /// Sets its weight.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_shares(&self, shares: u64) -> Result<()> {
        self.write(
            Controller::Cpu,
            shares_file(self.required(Controller::Cpu)?.0),
            &shares.to_string(),
        )
    }

    /// How much it may run.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bandwidth(&self) -> Result<Bandwidth> {
        match self.required(Controller::Cpu)?.0 {
            Backend::V1 => Ok(Bandwidth {
                period: number(&self.read(Controller::Cpu, "cpu.cfs_period_us")?)?,
                quota: number(&self.read(Controller::Cpu, "cpu.cfs_quota_us")?)?,
            }),
            Backend::V2 => {
                let text = self.read(Controller::Cpu, "cpu.max")?;
                let (quota, period) = text.split_once(' ').unwrap_or((&text, ""));
                Ok(Bandwidth {
                    period: number(period)?,
                    quota: if quota == "max" { -1 } else { number(quota)? },
                })
            }
        }
    }

    /// Sets the period, the quota, or both; should the second be refused, the first is as it was.
    ///
    /// # Errors
    /// The kernel's: such as a quota above that of the group it is in.
    pub fn set_bandwidth(&self, period: Option<u64>, quota: Option<i64>) -> Result<()> {
        if period.is_none() && quota.is_none() {
            return Ok(());
        }
        match self.required(Controller::Cpu)?.0 {
            Backend::V1 => self.set_v1_bandwidth(period, quota),
            Backend::V2 => {
                let old = self.bandwidth()?;
                let quota = quota.unwrap_or(old.quota);
                let quota = if quota < 0 {
                    "max".to_owned()
                } else {
                    quota.to_string()
                };
                self.write(
                    Controller::Cpu,
                    "cpu.max",
                    &format!("{quota} {}", period.unwrap_or(old.period)),
                )
            }
        }
    }

    fn set_v1_bandwidth(&self, period: Option<u64>, quota: Option<i64>) -> Result<()> {
        let old = self.bandwidth()?;
        let set_period = |period: u64| self.write(Controller::Cpu, "cpu.cfs_period_us", &period.to_string());
        if let Some(period) = period {
            set_period(period)?;
        }
        let Some(quota) = quota else { return Ok(()) };
        let result = self.write(Controller::Cpu, "cpu.cfs_quota_us", &quota.to_string());
        if result.is_err() && period.is_some() {
            // What matters is why the quota was refused.
            let _ = set_period(old.period);
        }
        result
    }

    /// CPU time that its processes have used.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cpu_times(&self) -> Result<CpuTimes> {
        match self.required(Controller::CpuAcct)?.0 {
            Backend::V1 => {
                let stat = self.read(Controller::CpuAcct, "cpuacct.stat")?;
                let tick = 1_000_000_000 / ticks_a_second();
                let total = number(&self.read(Controller::CpuAcct, "cpuacct.usage")?)?;
                Ok(CpuTimes {
                    total,
                    user: field(&stat, "user")?.saturating_mul(tick),
                    system: field(&stat, "system")?.saturating_mul(tick),
                })
            }
            Backend::V2 => {
                let stat = self.read(Controller::CpuAcct, "cpu.stat")?;
                let of = |name| Ok(field(&stat, name)?.saturating_mul(1000));
                Ok(CpuTimes {
                    total: of("usage_usec")?,
                    user: of("user_usec")?,
                    system: of("system_usec")?,
                })
            }
        }
    }

    /// Nanoseconds that its processes have used of each of the host's CPUs; none with version 2, which does not say.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cpu_time_by_cpu(&self) -> Result<Option<Vec<u64>>> {
        match self.required(Controller::CpuAcct)?.0 {
            Backend::V1 => self
                .read(Controller::CpuAcct, "cpuacct.usage_percpu")?
                .split_whitespace()
                .map(number)
                .collect::<Result<_>>()
                .map(Some),
            Backend::V2 => Ok(None),
        }
    }
}

fn shares_file(backend: Backend) -> &'static str {
    if backend == Backend::V1 {
        "cpu.shares"
    } else {
        "cpu.weight"
    }
}

pub(super) fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    let wrong = || {
        Error::new(
            format_args!("Unable to parse '{text}' as an integer"),
            std::io::ErrorKind::InvalidData.into(),
        )
    };
    text.trim().parse().map_err(|_| wrong())
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Result<u64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    let missing = || {
        Error::new(
            format_args!("Cannot parse '{name}' cpu stat"),
            std::io::ErrorKind::InvalidData.into(),
        )
    };
    text.lines().find_map(value).ok_or_else(missing)
}

fn ticks_a_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten();
    ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}
