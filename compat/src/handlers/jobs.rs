//! Jobs of guests: how far they are, and stopping them.

use virtqemud_client::time::milliseconds;
use wire::consts::*;
use wire::remote::*;

use super::flags::{Flags, named};
use super::info::{basic, running};
use super::{Reply, by_uuid};
use crate::ctx::Ctx;
use crate::jobs::{kind_of, params};
use crate::proto::job::Statistics;
use crate::proto::{CancelJobRequest, GetJobRequest, GetJobResponse, Job};

async fn jobs(ctx: &Ctx, dom: &NonnullDomain, forget_ended: bool) -> Reply<GetJobResponse> {
    let request = GetJobRequest {
        domain: by_uuid(dom),
        forget_ended,
    };
    Ok(ctx.jobs().get_job(request).await?)
}

/// The job at work; none if the guest runs and has none.
async fn current(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Option<Job>> {
    let current = jobs(ctx, dom, false).await?.current;
    if current.is_none() {
        running(ctx, dom).await?;
    }
    Ok(current)
}

pub(crate) async fn get_info(ctx: &Ctx, args: DomainGetJobInfo) -> Reply<DomainGetJobInfoRet> {
    let Some(job) = current(ctx, &args.dom).await? else {
        return Ok(DomainGetJobInfoRet::default());
    };
    let info = DomainGetJobInfoRet {
        r#type: kind_of(&job),
        time_elapsed: milliseconds(job.elapsed.as_ref()),
        ..DomainGetJobInfoRet::default()
    };
    let (total, processed) = match &job.statistics {
        Some(Statistics::Transfer(it)) => (it.total, it.processed),
        Some(Statistics::Dump(it)) => (it.total, it.done),
        Some(Statistics::Disks(it)) => {
            return Ok(DomainGetJobInfoRet {
                data_total: it.total,
                data_processed: it.done,
                data_remaining: it.total.saturating_sub(it.done),
                file_total: it.total,
                file_processed: it.done,
                file_remaining: it.total.saturating_sub(it.done),
                ..info
            });
        }
        Some(Statistics::Scratch(_)) | None => return Ok(info),
    };
    let remaining = match &job.statistics {
        Some(Statistics::Transfer(it)) => it.remaining,
        _ => total.saturating_sub(processed),
    };
    Ok(DomainGetJobInfoRet {
        data_total: total,
        data_processed: processed,
        data_remaining: remaining,
        mem_total: total,
        mem_processed: processed,
        mem_remaining: remaining,
        ..info
    })
}

pub(crate) async fn get_stats(
    ctx: &Ctx,
    args: DomainGetJobStats,
    flags: Flags,
) -> Reply<DomainGetJobStatsRet> {
    let needs = named!(
        VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED,
        VIR_DOMAIN_JOB_STATS_COMPLETED
    );
    let flags = flags.requires(needs)?.checked()?;
    let has = |flag| flags & flag != 0;
    let job = match has(VIR_DOMAIN_JOB_STATS_COMPLETED) {
        true => {
            basic(ctx, &args.dom).await?;
            let forget = !has(VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED);
            jobs(ctx, &args.dom, forget).await?.ended
        }
        false => current(ctx, &args.dom).await?,
    };
    let Some(job) = job else {
        return Ok(DomainGetJobStatsRet::default());
    };
    Ok(DomainGetJobStatsRet {
        r#type: kind_of(&job),
        params: params(&job).into(),
    })
}

pub(crate) async fn abort(ctx: &Ctx, args: DomainAbortJob) -> Reply<()> {
    cancel(ctx, &args.dom).await
}

pub(crate) async fn abort_flags(ctx: &Ctx, args: DomainAbortJobFlags, flags: Flags) -> Reply<()> {
    flags.checked()?;
    cancel(ctx, &args.dom).await
}

async fn cancel(ctx: &Ctx, dom: &NonnullDomain) -> Reply<()> {
    let request = CancelJobRequest {
        domain: by_uuid(dom),
        options: None,
    };
    ctx.jobs().cancel_job(request).await?;
    Ok(())
}
