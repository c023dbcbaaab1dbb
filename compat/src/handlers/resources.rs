//! How much of the host's CPUs, memory and disks a guest gets, as typed parameters.

use virtqemud_client::time::{self, nanoseconds};
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedParam, TypedValue};
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self, Must};
use super::flags::{Flags, LIVE_OR_CONFIG};
use super::{Reply, by_uuid, info};
use crate::ctx::{Ctx, internal};
use crate::proto::block_limits::Device;
use crate::proto::numa_placement::Mode;
use crate::proto::scheduler::Bandwidth;
use crate::proto::{
    BlockLimits, CpuUsage, GetCpuUsageRequest, GetTuningRequest, MemoryLimits, NumaPlacement, Scheduler,
    Scope, SetBlockLimitsRequest, SetMemoryLimitsRequest, SetNumaPlacementRequest, SetSchedulerRequest,
};

/// libvirt's number for a limit that is none.
const UNLIMITED: u64 = 9_007_199_254_740_991;
/// Parameters of memory, in the order in which they are told.
const MEMORY: [Param; 3] = [
    VIR_DOMAIN_MEMORY_HARD_LIMIT,
    VIR_DOMAIN_MEMORY_SOFT_LIMIT,
    VIR_DOMAIN_MEMORY_SWAP_HARD_LIMIT,
];
/// Periods and quotas, in the order in which they are told.
const BANDWIDTHS: [(Param, Param); 4] = [
    (VIR_DOMAIN_SCHEDULER_VCPU_PERIOD, VIR_DOMAIN_SCHEDULER_VCPU_QUOTA),
    (
        VIR_DOMAIN_SCHEDULER_EMULATOR_PERIOD,
        VIR_DOMAIN_SCHEDULER_EMULATOR_QUOTA,
    ),
    (
        VIR_DOMAIN_SCHEDULER_GLOBAL_PERIOD,
        VIR_DOMAIN_SCHEDULER_GLOBAL_QUOTA,
    ),
    (
        VIR_DOMAIN_SCHEDULER_IOTHREAD_PERIOD,
        VIR_DOMAIN_SCHEDULER_IOTHREAD_QUOTA,
    ),
];
/// Parameters of nodes.
const NUMA: [Param; 2] = [VIR_DOMAIN_NUMA_MODE, VIR_DOMAIN_NUMA_NODESET];
/// Parameters of block devices.
const BLKIO: [Param; 6] = [
    VIR_DOMAIN_BLKIO_WEIGHT,
    VIR_DOMAIN_BLKIO_DEVICE_WEIGHT,
    VIR_DOMAIN_BLKIO_DEVICE_READ_IOPS,
    VIR_DOMAIN_BLKIO_DEVICE_WRITE_IOPS,
    VIR_DOMAIN_BLKIO_DEVICE_READ_BPS,
    VIR_DOMAIN_BLKIO_DEVICE_WRITE_BPS,
];
/// Most CPUs that one call tells of.
const CPUS_MAX: u32 = 128;

fn asked(dom: &NonnullDomain, scope: Scope) -> GetTuningRequest {
    GetTuningRequest {
        domain: by_uuid(dom),
        scope: scope.into(),
    }
}

/// The configuration that a reader's flags name: not both.
fn one_scope(flags: Flags) -> Result<Scope, WireError> {
    Ok(args::scope(flags.exclusive(LIVE_OR_CONFIG)?.checked()?))
}

fn ullong(params: &[TypedParam], param: Param) -> Option<u64> {
    match param.find(params) {
        Some(TypedValue::Ullong(value)) => Some(*value),
        _ => None,
    }
}

fn llong(params: &[TypedParam], param: Param) -> Option<i64> {
    match param.find(params) {
        Some(TypedValue::Llong(value)) => Some(*value),
        _ => None,
    }
}

fn string(params: &[TypedParam], param: Param) -> Option<String> {
    match param.find(params) {
        Some(TypedValue::String(text)) => Some(text.to_str().into_owned()),
        _ => None,
    }
}

pub(crate) async fn get_scheduler_type(
    ctx: &Ctx,
    args: DomainGetSchedulerType,
) -> Reply<DomainGetSchedulerTypeRet> {
    let params = scheduler(ctx, &args.dom, Scope::Current).await?;
    let nparams = i32::try_from(params.len()).unwrap_or(i32::MAX);
    Ok(DomainGetSchedulerTypeRet {
        r#type: "posix".into(),
        nparams,
    })
}

async fn scheduler(ctx: &Ctx, dom: &NonnullDomain, scope: Scope) -> Reply<Vec<TypedParam>> {
    let told = ctx.tuning().get_scheduler(asked(dom, scope)).await?;
    let mut params = vec![VIR_DOMAIN_SCHEDULER_CPU_SHARES.with(told.shares.unwrap_or(0))];
    let bandwidths = [told.vcpu, told.emulator, told.global, told.iothread];
    for ((period, quota), told) in BANDWIDTHS.iter().zip(bandwidths) {
        let Some(told) = told else { continue };
        params.push(period.with(told.period.as_ref().map_or(0, time::microseconds).cast_unsigned()));
        params.push(quota.with(told.quota.as_ref().map_or(0, time::microseconds)));
    }
    Ok(params)
}

pub(crate) async fn get_scheduler_parameters(
    ctx: &Ctx,
    args: DomainGetSchedulerParameters,
) -> Reply<DomainGetSchedulerParametersRet> {
    let room = args::room(args.nparams, DOMAIN_SCHEDULER_PARAMETERS_MAX)?;
    args::check(ctx, "params", Must::NotBeNull, room > 0)?;
    let params = scheduler(ctx, &args.dom, Scope::Current).await?;
    Ok(DomainGetSchedulerParametersRet {
        params: params.into_iter().take(room).collect(),
    })
}

pub(crate) async fn get_scheduler_parameters_flags(
    ctx: &Ctx,
    args: DomainGetSchedulerParametersFlags,
    flags: Flags,
) -> Reply<DomainGetSchedulerParametersFlagsRet> {
    let room = args::room(args.nparams, DOMAIN_SCHEDULER_PARAMETERS_MAX)?;
    args::check(ctx, "params", Must::NotBeNull, room > 0)?;
    let scope = one_scope(flags)?;
    let params = scheduler(ctx, &args.dom, scope).await?;
    Ok(DomainGetSchedulerParametersFlagsRet {
        params: params.into_iter().take(room).collect(),
    })
}

pub(crate) async fn set_scheduler_parameters(ctx: &Ctx, args: DomainSetSchedulerParameters) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    set_scheduler(ctx, &args.dom, &args.params, Scope::Current).await
}

pub(crate) async fn set_scheduler_parameters_flags(
    ctx: &Ctx,
    args: DomainSetSchedulerParametersFlags,
    flags: Flags,
) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let scope = args::scope(flags.checked()?);
    set_scheduler(ctx, &args.dom, &args.params, scope).await
}

async fn set_scheduler(ctx: &Ctx, dom: &NonnullDomain, params: &[TypedParam], scope: Scope) -> Reply<()> {
    let mut allowed = vec![VIR_DOMAIN_SCHEDULER_CPU_SHARES];
    allowed.extend(BANDWIDTHS.iter().flat_map(|(period, quota)| [*period, *quota]));
    args::params(params, &allowed)?;
    let span = |micros| time::of_microseconds(i64::try_from(micros).unwrap_or(i64::MAX));
    let bandwidth = |(period, quota): (Param, Param)| {
        Some(Bandwidth {
            period: ullong(params, period).map(span),
            quota: llong(params, quota).map(time::of_microseconds),
        })
    };
    let [vcpu, emulator, global, iothread] = BANDWIDTHS.map(bandwidth);
    let shares = ullong(params, VIR_DOMAIN_SCHEDULER_CPU_SHARES);
    let scheduler = Some(Scheduler {
        shares,
        vcpu,
        emulator,
        iothread,
        global,
    });
    let request = SetSchedulerRequest {
        domain: by_uuid(dom),
        scope: scope.into(),
        scheduler,
        options: None,
    };
    ctx.tuning().set_scheduler(request).await?;
    Ok(())
}

pub(crate) async fn get_memory_parameters(
    ctx: &Ctx,
    args: DomainGetMemoryParameters,
    flags: Flags,
) -> Reply<DomainGetMemoryParametersRet> {
    let room = args::room(args.nparams, DOMAIN_MEMORY_PARAMETERS_MAX)?;
    let scope = one_scope(flags)?;
    let told = ctx.tuning().get_memory_limits(asked(&args.dom, scope)).await?;
    let values = [told.hard_limit_kib, told.soft_limit_kib, told.swap_hard_limit_kib];
    let params = MEMORY
        .iter()
        .zip(values)
        .map(|(param, kib)| param.with(kib.unwrap_or(UNLIMITED)));
    let (params, nparams) = args::fitting(params.collect(), room);
    Ok(DomainGetMemoryParametersRet {
        params: params.into(),
        nparams,
    })
}

pub(crate) async fn set_memory_parameters(
    ctx: &Ctx,
    args: DomainSetMemoryParameters,
    flags: Flags,
) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let flags = flags.checked()?;
    args::params(&args.params, &MEMORY)?;
    let [hard_limit_kib, soft_limit_kib, swap_hard_limit_kib] =
        MEMORY.map(|param| ullong(&args.params, param));
    let limits = Some(MemoryLimits {
        hard_limit_kib,
        soft_limit_kib,
        swap_hard_limit_kib,
    });
    let scope = args::scope(flags);
    let request = SetMemoryLimitsRequest {
        domain: by_uuid(&args.dom),
        scope: scope.into(),
        limits,
        options: None,
    };
    ctx.tuning().set_memory_limits(request).await?;
    Ok(())
}

pub(crate) async fn get_numa_parameters(
    ctx: &Ctx,
    args: DomainGetNumaParameters,
    flags: Flags,
) -> Reply<DomainGetNumaParametersRet> {
    let room = args::room(args.nparams, DOMAIN_NUMA_PARAMETERS_MAX)?;
    let scope = info::one_state(ctx, &args.dom, flags.checked()?).await?;
    let told = ctx.tuning().get_numa_placement(asked(&args.dom, scope)).await?;
    let [mode, nodeset] = NUMA;
    let params = vec![
        // The service counts from 1.
        mode.with(told.mode.map_or(0, |mode| mode - 1)),
        nodeset.with(told.nodeset.unwrap_or_default().as_str()),
    ];
    let (params, nparams) = args::fitting(params, room);
    Ok(DomainGetNumaParametersRet {
        params: params.into(),
        nparams,
    })
}

pub(crate) async fn set_numa_parameters(ctx: &Ctx, args: DomainSetNumaParameters, flags: Flags) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let flags = flags.checked()?;
    args::params(&args.params, &NUMA)?;
    let mode = match VIR_DOMAIN_NUMA_MODE.find(&args.params) {
        Some(TypedValue::Int(mode)) => Some(numa_mode(*mode)?.into()),
        _ => None,
    };
    let placement = Some(NumaPlacement {
        mode,
        nodeset: string(&args.params, VIR_DOMAIN_NUMA_NODESET),
    });
    let scope = args::scope(flags);
    let request = SetNumaPlacementRequest {
        domain: by_uuid(&args.dom),
        scope: scope.into(),
        placement,
        options: None,
    };
    ctx.tuning().set_numa_placement(request).await?;
    Ok(())
}

/// The service's word for libvirt's number.
fn numa_mode(number: i32) -> Result<Mode, WireError> {
    let mode = number.checked_add(1).filter(|mode| *mode > 0).map(Mode::try_from);
    let unknown = || args::invalid(&format!("unsupported numatune mode: '{number}'"));
    mode.and_then(Result::ok).ok_or_else(unknown)
}

pub(crate) async fn get_blkio_parameters(
    ctx: &Ctx,
    args: DomainGetBlkioParameters,
    flags: Flags,
) -> Reply<DomainGetBlkioParametersRet> {
    let room = args::room(args.nparams, DOMAIN_BLKIO_PARAMETERS_MAX)?;
    let scope = one_scope(flags)?;
    if room == 0 {
        // How many there are does not depend on the guest's state.
        info::basic(ctx, &args.dom).await?;
        return Ok(DomainGetBlkioParametersRet {
            params: Vec::new().into(),
            nparams: i32::try_from(BLKIO.len()).unwrap_or(i32::MAX),
        });
    }
    let told = ctx.tuning().get_block_limits(asked(&args.dom, scope)).await?;
    let [weight, of_devices @ ..] = BLKIO;
    let mut params = vec![weight.with(told.weight.unwrap_or(0))];
    for (index, param) in of_devices.iter().enumerate() {
        let values = told
            .devices
            .iter()
            .filter_map(|device| Some((device, value(device, index).filter(|value| *value != 0)?)));
        let texts: Vec<String> = values
            .map(|(device, value)| format!("{},{value}", device.path))
            .collect();
        params.push(param.with(texts.join(",").as_str()));
    }
    let (params, nparams) = args::fitting(params, room);
    Ok(DomainGetBlkioParametersRet {
        params: params.into(),
        nparams,
    })
}

/// A device's value, by the parameter's place after the weight.
fn value(device: &Device, index: usize) -> Option<u64> {
    match index {
        0 => device.weight.map(u64::from),
        1 => device.read_iops.map(u64::from),
        2 => device.write_iops.map(u64::from),
        3 => device.read_bytes,
        _ => device.write_bytes,
    }
}

pub(crate) async fn set_blkio_parameters(
    ctx: &Ctx,
    args: DomainSetBlkioParameters,
    flags: Flags,
) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let flags = flags.checked()?;
    args::params(&args.params, &BLKIO)?;
    let [weight, of_devices @ ..] = BLKIO;
    let weight = match weight.find(&args.params) {
        Some(TypedValue::Uint(weight)) => Some(*weight),
        _ => None,
    };
    let mut devices = Vec::new();
    for (index, param) in of_devices.iter().enumerate() {
        if let Some(text) = string(&args.params, *param) {
            put_values(&mut devices, param.field, index, &text)?;
        }
    }
    let limits = Some(BlockLimits { weight, devices });
    let scope = args::scope(flags);
    let request = SetBlockLimitsRequest {
        domain: by_uuid(&args.dom),
        scope: scope.into(),
        limits,
        options: None,
    };
    ctx.tuning().set_block_limits(request).await?;
    Ok(())
}

/// Reads `PATH,VALUE,PATH,VALUE...` into the devices.
fn put_values(devices: &mut Vec<Device>, field: &str, index: usize, text: &str) -> Result<(), WireError> {
    let wrong = |detail: String| WireError::new(ErrorCode::INVALID_ARG, ErrorDomain::DOMAIN, &detail);
    let words: Vec<&str> = text.split(',').collect();
    if !words.len().is_multiple_of(2) {
        return Err(wrong(format!("unable to parse blkio device '{field}' '{text}'")));
    }
    for pair in words.chunks_exact(2) {
        let (path, word) = (pair[0], pair[1]);
        let invalid = || {
            wrong(format!(
                "invalid value '{word}' for parameter '{field}' of device '{path}'"
            ))
        };
        let number: u64 = word.parse().map_err(|_| invalid())?;
        let place = devices
            .iter()
            .position(|device| device.path == path)
            .unwrap_or_else(|| {
                devices.push(Device {
                    path: path.to_owned(),
                    ..Device::default()
                });
                devices.len() - 1
            });
        let device = &mut devices[place];
        let small = || u32::try_from(number).map_err(|_| invalid());
        match index {
            0 => device.weight = Some(small()?),
            1 => device.read_iops = Some(small()?),
            2 => device.write_iops = Some(small()?),
            3 => device.read_bytes = Some(number),
            _ => device.write_bytes = Some(number),
        }
    }
    Ok(())
}

pub(crate) async fn get_cpu_stats(
    ctx: &Ctx,
    args: DomainGetCpuStats,
    flags: Flags,
) -> Reply<DomainGetCpuStatsRet> {
    let room = args::room(args.nparams.cast_signed(), DOMAIN_GET_CPU_STATS_MAX)?;
    if args.ncpus > CPUS_MAX {
        return Err(internal("ncpus too large").into());
    }
    flags.checked()?;
    // How many CPUs there are, and how many parameters of each, is asked without any being told.
    let by_cpu = args.start_cpu >= 0 && args.ncpus > 0 && room > 0;
    let request = GetCpuUsageRequest {
        domain: by_uuid(&args.dom),
        by_cpu,
    };
    let told = ctx.tuning().get_cpu_usage(request).await?;
    if args.start_cpu < 0 {
        let (params, nparams) = fitting(total(&told), room);
        return Ok(DomainGetCpuStatsRet {
            params: params.into(),
            nparams,
        });
    }
    of_cpus(&told, &args, room).map_err(Into::into)
}

fn total(told: &CpuUsage) -> Vec<TypedParam> {
    vec![
        VIR_DOMAIN_CPU_STATS_CPUTIME.with(nanoseconds(told.total.as_ref())),
        VIR_DOMAIN_CPU_STATS_USERTIME.with(nanoseconds(told.user.as_ref())),
        VIR_DOMAIN_CPU_STATS_SYSTEMTIME.with(nanoseconds(told.system.as_ref())),
    ]
}

/// As many as fit, and how many those are; how many there are to who has room for none.
fn fitting(mut params: Vec<TypedParam>, room: usize) -> (Vec<TypedParam>, i32) {
    let all = params.len();
    params.truncate(room);
    let count = if room == 0 { all } else { params.len() };
    (params, i32::try_from(count).unwrap_or(i32::MAX))
}

fn of_cpus(
    told: &CpuUsage,
    args: &DomainGetCpuStats,
    room: usize,
) -> Result<DomainGetCpuStatsRet, WireError> {
    let count = |nparams: u32| DomainGetCpuStatsRet {
        params: Vec::new().into(),
        nparams: nparams.cast_signed(),
    };
    if args.ncpus == 0 {
        return Ok(count(told.host_cpus));
    }
    if room == 0 {
        return Ok(count(2));
    }
    let start = args.start_cpu.cast_unsigned();
    if start >= told.host_cpus {
        let detail = format!(
            "start_cpu {start} larger than maximum of {}",
            told.host_cpus.saturating_sub(1)
        );
        return Err(WireError::new(ErrorCode::INVALID_ARG, ErrorDomain::NONE, &detail));
    }
    let cpus = told.cpus.iter().skip(start as usize).take(args.ncpus as usize);
    let params = cpus.flat_map(|cpu| {
        let both = [
            VIR_DOMAIN_CPU_STATS_CPUTIME.with(nanoseconds(cpu.total.as_ref())),
            VIR_DOMAIN_CPU_STATS_VCPUTIME.with(nanoseconds(cpu.vcpus.as_ref())),
        ];
        both.into_iter().take(room)
    });
    Ok(DomainGetCpuStatsRet {
        params: params.collect(),
        nparams: i32::try_from(room.min(2)).unwrap_or(2),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_devices_are_read_in_pairs() {
        let read = |text: &str| {
            let mut devices = vec![Device {
                path: "/dev/a".to_owned(),
                weight: Some(5),
                ..Device::default()
            }];
            put_values(&mut devices, "device_read_iops_sec", 1, text)
                .map(|()| devices)
                .map_err(|error| error.to_string())
        };
        let devices = read("/dev/a,30,/dev/b,20").unwrap();
        assert_eq!(
            devices
                .iter()
                .map(|d| (d.weight, d.read_iops))
                .collect::<Vec<_>>(),
            [(Some(5), Some(30)), (None, Some(20))]
        );
        assert_eq!(
            read("foo"),
            Err("invalid argument: unable to parse blkio device 'device_read_iops_sec' 'foo'".into())
        );
        let invalid =
            "invalid argument: invalid value 'x' for parameter 'device_read_iops_sec' of device '/dev/a'";
        assert_eq!(read("/dev/a,x"), Err(invalid.into()));
    }
}
