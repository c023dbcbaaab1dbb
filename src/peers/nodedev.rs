//! Node devices: what one is.

use wire::remote::{NodeDeviceGetXmlDesc, NodeDeviceLookupByName};

use super::Connection;
use crate::error::Result;

/// A connection to the node devices.
pub struct NodeDevices(pub(super) Connection);

impl NodeDevices {
    /// The document of the device with a name.
    ///
    /// # Errors
    /// `NoNodeDevice`.
    pub async fn document(&mut self, name: &str) -> Result<String> {
        let found = self
            .0
            .call(&NodeDeviceLookupByName { name: name.into() })
            .await?
            .dev;
        let xml = self
            .0
            .call(&NodeDeviceGetXmlDesc {
                name: found.name,
                flags: 0,
            })
            .await?
            .xml;
        Ok(xml.to_str().into_owned())
    }
}
