//! What migrations of a guest may take. QEMU keeps it for a run, and the daemon the bandwidth, from before one on.

use std::{sync::Arc, time::Duration};

use qmp::commands;
use serde_json::{Map, Value};

use crate::{
    domain::{
        Domain,
        jobs::{Kind, Want},
        long_job::NO_LIMIT,
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        operation::{Ask, Operation},
    },
};

const MIB: u64 = 1 << 20;
const BANDWIDTH: &str = "max-bandwidth";
const POSTCOPY_BANDWIDTH: &str = "max-postcopy-bandwidth";
const DOWNTIME: &str = "downtime-limit";
const CACHE: &str = "xbzrle-cache-size";

/// What migrations may take; `None`: not known, or not to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Bytes a second.
    pub bandwidth: Option<u64>,
    /// Bytes a second once the guest runs on the other host; 0: no limit.
    pub postcopy_bandwidth: Option<u64>,
    /// How long CPUs may stand.
    pub downtime: Option<Duration>,
    /// Bytes of the cache of pages that were sent.
    pub cache: Option<u64>,
}

impl Settings {
    fn of(parameters: &Map<String, Value>) -> Self {
        let number = |name: &str| parameters.get(name).and_then(Value::as_u64);
        Self {
            bandwidth: None,
            postcopy_bandwidth: number(POSTCOPY_BANDWIDTH),
            downtime: number(DOWNTIME).map(Duration::from_millis),
            cache: number(CACHE),
        }
    }

    /// QEMU's parameters, in the order in which they are set: one at a time, since QEMU says of none which it refuses.
    fn parameters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let all = [
            (BANDWIDTH, self.bandwidth),
            (POSTCOPY_BANDWIDTH, self.postcopy_bandwidth),
            (DOWNTIME, self.downtime.map(milliseconds)),
            (CACHE, self.cache),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// Whether it needs a QEMU.
    fn is_of_run(&self) -> bool {
        let Self {
            bandwidth: _,
            postcopy_bandwidth,
            downtime,
            cache,
        } = self;
        postcopy_bandwidth.is_some() || downtime.is_some() || cache.is_some()
    }
}

/// What migrations of a guest may take.
///
/// # Errors
/// QEMU does not answer.
pub async fn settings(driver: &Driver, domain: &Domain) -> Result<Settings> {
    let bandwidth = Some(domain.migration_bandwidth());
    let view = domain.view();
    if view.running().is_err() {
        return Ok(Settings {
            bandwidth,
            ..Settings::default()
        });
    }
    let parameters = driver
        .guests
        .of(&view)?
        .execute(commands::QueryMigrateParameters {})
        .await?;
    Ok(Settings {
        bandwidth,
        ..Settings::of(&parameters)
    })
}

/// Sets what migrations of a guest may take.
///
/// # Errors
/// More than [`NO_LIMIT`], a guest that does not run and would have to, what QEMU refuses.
pub async fn set(
    driver: &Arc<Driver>,
    domain: &Domain,
    wanted: Settings,
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "set-migration-settings",
        job: Want::Plain(Kind::MigrationOp),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    for bandwidth in [wanted.bandwidth, wanted.postcopy_bandwidth] {
        if bandwidth.is_some_and(|bandwidth| bandwidth > NO_LIMIT) {
            let text = format!("bandwidth must be less than {}", NO_LIMIT / MIB + 1);
            return Err(Error::new(Code::Overflow, text));
        }
    }
    let view = operation.view();
    let guest = match view.running() {
        Ok(_) => Some(driver.guests.of(&view)?),
        Err(error) if wanted.is_of_run() => return Err(error),
        Err(_) => None,
    };
    if operation.is_trial() {
        return Ok(());
    }
    let domain = domain.clone();
    let work = |_| async move {
        for (name, value) in wanted.parameters() {
            if let Some(guest) = &guest {
                let parameter = Map::from_iter([(name.to_owned(), value.into())]);
                guest.execute(commands::MigrateSetParameters(parameter)).await?;
            }
            if name == BANDWIDTH {
                domain.set_migration_bandwidth(value);
            }
        }
        Ok(())
    };
    operation.carry_out(work).await
}
