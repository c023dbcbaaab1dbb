//! One thing of a guest's configuration: changing it, and reading what has a call of its own.

use virtqemud_client::time;
use wire::consts::*;
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedValue};
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::{self, Must};
use super::flags::{Flags, LIVE_OR_CONFIG, named};
use super::info::basic;
use super::{Reply, agent, by_uuid};
use crate::ctx::Ctx;
use crate::proto::configure_request::{Change, Lifecycle, Metadata, Text as Value, VcpuStates};
use crate::proto::get_metadata_request::Kind;
use crate::proto::measure_dirty_rate_request::Mode;
use crate::proto::{
    ConfigureRequest, GetMetadataRequest, MeasureDirtyRateRequest, ReloadDisplayRequest, Scope,
    SetAutostartRequest, SetLaunchSecretRequest,
};

async fn configure(ctx: &Ctx, dom: &NonnullDomain, scope: Scope, change: Change) -> Reply<()> {
    let request = ConfigureRequest {
        domain: by_uuid(dom),
        scope: scope.into(),
        change: Some(change),
        options: None,
    };
    ctx.domains().configure(request).await?;
    Ok(())
}

pub(crate) async fn set_autostart(ctx: &Ctx, args: DomainSetAutostart) -> Reply<()> {
    let request = SetAutostartRequest {
        domain: by_uuid(&args.dom),
        autostart: args.autostart != 0,
        once: false,
        options: None,
    };
    ctx.domains().set_autostart(request).await?;
    Ok(())
}

pub(crate) async fn set_autostart_once(ctx: &Ctx, args: DomainSetAutostartOnce) -> Reply<()> {
    let request = SetAutostartRequest {
        domain: by_uuid(&args.dom),
        autostart: args.autostart != 0,
        once: true,
        options: None,
    };
    ctx.domains().set_autostart(request).await?;
    Ok(())
}

pub(crate) async fn set_memory(ctx: &Ctx, args: DomainSetMemory) -> Reply<()> {
    args::check(ctx, "memory", Must::NotBeZero, args.memory != 0)?;
    configure(ctx, &args.dom, Scope::Live, Change::MemoryKib(args.memory)).await
}

pub(crate) async fn set_max_memory(ctx: &Ctx, args: DomainSetMaxMemory) -> Reply<()> {
    args::check(ctx, "memory", Must::NotBeZero, args.memory != 0)?;
    let change = Change::MaxMemoryKib(args.memory);
    configure(ctx, &args.dom, Scope::Current, change).await
}

pub(crate) async fn set_memory_flags(ctx: &Ctx, args: DomainSetMemoryFlags, flags: Flags) -> Reply<()> {
    args::check(ctx, "memory", Must::NotBeZero, args.memory != 0)?;
    let flags = flags.checked()?;
    let change = match flags & VIR_DOMAIN_MEM_MAXIMUM {
        0 => Change::MemoryKib(args.memory),
        _ => Change::MaxMemoryKib(args.memory),
    };
    configure(ctx, &args.dom, args::scope(flags), change).await
}

pub(crate) async fn set_vcpus(ctx: &Ctx, args: DomainSetVcpus) -> Reply<()> {
    args::check(ctx, "nvcpus", Must::NotBeZero, args.nvcpus != 0)?;
    configure(ctx, &args.dom, Scope::Live, Change::Vcpus(args.nvcpus)).await
}

pub(crate) async fn set_vcpus_flags(ctx: &Ctx, args: DomainSetVcpusFlags, flags: Flags) -> Reply<()> {
    let flags = flags
        .requires(named!(VIR_DOMAIN_VCPU_MAXIMUM, VIR_DOMAIN_AFFECT_CONFIG))?
        .exclusive(named!(VIR_DOMAIN_VCPU_GUEST, VIR_DOMAIN_AFFECT_CONFIG))?;
    args::check(ctx, "nvcpus", Must::NotBeZero, args.nvcpus != 0)?;
    let flags = flags.checked()?;
    if flags & VIR_DOMAIN_VCPU_GUEST != 0 {
        return agent::set_vcpu_count(ctx, &args.dom, args.nvcpus).await;
    }
    let change = if flags & VIR_DOMAIN_VCPU_MAXIMUM != 0 {
        Change::MaxVcpus(args.nvcpus)
    } else if flags & VIR_DOMAIN_VCPU_HOTPLUGGABLE != 0 {
        Change::HotpluggableVcpus(args.nvcpus)
    } else {
        Change::Vcpus(args.nvcpus)
    };
    configure(ctx, &args.dom, args::scope(flags), change).await
}

pub(crate) async fn set_vcpu(ctx: &Ctx, args: DomainSetVcpu, flags: Flags) -> Reply<()> {
    let online = match args.state {
        0 => false,
        1 => true,
        _ => {
            let text = "unsupported state value";
            return Err(args::refused(ErrorDomain::QEMU, ctx.info.api, "state", text).into());
        }
    };
    let flags = flags.checked()?;
    let vcpus = agent::numbers(&args.cpumap.to_str())?;
    if vcpus.is_empty() {
        let text = "no vcpus selected for modification";
        return Err(WireError::new(ErrorCode::INVALID_ARG, ErrorDomain::QEMU, text).into());
    }
    let change = Change::VcpuStates(VcpuStates { vcpus, online });
    configure(ctx, &args.dom, args::scope(flags), change).await
}

pub(crate) async fn set_lifecycle_action(
    ctx: &Ctx,
    args: DomainSetLifecycleAction,
    flags: Flags,
) -> Reply<()> {
    let numbers = [
        ("type", args.r#type, VIR_DOMAIN_LIFECYCLE_CRASH.cast_unsigned()),
        (
            "action",
            args.action,
            VIR_DOMAIN_LIFECYCLE_ACTION_COREDUMP_RESTART.cast_unsigned(),
        ),
    ];
    if let Some((what, number, _)) = numbers.iter().find(|(_, number, last)| number > last) {
        return Err(ctx
            .invalid_arg(&format!("invalid lifecycle {what} '{number}'"))
            .into());
    }
    let flags = flags.checked()?;
    let change = Lifecycle {
        // The service counts from 1.
        event: args.r#type.cast_signed() + 1,
        action: args.action.cast_signed() + 1,
    };
    let scope = args::scope(flags);
    configure(ctx, &args.dom, scope, Change::Lifecycle(change)).await
}

pub(crate) async fn set_memory_stats_period(
    ctx: &Ctx,
    args: DomainSetMemoryStatsPeriod,
    flags: Flags,
) -> Reply<()> {
    args::check(ctx, "period", Must::BeNonNegative, args.period >= 0)?;
    let flags = flags.checked()?;
    let change = Change::MemoryStatsPeriod(time::of_seconds(args.period.into()));
    configure(ctx, &args.dom, args::scope(flags), change).await
}

pub(crate) async fn get_metadata(
    ctx: &Ctx,
    args: DomainGetMetadata,
    flags: Flags,
) -> Reply<DomainGetMetadataRet> {
    let flags = flags.exclusive(LIVE_OR_CONFIG)?;
    let kind = match args.r#type {
        VIR_DOMAIN_METADATA_DESCRIPTION => Kind::Description,
        VIR_DOMAIN_METADATA_TITLE => Kind::Title,
        VIR_DOMAIN_METADATA_ELEMENT => Kind::Element,
        other => return Err(unknown_metadata(ctx, other).into()),
    };
    uri_fits(ctx, kind, args.uri.as_ref())?;
    if let Err(unknown) = flags.checked() {
        // They are looked at once the guest is found.
        basic(ctx, &args.dom).await?;
        return Err(unknown.into());
    }
    let flags = flags.given;
    let request = GetMetadataRequest {
        domain: by_uuid(&args.dom),
        kind: kind.into(),
        uri: args::text(args.uri),
        scope: args::scope(flags).into(),
    };
    let metadata = ctx.domains().get_metadata(request).await?;
    Ok(DomainGetMetadataRet {
        metadata: metadata.value.into(),
    })
}

pub(crate) async fn set_metadata(ctx: &Ctx, args: DomainSetMetadata, flags: Flags) -> Reply<()> {
    let value = args.metadata.map(Text::into_string);
    let (kind, change) = match args.r#type {
        VIR_DOMAIN_METADATA_DESCRIPTION => (Kind::Description, Change::Description(Value { value })),
        VIR_DOMAIN_METADATA_TITLE => (Kind::Title, Change::Title(Value { value })),
        VIR_DOMAIN_METADATA_ELEMENT => {
            let has_key = args.key.is_some() || value.is_none();
            uri_fits(ctx, Kind::Element, args.uri.as_ref())?;
            args::check(ctx, "key", Must::NotBeNull, has_key)?;
            let (uri, key) = (args::text(args.uri.clone()), args::text(args.key.clone()));
            let xml = value;
            (Kind::Element, Change::Metadata(Metadata { uri, key, xml }))
        }
        other => return Err(unknown_metadata(ctx, other).into()),
    };
    if let Change::Title(Value { value: Some(title) }) = &change
        && title.contains('\n')
    {
        let text = "metadata title can't contain newlines";
        return Err(args::refused(ctx.info.area(), ctx.info.api, "metadata", text).into());
    }
    uri_fits(ctx, kind, args.uri.as_ref())?;
    args::check(
        ctx,
        "key",
        Must::BeNull,
        kind == Kind::Element || args.key.is_none(),
    )?;
    let flags = flags.checked()?;
    configure(ctx, &args.dom, args::scope(flags), change).await
}

/// A namespace goes with an element, and with nothing else.
fn uri_fits(ctx: &Ctx, kind: Kind, uri: Option<&Text>) -> Result<(), WireError> {
    match kind {
        Kind::Element => args::check(ctx, "uri", Must::NotBeNull, uri.is_some()),
        _ => args::check(ctx, "uri", Must::BeNull, uri.is_none()),
    }
}

fn unknown_metadata(ctx: &Ctx, kind: i32) -> WireError {
    ctx.invalid_arg(&format!("unknown metadata type '{kind}'"))
}

pub(crate) async fn start_dirty_rate_calc(
    ctx: &Ctx,
    args: DomainStartDirtyRateCalc,
    flags: Flags,
) -> Reply<()> {
    let mode = match flags.checked()? {
        VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_BITMAP => Mode::DirtyBitmap,
        VIR_DOMAIN_DIRTYRATE_MODE_DIRTY_RING => Mode::DirtyRing,
        _ => Mode::PageSampling,
    };
    let request = MeasureDirtyRateRequest {
        domain: by_uuid(&args.dom),
        period: Some(time::of_seconds(args.seconds.into())),
        mode: mode.into(),
        options: None,
    };
    ctx.domains().measure_dirty_rate(request).await?;
    Ok(())
}

pub(crate) async fn graphics_reload(ctx: &Ctx, args: DomainGraphicsReload, flags: Flags) -> Reply<()> {
    const KINDS: u32 = 2;
    if args.r#type >= KINDS {
        return Err(args::invalid(&format!("type must be less than {KINDS}")).into());
    }
    flags.checked()?;
    let request = ReloadDisplayRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    ctx.devices().reload_display(request).await?;
    Ok(())
}

pub(crate) async fn set_launch_security_state(
    ctx: &Ctx,
    args: DomainSetLaunchSecurityState,
    flags: Flags,
) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    flags.checked()?;
    let [header, secret, address] = SECRET;
    args::params(&args.params, &SECRET)?;
    let text = |param: Param| match param.find(&args.params) {
        Some(TypedValue::String(text)) => Some(text.to_str().into_owned()),
        _ => None,
    };
    let request = SetLaunchSecretRequest {
        domain: by_uuid(&args.dom),
        header: text(header),
        secret: text(secret),
        address: match address.find(&args.params) {
            Some(TypedValue::Ullong(address)) => Some(*address),
            _ => None,
        },
        options: None,
    };
    ctx.launch_security().set_secret(request).await?;
    Ok(())
}

/// What is said of a secret.
const SECRET: [Param; 3] = [
    VIR_DOMAIN_LAUNCH_SECURITY_SEV_SECRET_HEADER,
    VIR_DOMAIN_LAUNCH_SECURITY_SEV_SECRET,
    VIR_DOMAIN_LAUNCH_SECURITY_SEV_SECRET_SET_ADDRESS,
];
