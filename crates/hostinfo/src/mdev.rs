//! Mediated devices: parts of a device that its driver hands to guests.

use crate::device::DeviceError;
use crate::pci::group_of;
use crate::root::Root;

const DEVICES: &str = "sys/bus/mdev/devices";
/// The ways of using such devices that there are.
const MODELS: [&str; 3] = ["vfio-pci", "vfio-ccw", "vfio-ap"];

/// Whether a mediated device is there and can be used in the given way.
///
/// # Errors
/// When it is not, or can't.
pub fn check_mdev(root: &Root, uuid: &str, model: &str) -> Result<(), DeviceError> {
    let directory = format!("{DEVICES}/{uuid}");
    if !root.path(&directory).exists() {
        return Err(DeviceError::Missing(format!(
            "mediated device '{uuid}' not found"
        )));
    }
    let file = format!("{directory}/mdev_type/device_api");
    let text = root
        .text(&file)
        .map_err(|_| DeviceError::Odd(format!("failed to read '{}'", root.path(&file).display())))?;
    let api = text.trim();
    if !MODELS.contains(&api) {
        return Err(DeviceError::Unsupported(format!(
            "device API '{api}' not supported yet"
        )));
    }
    if api != model {
        let message = format!("invalid device API '{model}' for device {uuid}: device only supports '{api}'");
        return Err(DeviceError::Unsupported(message));
    }
    Ok(())
}

/// The number of a mediated device's IOMMU group.
///
/// # Errors
/// When the kernel's link is none.
pub fn mdev_group(root: &Root, uuid: &str) -> Result<Option<u32>, DeviceError> {
    group_of(root, &format!("{DEVICES}/{uuid}"), uuid)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_mediated_device_is_used_in_its_own_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let check = |model| check_mdev(&root, "u", model).map_err(|error| error.to_string());
        assert_eq!(check("vfio-pci"), Err("mediated device 'u' not found".into()));
        let kind = root.path(&format!("{DEVICES}/u/mdev_type"));
        fs::create_dir_all(&kind).unwrap();
        fs::write(kind.join("device_api"), "vfio-pci\n").unwrap();
        assert_eq!(check("vfio-pci"), Ok(()));
        assert_eq!(
            check("vfio-ap"),
            Err("invalid device API 'vfio-ap' for device u: device only supports 'vfio-pci'".into())
        );
        fs::write(kind.join("device_api"), "other\n").unwrap();
        assert_eq!(
            check("vfio-pci"),
            Err("device API 'other' not supported yet".into())
        );
    }
}
