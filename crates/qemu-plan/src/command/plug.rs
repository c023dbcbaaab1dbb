//! Plugging a device into a running guest: the same parts as on the command line, as monitor
//! commands in the order in which they must be given. Their reverse takes the device out again.
//!
//! Called by attach, by detach, and by whatever has to find out what an attach that was cut off left in QEMU: a [`Part`]
//! is what a step makes, by the name that QEMU knows it by.

use domxml::Domain;
use domxml::devices::{
    ChannelTargetKind, Device, DeviceRef, Disk, InputKind, IoTune, Source, WatchdogAction,
};
use serde_json::{Value, json};

use super::context::Context;
use super::line::{Arg, CommandLine, Switch};
use super::{
    Resources, audio, boot, controller, disk, filesystem, hostdev, input, memory, net, serial, small, tpm,
};
use crate::block::{SecretNeed, Sources, qom_name, set_of, sources};
use crate::caps::Caps;
use crate::props::{Keyval, Props};
use crate::resources::FdRef;
use crate::{Error, Result};

/// One monitor command.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// `object-add`.
    Object(Props),
    /// `blockdev-add`.
    Blockdev(Props),
    /// `chardev-add`: id and back end.
    Chardev(String, Value),
    /// `netdev_add`.
    Netdev(Props),
    /// `device_add`.
    Device(Props),
    /// `add-fd`: number of the set, descriptor to pass along, what it is.
    AddFd(u32, i32, String),
    /// `block_set_io_throttle`: what the device may transfer, once it is there.
    Throttle(Props),
    /// `set-action`: what the guest's first watchdog does.
    WatchdogAction(WatchdogAction),
}

/// What a step makes in QEMU, and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// An object.
    Object(String),
    /// A block node.
    Node(String),
    /// A character device's back end.
    Chardev(String),
    /// An interface's back end.
    Netdev(String),
    /// A device; it goes when the guest lets it.
    Device(String),
    /// A set of descriptors.
    FdSet(u32),
}

/// What plugging a device takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Commands, in order.
    pub steps: Vec<Step>,
    /// Secrets that must be in [`Resources::secrets`] for the steps to be complete.
    pub secrets: Vec<SecretNeed>,
    /// Number of the next block node.
    pub next_node: u32,
    /// Number of the next set of descriptors.
    pub next_fdset: u32,
}

/// What plugging in `device` takes. The guest `def` must have all that the device needs (its
/// controllers), the device itself its alias and address. Block nodes are numbered from `next_node`,
/// unless the source has an index already.
///
/// # Errors
/// When QEMU has no such device, or devices of its family cannot be plugged in.
pub fn plug(def: &Domain, device: &Device, given: Given<'_>) -> Result<Plan> {
    let mut boot = boot::order(def);
    if let Some(info) = device.as_ref().info() {
        let order = info.boot.as_ref().map(|boot| boot.order);
        boot.extend(info.alias.clone().zip(order));
    }
    let cx = Context {
        def,
        caps: given.caps,
        res: given.res,
        boot: &boot,
    };
    let mut sources = Sources::new(given.res, given.next_node);
    let mut line = CommandLine {
        overrides: def.qemu.overrides.clone().unwrap_or_default(),
        next_fdset: given.res.first_fdset,
        ..CommandLine::default()
    };
    build(cx, device.as_ref(), &mut sources, &mut line)?;
    let next_fdset = line.next_fdset;
    sources.needs.append(&mut line.needs);
    let steps = line.switches.into_iter().map(step);
    let mut steps = steps.collect::<Result<Vec<_>>>()?;
    // A running QEMU wants to know what a device refers to before the device.
    steps.sort_by_key(|step| matches!(step, Step::Device(_)));
    if let Device::Watchdog(watchdog) = device
        && def.devices.watchdogs.is_empty()
    {
        let action = small::watchdog_action(watchdog);
        steps.insert(0, Step::WatchdogAction(action));
    }
    if let Device::Disk(disk) = device {
        steps.extend(throttle(disk).map(Step::Throttle));
    }
    Ok(Plan {
        steps,
        secrets: sources.needs,
        next_node: sources.next,
        next_fdset,
    })
}

/// What a device of a running guest has in QEMU besides itself, in the order in which it goes once the device has.
///
/// # Errors
/// As [`plug`].
pub fn back_ends(def: &Domain, device: &Device, caps: &Caps) -> Result<Vec<Part>> {
    let mut res = Resources::default();
    let info = device.as_ref().info();
    if let Some(alias) = info.and_then(|info| info.alias.clone()) {
        // What it was made from does not matter any more: names do.
        let netdev = Some(Props::new());
        let given = crate::resources::DeviceResources {
            netdev,
            vhost_fds: vec![FdRef::Number(-1)],
            fd: matches!(device, Device::Interface(_)).then_some(-1),
            socket: Some(String::new()),
            ..Default::default()
        };
        res.devices.insert(alias, given);
    }
    if let Device::Disk(disk) = device {
        for source in sources(disk) {
            let names = source
                .private_data
                .as_ref()
                .and_then(|private| private.nodenames.as_ref());
            let node = names
                .and_then(|names| names.of("storage"))
                .filter(|_| set_of(source).is_some());
            let given = crate::resources::DeviceResources {
                descriptors: vec![-1],
                ..Default::default()
            };
            res.devices.extend(node.map(|node| (node.to_owned(), given)));
        }
    }
    let given = Given {
        caps,
        res: &res,
        next_node: 1,
    };
    let plan = plug(def, device, given)?;
    let parts = plan.steps.iter().rev().filter_map(Step::makes);
    // Sets of disks have their numbers in the document; those of others are found by their names.
    let is_disk = matches!(device, Device::Disk(_));
    let is_back = |part: &Part| match part {
        Part::Device(_) => false,
        Part::FdSet(_) => is_disk,
        _ => true,
    };
    let mut parts: Vec<_> = parts.filter(is_back).collect();
    parts.dedup();
    if let Device::Disk(disk) = device {
        sources(disk)
            .into_iter()
            .for_each(|source| keep_known(&mut parts, source));
    }
    Ok(parts)
}

/// Nodes that a source was given and that it would not be given now stay above the one that they stand on.
fn keep_known(parts: &mut Vec<Part>, source: &Source) {
    let private = source.private_data.as_ref();
    let Some(names) = private.and_then(|private| private.nodenames.as_ref()) else {
        return;
    };
    let node = |kind| names.of(kind).map(|name| Part::Node(name.to_owned()));
    let Some(at) = node("storage").and_then(|below| parts.iter().position(|part| *part == below)) else {
        return;
    };
    for known in [node("slice-storage"), node("format")].into_iter().flatten() {
        if !parts.contains(&known) {
            parts.insert(at, known);
        }
    }
}

/// Whether the guest sees a device, and so is asked to let it go.
pub fn has_front_end(device: DeviceRef<'_>) -> bool {
    match device {
        DeviceRef::Lease(_) => false,
        DeviceRef::Input(input) => input.kind != InputKind::Evdev,
        DeviceRef::Channel(channel) => {
            channel.target.as_ref().and_then(|target| target.kind) != Some(ChannelTargetKind::Guestfwd)
        }
        _ => true,
    }
}

/// Arguments of `block_set_io_throttle`; none if the disk has no limits.
fn throttle(disk: &Disk) -> Option<Props> {
    let tune = disk.iotune.as_ref().filter(|tune| **tune != IoTune::default())?;
    Some(limits(qom_name(disk)?, tune))
}

/// Arguments of `block_set_io_throttle` for the disk of a name.
pub fn limits(id: String, tune: &IoTune) -> Props {
    // QEMU takes a command byte by byte: what may be left out is, where it says nothing.
    let always = [
        ("bps", tune.total_bytes_sec),
        ("bps_rd", tune.read_bytes_sec),
        ("bps_wr", tune.write_bytes_sec),
        ("iops", tune.total_iops_sec),
        ("iops_rd", tune.read_iops_sec),
        ("iops_wr", tune.write_iops_sec),
    ];
    let bursts = [
        ("bps_max", tune.total_bytes_sec_max),
        ("bps_rd_max", tune.read_bytes_sec_max),
        ("bps_wr_max", tune.write_bytes_sec_max),
        ("iops_max", tune.total_iops_sec_max),
        ("iops_rd_max", tune.read_iops_sec_max),
        ("iops_wr_max", tune.write_iops_sec_max),
        ("iops_size", tune.size_iops_sec),
    ];
    let lengths = [
        ("bps_max_length", tune.total_bytes_sec_max_length),
        ("bps_rd_max_length", tune.read_bytes_sec_max_length),
        ("bps_wr_max_length", tune.write_bytes_sec_max_length),
        ("iops_max_length", tune.total_iops_sec_max_length),
        ("iops_rd_max_length", tune.read_iops_sec_max_length),
        ("iops_wr_max_length", tune.write_iops_sec_max_length),
    ];
    let mut props = Props::new().with("id", id);
    for (name, value) in always {
        props.set(name, value.unwrap_or(0));
    }
    props.opt("group", tune.group_name.clone());
    for (name, value) in bursts.into_iter().chain(lengths) {
        props.opt(name, value.filter(|value| *value > 0));
    }
    props
}

/// What [`plug`] needs besides guest and device.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// What the guest's QEMU can do.
    pub caps: &'a Caps,
    /// What the world gives.
    pub res: &'a Resources,
    /// Number of the first block node that is free.
    pub next_node: u32,
}

fn build(
    cx: Context<'_>,
    device: DeviceRef<'_>,
    sources: &mut Sources<'_>,
    line: &mut CommandLine,
) -> Result<()> {
    match device {
        DeviceRef::Disk(disk) => {
            let image = sources.disk(disk)?;
            disk::build(cx, disk, image.as_ref(), line)
        }
        DeviceRef::Controller(controller) => {
            controller::props(cx, controller)?
                .into_iter()
                .for_each(|props| line.device(props));
            Ok(())
        }
        DeviceRef::Filesystem(fs) => filesystem::build(cx, fs, line),
        DeviceRef::Interface(net) => {
            hostdev::interface_props(cx, net)?
                .into_iter()
                .for_each(|props| line.device(props));
            net::build(cx, net, line)
        }
        DeviceRef::Smartcard(card) => serial::build_smartcard(cx, card, line),
        DeviceRef::Serial(port) => serial::build_serial(cx, port, line),
        DeviceRef::Parallel(port) => serial::build_parallel(cx, port, line),
        DeviceRef::Channel(channel) => serial::build_channel(cx, channel, line),
        DeviceRef::Console(console) => serial::build_console(cx, console, line),
        DeviceRef::Redirdev(device) => serial::build_redirdev(cx, device, line),
        DeviceRef::Input(input) => input::build(cx, input, line),
        DeviceRef::Sound(sound) => audio::build_sound(cx, sound, line),
        DeviceRef::Hostdev(device) => hostdev::build(cx, device, sources, line),
        DeviceRef::Watchdog(watchdog) => {
            small::watchdog_props(cx, watchdog)?
                .into_iter()
                .for_each(|props| line.device(props));
            Ok(())
        }
        DeviceRef::Rng(rng) => small::build_rng(cx, rng, line),
        DeviceRef::Shmem(shmem) => small::build_shmem(cx, shmem, line),
        DeviceRef::Memory(memory) => memory::build_module(cx, memory, line),
        DeviceRef::Vsock(vsock) => {
            line.device(small::vsock_props(cx, vsock)?);
            Ok(())
        }
        DeviceRef::Tpm(tpm) => tpm::build(cx, tpm, line),
        DeviceRef::Crypto(crypto) => small::build_crypto(cx, crypto, line),
        // A lock manager has it.
        DeviceRef::Lease(_) => Ok(()),
        other => Err(Error::unsupported(format!(
            "live attach of device '{}' is not supported",
            other.family().name()
        ))),
    }
}

fn step(switch: Switch) -> Result<Step> {
    match (switch.name.as_str(), switch.value) {
        ("-object", Arg::Json(props)) => Ok(Step::Object(props)),
        ("-blockdev", Arg::Json(props)) => Ok(Step::Blockdev(props)),
        ("-netdev", Arg::Json(props)) => Ok(Step::Netdev(props)),
        ("-device", Arg::Json(props)) => Ok(Step::Device(props)),
        ("-chardev", Arg::List(list)) => Ok(Step::Chardev(
            list.get("id").unwrap_or_default().to_owned(),
            chardev_backend(&list),
        )),
        ("-add-fd", Arg::List(list)) => {
            let number = |key: &str| {
                list.get(key)
                    .and_then(|value| value.parse::<i32>().ok())
                    .unwrap_or_default()
            };
            let set = u32::try_from(number("set")).unwrap_or_default();
            Ok(Step::AddFd(
                set,
                number("fd"),
                list.get("opaque").unwrap_or_default().to_owned(),
            ))
        }
        (name, _) => Err(Error::unsupported(format!(
            "QEMU's {name} cannot be given to a running guest"
        ))),
    }
}

impl Step {
    /// The monitor command and its arguments.
    pub fn command(&self) -> (&'static str, Value) {
        match self {
            Self::Object(props) => ("object-add", props.clone().into_value()),
            Self::Blockdev(props) => ("blockdev-add", props.clone().into_value()),
            Self::Chardev(id, backend) => ("chardev-add", json!({"id": id, "backend": backend})),
            Self::Netdev(props) => ("netdev_add", props.clone().into_value()),
            Self::Device(props) => ("device_add", props.clone().into_value()),
            Self::AddFd(set, _, opaque) => ("add-fd", json!({"fdset-id": set, "opaque": opaque})),
            Self::Throttle(props) => ("block_set_io_throttle", props.clone().into_value()),
            Self::WatchdogAction(action) => ("set-action", json!({"watchdog": action.as_str()})),
        }
    }

    /// What it makes.
    pub fn makes(&self) -> Option<Part> {
        let name = |props: &Props, key: &str| {
            let name = props.get(key).and_then(Value::as_str);
            name.unwrap_or_default().to_owned()
        };
        Some(match self {
            Self::Object(props) => Part::Object(name(props, "id")),
            Self::Blockdev(props) => Part::Node(name(props, "node-name")),
            Self::Chardev(id, _) => Part::Chardev(id.clone()),
            Self::Netdev(props) => Part::Netdev(name(props, "id")),
            Self::Device(props) => Part::Device(name(props, "id")),
            Self::AddFd(set, ..) => Part::FdSet(*set),
            Self::Throttle(_) | Self::WatchdogAction(_) => return None,
        })
    }
}

impl Part {
    /// The monitor command that takes it away, and its arguments.
    pub fn removal(&self) -> (&'static str, Value) {
        match self {
            Self::Object(id) => ("object-del", json!({"id": id})),
            Self::Node(name) => ("blockdev-del", json!({"node-name": name})),
            Self::Chardev(id) => ("chardev-remove", json!({"id": id})),
            Self::Netdev(id) => ("netdev_del", json!({"id": id})),
            Self::Device(id) => ("device_del", json!({"id": id})),
            Self::FdSet(set) => ("remove-fd", json!({"fdset-id": set})),
        }
    }
}

/// A `-chardev` list as the back end that `chardev-add` takes.
fn chardev_backend(list: &Keyval) -> Value {
    let text = |key: &str| list.get(key).unwrap_or_default();
    let mut data = match list.kind() {
        "socket" => socket(list),
        "udp" => json!({
            "remote": inet(text("host"), text("port")),
            "local": inet(text("localaddr"), text("localport")),
        }),
        "file" => {
            let mut data = Props::new().with("out", text("path"));
            data.opt("append", switch(list, "append"));
            data.into_value()
        }
        "serial" | "parallel" | "pipe" => json!({"device": text("path")}),
        "spicevmc" => json!({"type": text("name")}),
        "spiceport" => json!({"fqdn": text("name")}),
        "dbus" => json!({"name": text("name")}),
        "qemu-vdagent" => {
            let mut data = Props::new();
            data.opt("clipboard", switch(list, "clipboard"))
                .opt("mouse", switch(list, "mouse"));
            data.into_value()
        }
        _ => json!({}),
    };
    if let Some(file) = list.get("logfile") {
        data["logfile"] = file.into();
        if let Some(append) = switch(list, "logappend") {
            data["logappend"] = append.into();
        }
    }
    json!({"type": list.kind(), "data": data})
}

fn switch(list: &Keyval, key: &str) -> Option<bool> {
    list.get(key).map(|value| value == "on")
}

fn inet(host: &str, port: &str) -> Value {
    json!({"type": "inet", "data": {"host": host, "port": port}})
}

fn socket(list: &Keyval) -> Value {
    let address = match (list.get("path"), list.get("fd")) {
        (Some(path), _) => json!({"type": "unix", "data": {"path": path}}),
        (None, Some(fd)) => json!({"type": "fd", "data": {"str": fd}}),
        (None, None) => inet(
            list.get("host").unwrap_or_default(),
            list.get("port").unwrap_or_default(),
        ),
    };
    // The monitor's default is to listen; the command line's is to connect.
    let server = switch(list, "server").unwrap_or_default();
    let telnet = match list.get("host") {
        Some(_) => Some(switch(list, "telnet").unwrap_or_default()),
        None => switch(list, "telnet"),
    };
    let mut data = Props::new().with("addr", address);
    data.opt("telnet", telnet)
        .set("server", server)
        .opt("wait", switch(list, "wait"))
        .opt("tls-creds", list.get("tls-creds"))
        .opt(
            "reconnect-ms",
            list.get("reconnect-ms")
                .and_then(|value| value.parse::<u64>().ok()),
        )
        .opt(
            "reconnect",
            list.get("reconnect").and_then(|value| value.parse::<u64>().ok()),
        );
    data.into_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chardev_list_becomes_a_back_end() {
        let list = Keyval::implied("socket")
            .with("id", "charx")
            .with("path", "/a")
            .with("server", "on")
            .with("wait", "off");
        let backend = chardev_backend(&list);
        let expected = json!({"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": "/a"}}, "server": true, "wait": false,
        }});
        assert_eq!(backend, expected);
        let pty = chardev_backend(&Keyval::implied("pty").with("id", "charx"));
        assert_eq!(pty, json!({"type": "pty", "data": {}}));
    }

    #[test]
    fn each_step_has_its_reverse() {
        let props = Props::driver("x").with("id", "a").with("node-name", "n");
        let commands = [
            (Step::Object(props.clone()), "object-add", "object-del"),
            (Step::Blockdev(props.clone()), "blockdev-add", "blockdev-del"),
            (Step::Netdev(props.clone()), "netdev_add", "netdev_del"),
            (Step::Device(props), "device_add", "device_del"),
            (
                Step::Chardev("c".into(), Value::Null),
                "chardev-add",
                "chardev-remove",
            ),
            (Step::AddFd(1, 3, String::new()), "add-fd", "remove-fd"),
        ];
        for (step, forth, back) in commands {
            assert_eq!(
                (step.command().0, step.makes().unwrap().removal().0),
                (forth, back)
            );
        }
    }
}
