//! What can be seen of a guest: its screens, its memory, its disks.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use futures_util::StreamExt;
use unixfd::Fds;
use wire::consts::*;
use wire::remote::*;
use wire::{ErrorDomain, WireError};

use super::args::{self, Must};
use super::domain::attach;
use super::flags::{self, Flags, Named, named};
use super::info::basic;
use super::{Reply, by_uuid};
use crate::backend::Calls;
use crate::ctx::{Ctx, Effect, internal};
use crate::proto::consoles_client::ConsolesClient;
use crate::proto::list_disk_errors_response::{DiskError, Kind};
use crate::proto::open_display_request::{Message, Open};
use crate::proto::{
    GetGuestHostnameRequest, ListDiskErrorsRequest, OpenDisplayRequest, PeekDiskRequest, PeekMemoryRequest,
    ScreenshotRequest, attach_request,
};
use crate::stream::Ends;

/// Ways to learn a name that exclude each other.
const WITNESSES: [Named; 2] = named!(VIR_DOMAIN_GET_HOSTNAME_LEASE, VIR_DOMAIN_GET_HOSTNAME_AGENT);

pub(crate) async fn open_channel(ctx: &Ctx, args: DomainOpenChannel, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let open = attach_request::Open {
        domain: by_uuid(&args.dom),
        device: args.name.map(wire::xdr::Str::into_string).unwrap_or_default(),
        force: flags & VIR_DOMAIN_CHANNEL_FORCE != 0,
        channel: true,
    };
    attach(ctx, open).await
}

pub(crate) async fn screenshot(
    ctx: &Ctx,
    args: DomainScreenshot,
    flags: Flags,
) -> Reply<DomainScreenshotRet> {
    flags.checked()?;
    let request = ScreenshotRequest {
        domain: by_uuid(&args.dom),
        screen: args.screen,
    };
    let mut answers = ctx.streams().consoles().screenshot(request).await?.into_inner();
    let first = answers.message().await?.unwrap_or_default();
    let to_client = answers
        .map(|answer| answer.map(|answer| Bytes::from(answer.data)))
        .boxed();
    ctx.then(Effect::Stream(Ends {
        to_client,
        from_client: None,
    }));
    Ok(DomainScreenshotRet {
        mime: Some(first.mime_type.into()),
    })
}

pub(crate) async fn open_graphics(ctx: &Ctx, args: DomainOpenGraphics, flags: Flags) -> Reply<()> {
    if ctx.fds.is_empty() {
        return Err(internal("No FD available at slot 0").into());
    }
    let flags = flags.checked()?;
    open_display(
        ctx.calls(),
        Open {
            domain: by_uuid(&args.dom),
            ..of(args.idx, flags)
        },
    )
    .await
}

pub(crate) async fn open_graphics_fd(ctx: &Ctx, args: DomainOpenGraphicsFd, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let failed = |error: std::io::Error| internal(&format!("unable to create socket pair: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut calls = ctx.calls();
    calls.asked.fds = Fds::new(vec![OwnedFd::from(theirs)]);
    open_display(
        calls,
        Open {
            domain: by_uuid(&args.dom),
            ..of(args.idx, flags)
        },
    )
    .await?;
    ctx.then(Effect::Reply(Fds::new(vec![OwnedFd::from(ours)])));
    Ok(())
}

fn of(index: u32, flags: u32) -> Open {
    Open {
        domain: None,
        index,
        skip_authentication: flags & VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH != 0,
    }
}

/// Has the socket that `calls` takes along joined to a display.
async fn open_display(calls: Calls, open: Open) -> Reply<()> {
    let first = OpenDisplayRequest {
        message: Some(Message::Open(open)),
    };
    let requests = futures_util::stream::once(std::future::ready(first));
    let mut answers = ConsolesClient::new(calls)
        .open_display(requests)
        .await?
        .into_inner();
    answers.message().await?;
    Ok(())
}

pub(crate) async fn block_peek(ctx: &Ctx, args: DomainBlockPeek, flags: Flags) -> Reply<DomainBlockPeekRet> {
    bounded(args.size, DOMAIN_BLOCK_PEEK_BUFFER_MAX)?;
    let disk = args.path.into_string();
    args::check(ctx, "disk", Must::NotBeEmpty, !disk.is_empty())?;
    flags.checked()?;
    let request = PeekDiskRequest {
        domain: by_uuid(&args.dom),
        disk,
        offset: args.offset,
        size: args.size,
    };
    let data = ctx.devices().peek_disk(request).await?.data;
    Ok(DomainBlockPeekRet { buffer: data.into() })
}

pub(crate) async fn memory_peek(
    ctx: &Ctx,
    args: DomainMemoryPeek,
    flags: Flags,
) -> Reply<DomainMemoryPeekRet> {
    bounded(args.size, DOMAIN_MEMORY_PEEK_BUFFER_MAX)?;
    let either = named!(VIR_MEMORY_VIRTUAL, VIR_MEMORY_PHYSICAL);
    let flags = flags.exclusive(either)?.checked()?;
    basic(ctx, &args.dom).await?;
    if flags != VIR_MEMORY_VIRTUAL && flags != VIR_MEMORY_PHYSICAL {
        let detail = "flags parameter must be VIR_MEMORY_VIRTUAL or VIR_MEMORY_PHYSICAL";
        return Err(args::invalid(detail).into());
    }
    let physical = flags == VIR_MEMORY_PHYSICAL;
    let request = PeekMemoryRequest {
        domain: by_uuid(&args.dom),
        address: args.offset,
        size: args.size,
        physical,
    };
    let data = ctx.devices().peek_memory(request).await?.data;
    Ok(DomainMemoryPeekRet { buffer: data.into() })
}

fn bounded(size: u32, most: usize) -> Result<(), WireError> {
    if size as usize > most {
        Err(internal("size > maximum buffer size"))
    } else {
        Ok(())
    }
}

pub(crate) async fn disk_errors(
    ctx: &Ctx,
    args: DomainGetDiskErrors,
    flags: Flags,
) -> Reply<DomainGetDiskErrorsRet> {
    flags.checked()?;
    let most = args.maxerrors as usize;
    if most > DOMAIN_DISK_ERRORS_MAX {
        return Err(internal("maxerrors too large").into());
    }
    let answer = ctx
        .devices()
        .list_disk_errors(ListDiskErrorsRequest {
            domain: by_uuid(&args.dom),
        })
        .await?;
    if most == 0 {
        // Asks how many there may be.
        return Ok(DomainGetDiskErrorsRet {
            nerrors: answer.disks.cast_signed(),
            ..DomainGetDiskErrorsRet::default()
        });
    }
    let errors: Vec<_> = answer.errors.into_iter().take(most).map(disk_error).collect();
    let nerrors = i32::try_from(errors.len()).unwrap_or(i32::MAX);
    Ok(DomainGetDiskErrorsRet {
        errors: errors.into(),
        nerrors,
    })
}

fn disk_error(error: DiskError) -> DomainDiskError {
    let number = match error.kind() {
        Kind::Unspecified | Kind::Other => 1,
        Kind::NoSpace => 2,
    };
    DomainDiskError {
        disk: error.disk.into(),
        error: number,
    }
}

pub(crate) async fn get_hostname(
    ctx: &Ctx,
    args: DomainGetHostname,
    flags: Flags,
) -> Reply<DomainGetHostnameRet> {
    let flags = flags.checked()?;
    flags::exclusive(ErrorDomain::QEMU, ctx.info, flags, WITNESSES)?;
    let request = GetGuestHostnameRequest {
        domain: by_uuid(&args.dom),
        from_leases: flags & VIR_DOMAIN_GET_HOSTNAME_LEASE != 0,
    };
    let hostname = ctx.guest_agent().get_hostname(request).await?.hostname;
    Ok(DomainGetHostnameRet {
        hostname: hostname.into(),
    })
}
