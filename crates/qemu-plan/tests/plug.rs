//! Devices plugged into running guests: where they go, what they are called, and when there is no room.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(dead_code, reason = "shared with other tests")]

mod support;

use domxml::devices::{Address, Device, Disk, DiskTarget, Interface, InterfaceKind, Rng, RngBackend, Serial};
use domxml::{Domain, FormatFlags, ParseFlags};
use qemu_plan::alias;
use qemu_plan::postparse::{add_device, plug};

/// A q35 guest as libvirt would have it, running.
fn guest(devices: &str) -> Domain {
    let text = format!(
        "<domain type='qemu'><name>g</name><memory>1048576</memory><os><type machine='q35'>hvm</type></os>\
         <devices>{devices}</devices></domain>"
    );
    let defined = support::define_as(&text, false, qemu_plan::address::Age::New).unwrap();
    let mut def = Domain::parse(&defined, ParseFlags::INACTIVE).unwrap();
    alias::assign(&mut def.devices);
    def
}

fn plugged(def: &Domain, device: Device) -> Result<Device, String> {
    support::with_context(|caps, ctx| plug(def, device, caps, ctx)).map_err(|e| e.to_string())
}

fn place(device: &Device) -> String {
    match device.as_ref().info().unwrap().address.as_ref().unwrap() {
        Address::Pci(a) => format!("{:02x}:{:02x}.{}", a.bus, a.slot, a.function),
        Address::Drive(a) => format!("{}-{}-{}-{}", a.controller, a.bus, a.target, a.unit),
        other => format!("{other:?}"),
    }
}

fn virtio_card() -> Device {
    let model = Some("virtio".to_owned());
    Device::Interface(Box::new(Interface {
        kind: InterfaceKind::User,
        model,
        ..Interface::default()
    }))
}

#[test]
fn the_spare_root_port_takes_one_device_and_then_there_is_no_room() {
    let mut def = guest("");
    let card = plugged(&def, virtio_card()).unwrap();
    assert_eq!(place(&card), "03:00.0");
    assert_eq!(alias::for_new(&def.devices, &card).as_deref(), Some("net0"));
    add_device(&mut def.devices, card).unwrap();
    let refused = plugged(&def, virtio_card()).unwrap_err();
    assert!(refused.contains("No more available PCI slots"), "{refused}");
}

#[test]
fn a_running_guest_is_left_as_it_is() {
    let def = guest("<controller type='scsi' model='virtio-scsi'/>");
    let before = def.format(FormatFlags::NONE);
    let target = DiskTarget {
        dev: "sdb".to_owned(),
        ..DiskTarget::default()
    };
    let disk = plugged(
        &def,
        Device::Disk(Box::new(Disk {
            target,
            ..Disk::default()
        })),
    )
    .unwrap();
    assert_eq!(place(&disk), "0-0-0-1");
    assert_eq!(
        alias::for_new(&def.devices, &disk).as_deref(),
        Some("scsi0-0-0-1")
    );
    assert_eq!(def.format(FormatFlags::NONE), before);
}

#[test]
fn one_of_a_kind_is_not_added_twice() {
    let mut def = guest("<vsock><cid auto='yes'/></vsock>");
    let vsock = def.devices.vsock.clone().unwrap();
    assert!(add_device(&mut def.devices, Device::Vsock(Box::new(vsock))).is_err());
}

#[test]
fn numbers_go_on_from_the_highest_in_use() {
    let def = guest("<serial type='pty'/><serial type='pty'/>");
    let serial = plugged(&def, Device::Serial(Box::default())).unwrap();
    let Device::Serial(serial) = serial else {
        panic!("another device came back")
    };
    let Serial { target, .. } = *serial;
    assert_eq!(target.unwrap().port, Some(2));
    let rng = Rng {
        backend: Some(RngBackend::default()),
        ..Rng::default()
    };
    let rng = plugged(&def, Device::Rng(Box::new(rng))).unwrap();
    assert_eq!(alias::for_new(&def.devices, &rng).as_deref(), Some("rng0"));
}
