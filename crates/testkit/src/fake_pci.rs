//! A made tree of sysfs with PCI devices, and a thread that plays the kernel: it moves a device from driver to driver
//! when it is told to, by writes to the same files.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_millis(1);
/// The driver that hands devices to guests.
const VFIO: &str = "vfio-pci";

/// A host with PCI devices. Dropped, its kernel ends; the files are the caller's.
#[derive(Debug)]
pub struct FakePci {
    root: PathBuf,
    stop: Arc<AtomicBool>,
    kernel: Option<JoinHandle<()>>,
}

/// A device of it.
#[derive(Debug, Clone, Copy)]
pub struct FakeDevice {
    /// Its address, as in `0000:06:02.0`.
    pub address: &'static str,
    /// The host's driver for it; empty if there is none.
    pub driver: &'static str,
    /// Its IOMMU group.
    pub group: u32,
}

impl FakePci {
    /// Makes the tree below `root` and begins to play the kernel. VFIO's driver is loaded.
    ///
    /// # Errors
    /// When the tree can't be made.
    pub fn new(root: &Path, devices: &[FakeDevice]) -> io::Result<Self> {
        let bus = root.join("sys/bus/pci");
        fs::create_dir_all(bus.join("devices"))?;
        fs::write(bus.join("drivers_probe"), "")?;
        fs::create_dir_all(root.join("dev/vfio"))?;
        fs::write(root.join("dev/vfio/vfio"), "")?;
        make_driver(root, VFIO)?;
        fs::create_dir_all(root.join("sys/module/vfio_pci/drivers"))?;
        symlink(
            "../../../bus/pci/drivers/vfio-pci",
            root.join("sys/module/vfio_pci/drivers/pci:vfio-pci"),
        )?;
        for device in devices {
            make_device(root, device)?;
        }
        let own = devices
            .iter()
            .map(|d| (d.address.to_owned(), d.driver.to_owned()))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (place, stopped) = (root.to_owned(), Arc::clone(&stop));
        let kernel = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A file that is not there yet is looked at again.
                let _ = look(&place, &own);
                pause();
            }
        });
        Ok(Self {
            root: root.to_owned(),
            stop,
            kernel: Some(kernel),
        })
    }

    /// Who drives a device now; empty if nobody does.
    #[must_use]
    pub fn driver(&self, address: &str) -> String {
        driver(&self.root, address).unwrap_or_default()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own thread, not a runtime's")]
fn pause() {
    std::thread::sleep(LOOK);
}

impl Drop for FakePci {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.kernel.take().map(JoinHandle::join);
    }
}

fn make_driver(root: &Path, name: &str) -> io::Result<()> {
    let directory = root.join("sys/bus/pci/drivers").join(name);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("unbind"), "")
}

fn make_device(root: &Path, device: &FakeDevice) -> io::Result<()> {
    let FakeDevice {
        address,
        driver,
        group,
    } = device;
    let directory = root.join("sys/devices/pci0000:00").join(address);
    fs::create_dir_all(&directory)?;
    let mut config = vec![0; 256];
    config[..4].copy_from_slice(&[0x86, 0x80, 0x10, 0x15]);
    let id = "PCI_CLASS=20000\nPCI_ID=8086:1510\n";
    let text = |name: &str, text: &str| fs::write(directory.join(name), text);
    fs::write(directory.join("config"), &config)?;
    text("vendor", "0x8086\n")?;
    text("device", "0x1510\n")?;
    text("class", "0x020000\n")?;
    text("driver_override", "")?;
    text(
        "uevent",
        &format!("{id}PCI_SLOT_NAME={address}\nMODALIAS=pci:v00008086d00001510\n"),
    )?;
    symlink("../../../bus/pci", directory.join("subsystem"))?;
    symlink(
        format!("../../../devices/pci0000:00/{address}"),
        root.join("sys/bus/pci/devices").join(address),
    )?;
    let members = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
    fs::create_dir_all(&members)?;
    symlink(
        format!("../../../../devices/pci0000:00/{address}"),
        members.join(address),
    )?;
    symlink(
        format!("../../../kernel/iommu_groups/{group}"),
        directory.join("iommu_group"),
    )?;
    if !driver.is_empty() {
        make_driver(root, driver)?;
        take(root, address, driver)?;
    }
    Ok(())
}

/// One look at all files that somebody may have written to.
fn look(root: &Path, own: &HashMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join("sys/bus/pci/drivers"))? {
        if let Some(address) = written(&entry?.path().join("unbind")) {
            let device = root.join("sys/bus/pci/devices").join(&address);
            let _not_bound = fs::remove_file(device.join("driver"));
            forget_group(root, &device)?;
        }
    }
    let Some(address) = written(&root.join("sys/bus/pci/drivers_probe")) else {
        return Ok(());
    };
    let device = root.join("sys/bus/pci/devices").join(&address);
    let wanted = fs::read_to_string(device.join("driver_override"))?
        .trim()
        .to_owned();
    let wanted = if wanted.is_empty() {
        own.get(&address).cloned().unwrap_or_default()
    } else {
        wanted
    };
    if root.join("sys/bus/pci/drivers").join(&wanted).is_dir() && !wanted.is_empty() {
        take(root, &address, &wanted)?;
    }
    Ok(())
}

/// What was written, once.
fn written(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok().filter(|text| !text.is_empty())?;
    fs::write(file, "").ok()?;
    Some(text.trim().to_owned())
}

fn take(root: &Path, address: &str, driver: &str) -> io::Result<()> {
    let device = root.join("sys/bus/pci/devices").join(address);
    if driver == VFIO {
        fs::write(group_node(root, &device)?, "")?;
    }
    symlink(
        format!("../../../bus/pci/drivers/{driver}"),
        device.join("driver"),
    )
}

/// Without a device of VFIO's in it, a group has no node.
fn forget_group(root: &Path, device: &Path) -> io::Result<()> {
    let members = fs::read_dir(device.join("iommu_group/devices"))?;
    let held = members.flatten().any(|member| {
        let name = member.file_name();
        driver(root, &name.to_string_lossy()).as_deref() == Some(VFIO)
    });
    if !held {
        let _never_there = fs::remove_file(group_node(root, device)?);
    }
    Ok(())
}

fn group_node(root: &Path, device: &Path) -> io::Result<PathBuf> {
    let group = fs::read_link(device.join("iommu_group"))?;
    Ok(root.join("dev/vfio").join(group.file_name().unwrap_or_default()))
}

fn driver(root: &Path, address: &str) -> Option<String> {
    let link = fs::read_link(root.join("sys/bus/pci/devices").join(address).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}
