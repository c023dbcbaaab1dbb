//! Disks.

use domxml::Domain;
use domxml::devices::{
    Address, Auth, CacheMode, Devices, Disk, DiskBus, DiskDevice, Encryption, EncryptionEngine,
    EncryptionFormat, IoMode, NetProtocol, OnOff, ScsiModel, SecretUse, StorageFormat, StorageKind,
};

use super::Guest;
use crate::caps::Flag;
use crate::error::{Area, Code, Error, Result};
use crate::facts::address_kind;

pub(super) fn one_auth(def: &Domain) -> Result<()> {
    let both = |d: &Disk| d.auth.is_some() && d.source.as_ref().is_some_and(|s| s.auth.is_some());
    refuse_if(def, both, "an <auth> definition already found for disk source")
}

pub(super) fn one_encryption(def: &Domain) -> Result<()> {
    let both = |d: &Disk| d.encryption.is_some() && d.source.as_ref().is_some_and(|s| s.encryption.is_some());
    refuse_if(
        def,
        both,
        "an <encryption> definition already found for disk source",
    )
}

pub(super) fn protocols(def: &Domain) -> Result<()> {
    let sheepdog = |d: &Disk| d.source.as_ref().and_then(|s| s.protocol) == Some(NetProtocol::Sheepdog);
    refuse_if(
        def,
        sheepdog,
        "'sheepdog' protocol is no longer supported by any hypervisor driver",
    )
}

fn refuse_if(def: &Domain, wrong: impl Fn(&Disk) -> bool, message: &str) -> Result<()> {
    if def.devices.disks.iter().any(wrong) {
        Err(Error::conflicting(message))
    } else {
        Ok(())
    }
}

/// Which secrets a protocol takes.
const SECRETS: &[(NetProtocol, SecretUse)] = &[
    (NetProtocol::Iscsi, SecretUse::Iscsi),
    (NetProtocol::Rbd, SecretUse::Ceph),
];

pub(super) fn secrets(def: &Domain) -> Result<()> {
    def.devices.disks.iter().try_for_each(|disk| {
        let source = disk.source.as_ref();
        let auth = disk.auth.as_ref().or_else(|| source?.auth.as_ref());
        let wanted = source
            .and_then(|s| s.protocol)
            .and_then(|p| SECRETS.iter().find(|(k, _)| *k == p));
        match (auth.and_then(|a: &Auth| a.secret.as_ref()), wanted) {
            (Some(secret), Some((_, wanted))) => match secret.kind {
                None => Err(Error::conflicting("unknown secret type '<null>'")),
                Some(kind) if kind != *wanted => Err(Error::conflicting(format!(
                    "invalid secret type '{}'",
                    kind.as_str()
                ))),
                Some(_) => Ok(()),
            },
            _ => Ok(()),
        }
    })
}

pub(super) fn checks(guest: &Guest<'_>) -> Result<()> {
    guest.def.devices.disks.iter().try_for_each(|disk| {
        throttling(disk)?;
        device(disk)?;
        vdpa(guest, disk)?;
        encryption(disk)?;
        sharing(disk)?;
        driver(guest, disk)?;
        front_end(disk)?;
        iotune(disk)
    })?;
    places(&guest.def.devices.disks)?;
    narrow_buses(&guest.def.devices)
}

pub(super) fn targets(guest: &Guest<'_>) -> Result<()> {
    let disks = &guest.def.devices.disks;
    for (at, disk) in disks.iter().enumerate() {
        let twin = disks[..at].iter().find(|d| d.target.dev == disk.target.dev);
        if let Some(twin) = twin {
            let source = |d: &Disk| {
                let s = d.source.as_ref();
                s.and_then(|s| s.file.clone().or_else(|| s.dev.clone()))
                    .unwrap_or_else(|| "NULL".to_owned())
            };
            let (name, one, two) = (&disk.target.dev, source(twin), source(disk));
            return Err(Error::xml(format!(
                "target '{name}' duplicated for disk sources '{one}' and '{two}'"
            )));
        }
    }
    Ok(())
}

fn driver(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    let Some(driver) = &disk.driver else {
        return Ok(());
    };
    let dev = &disk.target.dev;
    let name = driver.name.as_deref().unwrap_or("qemu");
    if name != "qemu" {
        return Err(Error::unsupported(format!(
            "unsupported driver name '{name}' for disk '{dev}'"
        )));
    }
    if disk.kind == StorageKind::Dir && driver.kind != Some(StorageFormat::Fat) {
        return Err(Error::unsupported(
            "storage type 'dir' requires use of storage format 'fat'",
        ));
    }
    if disk.kind == StorageKind::VhostUser && !super::net::shares_memory(guest) {
        return Err(Error::unsupported("'vhostuser' requires shared memory"));
    }
    if let Some(id) = driver
        .iothread
        .filter(|id| !super::tuning::iothread_ids(guest.def).contains(id))
    {
        return Err(Error::unsupported(format!(
            "Disk iothread '{id}' not defined in iothreadid"
        )));
    }
    if driver.io == Some(IoMode::Native)
        && !matches!(driver.cache, Some(CacheMode::None | CacheMode::Directsync))
    {
        return Err(Error::unsupported(
            "io='native' needs either no disk cache or directsync cache mode",
        ));
    }
    if driver.copy_on_read == Some(OnOff::On) && disk.readonly {
        return Err(Error::unsupported(format!(
            "copy_on_read is not compatible with read-only disk '{dev}'"
        )));
    }
    Ok(())
}

/// What the bus of a disk can do.
fn front_end(disk: &Disk) -> Result<()> {
    let bus = disk.target.bus.unwrap_or_default();
    let scsi_words = disk.vendor.is_some() || disk.product.is_some();
    if bus == DiskBus::Virtio {
        if matches!(disk.device, DiskDevice::Cdrom | DiskDevice::Floppy) {
            let dev = &disk.target.dev;
            return Err(Error::unsupported(format!(
                "disk type of '{dev}' does not support ejectable media"
            )));
        }
        let placed = |a: &Address| {
            matches!(
                a,
                Address::Pci(_) | Address::Ccw(_) | Address::VirtioMmio | Address::Unassigned
            )
        };
        if let Some(address) = disk.info.address.as_ref().filter(|a| !placed(a)) {
            let kind = address_kind(address);
            return Err(Error::unsupported(format!(
                "virtio disk cannot have an address of type '{kind}'"
            )));
        }
    }
    if disk.device == DiskDevice::Lun && !matches!(bus, DiskBus::Scsi | DiskBus::Virtio) {
        return Err(Error::unsupported(format!(
            "disk device='lun' is not supported for bus='{}'",
            bus.as_str()
        )));
    }
    if scsi_words && bus != DiskBus::Scsi {
        return Err(Error::unsupported("Only scsi disk supports vendor and product"));
    }
    let Some(wwn) = &disk.wwn else { return Ok(()) };
    let wwn = wwn.strip_prefix("0x").unwrap_or(wwn);
    if wwn.len() != 16 || !wwn.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::new(
            Code::Internal,
            Area::None,
            format!("Malformed wwn: {wwn}"),
        ));
    }
    if !matches!(bus, DiskBus::Ide | DiskBus::Scsi | DiskBus::Sata) {
        return Err(Error::unsupported("Only ide and scsi disk support wwn"));
    }
    Ok(())
}

/// A total and its parts cannot both be limited.
fn iotune(disk: &Disk) -> Result<()> {
    let Some(t) = &disk.iotune else { return Ok(()) };
    let set = |v: Option<u64>| v.is_some_and(|v| v != 0);
    let pairs = [
        (
            "bytes_sec",
            t.total_bytes_sec,
            t.read_bytes_sec,
            t.write_bytes_sec,
        ),
        ("iops_sec", t.total_iops_sec, t.read_iops_sec, t.write_iops_sec),
        (
            "bytes_sec_max",
            t.total_bytes_sec_max,
            t.read_bytes_sec_max,
            t.write_bytes_sec_max,
        ),
        (
            "iops_sec_max",
            t.total_iops_sec_max,
            t.read_iops_sec_max,
            t.write_iops_sec_max,
        ),
    ];
    let clash = pairs
        .iter()
        .find(|(_, total, read, write)| set(*total) && (set(*read) || set(*write)));
    clash.map_or(Ok(()), |(name, ..)| {
        Err(Error::xml(format!(
            "total and read/write {name} cannot be set at the same time"
        )))
    })
}

/// The old SCSI controller has one target a unit.
fn narrow_buses(devices: &Devices) -> Result<()> {
    let narrow = |index: u32| {
        let mut scsi = devices.controllers.iter().filter(|c| c.index == Some(index));
        scsi.any(|c| c.scsi_model() == Some(ScsiModel::Lsilogic))
    };
    for disk in devices
        .disks
        .iter()
        .filter(|d| d.target.bus == Some(DiskBus::Scsi))
    {
        let Some(Address::Drive(a)) = &disk.info.address else {
            continue;
        };
        if !narrow(a.controller) {
            continue;
        }
        if a.target != 0 {
            return Err(Error::unsupported(
                "target must be 0 for controller model 'lsilogic'",
            ));
        }
        if a.unit > 7 {
            return Err(Error::unsupported(format!(
                "disk unit {} is too large for controller model 'lsilogic', maximum is 7",
                a.unit
            )));
        }
    }
    Ok(())
}

/// Most buses and controllers of each kind of drive.
fn places(disks: &[Disk]) -> Result<()> {
    for (at, disk) in disks.iter().enumerate() {
        let Some(Address::Drive(a)) = &disk.info.address else {
            continue;
        };
        let same = |d: &&Disk| d.target.bus == disk.target.bus && d.info.address == disk.info.address;
        if let Some(first) = disks[..at].iter().find(same) {
            return Err(Error::conflicting(format!(
                "Found duplicate drive address for disk with target name '{}' controller='{}' bus='{}' target='{}' unit='{}'",
                first.target.dev, a.controller, a.bus, a.target, a.unit
            )));
        }
        let limit = match disk.target.bus {
            Some(DiskBus::Scsi) if a.bus > 0 => "SCSI controller only supports 1 bus",
            Some(DiskBus::Ide) if a.controller > 0 => "Only 1 IDE controller is supported",
            _ => continue,
        };
        return Err(Error::new(Code::Internal, Area::Qemu, limit));
    }
    Ok(())
}

fn throttling(disk: &Disk) -> Result<()> {
    if disk.iotune.is_some() && disk.throttlefilters.is_some() {
        let message = format!(
            "block 'throttlefilters' can't be used together with 'iotune' for disk '{}'",
            disk.target.dev
        );
        return Err(Error::new(Code::OperationUnsupported, Area::Domain, message));
    }
    Ok(())
}

fn device(disk: &Disk) -> Result<()> {
    if disk.device == DiskDevice::Lun && !lun_source(disk) {
        return Err(Error::conflicting(
            "disk device='lun' is only valid for block type disk source",
        ));
    }
    if disk.target.bus == Some(DiskBus::Usb) && disk.source.is_none() {
        return Err(Error::unsupported("'usb' disk must not be empty"));
    }
    Ok(())
}

fn vdpa(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    if disk.kind != StorageKind::VhostVdpa {
        return Ok(());
    }
    if disk.target.bus != Some(DiskBus::Virtio) {
        return Err(Error::unsupported("vhostvdpa disk supports only virtio bus"));
    }
    if !guest.caps.has(Flag::VirtioBlkVhostVdpa) {
        return Err(Error::unsupported(
            "vhostvdpa disk is not supported with this QEMU binary",
        ));
    }
    Ok(())
}

/// A whole device of the host, or one that a pool may turn out to give.
fn lun_source(disk: &Disk) -> bool {
    let iscsi = disk.source.as_ref().and_then(|s| s.protocol) == Some(NetProtocol::Iscsi);
    matches!(disk.kind, StorageKind::Block | StorageKind::Volume)
        || disk.kind == StorageKind::Network && iscsi
}

fn encryption(disk: &Disk) -> Result<()> {
    let of_source = disk.source.as_ref().and_then(|s| s.encryption.as_ref());
    let Some(encryption) = disk.encryption.as_ref().or(of_source) else {
        return Ok(());
    };
    let luks = |e: &Encryption| matches!(e.format, EncryptionFormat::Luks | EncryptionFormat::LuksAny);
    if luks(encryption) && encryption.cipher.is_some() {
        return Err(Error::conflicting(
            "supplying <cipher> for domain disk definition is unnecessary",
        ));
    }
    if encryption.engine == Some(EncryptionEngine::Librbd) {
        return Ok(());
    }
    let format = disk.driver.as_ref().and_then(|d| d.kind);
    if !matches!(
        format,
        Some(StorageFormat::Raw | StorageFormat::Qcow2 | StorageFormat::Luks)
    ) {
        return Err(Error::unsupported(
            "encryption is supported only with 'raw' and 'qcow2' image format",
        ));
    }
    Ok(())
}

/// Formats with metadata of their own cannot be written by two guests.
fn sharing(disk: &Disk) -> Result<()> {
    let raw = disk.driver.as_ref().and_then(|d| d.kind) == Some(StorageFormat::Raw);
    if disk.shareable && !disk.readonly && !raw {
        return Err(Error::unsupported(format!(
            "shared access for disk '{}' requires use of supported storage format",
            disk.target.dev
        )));
    }
    Ok(())
}
