//! USB devices as sysfs shows them.

use std::fs;

use crate::device::DeviceError;
use crate::root::Root;

const DEVICES: &str = "sys/bus/usb/devices";

/// A USB device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsbDevice {
    /// Bus.
    pub bus: u32,
    /// Number on the bus; another each time it is plugged in.
    pub device: u32,
    /// Vendor.
    pub vendor: u32,
    /// Product.
    pub product: u32,
}

/// All USB devices, hubs included.
///
/// # Errors
/// When the host has no USB, or the kernel names something that is no device.
pub fn usb_devices(root: &Root) -> Result<Vec<UsbDevice>, DeviceError> {
    let directory = root.path(DEVICES);
    if let Err(source) = fs::read_dir(&directory) {
        return Err(DeviceError::System {
            what: format!("cannot open directory '{}'", directory.display()),
            source,
        });
    }
    let names = root.names(DEVICES).unwrap_or_default();
    // With a colon it is an interface of a device.
    names
        .iter()
        .filter(|name| !name.contains(':'))
        .map(|name| device(root, name))
        .collect()
}

fn device(root: &Root, name: &str) -> Result<UsbDevice, DeviceError> {
    let bus = name.strip_prefix("usb").unwrap_or(name);
    let bus = bus.split('-').next().and_then(|number| number.parse().ok());
    let bus = bus.ok_or_else(|| DeviceError::Odd(format!("Failed to parse dir name '{name}'")))?;
    let value = |file: &str, radix| {
        let path = format!("{DEVICES}/{name}/{file}");
        let text = root.text(&path).unwrap_or_default();
        let odd = |_| DeviceError::Odd(format!("Could not parse usb file {}", root.path(&path).display()));
        u32::from_str_radix(text.trim(), radix).map_err(odd)
    };
    Ok(UsbDevice {
        bus,
        device: value("devnum", 10)?,
        vendor: value("idVendor", 16)?,
        product: value("idProduct", 16)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_and_interfaces_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        assert!(
            usb_devices(&root)
                .unwrap_err()
                .to_string()
                .ends_with("sys/bus/usb/devices': No such file or directory (os error 2)")
        );
        for (name, number, product) in [("usb1", 1, "0002"), ("1-1.2", 7, "beef"), ("1-1.2:1.0", 0, "")] {
            let device = root.path(&format!("{DEVICES}/{name}"));
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("devnum"), format!("{number}\n")).unwrap();
            fs::write(device.join("idVendor"), "1d6b\n").unwrap();
            fs::write(device.join("idProduct"), format!("{product}\n")).unwrap();
        }
        let found = usb_devices(&root).unwrap();
        let key = UsbDevice {
            bus: 1,
            device: 7,
            vendor: 0x1d6b,
            product: 0xbeef,
        };
        assert_eq!(
            found,
            [
                key,
                UsbDevice {
                    device: 1,
                    product: 2,
                    ..key
                }
            ]
        );
        fs::create_dir_all(root.path(&format!("{DEVICES}/x"))).unwrap();
        assert_eq!(
            usb_devices(&root).unwrap_err().to_string(),
            "Failed to parse dir name 'x'"
        );
    }
}
