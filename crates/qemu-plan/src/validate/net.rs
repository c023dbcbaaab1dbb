//! Network cards.

use domxml::Domain;
use domxml::devices::interface::MacvtapMode;
use domxml::devices::{Interface, InterfaceKind, NetBackendKind, TeamingKind};
use domxml::tuning::MemoryAccess;

use super::Guest;
use crate::error::{Area, Code, Error, Result};

pub(super) fn checks(guest: &Guest<'_>) -> Result<()> {
    guest.def.devices.interfaces.iter().try_for_each(|card| {
        forwarding(card)?;
        options(card)?;
        queues(card)?;
        if card.kind == InterfaceKind::Vhostuser && !shares_memory(guest) {
            return Err(Error::unsupported("'interface' requires shared memory"));
        }
        Ok(())
    })
}

/// What a document must say of a card, whatever becomes of it.
pub(super) fn shapes(def: &Domain) -> Result<()> {
    def.devices.interfaces.iter().try_for_each(|card| {
        let kind = card.kind.as_str();
        let needs = matches!(
            card.kind,
            InterfaceKind::Bridge | InterfaceKind::Network | InterfaceKind::Direct
        );
        if needs && card.source.is_none() {
            return Err(Error::xml(format!(
                "interface type='{kind}' requires a 'source' element"
            )));
        }
        if card.virtualport.is_some() && !HAVE_VIRTUAL_PORT.contains(&card.kind) {
            return Err(Error::unsupported(format!(
                "<virtualport> element unsupported for <interface type='{kind}'>"
            )));
        }
        direct_source(card)?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if card.model.as_deref().is_some_and(|m| !m.chars().all(word)) {
            let message = "Model name contains invalid characters";
            return Err(Error::new(Code::InvalidArg, Area::Domain, message));
        }
        card.mac.as_ref().map_or(Ok(()), |mac| address(&mac.address))
    })
}

/// What a macvtap must say of the device below.
fn direct_source(card: &Interface) -> Result<()> {
    let Some(source) = card
        .source
        .as_ref()
        .filter(|_| card.kind == InterfaceKind::Direct)
    else {
        return Ok(());
    };
    if source.dev.is_none() {
        return Err(Error::xml("Missing required attribute 'dev' in element 'source'"));
    }
    match source.mode.as_deref() {
        Some(mode) if mode.parse::<MacvtapMode>().is_err() => Err(Error::xml(format!(
            "Invalid value for attribute 'mode' in element 'source': '{mode}'."
        ))),
        _ => Ok(()),
    }
}

fn address(mac: &str) -> Result<()> {
    let bytes: Option<Vec<u8>> = mac.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    match bytes.as_deref() {
        Some([first, _, _, _, _, _]) if first & 1 == 0 => Ok(()),
        Some([_, _, _, _, _, _]) => Err(Error::xml(format!(
            "expected unicast mac address, found multicast '{mac}'"
        ))),
        _ => Err(Error::xml(format!("unable to parse mac address '{mac}'"))),
    }
}

/// Kinds that a switch can be told of.
const HAVE_VIRTUAL_PORT: &[InterfaceKind] = &[
    InterfaceKind::Network,
    InterfaceKind::Bridge,
    InterfaceKind::Direct,
    InterfaceKind::Hostdev,
];

/// Kinds whose host side has an MTU.
const HAVE_MTU: &[InterfaceKind] = &[
    InterfaceKind::Network,
    InterfaceKind::Bridge,
    InterfaceKind::Ethernet,
    InterfaceKind::Vhostuser,
];

fn options(card: &Interface) -> Result<()> {
    if card.mtu.is_some() && !HAVE_MTU.contains(&card.kind) {
        let kind = card.kind.as_str();
        return Err(Error::unsupported(format!(
            "setting MTU on interface type {kind} is not supported yet"
        )));
    }
    if card.coalesce.is_some() && !matches!(card.kind, InterfaceKind::Network | InterfaceKind::Bridge) {
        let kind = card.kind.as_str();
        return Err(Error::unsupported(format!(
            "coalesce settings on interface type {kind} are not supported"
        )));
    }
    let persistent = card
        .teaming
        .as_ref()
        .is_some_and(|t| t.kind == TeamingKind::Persistent);
    let model = card.model.as_deref().unwrap_or_default();
    if persistent && model != "virtio" {
        return Err(Error::unsupported(format!(
            "virtio-net teaming persistent interface must be <model type='virtio'/>, not '{model}'"
        )));
    }
    Ok(())
}

fn forwarding(card: &Interface) -> Result<()> {
    let passt = card.backend.as_ref().and_then(|b| b.kind) == Some(NetBackendKind::Passt);
    let forwards = passt && matches!(card.kind, InterfaceKind::User | InterfaceKind::Vhostuser);
    if !card.port_forwards.is_empty() && !forwards {
        return Err(Error::conflicting(
            "The <portForward> element can only be used with the 'passt' backend of interface type='user' or type='vhostuser'",
        ));
    }
    Ok(())
}

fn queues(card: &Interface) -> Result<()> {
    let Some(driver) = &card.driver else {
        return Ok(());
    };
    let sizes = [
        ("rx_queue_size", driver.rx_queue_size),
        ("tx_queue_size", driver.tx_queue_size),
    ];
    let odd = sizes
        .iter()
        .find(|(_, size)| size.is_some_and(|s| !s.is_power_of_two()));
    odd.map_or(Ok(()), |(name, _)| {
        Err(Error::unsupported(format!("{name} has to be a power of two")))
    })
}

/// Whether another process can map the guest's memory.
pub(super) fn shares_memory(guest: &Guest<'_>) -> bool {
    let shared = |m: &domxml::tuning::MemoryBacking| m.access == Some(MemoryAccess::Shared);
    let cells = guest
        .def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map_or(&[][..], |n| n.cells.as_slice());
    let shared_cell = |c: &domxml::cpu::Cell| c.mem_access == Some(domxml::cpu::MemAccess::Shared);
    guest.def.memory_backing.as_ref().is_some_and(shared)
        || !cells.is_empty() && cells.iter().all(shared_cell)
}
