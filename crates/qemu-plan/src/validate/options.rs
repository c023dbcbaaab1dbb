//! Options that only some devices have, and references to things that must exist.

use domxml::Domain;
use domxml::devices::{
    Controller, DeviceRef, Disk, DiskBus, DiskDevice, EncryptionFormat, ErrorPolicy, GraphicsKind, InputBus,
    InputKind, Interface, InterfaceKind, NetProtocol, SgIo, YesNo,
};
use domxml::tuning::Scheduler;

use super::Guest;
use super::tuning::iothread_ids;
use crate::error::{Area, Code, Error, Result};

/// What a document must say, whatever becomes of it.
pub(super) fn shapes(def: &Domain) -> Result<()> {
    schedulers(def)?;
    for disk in &def.devices.disks {
        let named = disk.source.as_ref().is_some_and(|s| s.name.is_some());
        let protocol = disk.source.as_ref().and_then(|s| s.protocol);
        if protocol.is_some_and(|p| p != NetProtocol::Nbd) && !named {
            return Err(Error::xml("missing name for disk source"));
        }
        if disk.sgio == Some(SgIo::Unfiltered) {
            return Err(Error::conflicting("unfiltered sgio is no longer supported"));
        }
    }
    if def.devices.rngs.iter().any(|r| r.backend.is_none()) {
        return Err(Error::xml("only one RNG backend is supported"));
    }
    def.devices.interfaces.iter().try_for_each(bandwidth)
}

/// Schedulers with priorities must name one.
fn schedulers(def: &Domain) -> Result<()> {
    let Some(tune) = &def.cputune else {
        return Ok(());
    };
    let vcpus = tune.vcpusched.iter().map(|s| ("vcpusched", &s.choice));
    let threads = tune.iothreadsched.iter().map(|s| ("iothreadsched", &s.choice));
    let mut all = vcpus
        .chain(threads)
        .chain(tune.emulatorsched.iter().map(|c| ("emulatorsched", c)));
    let realtime = |s: Scheduler| matches!(s, Scheduler::Fifo | Scheduler::Rr);
    match all.find(|(_, c)| realtime(c.scheduler) && c.priority.is_none()) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("Missing required attribute 'priority' in element '{name}'");
            Err(Error::new(Code::Xml, Area::Xml, message))
        }
    }
}

fn bandwidth(card: &Interface) -> Result<()> {
    let Some(inbound) = card.bandwidth.as_ref().and_then(|b| b.inbound.as_ref()) else {
        return Ok(());
    };
    if inbound.average.is_none() && inbound.floor.is_none() {
        return Err(Error::new(
            Code::XmlDetail,
            Area::None,
            "Missing mandatory average or floor attributes",
        ));
    }
    if inbound.floor.is_some() && card.kind != InterfaceKind::Network {
        let message = "floor attribute is not supported for this config";
        return Err(Error::new(Code::ConfigUnsupported, Area::None, message));
    }
    Ok(())
}

/// Threads, CPUs, cells and groups that something refers to.
pub(super) fn references(guest: &Guest<'_>) -> Result<()> {
    let def = guest.def;
    tuned(def)?;
    let cells = def
        .cpu
        .as_ref()
        .and_then(|c| c.numa.as_ref())
        .map_or(0, |n| n.cells.len());
    let nodes = def.numatune.as_ref().map_or(&[][..], |n| n.memnodes.as_slice());
    if cells > 0 && nodes.iter().any(|n| n.cellid as usize >= cells) {
        return Err(Error::xml(
            "Argument 'cellid' in memnode element must correspond to existing guest's NUMA cell",
        ));
    }
    let groups: Vec<&str> = def
        .throttlegroups
        .iter()
        .filter_map(|g| g.group_name.as_deref())
        .collect();
    let filters = def
        .devices
        .disks
        .iter()
        .filter_map(|d| d.throttlefilters.as_ref())
        .flat_map(|f| &f.filters);
    match filters.into_iter().find(|f| !groups.contains(&f.group.as_str())) {
        None => Ok(()),
        Some(filter) => Err(Error::xml(format!("throttle group '{}' not found", filter.group))),
    }
}

/// CPUs and threads that are tuned.
fn tuned(def: &Domain) -> Result<()> {
    let threads = iothread_ids(def);
    let count = def.vcpu.as_ref().map_or(1, |v| v.count);
    if let Some(tune) = &def.cputune {
        let scheduled = tune
            .vcpusched
            .iter()
            .flat_map(|s| s.vcpus.iter().collect::<Vec<_>>());
        if let Some(vcpu) = scheduled.into_iter().find(|v| *v >= count) {
            return Err(Error::conflicting(format!(
                "vCPU '{vcpu}' is not present in domain definition"
            )));
        }
        if let Some(pin) = tune.iothreadpin.iter().find(|p| !threads.contains(&p.iothread)) {
            return Err(Error::conflicting(format!(
                "Cannot find 'iothread' : {}",
                pin.iothread
            )));
        }
    }
    Ok(())
}

/// Names that a user chose are unique.
pub(super) fn aliases(guest: &Guest<'_>) -> Result<()> {
    let infos = guest
        .def
        .devices
        .iter()
        .filter_map(DeviceRef::info)
        .filter(|i| i.has_user_alias());
    let names: Vec<&str> = infos.filter_map(|i| i.alias.as_deref()).collect();
    // The console that is a serial port has that one's name.
    let twin = guest
        .def
        .devices
        .consoles
        .first()
        .and_then(|c| c.info.alias.as_deref());
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    let mirrored = |name: &str| twin == Some(name) && count(name) == 2;
    match names.iter().find(|n| count(n) > 1 && !mirrored(n)) {
        None => Ok(()),
        Some(name) => Err(Error::conflicting(format!("non unique alias detected: {name}"))),
    }
}

pub(super) fn disks(guest: &Guest<'_>) -> Result<()> {
    guest.def.devices.disks.iter().try_for_each(|disk| {
        virtio_only(disk)?;
        scsi_only(disk)?;
        policies(disk)
    })
}

fn virtio_only(disk: &Disk) -> Result<()> {
    let bus = disk.target.bus.unwrap_or_default();
    let Some(driver) = disk.driver.as_ref().filter(|_| bus != DiskBus::Virtio) else {
        return Ok(());
    };
    let options = [
        ("iommu", driver.virtio.iommu.is_some()),
        ("ats", driver.virtio.ats.is_some()),
        ("packed", driver.virtio.packed.is_some()),
        ("page_per_vq", driver.virtio.page_per_vq.is_some()),
    ];
    if let Some((name, _)) = options.iter().find(|(_, given)| *given) {
        return Err(Error::conflicting(format!(
            "{name} driver option is only supported for virtio devices"
        )));
    }
    if driver.queues.is_some() {
        return Err(Error::conflicting(
            "queues attribute in disk driver element is only supported for virtio bus",
        ));
    }
    if driver.iothread.is_some() || driver.iothreads.is_some() {
        let (bus, dev) = (bus.as_str(), &disk.target.dev);
        return Err(Error::unsupported(format!(
            "IOThreads not available for bus {bus} target {dev}"
        )));
    }
    Ok(())
}

fn scsi_only(disk: &Disk) -> Result<()> {
    let bus = disk.target.bus.unwrap_or_default();
    if disk.target.rotation_rate.is_some() && !matches!(bus, DiskBus::Scsi | DiskBus::Ide | DiskBus::Sata) {
        let message = "rotation rate is only valid for SCSI/IDE/SATA bus";
        return Err(Error::new(Code::Internal, Area::Qemu, message));
    }
    if disk.device == DiskDevice::Lun {
        return Ok(());
    }
    if disk.rawio == Some(YesNo::Yes) {
        return Err(Error::conflicting("rawio can be used only with device='lun'"));
    }
    if disk.source.as_ref().is_some_and(|s| s.reservations.is_some()) {
        return Err(Error::conflicting("<reservations/> allowed only for lun devices"));
    }
    Ok(())
}

fn policies(disk: &Disk) -> Result<()> {
    if disk.driver.as_ref().and_then(|d| d.rerror_policy) == Some(ErrorPolicy::Enospace) {
        return Err(Error::conflicting("Invalid disk read error policy: 'enospace'"));
    }
    let of_source = disk.source.as_ref().and_then(|s| s.encryption.as_ref());
    let encryption = disk.encryption.as_ref().or(of_source).map(|e| e.format);
    if matches!(
        encryption,
        Some(EncryptionFormat::Qcow | EncryptionFormat::Default)
    ) {
        return Err(Error::unsupported("old qcow/qcow2 encryption is not supported"));
    }
    Ok(())
}

/// Queues and limits are for virtio-scsi; its thread must be there.
pub(super) fn controller(guest: &Guest<'_>, c: &Controller, virtio_scsi: Virtio) -> Result<()> {
    let Some(driver) = &c.driver else {
        return Ok(());
    };
    if virtio_scsi == Virtio::Yes {
        let thread = driver.iothread.filter(|id| !iothread_ids(guest.def).contains(id));
        return thread.map_or(Ok(()), |id| {
            Err(Error::unsupported(format!(
                "controller iothread '{id}' not defined in iothreadid"
            )))
        });
    }
    let options = [
        ("queues", driver.queues.is_some()),
        ("cmd_per_lun", driver.cmd_per_lun.is_some()),
        ("max_sectors", driver.max_sectors.is_some()),
        ("ioeventfd", driver.ioeventfd.is_some()),
    ];
    let found = options.iter().find(|(_, given)| *given);
    found.map_or(Ok(()), |(name, _)| {
        Err(Error::unsupported(format!(
            "'{name}' is only supported by virtio-scsi controller"
        )))
    })
}

/// Whether a controller is a virtio-scsi one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Virtio {
    Yes,
    No,
}

pub(super) fn others(guest: &Guest<'_>) -> Result<()> {
    let devices = &guest.def.devices;
    for card in &devices.interfaces {
        let isolated = card.isolated == Some(YesNo::Yes);
        if isolated && !matches!(card.kind, InterfaceKind::Network | InterfaceKind::Bridge) {
            let mac = card.mac.as_ref().map_or("", |m| m.address.as_str());
            let kind = card.kind.as_str();
            return Err(Error::conflicting(format!(
                "interface {mac} - <port isolated='yes'/> is not supported for network interfaces with type='{kind}'"
            )));
        }
        if !card.ips.is_empty() && card.kind == InterfaceKind::Ethernet {
            return Err(Error::unsupported(
                "Invalid attempt to set network interface guest-side IP address info, not supported by QEMU",
            ));
        }
    }
    let dbus = devices.graphics.iter().filter(|g| g.kind == GraphicsKind::Dbus);
    if dbus
        .into_iter()
        .any(|g| g.p2p == Some(YesNo::Yes) && g.address.is_some())
    {
        return Err(Error::xml("D-Bus p2p with an address is not supported"));
    }
    let passed = devices.inputs.iter().filter(|i| i.kind == InputKind::Passthrough);
    if passed.into_iter().any(|i| i.bus != Some(InputBus::Virtio)) {
        return Err(Error::conflicting(
            "only bus 'virtio' is supported for 'passthrough' input devices",
        ));
    }
    Ok(())
}
