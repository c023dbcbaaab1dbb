//! Asking a running guest: shut down, reboot, reset, pause, go on, sleep, wake up.

use std::sync::Arc;

use domxml::{clock::PowerManagement, devices::YesNo};
use qmp::commands;

use crate::{
    domain::{
        Condition, Domain, Effects, RunState, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        holdings::net::traffic,
        operation::{Ask, Context, Operation},
        run::{
            agent::{self, Goal, Turn},
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

/// Begins an operation on a running guest.
pub(super) async fn begin(
    driver: &Arc<Driver>,
    domain: &Domain,
    (kind, job): (&'static str, Kind),
    conditions: &Conditions,
) -> Result<(Operation, Arc<Guest>)> {
    // One that does not run is not waited for.
    driver.guests.reached(domain).await?;
    let ask = Ask {
        kind,
        job: Want::Plain(job),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let guest = driver.guests.of(&operation.view())?;
    Ok((operation, guest))
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
    driver.guests.reached(domain).await?;
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
    let (operation, guest) = begin(driver, domain, ("shutdown", Kind::Modify), conditions).await?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| {
        Box::pin(async move {
            let set = move |view: &mut View| {
                if let Some(run) = &mut view.run {
                    run.fake_reboot = then == Become::Rebooted;
                }
                Ok(Effects::none())
            };
            context.commit_with(set).await?;
            guest.execute(commands::SystemPowerdown {}).await.map(drop)
        })
    };
    operation.carry_out(work).await
}

/// Resets the guest's machine.
///
/// # Errors
/// As [`shutdown`].
pub async fn reset(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let (operation, guest) = begin(driver, domain, ("reset", Kind::Modify), conditions).await?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| {
        Box::pin(async move {
            // It takes nothing back, and nothing of it stays: there is no intent.
            guest.execute(commands::SystemReset {}).await?;
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
            context.commit_with(reset).await.map(drop)
        })
    };
    operation.carry_out(work).await
}

/// Stops the guest's CPUs. A guest that is paused stays so.
///
/// # Errors
/// As [`shutdown`].
pub async fn suspend(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let (operation, guest) = begin(driver, domain, ("suspend", Kind::Suspend), conditions).await?;
    match operation.view().condition.state() {
        RunState::Paused => return Ok(()),
        RunState::PmSuspended => return Err(Error::invalid("domain is pmsuspended")),
        _ => {}
    }
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| {
        Box::pin(async move {
            context.intend_if_possible(Intent::Pause).await;
            guest.expect_pause(Condition::PAUSED_USER);
            let again = Arc::clone(&guest);
            let stop = async { guest.execute(commands::Stop {}).await.map(drop) };
            context
                .step("the CPUs", stop, async move {
                    again.execute(commands::Cont {}).await.map(drop)
                })
                .await?;
            traffic::hold_back(&context.view()).await;
            // QEMU's own event has told it, or will find it told.
            context
                .commit_with(|view| Ok(react::paused(view, Condition::PAUSED_USER)))
                .await?;
            cpus::cpus_stopped(context.driver(), &guest).await;
            Ok(())
        })
    };
    operation.carry_out(work).await
}

/// Lets the guest's CPUs run again. A guest that runs goes on.
///
/// # Errors
/// As [`shutdown`].
pub async fn resume(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let (operation, guest) = begin(driver, domain, ("resume", Kind::Suspend), conditions).await?;
    match operation.view().condition.state() {
        RunState::Running => return Err(Error::invalid("domain is already running")),
        RunState::PmSuspended => return Err(Error::invalid("domain is pmsuspended")),
        _ => {}
    }
    if operation.is_trial() {
        return Ok(());
    }
    let work = |context: Arc<Context>| {
        Box::pin(async move {
            context.intend_if_possible(Intent::Resume).await;
            traffic::allow(&context.view().running()?.document.domain).await?;
            let run = async {
                let again = Arc::clone(&guest);
                let cont = async { guest.execute(commands::Cont {}).await.map(drop) };
                context
                    .step("the CPUs", cont, async move {
                        again.execute(commands::Stop {}).await.map(drop)
                    })
                    .await?;
                context
                    .commit_with(|view| Ok(react::resumed(view)))
                    .await
                    .map(drop)
            };
            cpus::run_cpus(context.driver(), &guest, run).await
        })
    };
    operation.carry_out(work).await
}

/// How a guest sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Its memory stays powered.
    Memory,
    /// Its memory goes to its disk, and the guest off.
    Disk,
    /// Its memory goes to its disk and stays powered as well.
    Hybrid,
}

impl Sleep {
    fn command(self) -> &'static str {
        match self {
            Sleep::Memory => "guest-suspend-ram",
            Sleep::Disk => "guest-suspend-disk",
            Sleep::Hybrid => "guest-suspend-hybrid",
        }
    }

    /// Whether a guest with this document may sleep so.
    fn allowed(self, pm: Option<&PowerManagement>) -> Result<()> {
        let (allowed, state) = match self {
            Sleep::Memory | Sleep::Hybrid => (pm.and_then(|pm| pm.suspend_to_mem), "S3"),
            Sleep::Disk => (pm.and_then(|pm| pm.suspend_to_disk), "S4"),
        };
        if allowed == Some(YesNo::No) {
            let text = format!("{state} state is disabled for this domain");
            return Err(Error::internal(text));
        }
        Ok(())
    }
}

/// Has the guest's agent put the guest to sleep, and waits until it sleeps.
///
/// # Errors
/// As [`agent::execute`]; `OperationUnsupported` if nothing could wake it up, `Internal` if its document forbids it.
pub async fn put_to_sleep(driver: &Arc<Driver>, domain: &Domain, sleep: Sleep) -> Result<()> {
    agent::available(&domain.view())?;
    let able = {
        let job = domain.job(Want::Plain(Kind::Query)).await?;
        let guest = driver.guests.of(&job.view())?;
        let machine = guest.execute(commands::QueryCurrentMachine {}).await?;
        machine.wakeup_suspend_support
    };
    if !able && sleep != Sleep::Disk {
        return Err(Error::new(
            Code::OperationUnsupported,
            "Domain does not have suspend support",
        ));
    }
    sleep.allowed(domain.view().running()?.document.domain.pm.as_ref())?;
    let turn = Turn::take(driver, domain).await?;
    driver
        .tracked(async move { turn.put_to_sleep(sleep.command()).await })
        .await
}

/// Wakes a guest that sleeps.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU refuses, if it does not sleep.
pub async fn wake(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let (operation, guest) = begin(driver, domain, ("wake", Kind::Modify), conditions).await?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |_: Arc<Context>| async move { guest.execute(commands::SystemWakeup {}).await.map(drop) };
    operation.carry_out(work).await
}

/// Raises a non-maskable interrupt in the guest.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU refuses.
pub async fn inject_nmi(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let (operation, guest) = begin(driver, domain, ("inject-nmi", Kind::Modify), conditions).await?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = |_: Arc<Context>| async move { guest.execute(commands::InjectNmi {}).await.map(drop) };
    operation.carry_out(work).await
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
