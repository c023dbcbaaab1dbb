//! Network cards and addresses.

use super::is_default;
use crate::devices::{
    Bandwidth, Coalesce, Interface, InterfaceDriver, InterfaceKind, InterfaceSource, Ip, Mac, NetBackendKind,
    PortRange, Rate, Route, VirtualPort, VirtualPortKind, YesNo, interface::MODELS,
};

pub(super) fn canonical_interface(interface: &mut Interface) {
    let kind = interface.kind;
    if let Some(source) = &mut interface.source {
        canonical_plug(kind, source);
        if kind == InterfaceKind::Vhostuser {
            let passt = interface.backend.as_ref().and_then(|b| b.kind) == Some(NetBackendKind::Passt);
            canonical_socket(source, passt);
        }
    }
    if kind == InterfaceKind::Hostdev
        && let Some(backend) = &mut interface.backend
    {
        clear!(backend; vhost);
    }
    interface.mac = interface.mac.take().and_then(canonical_mac);
    interface.model = interface.model.take().filter(|model| !model.is_empty());
    let frames = |c: &Coalesce| {
        c.rx.as_ref()
            .is_some_and(|rx| rx.frames.is_some_and(|most| most != 0))
    };
    interface.coalesce = interface.coalesce.take().filter(frames);
    interface.filterref = interface
        .filterref
        .take()
        .filter(|filter| filter.filter.is_some());
    interface.teaming = interface.teaming.take().filter(|teaming| !teaming.says_nothing());
    // What drives a virtio card is asked where the document says that it is one.
    let model = interface.model.as_deref().unwrap_or_default();
    let is_virtio = model
        .get(..6)
        .is_some_and(|begin| begin.eq_ignore_ascii_case("virtio"));
    if !is_virtio && let Some(driver) = interface.driver.take() {
        interface.driver = Some(InterfaceDriver {
            virtio: driver.virtio,
            ..InterfaceDriver::default()
        });
    }
    if kind == InterfaceKind::Hostdev {
        interface.driver = None;
    } else {
        clear!(interface; managed, hostdev);
    }
    if !matches!(
        kind,
        InterfaceKind::Network | InterfaceKind::Bridge | InterfaceKind::Ethernet
    ) {
        clear!(interface; filterref);
    }
    if let Some(model) = &mut interface.model
        && let Some(known) = MODELS.iter().find(|known| known.eq_ignore_ascii_case(model))
    {
        (*known).clone_into(model);
    }
    if let Some(filter) = &mut interface.filterref {
        filter.parameters.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if let Some(backend) = &mut interface.backend {
        drop_values!(backend, is_default; kind);
    }
    interface.mtu = interface.mtu.filter(|mtu| *mtu != 0);
    if let Some(vlan) = interface.vlan.as_mut().filter(|vlan| vlan.tags.len() > 1) {
        vlan.trunk = Some(YesNo::Yes);
    }
    interface.bandwidth.iter_mut().for_each(canonical_bandwidth);
    drop_nothings(interface);
    interface.virtualport.iter_mut().for_each(canonical_virtual_port);
    let forwarded = interface
        .port_forwards
        .iter_mut()
        .filter_map(|forward| forward.address.as_mut());
    forwarded.for_each(canonical_address);
    interface.ips.iter_mut().for_each(canonical_ip);
    interface.routes.iter_mut().for_each(canonical_route);
}

/// An address of nothing is none.
fn canonical_mac(mut mac: Mac) -> Option<Mac> {
    if mac.address.is_empty() && mac.kind.is_none() && mac.check.is_none() {
        return None;
    }
    if let Some(octets) = crate::inet::mac_octets(&mac.address) {
        mac.address = crate::inet::format_mac(octets);
        if octets == [0; 6] {
            return None;
        }
    }
    Some(mac)
}

/// What serves a card elsewhere is passt, which has a device of the host, or whoever has the socket.
fn canonical_socket(source: &mut InterfaceSource, passt: bool) {
    if passt {
        clear!(source; transport, path, mode, reconnect);
        return;
    }
    clear!(source; dev);
    source.reconnect = super::canonical_reconnect(source.reconnect.take());
}

/// Leaves out forwarded ports and limits that are none.
fn drop_nothings(interface: &mut Interface) {
    for forward in &mut interface.port_forwards {
        let says = |range: &PortRange| range.start != 0 || range.exclude.is_some();
        forward.ranges.retain(says);
    }
    let says = |bandwidth: &Bandwidth| bandwidth.inbound.is_some() || bandwidth.outbound.is_some();
    interface.bandwidth = interface.bandwidth.take().filter(says);
}

/// A rate of nothing is none.
fn canonical_bandwidth(bandwidth: &mut Bandwidth) {
    for rate in bandwidth.inbound.iter_mut().chain(&mut bandwidth.outbound) {
        for number in [
            &mut rate.average,
            &mut rate.peak,
            &mut rate.floor,
            &mut rate.burst,
        ] {
            *number = number.filter(|number| *number != 0);
        }
    }
    let says = |rate: &Rate| rate.average.is_some() || rate.floor.is_some();
    for rate in [&mut bandwidth.inbound, &mut bandwidth.outbound] {
        *rate = rate.take().filter(says);
    }
}

/// Of an association with a switch, what its protocol knows.
fn canonical_virtual_port(port: &mut VirtualPort) {
    use VirtualPortKind::{Midonet, Openvswitch, Qbg, Qbh};
    let Some(parameters) = &mut port.parameters else {
        return;
    };
    parameters.profileid = parameters.profileid.take().filter(|id| !id.is_empty());
    let Some(kind) = port.kind.filter(|kind| *kind != VirtualPortKind::None) else {
        return;
    };
    if kind != Qbg {
        clear!(parameters; managerid, typeid, typeidversion, instanceid);
    }
    if !matches!(kind, Openvswitch | Midonet) {
        clear!(parameters; interfaceid);
    }
    if !matches!(kind, Openvswitch | Qbh) {
        clear!(parameters; profileid);
    }
}

fn canonical_plug(kind: InterfaceKind, source: &mut InterfaceSource) {
    use InterfaceKind::{
        Bridge, Client, Direct, Hostdev, Internal, Mcast, Network, Server, Udp, User, Vdpa, Vds, Vhostuser,
    };
    if kind != Network {
        clear!(source; network, portgroup);
    }
    if !matches!(kind, Network | Vds) {
        clear!(source; portid);
    }
    if !matches!(kind, Network | Bridge) {
        clear!(source; bridge, mac_table_manager);
    }
    if kind != Vhostuser {
        clear!(source; transport, path, reconnect);
    }
    if !matches!(kind, Server | Client | Mcast | Udp) {
        clear!(source; address, port);
    }
    if kind != Udp {
        clear!(source; local);
    }
    if kind != Internal {
        clear!(source; name);
    }
    if !matches!(kind, Direct | Vdpa | User | Vhostuser | Network) {
        clear!(source; dev);
    }
    if !matches!(kind, Direct | Vhostuser | Network) {
        clear!(source; mode);
    }
    if kind != Vds {
        clear!(source; switchid, portgroupid, connectionid);
    }
    if kind != Hostdev {
        clear!(source; missing, host_device, origstates);
    }
    source.ips.iter_mut().for_each(canonical_ip);
    source.routes.iter_mut().for_each(canonical_route);
}

pub(super) fn canonical_address(address: &mut String) {
    if let Some(known) = crate::inet::numeric_address(address) {
        *address = known.to_string();
    }
}

pub(super) fn canonical_route(route: &mut Route) {
    let addresses = [&mut route.address, &mut route.netmask, &mut route.gateway];
    addresses.into_iter().flatten().for_each(canonical_address);
}

pub(super) fn canonical_ip(ip: &mut Ip) {
    canonical_address(&mut ip.address);
    ip.peer.iter_mut().for_each(canonical_address);
    ip.family = ip
        .family
        .take()
        .filter(|family| family == "ipv4" || family == "ipv6");
    let family = if ip.address.contains(':') { "ipv6" } else { "ipv4" };
    ip.family.get_or_insert_with(|| family.to_owned());
    ip.prefix = ip.prefix.filter(|prefix| *prefix != 0);
}
