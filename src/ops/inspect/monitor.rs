//! Commands that a client gives to QEMU itself. The guest is marked: what was done so is not known here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use qmp::{Command, commands};

use crate::{
    domain::{
        Domain, Effects, View,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::Driver,
};

/// Gives a QMP command to QEMU, `fds` going with it; the whole reply, errors of QEMU included.
///
/// # Errors
/// `OperationInvalid` if the guest does not run, `Internal` if the text is not a command, what the monitor gives.
pub async fn raw(
    driver: &Arc<Driver>,
    domain: &Domain,
    command: String,
    fds: Vec<OwnedFd>,
) -> Result<String> {
    let guest = driver.guests.reached(domain).await?;
    let job = domain.job(Want::Plain(Kind::Modify)).await?;
    let monitor = guest.monitor()?;
    driver
        .tracked(async move {
            let _asking = match asks_about_nodes(&command) {
                true => Some(guest.nodes_may_be_asked().await?),
                false => None,
            };
            let reply = monitor.raw(&command, fds).await?;
            mark(&job).await?;
            Ok(reply)
        })
        .await
}

/// Gives a line to QEMU's human monitor, `fds` going with it; what it prints.
///
/// # Errors
/// As [`raw`].
pub async fn human(driver: &Arc<Driver>, domain: &Domain, line: String, fds: Vec<OwnedFd>) -> Result<String> {
    let guest = driver.guests.reached(domain).await?;
    let job = domain.job(Want::Plain(Kind::Modify)).await?;
    driver
        .tracked(async move {
            let _asking = match asks_about_nodes(&line) {
                true => Some(guest.nodes_may_be_asked().await?),
                false => None,
            };
            let command = commands::HumanMonitorCommand { command_line: line };
            let text = match fds.is_empty() {
                true => guest.execute(command).await?,
                false => guest.monitor()?.client().execute_with_fds(command, fds).await?,
            };
            mark(&job).await?;
            Ok(text)
        })
        .await
}

/// Whether a command, or a line for the human monitor in one, has QEMU look at all its block nodes (`ops::run::streams`).
fn asks_about_nodes(command: &str) -> bool {
    let mut words = command.split(|c: char| c.is_whitespace() || c == '"');
    command.contains(commands::QueryNamedBlockNodes::NAME)
        || command.contains("info block") && words.any(|word| word.starts_with('-') && word.contains('n'))
}

async fn mark(job: &crate::domain::Job) -> Result<()> {
    let known = job
        .view()
        .run
        .as_ref()
        .is_none_or(|r| r.taints.contains("custom-monitor"));
    if known {
        return Ok(());
    }
    let change = |view: &mut View| {
        let run = view.run.as_mut().ok_or_else(Error::not_running)?;
        run.taints.insert("custom-monitor");
        Ok(Effects::none())
    };
    job.commit(change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_at_all_nodes_is_known_in_either_language() {
        for asks in [
            r#"{"execute": "query-named-block-nodes"}"#,
            "info block -n",
            "info block -v -n",
            r#"{"execute": "human-monitor-command", "arguments": {"command-line": "info block -n"}}"#,
        ] {
            assert!(asks_about_nodes(asks), "{asks}");
        }
        for other in [
            "info block",
            "info block -v",
            r#"{"execute": "query-block"}"#,
            "info name -n",
        ] {
            assert!(!asks_about_nodes(other), "{other}");
        }
    }
}
