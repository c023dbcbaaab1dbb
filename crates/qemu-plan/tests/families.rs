//! Families of devices that come to running guests and stored documents, and go: libvirt's answers, as recorded.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(dead_code, reason = "shared with other tests")]

mod support;

use domxml::devices::{Device, DeviceRef};
use domxml::{Domain, ParseFlags};
use qemu_plan::alias;
use qemu_plan::caps::Caps;
use qemu_plan::command::plug::{Given, plug};
use qemu_plan::command::{Purpose, Resources};
use qemu_plan::hotplug::{self, Placed, Side};
use serde_json::Value;

/// Where channels of the run have their sockets.
const CHANNELS: &str = "/run/libvirt/qemu/channel/1-g";

/// What a guest of the recording has.
const DEVICES: &str = "<controller type='usb' index='0' model='qemu-xhci' ports='8'/>
    <controller type='scsi' index='0' model='virtio-scsi'/><controller type='virtio-serial' index='0'/>
    <controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-to-pci-bridge'/><serial type='pty'><target type='isa-serial' port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='virtio'/>";

fn guest(more: &str) -> Domain {
    let text = format!(
        "<domain type='qemu'><name>g</name><maxMemory slots='8' unit='KiB'>4194304</maxMemory><memory>196608</memory>\
         <os><type machine='q35'>hvm</type></os><devices>{DEVICES}{more}</devices></domain>"
    );
    let defined = support::define_as(&text, false, qemu_plan::address::Age::New).unwrap();
    let mut def = Domain::parse(&defined, ParseFlags::INACTIVE).unwrap();
    alias::assign(&mut def.devices);
    def.devices.serials[0].chardev.source_mut().path = Some("/dev/pts/2".to_owned());
    def
}

fn told(error: &qemu_plan::Error) -> String {
    format!("{} {} {error}", error.code.number(), error.area.number())
}

/// What libvirt does for a live attach before it goes to QEMU.
fn placed(def: &Domain, text: &str) -> Result<Placed, String> {
    let device = Device::given(text).unwrap();
    support::with_context(|caps, ctx| {
        let mut device = hotplug::complete(def, device, caps, ctx)?;
        hotplug::give_path(&mut device, CHANNELS);
        hotplug::check(def, &device, Side::Live)?;
        hotplug::place(def, device, caps, ctx)
    })
    .map_err(|e| told(&e))
}

/// The monitor commands of a live attach, and the document with the device.
fn attach(def: &mut Domain, text: &str) -> Result<Vec<(String, Value)>, String> {
    let device = placed(def, text)?.device;
    let caps = support::with_context(|caps: &Caps, _| Ok::<_, qemu_plan::Error>(caps.clone())).unwrap();
    let res = Resources {
        purpose: Purpose::Plug,
        ..Resources::default()
    };
    let given = Given {
        caps: &caps,
        res: &res,
        next_node: 1,
    };
    let steps = plug(def, &device, given).map_err(|e| told(&e))?.steps;
    hotplug::enter(def, device).unwrap();
    let command = |step: &qemu_plan::command::plug::Step| {
        let (name, arguments) = step.command();
        (name.to_owned(), arguments)
    };
    Ok(steps.iter().map(command).collect())
}

/// Takes a device out of the document, if it can go; its alias.
fn detach(def: &mut Domain, text: &str, side: Side) -> Result<String, String> {
    let device = Device::parse(text, ParseFlags::NONE).unwrap();
    let place = hotplug::find(def, &device, side).map_err(|e| told(&e))?;
    hotplug::check_detach(def, place, side).map_err(|e| told(&e))?;
    let gone = hotplug::leave(def, place).unwrap();
    Ok(alias_of(gone.as_ref()))
}

fn alias_of(device: DeviceRef<'_>) -> String {
    let info = device.info();
    info.and_then(|info| info.alias.clone()).unwrap_or_default()
}

#[test]
fn a_device_comes_by_the_commands_that_libvirt_gives() {
    let mut def = guest("");
    // table: the device, how each command begins.
    for (text, commands) in [
        (
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
            &[
                r#"object-add {"qom-type":"rng-random","id":"objrng0","filename":"/dev/urandom"}"#,
                r#"device_add {"driver":"virtio-rng-pci","rng":"objrng0","id":"rng0","bus":"#,
            ][..],
        ),
        (
            "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
            &[
                r#"object-add {"qom-type":"memory-backend-ram","id":"memdimm0","size":134217728}"#,
                r#"device_add {"driver":"pc-dimm","node":0,"memdev":"memdimm0","id":"dimm0","slot":0}"#,
            ],
        ),
        (
            "<memory model='dimm'><target><size unit='KiB'>131073</size><node>0</node></target></memory>",
            &[
                r#"object-add {"qom-type":"memory-backend-ram","id":"memdimm1","size":135266304}"#,
                r#"device_add {"driver":"pc-dimm","node":0,"memdev":"memdimm1","id":"dimm1","slot":1}"#,
            ],
        ),
        (
            "<memory model='virtio-mem'><target><size unit='MiB'>256</size><node>0</node><block unit='MiB'>2</block>\
             <requested unit='MiB'>0</requested></target></memory>",
            &[
                r#"object-add {"qom-type":"memory-backend-ram","id":"memvirtiomem0","reserve":false,"size":268435456}"#,
                r#"device_add {"driver":"virtio-mem-pci","node":0,"block-size":2097152,"memdev":"memvirtiomem0","#,
            ],
        ),
        (
            "<input type='mouse' bus='usb'/>",
            &[r#"device_add {"driver":"usb-mouse","id":"input2","bus":"usb.0","port":"1"}"#],
        ),
        (
            "<input type='keyboard' bus='virtio'/>",
            &[r#"device_add {"driver":"virtio-keyboard-pci","id":"input3","bus":"#],
        ),
        (
            "<channel type='pty'><target type='virtio' name='org.x.4'/></channel>",
            &[
                r#"chardev-add {"id":"charchannel1","backend":{"type":"pty","data":{}}}"#,
                r#"device_add {"driver":"virtserialport","bus":"virtio-serial0.0","nr":2,"chardev":"charchannel1","id":"channel1","name":"org.x.4"}"#,
            ],
        ),
        (
            "<channel type='null'><target type='guestfwd' address='10.0.2.100' port='4600'/></channel>",
            &[
                r#"chardev-add {"id":"charchannel2","backend":{"type":"null","data":{}}}"#,
                r#"netdev_add {"type":"user","guestfwd":[{"str":"tcp:10.0.2.100:4600-chardev:charchannel2"}],"id":"channel2"}"#,
            ],
        ),
        (
            "<console type='pty'><target type='virtio'/></console>",
            &[
                r#"chardev-add {"id":"charconsole1","backend":{"type":"pty","data":{}}}"#,
                r#"device_add {"driver":"virtconsole","chardev":"charconsole1","id":"console1"}"#,
            ],
        ),
        (
            "<serial type='pty'><target type='usb-serial'/></serial>",
            &[
                r#"chardev-add {"id":"charserial1","backend":{"type":"pty","data":{}}}"#,
                r#"device_add {"driver":"usb-serial","chardev":"charserial1","id":"serial1","bus":"usb.0","port":"2"}"#,
            ],
        ),
        (
            "<redirdev bus='usb' type='unix'><source mode='bind' path='/tmp/rd.sock'/></redirdev>",
            &[
                r#"chardev-add {"id":"charredir0","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"/tmp/rd.sock"}},"server":true,"wait":false}}}"#,
                r#"device_add {"driver":"usb-redir","chardev":"charredir0","id":"redir0","bus":"usb.0","port":"3"}"#,
            ],
        ),
        (
            "<lease><lockspace>ls</lockspace><key>k1</key><target path='/l'/></lease>",
            &[],
        ),
    ] {
        let given = attach(&mut def, text).unwrap();
        let shown: Vec<_> = given
            .iter()
            .map(|(name, args)| format!("{name} {args}"))
            .collect();
        let fits = shown.len() == commands.len() && shown.iter().zip(commands).all(|(s, c)| s.starts_with(c));
        assert!(fits, "{text}: {shown:#?}");
    }
    // Total memory grew by 128 MiB, 129 MiB and 256 MiB.
    assert_eq!(def.memory.unwrap().size.0, 196_608 + 131_072 + 132_096 + 262_144);
}

#[test]
fn what_comes_can_go_and_the_document_is_as_it_was() {
    let mut def = guest("");
    let before = def.clone();
    for (text, meant, alias) in [
        (
            "<rng model='virtio'><rate bytes='1234' period='2000'/><backend model='builtin'/></rng>",
            "",
            "rng0",
        ),
        (
            "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
            "",
            "dimm0",
        ),
        ("<input type='tablet' bus='usb'/>", "", "input2"),
        (
            "<channel type='unix'><source mode='bind' path='/tmp/ch'/><target type='virtio' name='org.x.1'/></channel>",
            "",
            "channel1",
        ),
        (
            "<channel type='unix'><target type='virtio' name='org.x.2'/></channel>",
            "<channel type='unix'><source mode='bind' path='/run/libvirt/qemu/channel/1-g/org.x.2'/>\
             <target type='virtio' name='org.x.2'/></channel>",
            "channel1",
        ),
        (
            "<console type='pty'><target type='virtio'/></console>",
            "<console type='pty'><target type='virtio' port='1'/></console>",
            "console1",
        ),
        (
            "<redirdev bus='usb' type='unix'><source mode='bind' path='/tmp/rd'/></redirdev>",
            "",
            "redir0",
        ),
        (
            "<shmem name='s'><model type='ivshmem-doorbell'/><server path='/s'/></shmem>",
            "<shmem name='s'><model type='ivshmem-doorbell'/><server path='/s'/><msi ioeventfd='on'/></shmem>",
            "shmem0",
        ),
        (
            "<lease><lockspace>ls</lockspace><key>k1</key><target path='/l'/></lease>",
            "",
            "",
        ),
    ] {
        attach(&mut def, text).unwrap();
        let meant = if meant.is_empty() { text } else { meant };
        assert_eq!(
            detach(&mut def, meant, Side::Live).as_deref(),
            Ok(alias),
            "{text}"
        );
        assert_eq!(def, before, "{text}");
    }
}

#[test]
fn the_first_serial_port_is_the_first_console_too() {
    let mut def = guest("");
    def.devices.serials.clear();
    def.devices.consoles.clear();
    attach(
        &mut def,
        "<serial type='pty'><target type='usb-serial'/></serial>",
    )
    .unwrap();
    let console = &def.devices.consoles[0];
    assert_eq!(console.info, def.devices.serials[0].info);
    let serial = "<serial type='pty'><target type='usb-serial' port='0'/></serial>";
    detach(&mut def, serial, Side::Live).unwrap();
    assert!(def.devices.consoles.is_empty());
}

#[test]
fn what_a_running_guest_does_not_take_is_refused_in_libvirts_words() {
    let mut def = guest("");
    attach(
        &mut def,
        "<channel type='unix'><target type='virtio' name='org.x.2'/></channel>",
    )
    .unwrap();
    attach(
        &mut def,
        "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
    )
    .unwrap();
    // table: the device, the refusal.
    for (text, refusal) in [
        (
            "<memory model='dimm'><target><size unit='MiB'>128</size><node>7</node></target></memory>",
            "35 20 can't add memory backend for guest node '7' as the guest has only '1' NUMA nodes configured",
        ),
        (
            "<memory model='dimm'><target><size unit='MiB'>8192</size><node>0</node></target></memory>",
            "67 20 unsupported configuration: Attaching memory device with size '8388608' would exceed domain's maxMemory config size '4194304'",
        ),
        (
            "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target><address type='dimm' slot='0'/></memory>",
            "67 20 unsupported configuration: memory device slot '0' is already being used by another memory device",
        ),
        (
            "<watchdog model='i6300esb' action='poweroff'/>",
            "67 10 unsupported configuration: watchdogs with different actions are not supported with this QEMU binary",
        ),
        (
            "<watchdog model='itco' action='reset'/>",
            "84 10 Operation not supported: hotplug of watchdog model 'itco' is not supported",
        ),
        (
            "<input type='mouse' bus='ps2'/>",
            "84 10 Operation not supported: input device on bus 'ps2' cannot be hot plugged.",
        ),
        (
            "<channel type='unix'><target type='virtio' name='org.x.2'/></channel>",
            "55 10 Requested operation is not valid: chardev already exists",
        ),
        (
            "<channel type='pty'><target type='virtio' name='org.x.3'/><address type='virtio-serial' controller='0' bus='0' port='1'/></channel>",
            "27 20 XML error: virtio serial port 1 on controller 0 is already occupied",
        ),
        (
            "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>",
            "67 10 unsupported configuration: chardev 'spicevmc' not supported without spice graphics",
        ),
        (
            "<filesystem type='mount'><source dir='/img'/><target dir='t9'/></filesystem>",
            "84 10 Operation not supported: only virtiofs filesystems can be hotplugged",
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/img'/><target dir='tv'/></filesystem>",
            "67 10 unsupported configuration: 'virtiofs' requires shared memory",
        ),
        (
            "<hostdev mode='capabilities' type='misc'><source><char>/dev/null</char></source></hostdev>",
            "67 10 unsupported configuration: hostdev mode 'capabilities' is not supported in qemu",
        ),
        (
            "<controller type='pci' model='pcie-root-port'/>",
            "1 10 internal error: Required option 'modelName' is not set for PCI controller with index '-1', model 'pcie-root-port' and modelName 'none'",
        ),
        (
            "<video><model type='virtio'/></video>",
            "84 10 Operation not supported: live attach of device 'video' is not supported",
        ),
        (
            "<memballoon model='virtio'/>",
            "84 10 Operation not supported: live attach of device 'memballoon' is not supported",
        ),
        (
            "<iommu model='intel'/>",
            "84 10 Operation not supported: live attach of device 'iommu' is not supported",
        ),
        (
            "<nvram/>",
            "67 10 unsupported configuration: nvram device is only supported for PPC64",
        ),
        (
            "<panic model='isa'/>",
            "84 10 Operation not supported: live attach of device 'panic' is not supported",
        ),
        (
            "<pstore backend='acpi-erst'><path>/tmp/ps</path><size unit='KiB'>64</size></pstore>",
            "84 10 Operation not supported: live attach of device 'pstore' is not supported",
        ),
        (
            "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
            "84 10 Operation not supported: live attach of device 'tpm' is not supported",
        ),
    ] {
        assert_eq!(placed(&def, text).err().as_deref(), Some(refusal), "{text}");
    }
    def.devices
        .controllers
        .retain(|c| c.kind != domxml::devices::ControllerKind::VirtioSerial);
    let channel = "<channel type='pty'><target type='virtio' name='org.x.9'/></channel>";
    def.devices.channels.clear();
    assert_eq!(
        placed(&def, channel).unwrap_err(),
        "1 20 internal error: no virtio-serial controllers are available"
    );
}

#[test]
fn what_a_running_guest_does_not_have_or_keeps_is_told_in_libvirts_words() {
    let def = guest("");
    for (text, refusal) in [
        (
            "<rng model='virtio'><backend model='builtin'/></rng>",
            "99 10 device not found: model 'random' RNG device not present in domain configuration",
        ),
        (
            "<memory model='dimm'><target><size unit='MiB'>512</size><node>0</node></target></memory>",
            "99 10 device not found: model 'dimm' memory device not present in the domain configuration",
        ),
        (
            "<watchdog model='i6300esb' action='poweroff'/>",
            "55 10 Requested operation is not valid: no matching watchdog was found",
        ),
        (
            "<watchdog model='itco' action='reset'/>",
            "84 10 Operation not supported: hot unplug of watchdog of model itco is not supported",
        ),
        (
            "<input type='mouse' bus='ps2'/>",
            "84 10 Operation not supported: input device on bus 'ps2' cannot be detached",
        ),
        (
            "<input type='mouse' bus='virtio'/>",
            "99 10 device not found: matching input device not found",
        ),
        (
            "<channel type='unix'><target type='virtio' name='org.zzz'/></channel>",
            "99 10 device not found: chr type 'channel' device not present in domain configuration",
        ),
        (
            "<serial type='pty'><target type='isa-serial' port='0'/></serial>",
            "99 10 device not found: chr type 'serial' device not present in domain configuration",
        ),
        (
            "<redirdev bus='usb' type='tcp'><source mode='connect' host='127.0.0.1' service='2'/></redirdev>",
            "55 10 Requested operation is not valid: no matching redirdev was not found",
        ),
        (
            "<vsock model='virtio'><cid auto='no' address='44'/></vsock>",
            "99 10 device not found: matching vsock device not found",
        ),
        (
            "<lease><lockspace>ls</lockspace><key>k2</key><target path='/l'/></lease>",
            "8 10 invalid argument: Lease k2 in lockspace ls does not exist",
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/img'/><target dir='tv'/></filesystem>",
            "99 10 device not found: matching filesystem not found",
        ),
        (
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='0x77' slot='0' function='0'/></source></hostdev>",
            "99 10 device not found: host pci device 0000:77:00.0 not found",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>",
            "99 10 device not found: host usb device vendor=0x1234 product=0xbeef not found",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='9'/></source></hostdev>",
            "99 10 device not found: host usb device 001.009 not found",
        ),
        (
            "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host9'/><address bus='0' target='0' unit='0'/></source></hostdev>",
            "99 10 device not found: host scsi device scsi_host9:0:0.0 not found",
        ),
        (
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='aaaaaaaa-1111-2222-3333-444444444444'/></source></hostdev>",
            "99 10 device not found: mediated device 'aaaaaaaa-1111-2222-3333-444444444444' not found",
        ),
        (
            "<sound model='ich9'/>",
            "84 10 Operation not supported: live detach of device 'sound' is not supported",
        ),
        (
            "<memballoon model='virtio'/>",
            "84 10 Operation not supported: live detach of device 'memballoon' is not supported",
        ),
        (
            "<controller type='virtio-serial' index='0'/>",
            "84 10 Operation not supported: 'virtio-serial' controller cannot be hot unplugged.",
        ),
    ] {
        let answer = detach(&mut def.clone(), text, Side::Live);
        assert_eq!(answer.err().as_deref(), Some(refusal), "{text}");
    }
}

#[test]
fn the_stored_document_has_rules_of_its_own() {
    let def = guest(
        "<watchdog model='i6300esb' action='reset'/><shmem name='cshm'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>
         <vsock model='virtio'><cid auto='yes'/></vsock><lease><lockspace>ls</lockspace><key>k1</key><target path='/l'/></lease>
         <filesystem type='mount'><source dir='/tmp'/><target dir='t9'/></filesystem><iommu model='intel'/>
         <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>
         <channel type='pty'><target type='virtio' name='org.c.1'/></channel>",
    );
    let attach = |text: &str| {
        let device = Device::given(text).unwrap();
        support::with_context(|caps, ctx| {
            let device = hotplug::complete(&def, device, caps, ctx)?;
            hotplug::check(&def, &device, Side::Stored)
        })
        .map_err(|e| told(&e))
    };
    for (text, refusal) in [
        (
            "<watchdog model='i6300esb' action='reset'/>",
            "55 10 Requested operation is not valid: device is already in the domain configuration",
        ),
        (
            "<shmem name='cshm'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>",
            "55 10 Requested operation is not valid: device is already in the domain configuration",
        ),
        (
            "<vsock model='virtio'><cid auto='yes'/></vsock>",
            "55 10 Requested operation is not valid: domain already has a vsock device",
        ),
        (
            "<lease><lockspace>ls</lockspace><key>k1</key><target path='/x'/></lease>",
            "55 10 Requested operation is not valid: Lease k1 in lockspace ls already exists",
        ),
        (
            "<filesystem type='mount'><source dir='/tmp'/><target dir='t9'/></filesystem>",
            "55 10 Requested operation is not valid: Target already exists",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>",
            "55 10 Requested operation is not valid: device is already in the domain configuration",
        ),
        (
            "<iommu model='intel'/>",
            "55 10 Requested operation is not valid: domain already has an iommu device",
        ),
        (
            "<channel type='pty'><target type='virtio' name='org.c.1'/></channel>",
            "55 10 Requested operation is not valid: chardev already exists",
        ),
        (
            "<memballoon model='virtio'/>",
            "84 10 Operation not supported: persistent attach of device 'memballoon' is not supported",
        ),
    ] {
        assert_eq!(attach(text).err().as_deref(), Some(refusal), "{text}");
    }
    for (text, refusal) in [
        (
            "<serial type='pty'/>",
            "8 10 invalid argument: device not present in domain configuration",
        ),
        (
            "<console type='pty'><target type='virtio'/></console>",
            "8 10 invalid argument: device not present in domain configuration",
        ),
        (
            "<controller type='pci' model='pcie-root-port'/>",
            "99 10 device not found: device not present in domain configuration",
        ),
        (
            "<lease><lockspace>ls</lockspace><key>k2</key><target path='/x'/></lease>",
            "99 10 device not found: Lease k2 in lockspace ls does not exist",
        ),
        (
            "<graphics type='vnc'/>",
            "84 10 Operation not supported: persistent detach of device 'graphics' is not supported",
        ),
    ] {
        let answer = detach(&mut def.clone(), text, Side::Stored);
        assert_eq!(answer.err().as_deref(), Some(refusal), "{text}");
    }
    for text in [
        "<watchdog model='i6300esb' action='reset'/>",
        "<vsock model='virtio'><cid auto='yes'/></vsock>",
        "<iommu model='intel'/>",
        "<filesystem><target dir='t9'/></filesystem>",
        "<channel type='pty'><target type='virtio' name='org.c.1'/></channel>",
    ] {
        detach(&mut def.clone(), text, Side::Stored).unwrap();
    }
}
