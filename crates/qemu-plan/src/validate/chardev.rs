//! Character devices: where they lead, and whether a serial port fits the machine.

use domxml::Domain;
use domxml::devices::{
    ChardevKind, ChardevMode, ChardevProtocol, ChardevSource, Devices, SerialTargetKind,
};

use super::Guest;
use crate::error::{Area, Code, Error, Result};

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
            Some(ChardevProtocol::Tls | ChardevProtocol::Telnets) => Err(Error::unsupported(
                "tcp chardev protocol 'tls' not supported",
            )),
            _ => Ok(()),
        }
    })
}

/// Attributes without which a kind leads nowhere.
fn attributes(end: &End<'_>) -> Result<()> {
    let first = end.sources.first();
    let has = |value: fn(&ChardevSource) -> Option<&String>| {
        first.and_then(value).is_some_and(|v| !v.is_empty())
    };
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
            let service = end
                .sources
                .iter()
                .find(connects)
                .and_then(|s| s.service.as_ref());
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

pub(super) fn serial_targets(guest: &Guest<'_>) -> Result<()> {
    let targets = guest
        .def
        .devices
        .serials
        .iter()
        .filter_map(|s| s.target.as_ref());
    let foreign = |k| {
        matches!(
            k,
            SerialTargetKind::SystemSerial
                | SerialTargetKind::SpaprVioSerial
                | SerialTargetKind::SclpSerial
        )
    };
    let mut wrong = targets.filter_map(|t| Some((t.kind.filter(|k| foreign(*k))?, t.model)));
    match wrong.next() {
        None => Ok(()),
        Some((kind, model)) => Err(Error::unsupported(format!(
            "Serial device with target type '{}' and target model '{}' not compatible with guest architecture or machine type",
            kind.as_str(),
            model.map_or("", |m| m.as_str())
        ))),
    }
}
