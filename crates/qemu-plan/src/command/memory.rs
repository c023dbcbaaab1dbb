//! Memory: `-m`, memory without cells, and modules, at start and plugged in later.

use domxml::cpu::MemAccess;
use domxml::devices::common::{Size, YesNo};
use domxml::devices::memory::{Memory, MemoryAccess as ModuleAccess, MemoryModel};
use domxml::tuning::MemoryAllocation;
use domxml::{Bitmap, Domain};

use super::address::{self, Virtio};
use super::backend::{Allocated, Backend, Request, backend};
use super::context::{Context, alias};
use super::line::CommandLine;
use super::numa;
use crate::caps::Accel;
use crate::facts::size;
use crate::facts::size::START_ALIGN_KIB;
use crate::props::{Keyval, Props, on_off};
use crate::resources::Purpose;
use crate::{Error, Result};

/// Id of the back end that is all the guest's memory.
const DEFAULT_RAM: &str = "pc.ram";

/// Id of the memory back end of a guest without cells: its machine says which.
pub fn default_ram<'a>(cx: Context<'a>) -> &'a str {
    let machine = cx.def.os.kind.as_ref().and_then(|kind| kind.machine.as_deref());
    let accel = Accel::from_virt_type(cx.def.kind.as_str());
    let found = accel.and_then(|accel| cx.caps.machine(accel, machine?));
    found
        .and_then(|machine| machine.default_ram_id.as_deref())
        .unwrap_or(DEFAULT_RAM)
}
/// Granularity of a module: 2 MiB.
const MODULE_ALIGN_KIB: u64 = 2048;

pub(super) fn align(kib: u64, step: u64) -> u64 {
    kib.div_ceil(step).saturating_mul(step)
}

fn size_kib(size: Option<&domxml::devices::common::Size>) -> u64 {
    size.and_then(|size| size::kib(size.value, size.unit.as_deref().unwrap_or("KiB")))
        .unwrap_or_default()
}

fn module_size(memory: &Memory) -> u64 {
    size_kib(memory.target.as_ref().and_then(|target| target.size.as_ref()))
}

/// Memory that the guest has without its modules, KiB, as QEMU is told.
pub fn initial_kib(cx: Context<'_>) -> u64 {
    let total = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
    let cells = numa::cells(cx);
    if !cells.is_empty() {
        return total(&mut cells.iter().map(|cell| align(cell.memory.0, START_ALIGN_KIB)));
    }
    let all = cx.def.memory.as_ref().map_or(0, |memory| memory.size.0);
    let modules = total(&mut cx.def.devices.memories.iter().map(module_size));
    align(all.saturating_sub(modules), START_ALIGN_KIB)
}

/// Rounds the sizes in the document of a run up to what QEMU is told, so that the guest is shown with the memory that it
/// has. The balloon's size follows where it was all of the memory.
pub fn round_sizes(def: &mut Domain) {
    let before = def.memory.as_ref().map_or(0, |memory| memory.size.0);
    let mut modules: u64 = 0;
    let mut plugged: u64 = 0;
    for size in def
        .devices
        .memories
        .iter_mut()
        .filter_map(|m| m.target.as_mut()?.size.as_mut())
    {
        let kib = size_kib(Some(size));
        modules = modules.saturating_add(kib);
        *size = Size {
            value: align(kib, MODULE_ALIGN_KIB),
            unit: Some("KiB".to_owned()),
        };
        plugged = plugged.saturating_add(size.value);
    }
    let cells = def
        .cpu
        .as_mut()
        .and_then(|cpu| cpu.numa.as_mut())
        .map(|numa| &mut numa.cells);
    let mut initial: u64 = 0;
    for cell in cells.into_iter().flatten() {
        cell.memory.0 = align(cell.memory.0, START_ALIGN_KIB);
        initial = initial.saturating_add(cell.memory.0);
    }
    if initial == 0 {
        initial = align(before.saturating_sub(modules), START_ALIGN_KIB);
    }
    if let Some(memory) = &mut def.memory {
        memory.size.0 = initial.saturating_add(plugged);
        let all = def.current_memory.as_mut().filter(|current| current.0 >= before);
        all.into_iter().for_each(|current| current.0 = memory.size.0);
    }
    if let Some(max) = &mut def.max_memory {
        max.size.0 = align(max.size.0, START_ALIGN_KIB);
    }
}

/// Appends `-m`, and the one back end of a guest without cells.
///
/// # Errors
/// When huge pages are asked for that the host has not mounted.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    let mut size = Keyval::new().with("size", format!("{}k", initial_kib(cx)));
    if let Some(max) = cx.def.max_memory {
        size.opt("slots", max.slots.filter(|slots| *slots != 0));
        size.set("maxmem", format!("{}k", align(max.size.0, START_ALIGN_KIB)));
    }
    line.push("-m", size);
    if numa::cells(cx).is_empty() {
        let request = Request {
            id: default_ram(cx),
            file: default_ram(cx),
            kib: initial_kib(cx),
            system: true,
            ..Request::default()
        };
        backend(cx, &request)?.push(line);
    }
    Ok(())
}

/// Appends `-overcommit`.
pub fn build_overcommit(cx: Context<'_>, line: &mut CommandLine) {
    let locked = cx
        .def
        .memory_backing
        .as_ref()
        .is_some_and(|backing| backing.locked);
    line.push("-overcommit", Keyval::new().with("mem-lock", on_off(locked)));
}

/// Appends a memory module.
///
/// # Errors
/// When its huge pages or its bus are not there.
pub fn build_module(cx: Context<'_>, memory: &Memory, line: &mut CommandLine) -> Result<()> {
    if memory.model == MemoryModel::SgxEpc {
        return Err(Error::unsupported("sgx epc isn't supported by this QEMU binary"));
    }
    module_backend(cx, memory)?.push(line);
    line.device(module_props(cx, memory)?);
    Ok(())
}

/// Back end of a module, as `object-add` takes it, and the thread context it needs first.
///
/// # Errors
/// When its huge pages are not there.
pub fn module_objects(cx: Context<'_>, memory: &Memory) -> Result<Vec<Props>> {
    Ok(module_backend(cx, memory)?.objects().collect())
}

fn module_backend(cx: Context<'_>, memory: &Memory) -> Result<Backend> {
    let source = memory.source.clone().unwrap_or_default();
    let target = memory.target.clone().unwrap_or_default();
    let file = alias(&memory.info)?;
    let id = format!("mem{file}");
    let nodes = source.nodemask.as_deref().map(str::parse::<Bitmap>);
    let nodes = nodes
        .transpose()
        .map_err(|_| Error::xml("invalid nodemask of a memory device"))?;
    let page = size_kib(source.pagesize.as_ref());
    let request = Request {
        id: &id,
        file,
        kib: align(module_size(memory), module_step(cx)),
        cell: target.node,
        path: source.path.as_deref(),
        shared: module_access(cx, memory),
        discard: memory.discard.map(YesNo::is_yes),
        page_kib: (page != 0).then_some(page),
        nodes,
        allocated: allocated(memory.model),
        align_kib: size_kib(source.alignsize.as_ref()),
        pmem: source.pmem,
        ..Request::default()
    };
    backend(cx, &request)
}

/// A guest that is started gets its modules in steps that QEMU takes; a module that is plugged in keeps its size, as with
/// libvirt, so QEMU may refuse it.
fn module_step(cx: Context<'_>) -> u64 {
    match cx.res.purpose {
        Purpose::Plug => START_ALIGN_KIB,
        Purpose::Start | Purpose::Native => MODULE_ALIGN_KIB,
    }
}

/// NVDIMMs are there as a whole; virtio-mem grows.
fn allocated(model: MemoryModel) -> Allocated {
    match model {
        MemoryModel::Nvdimm => Allocated::Early,
        MemoryModel::VirtioMem => Allocated::ByDevice,
        MemoryModel::Dimm | MemoryModel::VirtioPmem | MemoryModel::SgxEpc => Allocated::AsAll,
    }
}

/// A module's own word on sharing, or that of its cell.
fn module_access(cx: Context<'_>, memory: &Memory) -> Option<bool> {
    let own = memory.access.map(|access| access == ModuleAccess::Shared);
    own.or_else(|| {
        let node = memory.target.as_ref()?.node?;
        let cell = numa::cells(cx)
            .iter()
            .enumerate()
            .find(|(number, cell)| cell.id.unwrap_or(*number as u32) == node)?;
        cell.1.mem_access.map(|access| access == MemAccess::Shared)
    })
}

/// Front end of a module.
///
/// # Errors
/// When its bus is not there.
pub fn module_props(cx: Context<'_>, memory: &Memory) -> Result<Props> {
    let target = memory.target.clone().unwrap_or_default();
    let id = alias(&memory.info)?;
    let bytes = |size: Option<&domxml::devices::common::Size>| size_kib(size).saturating_mul(1024);
    let name = memory.model.as_str();
    let mut props = match memory.model {
        MemoryModel::Dimm => Props::driver("pc-dimm"),
        MemoryModel::Nvdimm | MemoryModel::SgxEpc => Props::driver(name),
        MemoryModel::VirtioPmem | MemoryModel::VirtioMem => {
            address::virtio(name, &memory.info, Virtio::default())?
        }
    };
    props.opt("node", target.node);
    if let Some(label) = &target.label {
        props.set("label-size", bytes(label.size.as_ref()));
    }
    if memory.model == MemoryModel::VirtioMem {
        props
            .set("block-size", bytes(target.block.as_ref()))
            .nonzero("requested-size", bytes(target.requested.as_ref()));
    }
    props
        .opt("uuid", memory.uuid.clone())
        .opt("unarmed", target.readonly.then_some(true))
        .set("memdev", format!("mem{id}"))
        .opt("prealloc", prealloc(cx, memory))
        .opt("dynamic-memslots", target.dynamic_memslots.map(YesNo::is_yes))
        .opt("memaddr", target.address)
        .set("id", id);
    address::put(cx, &memory.info, &mut props)?;
    Ok(props)
}

/// virtio-mem allocates in the front end.
fn prealloc(cx: Context<'_>, memory: &Memory) -> Option<bool> {
    let allocation = cx
        .def
        .memory_backing
        .as_ref()
        .and_then(|backing| backing.allocation);
    let immediate = allocation.and_then(|allocation| allocation.mode) == Some(MemoryAllocation::Immediate);
    (memory.model == MemoryModel::VirtioMem && immediate).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(parts: &str) -> Domain {
        let text = format!("<domain type='qemu'><name>a</name>{parts}</domain>");
        let mut def = Domain::parse(&text, domxml::ParseFlags::INACTIVE).unwrap();
        round_sizes(&mut def);
        def
    }

    fn sizes(def: &Domain) -> (u64, u64) {
        let current = def.current_memory.map_or(0, |current| current.0);
        (def.memory.as_ref().map_or(0, |memory| memory.size.0), current)
    }

    #[test]
    fn memory_is_shown_as_qemu_has_it() {
        for (parts, wanted) in [
            (
                "<memory>65600</memory><currentMemory>65600</currentMemory>",
                (66_560, 66_560),
            ),
            (
                "<memory>65536</memory><currentMemory>65536</currentMemory>",
                (65_536, 65_536),
            ),
            (
                "<memory>65600</memory><currentMemory>40000</currentMemory>",
                (66_560, 40_000),
            ),
            (
                "<memory>65601</memory><currentMemory>65601</currentMemory><cpu><numa><cell id='0' memory='32801'/>\
                 <cell id='1' memory='32800'/></numa></cpu>",
                (67_584, 67_584),
            ),
            (
                "<memory>100000</memory><currentMemory>100000</currentMemory><devices><memory model='dimm'><target>\
                 <size unit='KiB'>2049</size><node>0</node></target></memory></devices>",
                (98_304 + 4096, 98_304 + 4096),
            ),
        ] {
            assert_eq!(sizes(&rounded(parts)), wanted, "{parts}");
        }
        let plugged = rounded("<maxMemory slots='4'>200000</maxMemory><memory>65600</memory>");
        assert_eq!(plugged.max_memory.unwrap().size.0, 200_704);
    }
}
