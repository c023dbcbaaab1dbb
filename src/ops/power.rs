//! Asking a running guest: shut down, reboot, reset, pause, go on.

use std::sync::Arc;

use qmp::commands;

use super::{Conditions, Driver, guest::Guest, react};
use crate::{
    domain::{Condition, Domain, Effects, Job, RunState, View, jobs::Kind, jobs::Want},
    error::{Code, Error, Result},
};

/// How to ask a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The best there is.
    Any,
    /// The power button.
    Acpi,
    /// The guest's agent.
    Agent,
    /// A way that QEMU guests do not have.
    Other(&'static str),
}

/// A running guest with a job on it.
struct Held {
    job: Job,
    guest: Arc<Guest>,
}

/// Takes a job on a running guest, after the caller's conditions are checked; none if it was only a trial.
async fn hold(driver: &Arc<Driver>, domain: &Domain, kind: Kind, conditions: &Conditions) -> Result<Option<Held>> {
    conditions.check(&domain.view())?;
    driver.guests.of(&domain.view())?;
    if conditions.trial {
        return Ok(None);
    }
    let job = domain.job(Want::Plain(kind)).await?;
    // It may have ended while we waited.
    let view = job.view();
    conditions.check(&view)?;
    let guest = driver.guests.of(&view)?;
    Ok(Some(Held { job, guest }))
}

/// The first mode that QEMU guests have.
fn first(modes: &[Mode], what: &str) -> Result<()> {
    if modes.is_empty() || modes.iter().any(|m| matches!(m, Mode::Any | Mode::Acpi)) {
        return Ok(());
    }
    match modes.contains(&Mode::Agent) {
        true => Err(Error::new(Code::OperationUnsupported, format!("{what} by the guest's agent is not supported yet; use acpi"))),
        false => Err(Error::argument(format!("{what} of QEMU guests goes by acpi or agent"))),
    }
}

/// Asks the guest to shut down.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU refuses.
pub async fn shutdown(driver: &Arc<Driver>, domain: &Domain, modes: &[Mode], conditions: &Conditions) -> Result<()> {
    first(modes, "shutdown")?;
    powerdown(driver, domain, conditions, Become::Off).await
}

/// Asks the guest to reboot: its shutdown becomes a reset.
///
/// # Errors
/// As [`shutdown`].
pub async fn reboot(driver: &Arc<Driver>, domain: &Domain, modes: &[Mode], conditions: &Conditions) -> Result<()> {
    first(modes, "reboot")?;
    powerdown(driver, domain, conditions, Become::Rebooted).await
}

/// What the guest's shutdown is to become.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Become {
    Off,
    Rebooted,
}

async fn powerdown(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions, then: Become) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Modify, conditions).await? else { return Ok(()) };
    let owned = Arc::clone(driver);
    driver
        .tracked(async move {
            let set = move |view: &mut View| {
                if let Some(run) = &mut view.run {
                    run.fake_reboot = then == Become::Rebooted;
                }
                Ok(Effects::none())
            };
            held.job.commit(set).await?;
            held.guest.execute(&owned, commands::SystemPowerdown {}).await.map(drop)
        })
        .await
}

/// Resets the guest's machine.
///
/// # Errors
/// As [`shutdown`].
pub async fn reset(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Modify, conditions).await? else { return Ok(()) };
    let owned = Arc::clone(driver);
    driver
        .tracked(async move {
            held.guest.execute(&owned, commands::SystemReset {}).await?;
            let reset = |view: &mut View| {
                if let Some(run) = &mut view.run {
                    run.fake_reboot = false;
                }
                // A guest that had crashed and was kept waits for somebody to let it go on.
                if view.condition.state() == RunState::Crashed {
                    view.condition = Condition::PAUSED_UNKNOWN;
                }
                Ok(Effects::none())
            };
            held.job.commit(reset).await.map(drop)
        })
        .await
}

/// Stops the guest's CPUs. A guest that is paused stays so.
///
/// # Errors
/// As [`shutdown`].
pub async fn suspend(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Suspend, conditions).await? else { return Ok(()) };
    match held.job.view().condition.state() {
        RunState::Paused => return Ok(()),
        RunState::PmSuspended => return Err(Error::invalid("domain is pmsuspended")),
        _ => {}
    }
    let owned = Arc::clone(driver);
    driver
        .tracked(async move {
            held.guest.expect_pause(Condition::PAUSED_USER);
            held.guest.execute(&owned, commands::Stop {}).await?;
            // QEMU's own event has told it, or will find it told.
            held.job.commit(|view| Ok(react::paused(view, Condition::PAUSED_USER))).await.map(drop)
        })
        .await
}

/// Lets the guest's CPUs run again. A guest that runs goes on.
///
/// # Errors
/// As [`shutdown`].
pub async fn resume(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Suspend, conditions).await? else { return Ok(()) };
    match held.job.view().condition.state() {
        RunState::Running => return Err(Error::invalid("domain is already running")),
        RunState::PmSuspended => return Err(Error::invalid("domain is pmsuspended")),
        _ => {}
    }
    let owned = Arc::clone(driver);
    driver
        .tracked(async move {
            held.guest.execute(&owned, commands::Cont {}).await?;
            held.job.commit(|view| Ok(react::resumed(view))).await.map(drop)
        })
        .await
}

/// Raises a non-maskable interrupt in the guest.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU refuses.
pub async fn inject_nmi(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Modify, conditions).await? else { return Ok(()) };
    held.guest.execute(driver, commands::InjectNmi {}).await.map(drop)
}

/// Resets a machine that has shut down or crashed and lets it run: on_poweroff or on_crash `restart`, and reboots.
pub(super) async fn restart(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let attempt = async {
        let job = guest.domain.job(Want::Plain(Kind::Modify)).await?;
        guest.execute(driver, commands::SystemReset {}).await?;
        guest.execute(driver, commands::Cont {}).await?;
        job.commit(|view| Ok(react::resumed(view))).await
    };
    if let Err(error) = attempt.await {
        tracing::error!(guest = %guest.domain.view().name, %error, "the guest could not be restarted after it shut down");
    }
}
