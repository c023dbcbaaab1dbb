//! Storage pools and their volumes: where a volume lies.

use wire::remote::{
    NonnullStorageVol, StoragePoolGetInfo, StoragePoolGetXmlDesc, StoragePoolLookupByName, StorageVolGetInfo,
    StorageVolGetPath, StorageVolGetXmlDesc, StorageVolLookupByName,
};

use super::Connection;
use crate::error::{Area, Code, Error, Result};

/// State of a pool that can be used (`VIR_STORAGE_POOL_RUNNING`).
const RUNNING: u8 = 2;

/// A connection to the pools.
pub struct Storage(pub(super) Connection);

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlace {
    /// Its name in the pool.
    pub name: String,
    /// Its path, or name where it has none on this host.
    pub path: String,
    /// What it is, by libvirt's number: file 0, block 1, directory 2, network 3, network directory 4, ploop 5.
    pub kind: i8,
    /// The document of its pool.
    pub pool_xml: String,
    /// Its own document.
    pub xml: String,
}

impl Storage {
    /// Where a volume of a pool lies.
    ///
    /// # Errors
    /// `NoStoragePool`, `NoStorageVol`, `ConfigUnsupported` for a pool that is not active.
    pub async fn find(&mut self, pool: &str, volume: &str) -> Result<VolumePlace> {
        let found = self
            .0
            .call(&StoragePoolLookupByName { name: pool.into() })
            .await?
            .pool;
        if self
            .0
            .call(&StoragePoolGetInfo { pool: found.clone() })
            .await?
            .state
            != RUNNING
        {
            let message = format!("storage pool '{pool}' containing volume '{volume}' is not active");
            return Err(Error::new(Code::ConfigUnsupported, message).in_area(Area::None));
        }
        let vol = self
            .0
            .call(&StorageVolLookupByName {
                pool: found.clone(),
                name: volume.into(),
            })
            .await?
            .vol;
        let kind = self.0.call(&StorageVolGetInfo { vol: vol.clone() }).await?.r#type;
        let pool_xml = self
            .0
            .call(&StoragePoolGetXmlDesc {
                pool: found,
                flags: 0,
            })
            .await?
            .xml;
        let xml = self
            .0
            .call(&StorageVolGetXmlDesc {
                vol: vol.clone(),
                flags: 0,
            })
            .await?
            .xml;
        let path = self.path(vol).await?;
        Ok(VolumePlace {
            name: volume.to_owned(),
            path,
            kind,
            pool_xml: pool_xml.to_str().into_owned(),
            xml: xml.to_str().into_owned(),
        })
    }

    async fn path(&mut self, vol: NonnullStorageVol) -> Result<String> {
        Ok(self
            .0
            .call(&StorageVolGetPath { vol })
            .await?
            .name
            .to_str()
            .into_owned())
    }
}
