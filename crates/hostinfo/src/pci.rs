//! PCI devices as sysfs shows them: what one is, who drives it, and with which others it can be isolated.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use crate::device::DeviceError;
use crate::root::Root;

/// Where sysfs has them.
pub(crate) const DEVICES: &str = "sys/bus/pci/devices";
/// Where sysfs has their drivers.
pub(crate) const DRIVERS: &str = "sys/bus/pci/drivers";
/// VFIO's usual driver.
pub(crate) const VFIO_PCI: &str = "vfio-pci";
/// Where configuration space says whether it has a list of capabilities, the mark of it, where the list begins, how long one
/// can be, and the capability that devices of PCI Express have.
const STATUS: usize = 0x06;
const HAS_CAPABILITIES: u8 = 0x10;
const CAPABILITIES: usize = 0x34;
const CAPABILITIES_MAX: usize = 48;
const EXPRESS: u8 = 0x10;
/// Where configuration space says what kind of header it has.
const HEADER_TYPE: usize = 0x0e;
/// The bit of it that says that there are further functions.
const MULTI_FUNCTION: u8 = 0x80;
/// Kinds of headers that PCI knows.
const HEADERS: u8 = 2;

/// A PCI function of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Slot.
    pub slot: u32,
    /// Function.
    pub function: u32,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            slot,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function}")
    }
}

/// A text that is no PCI address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PCI address")]
pub struct NotPci;

impl FromStr for PciAddress {
    type Err = NotPci;

    fn from_str(text: &str) -> Result<Self, NotPci> {
        let (domain, rest) = text.split_once(':').ok_or(NotPci)?;
        let (bus, rest) = rest.split_once(':').ok_or(NotPci)?;
        let (slot, function) = rest.split_once('.').ok_or(NotPci)?;
        let number = |text| u32::from_str_radix(text, 16).map_err(|_| NotPci);
        Ok(Self {
            domain: number(domain)?,
            bus: number(bus)?,
            slot: number(slot)?,
            function: number(function)?,
        })
    }
}

impl PciAddress {
    /// A file of the device's.
    pub(crate) fn file(&self, root: &Root, name: &str) -> PathBuf {
        root.path(&format!("{DEVICES}/{self}/{name}"))
    }
}

/// Who drives a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDriver {
    /// Its name.
    pub name: String,
    /// Whether it hands the device to a program: VFIO's own driver, or one made for such a device.
    pub is_vfio: bool,
}

/// Whether PCI devices can be handed to guests: they can be isolated, and VFIO is there.
pub fn has_vfio(root: &Root) -> bool {
    crate::has_iommu(root).unwrap_or(false) && root.path("dev/vfio/vfio").exists()
}

/// Whether the device is there and can be told what it is.
///
/// # Errors
/// When it is not.
pub fn check_pci(root: &Root, address: PciAddress) -> Result<(), DeviceError> {
    let config = address.file(root, "config");
    if let Err(source) = fs::metadata(&config) {
        let what = format!(
            "Device {address} not found: could not access {}",
            config.display()
        );
        return Err(DeviceError::System { what, source });
    }
    let known = ["vendor", "device"]
        .iter()
        .all(|name| address.file(root, name).exists());
    if known {
        Ok(())
    } else {
        Err(DeviceError::Odd(format!(
            "Failed to read product/vendor ID for {address}"
        )))
    }
}

/// Whether the device is there and plugs into conventional PCI: among its capabilities is none of PCI Express.
#[must_use]
pub fn is_conventional(root: &Root, address: PciAddress) -> bool {
    let config = root.optional_bytes(&format!("{DEVICES}/{address}/config"));
    let Some(config) = config.ok().flatten().filter(|config| config.len() > CAPABILITIES) else {
        return false;
    };
    let byte = |at: usize| config.get(at).copied().unwrap_or_default();
    if byte(STATUS) & HAS_CAPABILITIES == 0 {
        return true;
    }
    let next = |at: u8| Some(byte(usize::from(at) + 1)).filter(|next| *next != 0);
    let mut listed = std::iter::successors(Some(byte(CAPABILITIES)).filter(|at| *at != 0), |at| next(*at));
    !listed
        .by_ref()
        .take(CAPABILITIES_MAX)
        .any(|at| byte(usize::from(at)) == EXPRESS)
}

/// Whether the device is a device and no bridge: only such can be given away or reset.
///
/// # Errors
/// When its configuration can't be read, or is of no kind that there is.
pub fn is_endpoint(root: &Root, address: PciAddress) -> Result<bool, DeviceError> {
    let config = root
        .optional_bytes(&format!("{DEVICES}/{address}/config"))
        .ok()
        .flatten()
        .unwrap_or_default();
    let header = config.get(HEADER_TYPE).copied();
    let header =
        header.ok_or_else(|| DeviceError::Odd(format!("Failed to read PCI config space for {address}")))?;
    match header & !MULTI_FUNCTION {
        0 => Ok(true),
        1..=HEADERS => Ok(false),
        other => Err(DeviceError::Odd(format!(
            "Unknown PCI header type '{other}' for device '{address}'"
        ))),
    }
}

/// Who drives a device; none if nobody does.
///
/// # Errors
/// When the kernel's link is no link.
pub fn pci_driver(root: &Root, address: PciAddress) -> Result<Option<PciDriver>, DeviceError> {
    let link = address.file(root, "driver");
    let Ok(metadata) = fs::symlink_metadata(&link) else {
        return Ok(None);
    };
    if !metadata.is_symlink() {
        return Err(DeviceError::Odd(format!(
            "Invalid device {address} driver file {} is not a symlink",
            link.display()
        )));
    }
    let unresolved = || {
        DeviceError::Odd(format!(
            "Unable to resolve device {address} driver symlink {}",
            link.display()
        ))
    };
    let target = fs::read_link(&link).map_err(|_| unresolved())?;
    let name = target
        .file_name()
        .ok_or_else(unresolved)?
        .to_string_lossy()
        .into_owned();
    let is_vfio = name == VFIO_PCI || address.file(root, "vfio-dev").exists();
    Ok(Some(PciDriver { name, is_vfio }))
}

/// The number of the smallest group of devices that the device can be isolated with; none without an IOMMU.
///
/// # Errors
/// When the kernel's link is none, or names no group.
pub fn iommu_group(root: &Root, address: PciAddress) -> Result<Option<u32>, DeviceError> {
    group_of(root, &format!("{DEVICES}/{address}"), &address.to_string())
}

/// The group of the device in a directory of sysfs.
pub(crate) fn group_of(root: &Root, directory: &str, name: &str) -> Result<Option<u32>, DeviceError> {
    let link = root.path(&format!("{directory}/iommu_group"));
    let Ok(metadata) = fs::symlink_metadata(&link) else {
        return Ok(None);
    };
    if !metadata.is_symlink() {
        return Err(DeviceError::Odd(format!(
            "Invalid device {name} iommu_group file {} is not a symlink",
            link.display()
        )));
    }
    let unresolved = || {
        DeviceError::Odd(format!(
            "Unable to resolve device {name} iommu_group symlink {}",
            link.display()
        ))
    };
    let target = fs::read_link(&link).map_err(|_| unresolved())?;
    let number = target
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.parse().ok());
    let invalid = || {
        DeviceError::Odd(format!(
            "device {name} iommu_group symlink {} has invalid group number",
            link.display()
        ))
    };
    number.map(Some).ok_or_else(invalid)
}

/// All devices of a device's group, itself among them; it alone without an IOMMU.
///
/// # Errors
/// When the kernel names something that is no device.
pub fn iommu_peers(root: &Root, address: PciAddress) -> Result<Vec<PciAddress>, DeviceError> {
    let directory = format!("{DEVICES}/{address}/iommu_group/devices");
    let names = root.names(&directory).unwrap_or_default();
    if names.is_empty() {
        return Ok(vec![address]);
    }
    let parse = |name: &String| {
        let invalid = |_| {
            DeviceError::Odd(format!(
                "Found invalid device link '{name}' in '{}'",
                root.path(&directory).display()
            ))
        };
        name.parse().map_err(invalid)
    };
    names.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NET: PciAddress = PciAddress {
        domain: 0,
        bus: 6,
        slot: 2,
        function: 1,
    };

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let device = dir.path().join(DEVICES).join("0000:06:02.1");
        let group = dir.path().join("sys/kernel/iommu_groups/7/devices");
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&group).unwrap();
        fs::write(device.join("config"), [0; 64]).unwrap();
        fs::write(device.join("vendor"), "0x8086\n").unwrap();
        fs::write(device.join("device"), "0x10ca\n").unwrap();
        symlink("../../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
        for name in ["0000:06:02.0", "0000:06:02.1"] {
            symlink(format!("../../../../bus/pci/devices/{name}"), group.join(name)).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["0000:06:02.1", "10000:ff:1f.7"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        for text in ["", "06:02.1", "0000:06:02", "0000:0g:02.1"] {
            assert_eq!(text.parse::<PciAddress>(), Err(NotPci), "{text}");
        }
    }

    #[test]
    fn a_device_is_express_if_its_capabilities_say_so() {
        let (_dir, root) = tree();
        let of = |capabilities: &[(usize, [u8; 2])]| {
            let mut config = [0; 256];
            config[STATUS] = HAS_CAPABILITIES;
            config[CAPABILITIES] = 0x40;
            for (at, bytes) in capabilities {
                config[*at..at + 2].copy_from_slice(bytes);
            }
            fs::write(NET.file(&root, "config"), config).unwrap();
            is_conventional(&root, NET)
        };
        assert!(is_conventional(&root, NET), "it has no list");
        assert!(of(&[(0x40, [0x09, 0x50]), (0x50, [0x11, 0])]));
        assert!(!of(&[(0x40, [0x09, 0x50]), (0x50, [EXPRESS, 0])]));
        assert!(
            of(&[(0x40, [0x09, 0x50]), (0x50, [0x09, 0x40])]),
            "a list without an end"
        );
        assert!(
            !is_conventional(&root, PciAddress { slot: 3, ..NET }),
            "it is not there"
        );
    }

    #[test]
    fn a_device_says_what_it_is_and_who_drives_it() {
        let (dir, root) = tree();
        check_pci(&root, NET).unwrap();
        assert!(is_endpoint(&root, NET).unwrap());
        assert_eq!(pci_driver(&root, NET).unwrap(), None);
        let link = NET.file(&root, "driver");
        symlink("../../../../bus/pci/drivers/igbvf", &link).unwrap();
        assert_eq!(
            pci_driver(&root, NET).unwrap(),
            Some(PciDriver {
                name: "igbvf".into(),
                is_vfio: false
            })
        );
        fs::create_dir(NET.file(&root, "vfio-dev")).unwrap();
        assert!(pci_driver(&root, NET).unwrap().unwrap().is_vfio);
        let mut config = [0; 64];
        config[HEADER_TYPE] = 0x81;
        fs::write(NET.file(&root, "config"), config).unwrap();
        assert!(!is_endpoint(&root, NET).unwrap());
        fs::remove_file(&link).unwrap();
        fs::write(&link, "").unwrap();
        assert!(
            pci_driver(&root, NET)
                .unwrap_err()
                .to_string()
                .ends_with("/driver is not a symlink")
        );
        drop(dir);
    }

    #[test]
    fn devices_of_one_group_know_each_other() {
        let (_dir, root) = tree();
        assert_eq!(iommu_group(&root, NET).unwrap(), Some(7));
        assert_eq!(
            iommu_peers(&root, NET).unwrap(),
            [PciAddress { function: 0, ..NET }, NET]
        );
        let other = PciAddress { slot: 9, ..NET };
        assert_eq!(iommu_group(&root, other).unwrap(), None);
        assert_eq!(iommu_peers(&root, other).unwrap(), [other]);
        let error = check_pci(&root, other).unwrap_err().to_string();
        assert!(
            error.starts_with("Device 0000:06:09.1 not found: could not access "),
            "{error}"
        );
    }
}
