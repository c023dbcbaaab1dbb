//! Slots of memory modules.

use domxml::devices::{Address, Devices, DimmAddress, MemoryModel};

use crate::error::{Area, Code, Error, Result};

/// Gives memory modules that sit in a slot the next free one, where memory can be plugged in at all.
///
/// # Errors
/// When there are more modules than slots.
pub(super) fn assign(devices: &mut Devices, slots: Option<u32>) -> Result<()> {
    let slotted = |m: MemoryModel| matches!(m, MemoryModel::Dimm | MemoryModel::Nvdimm);
    let mut taken = Vec::new();
    for memory in &devices.memories {
        if let Some(Address::Dimm(a)) = &memory.info.address {
            taken.push(a.slot);
        }
    }
    let Some(slots) = slots else { return Ok(()) };
    for memory in devices
        .memories
        .iter_mut()
        .filter(|m| slotted(m.model) && !matches!(m.info.address, Some(Address::Dimm(_))))
    {
        let free = (0..slots).find(|s| !taken.contains(s));
        let slot = free
            .ok_or_else(|| Error::new(Code::Internal, Area::Qemu, "failed to find an empty memory slot"))?;
        taken.push(slot);
        let base = memory.info.address.as_ref().and_then(base_of);
        memory.info.address = Some(Address::Dimm(DimmAddress { slot, base }));
    }
    Ok(())
}

/// Where a module is that was given an address of another kind: libvirt keeps both in one place, and what stands there is
/// read as the base.
fn base_of(address: &Address) -> Option<u64> {
    let (low, high) = match address {
        Address::Pci(pci) => (pci.slot, pci.function),
        Address::Drive(drive) => (drive.target, drive.unit),
        _ => return None,
    };
    Some(u64::from(high) << 32 | u64::from(low)).filter(|base| *base != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_kind_is_read_as_the_base() {
        let pci = domxml::devices::PciAddress {
            slot: 9,
            function: 1,
            ..Default::default()
        };
        assert_eq!(base_of(&Address::Pci(pci)), Some(0x1_0000_0009));
        let drive = domxml::devices::DriveAddress {
            controller: 1,
            bus: 2,
            target: 3,
            unit: 4,
        };
        assert_eq!(base_of(&Address::Drive(drive)), Some(0x4_0000_0003));
        assert_eq!(
            base_of(&Address::Pci(domxml::devices::PciAddress::default())),
            None
        );
    }
}
