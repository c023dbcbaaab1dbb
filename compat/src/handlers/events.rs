//! Registering for events, in every style that clients know.

use wire::consts::{
    VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_NOCASE,
    VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX,
};
use wire::qemu::{
    ConnectDomainMonitorEventDeregister, ConnectDomainMonitorEventRegister,
    ConnectDomainMonitorEventRegisterRet,
};
use wire::remote::*;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::flags::Flags;
use super::{Reply, by_uuid};
use crate::ctx::{Ctx, Effect, internal};
use crate::events::{Added, ID_MAX, LEGACY_ID_MAX, MonitorFilter, Registration, Style, guests, monitor};
use crate::proto::WatchRequest;

/// libvirt's id of the only event that the oldest call is for.
const LIFECYCLE: i32 = 0;

pub(crate) async fn register(
    ctx: &Ctx,
    _: ConnectDomainEventRegister,
) -> Reply<ConnectDomainEventRegisterRet> {
    add(
        ctx,
        Registration {
            style: Style::Legacy,
            event: LIFECYCLE,
            domain: None,
        },
    )
    .await?;
    Ok(ConnectDomainEventRegisterRet { cb_registered: 0 })
}

pub(crate) async fn deregister(
    ctx: &Ctx,
    _: ConnectDomainEventDeregister,
) -> Reply<ConnectDomainEventDeregisterRet> {
    remove(ctx, Style::Legacy, Some(LIFECYCLE))?;
    Ok(ConnectDomainEventDeregisterRet { cb_registered: 0 })
}

pub(crate) async fn register_any(ctx: &Ctx, args: ConnectDomainEventRegisterAny) -> Reply<()> {
    known(args.event_id, LEGACY_ID_MAX)?;
    add(
        ctx,
        Registration {
            style: Style::Legacy,
            event: args.event_id,
            domain: None,
        },
    )
    .await
}

pub(crate) async fn deregister_any(ctx: &Ctx, args: ConnectDomainEventDeregisterAny) -> Reply<()> {
    known(args.event_id, LEGACY_ID_MAX)?;
    remove(ctx, Style::Legacy, Some(args.event_id))
}

pub(crate) async fn callback_register_any(
    ctx: &Ctx,
    args: ConnectDomainEventCallbackRegisterAny,
) -> Reply<ConnectDomainEventCallbackRegisterAnyRet> {
    known(args.event_id, ID_MAX)?;
    let callback_id = ctx.conn.options.next_callback();
    let domain = args.dom.map(|dom| dom.uuid);
    add(
        ctx,
        Registration {
            style: Style::Callback(callback_id),
            event: args.event_id,
            domain,
        },
    )
    .await?;
    Ok(ConnectDomainEventCallbackRegisterAnyRet { callback_id })
}

pub(crate) async fn callback_deregister_any(
    ctx: &Ctx,
    args: ConnectDomainEventCallbackDeregisterAny,
) -> Reply<()> {
    remove(ctx, Style::Callback(args.callback_id), None)
}

pub(crate) async fn monitor_register(
    ctx: &Ctx,
    args: ConnectDomainMonitorEventRegister,
    flags: Flags,
) -> Reply<ConnectDomainMonitorEventRegisterRet> {
    let flags = flags.checked()?;
    let no_case = flags & VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_NOCASE != 0;
    if flags & VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX != 0 {
        let detail = "regular expressions for names of monitor events";
        return Err(WireError::new(ErrorCode::ARGUMENT_UNSUPPORTED, ErrorDomain::QEMU, detail).into());
    }
    let name = args.event.map(wire::xdr::Str::into_string);
    let callback_id = ctx.conn.options.next_callback();
    let key = (args.dom.as_ref().map(|dom| dom.uuid), name.clone(), flags);
    ctx.conn.events.add_monitor(callback_id, key)?;
    let (exact, ignoring_case) = if no_case { (None, name) } else { (name, None) };
    let request = WatchRequest {
        domains: args.dom.as_ref().and_then(by_uuid).into_iter().collect(),
        monitor_event: exact.unwrap_or_default(),
        ..WatchRequest::default()
    };
    match monitor(
        &ctx.streams(),
        callback_id,
        MonitorFilter {
            request,
            ignoring_case,
        },
    )
    .await
    {
        Ok(feed) => ctx.then(Effect::Watch(feed)),
        Err(status) => {
            ctx.conn.events.remove_monitor(callback_id)?;
            return Err(status.into());
        }
    }
    Ok(ConnectDomainMonitorEventRegisterRet { callback_id })
}

pub(crate) async fn monitor_deregister(ctx: &Ctx, args: ConnectDomainMonitorEventDeregister) -> Reply<()> {
    ctx.conn.events.remove_monitor(args.callback_id)?;
    ctx.then(Effect::Unwatch(Some(args.callback_id)));
    Ok(())
}

fn known(id: i32, max: i32) -> Result<(), WireError> {
    if (0..=max).contains(&id) {
        Ok(())
    } else {
        Err(internal(&format!("unsupported event ID {id}")))
    }
}

async fn add(ctx: &Ctx, new: Registration) -> Reply<()> {
    if ctx.conn.events.add(new).await? == Added::Watched {
        return Ok(());
    }
    let feed = guests(&ctx.streams()).await;
    ctx.conn.events.started(&new, feed.is_ok());
    ctx.then(Effect::Watch(feed?));
    Ok(())
}

fn remove(ctx: &Ctx, style: Style, event: Option<i32>) -> Reply<()> {
    if ctx.conn.events.remove(style, event)? {
        ctx.then(Effect::Unwatch(None));
    }
    Ok(())
}
