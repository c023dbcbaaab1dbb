//! What the guest's agent is asked by libvirt's own calls.

use wire::remote::*;

use super::flags::Flags;
use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::{
    FreezeGuestFilesystemsRequest, GetGuestTimeRequest, ThawGuestFilesystemsRequest,
    TrimGuestFilesystemsRequest,
};

pub(crate) async fn get_time(ctx: &Ctx, args: DomainGetTime, flags: Flags) -> Reply<DomainGetTimeRet> {
    flags.checked()?;
    let domain = by_uuid(&args.dom);
    let request = GetGuestTimeRequest { domain };
    let answer = ctx.guest_agent().get_time(request).await?;
    let time = answer.into_inner().time.unwrap_or_default();
    Ok(DomainGetTimeRet {
        seconds: time.seconds,
        nseconds: u32::try_from(time.nanos).unwrap_or(0),
    })
}

pub(crate) async fn freeze(ctx: &Ctx, args: DomainFsfreeze, flags: Flags) -> Reply<DomainFsfreezeRet> {
    flags.checked()?;
    let mount_points = args.mountpoints.into_iter().map(|m| m.into_string());
    let request = FreezeGuestFilesystemsRequest {
        domain: by_uuid(&args.dom),
        mount_points: mount_points.collect(),
        options: None,
    };
    let count = ctx.guest_agent().freeze_filesystems(request).await?;
    Ok(DomainFsfreezeRet {
        filesystems: number(count.into_inner().count),
    })
}

pub(crate) async fn thaw(ctx: &Ctx, args: DomainFsthaw, flags: Flags) -> Reply<DomainFsthawRet> {
    flags.checked()?;
    let request = ThawGuestFilesystemsRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    let count = ctx.guest_agent().thaw_filesystems(request).await?;
    Ok(DomainFsthawRet {
        filesystems: number(count.into_inner().count),
    })
}

pub(crate) async fn trim(ctx: &Ctx, args: DomainFstrim, flags: Flags) -> Reply<()> {
    flags.checked()?;
    if args.mount_point.is_some() {
        return Err(args::unsupported("Specifying mount point is not supported for now").into());
    }
    let request = TrimGuestFilesystemsRequest {
        domain: by_uuid(&args.dom),
        minimum: args.minimum,
        options: None,
    };
    ctx.guest_agent().trim_filesystems(request).await?;
    Ok(())
}

fn number(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
