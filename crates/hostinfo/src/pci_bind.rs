//! Taking PCI devices from their drivers and giving them back: what of sysfs is written.
//!
//! The hard thing is that sysfs says nothing of what came of a write to it: who is told to look for a driver may find
//! none, or one that refuses. So what a device is bound to is looked at afterwards.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::device::DeviceError;
use crate::pci::{DRIVERS, PciAddress, pci_driver};
use crate::root::Root;

/// The module of VFIO's usual driver.
const VFIO_MODULE: &str = "vfio_pci";
/// How long a driver may take to let a device go, or to take it: most kernels do it within the write.
const SETTLING: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// Whether a device had to be taken from its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// It was taken from its driver, or had none.
    Taken,
    /// It was bound already.
    Kept,
}

/// The module whose driver hands this device to guests: the one made for it, or VFIO's usual one.
pub fn vfio_module(root: &Root, address: PciAddress) -> String {
    best_variant(root, address).unwrap_or_else(|| VFIO_MODULE.to_owned())
}

/// The line of `modules.alias` for the device that leaves the least open.
fn best_variant(root: &Root, address: PciAddress) -> Option<String> {
    let modalias = root
        .text(&format!("{}/{address}/modalias", crate::pci::DEVICES))
        .ok()?;
    let device = modalias.trim().strip_prefix("pci:")?.to_owned();
    let release = root.text("proc/sys/kernel/osrelease").ok()?;
    let aliases = root
        .text(&format!("lib/modules/{}/modules.alias", release.trim()))
        .ok()?;
    let lines = aliases
        .lines()
        .filter_map(|line| line.strip_prefix("alias vfio_pci:")?.split_once(' '));
    let fitting = lines.filter(|(pattern, _)| matches(pattern.as_bytes(), device.as_bytes()));
    let best = fitting.min_by_key(|(pattern, _)| pattern.bytes().filter(|b| *b == b'*').count())?;
    Some(best.1.trim().to_owned())
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((after, taken)) = star {
            star = Some((after, taken + 1));
            p = after + 1;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern.iter().skip(p).all(|b| *b == b'*')
}

/// The PCI driver of a module, by the module's or the driver's name; none if it is not loaded.
pub fn driver_of_module(root: &Root, module: &str) -> Option<String> {
    let drivers = root
        .names(&format!("sys/module/{}/drivers", module.replace('-', "_")))
        .unwrap_or_default();
    let own = drivers
        .iter()
        .find_map(|name| name.strip_prefix("pci:").map(str::to_owned));
    // Of a driver that is part of the kernel there may be no module.
    let built_in = || [module.replace('_', "-"), module.to_owned()];
    own.into_iter()
        .chain(built_in())
        .find(|name| root.path(&format!("{DRIVERS}/{name}")).exists())
}

/// Binds a device to a driver that hands it to guests.
///
/// # Errors
/// What the kernel refuses; that the driver does not take the device, which then has its own again.
pub fn bind(root: &Root, address: PciAddress, driver: &str) -> Result<Binding, DeviceError> {
    if pci_driver(root, address)?.is_some_and(|now| now.name == driver) {
        return Ok(Binding::Kept);
    }
    rebind(root, address, driver)?;
    if settled(|| matches!(pci_driver(root, address), Ok(Some(now)) if now.name == driver)) {
        return Ok(Binding::Taken);
    }
    let refused = DeviceError::Odd(format!(
        "The driver {driver} does not take the PCI device {address}; the kernel's log says why"
    ));
    let _reported_already = unbind(root, address);
    Err(refused)
}

/// Gives a device back to the host: to the driver that the kernel finds for it.
///
/// # Errors
/// What the kernel refuses.
pub fn unbind(root: &Root, address: PciAddress) -> Result<(), DeviceError> {
    rebind(root, address, "\n")
}

fn rebind(root: &Root, address: PciAddress, wanted: &str) -> Result<(), DeviceError> {
    let shown = wanted.trim_end();
    let what =
        || format!("Failed to add driver '{shown}' to driver_override interface of PCI device '{address}'");
    write(&address.file(root, "driver_override"), wanted, what)?;
    if let Some(now) = pci_driver(root, address)? {
        let what = || format!("Failed to unbind PCI device '{address}' from {}", now.name);
        write(&address.file(root, "driver/unbind"), &address.to_string(), what)?;
        settled(|| !matches!(pci_driver(root, address), Ok(Some(found)) if found == now));
    }
    let what = || format!("Failed to trigger a probe for PCI device '{address}'");
    write(
        &root.path("sys/bus/pci/drivers_probe"),
        &address.to_string(),
        what,
    )
}

fn write(file: &Path, text: &str, what: impl FnOnce() -> String) -> Result<(), DeviceError> {
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|source| DeviceError::System { what: what(), source })
}

#[expect(
    clippy::disallowed_methods,
    reason = "drivers are changed on threads that may block"
)]
fn pause() {
    std::thread::sleep(LOOK);
}

/// Waits until it is so, but not for long; whether it is.
fn settled(so: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if so() {
            return true;
        }
        if begun.elapsed() >= SETTLING {
            return false;
        }
        pause();
    }
}

/// Resets a device, in the way that the kernel finds best for it. One that VFIO drives is reset when it is opened.
///
/// # Errors
/// When it is no device but a bridge, or there is no way to reset it.
pub fn reset(root: &Root, address: PciAddress) -> Result<(), DeviceError> {
    if !crate::pci::is_endpoint(root, address)? {
        let message =
            format!("Invalid attempt to reset PCI device {address}. Only PCI endpoint devices can be reset");
        return Err(DeviceError::Odd(message));
    }
    if pci_driver(root, address)?.is_some_and(|driver| driver.is_vfio) {
        return Ok(());
    }
    let file = address.file(root, "reset");
    let failed = |why: String| DeviceError::Odd(format!("Unable to reset PCI device {address}: {why}"));
    if !file.exists() {
        return Err(failed("no FLR, PM reset or bus reset available".to_owned()));
    }
    fs::write(&file, "1").map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        let device = "v000015B3d0000101Esv000015B3sd00000001bc02sc00i00";
        for (pattern, fits) in [
            ("v*d*sv*sd*bc*sc*i*", true),
            ("v000015B3d0000101Esv*sd*bc*sc*i*", true),
            ("v000015B3d0000101Fsv*sd*bc*sc*i*", false),
            ("", false),
            ("*", true),
            (device, true),
            ("v000015B3", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), device.as_bytes()), fits, "{pattern}");
        }
    }
}
