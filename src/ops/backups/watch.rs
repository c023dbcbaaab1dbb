//! A backup at work, until its last disk has ended.
//!
//! QEMU tells that a job has ended, and is asked twice a second how far all are. What follows from an end is done before it
//! is written down, and can be done again: the next daemon finds the disk as it was, and a job or node that is gone.

use std::{collections::HashMap, sync::Arc, time::Duration};

use domxml::{
    moment::{Backup, BackupDisk, BackupState},
    status::{BlockJob, BlockJobKind, BlockJobState, Open},
};
use qemu_plan::block::Layer;
use qmp::{commands, types::JobInfo};

use super::{bare, change, change_disk, of_run, serve, store};
use crate::{
    domain::{
        Effects, View,
        jobs::{Kind, Want},
        long_job::{Outcome, Statistics},
    },
    error::{Error, Result},
    ops::{
        Driver,
        blockjobs::{self, Told},
        graph::{self, images},
        operation::Context,
        run::{
            guest::Guest,
            jobs::{CONCLUDED, Waiting},
            left_backup,
            long_job::LongJob,
        },
    },
};

/// Between two questions how far the jobs are.
const PACE: Duration = Duration::from_millis(500);
/// What QEMU says of a job that was cancelled.
const CANCELLED: &str = "Operation canceled";

/// How a disk has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Completed,
    Failed(String),
    Cancelled,
}

impl End {
    fn state(&self) -> BackupState {
        match self {
            Self::Completed => BackupState::Complete,
            Self::Failed(_) => BackupState::Failed,
            Self::Cancelled => BackupState::Cancelled,
        }
    }

    fn told(&self) -> Told {
        match self {
            Self::Completed => Told::Completed,
            Self::Failed(_) => Told::Failed,
            Self::Cancelled => Told::Cancelled,
        }
    }

    fn word(&self) -> BlockJobState {
        match self {
            Self::Completed => BlockJobState::Completed,
            Self::Failed(_) => BlockJobState::Failed,
            Self::Cancelled => BlockJobState::Cancelled,
        }
    }

    /// How the job of an entry ended, by QEMU's word; none if it has not ended.
    fn of(job: &BlockJob, known: Option<&JobInfo>) -> Option<Self> {
        use BlockJobState as S;
        let marked = job.newstate.as_ref().and_then(Open::known);
        let Some(known) = known else {
            return Some(match marked {
                Some(S::Completed) => Self::Completed,
                Some(S::Cancelled) => Self::Cancelled,
                _ => Self::Failed("QEMU has no such job any more".to_owned()),
            });
        };
        if known.status != CONCLUDED {
            return None;
        }
        Some(match &known.error {
            _ if job.state.known() == Some(S::Aborting) => Self::Cancelled,
            None => Self::Completed,
            Some(error) if error == CANCELLED => Self::Cancelled,
            Some(error) => Self::Failed(error.clone()),
        })
    }
}

/// How a backup has come out whose disks are all over, and why it did not succeed.
fn outcome(backup: &Backup) -> (Outcome, bool) {
    let has = |wanted| {
        backup
            .parts()
            .any(|part| part.state.as_ref().and_then(Open::known) == Some(wanted))
    };
    let was_cancelled = has(BackupState::Cancelled);
    let outcome = match (has(BackupState::Failed), was_cancelled && !backup.is_pull()) {
        (true, _) => Outcome::Failed,
        (false, true) => Outcome::Cancelled,
        (false, false) => Outcome::Completed,
    };
    (outcome, was_cancelled)
}

/// A backup that is watched.
pub(super) struct Watch<'a> {
    context: &'a Context,
    guest: &'a Arc<Guest>,
    job: Arc<LongJob>,
    /// Done and to do of the jobs, also of those that are over.
    counts: HashMap<String, (u64, u64)>,
    /// Why a disk failed.
    cause: Option<String>,
    is_cancelled: bool,
    /// QEMU did not take a cancellation: it is asked again.
    is_refused: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(context: &'a Context, guest: &'a Arc<Guest>, job: Arc<LongJob>) -> Self {
        Self {
            context,
            guest,
            job,
            counts: HashMap::new(),
            cause: None,
            is_cancelled: false,
            is_refused: false,
        }
    }

    fn driver(&self) -> &Arc<Driver> {
        self.context.driver()
    }

    /// Goes on until all disks are over, the guest is, or the daemon is to end.
    ///
    /// # Errors
    /// How the backup failed, or that it was cancelled.
    pub(super) async fn run(mut self) -> Result<()> {
        self.context.enter("disks");
        self.context.set_cancellable(true);
        let mut waiting: Vec<Waiting<'_>> = entries(&self.guest.domain.view())
            .map(|job| self.guest.jobs.expect(&job.name))
            .collect();
        let mut first = true;
        loop {
            if !std::mem::take(&mut first) {
                let (guest, driver) = (self.guest, Arc::clone(self.driver()));
                tokio::select! {
                    () = guest.process_ended() => return Err(Error::not_running()),
                    // The next daemon goes on.
                    () = driver.stop.cancelled() => return Ok(()),
                    () = self.context.cancelled(), if !self.is_cancelled => self.cancel().await?,
                    () = one_told(&mut waiting) => {}
                    () = tokio::time::sleep(PACE) => {}
                }
            }
            if self.is_refused {
                self.cancel().await?;
            }
            // What QEMU does to its jobs when it ends says nothing of them.
            let looked = match self.guest.ending() {
                Some(_) => Err(Error::not_running()),
                None => self.look().await,
            };
            match looked {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                Err(error) => {
                    tracing::debug!(%error, "how far a backup is can't be told at present");
                    tokio::select! {
                        () = self.guest.process_ended() => return Err(Error::not_running()),
                        () = tokio::time::sleep(PACE) => {}
                    }
                }
            }
            let view = self.guest.domain.view();
            waiting.retain(|one| entries(&view).any(|job| job.name == one.id()));
        }
    }

    /// Asks QEMU, and sees to the jobs that have ended. How the backup came out, if it is over.
    async fn look(&mut self) -> Result<Option<Result<()>>> {
        let known = self.guest.execute(commands::QueryJobs {}).await?;
        self.count(&known);
        let view = self.guest.domain.view();
        if of_run(&view, self.guest.id).is_none() {
            return Ok(Some(Err(Error::not_running())));
        }
        let all: Vec<_> = entries(&view).map(|job| job.name.clone()).collect();
        for id in all {
            let info = known.iter().find(|info| info.id == id);
            if let Some(ended) = self.see_to(&id, info).await? {
                return Ok(Some(ended));
            }
        }
        // Its last disk was over when a daemon ended.
        let view = self.guest.domain.view();
        match of_run(&view, self.guest.id) {
            Some(backup) if backup.parts().all(BackupDisk::is_over) => {
                let backup = backup.clone();
                self.over(backup, None).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    fn count(&mut self, known: &[JobInfo]) {
        let view = self.guest.domain.view();
        for job in entries(&view) {
            if let Some(info) = known.iter().find(|info| info.id == job.name) {
                let count = (info.current_progress, info.total_progress);
                self.counts.insert(job.name.clone(), count);
            }
        }
        let statistics = self.statistics(&view);
        self.job.post(statistics);
        if let Statistics::Disks { total, processed } = statistics {
            self.context.progress(processed, total);
        }
    }

    fn statistics(&self, view: &View) -> Statistics {
        let sum = |count: fn(&(u64, u64)) -> u64| self.counts.values().map(count).sum();
        let (done, total): (u64, u64) = (sum(|count| count.0), sum(|count| count.1));
        match of_run(view, self.guest.id).map(Backup::is_pull) {
            _ if total == 0 => Statistics::None,
            Some(true) => Statistics::Scratch { total, used: done },
            _ => Statistics::Disks {
                total,
                processed: done,
            },
        }
    }

    /// Sees to a job, if it has ended. How the backup came out, if it is over then.
    async fn see_to(&mut self, id: &str, info: Option<&JobInfo>) -> Result<Option<Result<()>>> {
        let has_ended = |view: &View| blockjobs::entry(view, id).and_then(|job| End::of(job, info));
        if has_ended(&self.guest.domain.view()).is_none() {
            return Ok(None);
        }
        // Whoever steers the job has finished.
        let _job = self.guest.domain.job(Want::Plain(Kind::Modify)).await?;
        let view = self.guest.domain.view();
        let (Some(end), Some(job)) = (has_ended(&view), blockjobs::entry(&view, id).cloned()) else {
            return Ok(None);
        };
        let Some(mut backup) = of_run(&view, self.guest.id).cloned() else {
            return Ok(Some(Err(Error::not_running())));
        };
        let target = job.disk.as_ref().map(|disk| disk.dst.clone()).unwrap_or_default();
        self.mark(id, &end).await?;
        if info.is_some() {
            self.guest
                .execute(commands::JobDismiss { id: id.to_owned() })
                .await?;
        }
        self.take_away((&backup, &target), &job).await;
        if end == End::Completed && !backup.is_pull() && self.guest.has_ended().await {
            // QEMU may not have written all of the image out, which it does when it closes it.
            return Ok(Some(Err(Error::not_running())));
        }
        if let End::Failed(error) = &end {
            self.cause.get_or_insert_with(|| error.clone());
        }
        for part in backup.disks.iter_mut().filter(|part| part.name == target) {
            part.state = Some(Open::Known(end.state()));
        }
        let is_last = backup.parts().all(BackupDisk::is_over);
        let ended = match is_last {
            true => Some(self.over(backup, Some((job, end.clone()))).await?),
            false => {
                self.leave(job, &end).await?;
                None
            }
        };
        let error = match &end {
            End::Failed(error) => Some(error.clone()),
            End::Completed | End::Cancelled => None,
        };
        self.guest.block_jobs.over(id, error);
        if ended.is_none() && end != End::Completed {
            self.cancel().await?;
        }
        Ok(ended)
    }

    /// Another daemon that goes on from here knows how the job ended.
    async fn mark(&self, id: &str, end: &End) -> Result<()> {
        let (id, word) = (id.to_owned(), end.word());
        let mark = move |view: &mut View| {
            blockjobs::change_entry(view, &id, |job| job.newstate = Some(Open::Known(word)));
            Ok(Effects::none())
        };
        self.guest.domain.commit(mark).await.map(drop)
    }

    /// Takes away what QEMU had for a disk. Nothing depends on it, so what fails is logged.
    async fn take_away(&self, (backup, target): (&Backup, &str), job: &BlockJob) {
        // Each disk that is over stops it, as with libvirt; the first one does.
        if backup.is_pull() {
            serve::stop(self.guest, backup).await;
        }
        let part = backup.disks.iter().find(|part| part.name == target);
        if let Some(layer) = part.and_then(store) {
            let deletes = backup.is_pull() && !self.reuses();
            self.drop_image(target, &layer, deletes).await;
        }
        let Some(name) = &job.bitmap else { return };
        let view = self.guest.domain.view();
        let disk = view
            .run
            .as_ref()
            .and_then(|run| graph::disk(&run.document.domain, target).ok());
        let chain = disk.map(qemu_plan::block::Chain::of).unwrap_or_default();
        let Some(node) = chain.layers.first().and_then(Layer::node) else {
            return;
        };
        let data = serde_json::json!({ "node": node, "name": name });
        let remove = commands::BlockDirtyBitmapRemove(images::object(data));
        if let Err(error) = self.guest.execute(remove).await {
            tracing::warn!(node, bitmap = name, %error, "the bitmap of a backup is left in the image");
        }
    }

    async fn drop_image(&self, target: &str, layer: &Layer, deletes: bool) {
        let (disk, layers) = (bare(target), std::slice::from_ref(layer));
        images::drop_layers(self.driver(), self.guest, &disk, layers, deletes).await;
    }

    fn reuses(&self) -> bool {
        let view = self.guest.domain.view();
        view.run.as_ref().is_some_and(left_backup::reuses)
    }

    /// Writes down that a disk is over, and tells it; others go on.
    async fn leave(&self, job: BlockJob, end: &End) -> Result<()> {
        let (guest, state, told) = (Arc::clone(self.guest), end.state(), end.told());
        let follow = move |view: &mut View| {
            in_run(&guest)?;
            if of_run(view, guest.id).is_none() {
                return Ok(Effects::none());
            }
            let target = job.disk.as_ref().map(|disk| disk.dst.clone()).unwrap_or_default();
            change_disk(view, &target, |part| part.state = Some(Open::Known(state)));
            Ok(leave_entry(view, &job, told))
        };
        self.guest.domain.commit(follow).await.map(drop)
    }

    /// The last disk is over: what came of the whole is written down and told.
    async fn over(&mut self, backup: Backup, last: Option<(BlockJob, End)>) -> Result<Result<()>> {
        let (outcome, was_cancelled) = outcome(&backup);
        if outcome != Outcome::Completed && !backup.is_pull() && !self.reuses() {
            left_backup::remove(left_backup::files(&backup)).await;
        }
        let cause = self
            .cause
            .clone()
            .or_else(|| was_cancelled.then(|| CANCELLED.to_owned()));
        in_run(self.guest)?;
        let statistics = self.statistics(&self.guest.domain.view());
        let (effects, ended) = self.job.last_words((outcome.clone(), cause.clone()), statistics);
        let guest = Arc::clone(self.guest);
        let follow = move |view: &mut View| {
            in_run(&guest)?;
            if of_run(view, guest.id).is_none() {
                return Ok(Effects::none());
            }
            change(view, |backup| *backup = None);
            let of_disk = last
                .map(|(job, end)| leave_entry(view, &job, end.told()))
                .unwrap_or_default();
            let mut effects = effects;
            effects.events.extend(of_disk.events);
            Ok(effects)
        };
        self.job.end_with(ended, follow).await?;
        Ok(match (outcome, cause) {
            (Outcome::Completed, _) => Ok(()),
            (Outcome::Cancelled, _) => Err(self.job.cancelled()),
            (Outcome::Failed, cause) => {
                let why = cause.unwrap_or_default();
                Err(Error::new(
                    crate::error::Code::OperationFailed,
                    format!("the backup failed: {why}"),
                ))
            }
        })
    }

    /// Has QEMU give up all jobs that are at work.
    ///
    /// # Errors
    /// The status file can't be written.
    pub(super) async fn cancel(&mut self) -> Result<()> {
        (self.is_cancelled, self.is_refused) = (true, false);
        let view = self.guest.domain.view();
        let is_at_work = |job: &&BlockJob| job.state.known() != Some(BlockJobState::Aborting);
        let all: Vec<_> = entries(&view).filter(is_at_work).cloned().collect();
        for job in all {
            let (run, named) = (self.guest.id, job.clone());
            let mark = move |view: &mut View| {
                if of_run(view, run).is_some() {
                    let target = named
                        .disk
                        .as_ref()
                        .map(|disk| disk.dst.clone())
                        .unwrap_or_default();
                    change_disk(view, &target, |part| {
                        part.state = Some(Open::Known(BackupState::Cancelling))
                    });
                    blockjobs::set_state(view, &named.name, BlockJobState::Aborting);
                }
                Ok(Effects::none())
            };
            self.guest.domain.commit(mark).await?;
            let (device, force) = (job.name.clone(), true);
            // One that has just ended is seen to as such.
            if let Err(error) = self
                .guest
                .execute(commands::BlockJobCancel { device, force })
                .await
            {
                tracing::debug!(job = job.name, %error, "a job of a backup is not cancelled");
                self.is_refused = true;
                let at_work = move |view: &mut View| {
                    if of_run(view, run).is_some() {
                        blockjobs::set_state(view, &job.name, BlockJobState::Running);
                    }
                    Ok(Effects::none())
                };
                self.guest.domain.commit(at_work).await?;
            }
        }
        Ok(())
    }
}

/// Refuses to record what comes after the end of a run: its images go, and it is told that it failed.
fn in_run(guest: &Guest) -> Result<()> {
    match guest.is_over() {
        true => Err(Error::not_running()),
        false => Ok(()),
    }
}

/// The entries of a backup's jobs.
fn entries(view: &View) -> impl Iterator<Item = &BlockJob> {
    let all = view
        .run
        .iter()
        .flat_map(|run| &run.status.blockjobs)
        .flat_map(|all| &all.jobs);
    all.filter(|job| job.kind.known() == Some(BlockJobKind::Backup))
}

fn leave_entry(view: &mut View, job: &BlockJob, told: Told) -> Effects {
    blockjobs::change_entries(view, |all| all.retain(|known| known.name != job.name));
    let target = job
        .disk
        .as_ref()
        .map(|disk| disk.dst.as_str())
        .unwrap_or_default();
    let disk = view
        .run
        .as_ref()
        .and_then(|run| graph::disk(&run.document.domain, target).ok());
    disk.map_or_else(Effects::none, |disk| blockjobs::told(job, disk, told))
}

/// Waits until QEMU has told that one of the jobs has ended.
async fn one_told(waiting: &mut [Waiting<'_>]) {
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    let all = waiting.iter_mut().map(|one| Box::pin(one.told(&[CONCLUDED])));
    futures_util::future::select_all(all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_error_say_how_a_disk_ended() {
        use BlockJobState as S;
        let info = |status: &str, error: Option<&str>| JobInfo {
            id: "x".into(),
            r#type: "backup".into(),
            status: status.into(),
            current_progress: 0,
            total_progress: 0,
            error: error.map(str::to_owned),
        };
        let failed = || Some(End::Failed("no space".into()));
        let lost = || Some(End::Failed("QEMU has no such job any more".into()));
        // State, what another daemon had marked, what QEMU says, how it ended.
        let table = [
            (S::Running, None, Some(info("running", None)), None),
            (
                S::Running,
                None,
                Some(info(CONCLUDED, None)),
                Some(End::Completed),
            ),
            (
                S::Running,
                None,
                Some(info(CONCLUDED, Some("no space"))),
                failed(),
            ),
            (
                S::Running,
                None,
                Some(info(CONCLUDED, Some(CANCELLED))),
                Some(End::Cancelled),
            ),
            // Whoever asked for its end is told that it was cancelled.
            (
                S::Aborting,
                None,
                Some(info(CONCLUDED, None)),
                Some(End::Cancelled),
            ),
            (S::Running, Some(S::Completed), None, Some(End::Completed)),
            (S::Aborting, Some(S::Cancelled), None, Some(End::Cancelled)),
            (S::Running, None, None, lost()),
        ];
        for (state, marked, known, expected) in table {
            let job = BlockJob {
                state: Open::Known(state),
                newstate: marked.map(Open::Known),
                ..BlockJob::default()
            };
            assert_eq!(End::of(&job, known.as_ref()), expected, "{state:?} {known:?}");
        }
    }

    #[test]
    fn one_disk_that_fails_fails_the_whole() {
        use BackupState as S;
        let backup = |mode: &str, states: &[S]| {
            let text = format!("<domainbackup mode='{mode}'/>");
            let mut backup = Backup::given(&text).unwrap();
            let disk = |state: &S| BackupDisk {
                backup: Some(domxml::devices::YesNo::Yes),
                state: Some(Open::Known(*state)),
                ..BackupDisk::default()
            };
            backup.disks = states.iter().map(disk).collect();
            backup
        };
        for (mode, states, expected) in [
            (
                "push",
                &[S::Complete, S::Complete][..],
                (Outcome::Completed, false),
            ),
            (
                "push",
                &[S::Complete, S::Failed, S::Cancelled],
                (Outcome::Failed, true),
            ),
            ("push", &[S::Complete, S::Cancelled], (Outcome::Cancelled, true)),
            // Whoever has fetched enough ends it so.
            ("pull", &[S::Cancelled, S::Cancelled], (Outcome::Completed, true)),
            ("pull", &[S::Failed, S::Cancelled], (Outcome::Failed, true)),
        ] {
            assert_eq!(outcome(&backup(mode, states)), expected, "{mode} {states:?}");
        }
    }
}
