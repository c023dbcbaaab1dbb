//! What is told of a job, as libvirt's typed parameters. Pure: for the calls that ask, and the event that tells.

use virtqemud_client::time::milliseconds;
use wire::consts::*;
use wire::params::*;
use wire::typed::TypedParam;

use crate::proto::Job;
use crate::proto::job::{Kind, MemoryTransfer, State, Statistics};

/// libvirt's number of a job's state: what it is at work on has no known end.
pub(crate) fn kind_of(job: &Job) -> i32 {
    match job.state() {
        State::Unspecified => VIR_DOMAIN_JOB_NONE,
        State::Running => VIR_DOMAIN_JOB_UNBOUNDED,
        State::Completed => VIR_DOMAIN_JOB_COMPLETED,
        State::Failed => VIR_DOMAIN_JOB_FAILED,
        State::Cancelled => VIR_DOMAIN_JOB_CANCELLED,
    }
}

/// What is told of a job, in libvirt's order.
pub(crate) fn params(job: &Job) -> Vec<TypedParam> {
    let mut params = vec![
        VIR_DOMAIN_JOB_OPERATION.with(job.kind),
        VIR_DOMAIN_JOB_TIME_ELAPSED.with(milliseconds(job.elapsed.as_ref())),
    ];
    let mut amounts = |names: [wire::typed::Param; 3], (total, done): (u64, u64)| {
        let values = [total, done, total.saturating_sub(done)];
        params.extend(
            names
                .into_iter()
                .zip(values)
                .map(|(name, value)| name.with(value)),
        );
    };
    match &job.statistics {
        None => {}
        Some(Statistics::Transfer(it)) => {
            params.extend(transfer(it));
        }
        Some(Statistics::Dump(it)) => {
            let names = [
                VIR_DOMAIN_JOB_MEMORY_TOTAL,
                VIR_DOMAIN_JOB_MEMORY_PROCESSED,
                VIR_DOMAIN_JOB_MEMORY_REMAINING,
            ];
            amounts(names, (it.total, it.done));
        }
        Some(Statistics::Disks(it)) => {
            let names = [
                VIR_DOMAIN_JOB_DISK_TOTAL,
                VIR_DOMAIN_JOB_DISK_PROCESSED,
                VIR_DOMAIN_JOB_DISK_REMAINING,
            ];
            amounts(names, (it.total, it.done));
        }
        Some(Statistics::Scratch(it)) => {
            params.push(VIR_DOMAIN_JOB_DISK_TEMP_USED.with(it.done));
            params.push(VIR_DOMAIN_JOB_DISK_TEMP_TOTAL.with(it.total));
        }
    }
    if job.kind() == Kind::Backup && job.state() != State::Running {
        params.push(VIR_DOMAIN_JOB_SUCCESS.with(job.state() == State::Completed));
    }
    if !job.error.is_empty() {
        params.push(VIR_DOMAIN_JOB_ERRMSG.with(job.error.as_str()));
    }
    params
}

fn transfer(it: &MemoryTransfer) -> Vec<TypedParam> {
    let times = [
        (
            VIR_DOMAIN_JOB_DOWNTIME,
            it.downtime.as_ref().map(|time| milliseconds(Some(time))),
        ),
        (
            VIR_DOMAIN_JOB_SETUP_TIME,
            it.setup.as_ref().map(|time| milliseconds(Some(time))),
        ),
    ];
    let numbers = [
        (VIR_DOMAIN_JOB_DATA_TOTAL, Some(it.total)),
        (VIR_DOMAIN_JOB_DATA_PROCESSED, Some(it.processed)),
        (VIR_DOMAIN_JOB_DATA_REMAINING, Some(it.remaining)),
        (VIR_DOMAIN_JOB_MEMORY_TOTAL, Some(it.total)),
        (VIR_DOMAIN_JOB_MEMORY_PROCESSED, Some(it.processed)),
        (VIR_DOMAIN_JOB_MEMORY_REMAINING, Some(it.remaining)),
        (VIR_DOMAIN_JOB_MEMORY_BPS, it.bytes_in_a_second),
        (VIR_DOMAIN_JOB_MEMORY_CONSTANT, Some(it.constant_pages)),
        (VIR_DOMAIN_JOB_MEMORY_NORMAL, Some(it.normal_pages)),
        (VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES, Some(it.normal_bytes)),
        (VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE, Some(it.dirty_pages_in_a_second)),
        (VIR_DOMAIN_JOB_MEMORY_ITERATION, Some(it.iteration)),
        (VIR_DOMAIN_JOB_MEMORY_POSTCOPY_REQS, Some(it.postcopy_requests)),
        (VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, Some(it.page_size)),
    ];
    let all = times.into_iter().chain(numbers);
    all.filter_map(|(name, value)| Some(name.with(value?))).collect()
}
