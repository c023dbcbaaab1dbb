//! Network filters: rules bound to the host's end of an interface.

use wire::remote::{NwfilterBindingCreateXml, NwfilterBindingDelete, NwfilterBindingLookupByPortDev};

use super::Connection;
use crate::error::{Code, Result};

/// A connection to the filters.
pub struct Nwfilter(pub(super) Connection);

impl Nwfilter {
    /// Binds a filter by the binding's document.
    ///
    /// # Errors
    /// `NoNwfilter`, and what its rules meet.
    pub async fn bind(&mut self, xml: &str) -> Result<()> {
        self.0
            .call(&NwfilterBindingCreateXml {
                xml: xml.into(),
                flags: 0,
            })
            .await
            .map(drop)
    }

    /// Whether a filter is bound to that device.
    ///
    /// # Errors
    /// What the daemon refuses.
    pub async fn is_bound(&mut self, device: &str) -> Result<bool> {
        match self
            .0
            .call(&NwfilterBindingLookupByPortDev { name: device.into() })
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::NoNwfilterBinding => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the filter off a device. One that has none is rid of it.
    ///
    /// # Errors
    /// What the daemon refuses.
    pub async fn unbind(&mut self, device: &str) -> Result<()> {
        let found = self
            .0
            .call(&NwfilterBindingLookupByPortDev { name: device.into() })
            .await;
        let unbound = match found {
            Ok(found) => {
                self.0
                    .call(&NwfilterBindingDelete {
                        nwfilter: found.nwfilter,
                    })
                    .await
            }
            Err(error) => Err(error),
        };
        match unbound {
            Err(error) if error.code == Code::NoNwfilterBinding => Ok(()),
            other => other,
        }
    }
}
