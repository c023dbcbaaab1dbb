//! Jobs of QEMU that are begun, waited for and dismissed in one go.
//!
//! Events get lost while the monitor is away, so whoever waits also asks.

use std::time::Duration;

use qmp::{Command, commands, types::JobInfo};

use crate::{
    error::{Error, Result},
    ops::run::{
        guest::Guest,
        jobs::{CONCLUDED, Waiting},
    },
};

/// How often a job is asked for whose event may have been lost.
const ASK: Duration = Duration::from_secs(2);
/// Between two questions when QEMU is not where its event said.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two attempts to ask while the monitor is away.
const AWAY: Duration = Duration::from_millis(200);

/// Waits until a job is in one of these states; what QEMU says of it then.
///
/// # Errors
/// The guest ends, QEMU does not answer, or it has no such job.
pub(crate) async fn reached(guest: &Guest, waiting: &mut Waiting<'_>, states: &[&str]) -> Result<JobInfo> {
    loop {
        tokio::select! {
            () = waiting.told(states) => {}
            () = tokio::time::sleep(ASK) => {}
            () = guest.process_ended() => return Err(Error::not_running()),
        }
        match find(guest, waiting.id()).await {
            Ok(job) if states.contains(&job.status.as_str()) => return Ok(job),
            Ok(_) => tokio::time::sleep(PAUSE).await,
            // A monitor that is away comes again, or the process ends.
            Err(error) if error.reason == Some("UNREACHABLE") => tokio::time::sleep(AWAY).await,
            Err(error) => return Err(error),
        }
    }
}

/// A job as QEMU knows it.
///
/// # Errors
/// QEMU does not answer, or has no such job.
pub(crate) async fn find(guest: &Guest, id: &str) -> Result<JobInfo> {
    let jobs = guest.execute(commands::QueryJobs {}).await?;
    let found = jobs.into_iter().find(|job| job.id == id);
    found.ok_or_else(|| Error::internal(format!("QEMU has no job '{id}'")))
}

/// Begins a job that is not dismissed by itself, waits for its end and dismisses it. What it failed with is in the answer.
///
/// # Errors
/// QEMU refuses to begin it or does not answer; the guest ends.
pub(crate) async fn run<C: Command>(guest: &Guest, id: &str, begin: C) -> Result<JobInfo> {
    let mut waiting = guest.jobs.expect(id);
    guest.execute(begin).await?;
    let job = reached(guest, &mut waiting, &[CONCLUDED]).await?;
    guest.execute(commands::JobDismiss { id: id.to_owned() }).await?;
    Ok(job)
}

/// Waits for the end of jobs that nobody waits for any more, and dismisses them.
///
/// # Errors
/// QEMU does not answer; the guest ends.
pub(crate) async fn settle(guest: &Guest, ids: &[String]) -> Result<()> {
    let known = guest.execute(commands::QueryJobs {}).await?;
    for job in known.into_iter().filter(|job| ids.contains(&job.id)) {
        if job.status != CONCLUDED {
            let mut waiting = guest.jobs.expect(&job.id);
            reached(guest, &mut waiting, &[CONCLUDED]).await?;
        }
        guest.execute(commands::JobDismiss { id: job.id }).await?;
    }
    Ok(())
}
