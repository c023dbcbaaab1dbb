//! Character devices.

use domxml::Domain;
use domxml::devices::{
    Address, ChannelTargetKind, ChardevKind, ChardevSource, Devices, Serial, SerialTargetKind,
};

use crate::error::{Error, Result};

/// One place that a device leads to, and for channels what the guest sees of it.
pub(super) fn chardevs(def: &Domain) -> Result<()> {
    one_source(&def.devices)?;
    targets(def)?;
    let usb = |s: &Serial| s.target.as_ref().and_then(|t| t.kind) == Some(SerialTargetKind::UsbSerial);
    let placed = |s: &Serial| {
        s.info
            .address
            .as_ref()
            .is_some_and(|a| !matches!(a, Address::Usb(_)))
    };
    if def.devices.serials.iter().any(|s| usb(s) && placed(s)) {
        return Err(Error::conflicting("usb-serial requires address of usb type"));
    }
    Ok(())
}

fn one_source(devices: &Devices) -> Result<()> {
    let wrong = |kind: ChardevKind, sources: &[ChardevSource]| kind != ChardevKind::Udp && sources.len() > 1;
    let chardevs = devices.serials.iter().map(|c| &c.chardev);
    let chardevs = chardevs.chain(devices.parallels.iter().map(|c| &c.chardev));
    let chardevs = chardevs.chain(devices.consoles.iter().map(|c| &c.chardev));
    let chardevs = chardevs.chain(devices.channels.iter().map(|c| &c.chardev));
    let mut chardevs = chardevs.chain(devices.redirdevs.iter().map(|c| &c.chardev));
    let mut cards = devices
        .smartcards
        .iter()
        .filter_map(|c| Some((c.kind?, c.sources.as_slice())));
    let backends = devices.rngs.iter().filter_map(|r| r.backend.as_ref());
    let mut backends = backends.filter_map(|b| Some((b.kind?, b.sources.as_slice())));
    if chardevs.any(|c| wrong(c.kind, &c.sources))
        || cards.any(|(kind, sources)| wrong(kind, sources))
        || backends.any(|(kind, sources)| wrong(kind, sources))
    {
        return Err(Error::xml(
            "only one source element is allowed for character device",
        ));
    }
    Ok(())
}

/// What a document must say of a channel or console, whatever becomes of it.
fn targets(def: &Domain) -> Result<()> {
    for channel in &def.devices.channels {
        let Some(kind) = channel.target.as_ref().and_then(|t| t.kind) else {
            return Err(Error::xml("target type must be specified for channel device"));
        };
        let addressed = channel.target.as_ref().is_some_and(|t| t.address.is_some());
        if kind == ChannelTargetKind::Guestfwd && !addressed {
            return Err(Error::xml("guestfwd channel does not define a target address"));
        }
    }
    if def
        .devices
        .serials
        .iter()
        .any(|s| s.chardev.kind == ChardevKind::Spicevmc)
    {
        return Err(Error::conflicting("spicevmc device type only supports virtio"));
    }
    Ok(())
}
