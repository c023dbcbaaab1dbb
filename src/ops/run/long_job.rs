//! The long job of a running guest: in the status file while it is at work, for whoever asks how far it is, and told when
//! it has ended.
//!
//! For saves, dumps, snapshots, backups and migrations: each begins one after its intent was noted, posts what QEMU says,
//! and ends it, whichever way it ends. A daemon that finds one in the status file brings it to an end ([`super::found_job`]).

use std::{
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use domxml::status::{AsyncJob, Job, JobKind, Open};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::{
        Domain, Effects, View,
        long_job::{Current, Ended, Kind, Outcome, Statistics, Transfer},
    },
    error::{Code, Error, Result},
    events::model::{EventKind, event as pb, event::Detail},
    ops::operation::Context,
};

/// What a long job is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What {
    /// What it does, in job information.
    pub(crate) kind: Kind,
    /// The same, in the status file.
    pub(crate) word: AsyncJob,
    /// The same, in messages.
    pub(crate) name: &'static str,
    /// Flags of libvirt's call, for the status file.
    pub(crate) flags: u32,
    /// Why it can't be cancelled; none if it can.
    pub(crate) uncancellable: Option<&'static str>,
}

/// A long job at work.
pub(crate) struct LongJob {
    domain: Domain,
    operation: Uuid,
    what: What,
    run: i32,
    begun: Instant,
    /// What was told of its end.
    told: OnceLock<Ended>,
}

impl LongJob {
    /// Begins the job of an operation.
    ///
    /// # Errors
    /// The guest does not run, or its status file can't be written.
    pub(crate) async fn begin(context: &Context, what: What) -> Result<Arc<Self>> {
        Self::begin_as(context, what, false).await
    }

    /// Begins one that removes an external snapshot: whoever finds it cancels its commits.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(crate) async fn begin_removal(context: &Context, what: What) -> Result<Arc<Self>> {
        Self::begin_as(context, what, true).await
    }

    async fn begin_as(context: &Context, what: What, snapshot_delete: bool) -> Result<Arc<Self>> {
        let domain = context.domain().clone();
        let run = domain.view().running()?.launched.id;
        let job = Arc::new(Self {
            operation: context.id(),
            what,
            run,
            begun: Instant::now(),
            told: OnceLock::new(),
            domain,
        });
        let started = SystemTime::now();
        job.domain.long_jobs().begin(Current {
            operation: job.operation,
            kind: what.kind,
            uncancellable: what.uncancellable,
            since: job.begun,
            started,
            statistics: Statistics::None,
        });
        let milliseconds = started
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let document = Job {
            kind: Open::Known(JobKind::None),
            async_kind: Open::Known(what.word),
            flags: Some(format!("{:#x}", what.flags)),
            async_started: Some(milliseconds),
            snapshot_delete,
            ..Job::default()
        };
        let written = job.write(Some(document), Effects::none()).await;
        written.inspect_err(|_| job.domain.long_jobs().end(job.operation, None))?;
        Ok(job)
    }

    /// Goes on with a job that a former daemon had begun at this time; the status file has it already.
    ///
    /// # Errors
    /// The guest does not run.
    pub(crate) fn resumed(context: &Context, what: What, started: SystemTime) -> Result<Arc<Self>> {
        let domain = context.domain().clone();
        let run = domain.view().running()?.launched.id;
        let elapsed = SystemTime::now().duration_since(started).unwrap_or_default();
        let now = Instant::now();
        let job = Arc::new(Self {
            operation: context.id(),
            what,
            run,
            begun: now.checked_sub(elapsed).unwrap_or(now),
            told: OnceLock::new(),
            domain,
        });
        job.domain.long_jobs().begin(Current {
            operation: job.operation,
            kind: what.kind,
            uncancellable: what.uncancellable,
            since: job.begun,
            started,
            statistics: Statistics::None,
        });
        Ok(job)
    }

    /// The job in messages.
    pub(crate) fn name(&self) -> &'static str {
        self.what.name
    }

    /// Posts how far it is.
    pub(crate) fn post(&self, statistics: Statistics) {
        self.domain.long_jobs().update(self.operation, statistics);
    }

    /// Tells that QEMU has done its part, and how much that was.
    ///
    /// # Errors
    /// The guest has gone.
    pub(crate) async fn tell(&self, statistics: Statistics) -> Result<()> {
        self.post(statistics);
        let ended = self
            .told
            .get_or_init(|| self.ended(Outcome::Completed, statistics));
        let detail = Detail::Job(kept(ended));
        let effects = Effects::none().event(EventKind::JobCompleted, Some(detail));
        self.domain.commit(move |_| Ok(effects)).await.map(drop)
    }

    /// Ends it; `transferred`: how much was done, if it is to be shown later. What was told of it is shown as it was told.
    pub(crate) async fn end(&self, outcome: Outcome, transferred: Option<Statistics>) {
        let keep = self.told.get().cloned();
        let keep = keep.or_else(|| transferred.map(|statistics| self.ended(outcome, statistics)));
        self.domain.long_jobs().end(self.operation, keep);
        // A guest that has gone has no status file any more.
        let _ = self.write(None, Effects::none()).await;
    }

    /// How it ended and why, and the event that tells it, for [`Self::end_with`].
    pub(crate) fn last_words(
        &self,
        (outcome, cause): (Outcome, Option<String>),
        statistics: Statistics,
    ) -> (Effects, Ended) {
        let ended = Ended {
            cause,
            ..self.ended(outcome, statistics)
        };
        let detail = Detail::Job(kept(&ended));
        let effects = Effects::none().event(EventKind::JobCompleted, Some(detail));
        (effects, ended)
    }

    /// Ends it with one commit, which does what else `change` says. It is shown as ended before that is told.
    ///
    /// # Errors
    /// The status file can't be written, or `change` refuses.
    pub(crate) async fn end_with(
        &self,
        ended: Ended,
        change: impl FnOnce(&mut View) -> Result<Effects> + Send + 'static,
    ) -> Result<()> {
        self.domain.long_jobs().end(self.operation, Some(ended));
        let run = self.run;
        let last = move |view: &mut View| {
            let effects = change(view)?;
            if let Some(run) = view.run.as_mut().filter(|r| r.launched.id == run) {
                let mut status = domxml::StatusDocument::clone(&run.status);
                status.job = None;
                run.status = Arc::new(status);
            }
            Ok(effects)
        };
        self.domain.commit(last).await.map(drop)
    }

    fn ended(&self, outcome: Outcome, statistics: Statistics) -> Ended {
        Ended {
            kind: self.what.kind,
            elapsed: self.begun.elapsed(),
            statistics,
            outcome,
            cause: None,
        }
    }

    async fn write(&self, job: Option<Job>, effects: Effects) -> Result<Arc<View>> {
        let run = self.run;
        let change = move |view: &mut View| {
            let Some(run) = view.run.as_mut().filter(|r| r.launched.id == run) else {
                return Ok(effects);
            };
            if run.status.job != job {
                let mut status = domxml::StatusDocument::clone(&run.status);
                status.job = job;
                run.status = Arc::new(status);
            }
            Ok(effects)
        };
        self.domain.commit(change).await
    }

    /// Takes it out of the status file with a commit of the caller's, which [`Self::end`] follows.
    pub(crate) fn leave(view: &mut View) {
        if let Some(run) = view.run.as_mut().filter(|run| run.status.job.is_some()) {
            let mut status = domxml::StatusDocument::clone(&run.status);
            status.job = None;
            run.status = Arc::new(status);
        }
    }

    /// The error of a job that somebody cancelled.
    pub(crate) fn cancelled(&self) -> Error {
        let text = format!("job '{}' canceled by client", self.name());
        Error::new(Code::OperationAborted, text)
    }
}

/// A job that has ended, as the journal has it.
pub(crate) fn kept(ended: &Ended) -> pb::Job {
    let state = match ended.outcome {
        Outcome::Completed => 3,
        Outcome::Failed => 4,
        Outcome::Cancelled => 5,
    };
    let elapsed = u64::try_from(ended.elapsed.as_millis()).unwrap_or(u64::MAX);
    pb::Job {
        kind: ended.kind.number(),
        state,
        elapsed_ms: elapsed,
        error: ended.cause.clone().unwrap_or_default(),
        ..statistics(&ended.statistics)
    }
}

/// What a job says of how far it is, in the form of the journal.
pub(crate) fn statistics(of: &Statistics) -> pb::Job {
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let amount = |done, total| Some(pb::Amount { done, total });
    let none = pb::Job::default();
    match *of {
        Statistics::None => none,
        Statistics::Dump { total, processed } => pb::Job {
            dump: amount(processed, total),
            ..none
        },
        Statistics::Disks { total, processed } => pb::Job {
            disks: amount(processed, total),
            ..none
        },
        Statistics::Scratch { total, used } => pb::Job {
            scratch: amount(used, total),
            ..none
        },
        Statistics::Transfer(of) => pb::Job {
            transfer: Some(pb::Transfer {
                total: of.total,
                processed: of.processed,
                remaining: of.remaining,
                bps: of.bps,
                constant: of.constant,
                normal: of.normal,
                normal_bytes: of.normal_bytes,
                dirty_rate: of.dirty_rate,
                page_size: of.page_size,
                iteration: of.iteration,
                postcopy_requests: of.postcopy_requests,
                setup_ms: of.setup.map(milliseconds),
                downtime_ms: of.downtime.map(milliseconds),
            }),
            ..none
        },
    }
}

/// How far a migration is, by the answer of `query-migrate`; none before it tells.
pub(crate) fn transfer(answer: &Value) -> Option<Transfer> {
    let ram = answer.get("ram")?;
    let number = |name: &str| ram.get(name).and_then(Value::as_u64).unwrap_or(0);
    let time = |name: &str| {
        let milliseconds = answer.get(name).and_then(Value::as_u64)?;
        Some(std::time::Duration::from_millis(milliseconds))
    };
    // Megabits a second.
    let mbps = ram.get("mbps").and_then(Value::as_f64).unwrap_or(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float that is no such number becomes the nearest"
    )]
    let bps = (mbps * 125_000.0) as u64;
    Some(Transfer {
        total: number("total"),
        processed: number("transferred"),
        remaining: number("remaining"),
        bps: Some(bps).filter(|bps| *bps > 0),
        constant: number("duplicate"),
        normal: number("normal"),
        normal_bytes: number("normal-bytes"),
        dirty_rate: number("dirty-pages-rate"),
        page_size: number("page-size"),
        iteration: number("dirty-sync-count"),
        postcopy_requests: number("postcopy-requests"),
        setup: time("setup-time"),
        downtime: time("downtime").or_else(|| time("expected-downtime")),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_numbers_are_qemus() {
        let answer = serde_json::json!({"status": "active", "setup-time": 2, "expected-downtime": 300,
            "ram": {"total": 34_086_912, "transferred": 189, "remaining": 33_050_624, "duplicate": 221, "normal": 31,
                "normal-bytes": 126_976, "dirty-pages-rate": 0, "mbps": 630.021_592, "dirty-sync-count": 1,
                "page-size": 4096, "postcopy-requests": 0}});
        let told = transfer(&answer).expect("it tells");
        assert_eq!(
            (told.total, told.processed, told.constant),
            (34_086_912, 189, 221)
        );
        assert_eq!(told.bps, Some(78_752_699));
        assert_eq!(told.downtime, Some(Duration::from_millis(300)));
        assert_eq!(transfer(&serde_json::json!({"status": "setup"})), None);
    }
}
