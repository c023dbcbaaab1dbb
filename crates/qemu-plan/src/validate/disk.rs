//! Disks.

use domxml::Domain;
use domxml::devices::{
    Auth, Disk, DiskBus, DiskDevice, Encryption, EncryptionEngine, EncryptionFormat, NetProtocol,
    SecretUse, StorageFormat, StorageKind,
};

use super::Guest;
use crate::caps::Flag;
use crate::error::{Area, Code, Error, Result};

pub(super) fn one_auth(def: &Domain) -> Result<()> {
    let both = |d: &Disk| d.auth.is_some() && d.source.as_ref().is_some_and(|s| s.auth.is_some());
    refuse_if(
        def,
        both,
        "an <auth> definition already found for disk source",
    )
}

pub(super) fn one_encryption(def: &Domain) -> Result<()> {
    let both = |d: &Disk| {
        d.encryption.is_some() && d.source.as_ref().is_some_and(|s| s.encryption.is_some())
    };
    refuse_if(
        def,
        both,
        "an <encryption> definition already found for disk source",
    )
}

pub(super) fn protocols(def: &Domain) -> Result<()> {
    let sheepdog =
        |d: &Disk| d.source.as_ref().and_then(|s| s.protocol) == Some(NetProtocol::Sheepdog);
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
        sharing(disk)
    })
}

fn throttling(disk: &Disk) -> Result<()> {
    if disk.iotune.is_some() && disk.throttlefilters.is_some() {
        let message = format!(
            "block 'throttlefilters' can't be used together with 'iotune' for disk '{}'",
            disk.target.dev
        );
        return Err(Error::new(
            Code::OperationUnsupported,
            Area::Domain,
            message,
        ));
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
        return Err(Error::unsupported(
            "vhostvdpa disk supports only virtio bus",
        ));
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
    let luks =
        |e: &Encryption| matches!(e.format, EncryptionFormat::Luks | EncryptionFormat::LuksAny);
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
