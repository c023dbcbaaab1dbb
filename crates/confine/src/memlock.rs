//! How much memory a guest's process may lock.
//!
//! Devices that write into guest memory by themselves need all of it locked, once for each address space that
//! maps it, and 1 GiB for their own registers.

/// Added for memory-mapped registers of assigned devices, in bytes.
const DEVICE_SPACE: u64 = 1 << 30;

/// What of a guest decides how much is locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockedMemory {
    /// Its memory, hot-plugged included, in bytes.
    pub memory: u64,
    /// `<memtune><hard_limit>` in bytes: the administrator's own word.
    pub hard_limit: Option<u64>,
    /// `<memoryBacking><locked/>`.
    pub locked: bool,
    /// Host devices through VFIO, mediated ones included.
    pub vfio: u32,
    /// vDPA interfaces and disks: each maps memory by itself.
    pub vdpa: u32,
    /// NVMe disks driven by QEMU itself.
    pub nvme: u32,
    /// It has a virtual IOMMU: then each VFIO device maps memory by itself, else all share one map.
    pub iommu: bool,
}

/// The limit in bytes, `u64::MAX` for none; absent when the guest locks nothing.
#[must_use]
pub fn memlock(guest: &LockedMemory) -> Option<u64> {
    let vfio = if guest.iommu {
        guest.vfio
    } else {
        guest.vfio.min(1)
    };
    let maps = u64::from(vfio) + u64::from(guest.vdpa) + u64::from(guest.nvme.min(1));
    if !guest.locked && maps == 0 {
        return None;
    }
    match guest.hard_limit {
        Some(limit) => Some(limit),
        // QEMU locks its own memory too, and nobody knows how much that is.
        None if guest.locked => Some(u64::MAX),
        None => Some(guest.memory.saturating_mul(maps).saturating_add(DEVICE_SPACE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_limit_follows_what_maps_memory() {
        let plain = LockedMemory {
            memory: 4 * GIB,
            ..LockedMemory::default()
        };
        let cases = [
            (plain, None),
            (
                LockedMemory {
                    hard_limit: Some(9),
                    ..plain
                },
                None,
            ),
            (
                LockedMemory {
                    locked: true,
                    ..plain
                },
                Some(u64::MAX),
            ),
            (
                LockedMemory {
                    locked: true,
                    hard_limit: Some(9),
                    ..plain
                },
                Some(9),
            ),
            (LockedMemory { vfio: 1, ..plain }, Some(5 * GIB)),
            (LockedMemory { vfio: 3, ..plain }, Some(5 * GIB)),
            (
                LockedMemory {
                    vfio: 3,
                    iommu: true,
                    ..plain
                },
                Some(13 * GIB),
            ),
            (
                LockedMemory {
                    vfio: 1,
                    vdpa: 2,
                    ..plain
                },
                Some(13 * GIB),
            ),
            (
                LockedMemory {
                    vfio: 1,
                    locked: true,
                    ..plain
                },
                Some(u64::MAX),
            ),
            (
                LockedMemory {
                    vfio: 1,
                    memory: u64::MAX,
                    ..plain
                },
                Some(u64::MAX),
            ),
        ];
        for (guest, limit) in cases {
            assert_eq!(memlock(&guest), limit, "{guest:?}");
        }
    }
}
