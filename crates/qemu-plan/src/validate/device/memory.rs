//! Memory modules.

use domxml::devices::{Address, Memory, MemoryAccess, MemoryModel, MemoryTarget, Size, YesNo};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::{Error, Result};
use crate::facts::size;

/// Pages of the host, bytes; and its huge pages, KiB.
const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 2048;

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, module: &Memory) -> Result<()> {
    check(GENERIC, guest, module)?;
    overlap(guest, module)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, module: &Memory) -> Result<()> {
    check(QEMU, guest, module)
}

rules! {
    /// What no hypervisor takes.
    GENERIC(guest, module: Memory) {
        detail "can't add memory backend as guest has no NUMA nodes configured"
            if node(module).is_some() && guest.cells().is_empty();
        detail "can't add memory backend for guest node '{}' as the guest has only '{}' NUMA nodes configured"
            (node(module).unwrap_or_default(), guest.cells().len())
            if node(module).is_some_and(|n| n as usize >= guest.cells().len());
        detail "path is required for model '{}'" (module.model.as_str())
            if matches!(module.model, MemoryModel::Nvdimm | MemoryModel::VirtioPmem)
                && path(module).is_none();
        conflicting "discard is not supported for nvdimms"
            if module.model == MemoryModel::Nvdimm && module.discard == Some(YesNo::Yes);
        conflicting "label size is required for NVDIMM device"
            if module.model == MemoryModel::Nvdimm && guest.is_ppc64() && label(module) == 0;
        conflicting "UUID is not supported for NVDIMM device"
            if module.model == MemoryModel::Nvdimm && !guest.is_ppc64() && module.uuid.is_some();
        conflicting "discard is not supported for model 'virtio-pmem'"
            if module.model == MemoryModel::VirtioPmem && module.discard == Some(YesNo::Yes);
        conflicting "shared access mode required for virtio-pmem device"
            if module.model == MemoryModel::VirtioPmem && module.access != Some(MemoryAccess::Shared);
        conflicting "virtio-pmem does not support NUMA nodes"
            if module.model == MemoryModel::VirtioPmem && node(module).is_some();
        conflicting "memory address must be aligned to {} bytes" (PAGE)
            if module.model == MemoryModel::VirtioPmem && !base(module).is_multiple_of(PAGE);
        detail "requested size must be smaller than or equal to @size ({}KiB)"
            (kib(target(module).and_then(|t| t.size.as_ref())))
            if module.model == MemoryModel::VirtioMem
                && requested(module) > kib(target(module).and_then(|t| t.size.as_ref()));
        detail "block size must be a power of two"
            if module.model == MemoryModel::VirtioMem && !block(module).is_power_of_two();
        detail "block size too small, must be at least {}KiB" (HUGE_PAGE)
            if module.model == MemoryModel::VirtioMem && block(module) < HUGE_PAGE;
        detail "requested size must be an integer multiple of block size"
            if module.model == MemoryModel::VirtioMem
                && !requested(module).is_multiple_of(block(module).max(1));
        detail "memory device address must be aligned to blocksize"
            if module.model == MemoryModel::VirtioMem
                && !base(module).is_multiple_of(block(module).saturating_mul(1024).max(1));
        conflicting "memory device address is not supported for model 'sgx-epc'"
            if module.model == MemoryModel::SgxEpc && module.info.address.is_some();
        conflicting "memory device slot '{}' is already being used by another memory device"
            (slot(module).unwrap_or_default())
            if slot(module).is_some_and(|s| guest.def.devices.memories.iter().filter(|m| slot(m) == Some(s)).count() > 1);
    }
}

rules! {
    /// What QEMU does not take.
    QEMU(guest, module: Memory) {
        unsupported "memory hotplug isn't supported by this QEMU binary"
            if module.model == MemoryModel::Dimm && !guest.caps.has(Flag::PcDimm);
        unsupported "nvdimm isn't supported by this QEMU binary"
            if module.model == MemoryModel::Nvdimm && !guest.caps.has(Flag::Nvdimm);
        unsupported "nvdimm readonly property is not available with this QEMU binary"
            if module.model == MemoryModel::Nvdimm && target(module).is_some_and(|t| t.readonly)
                && !guest.caps.has(Flag::NvdimmUnarmed);
        unsupported "virtio-pmem isn't supported by this QEMU binary"
            if module.model == MemoryModel::VirtioPmem && !guest.caps.has(Flag::VirtioPmemPci);
        unsupported "virtio-mem isn't supported by this QEMU binary"
            if module.model == MemoryModel::VirtioMem && !guest.caps.has(match module.info.address {
                Some(Address::Ccw(_)) => Flag::VirtioMemCcw,
                _ => Flag::VirtioMemPci,
            });
        unsupported "virtio-mem does not support dynamicMemslots"
            if module.model == MemoryModel::VirtioMem
                && target(module).is_some_and(|t| t.dynamic_memslots == Some(YesNo::Yes))
                && !guest.caps.has(Flag::VirtioMemPciDynamicMemslots);
        unsupported "sgx epc isn't supported by this QEMU binary"
            if module.model == MemoryModel::SgxEpc && !guest.caps.has(Flag::SgxEpc);
    }
}

/// No two modules at one place of the guest's memory.
fn overlap(guest: &Guest<'_>, module: &Memory) -> Result<()> {
    let range = |m: &Memory| {
        let start = Some(start(m)).filter(|s| *s > 0)?;
        let size = kib(target(m).and_then(|t| t.size.as_ref())).saturating_mul(1024);
        Some((start, start.saturating_add(size.saturating_sub(reserved(m)))))
    };
    let Some((start, end)) = range(module) else {
        return Ok(());
    };
    // One at the module's own place is the module as it was before an update.
    let is_itself = |m: &Memory| {
        std::ptr::eq(m, module) || m.info.address.is_some() && m.info.address == module.info.address
    };
    let others = guest.def.devices.memories.iter().filter(|m| !is_itself(m));
    let mut clashes = others.filter_map(range).filter(|(s, e)| *s < end && start < *e);
    match clashes.next() {
        None => Ok(()),
        Some((other, _)) => Err(Error::conflicting(format!(
            "memory device address [{start:#x}:{end:#x}] overlaps with other memory device ({other:#x})"
        ))),
    }
}

fn target(module: &Memory) -> Option<&MemoryTarget> {
    module.target.as_ref()
}

fn node(module: &Memory) -> Option<u32> {
    target(module)?.node
}

fn path(module: &Memory) -> Option<&str> {
    module.source.as_ref()?.path.as_deref()
}

fn kib(size: Option<&Size>) -> u64 {
    size.and_then(|s| size::kib(s.value, s.unit.as_deref().unwrap_or("KiB")))
        .unwrap_or(0)
}

fn block(module: &Memory) -> u64 {
    kib(target(module).and_then(|t| t.block.as_ref()))
}

fn requested(module: &Memory) -> u64 {
    kib(target(module).and_then(|t| t.requested.as_ref()))
}

fn label(module: &Memory) -> u64 {
    kib(target(module)
        .and_then(|t| t.label.as_ref())
        .and_then(|l| l.size.as_ref()))
}

/// What a label takes of the module, bytes: whole units of its alignment.
fn reserved(module: &Memory) -> u64 {
    let align = kib(module.source.as_ref().and_then(|s| s.alignsize.as_ref())).saturating_mul(1024);
    let align = if align == 0 { PAGE } else { align };
    label(module)
        .saturating_mul(1024)
        .div_ceil(align)
        .saturating_mul(align)
}

/// Address of a virtio module.
fn base(module: &Memory) -> u64 {
    target(module).and_then(|t| t.address).unwrap_or(0)
}

fn slot(module: &Memory) -> Option<u32> {
    match &module.info.address {
        Some(Address::Dimm(address)) if matches!(module.model, MemoryModel::Dimm | MemoryModel::Nvdimm) => {
            Some(address.slot)
        }
        _ => None,
    }
}

fn start(module: &Memory) -> u64 {
    match (&module.info.address, module.model) {
        (Some(Address::Dimm(address)), MemoryModel::Dimm | MemoryModel::Nvdimm) => address.base.unwrap_or(0),
        (_, MemoryModel::VirtioPmem | MemoryModel::VirtioMem) => base(module),
        _ => 0,
    }
}
