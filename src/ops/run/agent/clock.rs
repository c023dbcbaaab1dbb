//! The guest's clock, set by its agent.

use std::{sync::Arc, time::Duration};

use qmp::commands;
use serde_json::json;

use super::Turn;
use crate::{
    domain::{
        Domain,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::Driver,
};

/// What the QEMU of a run on x86 is able to do: to forget the ticks that it owes.
const FORGETS: &str = "rtc-reset-reinjection";

/// What the clock is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// So long after 1970, UTC.
    At(Duration),
    /// What the guest's own hardware clock shows.
    Hardware,
}

/// Sets the guest's clock. QEMU makes up for no tick that was lost before.
///
/// # Errors
/// As [`super::execute`]; `InvalidArg` for a time that the agent has no number for, what QEMU refuses.
pub async fn set(driver: &Arc<Driver>, domain: &Domain, time: Time) -> Result<()> {
    let turn = Turn::take(driver, domain).await?;
    let arguments = match time {
        Time::Hardware => json!({}),
        Time::At(time) => {
            let nanoseconds = i64::try_from(time.as_nanos()).map_err(|_| {
                let text = format!("Time '{}' is too big for guest agent", time.as_secs());
                Error::argument(text).at("time")
            })?;
            json!({"time": nanoseconds})
        }
    };
    let owned = Arc::clone(driver);
    let domain = domain.clone();
    driver
        .tracked(async move {
            turn.ask("guest-set-time", arguments).await?;
            drop(turn);
            forget_ticks(&owned, &domain).await
        })
        .await
}

/// Has QEMU owe the guest no ticks of its clock: the guest would count them on top of the time that was set.
async fn forget_ticks(driver: &Arc<Driver>, domain: &Domain) -> Result<()> {
    let job = domain.job(Want::Plain(Kind::Modify)).await?;
    let view = job.view();
    let guest = driver.guests.of(&view)?;
    let able = |flag: &domxml::status::CapabilityFlag| flag.name == FORGETS;
    if view.running()?.status.qemu_caps.iter().any(able) {
        guest.execute(commands::RtcResetReinjection {}).await?;
    }
    Ok(())
}
