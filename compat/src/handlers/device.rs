//! Devices come, go and change.

use wire::consts::{
    VIR_DOMAIN_DEVICE_MODIFY_FORCE, VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT, VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, VIR_IP_ADDR_TYPE_IPV4, VIR_IP_ADDR_TYPE_IPV6,
};
use wire::remote::{DomainInterface, DomainInterfaceAddresses, DomainInterfaceAddressesRet, DomainIpAddr, DomainUpdateDeviceFlags};

use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::list_interface_addresses_request::Source;
use crate::proto::{InterfaceAddresses, ListGuestInterfacesRequest, ListInterfaceAddressesRequest, UpdateDeviceRequest};

pub(crate) async fn update(ctx: &Ctx, args: DomainUpdateDeviceFlags) -> Reply<()> {
    args::flags(ctx, args.flags)?;
    let request = UpdateDeviceRequest {
        domain: by_uuid(&args.dom),
        xml: args.xml.into_string(),
        scope: args::scope(args.flags).into(),
        force: args.flags & VIR_DOMAIN_DEVICE_MODIFY_FORCE != 0,
        options: None,
    };
    ctx.devices().update_device(request).await?;
    Ok(())
}

pub(crate) async fn addresses(ctx: &Ctx, args: DomainInterfaceAddresses) -> Reply<DomainInterfaceAddressesRet> {
    args::flags(ctx, args.flags)?;
    let domain = by_uuid(&args.dom);
    let listed = async |source: Source| {
        let request = ListInterfaceAddressesRequest { domain: domain.clone(), source: source.into() };
        ctx.devices().list_interface_addresses(request).await.map(|answer| answer.into_inner().interfaces)
    };
    let interfaces = match i32::try_from(args.source).unwrap_or(i32::MAX) {
        VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE => listed(Source::Unspecified).await?,
        VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP => listed(Source::Arp).await?,
        VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT => {
            let request = ListGuestInterfacesRequest { domain };
            ctx.guest_agent().list_interfaces(request).await?.into_inner().interfaces
        }
        other => return Err(args::unsupported(&format!("Unknown IP address data source {other}")).into()),
    };
    Ok(DomainInterfaceAddressesRet { ifaces: interfaces.into_iter().map(interface).collect::<Vec<_>>().into() })
}

fn interface(found: InterfaceAddresses) -> DomainInterface {
    let address = |found: crate::proto::interface_addresses::Address| DomainIpAddr {
        r#type: if found.address.contains(':') { VIR_IP_ADDR_TYPE_IPV6 } else { VIR_IP_ADDR_TYPE_IPV4 },
        addr: found.address.into(),
        prefix: found.prefix,
    };
    DomainInterface {
        name: found.name.into(),
        hwaddr: (!found.mac.is_empty()).then(|| found.mac.into()),
        addrs: found.addresses.into_iter().map(address).collect::<Vec<_>>().into(),
    }
}
