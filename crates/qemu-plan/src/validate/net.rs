//! Network cards.

use domxml::devices::{Interface, InterfaceKind, NetBackendKind};
use domxml::tuning::MemoryAccess;

use super::Guest;
use crate::error::{Error, Result};

pub(super) fn checks(guest: &Guest<'_>) -> Result<()> {
    guest.def.devices.interfaces.iter().try_for_each(|card| {
        forwarding(card)?;
        queues(card)?;
        if card.kind == InterfaceKind::Vhostuser && !shares_memory(guest) {
            return Err(Error::unsupported("'interface' requires shared memory"));
        }
        Ok(())
    })
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
        Err(Error::unsupported(format!(
            "{name} has to be a power of two"
        )))
    })
}

/// Whether another process can map the guest's memory.
fn shares_memory(guest: &Guest<'_>) -> bool {
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
