//! Network cards.

use domxml::Domain;
use domxml::devices::interface::MacvtapMode;
use domxml::devices::{Interface, InterfaceKind};

use crate::error::{Area, Code, Error, Result};

/// What a document must say of a card, whatever becomes of it.
pub(super) fn cards(def: &Domain) -> Result<()> {
    def.devices.interfaces.iter().try_for_each(bandwidth)?;
    def.devices.interfaces.iter().try_for_each(|card| {
        let kind = card.kind.as_str();
        let needs = matches!(
            card.kind,
            InterfaceKind::Bridge | InterfaceKind::Network | InterfaceKind::Direct
        );
        if needs && card.source.is_none() {
            return Err(Error::xml(format!(
                "interface type='{kind}' requires a 'source' element"
            )));
        }
        if card.virtualport.is_some() && !HAVE_VIRTUAL_PORT.contains(&card.kind) {
            return Err(Error::unsupported(format!(
                "<virtualport> element unsupported for <interface type='{kind}'>"
            )));
        }
        direct_source(card)?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if card.model.as_deref().is_some_and(|m| !m.chars().all(word)) {
            let message = "Model name contains invalid characters";
            return Err(Error::new(Code::InvalidArg, Area::Domain, message));
        }
        card.mac.as_ref().map_or(Ok(()), |mac| address(&mac.address))
    })
}

/// What a macvtap must say of the device below.
fn direct_source(card: &Interface) -> Result<()> {
    let Some(source) = card
        .source
        .as_ref()
        .filter(|_| card.kind == InterfaceKind::Direct)
    else {
        return Ok(());
    };
    if source.dev.is_none() {
        return Err(Error::xml("Missing required attribute 'dev' in element 'source'"));
    }
    match source.mode.as_deref() {
        Some(mode) if mode.parse::<MacvtapMode>().is_err() => Err(Error::xml(format!(
            "Invalid value for attribute 'mode' in element 'source': '{mode}'."
        ))),
        _ => Ok(()),
    }
}

fn address(mac: &str) -> Result<()> {
    let bytes: Option<Vec<u8>> = mac.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    match bytes.as_deref() {
        Some([first, _, _, _, _, _]) if first & 1 == 0 => Ok(()),
        Some([_, _, _, _, _, _]) => Err(Error::xml(format!(
            "expected unicast mac address, found multicast '{mac}'"
        ))),
        _ => Err(Error::xml(format!("unable to parse mac address '{mac}'"))),
    }
}

/// Kinds that a switch can be told of.
const HAVE_VIRTUAL_PORT: &[InterfaceKind] = &[
    InterfaceKind::Network,
    InterfaceKind::Bridge,
    InterfaceKind::Direct,
    InterfaceKind::Hostdev,
];

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
