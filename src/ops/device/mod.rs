//! Changing a device that a guest has: which kinds can be, and by whom.

pub mod limits;
pub mod link;
pub mod medium;

use std::sync::Arc;

use domxml::devices::Device;

use crate::{
    domain::Domain,
    error::{Code, Error, Result},
    ops::{Conditions, Driver, device::medium::How},
};

/// Longest device document, bytes.
const XML_MAX: usize = 4 << 20;

/// Changes a device to what its document says.
///
/// # Errors
/// What is wrong with the document, `OperationUnsupported` or `ConfigUnsupported` for what can't be changed, what QEMU
/// refuses. Nothing is changed then.
pub async fn update(
    driver: &Arc<Driver>,
    domain: &Domain,
    xml: &str,
    how: How,
    conditions: &Conditions,
) -> Result<()> {
    match read(xml)? {
        Device::Disk(disk) => Box::pin(medium::update(driver, domain, *disk, how, conditions)).await,
        Device::Interface(interface) => {
            Box::pin(link::update(driver, domain, *interface, how.scope, conditions)).await
        }
        other => {
            let family = other.as_ref().family().name();
            Err(Error::new(
                Code::OperationUnsupported,
                format!("changing a device of type '{family}' is not supported yet"),
            ))
        }
    }
}

/// Reads a device's document.
pub(crate) fn read(xml: &str) -> Result<Device> {
    if xml.len() > XML_MAX {
        return Err(Error::argument(format!(
            "the document has {} bytes; the most is {XML_MAX}",
            xml.len()
        )));
    }
    Ok(Device::given(xml)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(matches!(
            read("<interface type='user'/>"),
            Ok(Device::Interface(_))
        ));
        assert_eq!(read("<bogus/>").unwrap_err().code, Code::ConfigUnsupported);
        assert!(read("<disk").is_err());
    }
}
