//! Memory modules.

use domxml::Domain;
use domxml::devices::{
    Address, Device, DeviceInfo, Devices, Family, Memory, MemoryModel, MemorySource, MemoryTarget, Place,
    Size,
};

use super::{Rules, Side, first, is_alike, is_named, missing};
use crate::error::{Area, Code, Error, Result};
use crate::facts::size;

/// Granularity of a module that is plugged in, KiB.
const STEP_KIB: u64 = 1024;

impl Rules for Memory {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        let celled = matches!(
            self.model,
            MemoryModel::Dimm | MemoryModel::Nvdimm | MemoryModel::VirtioMem
        );
        match side {
            Side::Live if celled && target(self).node.is_none() => Err(Error::unsupported(
                "target NUMA node needs to be specified for memory device",
            )),
            Side::Stored if has_its_place(def, &self.info) => Err(Error::new(
                Code::OperationInvalid,
                Area::Domain,
                "Domain already contains a device with the same address",
            )),
            _ => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        let all = &devices.memories;
        let is_meant = |other: &Memory| is_meant(self, other, side);
        let is_at = |other: &Memory| self.info.address.is_none() || self.info.address == other.info.address;
        let placed = |other: &Memory| is_at(other) && is_alike(&self.info, &other.info) && is_meant(other);
        // One without an address is meant by any.
        let placeless = |other: &Memory| {
            other.info.address.is_none() && is_alike(&self.info, &other.info) && is_meant(other)
        };
        match side {
            Side::Live => first(all, placed, || {
                missing(format!(
                    "model '{}' memory device not present in the domain configuration",
                    self.model.as_str()
                ))
            }),
            Side::Stored => first(all, placed, || missing(""))
                .or_else(|_| first(all, placeless, || missing("")))
                .map_err(|_| missing("matching memory device was not found")),
        }
    }
}

/// Whether another device is where this one is to be, if it says where.
fn has_its_place(def: &Domain, wanted: &DeviceInfo) -> bool {
    let Some(place) = wanted.address.as_ref().filter(|address| match address {
        Address::Pci(address) => !address.is_empty(),
        _ => true,
    }) else {
        return false;
    };
    let others = def
        .devices
        .iter()
        .filter_map(|device| device.info()?.address.as_ref());
    others.into_iter().any(|other| match (place, other) {
        (Address::Pci(one), Address::Pci(other)) => super::same_function(one, other),
        (one, other) => one == other,
    })
}

/// Whether there is room for a module that comes; for other devices there is.
///
/// # Errors
/// Libvirt's.
pub(super) fn check_room(def: &Domain, device: &Device) -> Result<()> {
    let Device::Memory(module) = device else {
        return Ok(());
    };
    let Some(max) = def.max_memory else {
        return Err(Error::conflicting(
            "cannot use/hotplug a memory device when domain 'maxMemory' is not defined",
        ));
    };
    let total = def.memory.map_or(0, |memory| memory.size.0);
    let (size, most) = (kib(module), max.size.0);
    if total.saturating_add(size) > most {
        return Err(Error::conflicting(format!(
            "Attaching memory device with size '{size}' would exceed domain's maxMemory config size '{most}'"
        )));
    }
    Ok(())
}

/// The size of a module, KiB.
pub fn kib(module: &Memory) -> u64 {
    size_kib(target(module).size.as_ref())
}

/// Rounds the size of a module up to what QEMU is told.
pub fn round(module: &mut Memory) {
    let rounded = kib(module).div_ceil(STEP_KIB).saturating_mul(STEP_KIB);
    if let Some(size) = module.target.as_mut().and_then(|target| target.size.as_mut()) {
        *size = Size {
            value: rounded,
            unit: Some("KiB".to_owned()),
        };
    }
}

/// The same for any device.
pub(super) fn rounded(mut device: Device) -> Device {
    if let Device::Memory(module) = &mut device {
        round(module);
    }
    device
}

fn is_meant(wanted: &Memory, has: &Memory, side: Side) -> bool {
    let mut wanted = wanted.clone();
    if side == Side::Live {
        round(&mut wanted);
    }
    let (one, two) = (target(&wanted), target(has));
    let same_requested = size_kib(one.requested.as_ref()) == size_kib(two.requested.as_ref());
    let same_block = size_kib(one.block.as_ref()) == size_kib(two.block.as_ref());
    let same_base = one.address == two.address;
    let (from, has_from) = (source(&wanted), source(has));
    let same_pages = size_kib(from.pagesize.as_ref()) == size_kib(has_from.pagesize.as_ref())
        && from.nodemask == has_from.nodemask;
    let same_path = from.path == has_from.path;
    wanted.model == has.model
        && one.node == two.node
        && kib(&wanted) == kib(has)
        && match wanted.model {
            MemoryModel::Dimm | MemoryModel::SgxEpc => same_pages,
            MemoryModel::VirtioMem => same_pages && same_block && same_requested && same_base,
            MemoryModel::Nvdimm => same_path,
            MemoryModel::VirtioPmem => same_path && same_base,
        }
}

/// Finds the module that an update means and checks that only the requested size of a virtio-mem device differs; a stored
/// module may be any other.
///
/// # Errors
/// Libvirt's.
pub(super) fn update(def: &Domain, new: &Memory, side: Side) -> Result<Place> {
    let is_meant = |old: &Memory| new.info.address.is_some() && is_named(&new.info, &old.info);
    let at = def.devices.memories.iter().position(is_meant);
    let at = at.ok_or_else(|| match side {
        Side::Live => Error::unsupported(format!(
            "memory '{}' not found",
            new.info.alias.as_deref().unwrap_or("(null)")
        )),
        Side::Stored => Error::argument_qemu("memory not found"),
    })?;
    if side == Side::Live {
        only_requested(&def.devices.memories[at], new)?;
    }
    Ok(Place {
        family: Family::Memory,
        at,
    })
}

fn only_requested(old: &Memory, new: &Memory) -> Result<()> {
    let (was, is) = (old.model.as_str(), new.model.as_str());
    let (from, to) = (source(old), source(new));
    let (before, after) = (target(old), target(new));
    let sizes = |target: &MemoryTarget| (size_kib(target.size.as_ref()), size_kib(target.block.as_ref()));
    let (was_sizes, is_sizes) = (sizes(&before), sizes(&after));
    let word = |text: Option<String>| text.unwrap_or_default();
    let access = |module: &Memory| module.access.map_or("default", |access| access.as_str());
    let discard = |module: &Memory| module.discard.map_or("default", |discard| discard.as_str());
    // table: whether it differs, and what is said then.
    let changes = [
        (
            old.model != MemoryModel::VirtioMem,
            format!("cannot modify memory of model '{was}'"),
        ),
        (
            old.model != new.model,
            format!("cannot modify memory model from '{was}' to '{is}'"),
        ),
        (
            old.access != new.access,
            format!(
                "cannot modify memory access from '{}' to '{}'",
                access(old),
                access(new)
            ),
        ),
        (
            old.discard != new.discard,
            format!(
                "cannot modify memory discard from '{}' to '{}'",
                discard(old),
                discard(new)
            ),
        ),
        (
            from.nodemask != to.nodemask,
            "cannot modify memory source nodes".to_owned(),
        ),
        (
            size_kib(from.pagesize.as_ref()) != size_kib(to.pagesize.as_ref()),
            format!(
                "cannot modify memory pagesize from '{}' to '{}'",
                size_kib(from.pagesize.as_ref()),
                size_kib(to.pagesize.as_ref())
            ),
        ),
        (
            before.node != after.node,
            format!(
                "cannot modify memory targetNode from '{}' to '{}'",
                word(before.node.map(|node| node.to_string())),
                word(after.node.map(|node| node.to_string()))
            ),
        ),
        (
            was_sizes.0 != is_sizes.0,
            format!(
                "cannot modify memory size from '{}' to '{}'",
                was_sizes.0, is_sizes.0
            ),
        ),
        (
            was_sizes.1 != is_sizes.1,
            format!(
                "cannot modify memory block size from '{}' to '{}'",
                was_sizes.1, is_sizes.1
            ),
        ),
        (
            after.address.is_some() && before.address != after.address,
            format!(
                "cannot modify memory address from '{:#x}' to '{:#x}'",
                before.address.unwrap_or(0),
                after.address.unwrap_or(0)
            ),
        ),
    ];
    match changes.into_iter().find(|(differs, _)| *differs) {
        Some((_, message)) => Err(Error::unsupported(message)),
        None => Ok(()),
    }
}

/// What a guest is to have of a virtio-mem device, KiB.
pub fn requested_kib(module: &Memory) -> u64 {
    size_kib(target(module).requested.as_ref())
}

pub(super) fn target(module: &Memory) -> MemoryTarget {
    module.target.clone().unwrap_or_default()
}

pub(super) fn source(module: &Memory) -> MemorySource {
    module.source.clone().unwrap_or_default()
}

pub(super) fn size_kib(size: Option<&Size>) -> u64 {
    size.and_then(|size| size::kib(size.value, size.unit.as_deref().unwrap_or("KiB")))
        .unwrap_or(0)
}
