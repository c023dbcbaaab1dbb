//! Where a guest's threads run, and how much of the host's CPUs, memory and disks they get.

use wire::WireError;
use wire::remote::*;
use wire::xdr::Opaque;

use super::args::{self, Must};
use super::flags::{Flags, LIVE_OR_CONFIG};
use super::{Reply, by_uuid};
use crate::ctx::{Ctx, internal};
use crate::proto::set_pinning_request::{Emulator, Thread};
use crate::proto::{GetTuningRequest, Pinning, Scope, SetPinningRequest};

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
    Ok(ctx.tuning().get_pinning(request).await?.into_inner())
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
    let threads = ctx
        .tuning()
        .list_io_threads(request)
        .await?
        .into_inner()
        .iothreads;
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
