//! Network cards: address, model, and settings that the kind or model does not have.

use domxml::devices::{
    Interface, InterfaceDriver, InterfaceKind, InterfaceSource, InterfaceTarget, Mac, NetBackendKind,
    VirtualPortKind, interface::MODELS,
};

use super::Ids;

/// Model of a card that names none.
const DEFAULT_MODEL: &str = "rtl8139";

/// Fills in one card.
pub(super) fn fill(card: &mut Interface, ids: &mut dyn Ids) {
    match &mut card.mac {
        Some(mac) if mac.address.is_empty() => mac.address = ids.mac(),
        Some(mac) => mac.address.make_ascii_lowercase(),
        None => {
            card.mac = Some(Mac {
                address: ids.mac(),
                ..Mac::default()
            })
        }
    }
    if let Some(model) = &mut card.model {
        let known = MODELS.iter().find(|known| known.eq_ignore_ascii_case(model));
        if let Some(known) = known {
            (*known).clone_into(model);
        }
    }
    if card.model.is_none() {
        card.model = match card.kind {
            InterfaceKind::Hostdev => None,
            InterfaceKind::Vdpa | InterfaceKind::Vhostuser => Some("virtio".to_owned()),
            _ => Some(DEFAULT_MODEL.to_owned()),
        };
    }
    fill_plug(card, ids);
    drop_foreign(card);
}

/// Beginnings of the names that the daemon gives to host interfaces; they are made anew at each start.
const GENERATED: &[&str] = &["vnet", "macvtap", "macvlan"];

fn fill_plug(card: &mut Interface, ids: &mut dyn Ids) {
    if let Some(target) = &mut card.target {
        let generated = |n: &String| GENERATED.iter().any(|p| n.starts_with(p));
        target.dev = target.dev.take().filter(|n| !generated(n));
    }
    card.target = card.target.take().filter(|t| *t != InterfaceTarget::default());
    if card.kind == InterfaceKind::Direct
        && let Some(source) = &mut card.source
    {
        source.mode.get_or_insert_with(|| "vepa".to_owned());
    }
    if let Some(port) = &mut card.virtualport
        && port.kind == Some(VirtualPortKind::Openvswitch)
    {
        let parameters = port.parameters.get_or_insert_default();
        parameters
            .interfaceid
            .get_or_insert_with(|| ids.uuid().to_string());
    }
    // Which protocol it is decides the network, so that nothing may be missing.
    if let Some(port) = card.virtualport.as_mut().filter(|port| port.kind.is_none())
        && let Some(parameters) = &mut port.parameters
    {
        for id in [&mut parameters.instanceid, &mut parameters.interfaceid] {
            id.get_or_insert_with(|| ids.uuid().to_string());
        }
    }
    if card.kind == InterfaceKind::Vhostuser
        && let Some(source) = card.source.as_mut().filter(|source| source.transport.is_some())
    {
        source.mode.get_or_insert_with(|| "client".to_owned());
    }
}

/// Kinds whose traffic the host can filter.
const FILTERED: &[InterfaceKind] = &[
    InterfaceKind::Network,
    InterfaceKind::Bridge,
    InterfaceKind::Ethernet,
];

/// Settings of virtio cards mean nothing elsewhere and are not kept.
fn drop_foreign(card: &mut Interface) {
    let virtio = card.model.as_deref().is_some_and(|m| m.starts_with("virtio"));
    if !virtio && card.kind != InterfaceKind::Hostdev {
        // What no other card has at all is left for the checks to refuse.
        card.driver = card.driver.take().map(|driver| InterfaceDriver {
            virtio: driver.virtio,
            ..InterfaceDriver::default()
        });
        if let Some(backend) = &mut card.backend {
            backend.vhost = None;
        }
    }
    if let Some(driver) = &mut card.driver {
        driver.queues = driver.queues.filter(|q| *q > 1);
        if *driver == InterfaceDriver::default() {
            card.driver = None;
        }
    }
    let passt = card.backend.as_ref().and_then(|b| b.kind) == Some(NetBackendKind::Passt);
    // Addresses on the host are left for the checks to refuse.
    let has_addresses = |source: &InterfaceSource| !source.ips.is_empty() || !source.routes.is_empty();
    if card.kind == InterfaceKind::User && !passt {
        card.source = card.source.take().filter(has_addresses);
    }
    if !FILTERED.contains(&card.kind) {
        card.filterref = None;
    }
    if card.kind == InterfaceKind::Hostdev {
        card.driver = card.driver.take().filter(|d| d.hostdev_name().is_some());
    }
}
