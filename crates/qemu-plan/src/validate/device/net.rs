//! Network cards: what any hypervisor refuses, then what QEMU does.

use domxml::devices::{
    Address, Bandwidth, Interface, InterfaceKind, Ip, NetBackendKind, PortForward, SocketMode, TeamingKind,
    YesNo, interface::MODELS,
};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::{Error, Result};

/// Largest rate of traffic, KiB a second; and largest burst, KiB.
const RATE: u64 = 18_014_398_509_481_984;
const BURST: u64 = 4_194_303;

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, card: &Interface) -> Result<()> {
    check(GENERIC, guest, card)?;
    card.bandwidth.as_ref().map_or(Ok(()), bandwidth)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, card: &Interface) -> Result<()> {
    check(ROUTES, guest, card)?;
    if is_user(card) {
        check(BACKEND, guest, card)?;
        addresses(&card.ips)?;
    }
    check(QEMU, guest, card)
}

rules! {
    /// What no hypervisor takes.
    GENERIC(guest, card: Interface) {
        internal "PCI host devices must use 'pci' or 'unassigned' address type"
            if card.kind == InterfaceKind::Hostdev
                && card.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_) | Address::Unassigned));
        conflicting "Invalid attempt to set network interface host-side IP route and/or address info on interface of type '{}'. This is only supported on interfaces of type 'ethernet'"
            (card.kind.as_str())
            if card.kind != InterfaceKind::Ethernet
                && card.source.as_ref().is_some_and(|s| !s.ips.is_empty() || !s.routes.is_empty());
        conflicting "unmanaged target dev is not supported on interfaces of type '{}'" (card.kind.as_str())
            if card.kind != InterfaceKind::Ethernet
                && card.target.as_ref().is_some_and(|t| t.managed == Some(YesNo::No));
        conflicting "teaming persistent attribute must be set if teaming type is 'transient'"
            if card.teaming.as_ref().is_some_and(|t| t.kind == Some(TeamingKind::Transient)
                && t.persistent.is_none());
        conflicting "teaming persistent attribute not allowed if teaming type is '{}'"
            (card.teaming.as_ref().and_then(|t| t.kind).map_or("", |k| k.as_str()))
            if card.teaming.as_ref().is_some_and(|t| t.kind != Some(TeamingKind::Transient)
                && t.persistent.is_some());
        conflicting "interface {} - <port isolated='yes'/> is not supported for network interfaces with type='{}'"
            (mac(card), card.kind.as_str())
            if isolated(card) && !matches!(card.kind, InterfaceKind::Network | InterfaceKind::Bridge);
        conflicting "interface {} - <port isolated='yes'/> is not supported for network interfaces with virtualport type='{}'"
            (mac(card), card.virtualport.as_ref().and_then(|p| p.kind).map_or("", |k| k.as_str()))
            if isolated(card) && card.virtualport.as_ref().is_some_and(|p| p.kind.is_some());
        conflicting "{} is only supported for virtio devices"
            (super::virtio_option(card.driver.as_ref().map(|d| &d.virtio)))
            if !is_virtio(card) && super::has_virtio_options(card.driver.as_ref().map(|d| &d.virtio));
        conflicting "The 'passt' backend can only be used with interface type='user' or type='vhostuser'"
            if passt(card) && !matches!(card.kind, InterfaceKind::User | InterfaceKind::Vhostuser);
        conflicting "The <portForward> element can only be used with the 'passt' backend of interface type='user' or type='vhostuser'"
            if !card.port_forwards.is_empty() && !passt(card);
        conflicting "The 'range' of a 'portForward' requires 'start' attribute if 'end', 'to', or 'exclude' is specified"
            if card.port_forwards.iter().any(has_open_range);
    }
}

rules! {
    /// Routes of the guest are the guest's own matter.
    ROUTES(guest, card: Interface) {
        unsupported "Invalid attempt to set network interface guest-side IP route, not supported by QEMU"
            if !card.routes.is_empty();
    }
}

rules! {
    /// Networks that a process makes up.
    BACKEND(guest, card: Interface) {
        unsupported "the '{}' network backend is not supported with this QEMU binary" (backend(card))
            if !guest.caps.has(if passt(card) { Flag::NetdevStream } else { Flag::NetdevUser });
        unsupported "Invalid attempt to set peer IP for guest" if card.ips.iter().any(|ip| ip.peer.is_some());
    }
}

rules! {
    /// What QEMU does not take.
    QEMU(guest, card: Interface) {
        unsupported "Invalid attempt to set network interface guest-side IP address info, not supported by QEMU"
            if !is_user(card) && !card.ips.is_empty();
        unsupported "vDPA devices are not supported with this QEMU binary"
            if card.kind == InterfaceKind::Vdpa && !guest.caps.has(Flag::NetdevVhostVdpa);
        xml_qemu "Missing required attribute '{}' in element '{}'" ("path", "source")
            if socket(card) && card.source.as_ref().is_none_or(|s| s.path.is_none());
        unsupported "'reconnect' attribute is not supported when source mode='server' for <interface type='vhostuser'>"
            if socket(card) && card.source.as_ref().is_some_and(|s| {
                s.mode.as_deref() == Some(SocketMode::Server.as_str())
                    && s.reconnect.as_ref().is_some_and(|r| r.enabled == Some(YesNo::Yes))
            });
        unsupported "'interface' requires shared memory"
            if card.kind == InterfaceKind::Vhostuser && !guest.shares_memory();
        unsupported "invalid model for interface of type '{}': '{}' - must be 'virtio'"
            (card.kind.as_str(), known_model(card))
            if matches!(card.kind, InterfaceKind::Vdpa | InterfaceKind::Vhostuser) && !is_virtio(card);
        unsupported "{} has to be a power of two" (odd_queue(card).unwrap_or_default())
            if is_virtio(card) && odd_queue(card).is_some();
        unsupported "virtio rss is not supported with this QEMU binary"
            if is_virtio(card) && card.driver.as_ref().is_some_and(|d| d.rss.is_some())
                && !guest.caps.has(Flag::VirtioNetRss);
        unsupported "virtio rss hash report is not supported with this QEMU binary"
            if is_virtio(card) && card.driver.as_ref().is_some_and(|d| d.rss_hash_report.is_some())
                && !guest.caps.has(Flag::VirtioNetRss);
        unsupported "setting MTU on interface type {} is not supported yet" (card.kind.as_str())
            if card.mtu.is_some_and(|m| m > 0) && !has_mtu(card);
        unsupported "virtio-net teaming persistent interface must be <model type='virtio'/>, not '{}'"
            (model(card))
            if card.teaming.as_ref().is_some_and(|t| t.kind == Some(TeamingKind::Persistent)) && !is_virtio(card);
        unsupported "virtio-net teaming transient interface must be type='hostdev', not '{}'"
            (card.kind.as_str())
            if card.teaming.as_ref().is_some_and(|t| t.kind == Some(TeamingKind::Transient))
                && !matches!(card.kind, InterfaceKind::Hostdev | InterfaceKind::Network);
        unsupported "coalesce settings on interface type {} are not supported" (card.kind.as_str())
            if card.coalesce.is_some() && !matches!(card.kind, InterfaceKind::Network | InterfaceKind::Bridge);
    }
}

/// At most one address of each family, with a length of prefix that QEMU's network takes.
fn addresses(ips: &[Ip]) -> Result<()> {
    let (mut old, mut new) = (0, 0);
    for ip in ips {
        let is_new = ip.address.contains(':');
        let (count, family) = if is_new {
            (&mut new, "IPv6")
        } else {
            (&mut old, "IPv4")
        };
        *count += 1;
        if *count > 1 {
            return Err(Error::unsupported(format!(
                "Only one {family} address per interface is allowed"
            )));
        }
        match ip.prefix.unwrap_or(0) {
            0 => {}
            64 if is_new => {}
            prefix if is_new => {
                return Err(Error::unsupported(format!(
                    "unsupported IPv6 address prefix='{prefix}' - must be 64"
                )));
            }
            4..=27 => {}
            _ => return Err(Error::xml_qemu("invalid prefix, must be in range of 4-27")),
        }
    }
    Ok(())
}

/// Rates that the kernel can count.
fn bandwidth(bandwidth: &Bandwidth) -> Result<()> {
    for rate in [&bandwidth.inbound, &bandwidth.outbound].into_iter().flatten() {
        let limits = [
            ("average", rate.average, RATE),
            ("peak", rate.peak, RATE),
            ("burst", rate.burst, BURST),
            ("floor", rate.floor, RATE),
        ];
        for (name, value, most) in limits {
            if let Some(value) = value.filter(|v| *v > most) {
                return Err(Error::overflow(format!(
                    "value '{value}' is too big for '{name}' parameter, maximum is '{most}'"
                )));
            }
        }
    }
    Ok(())
}

fn passt(card: &Interface) -> bool {
    card.backend.as_ref().and_then(|b| b.kind) == Some(NetBackendKind::Passt)
}

fn backend(card: &Interface) -> &'static str {
    if passt(card) { "passt" } else { "default" }
}

/// Whether a process of the host makes up the network.
fn is_user(card: &Interface) -> bool {
    card.kind == InterfaceKind::User || card.kind == InterfaceKind::Vhostuser && passt(card)
}

/// Whether the card is behind a socket that somebody else serves.
fn socket(card: &Interface) -> bool {
    card.kind == InterfaceKind::Vhostuser && !passt(card)
}

fn isolated(card: &Interface) -> bool {
    card.isolated == Some(YesNo::Yes)
}

fn model(card: &Interface) -> &str {
    card.model.as_deref().unwrap_or_default()
}

/// The name of a model that libvirt has a name for.
fn known_model(card: &Interface) -> &str {
    match model(card) {
        known if MODELS.contains(&known) => known,
        _ => "unknown",
    }
}

fn is_virtio(card: &Interface) -> bool {
    ["virtio", "virtio-transitional", "virtio-non-transitional"].contains(&model(card))
}

fn mac(card: &Interface) -> &str {
    card.mac.as_ref().map_or("", |m| m.address.as_str())
}

fn odd_queue(card: &Interface) -> Option<&'static str> {
    let driver = card.driver.as_ref()?;
    let sizes = [
        ("rx_queue_size", driver.rx_queue_size),
        ("tx_queue_size", driver.tx_queue_size),
    ];
    let odd = |size: Option<u32>| size.is_some_and(|s| s > 0 && !s.is_power_of_two());
    sizes.iter().find(|(_, size)| odd(*size)).map(|(name, _)| *name)
}

fn has_mtu(card: &Interface) -> bool {
    match card.kind {
        InterfaceKind::User => passt(card),
        kind => matches!(
            kind,
            InterfaceKind::Network
                | InterfaceKind::Bridge
                | InterfaceKind::Ethernet
                | InterfaceKind::Vhostuser
        ),
    }
}

fn has_open_range(forward: &PortForward) -> bool {
    let open = |r: &domxml::devices::PortRange| {
        r.start == 0 && (r.end.is_some() || r.to.is_some() || r.exclude.is_some())
    };
    forward.ranges.iter().any(open)
}
