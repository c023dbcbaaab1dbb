//! Networks: their ports, which guests are plugged into, and their leases.

use uuid::Uuid;
use wire::remote::{
    NetworkGetDhcpLeases, NetworkGetXmlDesc, NetworkLookupByName, NetworkPortCreateXml, NetworkPortDelete,
    NetworkPortGetXmlDesc, NetworkPortLookupByUuid, NonnullNetwork, NonnullNetworkPort,
};

use super::{Connection, wire_uuid};
use crate::error::{Code, Result};

/// The port is there already in the files of the network's daemon or was so before: it is taken back.
const RECLAIM: u32 = wire::consts::VIR_NETWORK_PORT_CREATE_RECLAIM;

/// A connection to the networks.
pub struct Network(pub(super) Connection);

/// A port of a network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortId {
    /// The network's name.
    pub network: String,
    /// The port.
    pub port: Uuid,
}

/// An address that a network gave to one of its guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The guest's card.
    pub mac: String,
    /// The address.
    pub address: String,
    /// Bits of its prefix.
    pub prefix: u32,
    /// Whether it is one of IPv6.
    pub is_v6: bool,
    /// The name that the guest gave itself.
    pub hostname: Option<String>,
}

impl Network {
    /// Makes a port by its document, and gives back the document with the plug. `reclaim` takes back one that was made
    /// before.
    ///
    /// # Errors
    /// `NoNetwork`, `OperationInvalid` for a network that is not active, and what it refuses.
    pub async fn create_port(&mut self, network: &str, xml: &str) -> Result<String> {
        self.make_port(network, xml, 0).await
    }

    /// Makes known a port that was made before, should its daemon have forgotten it.
    ///
    /// # Errors
    /// As [`Self::create_port`].
    pub async fn reclaim_port(&mut self, network: &str, xml: &str) -> Result<String> {
        self.make_port(network, xml, RECLAIM).await
    }

    async fn make_port(&mut self, network: &str, xml: &str, flags: u32) -> Result<String> {
        let network = self.lookup(network).await?;
        let port = self
            .0
            .call(&NetworkPortCreateXml {
                network,
                xml: xml.into(),
                flags,
            })
            .await?
            .port;
        self.describe(port).await
    }

    /// The document of a port.
    ///
    /// # Errors
    /// `NoNetwork`, `NoNetworkPort`.
    pub async fn port(&mut self, id: &PortId) -> Result<String> {
        let port = self.lookup_port(id).await?;
        self.describe(port).await
    }

    /// Gives a port back. One that is gone, or whose network is, is given back.
    ///
    /// # Errors
    /// What the daemon refuses.
    pub async fn delete_port(&mut self, id: &PortId) -> Result<()> {
        let deleted = async {
            let port = self.lookup_port(id).await?;
            self.0.call(&NetworkPortDelete { port, flags: 0 }).await
        };
        match deleted.await {
            Err(error) if matches!(error.code, Code::NoNetwork | Code::NoNetworkPort) => Ok(()),
            other => other,
        }
    }

    /// The addresses that a network gave to a card.
    ///
    /// # Errors
    /// `NoNetwork`, and what the network refuses.
    pub async fn leases(&mut self, network: &str, mac: &str) -> Result<Vec<Lease>> {
        const IPV6: i32 = 1;
        let net = self.lookup(network).await?;
        let asked = NetworkGetDhcpLeases {
            net,
            mac: Some(mac.into()),
            need_results: 1,
            flags: 0,
        };
        let leases = self.0.call(&asked).await?.leases;
        let lease = |lease: &wire::remote::NetworkDhcpLease| Lease {
            mac: lease
                .mac
                .as_ref()
                .map(|mac| mac.to_str().into_owned())
                .unwrap_or_default(),
            address: lease.ipaddr.to_str().into_owned(),
            prefix: lease.prefix,
            is_v6: lease.r#type == IPV6,
            hostname: lease.hostname.as_ref().map(|name| name.to_str().into_owned()),
        };
        Ok(leases.iter().map(lease).collect())
    }

    /// The document of a network.
    ///
    /// # Errors
    /// `NoNetwork`, and what the network refuses.
    pub async fn document(&mut self, network: &str) -> Result<String> {
        let net = self.lookup(network).await?;
        let xml = self.0.call(&NetworkGetXmlDesc { net, flags: 0 }).await?.xml;
        Ok(xml.to_str().into_owned())
    }

    /// Asks whether there is a network of a name.
    ///
    /// # Errors
    /// `NoNetwork`.
    pub async fn look_up(&mut self, name: &str) -> Result<()> {
        self.lookup(name).await.map(drop)
    }

    async fn lookup(&mut self, name: &str) -> Result<NonnullNetwork> {
        Ok(self.0.call(&NetworkLookupByName { name: name.into() }).await?.net)
    }

    async fn lookup_port(&mut self, id: &PortId) -> Result<NonnullNetworkPort> {
        let network = self.lookup(&id.network).await?;
        Ok(self
            .0
            .call(&NetworkPortLookupByUuid {
                network,
                uuid: wire_uuid(id.port),
            })
            .await?
            .port)
    }

    async fn describe(&mut self, port: NonnullNetworkPort) -> Result<String> {
        let xml = self.0.call(&NetworkPortGetXmlDesc { port, flags: 0 }).await?.xml;
        Ok(xml.to_str().into_owned())
    }
}
