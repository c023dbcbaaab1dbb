//! How much memory a guest's process may lock, which follows its devices: those that write into its memory by themselves need
//! all of it locked.
//!
//! Called by a start, by whatever plugs such devices and memory, and once they have left. The limit that the process had
//! before is kept in the status file, where libvirt keeps it, and comes back with the last such device.

use domxml::devices::{Device, InterfaceKind, StorageKind};
use qemu_plan::command::net;

use crate::{
    domain::{Effects, View, facts::Facts},
    error::{Area, Error, Result},
    ops::{holdings::hostdev, operation::undo::Undo},
};

/// What a guest may lock, in bytes; none if it has nothing that locks memory.
pub(crate) fn wanted(document: &domxml::Domain) -> Option<u64> {
    let devices = &document.devices;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let cards = devices
        .interfaces
        .iter()
        .filter(|card| card.kind == InterfaceKind::Vdpa);
    let disks = |kind| devices.disks.iter().filter(move |disk| disk.kind == kind).count();
    confine::memlock(&confine::LockedMemory {
        memory: Facts::of(document).memory_kib.saturating_mul(1024),
        hard_limit: document.memtune.and_then(|m| m.hard_limit).map(|k| k.bytes()),
        locked: document.memory_backing.as_ref().is_some_and(|m| m.locked),
        vfio: hostdev::of_vfio(document),
        vdpa: count(cards.count().saturating_add(disks(StorageKind::VhostVdpa))),
        nvme: count(disks(StorageKind::Nvme)),
        iommu: devices.iommu.is_some(),
    })
}

/// Whether what a guest may lock depends on a device.
pub(crate) fn counts(device: &Device) -> bool {
    match device {
        Device::Memory(_) | Device::Hostdev(_) => true,
        Device::Interface(card) => matches!(net::kind(card), InterfaceKind::Vdpa | InterfaceKind::Hostdev),
        Device::Disk(disk) => matches!(disk.kind, StorageKind::VhostVdpa | StorageKind::Nvme),
        _ => false,
    }
}

/// A change of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    /// What is set, bytes.
    set: u64,
    /// What is kept, to come back.
    original: Option<u64>,
}

/// What follows from what is wanted, from what was before the first change, and from what is now.
fn turn(wanted: Option<u64>, original: Option<u64>, now: u64) -> Option<Turn> {
    match (wanted, original) {
        (Some(set), _) => Some(Turn {
            set,
            original: original.or(Some(now)),
        }),
        (None, Some(before)) => Some(Turn {
            set: before,
            original: None,
        }),
        (None, None) => None,
    }
}

/// Sets what the process of a running guest may lock once it has the devices of a document; what is to be kept in the status
/// file.
///
/// # Errors
/// The kernel's.
pub(crate) fn follow(
    view: &View,
    pid: i32,
    document: &domxml::Domain,
    undo: Option<&mut Undo>,
) -> Result<Option<u64>> {
    let original = view.running()?.status.original_memlock;
    let wanted = wanted(document);
    if wanted.is_none() && original.is_none() {
        return Ok(None);
    }
    let failed = |error| {
        Error::system(
            format_args!("cannot get locked memory limit of process {pid}"),
            error,
        )
    };
    let now = unixfd::locked_memory(pid).map_err(|error| failed(error).in_area(Area::None))?;
    let Some(turn) = turn(wanted, original, now) else {
        return Ok(None);
    };
    if turn.set != now {
        set(pid, turn.set)?;
        if let Some(undo) = undo {
            undo.push("the limit of locked memory", async move { set(pid, now) });
        }
    }
    Ok(turn.original)
}

fn set(pid: i32, bytes: u64) -> Result<()> {
    unixfd::set_locked_memory(pid, bytes).map_err(|error| {
        let what = format!("cannot limit locked memory of process {pid} to {bytes}");
        Error::system(what, error).in_area(Area::None)
    })
}

/// Keeps it in the status file.
pub(crate) fn keep(view: &mut View, original: Option<u64>) -> Effects {
    if let Some(run) = view
        .run
        .as_mut()
        .filter(|run| run.status.original_memlock != original)
    {
        let mut status = domxml::StatusDocument::clone(&run.status);
        status.original_memlock = original;
        run.status = std::sync::Arc::new(status);
    }
    Effects::none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_limit_follows_the_devices_and_comes_back() {
        let turned = |set, original| Some(Turn { set, original });
        // table: wanted, kept, now, the change.
        for (wanted, original, now, expected) in [
            (None, None, 7, None),
            (Some(5 * GIB), None, 7, turned(5 * GIB, Some(7))),
            (Some(6 * GIB), Some(7), 5 * GIB, turned(6 * GIB, Some(7))),
            (Some(5 * GIB), Some(7), 5 * GIB, turned(5 * GIB, Some(7))),
            (None, Some(7), 5 * GIB, turned(7, None)),
        ] {
            assert_eq!(
                turn(wanted, original, now),
                expected,
                "{wanted:?} {original:?} {now}"
            );
        }
    }

    #[test]
    fn what_is_wanted_counts_devices_that_map_memory() {
        let of = |devices: &str| {
            let text = format!(
                "<domain type='qemu'><name>a</name><memory unit='GiB'>1</memory><os><type>hvm</type></os>\
                 <devices>{devices}</devices></domain>"
            );
            wanted(&domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap())
        };
        let vdpa = "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>";
        let nvme =
            "<disk type='nvme' device='disk'><source type='pci' namespace='1'/><target dev='vda'/></disk>";
        let device = "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/>\
                      </source></hostdev>";
        assert_eq!(of(""), None);
        assert_eq!(of(vdpa), Some(2 * GIB));
        assert_eq!(of(&vdpa.repeat(2)), Some(3 * GIB));
        assert_eq!(of(&nvme.repeat(2)), Some(2 * GIB));
        assert_eq!(of(&device.repeat(2)), Some(2 * GIB));
        assert_eq!(of(&[vdpa, device].concat()), Some(3 * GIB));
    }
}
