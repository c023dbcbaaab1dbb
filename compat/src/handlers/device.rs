//! Devices come, go and change.

use wire::consts::{
    VIR_DOMAIN_DEVICE_MODIFY_FORCE, VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP, VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, VIR_IP_ADDR_TYPE_IPV4,
    VIR_IP_ADDR_TYPE_IPV6,
};
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedParam, TypedValue};
use wire::xdr::Text;

use super::args::{self, Must};
use super::flags::Flags;
use super::lifecycle::own_session;
use super::{Reply, by_uuid, ended, full_in, info};
use crate::ctx::Ctx;
use crate::proto::Scope;
use crate::proto::detach_device_request::Device as Named;
use crate::proto::interface_limits::Rate;
use crate::proto::list_interface_addresses_request::Source;
use crate::proto::{
    AssociateDescriptorsRequest, AttachDeviceRequest, DetachDeviceRequest, GetInterfaceLimitsRequest,
    InterfaceAddresses, InterfaceLimits, ListGuestInterfacesRequest, ListInterfaceAddressesRequest,
    SetInterfaceLimitsRequest, UpdateDeviceRequest,
};

/// Limits of what an interface receives, in the order in which they are told.
const INBOUND: [Param; 4] = [
    VIR_DOMAIN_BANDWIDTH_IN_AVERAGE,
    VIR_DOMAIN_BANDWIDTH_IN_PEAK,
    VIR_DOMAIN_BANDWIDTH_IN_BURST,
    VIR_DOMAIN_BANDWIDTH_IN_FLOOR,
];
/// Limits of what it sends.
const OUTBOUND: [Param; 3] = [
    VIR_DOMAIN_BANDWIDTH_OUT_AVERAGE,
    VIR_DOMAIN_BANDWIDTH_OUT_PEAK,
    VIR_DOMAIN_BANDWIDTH_OUT_BURST,
];

/// The older call is for running guests only.
pub(crate) async fn attach(ctx: &Ctx, args: DomainAttachDevice) -> Reply<()> {
    attach_in(ctx, &args.dom, args.xml, Scope::Live).await
}

pub(crate) async fn attach_flags(ctx: &Ctx, args: DomainAttachDeviceFlags, flags: Flags) -> Reply<()> {
    attach_in(ctx, &args.dom, args.xml, args::scope(flags.checked()?)).await
}

async fn attach_in(ctx: &Ctx, dom: &NonnullDomain, xml: Text, scope: Scope) -> Reply<()> {
    let request = AttachDeviceRequest {
        domain: by_uuid(dom),
        xml: xml.into_string(),
        scope: scope.into(),
        options: None,
    };
    ctx.devices().attach_device(request).await?;
    Ok(())
}

/// The older call is for running guests only.
pub(crate) async fn detach(ctx: &Ctx, args: DomainDetachDevice) -> Reply<()> {
    detach_in(ctx, &args.dom, Named::Xml(args.xml.into_string()), Scope::Live).await
}

pub(crate) async fn detach_flags(ctx: &Ctx, args: DomainDetachDeviceFlags, flags: Flags) -> Reply<()> {
    let scope = args::scope(flags.checked()?);
    detach_in(ctx, &args.dom, Named::Xml(args.xml.into_string()), scope).await
}

/// Clients of this call wait for the event: it answers once the guest was asked.
pub(crate) async fn detach_alias(ctx: &Ctx, args: DomainDetachDeviceAlias, flags: Flags) -> Reply<()> {
    let scope = args::scope(flags.checked()?);
    detach_in(ctx, &args.dom, Named::Alias(args.alias.into_string()), scope).await
}

/// A guest that has not answered in time is no error for libvirt's clients.
async fn detach_in(ctx: &Ctx, dom: &NonnullDomain, named: Named, scope: Scope) -> Reply<()> {
    let wait = matches!(named, Named::Alias(_)).then(Default::default);
    let request = DetachDeviceRequest {
        domain: by_uuid(dom),
        device: Some(named),
        scope: scope.into(),
        wait,
        options: None,
    };
    let operation = ctx.devices().detach_device(request).await?;
    ended(ctx, operation).await
}

pub(crate) async fn update(ctx: &Ctx, args: DomainUpdateDeviceFlags, flags: Flags) -> Reply<()> {
    let flags = flags.checked()?;
    let request = UpdateDeviceRequest {
        domain: by_uuid(&args.dom),
        xml: args.xml.into_string(),
        scope: args::scope(flags).into(),
        force: flags & VIR_DOMAIN_DEVICE_MODIFY_FORCE != 0,
        options: None,
    };
    ctx.devices().update_device(request).await?;
    Ok(())
}

/// The descriptors go with the request, and the group with the connection.
pub(crate) async fn associate(ctx: &Ctx, args: DomainFdAssociate, flags: Flags) -> Reply<()> {
    args::check(ctx, "nfds", Must::NotBeZero, !ctx.fds.is_empty())?;
    // What the flags ask for concerns SELinux's labels, which nobody sets here.
    flags.checked()?;
    let request = AssociateDescriptorsRequest {
        domain: by_uuid(&args.dom),
        group: args.name.into_string(),
        session: own_session(ctx).await?,
        options: None,
    };
    ctx.domains().associate_descriptors(request).await?;
    Ok(())
}

pub(crate) async fn get_limits(
    ctx: &Ctx,
    args: DomainGetInterfaceParameters,
    flags: Flags,
) -> Reply<DomainGetInterfaceParametersRet> {
    let room = args::room(args.nparams, DOMAIN_INTERFACE_PARAMETERS_MAX)?;
    let scope = info::one_state(ctx, &args.dom, flags.checked()?).await?;
    if room == 0 {
        full_in(ctx, &args.dom, scope).await?;
        let count = INBOUND.len() + OUTBOUND.len();
        return Ok(DomainGetInterfaceParametersRet {
            params: Vec::new().into(),
            nparams: i32::try_from(count).unwrap_or(i32::MAX),
        });
    }
    let request = GetInterfaceLimitsRequest {
        domain: by_uuid(&args.dom),
        interface: args.device.into_string(),
        scope: scope.into(),
    };
    let limits = ctx.devices().get_interface_limits(request).await?;
    let (inbound, outbound) = (
        limits.inbound.unwrap_or_default(),
        limits.outbound.unwrap_or_default(),
    );
    let values = [
        inbound.average,
        inbound.peak,
        inbound.burst,
        inbound.floor,
        outbound.average,
        outbound.peak,
        outbound.burst,
    ];
    let all = INBOUND.iter().chain(&OUTBOUND).zip(values);
    let params: Vec<TypedParam> = all
        .map(|(param, kib)| param.with(u32::try_from(kib).unwrap_or(u32::MAX)))
        .collect();
    let (params, nparams) = args::fitting(params, room);
    Ok(DomainGetInterfaceParametersRet {
        params: params.into(),
        nparams,
    })
}

pub(crate) async fn set_limits(ctx: &Ctx, args: DomainSetInterfaceParameters, flags: Flags) -> Reply<()> {
    args::check(ctx, "params", Must::NotBeNull, !args.params.is_empty())?;
    let flags = flags.checked()?;
    args::params(&args.params, &[INBOUND.as_slice(), &OUTBOUND].concat())?;
    let value = |param: Param| match param.find(&args.params) {
        Some(TypedValue::Uint(kib)) => Some(u64::from(*kib)),
        _ => None,
    };
    let [average, peak, burst, floor] = INBOUND.map(value);
    let number = Option::unwrap_or_default;
    // A peak or a burst by itself says nothing.
    let inbound = (average.is_some() || floor.is_some()).then(|| Rate {
        average: number(average),
        peak: number(peak),
        burst: number(burst),
        floor: number(floor),
    });
    let [average, peak, burst] = OUTBOUND.map(value);
    let outbound = average.map(|average| Rate {
        average,
        peak: number(peak),
        burst: number(burst),
        floor: 0,
    });
    let request = SetInterfaceLimitsRequest {
        domain: by_uuid(&args.dom),
        interface: args.device.into_string(),
        scope: args::scope(flags).into(),
        limits: Some(InterfaceLimits { inbound, outbound }),
        options: None,
    };
    ctx.devices().set_interface_limits(request).await?;
    Ok(())
}

pub(crate) async fn addresses(
    ctx: &Ctx,
    args: DomainInterfaceAddresses,
    flags: Flags,
) -> Reply<DomainInterfaceAddressesRet> {
    flags.checked()?;
    let domain = by_uuid(&args.dom);
    let listed = async |source: Source| {
        let request = ListInterfaceAddressesRequest {
            domain: domain.clone(),
            source: source.into(),
        };
        ctx.devices()
            .list_interface_addresses(request)
            .await
            .map(|answer| answer.interfaces)
    };
    let interfaces = match i32::try_from(args.source).unwrap_or(i32::MAX) {
        VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE => listed(Source::Lease).await?,
        VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP => listed(Source::Arp).await?,
        VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT => {
            let request = ListGuestInterfacesRequest { domain };
            ctx.guest_agent().list_interfaces(request).await?.interfaces
        }
        other => return Err(args::unsupported(&format!("Unknown IP address data source {other}")).into()),
    };
    Ok(DomainInterfaceAddressesRet {
        ifaces: interfaces.into_iter().map(interface).collect::<Vec<_>>().into(),
    })
}

fn interface(found: InterfaceAddresses) -> DomainInterface {
    let address = |found: crate::proto::interface_addresses::Address| DomainIpAddr {
        r#type: if found.address.contains(':') {
            VIR_IP_ADDR_TYPE_IPV6
        } else {
            VIR_IP_ADDR_TYPE_IPV4
        },
        addr: found.address.into(),
        prefix: found.prefix,
    };
    DomainInterface {
        name: found.name.into(),
        hwaddr: (!found.mac.is_empty()).then(|| found.mac.into()),
        addrs: found
            .addresses
            .into_iter()
            .map(address)
            .collect::<Vec<_>>()
            .into(),
    }
}
