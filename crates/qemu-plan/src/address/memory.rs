//! Slots of memory modules.

use domxml::devices::{Address, Devices, DimmAddress, MemoryModel};

use crate::error::{Area, Code, Error, Result};

/// Gives memory modules that sit in a slot the next free one.
///
/// # Errors
/// When there are more modules than slots, or a slot is named twice.
pub(super) fn assign(devices: &mut Devices, slots: u32) -> Result<()> {
    let slotted = |m: MemoryModel| matches!(m, MemoryModel::Dimm | MemoryModel::Nvdimm);
    let mut taken = Vec::new();
    for memory in &devices.memories {
        if let Some(Address::Dimm(a)) = &memory.info.address {
            if a.slot >= slots {
                return Err(Error::xml(format!(
                    "memory device slot '{}' exceeds slots count '{slots}'",
                    a.slot
                )));
            }
            if taken.contains(&a.slot) {
                return Err(Error::xml(format!(
                    "memory device slot '{}' is already being used by another memory device",
                    a.slot
                )));
            }
            taken.push(a.slot);
        }
    }
    let modules = devices.memories.iter().filter(|m| slotted(m.model)).count();
    if modules > 0 && slots == 0 {
        return Err(Error::unsupported(
            "cannot use/hotplug a memory device when domain 'maxMemory' is not defined",
        ));
    }
    for memory in devices
        .memories
        .iter_mut()
        .filter(|m| slotted(m.model) && m.info.address.is_none())
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
