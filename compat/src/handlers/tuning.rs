//! Where a guest's threads run, and how much of the host's CPUs, memory and disks they get.

use virtqemud_client::time;
use wire::WireError;
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedValue};
use wire::xdr::Opaque;

use super::args::{self, Must};
use super::flags::{Flags, LIVE_OR_CONFIG};
use super::{Reply, by_uuid};
use crate::ctx::{Ctx, internal};
use crate::proto::set_pinning_request::{Emulator, Thread};
use crate::proto::{
    AddIoThreadRequest, GetTuningRequest, Pinning, RemoveIoThreadRequest, Scope, SetIoThreadRequest,
    SetPinningRequest,
};

struct Pin<'a> {
    dom: &'a NonnullDomain,
    scope: Scope,
    thread: Thread,
    cpus: &'a [u8],
}

async fn pin(ctx: &Ctx, pin: Pin<'_>) -> Reply<()> {
    let request = SetPinningRequest {
        domain: by_uuid(pin.dom),
        scope: pin.scope.into(),
        thread: Some(pin.thread),
        cpus: pin.cpus.to_vec(),
        options: None,
    };
    ctx.tuning().set_pinning(request).await?;
    Ok(())
}

/// The map of CPUs, which has to be given.
fn named_cpus<'a>(ctx: &Ctx, map: &'a [u8]) -> Result<&'a [u8], WireError> {
    args::check(ctx, "cpumap", Must::NotBeNull, !map.is_empty())?;
    Ok(map)
}

pub(crate) async fn pin_vcpu(ctx: &Ctx, args: DomainPinVcpu) -> Reply<()> {
    let cpus = named_cpus(ctx, &args.cpumap)?;
    pin(
        ctx,
        Pin {
            dom: &args.dom,
            scope: Scope::Live,
            thread: Thread::Vcpu(args.vcpu),
            cpus,
        },
    )
    .await
}

pub(crate) async fn pin_vcpu_flags(ctx: &Ctx, args: DomainPinVcpuFlags, flags: Flags) -> Reply<()> {
    let cpus = named_cpus(ctx, &args.cpumap)?;
    let scope = args::scope(flags.checked()?);
    pin(
        ctx,
        Pin {
            dom: &args.dom,
            scope,
            thread: Thread::Vcpu(args.vcpu),
            cpus,
        },
    )
    .await
}

pub(crate) async fn pin_emulator(ctx: &Ctx, args: DomainPinEmulator, flags: Flags) -> Reply<()> {
    let cpus = named_cpus(ctx, &args.cpumap)?;
    let scope = args::scope(flags.checked()?);
    pin(
        ctx,
        Pin {
            dom: &args.dom,
            scope,
            thread: Thread::Emulator(Emulator {}),
            cpus,
        },
    )
    .await
}

pub(crate) async fn pin_iothread(ctx: &Ctx, args: DomainPinIothread, flags: Flags) -> Reply<()> {
    let cpus = named_cpus(ctx, &args.cpumap)?;
    let scope = args::scope(flags.checked()?);
    pin(
        ctx,
        Pin {
            dom: &args.dom,
            scope,
            thread: Thread::Iothread(args.iothreads_id),
            cpus,
        },
    )
    .await
}

async fn pinning(ctx: &Ctx, dom: &NonnullDomain, flags: Flags) -> Reply<Pinning> {
    let flags = flags.exclusive(LIVE_OR_CONFIG)?.checked()?;
    let request = GetTuningRequest {
        domain: by_uuid(dom),
        scope: args::scope(flags).into(),
    };
    Ok(ctx.tuning().get_pinning(request).await?)
}

pub(crate) async fn get_vcpu_pin_info(
    ctx: &Ctx,
    args: DomainGetVcpuPinInfo,
    flags: Flags,
) -> Reply<DomainGetVcpuPinInfoRet> {
    let (maps, map_len) = maps(args.ncpumaps, args.maplen)?;
    args::check(ctx, "ncpumaps", Must::BePositive, maps > 0)?;
    args::check(ctx, "maplen", Must::BePositive, map_len > 0)?;
    let vcpus = pinning(ctx, &args.dom, flags).await?.vcpus;
    let shown = &vcpus[..maps.min(vcpus.len())];
    let cpumaps: Vec<u8> = shown.iter().flat_map(|map| sized(map, map_len)).collect();
    Ok(DomainGetVcpuPinInfoRet {
        cpumaps: Opaque::from(cpumaps),
        num: i32::try_from(shown.len()).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn get_emulator_pin_info(
    ctx: &Ctx,
    args: DomainGetEmulatorPinInfo,
    flags: Flags,
) -> Reply<DomainGetEmulatorPinInfoRet> {
    let (_, map_len) = maps(1, args.maplen)?;
    args::check(ctx, "cpumap", Must::NotBeNull, map_len > 0)?;
    let map = pinning(ctx, &args.dom, flags).await?.emulator;
    Ok(DomainGetEmulatorPinInfoRet {
        cpumaps: Opaque::from(sized(&map, map_len)),
        ret: 1,
    })
}

/// How many maps the caller has room for, and bytes of each.
fn maps(count: i32, len: i32) -> Result<(usize, usize), WireError> {
    let (Ok(maps), Ok(map_len)) = (usize::try_from(count), usize::try_from(len)) else {
        return Err(internal("ncpumaps must be non-negative"));
    };
    if maps > VCPUINFO_MAX {
        return Err(internal("ncpumaps > REMOTE_VCPUINFO_MAX"));
    }
    if maps.saturating_mul(map_len) > CPUMAPS_MAX {
        return Err(internal("ncpumaps * maplen > REMOTE_CPUMAPS_MAX"));
    }
    Ok((maps, map_len))
}

fn sized(map: &[u8], len: usize) -> Vec<u8> {
    let mut map = map.to_vec();
    map.resize(len, 0);
    map
}

pub(crate) async fn get_iothread_info(
    ctx: &Ctx,
    args: DomainGetIothreadInfo,
    flags: Flags,
) -> Reply<DomainGetIothreadInfoRet> {
    let flags = flags.exclusive(LIVE_OR_CONFIG)?.checked()?;
    let request = GetTuningRequest {
        domain: by_uuid(&args.dom),
        scope: args::scope(flags).into(),
    };
    let threads = ctx.tuning().list_io_threads(request).await?.iothreads;
    let ret = u32::try_from(threads.len()).unwrap_or(u32::MAX);
    let info = threads.into_iter().map(|thread| DomainIothreadInfo {
        iothread_id: thread.id,
        cpumap: Opaque::from(thread.cpus),
    });
    Ok(DomainGetIothreadInfoRet {
        info: info.collect(),
        ret,
    })
}

pub(crate) async fn add_iothread(ctx: &Ctx, args: DomainAddIothread, flags: Flags) -> Reply<()> {
    let request = AddIoThreadRequest {
        domain: by_uuid(&args.dom),
        scope: args::scope(flags.checked()?).into(),
        id: args.iothread_id,
        options: None,
    };
    ctx.tuning().add_io_thread(request).await?;
    Ok(())
}

pub(crate) async fn del_iothread(ctx: &Ctx, args: DomainDelIothread, flags: Flags) -> Reply<()> {
    let request = RemoveIoThreadRequest {
        domain: by_uuid(&args.dom),
        scope: args::scope(flags.checked()?).into(),
        id: args.iothread_id,
        options: None,
    };
    ctx.tuning().remove_io_thread(request).await?;
    Ok(())
}

/// What can be said of an I/O thread.
const IOTHREAD: [Param; 5] = [
    VIR_DOMAIN_IOTHREAD_POLL_MAX_NS,
    VIR_DOMAIN_IOTHREAD_POLL_GROW,
    VIR_DOMAIN_IOTHREAD_POLL_SHRINK,
    VIR_DOMAIN_IOTHREAD_THREAD_POOL_MIN,
    VIR_DOMAIN_IOTHREAD_THREAD_POOL_MAX,
];

pub(crate) async fn set_iothread(ctx: &Ctx, args: DomainSetIothreadParams, flags: Flags) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let scope = args::scope(flags.checked()?);
    if args.iothread_id == 0 {
        return Err(args::invalid("invalid value of 0 for iothread_id").into());
    }
    args::params(&args.params, &IOTHREAD)?;
    let [poll_max, poll_grow, poll_shrink, pool_min, pool_max] = IOTHREAD;
    let large = |param: Param| match param.find(&args.params) {
        Some(TypedValue::Ullong(value)) => Some(*value),
        Some(TypedValue::Uint(value)) => Some(u64::from(*value)),
        _ => None,
    };
    let count = |param: Param| match param.find(&args.params) {
        Some(TypedValue::Int(value)) => Some(*value),
        _ => None,
    };
    let request = SetIoThreadRequest {
        domain: by_uuid(&args.dom),
        scope: scope.into(),
        id: args.iothread_id,
        poll_max: large(poll_max).map(time::of_nanoseconds),
        poll_grow: large(poll_grow),
        poll_shrink: large(poll_shrink),
        thread_pool_min: count(pool_min),
        thread_pool_max: count(pool_max),
        options: None,
    };
    ctx.tuning().set_io_thread(request).await?;
    Ok(())
}
