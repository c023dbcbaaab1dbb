//! The Jobs service: what `domain::long_job` knows, as messages.

use std::time::Duration;

use tonic::Request;

use super::service::{Answer, Service};
use crate::{
    access::Caller,
    domain::{
        Domain,
        long_job::{Current, Ended},
    },
    error::Error,
    events::model::event as kept,
    ops::run::long_job,
    pb::{self, job::Statistics},
};

#[tonic::async_trait]
impl pb::jobs_server::Jobs for Service {
    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Answer<pb::GetJobResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let domain = self.domain(&caller, request.domain.as_ref())?;
        Ok(tonic::Response::new(shown(&domain, request.forget_ended)))
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Answer<pb::GetJobResponse> {
        self.mutate(request, |call| async move {
            let domain = call.unchanged(call.request.domain.as_ref())?;
            let none = || Error::invalid("no job is active on the domain");
            let Some(current) = domain.long_jobs().current() else {
                domain.view().running()?;
                return Err(none());
            };
            if let Some(why) = current.uncancellable {
                return Err(Error::invalid(why));
            }
            let record = call.driver.operations.get(current.operation).ok_or_else(none)?;
            match call.conditions.trial {
                true => record.may_cancel()?,
                false => record.cancel()?,
            }
            Ok(shown(&domain, false))
        })
        .await
    }
}

fn shown(domain: &Domain, forget: bool) -> pb::GetJobResponse {
    let jobs = domain.long_jobs();
    let ended = if forget {
        jobs.take_completed()
    } else {
        jobs.completed()
    };
    pb::GetJobResponse {
        current: jobs.current().map(|job| current(&job)),
        ended: ended.map(|job: Ended| of_journal(&long_job::kept(&job))),
    }
}

fn current(job: &Current) -> pb::Job {
    pb::Job {
        state: pb::job::State::Running.into(),
        operation_id: job.operation.to_string(),
        kind: kind(job.kind.number()),
        elapsed: duration(job.since.elapsed()),
        ..of_journal(&long_job::statistics(&job.statistics))
    }
}

/// A job as the journal has it.
pub(super) fn of_journal(job: &kept::Job) -> pb::Job {
    let amount = |amount: &kept::Amount| pb::job::Amount {
        done: amount.done,
        total: amount.total,
    };
    let statistics = None
        .or(job.transfer.as_ref().map(|it| Statistics::Transfer(transfer(it))))
        .or(job.dump.as_ref().map(|it| Statistics::Dump(amount(it))))
        .or(job.disks.as_ref().map(|it| Statistics::Disks(amount(it))))
        .or(job.scratch.as_ref().map(|it| Statistics::Scratch(amount(it))));
    pb::Job {
        kind: kind(job.kind),
        state: pb::job::State::try_from(job.state).unwrap_or_default().into(),
        operation_id: String::new(),
        elapsed: duration(Duration::from_millis(job.elapsed_ms)),
        error: job.error.clone(),
        statistics,
    }
}

/// The contract's numbers are libvirt's.
fn kind(number: i32) -> i32 {
    pb::job::Kind::try_from(number).unwrap_or_default().into()
}

fn transfer(it: &kept::Transfer) -> pb::job::MemoryTransfer {
    let time = |milliseconds: Option<u64>| duration(Duration::from_millis(milliseconds?));
    pb::job::MemoryTransfer {
        total: it.total,
        processed: it.processed,
        remaining: it.remaining,
        bytes_in_a_second: it.bps,
        constant_pages: it.constant,
        normal_pages: it.normal,
        normal_bytes: it.normal_bytes,
        dirty_pages_in_a_second: it.dirty_rate,
        page_size: it.page_size,
        iteration: it.iteration,
        postcopy_requests: it.postcopy_requests,
        setup: time(it.setup_ms),
        downtime: time(it.downtime_ms),
    }
}

fn duration(time: Duration) -> Option<prost_types::Duration> {
    time.try_into().ok()
}
