//! Guests: finding them, and their consoles.

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wire::consts::VIR_DOMAIN_CONSOLE_FORCE;
use wire::remote::*;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::flags::Flags;
use super::{Basic, Reply, args, by_uuid};
use crate::ctx::{Ctx, Effect};
use crate::proto::{AttachRequest, DomainRef, attach_request, domain_ref};
use crate::stream::Ends;

/// Messages to a console that wait for the service.
const TO_CONSOLE: usize = 4;

pub(crate) async fn lookup_by_name(ctx: &Ctx, args: DomainLookupByName) -> Reply<DomainLookupByNameRet> {
    let dom = find(ctx, domain_ref::Ref::Name(args.name.into_string())).await?;
    Ok(DomainLookupByNameRet { dom })
}

pub(crate) async fn lookup_by_uuid(ctx: &Ctx, args: DomainLookupByUuid) -> Reply<DomainLookupByUuidRet> {
    let dom = find(ctx, domain_ref::Ref::Uuid(args.uuid.to_string())).await?;
    Ok(DomainLookupByUuidRet { dom })
}

pub(crate) async fn lookup_by_id(ctx: &Ctx, args: DomainLookupById) -> Reply<DomainLookupByIdRet> {
    args::check(ctx, "id", args::Must::BeNonNegative, args.id >= 0)?;
    if args.id == 0 {
        // Runs are counted from 1: the service takes it for a mistake.
        let detail = "no domain with matching id 0";
        return Err(WireError::new(ErrorCode::NO_DOMAIN, ErrorDomain::QEMU, detail).into());
    }
    let dom = find(ctx, domain_ref::Ref::Id(args.id)).await?;
    Ok(DomainLookupByIdRet { dom })
}

async fn find(ctx: &Ctx, which: domain_ref::Ref) -> Reply<NonnullDomain> {
    let domain = Some(DomainRef { r#ref: Some(which) });
    Ok((&Basic::of(ctx, domain).await?).into())
}

pub(crate) async fn open_console(ctx: &Ctx, args: DomainOpenConsole, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let open = attach_request::Open {
        domain: by_uuid(&args.dom),
        device: args.dev_name.map(wire::xdr::Str::into_string).unwrap_or_default(),
        force: flags & VIR_DOMAIN_CONSOLE_FORCE != 0,
        channel: false,
    };
    attach(ctx, open).await
}

/// Connects the call's stream to a character device.
pub(crate) async fn attach(ctx: &Ctx, open: attach_request::Open) -> Reply<()> {
    use attach_request::Message;
    let (from_client, bytes) = mpsc::channel::<Bytes>(TO_CONSOLE);
    let first = AttachRequest {
        message: Some(Message::Open(open)),
    };
    let rest = ReceiverStream::new(bytes).map(|data| AttachRequest {
        message: Some(Message::Data(data.into())),
    });
    let requests = futures_util::stream::once(std::future::ready(first)).chain(rest);
    let mut answers = ctx.streams().consoles().attach(requests).await?.into_inner();
    // The first answer says that the device is connected.
    answers.message().await?;
    let to_client = answers.filter_map(|answer| {
        let data = answer.map(|answer| Bytes::from(answer.data));
        std::future::ready(Some(data).filter(|data| !matches!(data, Ok(data) if data.is_empty())))
    });
    ctx.then(Effect::Stream(Ends {
        to_client: to_client.boxed(),
        from_client: Some(from_client),
    }));
    Ok(())
}
