//! The document as a whole, for any hypervisor. These rules come last.

use std::collections::BTreeMap;

use domxml::Domain;
use domxml::clock::LifecycleAction;
use domxml::cpu::{Cell, Interconnect};
use domxml::devices::{
    Address, DeviceRef, Devices, Disk, DiskBus, Hostdev, HostdevKind, InterfaceKind, OnOff, YesNo,
};
use domxml::features::IoapicDriver;

use domxml::tuning::{IoThreadPool, NumaMode};

use super::Guest;
use super::device::{iotune, source::path};
use super::rule::{check, rules};
use crate::error::{Error, Result};

/// Checks what concerns several parts of a document.
pub(super) fn whole(guest: &Guest<'_>) -> Result<()> {
    let def = guest.def;
    check(RESOURCE, guest, def)?;
    targets(&def.devices.disks)?;
    hostdevs(&def.devices)?;
    places(&def.devices)?;
    aliases(&def.devices)?;
    check(MIDDLE, guest, def)?;
    hugepages(guest)?;
    super::os::os(guest)?;
    super::limits::cputune(def)?;
    check(LATE, guest, def)?;
    numa(guest)?;
    pools(def)?;
    super::limits::launch_security(def.launch_security.as_ref())?;
    def.throttlegroups.iter().try_for_each(iotune::totals)
}

rules! {
    /// Names of the host's.
    RESOURCE(guest, def: Domain) {
        xml "Fibre Channel 'appid' is not a printable string"
            if appid(def).is_some_and(|a| !a.bytes().all(|b| (0x20..0x7f).contains(&b)));
        argument "Fibre Channel 'appid' string length must be between [1, 128]"
            if appid(def).is_some_and(|a| !(1..=128).contains(&a.len()));
    }
}

rules! {
    /// I/O MMU and life cycle.
    MIDDLE(guest, def: Domain) {
        conflicting "IOMMU interrupt remapping requires split I/O APIC (ioapic driver='qemu')"
            if iommu(def, |d| d.intremap)
                && def.features.as_ref().and_then(|f| f.ioapic) != Some(IoapicDriver::Qemu);
        conflicting "IOMMU eim requires interrupt remapping to be enabled"
            if iommu(def, |d| d.eim) && !iommu(def, |d| d.intremap);
        conflicting "Lifecycle event '{}' doesn't support '{}' action"
            ("poweroff", def.on_poweroff.map_or("", |a| a.as_str())) if dumps(def.on_poweroff);
        conflicting "Lifecycle event '{}' doesn't support '{}' action"
            ("reboot", def.on_reboot.map_or("", |a| a.as_str())) if dumps(def.on_reboot);
    }
}

rules! {
    /// Boot menu, displays, block devices of the host, users of a container.
    LATE(guest, def: Domain) {
        conflicting "invalid value for boot menu timeout, must be in range [0,65535]"
            if def.os.bootmenu.and_then(|m| m.timeout).is_some_and(|t| t > 65535);
        conflicting "invalid value for rebootTimeout, must be in range [-1,65535]"
            if def.os.bios.and_then(|b| b.reboot_timeout).is_some_and(|t| !(-1..=65535).contains(&t));
        conflicting "Only one primary video device is supported"
            if def.devices.videos.iter().filter(|v| v.model.as_ref().is_some_and(|m| m.primary == Some(YesNo::Yes))).count() > 1;
        conflicting "duplicate blkio device path '{}'" (blkio_twice(def).unwrap_or_default())
            if blkio_twice(def).is_some();
        conflicting "uid and gid should be mapped both"
            if def.idmap.as_ref().is_some_and(|m| m.uid.is_empty() != m.gid.is_empty());
        conflicting "You must map the root user of container"
            if def.idmap.as_ref().is_some_and(|m| [&m.uid, &m.gid].iter().any(|ranges| {
                ranges.iter().map(|r| r.start).min().is_some_and(|start| start != 0)
            }));
    }
}

fn appid(def: &Domain) -> Option<&str> {
    def.resource.as_ref()?.fibrechannel.as_deref()
}

fn iommu(def: &Domain, option: fn(&domxml::devices::IommuDriver) -> Option<OnOff>) -> bool {
    let driver = def.devices.iommu.as_ref().and_then(|i| i.driver.as_ref());
    driver.and_then(option) == Some(OnOff::On)
}

fn dumps(action: Option<LifecycleAction>) -> bool {
    matches!(
        action,
        Some(LifecycleAction::CoredumpDestroy | LifecycleAction::CoredumpRestart)
    )
}

fn blkio_twice(def: &Domain) -> Option<&str> {
    let devices = def.blkiotune.as_ref().map_or(&[][..], |t| t.devices.as_slice());
    let twice = |at: usize, path: &str| devices[..at].iter().any(|d| d.path == path);
    let mut all = devices.iter().enumerate();
    all.find(|(at, d)| twice(*at, &d.path))
        .map(|(_, d)| d.path.as_str())
}

/// No two disks of one name.
fn targets(disks: &[Disk]) -> Result<()> {
    let mut pairs = (0..disks.len()).map(|at| disks.split_at(at));
    pairs.try_for_each(|(_, rest)| match rest.split_first() {
        Some((disk, after)) => after.iter().try_for_each(|twin| apart(disk, twin)),
        None => Ok(()),
    })
}

/// A disk that comes has a name of its own.
///
/// # Errors
/// Libvirt's.
pub(crate) fn unique_target(disks: &[Disk], new: &Disk) -> Result<()> {
    disks.iter().try_for_each(|disk| apart(disk, new))
}

fn apart(disk: &Disk, twin: &Disk) -> Result<()> {
    if disk.target.dev != twin.target.dev {
        return Ok(());
    }
    let source = |d: &Disk| path(d).unwrap_or("<null>").to_owned();
    let (name, one, two) = (&disk.target.dev, source(disk), source(twin));
    Err(Error::xml(format!(
        "target '{name}' duplicated for disk sources '{one}' and '{two}'"
    )))
}

/// No device of the host twice, and one that the firmware draws on.
fn hostdevs(devices: &Devices) -> Result<()> {
    let all = &devices.hostdevs;
    let cards = devices
        .interfaces
        .iter()
        .filter(|card| card.kind == InterfaceKind::Hostdev);
    let places: Vec<_> = cards
        .filter_map(|card| card.source.as_ref()?.host_device.as_ref())
        .collect();
    let of_cards = |device: &Hostdev| {
        let address = device.source.as_ref().and_then(|source| source.address.as_ref());
        device.kind == HostdevKind::Pci && address.is_some_and(|a| places.iter().any(|place| place.0 == *a))
    };
    let twice = places
        .iter()
        .enumerate()
        .any(|(at, place)| places[at + 1..].contains(place));
    if twice || all.iter().any(of_cards) {
        return Err(Error::xml("Hostdev already exists in the domain configuration"));
    }
    for (at, device) in all.iter().enumerate() {
        if all[at + 1..].iter().any(|other| same_device(device, other)) {
            return Err(Error::xml("Hostdev already exists in the domain configuration"));
        }
    }
    if all.iter().filter(|h| h.ramfb == Some(OnOff::On)).count() > 1 {
        return Err(Error::conflicting(
            "Only one vgpu device can have 'ramfb' enabled",
        ));
    }
    Ok(())
}

fn same_device(a: &Hostdev, b: &Hostdev) -> bool {
    let (Some(one), Some(two)) = (&a.source, &b.source) else {
        return false;
    };
    if (a.mode, a.kind) != (b.mode, b.kind) || one.protocol != two.protocol {
        return false;
    }
    let host = |s: &domxml::devices::HostdevSource| s.hosts.first().map(|h| (h.name.clone(), h.port));
    let named = one.address.is_some() || one.vendor.is_some() || one.wwpn.is_some() || one.name.is_some();
    named
        && (&one.address, &one.adapter, one.vendor, one.product, &one.wwpn)
            == (&two.address, &two.adapter, two.vendor, two.product, &two.wwpn)
        && (&one.name, host(one)) == (&two.name, host(two))
}

/// No two drives at one place of a bus.
fn places(devices: &Devices) -> Result<()> {
    let disks = &devices.disks;
    for (at, disk) in disks.iter().enumerate() {
        let Some(Address::Drive(a)) = &disk.info.address else {
            continue;
        };
        let same = |d: &Disk| d.target.bus == disk.target.bus && d.info.address == disk.info.address;
        if disks[at + 1..].iter().any(same) {
            return Err(Error::conflicting(format!(
                "Found duplicate drive address for disk with target name '{}' controller='{}' bus='{}' target='{}' unit='{}'",
                disk.target.dev, a.controller, a.bus, a.target, a.unit
            )));
        }
    }
    let scsi = |h: &&Hostdev| h.kind == HostdevKind::Scsi;
    let all: Vec<&Hostdev> = devices.hostdevs.iter().filter(scsi).collect();
    for (at, device) in all.iter().enumerate() {
        let Some(Address::Drive(a)) = &device.info.address else {
            continue;
        };
        // The numbers of controller and bus stand at each other's place.
        let taken = |by: &str| {
            Err(Error::conflicting(format!(
                "SCSI host address controller='{}' bus='{}' target='{}' unit='{}' in use by another SCSI {by}",
                a.bus, a.controller, a.target, a.unit
            )))
        };
        if all[at + 1..]
            .iter()
            .any(|h| h.info.address == device.info.address)
        {
            return taken("host device");
        }
        let disk = |d: &Disk| d.target.bus == Some(DiskBus::Scsi) && d.info.address == device.info.address;
        if disks.iter().any(disk) {
            return taken("disk");
        }
    }
    Ok(())
}

/// Names that a user chose are unique.
fn aliases(devices: &Devices) -> Result<()> {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    // The console that is a serial port has that one's name.
    let twin = devices.consoles.first().and_then(|c| c.info.alias.as_deref());
    let infos = devices
        .iter()
        .filter_map(DeviceRef::info)
        .filter(|i| i.has_user_alias());
    for name in infos.filter_map(|i| i.alias.as_deref()) {
        let count = seen.entry(name).or_default();
        *count += 1;
        let allowed = if twin == Some(name) { 2 } else { 1 };
        if *count > allowed {
            return Err(Error::conflicting(format!("non unique alias detected: {name}")));
        }
    }
    Ok(())
}

/// Each cell has pages of one size.
fn hugepages(guest: &Guest<'_>) -> Result<()> {
    let pages = guest
        .def
        .memory_backing
        .as_ref()
        .and_then(|m| m.hugepages.as_ref());
    let pages = pages.map_or(&[][..], |h| h.pages.as_slice());
    let cells = guest.cells().len();
    for (at, page) in pages.iter().enumerate() {
        let later = &pages[at + 1..];
        let size = page.size.0;
        match &page.nodeset {
            Some(nodes) => {
                let clash = later
                    .iter()
                    .find(|p| p.nodeset.as_ref().is_some_and(|n| n.overlaps(nodes)));
                if let Some(other) = clash {
                    return Err(Error::detail(format!(
                        "nodeset attribute of hugepages of sizes {} and {size} intersect",
                        other.size.0
                    )));
                }
            }
            None => {
                if let Some(other) = later.iter().find(|p| p.nodeset.is_none()) {
                    return Err(Error::detail(format!(
                        "two master hugepages detected: {} and {size}",
                        other.size.0
                    )));
                }
            }
        }
    }
    let nodes = pages.iter().filter_map(|p| p.nodeset.as_ref());
    let mut stray = nodes.flat_map(|n| n.iter()).filter(|n| *n as usize >= cells);
    stray.next().map_or(Ok(()), |node| {
        Err(Error::detail(format!("hugepages: node {node} not found")))
    })
}

/// Where the memory of each cell is taken from, and how fast cells reach each other.
fn numa(guest: &Guest<'_>) -> Result<()> {
    let cells = guest.cells();
    let tune = guest.def.numatune.as_ref();
    let overall = tune.and_then(|t| t.memory.as_ref()?.mode).unwrap_or_default();
    let nodes = tune.map_or(&[][..], |t| t.memnodes.as_slice());
    for node in nodes {
        let mode = node.mode.unwrap_or_default();
        let (of_memory, of_node) = (overall == NumaMode::Restrictive, mode == NumaMode::Restrictive);
        let (where_, when) = match (of_memory, of_node) {
            (true, false) => ("memnode", "memory"),
            (false, true) => ("memory", "memnode"),
            _ => continue,
        };
        return Err(Error::xml(format!(
            "'restrictive' mode is required in {where_} element when mode is 'restrictive' in {when} element"
        )));
    }
    cells.iter().try_for_each(caches)?;
    let numa = guest.def.cpu.as_ref().and_then(|c| c.numa.as_ref());
    let links = numa
        .and_then(|n| n.interconnects.as_ref())
        .map_or(&[][..], |i| i.all.as_slice());
    let links: Vec<Link> = links.iter().map(Link::of).collect();
    links
        .iter()
        .enumerate()
        .try_for_each(|(at, link)| link.check(cells, &links[..at]))
}

/// Levels of caches that there are.
const CACHE_LEVELS: u32 = 3;

fn caches(cell: &Cell) -> Result<()> {
    for (at, cache) in cell.caches.iter().enumerate() {
        let level = cache.level;
        if level > CACHE_LEVELS {
            return Err(Error::xml("Ain't nobody heard of that much cache level"));
        }
        if cell.caches[..at].iter().any(|c| c.level == level) {
            return Err(Error::xml(format!("Cache level '{level}' already defined")));
        }
    }
    Ok(())
}

/// How fast one cell reaches another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link {
    latency: bool,
    initiator: u32,
    target: u32,
    cache: u32,
    kind: domxml::cpu::AccessType,
}

impl Link {
    fn of(link: &Interconnect) -> Self {
        let (latency, initiator, target, cache, kind) = match link {
            Interconnect::Latency(l) => (true, l.initiator, l.target, l.cache, l.kind),
            Interconnect::Bandwidth(b) => (false, b.initiator, b.target, b.cache, b.kind),
        };
        Self {
            latency,
            initiator,
            target,
            cache: cache.unwrap_or(0),
            kind,
        }
    }

    fn check(&self, cells: &[Cell], before: &[Self]) -> Result<()> {
        let refuse = |text: &str| Err(Error::xml(text));
        let Some(initiator) = cells.get(self.initiator as usize) else {
            return refuse("'initiator' refers to a non-existent NUMA node");
        };
        let Some(target) = cells.get(self.target as usize) else {
            return refuse("'target' refers to a non-existent NUMA node");
        };
        if initiator.cpus.as_ref().is_none_or(domxml::Bitmap::is_empty) {
            return refuse("NUMA nodes without CPUs can't be initiator");
        }
        if self.cache > 0 && !target.caches.iter().any(|c| c.level == self.cache) {
            return refuse("'cache' refers to a non-existent NUMA node cache");
        }
        if before.contains(self) {
            return refuse("Duplicate info for NUMA latencies");
        }
        let back = |l: &Self| (l.initiator, l.target) == (self.target, self.initiator);
        if self.initiator != self.target && before.iter().any(back) {
            return refuse("Link already defined");
        }
        Ok(())
    }
}

/// Sizes of the pools of threads that I/O threads keep.
fn pools(def: &Domain) -> Result<()> {
    let listed = def.iothreadids.iter().flat_map(|i| i.all.iter().map(|t| &t.pool));
    for pool in listed.chain(def.defaultiothread.iter()) {
        let IoThreadPool {
            thread_pool_min,
            thread_pool_max,
            ..
        } = pool;
        if *thread_pool_max == Some(0) {
            return Err(Error::conflicting("thread_pool_max must be a positive integer"));
        }
        if thread_pool_min.unwrap_or(-1) > thread_pool_max.unwrap_or(-1) {
            return Err(Error::conflicting(
                "thread_pool_min must be smaller or equal to thread_pool_max",
            ));
        }
    }
    Ok(())
}
