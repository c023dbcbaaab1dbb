//! Disks.

use domxml::Domain;
use domxml::devices::{Address, Devices, Disk, DiskBus, DiskDevice};

use super::{Rules, Side, first, invalid, missing};
use crate::error::{Error, Result};
use crate::validate;

impl Rules for Disk {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        match side {
            Side::Live => live(def, self),
            Side::Stored => stored(def, self),
        }
    }

    /// By the target alone.
    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        let name = &self.target.dev;
        first(
            &devices.disks,
            |d| d.target.dev == *name,
            || match side {
                Side::Live => missing(format!("disk {name} not found")),
                Side::Stored => missing(format!("no target device {name}")),
            },
        )
    }

    fn detach(&self, _: &Devices) -> Result<()> {
        removable(self)
    }
}

fn live(def: &Domain, disk: &Disk) -> Result<()> {
    if disk.device == DiskDevice::Floppy {
        return Err(Error::not_pluggable("floppy device hotplug isn't supported"));
    }
    validate::unique_target(&def.devices.disks, disk)?;
    match (disk.target.bus.unwrap_or_default(), disk.device) {
        (DiskBus::Usb, DiskDevice::Lun) => Err(Error::unsupported(
            "disk device='lun' is not supported for usb bus",
        )),
        (DiskBus::Virtio, DiskDevice::Cdrom) => Err(Error::not_pluggable(
            "cdrom device with virtio bus isn't supported",
        )),
        (DiskBus::Scsi, _) => free_scsi_address(def, disk),
        (DiskBus::Virtio | DiskBus::Usb, _) => Ok(()),
        (bus, _) => Err(Error::not_pluggable(format!(
            "disk bus '{}' cannot be hotplugged.",
            bus.as_str()
        ))),
    }
}

fn free_scsi_address(def: &Domain, disk: &Disk) -> Result<()> {
    let Some(own @ Address::Drive(_)) = &disk.info.address else {
        return Err(Error::internal("unexpected disk address type of a SCSI disk"));
    };
    let same = |d: &&Disk| d.target.bus == Some(DiskBus::Scsi) && d.info.address.as_ref() == Some(own);
    match def.devices.disks.iter().find(same) {
        Some(_) => Err(invalid("Domain already contains a disk with that address")),
        None => Ok(()),
    }
}

fn stored(def: &Domain, disk: &Disk) -> Result<()> {
    let name = &disk.target.dev;
    match def.devices.disks.iter().any(|d| d.target.dev == *name) {
        true => Err(invalid(format!("target {name} already exists"))),
        false => Ok(()),
    }
}

fn removable(disk: &Disk) -> Result<()> {
    let bus = disk.target.bus.unwrap_or_default();
    let message = match disk.device {
        DiskDevice::Disk | DiskDevice::Lun => match bus {
            DiskBus::Virtio | DiskBus::Usb | DiskBus::Scsi => return Ok(()),
            _ => "This type of disk cannot be hot unplugged".to_owned(),
        },
        DiskDevice::Cdrom if matches!(bus, DiskBus::Usb | DiskBus::Scsi) => return Ok(()),
        other => format!("disk device type '{}' cannot be detached", other.as_str()),
    };
    Err(Error::not_pluggable(message))
}
