//! Addresses of a guest's interfaces: as its networks leased them, as the host's neighbours' table has them, or as the
//! guest itself says.
//!
//! Called by the Devices and GuestAgent services. What the guest says is bounded by the agent's connection and believed no
//! further than to be shown.

use std::{collections::BTreeMap, sync::Arc};

use domxml::devices::{Interface, InterfaceKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    domain::Domain,
    error::{Code, Error, Result},
    ops::{Driver, run::agent},
};

/// The kernel's table of neighbours, IPv4.
const NEIGHBOURS: &str = "/proc/net/arp";
/// A neighbour that has answered, of its flags; an entry that somebody made has one more.
const ANSWERED: u32 = 0x2;

/// Has an agent tell of the guest's interfaces.
pub(super) const COMMAND: &str = "guest-network-get-interfaces";

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The networks.
    Leases,
    /// The host.
    Neighbours,
}

/// An interface and its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Its name.
    pub name: String,
    /// Its hardware address; none if it has none.
    pub mac: Option<String>,
    /// Addresses, each with the bits of its prefix.
    pub addresses: Vec<(String, u32)>,
}

/// The addresses of a running guest's interfaces, as they are known outside of it.
///
/// # Errors
/// `OperationInvalid` if it does not run; what the networks answer.
pub async fn list(driver: &Driver, domain: &Domain, source: Source) -> Result<Vec<Addresses>> {
    let view = domain.view();
    let interfaces = &view.running()?.document.domain.devices.interfaces;
    match source {
        Source::Leases => leased(driver, interfaces).await,
        Source::Neighbours => {
            let read = || {
                std::fs::read_to_string(NEIGHBOURS)
                    .map_err(|e| Error::system(format_args!("cannot read '{NEIGHBOURS}'"), e))
            };
            let table = crate::blocking::file("reading the neighbours' table", read).await?;
            Ok(seen(interfaces, &table))
        }
    }
}

async fn leased(driver: &Driver, interfaces: &[Interface]) -> Result<Vec<Addresses>> {
    let mut connection = None;
    let mut found = Vec::new();
    for interface in interfaces.iter().filter(|i| i.kind == InterfaceKind::Network) {
        let Some(network) = interface.source.as_ref().and_then(|s| s.network.as_deref()) else {
            continue;
        };
        let networks = match &mut connection {
            Some(networks) => networks,
            none => none.insert(driver.peers.networks().await?),
        };
        let (name, mac) = ends(interface);
        let leases = networks.leases(network, &mac).await?;
        let addresses = leases
            .into_iter()
            .map(|lease| (lease.address, lease.prefix))
            .collect();
        found.push(Addresses {
            name,
            mac: Some(mac),
            addresses,
        });
    }
    found.retain(|interface| !interface.addresses.is_empty());
    Ok(found)
}

/// Who knows a guest's own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The agent inside.
    Agent,
    /// The networks that gave it addresses.
    Leases,
}

/// The name that a running guest has given itself.
///
/// # Errors
/// `OperationInvalid` if it does not run, `NoHostname` if no lease tells a name; as [`agent::execute`].
pub async fn hostname(driver: &Arc<Driver>, domain: &Domain, witness: Witness) -> Result<String> {
    let view = domain.view();
    let interfaces = &view.running()?.document.domain.devices.interfaces;
    if witness == Witness::Agent {
        let command = "guest-get-host-name";
        let told = agent::ask(driver, domain, command, json!({})).await?;
        return told
            .get("host-name")
            .and_then(|name| name.as_str())
            .map(str::to_owned)
            .ok_or_else(|| agent::malformed(command));
    }
    for interface in interfaces.iter().filter(|i| i.kind == InterfaceKind::Network) {
        let Some(network) = interface.source.as_ref().and_then(|s| s.network.as_deref()) else {
            continue;
        };
        let leases = driver
            .peers
            .networks()
            .await?
            .leases(network, &ends(interface).1)
            .await?;
        if let Some(name) = leases.into_iter().find_map(|lease| lease.hostname) {
            return Ok(name);
        }
    }
    Err(Error::new(
        Code::NoHostname,
        format!("no hostname found for domain {}", view.name),
    ))
}

/// The host's end and the guest's hardware address.
fn ends(interface: &Interface) -> (String, String) {
    let name = interface
        .target
        .as_ref()
        .and_then(|t| t.dev.clone())
        .unwrap_or_default();
    (
        name,
        interface
            .mac
            .as_ref()
            .map(|m| m.address.clone())
            .unwrap_or_default(),
    )
}

/// What the table of neighbours has of the interfaces.
fn seen(interfaces: &[Interface], table: &str) -> Vec<Addresses> {
    let entries: Vec<(&str, &str)> = table.lines().filter_map(neighbour).collect();
    let of = |interface: &Interface| {
        let (name, mac) = ends(interface);
        let addresses: Vec<_> = entries
            .iter()
            .filter(|e| e.1.eq_ignore_ascii_case(&mac))
            .map(|e| (e.0.to_owned(), 0))
            .collect();
        (!addresses.is_empty()).then_some(Addresses {
            name,
            mac: Some(mac),
            addresses,
        })
    };
    interfaces.iter().filter_map(of).collect()
}

/// Address and hardware address of a line of the table; none for its head and for who did not answer.
fn neighbour(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    let (address, flags) = (words.next()?, words.nth(1)?);
    let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
    (flags == ANSWERED).then_some((address, words.next()?))
}

/// An interface as the agent tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Told {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<ToldAddress>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ToldAddress {
    ip_address: String,
    prefix: u32,
}

/// The guest's interfaces, as its agent tells them.
///
/// # Errors
/// As of [`agent::ask`].
pub async fn from_agent(driver: &Arc<Driver>, domain: &Domain) -> Result<Vec<Addresses>> {
    read(agent::ask(driver, domain, COMMAND, json!({})).await?)
}

/// The interfaces in what an agent returns.
///
/// # Errors
/// `Internal` if it is not of the command's shape.
pub(super) fn read(told: Value) -> Result<Vec<Addresses>> {
    let told: Vec<Told> =
        serde_json::from_value(told).map_err(|error| agent::malformed(COMMAND).caused_by(error))?;
    Ok(merged(told))
}

/// An address with a name of its own ("eth0:1") belongs to its interface.
fn merged(told: Vec<Told>) -> Vec<Addresses> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut found: Vec<Addresses> = Vec::new();
    for interface in told {
        let name = interface.name.split(':').next().unwrap_or_default().to_owned();
        let place = *places.entry(name.clone()).or_insert_with(|| {
            found.push(Addresses {
                name,
                mac: interface.hardware_address,
                addresses: Vec::new(),
            });
            found.len() - 1
        });
        if let Some(known) = found.get_mut(place) {
            known.addresses.extend(
                interface
                    .ip_addresses
                    .into_iter()
                    .map(|a| (a.ip_address, a.prefix)),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_the_host_is_known_by_its_address() {
        let text = "<domain type='qemu'><name>a</name><devices><interface type='bridge'><mac address='52:54:00:aa:00:01'/>\
            <source bridge='b'/><target dev='vnet5'/></interface><interface type='user'><mac address='52:54:00:aa:00:02'/>\
            </interface></devices></domain>";
        let domain = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.168.217.10   0x1         0x2         52:54:00:AA:00:01     *        vqp0\n\
            192.168.217.9    0x1         0x2         52:54:00:aa:00:01     *        vqp0\n\
            192.168.217.8    0x1         0x6         52:54:00:aa:00:01     *        vqp0\n\
            192.168.217.7    0x1         0x0         00:00:00:00:00:00     *        vqp0\n";
        let addresses = vec![("192.168.217.10".to_owned(), 0), ("192.168.217.9".to_owned(), 0)];
        let expected = Addresses {
            name: "vnet5".to_owned(),
            mac: Some("52:54:00:aa:00:01".to_owned()),
            addresses,
        };
        assert_eq!(seen(&domain.devices.interfaces, table), [expected]);
    }

    #[test]
    fn aliases_of_an_interface_are_the_interface() {
        let told = json!([
            {"name": "lo", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}]},
            {"name": "eth0", "hardware-address": "52:54:00:aa:00:01", "statistics": {"rx-bytes": 1}},
            {"name": "eth0:1", "hardware-address": "52:54:00:aa:00:01",
             "ip-addresses": [{"ip-address-type": "ipv6", "ip-address": "fe80::1", "prefix": 64}]},
        ]);
        let found = merged(serde_json::from_value(told).unwrap());
        let shown: Vec<_> = found
            .iter()
            .map(|i| (i.name.as_str(), i.mac.is_some(), i.addresses.len()))
            .collect();
        assert_eq!(shown, [("lo", false, 1), ("eth0", true, 1)]);
        assert_eq!(found[1].addresses, [("fe80::1".to_owned(), 64)]);
    }
}
