//! Devices plugged into running guests: where they go, what they are called, and when there is no room.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(dead_code, reason = "shared with other tests")]

mod support;

use domxml::devices::{Address, Device, DeviceRef};
use domxml::{Domain, FormatFlags, ParseFlags};
use qemu_plan::alias;
use qemu_plan::block;
use qemu_plan::command::plug::{Given, Step, back_ends, plug};
use qemu_plan::command::{DeviceResources, FdRef, Resources};
use qemu_plan::hotplug::{self, Placed, Side};
use qemu_plan::postparse::add_device;
use serde_json::{Value, json};

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

/// A device as a client writes it.
fn device(text: &str) -> Device {
    Device::given(text).unwrap()
}

/// What libvirt does for a live attach before it goes to QEMU.
fn attached(def: &Domain, text: &str) -> Result<Placed, String> {
    support::with_context(|caps, ctx| {
        let device = hotplug::complete(def, device(text), caps, ctx)?;
        hotplug::check(def, &device, Side::Live)?;
        hotplug::place(def, device, caps, ctx)
    })
    .map_err(|e| format!("{} {}: {e}", e.code.number(), e.area.number()))
}

/// What libvirt does for an attach to the stored document before the whole is completed.
fn stored(def: &Domain, text: &str) -> Result<(), String> {
    support::with_context(|caps, ctx| {
        let device = hotplug::complete(def, device(text), caps, ctx)?;
        hotplug::check(def, &device, Side::Stored)
    })
    .map_err(|e| format!("{} {}: {e}", e.code.number(), e.area.number()))
}

fn place(device: DeviceRef<'_>) -> String {
    match device.info().unwrap().address.as_ref().unwrap() {
        Address::Pci(a) => format!("{:02x}:{:02x}.{}", a.bus, a.slot, a.function),
        Address::Drive(a) => format!("{}-{}-{}-{}", a.controller, a.bus, a.target, a.unit),
        Address::Usb(a) => format!("usb {} {:?}", a.bus, a.port.map(|p| p.way().to_vec())),
        other => format!("{other:?}"),
    }
}

fn alias_of(device: DeviceRef<'_>) -> String {
    device
        .info()
        .and_then(|info| info.alias.clone())
        .unwrap_or_default()
}

const CARD: &str = "<interface type='user'><model type='virtio'/></interface>";

fn disk(target: &str, bus: &str, more: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/{target}.qcow2'/>\
         <target dev='{target}' bus='{bus}'/>{more}</disk>"
    )
}

#[test]
fn the_spare_root_port_takes_one_device_and_then_there_is_no_room() {
    let mut def = guest("");
    let card = attached(&def, CARD).unwrap().device;
    assert_eq!(place(card.as_ref()), "03:00.0");
    assert_eq!(alias_of(card.as_ref()), "net0");
    add_device(&mut def.devices, card).unwrap();
    let refused = attached(&def, CARD).unwrap_err();
    assert_eq!(refused, "1 20: internal error: No more available PCI slots");
}

#[test]
fn a_running_guest_is_left_as_it_is() {
    let def = guest("<controller type='scsi' model='virtio-scsi'/>");
    let before = def.format(FormatFlags::NONE);
    let disk = attached(&def, &disk("sdb", "scsi", "")).unwrap().device;
    assert_eq!(place(disk.as_ref()), "0-0-0-1");
    assert_eq!(alias_of(disk.as_ref()), "scsi0-0-0-1");
    assert_eq!(def.format(FormatFlags::NONE), before);
}

#[test]
fn one_of_a_kind_is_not_added_twice() {
    let mut def = guest("<vsock><cid auto='yes'/></vsock>");
    let vsock = def.devices.vsock.clone().unwrap();
    assert!(add_device(&mut def.devices, Device::Vsock(Box::new(vsock))).is_err());
}

/// Root ports for devices to come, and what the refusals below are about.
const ROOM: &str = "<disk type='file' device='disk'><source file='/a.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><source file='/s.qcow2'/><target dev='sda' bus='scsi'/></disk>
    <disk type='file' device='cdrom'><target dev='sdx' bus='sata'/></disk>
    <controller type='scsi' index='0' model='virtio-scsi'/><controller type='usb' index='0' model='qemu-xhci' ports='2'/>
    <interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/><boot order='1'/></interface>
    <interface type='user'><mac address='52:54:00:00:00:02'/><model type='virtio'/><alias name='ua-second'/></interface>
    <interface type='user'><mac address='52:54:00:00:00:02'/><model type='virtio'/></interface>
    <controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' index='20' model='pcie-root-port'><target hotplug='off'/></controller>
    <controller type='pci' index='21' model='pcie-root-port'/><controller type='pci' index='22' model='pcie-root-port'/>
    <controller type='pci' index='23' model='pcie-root-port'/>";

#[test]
fn a_disk_on_a_high_scsi_controller_brings_the_controllers_before_it() {
    let def = guest(ROOM);
    let address = "<address type='drive' controller='2' bus='0' target='0' unit='0'/>";
    let placed = attached(&def, &disk("sdc", "scsi", address)).unwrap();
    let controllers = placed.controllers.iter().map(Device::as_ref);
    let shown: Vec<_> = controllers.map(|c| (alias_of(c), place(c))).collect();
    assert_eq!(
        shown.iter().map(|(alias, _)| alias.as_str()).collect::<Vec<_>>(),
        ["scsi1", "scsi2"]
    );
    assert!(
        shown.iter().all(|(_, place)| place.ends_with(":00.0")),
        "{shown:?}"
    );
    assert_ne!(shown[0].1, shown[1].1);
    let Device::Controller(first) = &placed.controllers[0] else {
        panic!()
    };
    assert_eq!(first.model.as_deref(), Some("virtio-scsi"));
    assert_eq!(alias_of(placed.device.as_ref()), "scsi2-0-0-0");
}

#[test]
fn a_usb_disk_gets_the_next_port() {
    let mut def = guest(ROOM);
    for (target, alias, port) in [("sdb", "usb-disk1", 1), ("sdd", "usb-disk3", 2)] {
        let stick = attached(&def, &disk(target, "usb", "")).unwrap().device;
        assert_eq!(alias_of(stick.as_ref()), alias);
        assert_eq!(place(stick.as_ref()), format!("usb 0 Some([{port}])"));
        add_device(&mut def.devices, stick).unwrap();
    }
    let refused = attached(&def, &disk("sde", "usb", "")).unwrap_err();
    assert_eq!(refused, "1 20: internal error: No free USB ports");
}

#[test]
fn what_can_not_be_attached_is_refused_in_libvirts_words() {
    let def = guest(ROOM);
    let pci = |bus: &str, slot: &str, function: &str| {
        format!(
            "<interface type='user'><model type='virtio'/><address type='pci' domain='0' bus='{bus}' \
             slot='{slot}' function='{function}'/></interface>"
        )
    };
    let taken = "<address type='drive' controller='0' bus='0' target='0' unit='0'/>";
    // table: what is attached, the refusal.
    let table = [
        (
            disk("vda", "virtio", ""),
            "27 20: XML error: target 'vda' duplicated for disk sources '/a.qcow2' and '/vda.qcow2'",
        ),
        (
            disk("sdc", "scsi", taken),
            "55 10: Requested operation is not valid: Domain already contains a disk with that address",
        ),
        (
            disk("sdb", "sata", ""),
            "84 10: Operation not supported: disk bus 'sata' cannot be hotplugged.",
        ),
        (
            disk("hdb", "ide", ""),
            "84 10: Operation not supported: disk bus 'ide' cannot be hotplugged.",
        ),
        (
            "<disk type='file' device='floppy'><source file='/f'/><target dev='fda' bus='fdc'/></disk>"
                .to_owned(),
            "84 10: Operation not supported: floppy device hotplug isn't supported",
        ),
        (
            disk("vdb", "virtio", "<boot order='1'/>"),
            "67 20: unsupported configuration: boot order 1 is already used by another device",
        ),
        (
            disk("vdb", "virtio", "<alias name='ua-second'/>"),
            "67 20: unsupported configuration: non unique alias detected: ua-second",
        ),
        (
            "<interface type='mcast'><source address='230.0.0.1' port='5558'/></interface>".to_owned(),
            "84 10: Operation not supported: hotplug of interface type of mcast is not implemented yet",
        ),
        (
            "<interface type='null'><model type='usb-net'/></interface>".to_owned(),
            "84 10: Operation not supported: hotplug of interface type of null is not implemented yet",
        ),
        // A place is looked for before its kind is.
        (
            "<interface type='null'><address type='pci' domain='0' bus='0x60' slot='0'/></interface>"
                .to_owned(),
            "27 20: XML error: Invalid PCI address 0000:60:00.0. Only PCI buses up to 25 are available",
        ),
        // What a watchdog does that does not say so is what most do.
        (
            "<watchdog model='diag288'/>".to_owned(),
            "67 10: unsupported configuration: diag288 model of watchdog is allowed for s390 and s390x only",
        ),
        (
            "<console type='pty'/>".to_owned(),
            "67 10: unsupported configuration: unsupported console target type serial",
        ),
        (
            pci("1", "0", "0"),
            "27 20: XML error: Attempted double use of PCI Address 0000:01:00.0",
        ),
        (
            pci("0x60", "0", "0"),
            "27 20: XML error: Invalid PCI address 0000:60:00.0. Only PCI buses up to 25 are available",
        ),
        (
            pci("0", "0x10", "0"),
            "27 20: XML error: The device at PCI address 0000:00:10.0 requires hotplug capability, but the PCI controller with index='0' doesn't support hotplug",
        ),
        (
            pci("20", "0", "0"),
            "27 20: XML error: The device at PCI address 0000:14:00.0 requires hotplug capability, but the PCI controller with index='20' doesn't support hotplug",
        ),
        (
            pci("21", "1", "0"),
            "27 20: XML error: Invalid PCI address 0000:15:01.0. slot must be <= 0",
        ),
        (
            pci("21", "0", "1"),
            "1 20: internal error: Only PCI device addresses with function=0 are supported",
        ),
        (
            "<interface type='user'><mac address='52:54:00:00:00:09'/><model type='virtio'/><driver queues='2'/></interface>"
                .to_owned(),
            "67 10: unsupported configuration: interface 52:54:00:00:00:09 - multiqueue is not supported for network interfaces of type user",
        ),
        (
            "<sound model='ich9'/>".to_owned(),
            "84 10: Operation not supported: live attach of device 'sound' is not supported",
        ),
        (
            "<controller type='scsi' index='0' model='virtio-scsi'/>".to_owned(),
            "9 10: operation failed: target scsi:0 already exists",
        ),
        (
            "<controller type='pci' index='0'/>".to_owned(),
            "1 10: internal error: Unexpected enum value -1 for virDomainControllerModelPCI",
        ),
        (
            "<video/>".to_owned(),
            "67 10: unsupported configuration: video type 'cirrus' is only valid as primary video device",
        ),
        (
            "<controller type='usb' index='1' model='qemu-xhci'/>".to_owned(),
            "84 10: Operation not supported: 'usb' controller cannot be hot plugged.",
        ),
    ];
    for (text, refusal) in table {
        assert_eq!(attached(&def, &text).err().as_deref(), Some(refusal), "{text}");
    }
    let given = attached(&def, &pci("21", "0", "0")).unwrap();
    assert_eq!(place(given.device.as_ref()), "15:00.0");
    let no_bridge = guest("");
    assert_eq!(
        attached(
            &no_bridge,
            "<interface type='user'><model type='e1000'/></interface>"
        )
        .unwrap_err(),
        "1 20: internal error: No more available PCI slots"
    );
    let no_usb = guest("<controller type='usb' model='none'/>");
    assert_eq!(
        attached(&no_usb, &disk("sdb", "usb", "")).unwrap_err(),
        "67 20: unsupported configuration: Device configuration is not compatible: Domain has no USB bus support"
    );
}

#[test]
fn an_address_that_says_nothing_is_none() {
    let def = guest(&format!("{ROOM}<controller type='virtio-serial' index='0'/>"));
    let first_free = place(attached(&def, CARD).unwrap().device.as_ref());
    for address in [
        "<address type='usb' bus='0' port='1'/>",
        "<address type='drive'/>",
    ] {
        let card = CARD.replace("</interface>", &format!("{address}</interface>"));
        let own = place(attached(&def, &card).unwrap().device.as_ref());
        assert_eq!(own, first_free, "{address}");
    }
    let channel = "<channel type='pty'><target type='virtio' name='x'/><address type='pci'/></channel>";
    let port = place(attached(&def, channel).unwrap().device.as_ref());
    assert!(port.starts_with("VirtioSerial"), "{port}");
    let rng = "<rng model='virtio'><backend model='builtin'/>\
               <address type='pci' domain='0' bus='0' slot='0' function='0'/></rng>";
    assert_eq!(stored(&def, rng), Ok(()));
}

#[test]
fn the_stored_document_has_rules_of_its_own() {
    let def = guest(ROOM);
    assert_eq!(stored(&def, &disk("sdb", "sata", "")), Ok(()));
    assert_eq!(stored(&def, "<sound model='ich9'/>"), Ok(()));
    let table = [
        (
            disk("vda", "virtio", ""),
            "55 10: Requested operation is not valid: target vda already exists",
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/s'/><target dir=''/></filesystem>".to_owned(),
            "20 20: missing target information for device /s",
        ),
        (
            "<video><model type='virtio'/></video>".to_owned(),
            "84 10: Operation not supported: persistent attach of device 'video' is not supported",
        ),
    ];
    for (text, refusal) in table {
        assert_eq!(stored(&def, &text).err().as_deref(), Some(refusal), "{text}");
    }
}

#[test]
fn a_detach_finds_its_device_by_few_things() {
    let def = guest(ROOM);
    let find = |text: &str, side| {
        let device = Device::parse(text, ParseFlags::NONE).unwrap();
        let found = hotplug::find(&def, &device, side);
        found
            .map(|place| alias_of(def.devices.get(place).unwrap()))
            .map_err(|e| format!("{} {}: {e}", e.code.number(), e.area.number()))
    };
    let mac = |n: u8| format!("<interface type='bridge'><mac address='52:54:00:00:00:{n:02x}'/></interface>");
    let second = "<interface type='user'><alias name='ua-second'/></interface>";
    // table: what is to go, the alias of what is found.
    for (text, alias) in [
        ("<disk><target dev='vda'/></disk>".to_owned(), "virtio-disk0"),
        (
            "<disk type='block' device='cdrom'><source dev='/x'/><target dev='sda' bus='usb'/></disk>"
                .to_owned(),
            "scsi0-0-0-0",
        ),
        (mac(1), "net0"),
        (second.to_owned(), "ua-second"),
        ("<controller type='scsi' index='0'/>".to_owned(), "scsi0"),
    ] {
        assert_eq!(find(&text, Side::Live).as_deref(), Ok(alias), "{text}");
    }
    let nobody = "99 20: device not found: no device found at address '(<null>)' matching MAC address \
                  '52:54:00:00:00:09' and alias '(<null>)'";
    for (text, side, refusal) in [
        (
            "<disk><target dev='vdz'/></disk>".to_owned(),
            Side::Live,
            "99 10: device not found: disk vdz not found",
        ),
        (
            "<disk><target dev='vdz'/></disk>".to_owned(),
            Side::Stored,
            "99 10: device not found: no target device vdz",
        ),
        (mac(9), Side::Live, nobody),
        (
            mac(2),
            Side::Live,
            "9 20: operation failed: multiple devices matching MAC address 52:54:00:00:00:02 found",
        ),
        (
            "<interface type='user'/>".to_owned(),
            Side::Live,
            "9 20: operation failed: multiple matching devices found",
        ),
        // None is made up for it.
        (
            "<controller type='scsi'/>".to_owned(),
            Side::Live,
            "99 10: device not found: controller scsi:-1 not found",
        ),
        (
            "<hostdev mode='capabilities' type='misc'><source><char>/dev/null</char></source></hostdev>"
                .to_owned(),
            Side::Live,
            "67 10: unsupported configuration: hot unplug is not supported for hostdev mode 'capabilities'",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='0'/></source></hostdev>"
                .to_owned(),
            Side::Live,
            "99 10: device not found: host usb device vendor=0x0000 product=0x0000 not found",
        ),
        (
            "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.1'/></hostdev>"
                .to_owned(),
            Side::Live,
            "1 0: internal error: host scsi_host device naa.1 not found",
        ),
        (
            "<controller type='scsi' index='9'/>".to_owned(),
            Side::Live,
            "99 10: device not found: controller scsi:9 not found",
        ),
    ] {
        assert_eq!(find(&text, side).err().as_deref(), Some(refusal), "{text}");
    }
}

#[test]
fn no_number_is_made_up_for_a_controller_that_is_to_go() {
    let def = guest(ROOM);
    let asked = device("<controller type='scsi'/>");
    let described =
        support::with_context(|caps, ctx| hotplug::described(&def, (asked, Side::Stored), caps, ctx))
            .unwrap();
    let refused = hotplug::find(&def, &described, Side::Stored).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "device not found: device not present in domain configuration"
    );
}

#[test]
fn what_can_not_be_detached_is_refused_in_libvirts_words() {
    let mut def = guest(ROOM);
    // A card whose port takes no hot-plug, and one that shares its slot.
    let shut = def.devices.by_alias("ua-second").unwrap();
    let mut moved = def.devices.remove(shut).unwrap();
    if let Some(Address::Pci(a)) = &mut moved.as_mut().into_info().unwrap().address {
        (a.bus, a.slot, a.function) = (20, 0, 0);
    }
    def.devices.insert(moved, shut.at).unwrap();
    let check = |def: &Domain, alias: &str| {
        let place = def.devices.by_alias(alias).unwrap();
        hotplug::check_detach(def, place, Side::Live)
            .map_err(|e| format!("{} {}: {e}", e.code.number(), e.area.number()))
    };
    for (alias, refusal) in [
        (
            "sata0-0-23",
            "84 10: Operation not supported: disk device type 'cdrom' cannot be detached",
        ),
        (
            "scsi0",
            "9 10: operation failed: device cannot be detached: device is busy",
        ),
        (
            "usb",
            "84 10: Operation not supported: 'usb' controller cannot be hot unplugged.",
        ),
        (
            "ua-second",
            "9 10: operation failed: cannot hot unplug interface device with PCI guest address: 0000:14:00.0 - not allowed by controller",
        ),
    ] {
        let alias = if alias.starts_with("sata") {
            let cdrom = def.devices.disks.iter().find(|d| d.target.dev == "sdx").unwrap();
            cdrom.info.alias.clone().unwrap()
        } else {
            alias.to_owned()
        };
        assert_eq!(check(&def, &alias).err().as_deref(), Some(refusal), "{alias}");
    }
    for alias in ["virtio-disk0", "scsi0-0-0-0", "net0"] {
        assert_eq!(check(&def, alias), Ok(()), "{alias}");
    }
    let mut shared = def.clone();
    let place = shared.devices.by_alias("net0").unwrap();
    let there = shared.devices.get(place).unwrap().info().unwrap().address.clone();
    let twin = shared.devices.by_alias("virtio-disk0").unwrap();
    shared.devices.get_mut(twin).unwrap().into_info().unwrap().address = there;
    let refusal = check(&shared, "net0").unwrap_err();
    assert!(refusal.starts_with("9 10: operation failed: cannot hot unplug interface device with multifunction PCI guest address: 0000:"), "{refusal}");
}

/// The monitor commands of an attach, and what goes when the device has gone.
fn commands(
    def: &Domain,
    device: &Device,
    res: &Resources,
    first: u32,
) -> (Vec<(&'static str, Value)>, Vec<&'static str>) {
    support::with_context(|caps, _| {
        let given = Given {
            caps,
            res,
            next_node: first,
        };
        let plan = plug(def, device, given).unwrap();
        let mut with = def.clone();
        add_device(&mut with.devices, device.clone()).unwrap();
        let parts = back_ends(&with, device, caps).unwrap();
        let removed = parts.iter().map(|part| part.removal().0).collect();
        (plan.steps.iter().map(Step::command).collect(), removed)
    })
}

#[test]
fn a_drive_is_known_by_its_name_when_it_gets_a_medium() {
    let def = guest(ROOM);
    for (kind, target, is_medium) in [
        ("cdrom", "<target dev='sdx' bus='scsi'/>", true),
        ("cdrom", "<target dev='sdx'/>", true),
        ("cdrom", "<target dev='sdy' bus='sata'/>", false),
        ("disk", "<target dev='sdx' bus='sata'/>", false),
    ] {
        let text = format!("<disk type='file' device='{kind}'><source file='/x'/>{target}</disk>");
        assert_eq!(hotplug::changes_medium(&def, &device(&text)), is_medium, "{text}");
    }
}

#[test]
fn a_console_keeps_the_port_that_it_names() {
    let def = guest("<console type='pty'><target type='virtio'/></console>");
    for (target, port) in [
        ("<target type='virtio'/>", 1),
        ("<target type='virtio' port='7'/>", 7),
    ] {
        let text = format!("<console type='pty'>{target}</console>");
        let Device::Console(console) = attached(&def, &text).unwrap().device else {
            panic!("{text}")
        };
        assert_eq!(console.target.unwrap().port, Some(port), "{text}");
    }
}

#[test]
fn whether_there_is_such_a_console_qemu_says() {
    let def = guest(&format!("{ROOM}<controller type='virtio-serial' index='0'/>"));
    for kind in ["sclp", "sclplm"] {
        let text = format!("<console type='pty'><target type='{kind}'/></console>");
        let console = attached(&def, &text).unwrap().device;
        let (told, _) = commands(&def, &console, &Resources::default(), 1);
        let device = told
            .into_iter()
            .find(|(name, _)| *name == "device_add")
            .unwrap()
            .1;
        assert_eq!(device["driver"], json!(format!("{kind}console")));
    }
}

#[test]
fn a_memory_module_that_is_stored_is_meant_as_it_is_written() {
    let module = |size: u32, address: &str| {
        let text = format!(
            "<memory model='dimm'><target><size>{size}</size><node>0</node></target>{address}</memory>"
        );
        device(&text)
    };
    let mut def = guest("");
    let placed = "<address type='dimm' slot='0'/>";
    add_device(&mut def.devices, module(128, placed)).unwrap();
    // table: the size and the address that are named, where, whether it is the module.
    for (size, address, side, is_meant) in [
        (128, "", Side::Stored, true),
        (128, placed, Side::Stored, true),
        (128, "<address type='dimm' slot='1'/>", Side::Stored, false),
        (
            128,
            "<address type='pci' domain='0' bus='0' slot='0' function='0'/>",
            Side::Stored,
            false,
        ),
        (1024, "", Side::Stored, false),
        (128, "", Side::Live, false),
    ] {
        let found = hotplug::find(&def, &module(size, address), side).is_ok();
        assert_eq!(found, is_meant, "{size} {address} {side:?}");
    }
}

#[test]
fn a_memory_module_is_not_stored_in_anothers_place() {
    let mut def = guest(ROOM);
    def.max_memory = Some(domxml::domain::MaxMemory {
        size: domxml::units::Kib(1 << 22),
        slots: Some(2),
    });
    let taken = def.devices.interfaces[0].info.address.clone();
    let mut module = device(
        "<memory model='virtio-pmem' access='shared'><source><path>/p</path></source><target><size>4096</size></target></memory>",
    );
    assert_eq!(hotplug::check(&def, &module, Side::Stored), Ok(()));
    module.as_mut().into_info().unwrap().address = taken;
    let refused = hotplug::check(&def, &module, Side::Stored).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Requested operation is not valid: Domain already contains a device with the same address"
    );
}

#[test]
fn usb_devices_of_a_known_document_get_ports_when_it_starts() {
    let mut def = guest("<controller type='usb' index='0' model='qemu-xhci'/>");
    add_device(
        &mut def.devices,
        device("<interface type='user'><model type='usb-net'/></interface>"),
    )
    .unwrap();
    let completed = support::define_as(
        &def.format(FormatFlags::INACTIVE | FormatFlags::SECURE),
        false,
        qemu_plan::address::Age::Known,
    );
    let mut known = Domain::parse(&completed.unwrap(), ParseFlags::INACTIVE).unwrap();
    assert_eq!(known.devices.interfaces[0].info.address, None);
    qemu_plan::address::connect_usb(&mut known.devices).unwrap();
    assert!(matches!(
        known.devices.interfaces[0].info.address,
        Some(Address::Usb(_))
    ));
}

#[test]
fn a_disk_is_plugged_in_with_the_commands_that_libvirt_gives() {
    let def = guest(ROOM);
    let text = disk(
        "vdb",
        "virtio",
        "<iotune><total_iops_sec>1000</total_iops_sec></iotune><alias name='ua-mine'/>",
    );
    let mut device = attached(&def, &text).unwrap().device;
    if let Device::Disk(disk) = &mut device {
        assert_eq!(block::number_disk(disk, 3), 4);
        disk.backing = Some(Box::default());
    }
    let (steps, removed) = commands(&def, &device, &Resources::default(), 3);
    let expected = [
        (
            "blockdev-add",
            json!({"driver": "file", "filename": "/vdb.qcow2", "node-name": "libvirt-3-storage", "auto-read-only": true, "discard": "unmap"}),
        ),
        (
            "blockdev-add",
            json!({"node-name": "libvirt-3-format", "read-only": false, "driver": "qcow2", "file": "libvirt-3-storage", "backing": null}),
        ),
    ];
    assert_eq!(steps[..2], expected);
    assert_eq!(steps[2].0, "device_add");
    assert_eq!(
        (&steps[2].1["drive"], &steps[2].1["id"]),
        (&json!("libvirt-3-format"), &json!("ua-mine"))
    );
    assert_eq!(steps[3].0, "block_set_io_throttle");
    assert_eq!(
        (&steps[3].1["id"], &steps[3].1["iops"], &steps[3].1["bps"]),
        (
            &json!("/machine/peripheral/ua-mine/virtio-backend"),
            &json!(1000),
            &json!(0)
        )
    );
    assert_eq!(removed, ["blockdev-del", "blockdev-del"]);
}

#[test]
fn an_interface_refers_to_descriptors_by_name() {
    let def = guest(ROOM);
    let text = "<interface type='bridge'><mac address='52:54:00:00:01:10'/><source bridge='br0'/>\
                <model type='virtio'/><driver name='qemu' queues='2'/></interface>";
    let device = attached(&def, text).unwrap().device;
    let alias = alias_of(device.as_ref());
    let named = |n: u8| FdRef::Name(format!("tapfd-{alias}{n}"));
    let mut res = Resources::default();
    let tap_fds = vec![named(0), named(1)];
    res.devices.insert(
        alias.clone(),
        DeviceResources {
            tap_fds,
            ..DeviceResources::default()
        },
    );
    let (steps, removed) = commands(&def, &device, &res, 1);
    let netdev =
        json!({"type": "tap", "fds": format!("tapfd-{alias}0:tapfd-{alias}1"), "id": format!("host{alias}")});
    assert_eq!(steps[0], ("netdev_add", netdev));
    assert_eq!(
        (steps[1].0, &steps[1].1["mq"], &steps[1].1["vectors"]),
        ("device_add", &json!(true), &json!(6))
    );
    assert_eq!(removed, ["netdev_del"]);
}
