//! Devices of a made host, with a thread in the kernel's place.

use std::{fs, path::Path, time::Duration};

use hostinfo::{PciAddress, Root};
use testkit::fake_pci::{FakeDevice, FakePci};

use crate::ops::holdings::hostdev::{Hostdevs, want};

const NIC: &str = "0000:06:02.0";
const TWIN: &str = "0000:06:02.1";
const DISK: &str = "0000:07:00.0";

struct Host {
    _dir: tempfile::TempDir,
    kernel: FakePci,
    devices: Hostdevs,
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let device = |address, driver, group| FakeDevice {
        address,
        driver,
        group,
    };
    let kernel = FakePci::new(
        dir.path(),
        &[
            device(NIC, "igb", 7),
            device(TWIN, "igb", 7),
            device(DISK, "nvme", 8),
        ],
    )
    .unwrap();
    usb(dir.path(), "1-1", 4);
    usb(dir.path(), "1-2", 5);
    for file in ["sys/bus/scsi/devices/0:0:0:0/scsi_generic/sg0/dev", "dev/sg0"] {
        write(&dir.path().join(file), "");
    }
    let devices = Hostdevs::new(Root::at(dir.path()));
    Host {
        _dir: dir,
        kernel,
        devices,
    }
}

fn usb(root: &Path, name: &str, number: u32) {
    let directory = root.join("sys/bus/usb/devices").join(name);
    for (file, text) in [
        ("devnum", number.to_string()),
        ("idVendor", "1234".into()),
        ("idProduct", format!("000{number}")),
    ] {
        write(&directory.join(file), &text);
    }
    write(&root.join(format!("dev/bus/usb/001/{number:03}")), "");
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn guest(name: &str, hostdevs: &str) -> domxml::Domain {
    let text = format!(
        "<domain type='qemu'><name>{name}</name><os><type>hvm</type></os><devices>{hostdevs}</devices></domain>"
    );
    let mut document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
    want::settle(&mut document, true).unwrap();
    document
}

fn pci(address: &str, managed: &str) -> String {
    let at: PciAddress = address.parse().unwrap();
    let PciAddress {
        domain,
        bus,
        slot,
        function,
    } = at;
    format!(
        "<hostdev mode='subsystem' type='pci' managed='{managed}'><source>\
         <address domain='{domain}' bus='{bus}' slot='{slot}' function='{function}'/></source></hostdev>"
    )
}

fn scsi(more: &str) -> String {
    format!(
        "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/><address bus='0' target='0' unit='0'/></source>{more}</hostdev>"
    )
}

const BY_KIND: &str = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0x0005'/></source></hostdev>";

impl Host {
    /// What is said to a guest that takes devices.
    fn claim(&self, document: &mut domxml::Domain) -> Result<(), String> {
        self.devices.claim(document).map_err(|error| error.to_string())
    }

    fn drivers(&self) -> [String; 3] {
        [NIC, TWIN, DISK].map(|address| self.kernel.driver(address))
    }

    /// The kernel takes a moment to give a device back.
    fn becomes(&self, drivers: [&str; 3]) {
        let so = || self.drivers() == drivers;
        assert!(
            testkit::wait_until("drivers", Duration::from_secs(5), so).is_ok(),
            "{:?}",
            self.drivers()
        );
    }
}

#[test]
fn a_managed_device_is_the_guests_and_then_the_hosts_again() {
    let host = host();
    let mut one = guest("one", &(pci(NIC, "yes") + &pci(TWIN, "yes")));
    host.claim(&mut one).unwrap();
    assert_eq!(host.drivers(), ["vfio-pci", "vfio-pci", "nvme"]);
    let status = one.format(domxml::FormatFlags::STATUS | domxml::FormatFlags::PCI_ORIG_STATES);
    assert_eq!(status.matches("<unbind/>").count(), 2);
    let nodes = want::nodes(host.devices.root(), &one);
    assert_eq!(nodes.len(), 1, "a group has one node");
    assert!(nodes[0].path.ends_with("dev/vfio/7") && nodes[0].is_roots);
    host.devices.release("other");
    assert_eq!(host.drivers(), ["vfio-pci", "vfio-pci", "nvme"]);
    host.devices.release("one");
    host.becomes(["igb", "igb", "nvme"]);
}

#[test]
fn no_two_guests_have_a_device_or_parts_of_one_group() {
    let host = host();
    host.claim(&mut guest("one", &pci(NIC, "yes"))).unwrap();
    let used =
        format!("Requested operation is not valid: PCI device {NIC} is in use by driver QEMU, domain one");
    for address in [NIC, TWIN] {
        assert_eq!(
            host.claim(&mut guest("two", &pci(address, "yes"))),
            Err(used.clone())
        );
    }
    let nic = NIC.parse().unwrap();
    for refused in [host.devices.detach(nic, None), host.devices.reattach(nic)] {
        assert_eq!(refused.unwrap_err().to_string(), used);
    }
    assert_eq!(
        host.devices.reset(nic).unwrap_err().to_string(),
        format!("internal error: Not resetting active device {NIC}")
    );
    host.claim(&mut guest("two", &pci(DISK, "yes"))).unwrap();
}

#[test]
fn a_device_that_is_not_managed_must_have_been_taken_before() {
    let host = host();
    let mut one = guest("one", &(pci(NIC, "yes") + &pci(DISK, "no")));
    let refused = format!(
        "Requested operation is not valid: Unmanaged PCI device {DISK} must be manually detached from the host"
    );
    assert_eq!(host.claim(&mut one), Err(refused));
    host.becomes(["igb", "igb", "nvme"]);
    let disk = DISK.parse().unwrap();
    host.devices.detach(disk, None).unwrap();
    host.claim(&mut one).unwrap();
    host.devices.release("one");
    host.becomes(["igb", "igb", "vfio-pci"]);
    host.devices.reattach(disk).unwrap();
    host.becomes(["igb", "igb", "nvme"]);
}

#[test]
fn a_run_that_was_found_has_its_devices() {
    let host = host();
    let mut one = guest("one", &(pci(NIC, "yes") + BY_KIND + &scsi("<shareable/>")));
    host.claim(&mut one).unwrap();
    let after = Hostdevs::new(host.devices.root().clone());
    after.adopt(&one);
    let refused = |hostdev: &str| {
        after
            .claim(&mut guest("other", hostdev))
            .unwrap_err()
            .message
            .into_owned()
    };
    assert_eq!(
        refused(&pci(NIC, "yes")),
        format!("PCI device {NIC} is in use by driver QEMU, domain one")
    );
    assert_eq!(
        refused(BY_KIND),
        "USB device 001:005 is in use by driver QEMU, domain one"
    );
    assert_eq!(
        refused(&scsi("")),
        "SCSI device 0:0:0:0 is already in use by other domain(s) as 'shareable'"
    );
    after.claim(&mut guest("two", &scsi("<shareable/>"))).unwrap();
    after.restore(NIC.parse().unwrap()).unwrap();
    assert_eq!(host.drivers(), ["vfio-pci", "igb", "nvme"], "it is a guest's");
    after.release("one");
    host.becomes(["igb", "igb", "nvme"]);
    assert_eq!(
        refused(&scsi("")),
        "SCSI device 0:0:0:0 is already in use by other domain(s) as 'shareable'"
    );
    after.release("two");
    after.claim(&mut guest("three", &scsi(""))).unwrap();
}

#[test]
fn a_device_that_was_taken_for_a_run_that_never_was_goes_back() {
    let host = host();
    host.claim(&mut guest("one", &pci(NIC, "yes"))).unwrap();
    let after = Hostdevs::new(host.devices.root().clone());
    after.restore(NIC.parse().unwrap()).unwrap();
    host.becomes(["igb", "igb", "nvme"]);
}

#[test]
fn a_usb_device_that_may_be_missing_is_shown_as_such() {
    let host = host();
    let absent = BY_KIND.replace("0x0005", "0x0099");
    assert_eq!(
        host.claim(&mut guest("one", &absent)),
        Err("internal error: Did not find USB device 1234:0099".into())
    );
    let mut one = guest(
        "one",
        &(absent.replace("<source>", "<source startupPolicy='optional'>") + BY_KIND),
    );
    host.claim(&mut one).unwrap();
    let live = one.format(domxml::FormatFlags::NONE);
    assert!(live.contains("startupPolicy='optional' missing='yes'"), "{live}");
    let mut nothing_said = guest(
        "two",
        "<hostdev mode='subsystem' type='usb'><source><address bus='0' device='9'/></source></hostdev>",
    );
    host.claim(&mut nothing_said).unwrap();
    let missing = nothing_said.format(domxml::FormatFlags::NONE);
    assert!(missing.contains("<source missing='yes'>"), "{missing}");
    assert!(live.contains("<address bus='1' device='5'/>"), "{live}");
    let nodes: Vec<_> = want::nodes(host.devices.root(), &one)
        .into_iter()
        .map(|node| node.path)
        .collect();
    assert_eq!(nodes, [host.devices.root().path("dev/bus/usb/001/005")]);
}
