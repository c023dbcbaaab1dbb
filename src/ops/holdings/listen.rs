//! Addresses of displays that are reached in a network of the host: the network says where that is.
//!
//! Called by `start` before ports are chosen, and for a command line that is only shown.

use domxml::devices::{Graphics, ListenKind};
use xmlform::{Document, ParseFlags};

use crate::{
    error::{Error, Result},
    ops::Driver,
};

/// Writes into the document at which address each display is reached that names a network.
///
/// # Errors
/// What the network says, that nobody serves networks, or that it has no address.
pub(crate) async fn find(driver: &Driver, document: &mut domxml::Domain) -> Result<()> {
    for graphics in &mut document.devices.graphics {
        find_one(driver, graphics).await?;
    }
    Ok(())
}

async fn find_one(driver: &Driver, graphics: &mut Graphics) -> Result<()> {
    let asked = |listen: &&mut domxml::devices::Listen| listen.kind == ListenKind::Network;
    let Some(listen) = graphics.listens.first_mut().filter(asked) else {
        return Ok(());
    };
    let name = listen.network.clone().unwrap_or_default();
    let xml = driver.peers.networks().await?.document(&name).await?;
    let found = match place(&xml)? {
        Some(Place::Address(address)) => Some(address),
        Some(Place::Device(device)) => {
            crate::blocking::file("asking for the address of a device", move || {
                Ok(address_of(&device))
            })
            .await?
        }
        None => None,
    };
    let found =
        found.ok_or_else(|| Error::internal(format!("network '{name}' doesn't have an IP address")))?;
    graphics.listen = Some(found.clone());
    listen.address = Some(found);
    Ok(())
}

/// Where a network has its address.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Said in its document.
    Address(String),
    /// On a device of the host.
    Device(String),
}

/// A network with a bridge of its own has an address of its own; others have that of the device they lead to.
fn place(xml: &str) -> Result<Option<Place>> {
    let document = Document::parse(xml, &[], ParseFlags::NONE).map_err(domxml::Error::from)?;
    let root = document.root();
    let forward = root.child("forward");
    let mode = forward.map(|forward| forward.attr("mode").unwrap_or("nat"));
    let bridge = || root.child("bridge").and_then(|bridge| bridge.attr("name"));
    if matches!(mode, None | Some("nat" | "route" | "open")) {
        let mut addresses = root.children_named("ip").filter_map(|ip| ip.attr("address"));
        let own = addresses.next().map(|address| Place::Address(address.to_owned()));
        return Ok(own.or_else(|| bridge().map(|name| Place::Device(name.to_owned()))));
    }
    let first = forward.and_then(|forward| {
        let listed = forward
            .child("interface")
            .and_then(|interface| interface.attr("dev"));
        listed.or(forward.attr("dev"))
    });
    let device = bridge().filter(|_| mode == Some("bridge")).or(first);
    Ok(device.map(|name| Place::Device(name.to_owned())))
}

/// The first address of a device, one of IPv4 if it has any.
fn address_of(device: &str) -> Option<String> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    let of_device: Vec<_> = addresses
        .filter(|entry| entry.interface_name == device)
        .filter_map(|entry| entry.address)
        // An address of the link alone means nothing without the link.
        .filter(|a| {
            a.as_sockaddr_in6()
                .is_none_or(|a| !a.ip().is_unicast_link_local())
        })
        .collect();
    let v4 = of_device
        .iter()
        .find_map(|a| a.as_sockaddr_in().map(|a| a.ip().to_string()));
    v4.or_else(|| {
        of_device
            .iter()
            .find_map(|a| a.as_sockaddr_in6().map(|a| a.ip().to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_reached_at_its_own_address_or_at_its_devices() {
        let address = |text: &str| Some(Place::Address(text.to_owned()));
        let device = |text: &str| Some(Place::Device(text.to_owned()));
        for (parts, wanted) in [
            (
                "<forward mode='nat'/><bridge name='virbr0'/><ip address='192.0.2.1'/>",
                address("192.0.2.1"),
            ),
            ("<bridge name='virbr1'/>", device("virbr1")),
            ("<forward/><ip address='192.0.2.9'/>", address("192.0.2.9")),
            (
                "<forward mode='bridge'/><bridge name='br0'/><ip address='192.0.2.1'/>",
                device("br0"),
            ),
            (
                "<forward mode='passthrough'><interface dev='eth3'/><interface dev='eth4'/></forward>",
                device("eth3"),
            ),
            ("<forward dev='eth0' mode='vepa'/>", device("eth0")),
            ("<forward mode='private'/>", None),
        ] {
            let found = place(&format!("<network><name>n</name>{parts}</network>")).unwrap();
            assert_eq!(found, wanted, "{parts}");
        }
        assert!(address_of("lo").is_none_or(|found| found.starts_with("127.") || found.contains(':')));
        assert_eq!(address_of("there is none"), None);
    }
}
