//! Merges images of a running guest into those right below them, of several disks at once: what the removal of an
//! external snapshot does.
//!
//! ```text
//!  all begin ─▶ all are waited for ─▶ one after the other: swapped in or let finish, documents follow, the image goes
//! ```
//!
//! Until one is finished nothing is decided: what fails before cancels all. A daemon that comes later finds the jobs by
//! their names and goes on with them.

use std::{future::Future, sync::Arc};

use qemu_plan::block::Chain;
use qmp::commands;
use serde_json::json;

use super::{
    commit::{self, Commit},
    control::{self, Swap},
    end::{self, Outcome},
    entry,
};
use crate::{
    error::{Code, Error, Result},
    ops::{
        graph::{self, jobs as waiting},
        operation::Context,
        run::{
            guest::Guest,
            jobs::{CONCLUDED, Waiting},
            long_job::LongJob,
        },
    },
};

/// An image that is merged into the one below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// The disk's target.
    pub(crate) target: String,
    /// Where in the disk's chain the image is that goes; 0 is the one that the guest writes to.
    pub(crate) at: usize,
}

/// The states in which a job has nothing left to do but what it is told.
const SETTLED: &[&str] = &["ready", "pending", CONCLUDED];

/// A merge that was begun.
struct Begun<'a> {
    id: String,
    target: String,
    is_top: bool,
    waiting: Waiting<'a>,
}

/// Merges all of them. `between` is done when everything is in the images below, and nothing has left a chain yet.
///
/// # Errors
/// What QEMU refuses or fails at, or somebody has cancelled it. What was not finished is cancelled then.
pub(crate) async fn merge(
    context: &Context,
    guest: &Arc<Guest>,
    (job, merges): (&LongJob, &[Merge]),
    between: impl Future<Output = Result<()>>,
) -> Result<()> {
    let mut begun = Vec::new();
    let mut result = Ok(());
    for merge in merges {
        match Box::pin(begin(context, guest, merge)).await {
            Ok(one) => begun.push(one),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if result.is_ok() {
        result = settled(context, guest, (job, &mut begun)).await;
    }
    context.set_cancellable(false);
    if result.is_ok() {
        result = between.await;
    }
    let mut left = begun.into_iter().peekable();
    while let Some(one) = left.peek_mut().filter(|_| result.is_ok()) {
        result = finish(context, guest, one).await;
        if result.is_ok() {
            left.next();
        }
    }
    for one in left {
        give_up(context, guest, one).await;
    }
    result
}

async fn begin<'g>(context: &Context, guest: &'g Arc<Guest>, merge: &Merge) -> Result<Begun<'g>> {
    let view = context.view();
    let disk = graph::disk(&view.running()?.document.domain, &merge.target)?;
    let chain = Chain::of(disk);
    let layer = |at: usize| {
        let missing = || Error::internal(format!("disk '{}' has no such image", merge.target));
        chain.layers.get(at).ok_or_else(missing)
    };
    let node = layer(merge.at)?.node().unwrap_or_default();
    let id = format!("commit-{}-{node}", merge.target);
    let waiting = guest.jobs.expect(&id);
    let one = Begun {
        id,
        target: merge.target.clone(),
        is_top: merge.at == 0,
        waiting,
    };
    if entry(&view, &one.id).is_some() {
        // A daemon that was killed has begun it.
        return Ok(one);
    }
    let named = |at: usize| -> Result<String> {
        let index = layer(at)?.index.unwrap_or_default();
        Ok(format!("{}[{index}]", merge.target))
    };
    let wanted = Commit {
        disk: merge.target.clone(),
        base: Some(named(merge.at + 1)?),
        top: (!one.is_top).then(|| named(merge.at)).transpose()?,
        delete: true,
        active: one.is_top,
        ..Commit::default()
    };
    let mut plan = commit::plan(&view, &wanted)?;
    if !one.is_top {
        // Nothing is cut out before all disks have come so far.
        plan.arguments["auto-finalize"] = json!(false);
    }
    commit::begin_planned(context, guest, plan).await?;
    Ok(one)
}

/// Waits until all have nothing left to do.
async fn settled(
    context: &Context,
    guest: &Arc<Guest>,
    (job, begun): (&LongJob, &mut [Begun<'_>]),
) -> Result<()> {
    context.set_cancellable(true);
    let all = begun.len() as u64;
    for (done, one) in begun.iter_mut().enumerate() {
        context.progress(done as u64, all);
        let reached = tokio::select! {
            biased;
            () = context.cancelled() => return Err(job.cancelled()),
            reached = waiting::reached(guest, &mut one.waiting, SETTLED) => reached?,
        };
        if reached.status == CONCLUDED {
            return Err(failed(
                "block commit failed",
                &one.target,
                reached.error.as_deref(),
            ));
        }
        if one.is_top {
            end::ready(guest, &one.id).await?;
        }
    }
    Ok(())
}

fn failed(what: &str, target: &str, why: Option<&str>) -> Error {
    let why = why.unwrap_or("it ended before its time");
    Error::new(
        Code::Internal,
        format!("{what} while deleting disk '{target}' snapshot: '{why}'"),
    )
}

/// Has one finish, and the documents follow.
async fn finish(context: &Context, guest: &Arc<Guest>, one: &mut Begun<'_>) -> Result<()> {
    let id = one.id.clone();
    let swapped = match one.is_top {
        true => {
            let view = context.view();
            let job = entry(&view, &id).ok_or_else(Error::not_running)?.clone();
            let disk = graph::disk(&view.running()?.document.domain, &one.target)?;
            let swap = Swap::of(disk, &job);
            Box::pin(control::pivot(context, guest, &job, swap))
                .await?
                .transpose()?
        }
        false => {
            guest.execute(commands::JobFinalize { id: id.clone() }).await?;
            None
        }
    };
    let outcome = match swapped {
        Some(outcome) => outcome,
        None => {
            waiting::reached(guest, &mut one.waiting, &[CONCLUDED]).await?;
            Box::pin(end::finish(context, guest, &id)).await?
        }
    };
    match outcome {
        Outcome::Completed => Ok(()),
        Outcome::Failed(why) => Err(failed("finishing block job failed", &one.target, Some(&why))),
        Outcome::Cancelled => Err(failed(
            "finishing block job failed",
            &one.target,
            Some("cancelled"),
        )),
    }
}

/// Cancels one: the images stay as they are. Of one that has ended the documents follow.
async fn give_up(context: &Context, guest: &Arc<Guest>, mut one: Begun<'_>) {
    let cancelled = async {
        if entry(&context.view(), &one.id).is_none() {
            return Ok(());
        }
        let known = guest.execute(commands::QueryJobs {}).await?;
        let is_at_work = known
            .iter()
            .any(|job| job.id == one.id && job.status != CONCLUDED);
        if is_at_work {
            let device = one.id.clone();
            guest
                .execute(commands::BlockJobCancel { device, force: true })
                .await?;
            waiting::reached(guest, &mut one.waiting, &[CONCLUDED]).await?;
        }
        Box::pin(end::finish(context, guest, &one.id)).await.map(drop)
    };
    if let Err(error) = cancelled.await {
        tracing::warn!(job = one.id, %error, "a merge that was given up could not be cancelled");
        if !guest.has_ended().await {
            end::see_to_beside(context.driver(), guest, one.id);
        }
    }
}
