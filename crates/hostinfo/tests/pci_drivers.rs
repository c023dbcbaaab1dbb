//! PCI devices go from their driver to VFIO's and back, with a thread in the kernel's place.

use std::fs;

use hostinfo::{Binding, PciAddress, Root, bind, driver_of_module, reset, unbind, vfio_module};
use testkit::fake_pci::{FakeDevice, FakePci};

const NIC: &str = "0000:06:02.0";

const PLACE: PciAddress = PciAddress {
    domain: 0,
    bus: 6,
    slot: 2,
    function: 0,
};

fn host() -> std::io::Result<(tempfile::TempDir, Root, FakePci, PciAddress)> {
    let dir = tempfile::tempdir()?;
    let nic = FakeDevice {
        address: NIC,
        driver: "igb",
        group: 7,
    };
    let bare = FakeDevice {
        address: "0000:06:03.0",
        driver: "",
        group: 8,
    };
    let host = FakePci::new(dir.path(), &[nic, bare])?;
    let root = Root::at(dir.path());
    Ok((dir, root, host, PLACE))
}

#[test]
fn a_device_is_taken_from_its_driver_and_given_back() {
    let (_dir, root, host, nic) = host().unwrap();
    assert_eq!(host.driver(NIC), "igb");
    assert_eq!(bind(&root, nic, "vfio-pci").unwrap(), Binding::Taken);
    assert_eq!(
        (host.driver(NIC), root.path("dev/vfio/7").exists()),
        ("vfio-pci".into(), true)
    );
    assert_eq!(bind(&root, nic, "vfio-pci").unwrap(), Binding::Kept);
    unbind(&root, nic).unwrap();
    testkit::wait_until("the old driver", std::time::Duration::from_secs(5), || {
        host.driver(NIC) == "igb"
    })
    .unwrap();
    let bare = PciAddress { slot: 3, ..nic };
    assert_eq!(bind(&root, bare, "vfio-pci").unwrap(), Binding::Taken);
}

#[test]
fn a_driver_that_does_not_take_the_device_is_told_of() {
    let (_dir, root, host, nic) = host().unwrap();
    let error = bind(&root, nic, "nobody").unwrap_err().to_string();
    assert!(
        error.starts_with("The driver nobody does not take the PCI device 0000:06:02.0"),
        "{error}"
    );
    testkit::wait_until("the old driver", std::time::Duration::from_secs(5), || {
        host.driver(NIC) == "igb"
    })
    .unwrap();
    let absent = PciAddress { slot: 9, ..nic };
    let error = bind(&root, absent, "vfio-pci").unwrap_err().to_string();
    assert!(
        error.starts_with("Failed to add driver 'vfio-pci' to driver_override interface of PCI device '0000:06:09.0': No such"),
        "{error}"
    );
}

#[test]
fn only_a_device_that_can_be_reset_is() {
    let (_dir, root, _host, nic) = host().unwrap();
    let error = reset(&root, nic).unwrap_err().to_string();
    assert_eq!(
        error,
        "Unable to reset PCI device 0000:06:02.0: no FLR, PM reset or bus reset available"
    );
    let file = root.path("sys/bus/pci/devices/0000:06:02.0/reset");
    fs::write(&file, "").unwrap();
    reset(&root, nic).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "1");
    fs::write(&file, "").unwrap();
    bind(&root, nic, "vfio-pci").unwrap();
    reset(&root, nic).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}

#[test]
fn a_driver_made_for_the_device_is_preferred() {
    let (dir, root, _host, nic) = host().unwrap();
    assert_eq!(vfio_module(&root, nic), "vfio_pci");
    assert_eq!(driver_of_module(&root, "vfio_pci").as_deref(), Some("vfio-pci"));
    assert_eq!(driver_of_module(&root, "igb").as_deref(), Some("igb"));
    assert_eq!(driver_of_module(&root, "mlx5_vfio_pci"), None);
    fs::create_dir_all(dir.path().join("proc/sys/kernel")).unwrap();
    fs::create_dir_all(dir.path().join("lib/modules/6.1")).unwrap();
    fs::write(dir.path().join("proc/sys/kernel/osrelease"), "6.1\n").unwrap();
    fs::write(
        root.path("sys/bus/pci/devices/0000:06:02.0/modalias"),
        "pci:v000015B3d0000101Esv0sd0bc02sc00i00\n",
    )
    .unwrap();
    let aliases = "# aliases\nalias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\nalias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci\n";
    fs::write(dir.path().join("lib/modules/6.1/modules.alias"), aliases).unwrap();
    assert_eq!(vfio_module(&root, nic), "mlx5_vfio_pci");
}
