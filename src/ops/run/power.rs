//! Asking a running guest: shut down, reboot, reset, pause, go on.

use std::sync::Arc;

use qmp::commands;

use crate::{
    domain::{
        Condition, Domain, Effects, Job, RunState, View,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        holdings::net::traffic,
        run::{
            agent::{self, Goal},
            cpus,
            guest::Guest,
            react,
        },
    },
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
async fn hold(
    driver: &Arc<Driver>,
    domain: &Domain,
    kind: Kind,
    conditions: &Conditions,
) -> Result<Option<Held>> {
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

/// How a guest is asked to shut down or reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the power button.
    Button,
    /// By its agent, and nothing else.
    Agent,
    /// By its agent, and by the power button if that fails.
    AgentOrButton,
}

impl Way {
    /// The way that `modes` mean for a guest whose agent `listens`.
    fn of(modes: &[Mode], listens: bool, what: &str) -> Result<Self> {
        let has = |mode| modes.contains(&mode);
        let any = modes.is_empty() || has(Mode::Any);
        match (has(Mode::Agent), has(Mode::Acpi)) {
            (true, acpi) => Ok(if acpi || any {
                Way::AgentOrButton
            } else {
                Way::Agent
            }),
            (false, true) => Ok(Way::Button),
            (false, false) if any => Ok(if listens { Way::AgentOrButton } else { Way::Button }),
            (false, false) => Err(Error::argument(format!(
                "{what} of QEMU guests goes by acpi or agent"
            ))),
        }
    }
}

/// Asks the guest to shut down.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU or the agent refuse.
pub async fn shutdown(
    driver: &Arc<Driver>,
    domain: &Domain,
    modes: &[Mode],
    conditions: &Conditions,
) -> Result<()> {
    let view = domain.view();
    let way = Way::of(modes, agent::available(&view).is_ok(), "shutdown")?;
    let restarts = view
        .run
        .as_ref()
        .is_some_and(|r| r.document.domain.on_poweroff == Some(domxml::clock::LifecycleAction::Restart));
    let goal = if restarts { Goal::Reboot } else { Goal::Off };
    ask(driver, domain, conditions, (way, goal, Become::Off)).await
}

/// Asks the guest to reboot: by its agent, or its shutdown becomes a reset.
///
/// # Errors
/// As [`shutdown`].
pub async fn reboot(
    driver: &Arc<Driver>,
    domain: &Domain,
    modes: &[Mode],
    conditions: &Conditions,
) -> Result<()> {
    let way = Way::of(modes, agent::available(&domain.view()).is_ok(), "reboot")?;
    ask(driver, domain, conditions, (way, Goal::Reboot, Become::Rebooted)).await
}

async fn ask(
    driver: &Arc<Driver>,
    domain: &Domain,
    conditions: &Conditions,
    (way, goal, then): (Way, Goal, Become),
) -> Result<()> {
    if way == Way::Button {
        return powerdown(driver, domain, conditions, then).await;
    }
    conditions.check(&domain.view())?;
    driver.guests.of(&domain.view())?;
    if conditions.trial {
        return if way == Way::Agent {
            agent::available(&domain.view())
        } else {
            Ok(())
        };
    }
    match by_agent(driver, domain, goal).await {
        Err(error) if way == Way::AgentOrButton => {
            tracing::info!(guest = %domain.view().name, %error, "the agent does not help; the power button is pressed");
            powerdown(driver, domain, conditions, then).await
        }
        result => result,
    }
}

/// What the agent does is no shutdown that becomes a reset.
async fn by_agent(driver: &Arc<Driver>, domain: &Domain, goal: Goal) -> Result<()> {
    agent::available(&domain.view())?;
    let plain = |view: &mut View| {
        if let Some(run) = &mut view.run {
            run.fake_reboot = false;
        }
        Ok(Effects::none())
    };
    domain.commit(plain).await?;
    agent::shut_down(driver, domain, goal).await
}

/// What the guest's shutdown is to become.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Become {
    Off,
    Rebooted,
}

async fn powerdown(
    driver: &Arc<Driver>,
    domain: &Domain,
    conditions: &Conditions,
    then: Become,
) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Modify, conditions).await? else {
        return Ok(());
    };
    driver
        .tracked(async move {
            let set = move |view: &mut View| {
                if let Some(run) = &mut view.run {
                    run.fake_reboot = then == Become::Rebooted;
                }
                Ok(Effects::none())
            };
            held.job.commit(set).await?;
            held.guest.execute(commands::SystemPowerdown {}).await.map(drop)
        })
        .await
}

/// Resets the guest's machine.
///
/// # Errors
/// As [`shutdown`].
pub async fn reset(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Modify, conditions).await? else {
        return Ok(());
    };
    driver
        .tracked(async move {
            held.guest.execute(commands::SystemReset {}).await?;
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
    let Some(held) = hold(driver, domain, Kind::Suspend, conditions).await? else {
        return Ok(());
    };
    match held.job.view().condition.state() {
        RunState::Paused => return Ok(()),
        RunState::PmSuspended => return Err(Error::invalid("domain is pmsuspended")),
        _ => {}
    }
    let owned = Arc::clone(driver);
    driver
        .tracked(async move {
            held.guest.expect_pause(Condition::PAUSED_USER);
            held.guest.execute(commands::Stop {}).await?;
            traffic::hold_back(&held.job.view()).await;
            // QEMU's own event has told it, or will find it told.
            held.job
                .commit(|view| Ok(react::paused(view, Condition::PAUSED_USER)))
                .await?;
            cpus::cpus_stopped(&owned, &held.guest).await;
            Ok(())
        })
        .await
}

/// Lets the guest's CPUs run again. A guest that runs goes on.
///
/// # Errors
/// As [`shutdown`].
pub async fn resume(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Suspend, conditions).await? else {
        return Ok(());
    };
    match held.job.view().condition.state() {
        RunState::Running => return Err(Error::invalid("domain is already running")),
        RunState::PmSuspended => return Err(Error::invalid("domain is pmsuspended")),
        _ => {}
    }
    let owned = Arc::clone(driver);
    driver
        .tracked(async move {
            traffic::allow(&held.job.view().running()?.document.domain).await?;
            let run = async {
                held.guest.execute(commands::Cont {}).await?;
                held.job.commit(|view| Ok(react::resumed(view))).await.map(drop)
            };
            cpus::run_cpus(&owned, &held.guest, run).await
        })
        .await
}

/// Raises a non-maskable interrupt in the guest.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU refuses.
pub async fn inject_nmi(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let Some(held) = hold(driver, domain, Kind::Modify, conditions).await? else {
        return Ok(());
    };
    held.guest.execute(commands::InjectNmi {}).await.map(drop)
}

/// Resets a machine that has shut down or crashed and lets it run: on_poweroff or on_crash `restart`, and reboots.
pub(crate) async fn restart(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let attempt = async {
        let job = guest.domain.job(Want::Plain(Kind::Modify)).await?;
        guest.execute(commands::SystemReset {}).await?;
        let run = async {
            guest.execute(commands::Cont {}).await?;
            job.commit(|view| Ok(react::resumed(view))).await
        };
        cpus::run_cpus(driver, guest, run).await
    };
    if let Err(error) = attempt.await {
        tracing::error!(guest = %guest.domain.view().name, %error, "the guest could not be restarted after it shut down");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_asked_if_it_listens_or_nothing_else_is_wanted() {
        use Mode::{Acpi, Agent, Any};
        let cases: [(&[Mode], bool, Way); 7] = [
            (&[], false, Way::Button),
            (&[], true, Way::AgentOrButton),
            (&[Any], true, Way::AgentOrButton),
            (&[Acpi], true, Way::Button),
            (&[Agent], false, Way::Agent),
            (&[Agent, Acpi], false, Way::AgentOrButton),
            (&[Acpi, Mode::Other("signal")], false, Way::Button),
        ];
        for (modes, listens, way) in cases {
            assert_eq!(Way::of(modes, listens, "shutdown").unwrap(), way, "{modes:?}");
        }
        assert!(Way::of(&[Mode::Other("initctl")], true, "shutdown").is_err());
    }
}
