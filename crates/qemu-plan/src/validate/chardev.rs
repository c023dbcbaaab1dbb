//! Character devices: where they lead, and whether a serial port fits the machine.

use domxml::Domain;
use domxml::devices::{
    ChannelTargetKind, ChardevKind, ChardevMode, ChardevProtocol, ChardevSource, Console, ConsoleTargetKind,
    Devices, GraphicsKind, Serial, SerialModel, SerialTargetKind,
};

use super::Guest;
use crate::error::{Area, Code, Error, Result};
use crate::facts::address_kind;

/// One character device, whatever carries it.
struct End<'a> {
    kind: ChardevKind,
    sources: &'a [ChardevSource],
    protocol: Option<ChardevProtocol>,
    /// Whether the daemon makes up a path when there is none.
    makes_path: bool,
}

fn ends(devices: &Devices) -> Vec<End<'_>> {
    let serials = devices.serials.iter().map(|c| (&c.chardev, false));
    let parallels = devices.parallels.iter().map(|c| (&c.chardev, false));
    let consoles = devices.consoles.iter().map(|c| (&c.chardev, false));
    let channels = devices.channels.iter().map(|c| (&c.chardev, true));
    let redirdevs = devices.redirdevs.iter().map(|c| (&c.chardev, false));
    let chardevs = serials
        .chain(parallels)
        .chain(consoles)
        .chain(channels)
        .chain(redirdevs);
    let chardevs = chardevs.map(|(c, makes_path)| End {
        kind: c.kind,
        sources: &c.sources,
        protocol: c.protocol,
        makes_path,
    });
    let cards = devices.smartcards.iter().filter_map(|c| {
        Some(End {
            kind: c.kind?,
            sources: &c.sources,
            protocol: c.protocol,
            makes_path: false,
        })
    });
    let rngs = devices
        .rngs
        .iter()
        .filter_map(|r| r.backend.as_ref())
        .filter_map(|b| {
            Some(End {
                kind: b.kind?,
                sources: &b.sources,
                protocol: b.protocol,
                makes_path: false,
            })
        });
    chardevs.chain(cards).chain(rngs).collect()
}

pub(super) fn one_source(def: &Domain) -> Result<()> {
    let wrong = |e: &End<'_>| e.kind != ChardevKind::Udp && e.sources.len() > 1;
    if ends(&def.devices).iter().any(wrong) {
        return Err(Error::xml(
            "only one source element is allowed for character device",
        ));
    }
    Ok(())
}

pub(super) fn sources(guest: &Guest<'_>) -> Result<()> {
    ends(&guest.def.devices).iter().try_for_each(|end| {
        attributes(end)?;
        reconnect(end)?;
        match end.protocol.filter(|_| end.kind == ChardevKind::Tcp) {
            Some(ChardevProtocol::Tls | ChardevProtocol::Telnets) => {
                Err(Error::unsupported("tcp chardev protocol 'tls' not supported"))
            }
            _ => Ok(()),
        }
    })
}

/// Attributes without which a kind leads nowhere.
fn attributes(end: &End<'_>) -> Result<()> {
    let first = end.sources.first();
    let has =
        |value: fn(&ChardevSource) -> Option<&String>| first.and_then(value).is_some_and(|v| !v.is_empty());
    let missing = |what: &str| {
        Err(Error::internal(format!(
            "Missing source {what} attribute for char device"
        )))
    };
    match end.kind {
        ChardevKind::File | ChardevKind::Dev | ChardevKind::Pipe if !has(|s| s.path.as_ref()) => {
            missing("path")
        }
        ChardevKind::Unix if !end.makes_path && !has(|s| s.path.as_ref()) => missing("path"),
        ChardevKind::Tcp if !has(|s| s.host.as_ref()) => missing("host"),
        ChardevKind::Tcp if !has(|s| s.service.as_ref()) => missing("service"),
        ChardevKind::Udp => {
            let connects = |s: &&ChardevSource| s.mode != Some(ChardevMode::Bind);
            let service = end.sources.iter().find(connects).and_then(|s| s.service.as_ref());
            if service.is_none() {
                missing("service")
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

fn reconnect(end: &End<'_>) -> Result<()> {
    let Some(source) = end.sources.first() else {
        return Ok(());
    };
    let Some(reconnect) = source
        .reconnect
        .as_ref()
        .filter(|r| r.enabled.is_some_and(|e| e.is_yes()))
    else {
        return Ok(());
    };
    if source.mode != Some(ChardevMode::Connect)
        || end.makes_path && end.kind == ChardevKind::Unix && source.path.is_none()
    {
        return Err(Error::internal(
            "chardev reconnect is possible only for connect mode",
        ));
    }
    if reconnect.timeout == Some(0) {
        return Err(Error::new(
            Code::InvalidArg,
            Area::Qemu,
            "chardev reconnect source timeout cannot be '0'",
        ));
    }
    Ok(())
}

/// What a document must say of a channel or console, whatever becomes of it.
pub(super) fn shapes(def: &Domain) -> Result<()> {
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

pub(super) fn first_console(guest: &Guest<'_>) -> Result<()> {
    let is_serial = |c: &Console| {
        matches!(
            c.target.as_ref().and_then(|t| t.kind),
            None | Some(ConsoleTargetKind::Serial)
        )
    };
    if guest.def.devices.consoles.iter().skip(1).any(is_serial) {
        return Err(Error::conflicting("Only the first console can be a serial port"));
    }
    Ok(())
}

pub(super) fn spice_only(guest: &Guest<'_>) -> Result<()> {
    let spice = guest
        .def
        .devices
        .graphics
        .iter()
        .any(|g| g.kind == GraphicsKind::Spice);
    let wants = |e: &&End<'_>| matches!(e.kind, ChardevKind::Spicevmc | ChardevKind::Spiceport);
    let found = ends(&guest.def.devices).iter().find(wants).map(|e| e.kind);
    match found.filter(|_| !spice) {
        None => Ok(()),
        Some(kind) => {
            let kind = kind.as_str();
            Err(Error::unsupported(format!(
                "chardev '{kind}' not supported without spice graphics"
            )))
        }
    }
}

pub(super) fn console_targets(guest: &Guest<'_>) -> Result<()> {
    let kinds = guest
        .def
        .devices
        .consoles
        .iter()
        .filter_map(|c| c.target.as_ref()?.kind);
    let foreign = |k: &ConsoleTargetKind| !matches!(k, ConsoleTargetKind::Serial | ConsoleTargetKind::Virtio);
    match kinds.into_iter().find(foreign) {
        None => Ok(()),
        Some(ConsoleTargetKind::Sclp | ConsoleTargetKind::Sclplm) => Err(Error::unsupported(
            "sclpconsole is not supported in this QEMU binary",
        )),
        Some(kind) => Err(Error::unsupported(format!(
            "unsupported console target type {}",
            kind.as_str()
        ))),
    }
}

/// The model and the address that each kind of serial port wants.
const SERIALS: &[(SerialTargetKind, SerialModel, &str)] = &[
    (SerialTargetKind::IsaSerial, SerialModel::IsaSerial, "isa"),
    (SerialTargetKind::UsbSerial, SerialModel::UsbSerial, "usb"),
    (SerialTargetKind::PciSerial, SerialModel::PciSerial, "pci"),
    (SerialTargetKind::IsaDebug, SerialModel::IsaDebugcon, "isa"),
];

fn fits_target(serial: &Serial) -> Result<()> {
    let Some((kind, model)) = serial.target.as_ref().and_then(|t| Some((t.kind?, t.model?))) else {
        return Ok(());
    };
    let by_kind = SERIALS.iter().find(|(k, _, _)| *k == kind);
    if let Some((wanted, _, _)) = SERIALS
        .iter()
        .find(|(_, m, _)| *m == model)
        .filter(|(k, _, _)| *k != kind)
    {
        return Err(Error::unsupported(format!(
            "Target model '{}' requires target type '{}'",
            model.as_str(),
            wanted.as_str()
        )));
    }
    match (by_kind, &serial.info.address) {
        (Some((_, _, wanted)), Some(address)) if address_kind(address) != *wanted => Err(Error::unsupported(
            format!("Target type '{}' requires address type '{wanted}'", kind.as_str()),
        )),
        _ => Ok(()),
    }
}

pub(super) fn serial_targets(guest: &Guest<'_>) -> Result<()> {
    guest.def.devices.serials.iter().try_for_each(fits_target)?;
    let targets = guest.def.devices.serials.iter().filter_map(|s| s.target.as_ref());
    let foreign = |k| {
        matches!(
            k,
            SerialTargetKind::SystemSerial | SerialTargetKind::SpaprVioSerial | SerialTargetKind::SclpSerial
        )
    };
    let mut wrong = targets.filter_map(|t| Some((t.kind.filter(|k| foreign(*k))?, Some(t.model?))));
    match wrong.next() {
        None => Ok(()),
        Some((kind, model)) => Err(Error::unsupported(format!(
            "Serial device with target type '{}' and target model '{}' not compatible with guest architecture or machine type",
            kind.as_str(),
            model.map_or("", |m| m.as_str())
        ))),
    }
}
