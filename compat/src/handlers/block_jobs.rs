//! Jobs that move the blocks of a guest's disks.

use wire::consts::*;
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedParam, TypedValue};
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self, Must};
use super::flags::Flags;
use super::{Reply, by_uuid};
use crate::ctx::Ctx;
use crate::proto::copy_blocks_request::Destination;
use crate::proto::end_block_job_request::How;
use crate::proto::{
    CommitBlocksRequest, CopyBlocksRequest, CopyPath, EndBlockJobRequest, PullBlocksRequest,
    SetBlockJobSpeedRequest,
};

const MIB: u64 = 1 << 20;
/// Most MiB a second.
const MIB_MAX: u64 = (i64::MAX as u64) / MIB;

/// Bytes a second from a bandwidth in MiB, or in bytes already.
fn speed(bandwidth: u64, in_bytes: bool) -> Result<u64, WireError> {
    if in_bytes {
        return Ok(bandwidth);
    }
    if bandwidth > MIB_MAX {
        let text = format!("bandwidth must be less than {MIB_MAX}");
        return Err(WireError::new(ErrorCode::OVERFLOW, ErrorDomain::QEMU, &text));
    }
    Ok(bandwidth * MIB)
}

pub(crate) async fn pull(ctx: &Ctx, args: DomainBlockPull, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let request = PullBlocksRequest {
        domain: by_uuid(&args.dom),
        disk: args.path.into_string(),
        bytes_per_second: speed(args.bandwidth, flags & VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES != 0)?,
        ..PullBlocksRequest::default()
    };
    ctx.block_jobs().pull(request).await?;
    Ok(())
}

pub(crate) async fn rebase(ctx: &Ctx, args: DomainBlockRebase, flags: Flags) -> Reply<()> {
    let copies = flags.given & VIR_DOMAIN_BLOCK_REBASE_COPY != 0;
    let of_copies = VIR_DOMAIN_BLOCK_REBASE_SHALLOW
        | VIR_DOMAIN_BLOCK_REBASE_REUSE_EXT
        | VIR_DOMAIN_BLOCK_REBASE_COPY_RAW
        | VIR_DOMAIN_BLOCK_REBASE_COPY_DEV;
    if copies {
        args::check(ctx, "base", Must::NotBeNull, args.base.is_some())?;
    } else if flags.given & of_copies != 0 {
        let text = "use of flags requires a copy job";
        return Err(args::refused(ctx.info.area(), ctx.info.api, "flags", text).into());
    }
    let flags = flags.checked()?;
    let has = |flag: u32| flags & flag != 0;
    let bytes_per_second = speed(args.bandwidth, has(VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES))?;
    let (domain, disk) = (by_uuid(&args.dom), args.path.into_string());
    if !copies {
        let request = PullBlocksRequest {
            domain,
            disk,
            base: args::text(args.base),
            bytes_per_second,
            keep_relative: has(VIR_DOMAIN_BLOCK_REBASE_RELATIVE),
            options: None,
        };
        ctx.block_jobs().pull(request).await?;
        return Ok(());
    }
    if has(VIR_DOMAIN_BLOCK_REBASE_RELATIVE) {
        let text = "Relative backing during copy not supported yet";
        return Err(WireError::new(ErrorCode::ARGUMENT_UNSUPPORTED, ErrorDomain::QEMU, text).into());
    }
    let format = if has(VIR_DOMAIN_BLOCK_REBASE_COPY_RAW) {
        "raw"
    } else {
        ""
    };
    let path = CopyPath {
        path: args::text(args.base),
        block_device: has(VIR_DOMAIN_BLOCK_REBASE_COPY_DEV),
        format: format.to_owned(),
    };
    let request = CopyBlocksRequest {
        domain,
        disk,
        destination: Some(Destination::Path(path)),
        bytes_per_second,
        shallow: has(VIR_DOMAIN_BLOCK_REBASE_SHALLOW),
        reuse: has(VIR_DOMAIN_BLOCK_REBASE_REUSE_EXT),
        ..CopyBlocksRequest::default()
    };
    ctx.block_jobs().copy(request).await?;
    Ok(())
}

pub(crate) async fn commit(ctx: &Ctx, args: DomainBlockCommit, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let has = |flag: u32| flags & flag != 0;
    let request = CommitBlocksRequest {
        domain: by_uuid(&args.dom),
        disk: args.disk.into_string(),
        base: args::text(args.base),
        top: args::text(args.top),
        bytes_per_second: speed(args.bandwidth, has(VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES))?,
        shallow: has(VIR_DOMAIN_BLOCK_COMMIT_SHALLOW),
        delete: has(VIR_DOMAIN_BLOCK_COMMIT_DELETE),
        active: has(VIR_DOMAIN_BLOCK_COMMIT_ACTIVE),
        keep_relative: has(VIR_DOMAIN_BLOCK_COMMIT_RELATIVE),
        options: None,
    };
    ctx.block_jobs().commit(request).await?;
    Ok(())
}

pub(crate) async fn copy(ctx: &Ctx, args: DomainBlockCopy, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    args::params(
        &args.params,
        &[
            VIR_DOMAIN_BLOCK_COPY_BANDWIDTH,
            VIR_DOMAIN_BLOCK_COPY_GRANULARITY,
            VIR_DOMAIN_BLOCK_COPY_BUF_SIZE,
        ],
    )?;
    let has = |flag: u32| flags & flag != 0;
    let request = CopyBlocksRequest {
        domain: by_uuid(&args.dom),
        disk: args.path.into_string(),
        destination: Some(Destination::Xml(args.destxml.into_string())),
        bytes_per_second: long(VIR_DOMAIN_BLOCK_COPY_BANDWIDTH, &args.params),
        granularity: u32::try_from(long(VIR_DOMAIN_BLOCK_COPY_GRANULARITY, &args.params)).unwrap_or(u32::MAX),
        buffer_bytes: long(VIR_DOMAIN_BLOCK_COPY_BUF_SIZE, &args.params),
        shallow: has(VIR_DOMAIN_BLOCK_COPY_SHALLOW),
        reuse: has(VIR_DOMAIN_BLOCK_COPY_REUSE_EXT),
        transient_job: has(VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB),
        synchronous_writes: has(VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES),
        options: None,
    };
    ctx.block_jobs().copy(request).await?;
    Ok(())
}

fn long(param: Param, params: &[TypedParam]) -> u64 {
    match param.find(params) {
        Some(TypedValue::Ullong(number)) => *number,
        Some(TypedValue::Uint(number)) => u64::from(*number),
        _ => 0,
    }
}

pub(crate) async fn abort(ctx: &Ctx, args: DomainBlockJobAbort, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let how = match flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT {
        0 => How::Abort,
        _ => How::Pivot,
    };
    let request = EndBlockJobRequest {
        domain: by_uuid(&args.dom),
        disk: args.path.into_string(),
        how: how.into(),
        no_wait: flags & VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC != 0,
        options: None,
    };
    ctx.block_jobs().end(request).await?;
    Ok(())
}

pub(crate) async fn set_speed(ctx: &Ctx, args: DomainBlockJobSetSpeed, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let request = SetBlockJobSpeedRequest {
        domain: by_uuid(&args.dom),
        disk: args.path.into_string(),
        bytes_per_second: speed(
            args.bandwidth,
            flags & VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES != 0,
        )?,
        options: None,
    };
    ctx.block_jobs().set_speed(request).await?;
    Ok(())
}
