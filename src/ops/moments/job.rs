//! Jobs of QEMU's on snapshots that a former daemon began.

use qmp::commands;

use crate::{
    error::Result,
    ops::{
        graph::jobs,
        run::{guest::Guest, jobs::CONCLUDED},
    },
};

/// Waits for the end of jobs that nobody waits for any more, and dismisses them.
///
/// # Errors
/// QEMU does not answer; the guest ends.
pub(crate) async fn settle(guest: &Guest, ids: &[String]) -> Result<()> {
    let known = guest.execute(commands::QueryJobs {}).await?;
    for job in known.into_iter().filter(|job| ids.contains(&job.id)) {
        if job.status != CONCLUDED {
            let mut waiting = guest.jobs.expect(&job.id);
            jobs::reached(guest, &mut waiting, &[CONCLUDED]).await?;
        }
        guest.execute(commands::JobDismiss { id: job.id }).await?;
    }
    Ok(())
}
