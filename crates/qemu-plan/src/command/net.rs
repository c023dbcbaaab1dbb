//! `<interface>`: the host's side (`-netdev`) and the card the guest sees.

use domxml::devices::common::{OnOff, TeamingKind, VirtioModel};
use domxml::devices::interface::{
    Interface, InterfaceDriver, InterfaceKind, InterfaceSource, NetBackendKind, TxMode,
};
use serde_json::{Value, json};

use super::address::{self, Virtio};
use super::chardev;
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::caps::Flag;
use crate::props::{Keyval, Props};
use crate::resources::{DeviceResources, FdRef};
use crate::{Error, Result};

/// Placeholder for the first TAP of a native conversion, in which nothing is opened.
const FIRST_NATIVE_FD: i32 = 30;

/// Appends an interface. One that is a host device is built with the host devices.
///
/// # Errors
/// When QEMU has no such interface, or its descriptors were not prepared.
pub fn build(cx: Context<'_>, net: &Interface, line: &mut CommandLine) -> Result<()> {
    if kind(net) == InterfaceKind::Hostdev {
        return Ok(());
    }
    let netdev = netdev(cx, net, line)?;
    line.push("-netdev", netdev);
    line.device(props(cx, net)?);
    Ok(())
}

/// What the interface is plugged into.
pub fn kind(net: &Interface) -> InterfaceKind {
    net.actual.as_ref().map_or(net.kind, |actual| actual.kind)
}

/// Properties of `-netdev`; appends what it needs before it.
///
/// # Errors
/// When QEMU has no such back end, or its descriptors were not prepared.
pub fn netdev(cx: Context<'_>, net: &Interface, line: &mut CommandLine) -> Result<Props> {
    let id = alias(&net.info)?;
    let given = cx.res.device(id);
    let source = net.source.clone().unwrap_or_default();
    let props = match (&given.netdev, kind(net)) {
        (Some(netdev), _) => netdev.clone(),
        (None, InterfaceKind::User) => user(cx, net, &given)?,
        (
            None,
            InterfaceKind::Ethernet | InterfaceKind::Network | InterfaceKind::Bridge | InterfaceKind::Direct,
        ) => tap(cx, net, &given)?,
        (None, InterfaceKind::Vhostuser) => vhost_user(cx, net, line)?,
        (None, InterfaceKind::Vdpa) => vdpa(net, &given, line)?,
        (None, InterfaceKind::Client) => socket("connect", endpoint(&source)),
        (None, InterfaceKind::Server) => socket("listen", endpoint(&source)),
        (None, InterfaceKind::Mcast) => socket("mcast", endpoint(&source)),
        (None, InterfaceKind::Udp) => {
            let local = source.local.clone().unwrap_or_default();
            let near = format!(
                "{}:{}",
                local.address.unwrap_or_default(),
                local.port.unwrap_or_default()
            );
            socket("udp", endpoint(&source)).with("localaddr", near)
        }
        (None, other) => {
            return Err(Error::unsupported(format!(
                "unsupported interface type '{}'",
                other.as_str()
            )));
        }
    };
    Ok(props.with("id", format!("host{id}")))
}

fn socket(key: &str, endpoint: String) -> Props {
    Props::new().with("type", "socket").with(key, endpoint)
}

fn endpoint(source: &InterfaceSource) -> String {
    let address = source.address.as_deref().unwrap_or_default();
    format!("{address}:{}", source.port.unwrap_or_default())
}

fn tap(cx: Context<'_>, net: &Interface, given: &DeviceResources) -> Result<Props> {
    let mut props = Props::new().with("type", "tap");
    if cx.res.is_native() && given.tap_fds.is_empty() {
        let before = cx
            .def
            .devices
            .interfaces
            .iter()
            .position(|other| std::ptr::eq(other, net));
        return Ok(props.with(
            "fd",
            (FIRST_NATIVE_FD + before.unwrap_or_default() as i32).to_string(),
        ));
    }
    if given.tap_fds.is_empty() {
        return Err(Error::internal_qemu(format!(
            "no TAP descriptor for interface '{}'",
            alias(&net.info)?
        )));
    }
    put_fds(&mut props, "fd", &given.tap_fds);
    if !given.vhost_fds.is_empty() {
        props.set("vhost", true);
        put_fds(&mut props, "vhostfd", &given.vhost_fds);
    }
    let sndbuf = net.tune.as_ref().and_then(|tune| tune.sndbuf);
    props.opt("sndbuf", sndbuf);
    Ok(props)
}

/// One descriptor is `fd`, several are `fds`, joined by colons.
fn put_fds(props: &mut Props, key: &str, fds: &[FdRef]) {
    let list: Vec<_> = fds.iter().map(FdRef::to_string).collect();
    let key = if fds.len() == 1 {
        key.to_owned()
    } else {
        format!("{key}s")
    };
    props.set(&key, list.join(":"));
}

fn user(cx: Context<'_>, net: &Interface, given: &DeviceResources) -> Result<Props> {
    if net.backend.as_ref().and_then(|backend| backend.kind) == Some(NetBackendKind::Passt) {
        return passt(cx, net, given);
    }
    let mut props = Props::new().with("type", "user");
    for ip in &net.ips {
        let v6 = ip.family.as_deref() == Some("ipv6") || ip.address.contains(':');
        if v6 {
            props
                .set("ipv6-prefix", ip.address.clone())
                .opt("ipv6-prefixlen", ip.prefix.filter(|p| *p != 0));
        } else {
            let net = ip
                .prefix
                .filter(|prefix| *prefix != 0)
                .map(|prefix| format!("{}/{prefix}", ip.address));
            props.set("net", net.unwrap_or_else(|| ip.address.clone()));
        }
    }
    Ok(props)
}

fn passt(cx: Context<'_>, net: &Interface, given: &DeviceResources) -> Result<Props> {
    const RECONNECT_SECONDS: u32 = 5;
    let path = given.socket.clone().ok_or_else(|| {
        Error::internal_qemu(format!(
            "no passt socket for interface '{}'",
            net.info.alias.as_deref().unwrap_or_default()
        ))
    })?;
    let mut props = Props::new()
        .with("type", "stream")
        .with("addr", json!({"type": "unix", "path": path}))
        .with("server", false);
    if cx.caps.has(Flag::NetdevStreamReconnectMiliseconds) {
        props.set("reconnect-ms", RECONNECT_SECONDS * 1000);
    } else if cx.caps.has(Flag::NetdevStreamReconnect) {
        props.set("reconnect", RECONNECT_SECONDS);
    }
    Ok(props)
}

fn vhost_user(cx: Context<'_>, net: &Interface, line: &mut CommandLine) -> Result<Props> {
    let id = alias(&net.info)?;
    let source = net.source.clone().unwrap_or_default();
    let given = cx.res.device(id);
    let mut socket = Keyval::implied("socket").with("id", format!("char{id}"));
    match given.fd {
        Some(fd) => socket.set("fd", fd),
        None => socket.set("path", given.socket.or(source.path).unwrap_or_default()),
    };
    if source.mode.as_deref() == Some("server") {
        socket.set("server", "on");
    }
    chardev::put_reconnect(cx, source.reconnect.as_ref(), &mut socket);
    line.push("-chardev", socket);
    let queues = queues(net);
    Ok(Props::new()
        .with("type", "vhost-user")
        .with("chardev", format!("char{id}"))
        .with_opt("queues", (queues > 1).then_some(queues)))
}

fn vdpa(net: &Interface, given: &DeviceResources, line: &mut CommandLine) -> Result<Props> {
    let fd = given
        .fd
        .ok_or_else(|| Error::internal_qemu("no vDPA descriptor for an interface"))?;
    let path = line.add_fd(fd, &format!("{}-vdpa", alias(&net.info)?));
    let queues = queues(net);
    Ok(Props::new()
        .with("type", "vhost-vdpa")
        .with("vhostdev", path)
        .with_opt("queues", (queues > 1).then_some(queues)))
}

fn queues(net: &Interface) -> u32 {
    net.driver
        .as_ref()
        .and_then(|driver| driver.queues)
        .unwrap_or(1)
        .max(1)
}

/// Front end of an interface.
///
/// # Errors
/// When its bus is not there.
pub fn props(cx: Context<'_>, net: &Interface) -> Result<Props> {
    let id = alias(&net.info)?;
    let model = net.model.as_deref().unwrap_or("rtl8139");
    let mut props = match virtio_model(model) {
        Some(generation) => virtio(cx, net, generation)?,
        None => Props::driver(model),
    };
    props
        .set("netdev", format!("host{id}"))
        .set("id", id)
        .opt("mac", net.mac.as_ref().map(|mac| mac.address.clone()))
        .opt("bootindex", cx.boot_index(&net.info));
    address::put(cx, &net.info, &mut props)?;
    address::put_rom(&net.info, &mut props);
    Ok(props)
}

fn virtio_model(model: &str) -> Option<VirtioModel> {
    match model {
        "virtio" => Some(VirtioModel::Virtio),
        "virtio-transitional" => Some(VirtioModel::Transitional),
        "virtio-non-transitional" => Some(VirtioModel::NonTransitional),
        _ => None,
    }
}

fn virtio(cx: Context<'_>, net: &Interface, generation: VirtioModel) -> Result<Props> {
    let driver = net.driver.clone().unwrap_or_default();
    let transport = Virtio::new(Some(generation), Some(&driver.virtio));
    let mut props = address::virtio("virtio-net", &net.info, transport)?;
    put_offloads(&driver, &mut props);
    let queues = cx
        .res
        .device(alias(&net.info)?)
        .tap_fds
        .len()
        .max(match kind(net) {
            InterfaceKind::Vhostuser | InterfaceKind::Vdpa => queues(net) as usize,
            _ => 1,
        });
    if queues > 1 {
        props.set("mq", true).set("vectors", 2 * queues + 2);
    }
    let team = net
        .teaming
        .as_ref()
        .is_some_and(|team| team.kind == Some(TeamingKind::Persistent));
    props
        .opt("rx_queue_size", driver.rx_queue_size.filter(|size| *size != 0))
        .opt("tx_queue_size", driver.tx_queue_size.filter(|size| *size != 0))
        .opt("rss", driver.rss.map(OnOff::is_on))
        .opt("hash", driver.rss_hash_report.map(OnOff::is_on))
        .opt("host_mtu", net.mtu.filter(|mtu| *mtu != 0))
        .opt("failover", team.then_some(true));
    Ok(props)
}

fn put_offloads(driver: &InterfaceDriver, props: &mut Props) {
    let host = driver.host.clone().unwrap_or_default();
    let guest = driver.guest.clone().unwrap_or_default();
    let tx: Option<Value> = driver.txmode.map(|mode| match mode {
        TxMode::Iothread => "bh".into(),
        TxMode::Timer => "timer".into(),
    });
    props.opt("tx", tx);
    let switches = [
        ("ioeventfd", driver.ioeventfd),
        ("event_idx", driver.event_idx),
        ("csum", host.csum),
        ("gso", host.gso),
        ("host_tso4", host.tso4),
        ("host_tso6", host.tso6),
        ("host_ecn", host.ecn),
        ("host_ufo", host.ufo),
        ("mrg_rxbuf", host.mrg_rxbuf),
        ("guest_csum", guest.csum),
        ("guest_tso4", guest.tso4),
        ("guest_tso6", guest.tso6),
        ("guest_ecn", guest.ecn),
        ("guest_ufo", guest.ufo),
    ];
    for (key, switch) in switches {
        props.opt(key, switch.map(OnOff::is_on));
    }
}
