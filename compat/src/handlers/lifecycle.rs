//! Guests come, go, start and stop.

use virtqemud_client::time;
use wire::consts::*;
use wire::remote::*;

use super::args::Must;
use super::flags::Flags;
use super::{Reply, args, by_uuid, nonnull};
use crate::ctx::{Ctx, internal};
use crate::proto::send_keys_request::CodeSet;
use crate::proto::{
    CreateRequest, DefineRequest, Domain, InjectNmiRequest, OpenSessionRequest, PowerMode, PowerOffRequest,
    RebootRequest, RemoveManagedSaveRequest, RenameRequest, ResetRequest, ResumeRequest, SendKeysRequest,
    ShutdownRequest, StartRequest, SuspendRequest, UndefineRequest, WakeRequest,
};

pub(crate) async fn define(ctx: &Ctx, args: DomainDefineXml) -> Reply<DomainDefineXmlRet> {
    let dom = stored(ctx, args.xml.into_string(), false).await?;
    Ok(DomainDefineXmlRet { dom })
}

pub(crate) async fn define_flags(
    ctx: &Ctx,
    args: DomainDefineXmlFlags,
    flags: Flags,
) -> Reply<DomainDefineXmlFlagsRet> {
    let flags = flags.checked()?;
    let validate = flags & VIR_DOMAIN_DEFINE_VALIDATE != 0;
    let dom = stored(ctx, args.xml.into_string(), validate).await?;
    Ok(DomainDefineXmlFlagsRet { dom })
}

async fn stored(ctx: &Ctx, xml: String, validate: bool) -> Reply<NonnullDomain> {
    let request = DefineRequest {
        xml,
        validate,
        options: None,
    };
    Ok(nonnull(&ctx.domains().define(request).await?))
}

pub(crate) async fn undefine(ctx: &Ctx, args: DomainUndefine) -> Reply<()> {
    forget(ctx, &args.dom, 0).await
}

pub(crate) async fn undefine_flags(ctx: &Ctx, args: DomainUndefineFlags, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    forget(ctx, &args.dom, flags).await
}

async fn forget(ctx: &Ctx, dom: &NonnullDomain, flags: u32) -> Reply<()> {
    let has = |flag| flags & flag != 0;
    let request = UndefineRequest {
        domain: by_uuid(dom),
        managed_save: has(VIR_DOMAIN_UNDEFINE_MANAGED_SAVE),
        nvram: has(VIR_DOMAIN_UNDEFINE_NVRAM),
        keep_nvram: has(VIR_DOMAIN_UNDEFINE_KEEP_NVRAM),
        tpm: has(VIR_DOMAIN_UNDEFINE_TPM),
        keep_tpm: has(VIR_DOMAIN_UNDEFINE_KEEP_TPM),
        snapshots: has(VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA),
        checkpoints: has(VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA),
        options: None,
    };
    ctx.domains().undefine(request).await?;
    Ok(())
}

pub(crate) async fn managed_save_remove(ctx: &Ctx, args: DomainManagedSaveRemove, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = RemoveManagedSaveRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    ctx.domains().remove_managed_save(request).await?;
    Ok(())
}

pub(crate) async fn create_xml(ctx: &Ctx, args: DomainCreateXml, flags: Flags) -> Reply<DomainCreateXmlRet> {
    let flags = flags.checked()?;
    let has = |flag| flags & flag != 0;
    let request = CreateRequest {
        xml: args.xml_desc.into_string(),
        validate: has(VIR_DOMAIN_START_VALIDATE),
        paused: has(VIR_DOMAIN_START_PAUSED),
        autodestroy_session: session(ctx, flags).await?,
        reset_nvram: has(VIR_DOMAIN_START_RESET_NVRAM),
        options: None,
    };
    let guest = ctx.domains().create(request).await?;
    Ok(DomainCreateXmlRet { dom: nonnull(&guest) })
}

pub(crate) async fn create(ctx: &Ctx, args: DomainCreate) -> Reply<()> {
    start(ctx, &args.dom, 0).await.map(drop)
}

pub(crate) async fn create_with_flags(
    ctx: &Ctx,
    args: DomainCreateWithFlags,
    flags: Flags,
) -> Reply<DomainCreateWithFlagsRet> {
    let flags = flags.checked()?;
    let dom = nonnull(&start(ctx, &args.dom, flags).await?);
    Ok(DomainCreateWithFlagsRet { dom })
}

async fn start(ctx: &Ctx, dom: &NonnullDomain, flags: u32) -> Reply<Domain> {
    let has = |flag| flags & flag != 0;
    let request = StartRequest {
        domain: by_uuid(dom),
        paused: has(VIR_DOMAIN_START_PAUSED),
        autodestroy_session: session(ctx, flags).await?,
        force_boot: has(VIR_DOMAIN_START_FORCE_BOOT),
        bypass_cache: has(VIR_DOMAIN_START_BYPASS_CACHE),
        reset_nvram: has(VIR_DOMAIN_START_RESET_NVRAM),
        options: None,
    };
    Ok(ctx.domains().start(request).await?)
}

/// The session that guests of this connection are bound to, if flags ask for one.
async fn session(ctx: &Ctx, flags: u32) -> Reply<String> {
    match flags & VIR_DOMAIN_START_AUTODESTROY {
        0 => Ok(String::new()),
        _ => own_session(ctx).await,
    }
}

/// The connection's session: opened at first need, and held until the connection ends.
pub(super) async fn own_session(ctx: &Ctx) -> Reply<String> {
    let mut held = ctx.conn.session.lock().await;
    if let Some((id, _)) = &*held {
        return Ok(id.clone());
    }
    let opened = ctx
        .streams()
        .domains()
        .open_session(OpenSessionRequest {})
        .await?;
    let mut updates = opened.into_inner();
    let first = updates.message().await?;
    let id = first.ok_or_else(|| internal("session ended"))?.session;
    *held = Some((id.clone(), updates));
    Ok(id)
}

pub(crate) async fn destroy(ctx: &Ctx, args: DomainDestroy) -> Reply<()> {
    power_off(ctx, &args.dom, 0).await
}

pub(crate) async fn destroy_flags(ctx: &Ctx, args: DomainDestroyFlags, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    power_off(ctx, &args.dom, flags).await
}

async fn power_off(ctx: &Ctx, dom: &NonnullDomain, flags: u32) -> Reply<()> {
    let request = PowerOffRequest {
        domain: by_uuid(dom),
        graceful: flags & VIR_DOMAIN_DESTROY_GRACEFUL != 0,
        remove_logs: flags & VIR_DOMAIN_DESTROY_REMOVE_LOGS != 0,
        options: None,
    };
    ctx.domains().power_off(request).await?;
    Ok(())
}

pub(crate) async fn shutdown(ctx: &Ctx, args: DomainShutdown) -> Reply<()> {
    ask_to_shut_down(ctx, &args.dom, 0).await
}

pub(crate) async fn shutdown_flags(ctx: &Ctx, args: DomainShutdownFlags, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    ask_to_shut_down(ctx, &args.dom, flags).await
}

async fn ask_to_shut_down(ctx: &Ctx, dom: &NonnullDomain, flags: u32) -> Reply<()> {
    let request = ShutdownRequest {
        domain: by_uuid(dom),
        modes: modes(flags),
        options: None,
    };
    ctx.domains().shutdown(request).await?;
    Ok(())
}

pub(crate) async fn reboot(ctx: &Ctx, args: DomainReboot, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let request = RebootRequest {
        domain: by_uuid(&args.dom),
        modes: modes(flags),
        options: None,
    };
    ctx.domains().reboot(request).await?;
    Ok(())
}

/// How to ask a guest, by the flags of shutdown and reboot, which are alike: the agent comes first.
fn modes(flags: u32) -> Vec<i32> {
    let known = [
        (VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, PowerMode::Agent),
        (VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, PowerMode::Acpi),
    ];
    let given = known.iter().filter(|(flag, _)| flags & flag != 0);
    given.map(|(_, mode)| i32::from(*mode)).collect()
}

pub(crate) async fn reset(ctx: &Ctx, args: DomainReset, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = ResetRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    ctx.domains().reset(request).await?;
    Ok(())
}

pub(crate) async fn inject_nmi(ctx: &Ctx, args: DomainInjectNmi, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = InjectNmiRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    ctx.domains().inject_nmi(request).await?;
    Ok(())
}

pub(crate) async fn send_key(ctx: &Ctx, args: DomainSendKey, flags: Flags) -> Reply<()> {
    args::check(ctx, "nkeycodes", Must::BePositive, !args.keycodes.is_empty())?;
    // The service's numbers are libvirt's plus one.
    let number = i32::try_from(args.codeset)
        .ok()
        .and_then(|set| set.checked_add(1));
    let Some(code_set) = number.and_then(|number| CodeSet::try_from(number).ok()) else {
        let text = format!("Unsupported codeset '{}'", args.codeset);
        return Err(args::refused(ctx.info.area(), ctx.info.api, "codeset", &text).into());
    };
    flags.checked()?;
    let hold = time::Duration {
        seconds: i64::from(args.holdtime / 1_000),
        nanos: i32::try_from(args.holdtime % 1_000).unwrap_or(0) * 1_000_000,
    };
    let request = SendKeysRequest {
        domain: by_uuid(&args.dom),
        code_set: code_set.into(),
        codes: args.keycodes.into_iter().collect(),
        hold: Some(hold),
        options: None,
    };
    ctx.domains().send_keys(request).await?;
    Ok(())
}

pub(crate) async fn pm_wakeup(ctx: &Ctx, args: DomainPmWakeup, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let request = WakeRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    ctx.domains().wake(request).await?;
    Ok(())
}

pub(crate) async fn suspend(ctx: &Ctx, args: DomainSuspend) -> Reply<()> {
    let request = SuspendRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    ctx.domains().suspend(request).await?;
    Ok(())
}

pub(crate) async fn resume(ctx: &Ctx, args: DomainResume) -> Reply<()> {
    let request = ResumeRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    ctx.domains().resume(request).await?;
    Ok(())
}

pub(crate) async fn rename(ctx: &Ctx, args: DomainRename, flags: Flags) -> Reply<DomainRenameRet> {
    let given = args.new_name.is_some();
    args::check(ctx, "new_name", args::Must::NotBeNull, given)?;
    let new_name = args::text(args.new_name);
    args::check(ctx, "new_name", args::Must::NotBeEmpty, !new_name.is_empty())?;
    flags.checked()?;
    let request = RenameRequest {
        domain: by_uuid(&args.dom),
        new_name,
        options: None,
    };
    ctx.domains().rename(request).await?;
    Ok(DomainRenameRet { retcode: 0 })
}
