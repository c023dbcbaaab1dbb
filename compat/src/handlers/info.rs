//! What is known of one guest without asking it.

use virtqemud_client::time;
use wire::ErrorDomain;
use wire::consts::*;
use wire::remote::*;

use super::flags::{Flags, LIVE_OR_CONFIG};
use super::{Basic, Reply, agent, args, by_uuid, full, full_in};
use crate::ctx::Ctx;
use crate::proto::{GetLaunchSecurityRequest, GetXmlRequest, Scope, get_launch_security_response};

/// libvirt's words for each taint, in its order.
const TAINTS: &[(&str, &str)] = &[
    ("custom-argv", "custom configuration parameters specified"),
    ("custom-monitor", "custom monitor control commands issued"),
    ("high-privileges", "running with undesirable elevated privileges"),
    (
        "shell-scripts",
        "network configuration using opaque shell scripts",
    ),
    ("disk-probing", "potentially unsafe disk format probing"),
    ("external-launch", "managing externally launched configuration"),
    ("host-cpu", "potentially unsafe use of host CPU passthrough"),
    ("hook-script", "configuration potentially modified by hook script"),
    ("cdrom-passthrough", "use of host cdrom passthrough"),
    ("custom-dtb", "custom device tree blob used"),
    ("custom-ga-command", "custom guest agent control commands issued"),
    (
        "custom-hypervisor-feature",
        "hypervisor feature autodetection override",
    ),
    ("deprecated-config", "use of deprecated configuration settings"),
    ("custom-device", "custom device configuration"),
];

/// State and reason with libvirt's numbers.
pub(crate) fn state_and_reason(state: i32, reason: i32) -> (i32, i32) {
    (state, reason % 100)
}

/// The one configuration that `flags` name, where libvirt refuses both of them once the guest is found.
pub(crate) async fn one_state(ctx: &Ctx, dom: &NonnullDomain, flags: u32) -> Reply<Scope> {
    let scope = args::scope(flags);
    if scope == Scope::LiveAndConfig {
        basic(ctx, dom).await?;
        let [(_, live), (_, config)] = LIVE_OR_CONFIG;
        let text = format!("Flags '{live}' and '{config}' are mutually exclusive");
        return Err(args::refused(ErrorDomain::DOMAIN, "virDomainObjGetOneDefState", "flags", &text).into());
    }
    Ok(scope)
}

/// What a caller who may know little is told of a guest.
pub(crate) async fn basic(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Basic> {
    Basic::of(ctx, by_uuid(dom)).await
}

pub(crate) async fn get_info(ctx: &Ctx, args: DomainGetInfo) -> Reply<DomainGetInfoRet> {
    let guest = full(ctx, &args.dom).await?;
    Ok(DomainGetInfoRet {
        state: u8::try_from(guest.state).unwrap_or(0),
        max_mem: guest.max_memory_kib,
        memory: guest.memory_kib,
        nr_virt_cpu: u16::try_from(guest.vcpus).unwrap_or(u16::MAX),
        cpu_time: time::nanoseconds(guest.cpu_time.as_ref()),
    })
}

pub(crate) async fn get_state(ctx: &Ctx, args: DomainGetState, flags: Flags) -> Reply<DomainGetStateRet> {
    flags.checked()?;
    let guest = basic(ctx, &args.dom).await?;
    let (state, reason) = state_and_reason(guest.state, guest.reason);
    Ok(DomainGetStateRet { state, reason })
}

pub(crate) async fn is_active(ctx: &Ctx, args: DomainIsActive) -> Reply<DomainIsActiveRet> {
    let active = i32::from(basic(ctx, &args.dom).await?.id > 0);
    Ok(DomainIsActiveRet { active })
}

pub(crate) async fn is_persistent(ctx: &Ctx, args: DomainIsPersistent) -> Reply<DomainIsPersistentRet> {
    let persistent = full(ctx, &args.dom).await?.persistent.into();
    Ok(DomainIsPersistentRet { persistent })
}

pub(crate) async fn is_updated(ctx: &Ctx, args: DomainIsUpdated) -> Reply<DomainIsUpdatedRet> {
    basic(ctx, &args.dom).await?;
    // libvirt's QEMU driver never says that a guest was.
    Ok(DomainIsUpdatedRet { updated: 0 })
}

pub(crate) async fn get_autostart(ctx: &Ctx, args: DomainGetAutostart) -> Reply<DomainGetAutostartRet> {
    let autostart = full(ctx, &args.dom).await?.autostart.into();
    Ok(DomainGetAutostartRet { autostart })
}

pub(crate) async fn get_autostart_once(
    ctx: &Ctx,
    args: DomainGetAutostartOnce,
) -> Reply<DomainGetAutostartOnceRet> {
    let autostart = full(ctx, &args.dom).await?.autostart_once.into();
    Ok(DomainGetAutostartOnceRet { autostart })
}

pub(crate) async fn has_managed_save_image(
    ctx: &Ctx,
    args: DomainHasManagedSaveImage,
    flags: Flags,
) -> Reply<DomainHasManagedSaveImageRet> {
    flags.checked()?;
    let result = full(ctx, &args.dom).await?.managed_save.into();
    Ok(DomainHasManagedSaveImageRet { result })
}

/// A guest without protection has nothing to tell; what QEMU measures of the others is not asked for yet.
pub(crate) async fn get_launch_security(
    ctx: &Ctx,
    args: DomainGetLaunchSecurityInfo,
) -> Reply<DomainGetLaunchSecurityInfoRet> {
    let request = GetLaunchSecurityRequest {
        domain: by_uuid(&args.dom),
    };
    let kind = ctx.launch_security().get(request).await?.kind();
    if kind != get_launch_security_response::Kind::None {
        return Err(ctx.info.unsupported().into());
    }
    Ok(DomainGetLaunchSecurityInfoRet::default())
}

pub(crate) async fn get_os_type(ctx: &Ctx, args: DomainGetOsType) -> Reply<DomainGetOsTypeRet> {
    let os_type = full(ctx, &args.dom).await?.os_type.into();
    Ok(DomainGetOsTypeRet { r#type: os_type })
}

pub(crate) async fn get_max_memory(ctx: &Ctx, args: DomainGetMaxMemory) -> Reply<DomainGetMaxMemoryRet> {
    let memory = full(ctx, &args.dom).await?.max_memory_kib;
    Ok(DomainGetMaxMemoryRet { memory })
}

pub(crate) async fn get_max_vcpus(ctx: &Ctx, args: DomainGetMaxVcpus) -> Reply<DomainGetMaxVcpusRet> {
    let guest = full_in(ctx, &args.dom, Scope::Live).await?;
    let num = i32::try_from(guest.max_vcpus).unwrap_or(i32::MAX);
    Ok(DomainGetMaxVcpusRet { num })
}

pub(crate) async fn get_vcpus_flags(
    ctx: &Ctx,
    args: DomainGetVcpusFlags,
    flags: Flags,
) -> Reply<DomainGetVcpusFlagsRet> {
    let flags = flags.exclusive(LIVE_OR_CONFIG)?.checked()?;
    let guest = full_in(ctx, &args.dom, args::scope(flags)).await?;
    let maximum = flags & VIR_DOMAIN_VCPU_MAXIMUM != 0;
    if flags & VIR_DOMAIN_VCPU_GUEST != 0 {
        if guest.id == 0 {
            let live = "vCPU count provided by the guest agent can only be requested for live domains";
            return Err(args::invalid(live).into());
        }
        let num = agent::count_vcpus(ctx, &args.dom, maximum).await?;
        return Ok(DomainGetVcpusFlagsRet { num });
    }
    let num = if maximum { guest.max_vcpus } else { guest.vcpus };
    let num = i32::try_from(num).unwrap_or(i32::MAX);
    Ok(DomainGetVcpusFlagsRet { num })
}

pub(crate) async fn get_control_info(
    ctx: &Ctx,
    args: DomainGetControlInfo,
    flags: Flags,
) -> Reply<DomainGetControlInfoRet> {
    flags.checked()?;
    let control = full(ctx, &args.dom).await?.control;
    let control = control.ok_or_else(args::not_running)?;
    Ok(DomainGetControlInfoRet {
        // The service counts from 1.
        state: u32::try_from(control.state - 1).unwrap_or(0),
        details: u32::try_from(control.cause).unwrap_or(0),
        state_time: time::milliseconds(control.since.as_ref()),
    })
}

pub(crate) async fn get_security_label(
    ctx: &Ctx,
    args: DomainGetSecurityLabel,
) -> Reply<DomainGetSecurityLabelRet> {
    Ok(label(&full(ctx, &args.dom).await?.security_label))
}

pub(crate) async fn get_security_label_list(
    ctx: &Ctx,
    args: DomainGetSecurityLabelList,
) -> Reply<DomainGetSecurityLabelListRet> {
    let guest = full(ctx, &args.dom).await?;
    let of_drivers = [guest.security_label, guest.dac_label];
    let labels = of_drivers.iter().filter(|_| guest.id > 0);
    let labels: Vec<_> = labels.map(|text| label(text)).collect();
    let ret = i32::try_from(labels.len()).unwrap_or(i32::MAX);
    Ok(DomainGetSecurityLabelListRet {
        labels: labels.into(),
        ret,
    })
}

fn label(text: &str) -> DomainGetSecurityLabelRet {
    DomainGetSecurityLabelRet {
        label: super::c_string(text).into(),
        enforcing: 0,
    }
}

pub(crate) async fn get_messages(
    ctx: &Ctx,
    args: DomainGetMessages,
    flags: Flags,
) -> Reply<DomainGetMessagesRet> {
    let flags = flags.checked()?;
    let guest = full(ctx, &args.dom).await?;
    let wanted = |kind| flags == 0 || flags & kind != 0;
    let has =
        |word: &str| wanted(VIR_DOMAIN_MESSAGE_TAINTING) && guest.taints.iter().any(|taint| taint == word);
    let taints = TAINTS.iter().filter(|(word, _)| has(word));
    let taints = taints.map(|(_, text)| format!("tainted: {text}"));
    let deprecations = guest
        .deprecations
        .iter()
        .filter(|_| wanted(VIR_DOMAIN_MESSAGE_DEPRECATION));
    let deprecations = deprecations.map(|text| format!("deprecated configuration: {text}"));
    Ok(DomainGetMessagesRet {
        msgs: taints.chain(deprecations).map(Into::into).collect(),
    })
}

pub(crate) async fn get_xml(ctx: &Ctx, args: DomainGetXmlDesc, flags: Flags) -> Reply<DomainGetXmlDescRet> {
    let flags = flags.checked()?;
    let has = |flag| flags & flag != 0;
    let request = GetXmlRequest {
        domain: by_uuid(&args.dom),
        secure: has(VIR_DOMAIN_XML_SECURE),
        inactive: has(VIR_DOMAIN_XML_INACTIVE),
        update_cpu: has(VIR_DOMAIN_XML_UPDATE_CPU),
        migratable: has(VIR_DOMAIN_XML_MIGRATABLE),
    };
    let xml = ctx.domains().get_xml(request).await?.xml;
    Ok(DomainGetXmlDescRet { xml: xml.into() })
}

/// The guest, if it runs.
pub(crate) async fn running(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Basic> {
    let guest = basic(ctx, dom).await?;
    if guest.id == 0 {
        return Err(args::not_running().into());
    }
    Ok(guest)
}
