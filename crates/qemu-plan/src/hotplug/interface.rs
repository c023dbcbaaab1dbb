//! Interfaces.

use domxml::Domain;
use domxml::devices::{Devices, Interface, InterfaceKind};

use super::{Rules, Side, same_function, shown};
use crate::command::net;
use crate::error::{Area, Code, Error, Result};

/// Kinds of interfaces that a running guest takes.
const LIVE_INTERFACES: &[InterfaceKind] = &[
    InterfaceKind::User,
    InterfaceKind::Ethernet,
    InterfaceKind::Bridge,
    InterfaceKind::Network,
    InterfaceKind::Direct,
    InterfaceKind::Vhostuser,
    InterfaceKind::Vdpa,
    InterfaceKind::Hostdev,
];

impl Rules for Interface {
    /// What kind it is, is asked when it has its place: see [`check_interface`].
    fn attach(&self, _: &Domain, _: Side) -> Result<()> {
        Ok(())
    }

    /// By those of MAC, address and alias that are given.
    fn find(&self, devices: &Devices, _: Side) -> Result<usize> {
        find(devices, self)
    }
}

/// Checks that a running guest takes an interface of such a kind. What it is plugged into is known for sure when its network
/// has said so: this is asked again then.
///
/// # Errors
/// Libvirt's refusal.
pub fn check_interface(card: &Interface) -> Result<()> {
    let kind = net::kind(card);
    if LIVE_INTERFACES.contains(&kind) {
        return Ok(());
    }
    let kind = kind.as_str();
    Err(Error::not_pluggable(format!(
        "hotplug of interface type of {kind} is not implemented yet"
    )))
}

fn find(devices: &Devices, card: &Interface) -> Result<usize> {
    let mac = card.mac.as_ref().map(|m| m.address.as_str());
    let pci = card.info.pci().filter(|a| !a.is_empty());
    let alias = card.info.alias.as_deref();
    let is_meant = |other: &Interface| {
        let other_mac = other.mac.as_ref().map(|m| m.address.as_str());
        mac.is_none_or(|mac| other_mac.is_some_and(|other| other.eq_ignore_ascii_case(mac)))
            && pci.is_none_or(|pci| other.info.pci().is_some_and(|other| same_function(pci, other)))
            && alias.is_none_or(|alias| other.info.alias.as_deref() == Some(alias))
    };
    let mut meant = devices.interfaces.iter().enumerate().filter(|(_, i)| is_meant(i));
    let first = meant.next();
    match (first, meant.next(), mac) {
        (Some((at, _)), None, _) => Ok(at),
        (Some(_), Some(_), mac) => Err(Error::new(
            Code::OperationFailed,
            Area::Domain,
            match mac {
                Some(mac) => format!("multiple devices matching MAC address {mac} found"),
                None => "multiple matching devices found".to_owned(),
            },
        )),
        (None, ..) => {
            let or_null = |text: Option<&str>| text.unwrap_or("(<null>)").to_owned();
            let address = pci.map(shown);
            Err(Error::new(
                Code::DeviceMissing,
                Area::Domain,
                format!(
                    "no device found at address '{}' matching MAC address '{}' and alias '{}'",
                    or_null(address.as_deref()),
                    or_null(mac),
                    or_null(alias)
                ),
            ))
        }
    }
}
