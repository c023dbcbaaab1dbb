//! Slots of memory modules.

use domxml::devices::{Address, Devices, DimmAddress, MemoryModel};

use crate::error::{Area, Code, Error, Result};

/// Gives memory modules that sit in a slot the next free one.
///
/// # Errors
/// When there are more modules than slots.
pub(super) fn assign(devices: &mut Devices, slots: u32) -> Result<()> {
    let slotted = |m: MemoryModel| matches!(m, MemoryModel::Dimm | MemoryModel::Nvdimm);
    let mut taken = Vec::new();
    for memory in &devices.memories {
        if let Some(Address::Dimm(a)) = &memory.info.address {
            taken.push(a.slot);
        }
    }
    if slots == 0 {
        return Ok(());
    }
    for memory in devices
        .memories
        .iter_mut()
        .filter(|m| slotted(m.model) && !matches!(m.info.address, Some(Address::Dimm(_))))
    {
        let free = (0..slots).find(|s| !taken.contains(s));
        let slot = free
            .ok_or_else(|| Error::new(Code::Internal, Area::Qemu, "failed to find an empty memory slot"))?;
        taken.push(slot);
        memory.info.address = Some(Address::Dimm(DimmAddress {
            slot,
            ..DimmAddress::default()
        }));
    }
    Ok(())
}
