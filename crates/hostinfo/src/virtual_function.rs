//! Virtual functions: devices that a network card makes of itself, to be given away one by one.

use std::fs;

use crate::{DeviceError, PciAddress, Root};

/// Where a virtual function is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualFunction {
    /// Its number at its card.
    pub number: u32,
    /// The card's interface, by which what belongs to the function is set; none while the card has no driver.
    pub card: Option<String>,
    /// The function's own interface, while the host has it.
    pub own: Option<String>,
}

/// What a device is as a virtual function; none if it is no such.
///
/// # Errors
/// When the device's card does not know it.
pub fn virtual_function(root: &Root, address: PciAddress) -> Result<Option<VirtualFunction>, DeviceError> {
    let card = address.file(root, "physfn");
    if fs::symlink_metadata(&card).is_err() {
        return Ok(None);
    }
    let name = address.to_string();
    let is_it = |number: &u32| {
        let target = fs::read_link(card.join(format!("virtfn{number}")));
        target.is_ok_and(|target| target.file_name().is_some_and(|file| file == name.as_str()))
    };
    let count = fs::read_to_string(card.join("sriov_totalvfs"));
    let count = count.ok().and_then(|text| text.trim().parse::<u32>().ok());
    let number = (0..count.unwrap_or(u32::from(u8::MAX))).find(is_it);
    let number = number.ok_or_else(|| {
        DeviceError::Odd(format!(
            "The card of virtual function {address} has no such function"
        ))
    })?;
    Ok(Some(VirtualFunction {
        number,
        card: interface(&card.join("net")),
        own: interface(&address.file(root, "net")),
    }))
}

/// The first interface of a device.
fn interface(directory: &std::path::Path) -> Option<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names.first()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_function_is_found_at_its_card() {
        let dir = tempfile::tempdir().unwrap();
        let devices = dir.path().join("sys/bus/pci/devices");
        for (device, interface) in [
            ("0000:02:00.0", "card0"),
            ("0000:02:10.2", "card0v1"),
            ("0000:02:11.0", ""),
        ] {
            fs::create_dir_all(devices.join(device).join("net").join(interface)).unwrap();
        }
        symlink("../0000:02:00.0", devices.join("0000:02:10.2/physfn")).unwrap();
        symlink("../0000:02:00.0", devices.join("0000:02:11.0/physfn")).unwrap();
        symlink("../0000:02:10.2", devices.join("0000:02:00.0/virtfn1")).unwrap();
        let root = Root::at(dir.path());
        let of = |address: &str| virtual_function(&root, address.parse().unwrap());
        let found = of("0000:02:10.2").unwrap().unwrap();
        let told = (found.number, found.card.as_deref(), found.own.as_deref());
        assert_eq!(told, (1, Some("card0"), Some("card0v1")));
        assert!(of("0000:02:00.0").unwrap().is_none());
        assert!(of("0000:02:11.0").is_err());
    }
}
