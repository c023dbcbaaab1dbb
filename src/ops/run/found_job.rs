//! Jobs that another daemon had under way in a guest that is taken over.
//!
//! Called by `recover` once QEMU answers. Nobody finishes what a dead daemon had begun, and a job that stays in the status
//! file keeps every later one out: a save is cancelled and the guest runs again, a short job is forgotten. A backup that has
//! begun goes on; `backups` sees to it, and `blockjobs` to other block jobs. What is to be done is decided by [`decide`],
//! from the file alone.

use std::{sync::Arc, time::Duration};

use domxml::{
    StatusDocument,
    status::{AsyncJob, BlockJobKind, BlockJobState, Job, JobKind, Open},
};
use qmp::commands;
use serde_json::Value;

use crate::{
    domain::{
        Condition, Effects, Run, RunState, View,
        intents::{Intent, Note},
    },
    error::Result,
    ops::{
        Driver,
        run::{cause::Cause, cpus, guest::Guest, react, stop},
    },
};

/// How long QEMU may take to give up a migration before the guest goes on without an answer.
const GIVING_UP: Duration = Duration::from_secs(1);
/// Between two questions whether it has.
const PAUSE: Duration = Duration::from_millis(50);

/// What becomes of the job of the whole guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It goes on by itself, or is not ours to judge.
    Keep,
    /// It is over.
    Forget,
    /// QEMU is told to give it up.
    Cancel,
    /// The guest was being powered off.
    PowerOff,
}

/// What is to be done about everything that was under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    job: Fate,
    /// The CPUs were stopped for the job: the state in which they run again.
    resume: Option<Condition>,
    /// Names of the commits of a removal of a snapshot that nobody goes on with.
    commits: Vec<String>,
}

/// Decides about the jobs of a status file.
///
/// `is_gone_on` with: a note tells of the removal of a snapshot, and whoever finds that goes on with its commits.
fn decide(status: &StatusDocument, condition: Condition, is_gone_on: bool) -> Plan {
    let backs_up = status.backups.as_ref().is_some_and(|all| !all.backups.is_empty());
    let job = status.job.as_ref().map_or(Fate::Keep, |job| fate(job, backs_up));
    let is_removal = status.job.as_ref().is_some_and(|job| job.snapshot_delete);
    let removes = is_removal && !is_gone_on;
    let blockjobs = status.blockjobs.iter().flat_map(|all| &all.jobs);
    let commits = blockjobs.filter(|job| {
        matches!(
            job.kind.known(),
            Some(BlockJobKind::Commit | BlockJobKind::ActiveCommit)
        )
    });
    Plan {
        commits: commits.filter(|_| removes).map(|job| job.name.clone()).collect(),
        job,
        resume: match job {
            // Of those that stand while the documents follow there is a note: they run when that is done.
            Fate::Cancel if is_removal && is_gone_on => None,
            Fate::Cancel => resumed_as(status.job.as_ref(), condition),
            Fate::Keep | Fate::Forget | Fate::PowerOff => None,
        },
    }
}

fn fate(job: &Job, backs_up: bool) -> Fate {
    match (job.async_kind.known(), job.kind.known()) {
        (_, Some(JobKind::Destroy)) => Fate::PowerOff,
        (Some(AsyncJob::Save | AsyncJob::Dump | AsyncJob::Snapshot), _) => Fate::Cancel,
        (Some(AsyncJob::Backup), _) if backs_up => Fate::Keep,
        (Some(AsyncJob::MigrationOut), _) => match job.phase.as_deref() {
            Some("perform2" | "perform3") => Fate::Cancel,
            None | Some("none" | "begin3") => Fate::Forget,
            Some(_) => Fate::Keep,
        },
        // Only the other host knows how an incoming one stands, and only a newer daemon what we do not know.
        (Some(AsyncJob::MigrationIn) | None, _) => Fate::Keep,
        (Some(AsyncJob::Backup | AsyncJob::Start | AsyncJob::None), _) => Fate::Forget,
    }
}

/// The state that a guest gets which was stopped for a job; none for one that was stopped for another reason, or runs.
fn resumed_as(job: Option<&Job>, condition: Condition) -> Option<Condition> {
    let stopped_for_it = matches!(
        condition,
        Condition::PAUSED_SAVE
            | Condition::PAUSED_DUMP
            | Condition::PAUSED_SNAPSHOT
            | Condition::PAUSED_MIGRATION
            | Condition::PAUSED_UNKNOWN
    );
    let migrates = job.is_some_and(|job| job.async_kind.known() == Some(AsyncJob::MigrationOut));
    stopped_for_it.then_some(if migrates {
        Condition::RUNNING_MIGRATION_CANCELED
    } else {
        Condition::RUNNING_SAVE_CANCELED
    })
}

/// Finishes or forgets what was under way. A guest without any job is not asked anything.
pub(crate) async fn recover(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let view = guest.domain.view();
    let Some(run) = view.run.as_ref().filter(|run| run.launched.id == guest.id) else {
        return;
    };
    // One that this daemon carries out is nobody's to find.
    let is_own = guest.domain.long_jobs().current().is_some();
    if is_own || run.status.job.is_none() {
        return;
    }
    let notes = driver.registry.store().intents().of(view.uuid, Note::OFF);
    let mut removals = notes.iter().map(|note| &note.intent);
    let is_gone_on = removals.any(|intent| matches!(intent, Intent::DeleteSnapshot { .. }));
    let plan = decide(&run.status, view.condition, is_gone_on);
    tracing::warn!(guest = %view.name, job = ?run.status.job, ?plan, "finding what another daemon had under way");
    if let Err(error) = carry_out(driver, guest, plan).await {
        tracing::error!(guest = %view.name, %error, "what another daemon had under way could not be brought to an end");
    }
}

async fn carry_out(driver: &Arc<Driver>, guest: &Arc<Guest>, plan: Plan) -> Result<()> {
    match plan.job {
        Fate::PowerOff => {
            guest.end_because(Cause::Destroyed);
            return stop::terminate(driver, guest, stop::Patience::Usual).await;
        }
        Fate::Cancel => cancel(guest).await?,
        Fate::Keep | Fate::Forget => {}
    }
    for device in plan.commits.clone() {
        let cancel = commands::BlockJobCancel { device, force: false };
        if let Err(error) = guest.execute(cancel).await {
            tracing::warn!(%error, "a commit of a removal that was left can't be cancelled, or is over");
        }
    }
    if plan.resume.is_some() {
        let monitor = guest.monitor()?;
        cpus::run_cpus(driver, guest, monitor.cont()).await?;
    }
    let id = guest.id;
    let change = move |view: &mut View| {
        let Some(run) = view.run.as_mut().filter(|run| run.launched.id == id) else {
            return Ok(Effects::none());
        };
        forget(run, &plan);
        let Some(condition) = plan.resume else {
            return Ok(Effects::none());
        };
        let told = view.condition.state() == RunState::Running;
        view.condition = condition;
        // QEMU's own event may have come first.
        let (kind, detail) = react::lifecycle::RESUMED;
        Ok(if told {
            Effects::none()
        } else {
            Effects::none().lifecycle(kind, detail)
        })
    };
    guest.domain.commit(change).await.map(drop)
}

/// Has QEMU give up a migration, and waits until it has. A stream that nobody reads keeps it from that: what it has given up
/// comes to nothing all the same, and the guest need not wait for the reader.
async fn cancel(guest: &Arc<Guest>) -> Result<()> {
    guest.execute(commands::MigrateCancel {}).await?;
    let given_up = async {
        while migrates(&guest.execute(commands::QueryMigrate {}).await?) {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    };
    tokio::time::timeout(GIVING_UP, given_up)
        .await
        .unwrap_or_else(|_| {
            tracing::warn!(
                guest = %guest.domain.view().name,
                "QEMU does not give up the migration that a former daemon had begun: nobody reads what it has written"
            );
            Ok(())
        })
}

/// Whether a migration is under way, by the answer of `query-migrate`.
fn migrates(answer: &Value) -> bool {
    let over = ["none", "cancelled", "failed", "completed"];
    let status = answer.get("status").and_then(Value::as_str);
    status.is_some_and(|status| !over.contains(&status))
}

/// Takes what is over out of a run.
fn forget(run: &mut Run, plan: &Plan) {
    if plan.job != Fate::Keep {
        let mut status = StatusDocument::clone(&run.status);
        status.job = None;
        let jobs = status.blockjobs.iter_mut().flat_map(|all| &mut all.jobs);
        for job in jobs.filter(|job| plan.commits.contains(&job.name)) {
            job.state = Open::Known(BlockJobState::Aborting);
        }
        run.status = Arc::new(status);
    }
}

#[cfg(test)]
mod tests {
    use domxml::status::{BlockJob, BlockJobs};

    use super::*;

    fn status(job: Option<Job>) -> StatusDocument {
        StatusDocument {
            job,
            ..StatusDocument::default()
        }
    }

    fn job(kind: JobKind, async_kind: AsyncJob, phase: Option<&str>) -> Option<Job> {
        Some(Job {
            kind: Open::Known(kind),
            async_kind: Open::Known(async_kind),
            phase: phase.map(str::to_owned),
            ..Job::default()
        })
    }

    #[test]
    fn every_job_comes_to_an_end_or_goes_on() {
        use {AsyncJob as A, Condition as C, Fate as F, JobKind as J};
        let saved = Some(C::RUNNING_SAVE_CANCELED);
        // Job, what a daemon calls its phase, state of the guest, what becomes of the job, the state it runs on in.
        type Row = (J, A, Option<&'static str>, C, F, Option<C>);
        let table: &[Row] = &[
            (J::Modify, A::None, None, C::RUNNING_BOOTED, F::Forget, None),
            (J::Query, A::None, None, C::PAUSED_UNKNOWN, F::Forget, None),
            (J::Suspend, A::None, None, C::PAUSED_USER, F::Forget, None),
            (J::Destroy, A::None, None, C::RUNNING_BOOTED, F::PowerOff, None),
            (J::Destroy, A::Save, None, C::PAUSED_SAVE, F::PowerOff, None),
            (J::None, A::Save, None, C::PAUSED_SAVE, F::Cancel, saved),
            (J::None, A::Save, None, C::PAUSED_UNKNOWN, F::Cancel, saved),
            (J::None, A::Save, None, C::PAUSED_MIGRATION, F::Cancel, saved),
            (J::None, A::Save, None, C::PAUSED_USER, F::Cancel, None),
            (J::None, A::Save, None, C::PAUSED_IOERROR, F::Cancel, None),
            (J::None, A::Save, None, C::RUNNING_BOOTED, F::Cancel, None),
            (J::Query, A::Dump, None, C::PAUSED_DUMP, F::Cancel, saved),
            (J::None, A::Snapshot, None, C::PAUSED_SNAPSHOT, F::Cancel, saved),
            (J::None, A::Start, None, C::RUNNING_BOOTED, F::Forget, None),
            (
                J::None,
                A::MigrationOut,
                Some("begin3"),
                C::RUNNING_BOOTED,
                F::Forget,
                None,
            ),
            (
                J::None,
                A::MigrationOut,
                Some("perform3"),
                C::PAUSED_MIGRATION,
                F::Cancel,
                Some(C::RUNNING_MIGRATION_CANCELED),
            ),
            (
                J::None,
                A::MigrationOut,
                Some("perform3_done"),
                C::PAUSED_MIGRATION,
                F::Keep,
                None,
            ),
            (
                J::None,
                A::MigrationIn,
                Some("finish2"),
                C::PAUSED_MIGRATION,
                F::Keep,
                None,
            ),
        ];
        for (kind, long, phase, condition, fate, resume) in table {
            let plan = decide(&status(job(*kind, *long, *phase)), *condition, false);
            let what = format!("{} {} {phase:?} {condition:?}", kind.as_str(), long.as_str());
            assert_eq!((plan.job, plan.resume), (*fate, *resume), "{what}");
        }
        let unknown = Some(Job {
            async_kind: Open::Other("teleport".to_owned()),
            ..Job::default()
        });
        assert_eq!(
            decide(&status(unknown), Condition::PAUSED_SAVE, false).job,
            Fate::Keep
        );
    }

    #[test]
    fn a_backup_that_has_begun_goes_on() {
        let mut status = status(job(JobKind::None, AsyncJob::Backup, None));
        let decided = |status: &StatusDocument| decide(status, Condition::RUNNING_BOOTED, false).job;
        assert_eq!(decided(&status), Fate::Forget);
        status
            .backups
            .get_or_insert_default()
            .backups
            .push(Default::default());
        assert_eq!(decided(&status), Fate::Keep);
    }

    #[test]
    fn commits_of_a_removal_are_cancelled_unless_somebody_goes_on_with_it() {
        use BlockJobKind as B;
        let mut status = status(job(JobKind::None, AsyncJob::Snapshot, None));
        let jobs = [("a", B::Commit), ("b", B::ActiveCommit), ("c", B::Pull)];
        let jobs = jobs.map(|(name, kind)| BlockJob {
            name: name.to_owned(),
            kind: Open::Known(kind),
            ..BlockJob::default()
        });
        status.blockjobs = Some(BlockJobs {
            jobs: jobs.to_vec(),
            ..BlockJobs::default()
        });
        let commits = |status: &StatusDocument, is_gone_on| {
            decide(status, Condition::RUNNING_BOOTED, is_gone_on).commits
        };
        let runs = |status: &StatusDocument, is_gone_on| {
            let resume = decide(status, Condition::PAUSED_UNKNOWN, is_gone_on).resume;
            resume.is_some()
        };
        assert!(commits(&status, false).is_empty());
        assert!(runs(&status, false) && runs(&status, true));
        status.job.as_mut().unwrap().snapshot_delete = true;
        assert_eq!(commits(&status, false), ["a", "b"]);
        assert!(commits(&status, true).is_empty());
        assert!(runs(&status, false) && !runs(&status, true));
    }

    #[test]
    fn a_migration_is_over_when_qemu_says_so() {
        for (answer, under_way) in [
            (r#"{}"#, false),
            (r#"{"status": "cancelling"}"#, true),
            (r#"{"status": "active"}"#, true),
            (r#"{"status": "cancelled"}"#, false),
            (r#"{"status": "completed"}"#, false),
        ] {
            let answer = serde_json::from_str(answer).unwrap();
            assert_eq!(migrates(&answer), under_way, "{answer}");
        }
    }
}
