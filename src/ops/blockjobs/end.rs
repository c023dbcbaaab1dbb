//! What follows from what QEMU says of block jobs: they are ready, or have ended.
//!
//! [`heard`] is called for each event that nobody waits for. Being ready is a commit; an end is an operation of its own,
//! which is tried until it succeeds or the guest is gone: what QEMU has done can't be undone, and a document that does not
//! follow would name images that are not there.

use std::{sync::Arc, time::Duration};

use domxml::{
    devices::{Device, Disk},
    status::{self, BlockJob, BlockJobKind, BlockJobState, Open},
};
use qmp::{commands, types::JobInfo};

use super::{
    Told,
    after::{self, After},
    change_entries, change_entry, entry, told,
};
use crate::{
    domain::{
        Edit, Effects, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        graph::{self, bitmaps::Bitmaps, images, jobs as waiting, truth::Truth},
        operation::{Ask, Context, Operation},
        run::{guest::Guest, jobs},
    },
};

/// Between two attempts to see to a job that has ended.
const PAUSE: Duration = Duration::from_secs(2);
/// What QEMU says of a job that was cancelled.
const CANCELLED: &str = "Operation canceled";

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has done what it was to do.
    Completed,
    /// It failed, in QEMU's words.
    Failed(String),
    /// It was cancelled.
    Cancelled,
}

impl Outcome {
    fn told(&self) -> Told {
        match self {
            Self::Completed => Told::Completed,
            Self::Failed(_) => Told::Failed,
            Self::Cancelled => Told::Cancelled,
        }
    }

    fn state(&self) -> BlockJobState {
        match self {
            Self::Completed => BlockJobState::Completed,
            Self::Failed(_) => BlockJobState::Failed,
            Self::Cancelled => BlockJobState::Cancelled,
        }
    }
}

/// QEMU has told that a job is in another state.
pub(crate) async fn heard(driver: Arc<Driver>, guest: Arc<Guest>, id: String, state: String) {
    // Whoever watches a backup sees to its jobs.
    let view = guest.domain.view();
    if entry(&view, &id).is_some_and(|job| job.kind.known() == Some(BlockJobKind::Backup)) {
        return;
    }
    let result = match state.as_str() {
        "ready" => ready(&guest, &id).await,
        jobs::CONCLUDED => {
            dismiss_pull(&guest, &id).await;
            conclude(&driver, &guest, &id).await;
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(error) = result {
        tracing::warn!(job = id, %error, "what QEMU says of a block job could not be written down");
    }
}

/// Both images of a job are the same: it waits to be ended.
pub(super) async fn ready(guest: &Guest, id: &str) -> Result<()> {
    let (run, id) = (guest.id, id.to_owned());
    let change = move |view: &mut View| {
        if view.id() != run {
            return Ok(Effects::none());
        }
        let Some(job) = entry(view, &id).cloned() else {
            return Ok(Effects::none());
        };
        if !matches!(
            job.state.known(),
            Some(BlockJobState::New | BlockJobState::Running)
        ) {
            return Ok(Effects::none());
        }
        change_entry(view, &id, |job| {
            job.state = Open::Known(BlockJobState::Ready);
        });
        let target = job.disk.as_ref().map(|disk| disk.dst.clone()).unwrap_or_default();
        let mark = {
            let target = target.clone();
            Edit::live(move |document| {
                if let Some(mirror) = &mut graph::disk_mut(document, &target)?.mirror {
                    mirror.ready = Some("yes".to_owned());
                }
                Ok(())
            })
        };
        mark.apply(view)?;
        let disk = graph::disk(&view.running()?.document.domain, &target)?;
        Ok(told(&job, disk, Told::Ready))
    };
    guest.domain.commit(change).await.map(drop)
}

/// Sees to a job that has ended; if that fails, it is tried again beside what the caller does next.
pub(super) async fn conclude_now(driver: &Arc<Driver>, guest: &Arc<Guest>, id: &str) {
    if let Err(error) = conclude_once(driver, guest, id).await {
        tracing::warn!(job = id, %error, "a block job has ended, and the document can't follow yet");
        let (owned, guest, id) = (Arc::clone(driver), Arc::clone(guest), id.to_owned());
        driver
            .tracker
            .spawn(async move { conclude(&owned, &guest, &id).await });
    }
}

/// Sees to a job that has ended, until that has succeeded or the guest is gone.
pub(super) async fn conclude(driver: &Arc<Driver>, guest: &Arc<Guest>, id: &str) {
    loop {
        let view = guest.domain.view();
        if view.id() != guest.id || guest.ending().is_some() {
            return;
        }
        let Err(error) = conclude_once(driver, guest, id).await else {
            return;
        };
        tracing::warn!(guest = %view.name, job = id, %error, "a block job has ended, and the document can't follow yet");
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = driver.stop.cancelled() => return,
        }
    }
}

/// Sees to a job once it has ended, beside what the caller does next.
pub(super) fn see_to_beside(driver: &Arc<Driver>, guest: &Arc<Guest>, id: String) {
    let (owned, guest) = (Arc::clone(driver), Arc::clone(guest));
    driver
        .tracker
        .spawn(async move { conclude_late(&owned, &guest, &id).await });
}

/// The same as [`conclude`] for one that has not ended yet.
async fn conclude_late(driver: &Arc<Driver>, guest: &Arc<Guest>, id: &str) {
    let mut waiting = guest.jobs.expect(id);
    if let Err(error) = waiting::reached(guest, &mut waiting, &[jobs::CONCLUDED]).await {
        tracing::debug!(job = id, %error, "the end of a block job was not seen");
    }
    drop(waiting);
    conclude(driver, guest, id).await;
}

async fn conclude_once(driver: &Arc<Driver>, guest: &Arc<Guest>, id: &str) -> Result<()> {
    if entry(&guest.domain.view(), id).is_none() {
        return Ok(());
    }
    let conditions = Conditions::default();
    let ask = Ask {
        kind: "end-block-job",
        job: Want::Plain(Kind::Modify),
        conditions: &conditions,
    };
    let operation = Operation::begin(driver, &guest.domain, ask).await?;
    if entry(&operation.view(), id).is_none() {
        return Ok(());
    }
    let (guest, id) = (Arc::clone(guest), id.to_owned());
    let work = |context: Arc<Context>| async move { Box::pin(finish(&context, &guest, &id)).await.map(drop) };
    operation.carry_out(work).await
}

/// Dismisses a pull that has ended, before anybody has the guest's job: QEMU must not be asked about nodes until then
/// (`ops::run::streams`). How it ended is written down first. What fails here is tried again by [`finish`].
pub(super) async fn dismiss_pull(guest: &Guest, id: &str) {
    let dismissed = async {
        let view = guest.domain.view();
        let Some(job) = entry(&view, id).filter(|job| job.kind.known() == Some(BlockJobKind::Pull)) else {
            return Ok(());
        };
        let known = guest.execute(commands::QueryJobs {}).await?;
        let info = known.iter().find(|info| info.id == id);
        let Some(outcome) = judged(job, info) else {
            return Ok(());
        };
        mark(guest, id, outcome.state()).await?;
        if let Outcome::Failed(error) = outcome {
            guest.streams.failed(id, error);
        }
        guest.execute(commands::JobDismiss { id: id.to_owned() }).await?;
        guest.streams.is_gone(id);
        Ok::<_, Error>(())
    };
    if let Err(error) = dismissed.await {
        tracing::warn!(job = id, %error, "a pull has ended, and is not dismissed yet");
    }
}

/// How a pull ended that was dismissed before.
fn written_down(job: &BlockJob, info: Option<&JobInfo>, error: Option<String>) -> Option<Outcome> {
    if job.kind.known() != Some(BlockJobKind::Pull) || info.is_some() {
        return None;
    }
    let error = || error.unwrap_or_else(|| "QEMU has no such job any more".to_owned());
    match job.newstate.as_ref()?.known()? {
        BlockJobState::Completed => Some(Outcome::Completed),
        BlockJobState::Cancelled => Some(Outcome::Cancelled),
        BlockJobState::Failed => Some(Outcome::Failed(error())),
        _ => None,
    }
}

/// Finishes a job that has ended, within an operation: dismisses it, keeps its bitmaps, has the documents follow, and lets
/// go of images that left. May be called again after an error.
///
/// # Errors
/// There is no such job, QEMU does not answer, or the files can't be written.
pub(crate) async fn finish(context: &Context, guest: &Arc<Guest>, id: &str) -> Result<Outcome> {
    let left = Box::pin(follow(context, guest, id, false)).await?;
    Ok(left.let_go(context, guest).await)
}

/// What is left of a job when the documents have followed.
pub(super) struct Left {
    id: String,
    disk: Disk,
    after: After,
    outcome: Outcome,
}

/// Has the documents follow a job that has ended. `resume`: the CPUs stand until they have.
///
/// # Errors
/// As [`finish`].
pub(super) async fn follow(context: &Context, guest: &Arc<Guest>, id: &str, resume: bool) -> Result<Left> {
    let view = context.view();
    let job = entry(&view, id)
        .ok_or_else(|| Error::internal(format!("there is no block job '{id}'")))?
        .clone();
    let target = job.disk.as_ref().map(|disk| disk.dst.clone()).unwrap_or_default();
    let disk = graph::disk(&view.running()?.document.domain, &target)?.clone();
    let info = guest
        .execute(commands::QueryJobs {})
        .await?
        .into_iter()
        .find(|job| job.id == id);
    let told = judged(&job, info.as_ref());
    let outcome = match told.or_else(|| written_down(&job, info.as_ref(), guest.streams.take_error(id))) {
        Some(outcome) => outcome,
        None => by_truth(&job, &disk, info.as_ref(), &Truth::read(guest).await?),
    };
    let after = match outcome {
        Outcome::Completed => after::done(&job, &disk),
        Outcome::Failed(_) | Outcome::Cancelled => after::undone(&job, &disk),
    };
    let note = Device::Disk(Box::new(disk.clone())).format(status::FORMAT);
    context
        .intend(Intent::EndBlockJob {
            job: id.to_owned(),
            disk: note,
            deletes: after.deletes,
            resume,
        })
        .await?;
    mark(guest, id, outcome.state()).await?;
    if info.is_some() {
        guest.execute(commands::JobDismiss { id: id.to_owned() }).await?;
    }
    guest.streams.is_gone(id);
    keep_bitmaps(guest, &job, (&disk, &after), &outcome).await;
    if guest.has_ended().await {
        // The end of the run sees to the images, from the documents as they are.
        return Err(Error::not_running());
    }
    if outcome == Outcome::Completed && job.kind.known() == Some(BlockJobKind::Pull) {
        write_out(guest, &after).await?;
    }
    context.enter("the documents");
    commit(context, guest, (&job, &disk), (&after, &outcome)).await?;
    let id = id.to_owned();
    Ok(Left {
        id,
        disk,
        after,
        outcome,
    })
}

impl Left {
    /// Lets go of images that left; how the job ended.
    pub(super) async fn let_go(self, context: &Context, guest: &Arc<Guest>) -> Outcome {
        context.enter("images that left");
        let Self {
            id,
            disk,
            after,
            outcome,
        } = self;
        images::drop_layers(context.driver(), guest, &disk, &after.gone, after.deletes).await;
        let error = match &outcome {
            Outcome::Failed(error) => Some(error.clone()),
            Outcome::Completed | Outcome::Cancelled => None,
        };
        guest.block_jobs.over(&id, error);
        outcome
    }
}

/// Has QEMU write out where in its image the blocks are that it has pulled.
///
/// With the end of a pull QEMU writes at once that nothing is below the image any more, but keeps the tables of what it has
/// pulled in memory until the guest flushes, however long that takes. Until they are in the image the job is not over: its
/// entry tells whoever finds the run ended to put the image below back (`run::left_jobs`).
///
/// # Errors
/// QEMU does not answer, or can't write.
async fn write_out(guest: &Guest, after: &After) -> Result<()> {
    let Some(node) = after.chain.layers.first().and_then(|top| top.node()) else {
        return Ok(());
    };
    let said = guest.monitor()?.human(&format!("qemu-io {node} flush")).await?;
    match said.trim() {
        "" => Ok(()),
        said => Err(Error::new(
            crate::error::Code::OperationFailed,
            format!("what was pulled could not be written out: {said}"),
        )),
    }
}

/// How a job ended, where its state and QEMU's word are enough to say.
fn judged(job: &BlockJob, info: Option<&JobInfo>) -> Option<Outcome> {
    let info = info.filter(|info| info.status == jobs::CONCLUDED)?;
    let swaps = matches!(
        job.kind.known(),
        Some(BlockJobKind::Copy | BlockJobKind::ActiveCommit)
    );
    Some(match (job.state.known(), &info.error) {
        (Some(BlockJobState::Aborting), None) if !swaps => Outcome::Completed,
        (Some(BlockJobState::Aborting), _) => Outcome::Cancelled,
        (_, Some(error)) if error == CANCELLED => Outcome::Cancelled,
        (_, Some(error)) => Outcome::Failed(error.clone()),
        (Some(BlockJobState::Pivoting), None) => Outcome::Completed,
        // Nobody has asked for its end: only the chain says whether it was swapped in.
        (_, None) if swaps => return None,
        (_, None) => Outcome::Completed,
    })
}

/// How a job ended, by the images that QEMU has.
fn by_truth(job: &BlockJob, disk: &Disk, info: Option<&JobInfo>, truth: &Truth) -> Outcome {
    let after = after::done(job, disk);
    let in_use = truth.chain_of(disk).unwrap_or_default();
    let uses = |node: &str| in_use.iter().any(|known| known == node);
    let top = after.chain.layers.first().and_then(|top| top.node());
    let has_left = after
        .gone
        .iter()
        .filter_map(|layer| layer.node())
        .all(|node| !uses(node));
    if top.is_some_and(uses) && has_left && (info.is_some() || !after.gone.is_empty()) {
        return Outcome::Completed;
    }
    match (job.state.known(), info.and_then(|info| info.error.clone())) {
        (Some(BlockJobState::Aborting), _) => Outcome::Cancelled,
        (_, Some(error)) if error != CANCELLED => Outcome::Failed(error),
        (_, Some(_)) => Outcome::Cancelled,
        (_, None) => Outcome::Failed("QEMU has no such job any more".to_owned()),
    }
}

/// Another daemon that goes on from here knows how the job ended.
async fn mark(guest: &Guest, id: &str, state: BlockJobState) -> Result<()> {
    let id = id.to_owned();
    let change = move |view: &mut View| {
        change_entry(view, &id, |job| job.newstate = Some(Open::Known(state)));
        Ok(Effects::none())
    };
    guest.domain.commit(change).await.map(drop)
}

/// Carries dirty bitmaps over. As with libvirt the job counts as done if that fails.
async fn keep_bitmaps(guest: &Guest, job: &BlockJob, (disk, after): (&Disk, &After), outcome: &Outcome) {
    let result = async {
        if *outcome != Outcome::Completed {
            if job.kind.known() == Some(BlockJobKind::ActiveCommit) {
                forget_writes(guest, disk, job).await;
            }
            return Ok(());
        }
        let nodes = guest
            .execute(commands::QueryNamedBlockNodes { flat: true })
            .await?;
        let bitmaps = Bitmaps::of(nodes);
        let before = qemu_plan::block::Chain::of(disk).top_nodes();
        let actions = match job.kind.known() {
            Some(BlockJobKind::Pull) => bitmaps.after_pull(&before, after.gone.len()),
            Some(BlockJobKind::Commit) => {
                return commit_bitmaps(guest, job, disk, &bitmaps).await;
            }
            Some(BlockJobKind::ActiveCommit | BlockJobKind::Copy) => {
                let top = after
                    .chain
                    .layers
                    .first()
                    .filter(|top| top.nodes().is_some_and(|n| n.of("format").is_some()));
                match top.and_then(|top| top.node()) {
                    Some(target) => bitmaps.after_merge(&before, after.gone.len(), target, true),
                    None => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        transact(guest, actions).await
    };
    if let Err(error) = result.await {
        tracing::warn!(job = job.name, %error, "dirty bitmaps could not be carried over");
    }
}

/// The image that was committed to is only read again from now on, so it is opened for writing while it gets bitmaps.
async fn commit_bitmaps(guest: &Guest, job: &BlockJob, disk: &Disk, bitmaps: &Bitmaps) -> Result<()> {
    let chain = qemu_plan::block::Chain::of(disk);
    let at = |node: &Option<String>| node.as_deref().and_then(|node| chain.with_node(node));
    let (Some(base), Some(top)) = (at(&job.base), at(&job.top)) else {
        return Ok(());
    };
    let nodes = chain.top_nodes();
    let actions = bitmaps.after_merge(&nodes[top..], base - top, &nodes[base], false);
    if actions.is_empty() {
        return Ok(());
    }
    images::reopen(guest, disk, base, true).await?;
    let result = transact(guest, actions).await;
    images::reopen(guest, disk, base, false).await?;
    result
}

async fn forget_writes(guest: &Guest, disk: &Disk, job: &BlockJob) {
    let chain = qemu_plan::block::Chain::of(disk);
    let base = job.base.as_deref().and_then(|node| chain.with_node(node));
    if let Some(node) = base.and_then(|at| chain.layers[at].node()) {
        let remove = serde_json::json!({ "node": node, "name": graph::bitmaps::ACTIVE_WRITE });
        let remove = commands::BlockDirtyBitmapRemove(images::object(remove));
        // There is one only if the image was about to be swapped in.
        if let Err(error) = guest.execute(remove).await {
            tracing::debug!(job = job.name, %error, "writes were not recorded while the image was swapped in");
        }
    }
}

async fn transact(guest: &Guest, actions: Vec<serde_json::Value>) -> Result<()> {
    if actions.is_empty() {
        return Ok(());
    }
    guest.execute(commands::Transaction { actions }).await.map(drop)
}

async fn commit(
    context: &Context,
    guest: &Arc<Guest>,
    (job, disk): (&BlockJob, &Disk),
    (after, outcome): (&After, &Outcome),
) -> Result<()> {
    let guest = Arc::clone(guest);
    let (job, before, after, what) = (job.clone(), disk.clone(), after.clone(), outcome.told());
    let completed = *outcome == Outcome::Completed;
    let change = move |view: &mut View| {
        if guest.is_over() {
            return Err(Error::not_running());
        }
        change_entries(view, |all| all.retain(|known| known.name != job.name));
        let target = before.target.dev.clone();
        let live = {
            let (after, target) = (after.clone(), target.clone());
            Edit::live(move |document| {
                after.put(graph::disk_mut(document, &target)?);
                Ok(())
            })
        };
        live.apply(view)?;
        if completed && let Some(stored) = &view.config {
            let mut document = domxml::Domain::clone(&*stored.domain()?);
            let unchanged = document.clone();
            if let Ok(disk) = graph::disk_mut(&mut document, &target) {
                after.put_stored(&job, &before, disk);
            }
            if document != unchanged {
                view.config = Some(crate::domain::Stored::new(&document));
            }
        }
        let disk = graph::disk(&view.running()?.document.domain, &target)?;
        Ok(told(&job, disk, what))
    };
    context.commit_with(change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(error: Option<&str>) -> JobInfo {
        JobInfo {
            id: "x".into(),
            r#type: "mirror".into(),
            status: jobs::CONCLUDED.into(),
            current_progress: 1,
            total_progress: 1,
            error: error.map(str::to_owned),
        }
    }

    fn job(kind: BlockJobKind, state: BlockJobState) -> BlockJob {
        BlockJob {
            kind: Open::Known(kind),
            state: Open::Known(state),
            ..BlockJob::default()
        }
    }

    #[test]
    fn state_and_error_say_how_a_job_ended() {
        use BlockJobKind as K;
        use BlockJobState as S;
        let failed = || Some(Outcome::Failed("no space".into()));
        let table = [
            (K::Pull, S::Running, None, Some(Outcome::Completed)),
            (K::Pull, S::Running, Some("no space"), failed()),
            // The cancel came too late: the images are merged, and the document must say so.
            (K::Pull, S::Aborting, None, Some(Outcome::Completed)),
            (K::Pull, S::Aborting, Some(CANCELLED), Some(Outcome::Cancelled)),
            (K::Copy, S::Aborting, None, Some(Outcome::Cancelled)),
            (K::Copy, S::Pivoting, None, Some(Outcome::Completed)),
            (K::Copy, S::Pivoting, Some("no space"), failed()),
            (K::ActiveCommit, S::Ready, Some("no space"), failed()),
            (K::ActiveCommit, S::Ready, None, None),
            (K::Commit, S::New, Some(CANCELLED), Some(Outcome::Cancelled)),
        ];
        for (kind, state, error, expected) in table {
            let found = judged(&job(kind, state), Some(&info(error)));
            assert_eq!(found, expected, "{kind:?} {state:?} {error:?}");
        }
        assert_eq!(judged(&job(K::Pull, S::Running), None), None);
    }

    #[test]
    fn without_a_word_the_chain_says_it() {
        let text = "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/t' index='1'/>
            <backingStore type='file' index='2'><format type='qcow2'/><source file='/b'/><backingStore/></backingStore>
            <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk></devices></domain>";
        let mut document = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        let mut disk = document.devices.disks.remove(0);
        qemu_plan::block::name_disk(&mut disk).unwrap();
        let truth = |nodes: &[&str]| Truth {
            chains: vec![(
                "virtio-disk0".into(),
                nodes.iter().map(|&n| n.to_owned()).collect(),
            )],
            ..Truth::default()
        };
        let pull = job(BlockJobKind::Pull, BlockJobState::Running);
        let both = truth(&["libvirt-1-format", "libvirt-2-format"]);
        let one = truth(&["libvirt-1-format"]);
        assert!(matches!(by_truth(&pull, &disk, None, &both), Outcome::Failed(_)));
        assert_eq!(by_truth(&pull, &disk, None, &one), Outcome::Completed);
        let mut active = job(BlockJobKind::ActiveCommit, BlockJobState::Ready);
        active.base = Some("libvirt-2-storage".into());
        assert!(matches!(
            by_truth(&active, &disk, None, &both),
            Outcome::Failed(_)
        ));
        assert_eq!(
            by_truth(&active, &disk, None, &truth(&["libvirt-2-format"])),
            Outcome::Completed
        );
    }
}
