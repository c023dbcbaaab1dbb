//! Everything with few rules.

use domxml::Domain;
use domxml::clock::ClockOffset;
use domxml::devices::{
    Address, Controller, ControllerKind, DeviceRef, Hostdev, HostdevKind, InputBus, OnOff, UsbModel,
};

use crate::error::{Area, Code, Error, Result};

/// Fewest retries of a Hyper-V spinlock.
const SPINLOCK_RETRIES: u32 = 4095;

/// Features with numbers and words.
pub(super) fn features(def: &Domain) -> Result<()> {
    hyperv_shapes(def)?;
    let dirty_ring = def
        .features
        .as_ref()
        .and_then(|f| f.kvm)
        .and_then(|k| k.dirty_ring);
    if let Some(ring) = dirty_ring.filter(|r| r.state == OnOff::On)
        && !ring
            .size
            .is_some_and(|s| s.is_power_of_two() && (1024..=65536).contains(&s))
    {
        return Err(Error::xml(
            "dirty ring must be power of 2 and ranges [1024, 65536]",
        ));
    }
    if def.os.bootmenu.and_then(|m| m.timeout).is_some_and(|t| t > 65535) {
        return Err(Error::conflicting(
            "invalid value for boot menu timeout, must be in range [0,65535]",
        ));
    }
    if def
        .os
        .bios
        .and_then(|b| b.reboot_timeout)
        .is_some_and(|t| !(-1..=65535).contains(&t))
    {
        return Err(Error::conflicting(
            "invalid value for rebootTimeout, must be in range [-1,65535]",
        ));
    }
    match &def.idmap {
        Some(map) if map.uid.is_empty() != map.gid.is_empty() => {
            Err(Error::conflicting("uid and gid should be mapped both"))
        }
        _ => Ok(()),
    }
}

/// What a clock goes by.
pub(super) fn clock(def: &Domain) -> Result<()> {
    let Some(clock) = &def.clock else {
        return Ok(());
    };
    match clock.offset {
        ClockOffset::Timezone if clock.timezone.is_none() => Err(Error::internal(
            "missing 'timezone' attribute for clock with offset='timezone'",
        )),
        ClockOffset::Absolute if clock.start.is_none() => Err(Error::internal(
            "missing 'start' attribute for clock with offset='absolute'",
        )),
        _ => Ok(()),
    }
}

fn hyperv_shapes(def: &Domain) -> Result<()> {
    let Some(hyperv) = def.features.as_ref().and_then(|f| f.hyperv.as_ref()) else {
        return Ok(());
    };
    if let Some(spinlocks) = hyperv.spinlocks.filter(|s| s.state == OnOff::On) {
        match spinlocks.retries {
            None => {
                let message = "Missing required attribute 'retries' in element 'spinlocks'";
                return Err(Error::new(Code::Xml, Area::Xml, message));
            }
            Some(retries) if retries < SPINLOCK_RETRIES => {
                return Err(Error::xml(format!(
                    "HyperV spinlock retry count must be at least {SPINLOCK_RETRIES}"
                )));
            }
            Some(_) => {}
        }
    }
    let vendor = hyperv.vendor_id.as_ref().and_then(|v| v.value.as_deref());
    if vendor.is_some_and(|v| v.contains(',')) {
        return Err(Error::xml("HyperV vendor_id value is invalid"));
    }
    Ok(())
}

/// Numbers that no PCI address has.
pub(super) fn addresses(def: &Domain) -> Result<()> {
    let infos = def.devices.iter().filter_map(DeviceRef::info);
    let mut pci = infos.filter_map(|i| match &i.address {
        Some(Address::Pci(a)) => Some(a),
        _ => None,
    });
    let wrong = pci.find_map(|a| match (a.bus, a.slot, a.function) {
        (bus, _, _) if bus > 0xff => Some(format!("bus='{bus:#x}', must be <= 0xFF")),
        (_, slot, _) if slot > 0x1f => Some(format!("slot='{slot:#x}', must be <= 0x1F")),
        (_, _, function) if function > 7 => Some(format!("function={function:#x}, must be <= 7")),
        _ => None,
    });
    match wrong {
        Some(wrong) => {
            let message = format!("Invalid PCI address {wrong}");
            Err(Error::new(Code::Xml, Area::None, message))
        }
        None => ccw(def),
    }
}

/// Numbers that no address of a channel has.
fn ccw(def: &Domain) -> Result<()> {
    let infos = def.devices.iter().filter_map(DeviceRef::info);
    let mut places = infos.filter_map(|i| match &i.address {
        Some(Address::Ccw(a)) => a.place,
        _ => None,
    });
    let wrong = places.find(|p| p.cssid > 254 || p.ssid > 3 || p.devno > 0xffff);
    wrong.map_or(Ok(()), |p| {
        let (cssid, ssid, devno) = (p.cssid, p.ssid, p.devno);
        let message = format!(
            "Invalid specification for virtio ccw address: cssid='{cssid:#x}' ssid='{ssid:#x}' devno='{devno:#06x}'"
        );
        Err(Error::new(Code::Internal, Area::Device, message))
    })
}

/// Orders of boot.
pub(super) fn boot_order(def: &Domain) -> Result<()> {
    let infos = def.devices.iter().filter_map(DeviceRef::info);
    let all: Vec<u32> = infos.filter_map(|i| i.boot.as_ref()).map(|b| b.order).collect();
    let loadparms = def.devices.iter().filter_map(DeviceRef::info);
    let mut loadparms = loadparms.filter_map(|i| i.boot.as_ref()?.loadparm.as_deref());
    if let Some(long) = loadparms.find(|p| !(1..=8).contains(&p.len())) {
        return Err(Error::internal(format!(
            "loadparm value '{long}' must be between 1 and 8 characters"
        )));
    }
    if all.contains(&0) {
        let message = "Invalid value for attribute 'order' in element 'boot': Zero is not permitted";
        return Err(Error::new(Code::Xml, Area::Xml, message));
    }
    match all.iter().enumerate().find(|(at, o)| all[..*at].contains(o)) {
        None => Ok(()),
        Some((_, order)) => Err(Error::conflicting(format!(
            "boot order '{order}' used for more than one device"
        ))),
    }
}

/// Attributes that must be there.
pub(super) fn required(def: &Domain) -> Result<()> {
    let audio = def.devices.audios.iter().any(|a| a.id.is_none());
    let mdev = |h: &Hostdev| h.kind == HostdevKind::Mdev && h.model.is_none();
    let (attribute, element) = match (audio, def.devices.hostdevs.iter().any(mdev)) {
        (true, _) => ("id", "audio"),
        (_, true) => ("model", "hostdev"),
        _ => return Ok(()),
    };
    let message = format!("Missing required attribute '{attribute}' in element '{element}'");
    Err(Error::new(Code::Xml, Area::Xml, message))
}

/// A guest may say that it has no USB; then nothing may be on it.
pub(super) fn usb_is_there(def: &Domain) -> Result<()> {
    let devices = &def.devices;
    let usb: Vec<_> = devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Usb)
        .collect();
    if !usb.iter().any(|c| c.usb_model() == Some(UsbModel::None)) {
        return Ok(());
    }
    if usb.len() > 1 {
        return Err(Error::detail(
            "Can't add another USB controller: USB is disabled for this domain",
        ));
    }
    let of_host = |h: &Hostdev| h.kind == HostdevKind::Usb;
    if devices.hostdevs.iter().any(of_host) {
        return Err(Error::conflicting(
            "Can't add host USB device: USB is disabled in this host",
        ));
    }
    if !devices.hubs.is_empty() {
        return Err(Error::conflicting(
            "Can't add USB hub: USB is disabled for this domain",
        ));
    }
    if devices.inputs.iter().any(|i| i.bus == Some(InputBus::Usb)) {
        return Err(Error::conflicting(
            "Can't add USB input device. USB bus is disabled",
        ));
    }
    Ok(())
}

/// Settings of SCSI devices alone.
pub(super) fn hostdevs(def: &Domain) -> Result<()> {
    let others = || {
        def.devices
            .hostdevs
            .iter()
            .filter(|h| h.kind != HostdevKind::Scsi)
    };
    if others().any(|h| h.sgio.is_some()) {
        return Err(Error::xml("sgio is only supported for scsi host device"));
    }
    if others().any(|h| h.rawio.is_some()) {
        return Err(Error::xml("rawio is only supported for scsi host device"));
    }
    Ok(())
}

/// What the firmware is told of the guest.
pub(super) fn sysinfo(def: &Domain) -> Result<()> {
    def.sysinfo.iter().try_for_each(|info| {
        if info
            .bios
            .as_ref()
            .and_then(|b| b.get("date"))
            .is_some_and(|d| !is_date(d))
        {
            return Err(Error::detail("Invalid BIOS 'date' format"));
        }
        let uuid = info
            .system
            .as_ref()
            .and_then(|s| s.get("uuid"))
            .and_then(|u| uuid::Uuid::parse_str(u).ok());
        if uuid.is_some_and(|u| def.uuid.is_some_and(|own| own != u)) {
            return Err(Error::detail("UUID mismatch between <uuid> and <sysinfo>"));
        }
        Ok(())
    })
}

/// `mm/dd/yyyy`, or `mm/dd/yy` of the twentieth century.
fn is_date(text: &str) -> bool {
    let parts: Vec<Option<u32>> = text.split('/').map(|p| p.parse().ok()).collect();
    match parts.as_slice() {
        [Some(month), Some(day), Some(year)] => {
            (1..=12).contains(month)
                && (1..=31).contains(day)
                && (*year < 100 || (1900..10000).contains(year))
        }
        _ => false,
    }
}

/// A source of randomness has one.
pub(super) fn rngs(def: &Domain) -> Result<()> {
    match def.devices.rngs.iter().any(|r| r.backend.is_none()) {
        true => Err(Error::xml("only one RNG backend is supported")),
        false => Ok(()),
    }
}

/// Companions serve the ports of a leader.
pub(crate) fn usb_leaders(all: &[Controller]) -> Result<()> {
    let mut usb = all.iter().filter(|c| c.kind == ControllerKind::Usb).peekable();
    if usb.peek().is_some() && usb.all(|c| c.info.master.is_some()) {
        return Err(Error::detail("No master USB controller specified"));
    }
    Ok(())
}
