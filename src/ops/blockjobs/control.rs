//! Steers the job of a disk: cancels it, swaps its copy in, limits its speed.

use std::{sync::Arc, time::Duration};

use domxml::status::{BlockJob, BlockJobKind, BlockJobState};
use qmp::commands;

use super::{
    end::{self, Outcome},
    entry, set_state,
};
use crate::{
    domain::{
        Domain, Effects, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        graph::{self, bitmaps, jobs, lookup},
        operation::{Ask, Context, Operation},
        run::{guest::Guest, jobs::CONCLUDED, still::Still},
    },
};

/// How long the CPUs may stand while a copy is swapped in. QEMU has both images alike but for what was written last; one
/// that takes longer goes on beside a guest that runs.
const MOST_STILL: Duration = Duration::from_secs(2);

/// How a job is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The disk stays on the images that it is on.
    Abort,
    /// The disk goes over to the copy, or to the image that was committed to.
    Pivot,
}

/// Ends the job of a disk. With `wait` it is over when this returns, and the documents have followed.
///
/// # Errors
/// There is no such disk or job; it is not ready to be swapped in; what QEMU refuses; how a swap failed.
pub async fn end(
    driver: &Arc<Driver>,
    domain: &Domain,
    (name, how, wait): (&str, End, bool),
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "abort-block-job",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let (job, swap) = at_work(&view, name, how)?;
    let guest = driver.guests.of(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = {
        let (guest, job) = (Arc::clone(&guest), job.clone());
        |context: Arc<Context>| Box::pin(carry_out(context, guest, job, (how, swap)))
    };
    operation.carry_out(work).await?;
    match wait {
        true => ended(&guest, &job, how).await,
        false => Ok(()),
    }
}

/// What is swapped in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Swap {
    /// The node that takes the place of the disk's.
    node: Option<String>,
    /// A node that is put below it before, and the node above: of a copy whose image somebody else made.
    attach: Option<(String, String)>,
}

/// The job of a disk that may be ended so, and what it writes to.
fn at_work(view: &View, name: &str, how: End) -> Result<(BlockJob, Swap)> {
    let run = view.running()?;
    let disk = lookup::disk_named(run, name)?;
    let target = &disk.target.dev;
    let job = graph::job_of(view, target)
        .ok_or_else(|| Error::argument(format!("disk {target} does not have an active block job")))?;
    if matches!(
        job.state.known(),
        Some(BlockJobState::Aborting | BlockJobState::Pivoting)
    ) {
        return Err(Error::invalid(format!(
            "block job on disk '{target}' is still being ended"
        )));
    }
    if how == End::Pivot {
        check_pivot(job)?;
    }
    Ok((job.clone(), Swap::of(disk, job)))
}

impl Swap {
    /// What a job of a disk swaps in.
    pub(crate) fn of(disk: &domxml::devices::Disk, job: &BlockJob) -> Self {
        let mirror = disk.mirror.as_ref().map(qemu_plan::block::Chain::of_mirror);
        Self {
            node: mirror.and_then(|chain| chain.layers.first()?.node().map(str::to_owned)),
            attach: super::copy::attaches(disk, super::after::flags(job)),
        }
    }
}

fn check_pivot(job: &BlockJob) -> Result<()> {
    if job.state.known() != Some(BlockJobState::Ready) {
        let text = format!("block job '{}' not ready for pivot yet", job.name);
        return Err(Error::new(Code::BlockCopyActive, text));
    }
    match job.kind.known() {
        Some(BlockJobKind::Copy | BlockJobKind::ActiveCommit) => Ok(()),
        kind => {
            let kind = kind.map_or("unknown", BlockJobKind::as_str);
            Err(Error::invalid(format!(
                "job type '{kind}' does not support pivot"
            )))
        }
    }
}

async fn carry_out(
    context: Arc<Context>,
    guest: Arc<Guest>,
    job: BlockJob,
    (how, swap): (End, Swap),
) -> Result<()> {
    if how == End::Abort {
        return abort(&context, &guest, &job).await;
    }
    let swapped = Box::pin(pivot(&context, &guest, &job, swap)).await?;
    if !matches!(swapped, Some(Ok(_))) {
        // It takes longer, or the documents can't follow yet: that is seen to beside.
        if let Some(Err(error)) = swapped {
            tracing::warn!(job = job.name, %error, "a copy was swapped in, and the document can't follow yet");
        }
        end::see_to_beside(context.driver(), &guest, job.name);
    }
    Ok(())
}

/// What a job's entry and its mirror say from now on.
fn mark(
    id: &str,
    state: BlockJobState,
    mirror: Option<&'static str>,
) -> impl FnOnce(&mut View) -> Result<Effects> + use<> {
    let id = id.to_owned();
    move |view: &mut View| {
        set_state(view, &id, state);
        mark_mirror(view, &id, mirror)?;
        Ok(Effects::none())
    }
}

/// Writes down how a job is to end. Undone with the operation.
async fn announce(
    context: &Context,
    guest: &Guest,
    job: &BlockJob,
    (state, word): (BlockJobState, &'static str),
) -> Result<()> {
    let before = job.state.known().unwrap_or(BlockJobState::Running);
    let back = mark(
        &job.name,
        before,
        (before == BlockJobState::Ready).then_some("yes"),
    );
    let domain = guest.domain.clone();
    context
        .step(
            "the job's entry",
            guest.domain.commit(mark(&job.name, state, Some(word))),
            async move { domain.commit(back).await.map(drop) },
        )
        .await
        .map(drop)
}

/// Has QEMU give a job up.
async fn abort(context: &Context, guest: &Guest, job: &BlockJob) -> Result<()> {
    let device = job.name.clone();
    let intent = Intent::SteerBlockJob {
        job: device.clone(),
        resume: false,
    };
    context.intend(intent).await?;
    announce(context, guest, job, (BlockJobState::Aborting, "abort")).await?;
    guest
        .execute(commands::BlockJobCancel { device, force: false })
        .await?;
    context.commit_with(|_| Ok(Effects::none())).await.map(drop)
}

/// Has QEMU swap the copy in, and the documents follow, while the CPUs stand: what the guest was told is written is in the
/// image that the documents name, whoever ends when. `None` if QEMU takes longer than they may stand. The inner error is
/// that of what follows: QEMU has swapped by then.
///
/// # Errors
/// The status file can't be written, what QEMU refuses.
pub(crate) async fn pivot(
    context: &Context,
    guest: &Arc<Guest>,
    job: &BlockJob,
    swap: Swap,
) -> Result<Option<Result<Outcome>>> {
    let id = job.name.clone();
    let intent = Intent::SteerBlockJob {
        job: id.clone(),
        resume: Still::is_needed(guest).await?,
    };
    context.intend(intent).await?;
    let mut waiting = guest.jobs.expect(&id);
    let still = Still::begin(context.driver(), guest).await?;
    let swapped = async {
        announce(context, guest, job, (BlockJobState::Pivoting, "pivot")).await?;
        if let Some((node, overlay)) = swap.attach {
            let data = serde_json::json!({ "node": node, "overlay": overlay });
            let actions = vec![serde_json::json!({ "type": "blockdev-snapshot", "data": data })];
            guest.execute(commands::Transaction { actions }).await?;
        }
        if let Some(node) = swap.node {
            // What the guest writes while the copy is swapped in. As with libvirt it goes on without.
            let actions = vec![bitmaps::add(&node, bitmaps::ACTIVE_WRITE, None)];
            if let Err(error) = guest.execute(commands::Transaction { actions }).await {
                tracing::debug!(job = id, %error, "writes are not recorded while the copy is swapped in");
            }
        }
        guest.execute(commands::JobComplete { id: id.clone() }).await?;
        context.commit_with(|_| Ok(Effects::none())).await?;
        let concluded = jobs::reached(guest, &mut waiting, &[CONCLUDED]);
        if !matches!(tokio::time::timeout(MOST_STILL, concluded).await, Ok(Ok(_))) {
            return Ok::<_, Error>(None);
        }
        let followed = end::follow(context, guest, &id, still.stands());
        Ok(Some(Box::pin(followed).await))
    };
    let swapped = Box::pin(swapped).await;
    // As long as they stand there is a note of it.
    still.end().await;
    Ok(match swapped? {
        None => None,
        Some(Ok(left)) => Some(Ok(left.let_go(context, guest).await)),
        Some(Err(error)) => Some(Err(error)),
    })
}

/// The document of the run says what becomes of a mirror.
fn mark_mirror(view: &mut View, id: &str, word: Option<&'static str>) -> Result<()> {
    let target = entry(view, id).and_then(|job| Some(job.disk.as_ref()?.dst.clone()));
    let Some(target) = target else { return Ok(()) };
    let edit = crate::domain::Edit::live(move |document| {
        if let Some(mirror) = &mut graph::disk_mut(document, &target)?.mirror {
            mirror.ready = word.map(str::to_owned);
        }
        Ok(())
    });
    edit.apply(view)
}

/// Waits until a job is over and the documents have followed.
async fn ended(guest: &Guest, job: &BlockJob, how: End) -> Result<()> {
    let (run, id) = (guest.id, job.name.as_str());
    let error = tokio::select! {
        biased;
        error = guest.block_jobs.wait(id) => error,
        _ = guest.domain.wait_for(|view| view.id() != run) => return Err(Error::not_running()),
    };
    match error {
        Some(error) if how == End::Pivot => Err(Error::new(
            Code::OperationFailed,
            format!("block job '{id}' failed while pivoting: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Limits the speed of a disk's job, in bytes a second; 0: no limit.
///
/// # Errors
/// There is no such disk or job; what QEMU refuses.
pub async fn set_speed(
    driver: &Arc<Driver>,
    domain: &Domain,
    (name, speed): (&str, u64),
    conditions: &Conditions,
) -> Result<()> {
    let ask = Ask {
        kind: "set-block-job-speed",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let run = view.running()?;
    let target = &lookup::disk_named(run, name)?.target.dev;
    let job = graph::job_of(&view, target)
        .ok_or_else(|| Error::argument(format!("disk {target} does not have an active block job")))?;
    let command = commands::BlockJobSetSpeed {
        device: job.name.clone(),
        speed,
    };
    let guest = driver.guests.of(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    operation
        .carry_out(|_| async move { guest.execute(command).await.map(drop) })
        .await
}
