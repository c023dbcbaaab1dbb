//! SCSI devices by their place below an adapter: which generic node each has.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::device::DeviceError;
use crate::root::Root;

const DEVICES: &str = "sys/bus/scsi/devices";
/// What adapters are named, before their number.
const ADAPTER: &str = "scsi_host";

/// Where a SCSI device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScsiPlace {
    /// The adapter's number.
    pub host: u32,
    /// Bus.
    pub bus: u32,
    /// Target.
    pub target: u32,
    /// Unit.
    pub unit: u64,
}

impl fmt::Display for ScsiPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            bus,
            target,
            unit,
        } = self;
        write!(f, "{host}:{bus}:{target}:{unit}")
    }
}

impl ScsiPlace {
    /// A place below the adapter of a name.
    ///
    /// # Errors
    /// When it is no name of an adapter.
    pub fn below(adapter: &str, (bus, target, unit): (u32, u32, u64)) -> Result<Self, DeviceError> {
        let host = adapter
            .strip_prefix(ADAPTER)
            .and_then(|number| number.parse().ok());
        let host = host.ok_or_else(|| DeviceError::Odd(format!("Cannot parse adapter '{adapter}'")))?;
        Ok(Self {
            host,
            bus,
            target,
            unit,
        })
    }
}

/// The generic node of a device.
///
/// # Errors
/// When there is no such device, or it has no node.
pub fn scsi_node(root: &Root, place: ScsiPlace) -> Result<PathBuf, DeviceError> {
    let node = scsi_node_path(root, place)?;
    match fs::metadata(&node) {
        Ok(_) => Ok(node),
        Err(source) => Err(DeviceError::System {
            what: format!("SCSI device '{place}': could not access {}", node.display()),
            source,
        }),
    }
}

/// Where the generic node of a device is, if it is there: a line that is only shown names it.
///
/// # Errors
/// When there is no such device, or it has no node.
pub fn scsi_node_path(root: &Root, place: ScsiPlace) -> Result<PathBuf, DeviceError> {
    let directory = format!("{DEVICES}/{place}/scsi_generic");
    let full = root.path(&directory);
    if let Err(source) = fs::read_dir(&full) {
        return Err(DeviceError::System {
            what: format!("cannot open directory '{}'", full.display()),
            source,
        });
    }
    let name = root.names(&directory).unwrap_or_default().into_iter().next();
    let name = name.ok_or_else(|| DeviceError::Odd(format!("SCSI device '{place}' has no generic node")))?;
    Ok(root.path(&format!("dev/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_generic_node() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let place = ScsiPlace::below("scsi_host2", (0, 3, 1)).unwrap();
        assert!(
            scsi_node(&root, place)
                .unwrap_err()
                .to_string()
                .contains("/2:0:3:1/scsi_generic': No such file")
        );
        fs::create_dir_all(root.path(&format!("{DEVICES}/2:0:3:1/scsi_generic/sg5"))).unwrap();
        assert!(
            scsi_node(&root, place)
                .unwrap_err()
                .to_string()
                .starts_with("SCSI device '2:0:3:1': could not access ")
        );
        assert_eq!(scsi_node_path(&root, place).unwrap(), root.path("dev/sg5"));
        fs::create_dir_all(root.path("dev")).unwrap();
        fs::write(root.path("dev/sg5"), "").unwrap();
        assert_eq!(scsi_node(&root, place).unwrap(), root.path("dev/sg5"));
        assert_eq!(
            ScsiPlace::below("host2", (0, 0, 0)).unwrap_err().to_string(),
            "Cannot parse adapter 'host2'"
        );
    }
}
