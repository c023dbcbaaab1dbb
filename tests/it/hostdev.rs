//! Guests with devices of the host. The host is a made one, with a thread in the kernel's place, and so is QEMU.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::fake_pci::{FakeDevice, FakePci};
use testkit::fake_qemu::program::install;
use testkit::skip::{can_run_guests, skip};
use testkit::wait::wait_until;
use testkit::{Answer, Sandbox, reference, same_answer};

use crate::grpc::{QEMU, daemon};

const NIC: &str = "0000:00:10.0";
const DISK: &str = "0000:00:11.0";
/// How long what follows from an end may take.
const GONE: Duration = Duration::from_secs(20);

/// A QEMU that has no devices: `PAUSE` is what it does before it is one. It is a small one, as the limit of a guest's locked
/// memory is that of its memory, too, and not everybody may raise limits.
const EMULATOR: &str = r#"#!/bin/bash
case "$*" in
  *'"vfio-pci"'* | *'"usb-host"'*) PAUSE ;;
esac
exec FAKE "$@"
"#;

struct Place {
    sandbox: Sandbox,
    kernel: FakePci,
}

impl Place {
    /// Our daemon on a host with two PCI devices and a USB device.
    fn make() -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        if !Path::new("/sys/devices/pci0000:00").exists() || !Path::new("/sys/kernel/iommu_groups").exists() {
            skip("the kernel knows no PCI, and a made one has no place");
            return Ok(None);
        }
        let mut sandbox = Sandbox::new(daemon())?;
        let host = sandbox.dir().join("host");
        let device = |address, driver, group| FakeDevice {
            address,
            driver,
            group,
        };
        let kernel = FakePci::new(&host, &[device(NIC, "igb", 7), device(DISK, "nvme", 8)])?;
        for (file, text) in [("devnum", "4"), ("idVendor", "1234"), ("idProduct", "beef")] {
            write(&host.join("sys/bus/usb/devices/1-1").join(file), text)?;
        }
        write(&host.join("dev/bus/usb/001/004"), "")?;
        sandbox.start()?;
        let place = Self { sandbox, kernel };
        place.emulator("true")?;
        Ok(Some(place))
    }

    /// What the emulator does before it is QEMU.
    fn emulator(&self, pause: &str) -> Result<()> {
        let path = self.sandbox.dir().join("emulator");
        let fake = install(self.sandbox.dir(), &json!({}))?;
        write(
            &path,
            &EMULATOR
                .replace("PAUSE", pause)
                .replace("FAKE", &fake.to_string_lossy()),
        )?;
        Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
    }

    /// A guest with the devices.
    fn guest(&self, name: &str, hostdevs: &str) -> Result<String> {
        let emulator = self.sandbox.dir().join("emulator");
        let path = self.sandbox.dir().join(format!("{name}.xml"));
        let text = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
             <memtune><hard_limit unit='KiB'>8192</hard_limit></memtune>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>{}</emulator>\
             <controller type='usb' model='piix3-uhci'/><memballoon model='none'/>{hostdevs}</devices></domain>",
            emulator.display()
        );
        write(&path, &text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn create(&self, name: &str, hostdevs: &str) -> Result<Answer> {
        self.sandbox
            .virsh()
            .run(&["create", &self.guest(name, hostdevs)?])
    }

    /// The drivers of both PCI devices become these.
    fn becomes(&self, drivers: [&str; 2]) -> Result<()> {
        let now = || [NIC, DISK].map(|address| self.kernel.driver(address));
        wait_until("drivers", GONE, || now() == drivers).with_context(|| format!("{:?}", now()))
    }

    fn notes(&self) -> usize {
        fs::read_dir(self.sandbox.path("run/libvirt/qemu/virtqemud/owed")).map_or(0, Iterator::count)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(fs::write(path, text)?)
}

fn pci(slot: u8, managed: &str) -> String {
    format!(
        "<hostdev mode='subsystem' type='pci' managed='{managed}'><source>\
         <address domain='0' bus='0' slot='{slot:#x}' function='0'/></source></hostdev>"
    )
}

const USB: &str = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>";

fn refused(answer: &Answer, words: &str) -> Result<()> {
    ensure!(!answer.success() && answer.stderr.contains(words), "{answer:?}");
    Ok(())
}

#[test]
fn a_guest_has_its_devices_over_a_killed_daemon_and_gives_them_back() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    let conf = place.sandbox.path("etc/libvirt/qemu.conf");
    fs::write(
        &conf,
        fs::read_to_string(&conf)?.replace("\"root\"", "\"+54321\""),
    )?;
    place.sandbox.restart()?;
    let created = place.create("one", &(pci(0x10, "yes") + USB))?;
    ensure!(created.success(), "{created:?}");
    place.becomes(["vfio-pci", "nvme"])?;
    let nodes = ["host/dev/vfio/7", "host/dev/bus/usb/001/004"].map(|node| place.sandbox.dir().join(node));
    for node in &nodes {
        ensure!(fs::metadata(node)?.uid() == 54321, "{}", node.display());
    }
    let status = fs::read_to_string(place.sandbox.path("run/libvirt/qemu/one.xml"))?;
    ensure!(
        status.contains("<origstates>") && status.contains("<unbind/>"),
        "{status}"
    );
    let live = place.sandbox.virsh().ok(&["dumpxml", "one"])?;
    ensure!(
        live.contains("<driver name='vfio'/>") && live.contains("<address bus='1' device='4'/>"),
        "{live}"
    );
    place.sandbox.kill()?;
    place.sandbox.start()?;
    refused(
        &place.create("two", &pci(0x10, "yes"))?,
        "PCI device 0000:00:10.0 is in use by driver QEMU, domain one",
    )?;
    refused(
        &place.create("two", USB)?,
        "USB device 001:004 is in use by driver QEMU, domain one",
    )?;
    place.sandbox.virsh().ok(&["destroy", "one"])?;
    place.becomes(["igb", "nvme"])?;
    ensure!(fs::metadata(&nodes[1])?.uid() == 0 && place.notes() == 0);
    Ok(())
}

#[test]
fn a_start_that_fails_or_is_never_finished_gives_its_devices_back() -> Result<()> {
    let Some(mut place) = Place::make()? else {
        return Ok(());
    };
    place.emulator("exit 3")?;
    ensure!(
        !place
            .create("one", &(pci(0x10, "yes") + &pci(0x11, "yes")))?
            .success()
    );
    place.becomes(["igb", "nvme"])?;
    refused(
        &place.create("one", &(pci(0x10, "yes") + &pci(0x11, "no")))?,
        "Unmanaged PCI device 0000:00:11.0 must be manually detached",
    )?;
    place.becomes(["igb", "nvme"])?;
    place.emulator("sleep 600")?;
    let mut starting = place
        .sandbox
        .virsh()
        .spawn(&["create", &place.guest("one", &pci(0x11, "yes"))?])?;
    place.becomes(["igb", "vfio-pci"])?;
    place.sandbox.kill()?;
    starting.wait()?;
    place.sandbox.start()?;
    place.becomes(["igb", "nvme"])?;
    wait_until("the notes' end", GONE, || place.notes() == 0)?;
    Ok(())
}

#[test]
fn a_host_without_such_devices_says_so_in_libvirts_words() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let Some(theirs) = reference()? else { return Ok(()) };
    if Path::new("/dev/vfio/vfio").exists() {
        skip("the host has VFIO: its own devices are not for tests");
        return Ok(());
    }
    let ours = Sandbox::started(daemon())?;
    let scsi = "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host77'/>\
        <address bus='0' target='0' unit='0'/></source></hostdev>";
    let mdev = "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>\
        <address uuid='53764d0e-85a0-42b4-af5c-2046b460b1dc'/></source></hostdev>";
    let absent = pci(0x10, "yes").replace("bus='0'", "bus='0xfe'");
    for (index, hostdev) in [absent.as_str(), USB, scsi, mdev].into_iter().enumerate() {
        let text = format!(
            "<domain type='qemu'><name>g{index}</name><memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <devices><emulator>{QEMU}</emulator>{hostdev}</devices></domain>"
        );
        let path = ours.dir().join("guest.xml");
        fs::write(&path, text)?;
        let shared = Path::new("/tmp").join(format!("vq-hostdev-{}.xml", std::process::id()));
        fs::rename(&path, &shared)?;
        let same = same_answer(&ours, &theirs, &["create", &shared.to_string_lossy()]);
        fs::remove_file(&shared)?;
        same.with_context(|| hostdev.to_owned())?;
    }
    Ok(())
}

#[test]
fn an_interface_is_a_virtual_function_or_stays_the_hosts() -> Result<()> {
    let Some(place) = Place::make()? else {
        return Ok(());
    };
    let card = "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:07'/><source>\
        <address type='pci' domain='0' bus='0' slot='0x10' function='0'/></source></interface>";
    let file = place.sandbox.dir().join("card.xml");
    write(&file, card)?;
    let virsh = place.sandbox.virsh();
    let created = place.create("two", "")?;
    ensure!(created.success(), "{created:?}");
    let is_refused = |words: &str| {
        refused(&place.create("one", card)?, words)?;
        refused(
            &virsh.run(&["attach-device", "two", &file.to_string_lossy()])?,
            words,
        )?;
        place.becomes(["igb", "nvme"])?;
        wait_until("the notes' end", GONE, || place.notes() == 0)
    };
    is_refused("Interface type hostdev is currently supported on SR-IOV Virtual Functions only")?;
    // The device becomes a function of a card whose interface knows of none.
    let devices = place.sandbox.dir().join("host/sys/bus/pci/devices");
    fs::create_dir_all(devices.join(DISK).join("net/lo"))?;
    symlink(Path::new("..").join(DISK), devices.join(NIC).join("physfn"))?;
    symlink(Path::new("..").join(NIC), devices.join(DISK).join("virtfn0"))?;
    is_refused("Cannot set interface MAC/vlanid to 52:54:00:00:00:07/0 for ifname lo vf 0")
}
