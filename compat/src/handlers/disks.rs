//! One disk of a guest: its sizes, the job at work on it, its limits.

use virtqemud_client::time;
use wire::consts::*;
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedParam, TypedValue};
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self, Must};
use super::flags::{Flags, LIVE_OR_CONFIG};
use super::{Reply, by_uuid, full_in};
use crate::ctx::Ctx;
use crate::proto::disk_limits::{Rate, Rates};
use crate::proto::disk_limits_change::{Rate as NewRate, Rates as NewRates};
use crate::proto::{
    DiskLimits, DiskLimitsChange, GetDiskJobRequest, GetDiskJobResponse, GetDiskLimitsRequest,
    GetDiskSizesRequest, RemoveThrottleGroupRequest, ResizeDiskRequest, SetDiskLimitsRequest,
    SetDiskThresholdRequest, SetThrottleGroupRequest,
};

/// How many limits of a disk there are, the group's name among them.
const LIMITS: i32 = 20;
const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

pub(crate) async fn get_info(
    ctx: &Ctx,
    args: DomainGetBlockInfo,
    flags: Flags,
) -> Reply<DomainGetBlockInfoRet> {
    let disk = args.path.into_string();
    args::check(ctx, "disk", Must::NotBeEmpty, !disk.is_empty())?;
    flags.checked()?;
    let request = GetDiskSizesRequest {
        domain: by_uuid(&args.dom),
        disk,
    };
    let sizes = ctx.disks().get_sizes(request).await?;
    Ok(DomainGetBlockInfoRet {
        allocation: sizes.allocation,
        capacity: sizes.capacity,
        physical: sizes.physical,
    })
}

async fn job(ctx: &Ctx, dom: &NonnullDomain, disk: String) -> Reply<GetDiskJobResponse> {
    let request = GetDiskJobRequest {
        domain: by_uuid(dom),
        disk,
    };
    Ok(ctx.disks().get_job(request).await?)
}

pub(crate) async fn get_job(
    ctx: &Ctx,
    args: DomainGetBlockJobInfo,
    flags: Flags,
) -> Reply<DomainGetBlockJobInfoRet> {
    let flags = flags.checked()?;
    let Some(job) = job(ctx, &args.dom, args.path.into_string()).await?.job else {
        return Ok(DomainGetBlockJobInfoRet::default());
    };
    let unit = match flags & VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES {
        0 => MIB,
        _ => 1,
    };
    Ok(DomainGetBlockJobInfoRet {
        found: 1,
        r#type: job.kind,
        bandwidth: job.bandwidth.div_ceil(unit),
        cur: job.done,
        end: job.total,
    })
}

pub(crate) async fn get_limits(
    ctx: &Ctx,
    args: DomainGetBlockIoTune,
    flags: Flags,
) -> Reply<DomainGetBlockIoTuneRet> {
    let room = args::room(args.nparams, DOMAIN_BLOCK_IO_TUNE_PARAMETERS_MAX)?;
    args::check(ctx, "disk", Must::NotBeNull, room == 0 || args.disk.is_some())?;
    let scope = args::scope(flags.exclusive(LIVE_OR_CONFIG)?.checked()?);
    if room == 0 {
        full_in(ctx, &args.dom, scope).await?;
        return Ok(DomainGetBlockIoTuneRet {
            params: Vec::new().into(),
            nparams: LIMITS,
        });
    }
    let request = GetDiskLimitsRequest {
        domain: by_uuid(&args.dom),
        disk: args::text(args.disk),
        scope: scope.into(),
    };
    let limits = ctx.disks().get_limits(request).await?;
    Ok(DomainGetBlockIoTuneRet {
        params: params(limits).into_iter().take(room).collect(),
        nparams: 0,
    })
}

/// Parameters of bytes or operations in one of libvirt's three groups: total, read, write each.
type Three = [Param; 3];

const AVERAGE: [Three; 2] = [
    [
        VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_BYTES_SEC,
        VIR_DOMAIN_BLOCK_IOTUNE_READ_BYTES_SEC,
        VIR_DOMAIN_BLOCK_IOTUNE_WRITE_BYTES_SEC,
    ],
    [
        VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_IOPS_SEC,
        VIR_DOMAIN_BLOCK_IOTUNE_READ_IOPS_SEC,
        VIR_DOMAIN_BLOCK_IOTUNE_WRITE_IOPS_SEC,
    ],
];
const BURST: [Three; 2] = [
    [
        VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_BYTES_SEC_MAX,
        VIR_DOMAIN_BLOCK_IOTUNE_READ_BYTES_SEC_MAX,
        VIR_DOMAIN_BLOCK_IOTUNE_WRITE_BYTES_SEC_MAX,
    ],
    [
        VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_IOPS_SEC_MAX,
        VIR_DOMAIN_BLOCK_IOTUNE_READ_IOPS_SEC_MAX,
        VIR_DOMAIN_BLOCK_IOTUNE_WRITE_IOPS_SEC_MAX,
    ],
];
const BURST_SECONDS: [Three; 2] = [
    [
        VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_BYTES_SEC_MAX_LENGTH,
        VIR_DOMAIN_BLOCK_IOTUNE_READ_BYTES_SEC_MAX_LENGTH,
        VIR_DOMAIN_BLOCK_IOTUNE_WRITE_BYTES_SEC_MAX_LENGTH,
    ],
    [
        VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_IOPS_SEC_MAX_LENGTH,
        VIR_DOMAIN_BLOCK_IOTUNE_READ_IOPS_SEC_MAX_LENGTH,
        VIR_DOMAIN_BLOCK_IOTUNE_WRITE_IOPS_SEC_MAX_LENGTH,
    ],
];

/// The limits in libvirt's order; the group's name is left out where there is none.
fn params(limits: DiskLimits) -> Vec<TypedParam> {
    let rates = [limits.bytes, limits.operations].map(|rates: Option<Rates>| {
        let rates = rates.unwrap_or_default();
        [rates.total, rates.read, rates.write].map(Option::unwrap_or_default)
    });
    let seconds_of = |rate: &Rate| {
        rate.burst_length
            .as_ref()
            .map_or(0, |length| length.seconds.unsigned_abs())
    };
    let with = |names: [Three; 2], value: fn(&Rate) -> u64| {
        let pairs = names.into_iter().flatten().zip(rates.iter().flatten());
        pairs
            .map(move |(name, rate)| name.with(value(rate)))
            .collect::<Vec<_>>()
    };
    let mut params = with(AVERAGE, |rate| rate.average);
    params.extend(with(BURST, |rate| rate.burst));
    params.push(VIR_DOMAIN_BLOCK_IOTUNE_SIZE_IOPS_SEC.with(limits.operation_size));
    params.push(VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME.with(limits.group.as_str()));
    params.extend(with(BURST_SECONDS, seconds_of));
    params
}

/// What a client wants of the limits of a disk or a group.
fn wanted(params: &[TypedParam]) -> DiskLimitsChange {
    let number = |param: Param| match param.find(params) {
        Some(TypedValue::Ullong(number)) => Some(*number),
        _ => None,
    };
    let rates = |kind: usize| {
        let rate = |direction: usize| {
            let length = number(BURST_SECONDS[kind][direction]);
            Some(NewRate {
                average: number(AVERAGE[kind][direction]),
                burst: number(BURST[kind][direction]),
                burst_length: length
                    .map(|seconds| time::of_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))),
            })
        };
        Some(NewRates {
            total: rate(0),
            read: rate(1),
            write: rate(2),
        })
    };
    let group = match VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME.find(params) {
        Some(TypedValue::String(name)) => Some(name.to_str().into_owned()),
        _ => None,
    };
    DiskLimitsChange {
        bytes: rates(0),
        operations: rates(1),
        operation_size: number(VIR_DOMAIN_BLOCK_IOTUNE_SIZE_IOPS_SEC),
        group,
    }
}

/// All parameters of limits.
fn all_limits() -> Vec<Param> {
    let threes = [AVERAGE, BURST, BURST_SECONDS].into_iter().flatten().flatten();
    threes
        .chain([
            VIR_DOMAIN_BLOCK_IOTUNE_SIZE_IOPS_SEC,
            VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME,
        ])
        .collect()
}

pub(crate) async fn set_limits(ctx: &Ctx, args: DomainSetBlockIoTune, flags: Flags) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let scope = args::scope(flags.checked()?);
    args::params(&args.params, &all_limits())?;
    let request = SetDiskLimitsRequest {
        domain: by_uuid(&args.dom),
        disk: args.disk.into_string(),
        scope: scope.into(),
        limits: Some(wanted(&args.params)),
        options: None,
    };
    ctx.disks().set_limits(request).await?;
    Ok(())
}

pub(crate) async fn set_throttle_group(ctx: &Ctx, args: DomainSetThrottleGroup, flags: Flags) -> Reply<()> {
    let scope = args::scope(flags.checked()?);
    args::params(&args.params, &all_limits())?;
    let request = SetThrottleGroupRequest {
        domain: by_uuid(&args.dom),
        group: args.group.into_string(),
        scope: scope.into(),
        limits: Some(wanted(&args.params)),
        options: None,
    };
    ctx.disks().set_throttle_group(request).await?;
    Ok(())
}

pub(crate) async fn del_throttle_group(ctx: &Ctx, args: DomainDelThrottleGroup, flags: Flags) -> Reply<()> {
    let group = args::text(args.group);
    args::check(ctx, "group", Must::NotBeNull, !group.is_empty())?;
    let request = RemoveThrottleGroupRequest {
        domain: by_uuid(&args.dom),
        group,
        scope: args::scope(flags.checked()?).into(),
        options: None,
    };
    ctx.disks().remove_throttle_group(request).await?;
    Ok(())
}

pub(crate) async fn resize(ctx: &Ctx, args: DomainBlockResize, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let bytes = match flags & VIR_DOMAIN_BLOCK_RESIZE_BYTES {
        0 => args.size.checked_mul(KIB).ok_or_else(|| {
            let text = format!("size must be less than {}", u64::MAX / KIB);
            WireError::new(ErrorCode::OVERFLOW, ErrorDomain::QEMU, &text)
        })?,
        _ => args.size,
    };
    let request = ResizeDiskRequest {
        domain: by_uuid(&args.dom),
        disk: args.disk.into_string(),
        bytes,
        whole_device: flags & VIR_DOMAIN_BLOCK_RESIZE_CAPACITY != 0,
        options: None,
    };
    ctx.disks().resize(request).await?;
    Ok(())
}

pub(crate) async fn set_threshold(ctx: &Ctx, args: DomainSetBlockThreshold, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = SetDiskThresholdRequest {
        domain: by_uuid(&args.dom),
        device: args.dev.into_string(),
        bytes: args.threshold,
        options: None,
    };
    ctx.disks().set_threshold(request).await?;
    Ok(())
}
