//! Disks: bus and place by name, driver and format, and what is not worth keeping.

use domxml::devices::{
    Address, CacheMode, Devices, Disk, DiskBus, DiskDevice, DiskDriver, DriveAddress, EncryptionEngine,
    HostTransport, HostdevKind, IoMode, MetadataCache, NetProtocol, Size, SnapshotMode, Source,
    StorageFormat, StorageHost, StorageKind,
};

use domxml::units::scale;

use crate::error::{Area, Code, Error, Result};
use crate::facts::{DISK_PREFIXES, disk_index, disk_position};

fn bus_of(disk: &Disk) -> DiskBus {
    if disk.device == DiskDevice::Floppy {
        return DiskBus::Fdc;
    }
    let by_name = DISK_PREFIXES.iter().find(|(p, _)| disk.target.dev.starts_with(p));
    by_name.map_or(DiskBus::Ide, |(_, bus)| *bus)
}

/// Sorts the disks of each bus by their names, as far as that moves one forward; buses stay mixed as they are.
pub(super) fn order(disks: &mut Vec<Disk>) {
    let mut sorted: Vec<Disk> = Vec::with_capacity(disks.len());
    for disk in disks.drain(..) {
        sorted.insert(disk_position(&sorted, &disk), disk);
    }
    *disks = sorted;
}

/// Fills in one disk, apart from its place.
pub(super) fn fill(disk: &mut Disk) -> Result<()> {
    if disk.target.bus.is_none() {
        disk.target.bus = Some(bus_of(disk));
    }
    if disk.device == DiskDevice::Cdrom {
        disk.readonly = true;
    }
    if disk.kind == StorageKind::VhostUser {
        disk.snapshot.get_or_insert(SnapshotMode::No);
    }
    if disk.readonly && disk.snapshot == Some(SnapshotMode::No) {
        disk.snapshot = None;
    }
    fill_source(disk);
    fill_encryption(disk)?;
    fill_driver(disk)
}

/// Ports of storage servers that name none.
const PORTS: &[(NetProtocol, u32)] = &[
    (NetProtocol::Nbd, 10809),
    (NetProtocol::Iscsi, 3260),
    (NetProtocol::Http, 80),
    (NetProtocol::Https, 443),
    (NetProtocol::Ftp, 21),
    (NetProtocol::Ftps, 990),
    (NetProtocol::Tftp, 69),
    (NetProtocol::Gluster, 24007),
    (NetProtocol::Ssh, 22),
    (NetProtocol::Vxhs, 9999),
];

/// Servers that name no port have their protocol's.
pub(super) fn fill_ports(source: &mut Source) {
    if let Some((_, port)) = source.protocol.and_then(|p| PORTS.iter().find(|(k, _)| *k == p)) {
        let tcp = |h: &&mut StorageHost| h.name.is_some() && h.transport != Some(HostTransport::Unix);
        for host in source.hosts.iter_mut().filter(tcp) {
            host.port.get_or_insert(*port);
        }
    }
}

fn fill_source(disk: &mut Disk) {
    let Some(source) = &mut disk.source else {
        return;
    };
    if source.file.as_deref() == Some("") {
        source.file = None;
    }
    fill_ports(source);
    if source.dev.as_deref() == Some("") {
        source.dev = None;
    }
    source
        .seclabels
        .retain(|s| s.labelskip.is_none_or(|l| !l.is_yes()));
    drop_foreign(source);
    // A target without a unit means the first one.
    if source.protocol == Some(NetProtocol::Iscsi)
        && let Some(name) = source.name.as_mut().filter(|n| !n.contains('/'))
    {
        name.push_str("/0");
    }
    if *source == Source::default() {
        disk.source = None;
    }
}

/// What a protocol does not have is not kept.
fn drop_foreign(source: &mut Source) {
    use NetProtocol::{Ftp, Ftps, Http, Https, Nbd};
    let Some(protocol) = source.protocol else {
        return;
    };
    if !matches!(protocol, Https | Ftps) {
        source.ssl = None;
    }
    if !matches!(protocol, Http | Https) {
        source.cookies = None;
        source.query = None;
    }
    if !matches!(protocol, Http | Https | Ftp | Ftps) {
        source.readahead = None;
        source.timeout = None;
    }
    if protocol != Nbd {
        source.reconnect = None;
    }
}

/// Images are decrypted by QEMU unless the document says who else.
fn fill_encryption(disk: &mut Disk) -> Result<()> {
    let own = disk.encryption.as_mut();
    let of_source = disk.source.as_mut().and_then(|s| s.encryption.as_mut());
    for encryption in own.into_iter().chain(of_source) {
        encryption.engine.get_or_insert(EncryptionEngine::Qemu);
    }
    let mut link = disk.backing.as_deref_mut();
    while let Some(backing) = link {
        if let Some(encryption) = backing.source.as_mut().and_then(|s| s.encryption.as_mut()) {
            encryption.engine.get_or_insert(EncryptionEngine::Qemu);
        }
        in_bytes(backing.format.as_mut().and_then(|f| f.metadata_cache.as_mut()))?;
        link = backing.backing.as_deref_mut();
    }
    Ok(())
}

/// Sizes of caches are kept in bytes.
fn in_bytes(cache: Option<&mut MetadataCache>) -> Result<()> {
    let Some(size) = cache.and_then(|c| c.max_size.as_mut()) else {
        return Ok(());
    };
    let unit = size.unit.as_deref().unwrap_or_default();
    let bytes = scale(size.value, unit);
    let value = bytes.map_err(|e| Error::new(Code::InvalidArg, Area::None, e.message))?;
    *size = Size {
        unit: Some("bytes".to_owned()),
        value,
    };
    Ok(())
}

fn fill_driver(disk: &mut Disk) -> Result<()> {
    let driver = disk.driver.get_or_insert_with(DiskDriver::default);
    in_bytes(driver.metadata_cache.as_mut())?;
    driver.cache = driver.cache.filter(|c| *c != CacheMode::Default);
    driver.io = driver.io.filter(|i| *i != IoMode::Default);
    driver.name.get_or_insert_with(|| "qemu".to_owned());
    // What a volume holds, its pool says.
    if disk.kind == StorageKind::Volume && driver.kind.is_none() {
        return Ok(());
    }
    driver.kind.get_or_insert(StorageFormat::Raw);
    Ok(())
}

/// Gives disks on drive controllers a place by their names.
pub(super) fn place(devices: &mut Devices) -> Result<()> {
    for at in 0..devices.disks.len() {
        let disk = &devices.disks[at];
        // One without a name is refused later.
        if disk.info.address.is_some() || disk.target.dev.is_empty() {
            continue;
        }
        let name = &disk.target.dev;
        let index = disk_index(name)
            .ok_or_else(|| Error::xml(format!("Unknown disk name '{name}' and no address specified")))?;
        let Some(bus) = disk.target.bus.filter(|b| is_drive_bus(*b)) else {
            continue;
        };
        let address = drive_of(bus, index);
        check_scsi_hostdevs(devices, name, bus, address)?;
        devices.disks[at].info.address = Some(Address::Drive(address));
    }
    Ok(())
}

const fn is_drive_bus(bus: DiskBus) -> bool {
    matches!(bus, DiskBus::Ide | DiskBus::Fdc | DiskBus::Scsi | DiskBus::Sata)
}

/// Place of the disk with a number on a kind of controller. Unit 7 of a SCSI bus is the controller itself, and what
/// a wide bus has behind it is used only when named.
fn drive_of(bus: DiskBus, index: u32) -> DriveAddress {
    let (controller, bus, unit) = match bus {
        DiskBus::Ide => (index / 4, index % 4 / 2, index % 2),
        DiskBus::Fdc => (index / 2, 0, index % 2),
        DiskBus::Sata => (index / 6, 0, index % 6),
        _ => (index / 7, 0, index % 7),
    };
    DriveAddress {
        controller,
        bus,
        target: 0,
        unit,
    }
}

fn check_scsi_hostdevs(devices: &Devices, name: &str, bus: DiskBus, place: DriveAddress) -> Result<()> {
    let scsi = devices
        .hostdevs
        .iter()
        .filter(|h| bus == DiskBus::Scsi && h.kind == HostdevKind::Scsi);
    let taken = scsi
        .filter(|h| matches!(&h.info.address, Some(Address::Drive(a)) if *a == place))
        .count()
        > 0;
    if taken {
        let DriveAddress {
            controller,
            bus,
            target,
            unit,
            ..
        } = place;
        return Err(Error::conflicting(format!(
            "using disk target name '{name}' conflicts with SCSI host device address controller='{controller}' bus='{bus}' target='{target}' unit='{unit}"
        )));
    }
    Ok(())
}
