//! The agent inside a guest: commands to it, one at a time.
//!
//! Used by its own service, by `power` and by what asks the guest about itself. The connection to the channel's socket is
//! made by the first command and kept for the run: an agent without a peer polls, and would answer late. Whether an agent
//! listens, QEMU tells by event, and the live document has it; the connection says nothing about it.
//!
//! The hard thing is an agent that goes away while it owes an answer: a command waits for the answer, its deadline, and the
//! news that the channel was closed inside the guest, whichever comes first. What the guest says is only handed on.

pub mod account;
pub mod clock;
pub mod cpus;
mod patience;
pub(crate) mod reply;

pub use patience::{Patience, set_patience};

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use domxml::devices::{Channel, ChannelState};
use qmp::agent::Agent;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::{
    domain::{Domain, Effects, Job, RunState, View, jobs::Want},
    error::{Area, Code, Error, Result},
    ops::{Driver, run::guest::Guest},
};

/// Name of the agent's channel.
const CHANNEL: &str = "org.qemu.guest_agent.0";
/// Longest command, bytes.
const COMMAND_MAX: usize = 4 << 20;
/// How long the guest may take to go down when its agent was told to.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// How long the channel's socket is dialled: QEMU listens already.
const DIAL: Duration = Duration::from_secs(5);

/// The connection to the agent of one run.
#[derive(Default)]
pub(crate) struct Line {
    current: Mutex<Option<Arc<Agent>>>,
}

impl Line {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Agent>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection; made if there is none.
    async fn dial(&self, socket: &Path) -> Result<Arc<Agent>> {
        if let Some(agent) = self.current().clone() {
            return Ok(agent);
        }
        let stream = tokio::time::timeout(DIAL, UnixStream::connect(socket)).await;
        let stream = match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(unresponsive(format!(
                    "QEMU guest agent's socket '{}' can't be opened: {error}",
                    socket.display()
                ))
                .caused_by(error));
            }
            Err(_) => {
                return Err(unresponsive(format!(
                    "QEMU guest agent's socket '{}' is not answered",
                    socket.display()
                )));
            }
        };
        let agent = Arc::new(Agent::new(stream));
        *self.current() = Some(Arc::clone(&agent));
        Ok(agent)
    }

    /// Forgets the connection; the next command makes another.
    fn hang_up(&self) {
        *self.current() = None;
    }
}

/// What the agent is to do to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Power it off.
    Off,
    /// Reboot it.
    Reboot,
}

impl Goal {
    fn command(self) -> &'static str {
        match self {
            Goal::Off => r#"{"execute":"guest-shutdown","arguments":{"mode":"powerdown"}}"#,
            Goal::Reboot => r#"{"execute":"guest-shutdown","arguments":{"mode":"reboot"}}"#,
        }
    }
}

/// Has the agent carry out a command given as JSON; its whole reply.
///
/// # Errors
/// `OperationInvalid` if the guest does not run, `ArgumentUnsupported` if it has no channel for an agent,
/// `AgentUnresponsive` if none listens or it does not answer, `AgentCommandTimeout` if it is slow, `AgentCommandFailed` if it
/// refuses, `Internal` if the text is no JSON.
pub async fn execute(
    driver: &Arc<Driver>,
    domain: &Domain,
    command: String,
    patience: Patience,
) -> Result<String> {
    if command.len() > COMMAND_MAX {
        return Err(Error::argument(format!(
            "the command has {} bytes; the most is {COMMAND_MAX}",
            command.len()
        )));
    }
    let view = domain.view();
    view.running()?;
    available(&view)?;
    let name = name_of(&command)?;
    let turn = Turn::take(driver, domain).await?;
    driver
        .tracked(async move {
            turn.mark().await?;
            let reply = turn.send(&name, &command, patience.limit()).await?;
            Ok(qmp::compact(&reply))
        })
        .await
}

/// Has the agent carry out a command of ours; what it returns.
///
/// # Errors
/// As [`execute`].
pub async fn ask(driver: &Arc<Driver>, domain: &Domain, name: &str, arguments: Value) -> Result<Value> {
    let turn = Turn::take(driver, domain).await?;
    let name = name.to_owned();
    driver
        .tracked(async move { turn.ask(&name, arguments).await })
        .await
}

/// The agent of a running guest, for all commands of one caller: no other's come between.
pub(crate) struct Turn {
    job: Job,
    guest: Arc<Guest>,
}

impl Turn {
    /// Waits for those before.
    ///
    /// # Errors
    /// `OperationInvalid` if the guest does not run.
    pub(crate) async fn take(driver: &Arc<Driver>, domain: &Domain) -> Result<Self> {
        driver.guests.reached(domain).await?;
        let job = domain.job(Want::Agent).await?;
        // It may have ended while we waited.
        let guest = driver.guests.of(&job.view())?;
        Ok(Self { job, guest })
    }

    /// The guest as it is now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.job.view()
    }

    /// What a command returns, within the time that commands to this guest's agent may take.
    ///
    /// # Errors
    /// As [`execute`].
    pub(crate) async fn ask(&self, name: &str, arguments: Value) -> Result<Value> {
        let within = Patience::of(&self.view()).limit();
        let reply = self.send(name, &line(name, arguments), within).await?;
        let reply: Value = serde_json::from_str(&reply).unwrap_or_default();
        reply.get("return").cloned().ok_or_else(|| malformed(name))
    }

    /// Has the agent carry out a command that puts the guest to sleep: done when the guest sleeps or ends, when the agent
    /// answers, or seconds after the agent has gone without an answer.
    ///
    /// # Errors
    /// As [`execute`].
    pub(crate) async fn put_to_sleep(&self, name: &str) -> Result<()> {
        let id = self.guest.id;
        let is_asleep =
            move |view: &Arc<View>| view.id() != id || view.condition.state() == RunState::PmSuspended;
        let domain = &self.guest.domain;
        let told = tokio::select! {
            biased;
            _ = domain.wait_for(is_asleep) => Ok(()),
            told = self.ask(name, json!({})) => told.map(drop),
        };
        match told {
            // A machine that falls asleep resets the agent's channel, and may be heard to do so first. One that takes long
            // is no failure: the agent refuses before it begins.
            Err(error) if error.reason == Some(GONE) => {
                let asleep = tokio::time::timeout(FALLING_ASLEEP, domain.wait_for(is_asleep)).await;
                if asleep.is_err() {
                    tracing::info!(%error, "the guest is not asleep yet");
                }
                Ok(())
            }
            other => other,
        }
    }

    async fn send(&self, name: &str, command: &str, within: Duration) -> Result<String> {
        let reply = talk(&self.guest, async |agent| {
            agent.execute_raw(command, within).await
        })
        .await?;
        checked(name, &reply)
    }

    /// The guest has been sent what only its owner can judge.
    async fn mark(&self) -> Result<()> {
        const TAINT: &str = "custom-ga-command";
        let view = self.view();
        if view.run.as_ref().is_none_or(|run| run.taints.contains(TAINT)) {
            return Ok(());
        }
        let change = |view: &mut View| {
            let run = view.run.as_mut().ok_or_else(Error::not_running)?;
            run.taints.insert(TAINT);
            Ok(Effects::none())
        };
        self.job.commit(change).await.map(drop)
    }
}

/// A command of ours as the agent reads it.
fn line(name: &str, arguments: Value) -> String {
    match arguments
        .as_object()
        .is_some_and(|arguments| arguments.is_empty())
    {
        true => json!({"execute": name}),
        false => json!({"execute": name, "arguments": arguments}),
    }
    .to_string()
}

/// The error that the agent's answer to `name` is not of the command's shape.
pub fn malformed(name: &str) -> Error {
    Error::internal(format!("malformed return value of the guest agent to {name}"))
}

/// Has the agent shut the guest down or reboot it, and waits until the agent has gone, at most a minute.
///
/// # Errors
/// As [`execute`].
pub(crate) async fn shut_down(driver: &Arc<Driver>, domain: &Domain, goal: Goal) -> Result<()> {
    let job = domain.job(Want::Agent).await?;
    let guest = driver.guests.of(&job.view())?;
    let work = async move {
        let ask = async |agent: &Agent| agent.execute_unanswered(goal.command(), SHUTDOWN).await;
        match talk(&guest, ask).await {
            Ok(Some(reply)) => checked("guest-shutdown", &reply).map(drop),
            Ok(None) => Ok(()),
            // That it goes is what was asked for.
            Err(error) if error.reason == Some(GONE) => Ok(()),
            Err(error) => Err(error),
        }
    };
    driver
        .tracked(async move {
            let result = work.await;
            drop(job);
            result
        })
        .await
}

/// Whether an agent listens now.
///
/// # Errors
/// Why not, as [`execute`].
pub(crate) fn available(view: &View) -> Result<()> {
    socket(view).map(drop)
}

/// How long a machine may take from the end of its agent's connection until it sleeps.
const FALLING_ASLEEP: Duration = Duration::from_secs(8);
/// The reason of the error that the agent went away.
const GONE: &str = "AGENT_GONE";
/// The reason of the error that the agent has no such command, or none that it may carry out.
pub(crate) const UNKNOWN: &str = "AGENT_COMMAND_UNKNOWN";

/// Does `work` with the agent, until that is done or the agent goes away.
async fn talk<T>(guest: &Arc<Guest>, work: impl AsyncFnOnce(&Agent) -> Result<T, qmp::Error>) -> Result<T> {
    let socket = socket(&guest.domain.view())?;
    let agent = guest.agent.dial(&socket).await?;
    let id = guest.id;
    let gone = guest
        .domain
        .wait_for(|view| view.id() != id || channel(view).is_none_or(|c| !listens(c)));
    tokio::select! {
        biased;
        result = work(&agent) => result.map_err(|error| {
            if matches!(error, qmp::Error::Closed { .. }) {
                guest.agent.hang_up();
            }
            meaning(error)
        }),
        _ = gone => {
            guest.agent.hang_up();
            Err(unresponsive("Guest agent disappeared while executing command").because(GONE))
        }
    }
}

/// Where the agent of a running guest is reached.
fn socket(view: &View) -> Result<PathBuf> {
    if view.run.is_none() || view.condition.state() != RunState::Running {
        return Err(Error::not_running().in_area(Area::Qemu));
    }
    let Some(channel) = channel(view) else {
        return Err(Error::new(
            Code::ArgumentUnsupported,
            "QEMU guest agent is not configured",
        ));
    };
    if !listens(channel) {
        return Err(unresponsive("QEMU guest agent is not connected"));
    }
    let path = channel.chardev.path().map(PathBuf::from);
    path.ok_or_else(|| {
        Error::new(
            Code::ArgumentUnsupported,
            "the channel of the QEMU guest agent is no socket",
        )
    })
}

fn channel(view: &View) -> Option<&Channel> {
    let channels = &view.run.as_ref()?.document.domain.devices.channels;
    channels.iter().find(|c| {
        c.target
            .as_ref()
            .is_some_and(|t| t.name.as_deref() == Some(CHANNEL))
    })
}

fn listens(channel: &Channel) -> bool {
    channel
        .target
        .as_ref()
        .is_some_and(|t| t.state == Some(ChannelState::Connected))
}

/// The command's name, for messages. What is no command, the agent itself says.
fn name_of(command: &str) -> Result<String> {
    let value: serde_json::Value =
        serde_json::from_str(command).map_err(|e| Error::internal(format!("failed to parse JSON: {e}")))?;
    Ok(value
        .get("execute")
        .and_then(|n| n.as_str())
        .unwrap_or("<unknown>")
        .to_owned())
}

/// The reply as libvirt gives it: without needless spaces, and what the agent refuses as an error.
fn checked(name: &str, reply: &str) -> Result<String> {
    let reply: serde_json::Value = serde_json::from_str(reply)
        .map_err(|e| unresponsive(format!("QEMU guest agent's answer to {name} is no JSON: {e}")))?;
    match reply.get("error") {
        None => Ok(reply.to_string()),
        Some(error) => {
            let words = error
                .get("desc")
                .and_then(|d| d.as_str())
                .unwrap_or("unknown error");
            let failed = Error::new(
                Code::AgentCommandFailed,
                format!("unable to execute QEMU agent command '{name}': {words}"),
            );
            let class = error.get("class").and_then(|class| class.as_str());
            Err(match class {
                Some("CommandNotFound" | "CommandDisabled") => failed.because(UNKNOWN),
                _ => failed,
            })
        }
    }
}

/// What an error of the connection means.
fn meaning(error: qmp::Error) -> Error {
    use qmp::Error as E;
    match &error {
        E::Timeout { command, after, .. } if command.starts_with("guest-sync") => unresponsive(format!(
            "guest agent didn't respond to synchronization within '{}' seconds",
            after.as_secs()
        ))
        .caused_by(error),
        E::Timeout { after, .. } => Error::new(
            Code::AgentCommandTimeout,
            format!(
                "guest agent didn't respond to command within '{}' seconds",
                after.as_secs()
            ),
        )
        .caused_by(error),
        E::Closed { .. } => unresponsive("Guest agent disappeared while executing command")
            .because(GONE)
            .caused_by(error),
        E::NotACommand(why) => Error::new(
            Code::AgentCommandFailed,
            format!("unable to execute QEMU agent command '<unknown>': {why}"),
        ),
        _ => unresponsive(error.to_string()).caused_by(error),
    }
}

fn unresponsive(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::AgentUnresponsive, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_refuses_is_an_error_with_its_words() {
        let error = checked(
            "a2-none",
            r#"{"error": {"class": "CommandNotFound", "desc": "The command a2-none has not been found"}}"#,
        )
        .unwrap_err();
        assert_eq!(error.code, Code::AgentCommandFailed);
        assert_eq!(
            error.message,
            "unable to execute QEMU agent command 'a2-none': The command a2-none has not been found"
        );
    }

    #[test]
    fn a_reply_is_given_without_spaces_and_in_the_agents_order() {
        assert_eq!(
            checked("x", r#"{"return": {"b": 1, "a": [ ]}}"#).unwrap(),
            r#"{"return":{"b":1,"a":[]}}"#
        );
    }

    #[test]
    fn a_command_that_the_agent_does_not_know_is_told_from_one_that_fails() {
        let refused = |class: &str| {
            let reply = json!({"error": {"class": class, "desc": "no"}}).to_string();
            checked("guest-x", &reply).unwrap_err()
        };
        for (class, reason) in [
            ("CommandNotFound", Some(UNKNOWN)),
            ("CommandDisabled", Some(UNKNOWN)),
            ("GenericError", None),
        ] {
            let error = refused(class);
            assert_eq!(
                (error.code, error.reason),
                (Code::AgentCommandFailed, reason),
                "{class}"
            );
        }
    }

    #[test]
    fn a_command_without_arguments_has_none() {
        assert_eq!(line("guest-ping", json!({})), r#"{"execute":"guest-ping"}"#);
        let line = line("guest-fstrim", json!({"minimum": 0}));
        assert_eq!(line, r#"{"execute":"guest-fstrim","arguments":{"minimum":0}}"#);
    }

    #[test]
    fn what_is_no_json_is_never_sent() {
        assert_eq!(name_of("guest-ping").unwrap_err().code, Code::Internal);
        assert_eq!(name_of("[1]").unwrap(), "<unknown>");
        assert_eq!(name_of(r#"{"execute":"guest-ping"}"#).unwrap(), "guest-ping");
    }

    #[test]
    fn an_agent_that_is_not_there_is_told_from_one_that_is_slow() {
        let late = |command: &str| {
            meaning(qmp::Error::Timeout {
                command: command.to_owned(),
                after: Duration::from_secs(5),
                sent: true,
            })
        };
        assert_eq!(late("guest-sync-delimited").code, Code::AgentUnresponsive);
        assert_eq!(late("guest-ping").code, Code::AgentCommandTimeout);
    }
}
