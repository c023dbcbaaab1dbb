//! The host's end of interfaces: what a start or an attach makes of each, in which order, and what can't be made yet.
//!
//! What is made for one interface is in [`crate::ops::holdings::net::tap`]. A TAP device goes with QEMU's descriptors; a macvtap is noted
//! before it is made, so that it is removed however the start, the attach or the run ends.

use std::{fs::OpenOptions, os::fd::OwnedFd, path::Path, sync::Arc};

use domxml::devices::{
    Interface, InterfaceKind, InterfaceTarget, TeamingKind, VirtualPortKind, YesNo, private::InterfacePrivate,
};
use domxml::{domain::VirtType, ports::PortOwner};
use qemu_plan::command::{DeviceResources, Resources, net::kind};
use unixfd::MacvtapMode;
use uuid::Uuid;

use crate::{
    error::{Code, Error, Result},
    ops::{
        Driver,
        document::prepared::Prepared,
        holdings::{
            handover::Handover,
            ledger::Debt,
            net::{
                bridge_helper::Request,
                mac_filter,
                macvtap::{Macvtap, plug_source},
                openvswitch::{Port, virtual_port, vlan},
                ports, script,
                tap::{MACVTAP, Plug, Plugged},
                traffic_control::limits_of,
            },
            release,
        },
        operation::undo::Undo,
    },
    qemu,
};

/// Which interfaces are plugged in here.
pub(crate) fn is_plugged(interface: &Interface) -> bool {
    is_tap(interface) || kind(interface) == InterfaceKind::Direct
}

fn is_tap(interface: &Interface) -> bool {
    matches!(
        kind(interface),
        InterfaceKind::Ethernet | InterfaceKind::Bridge | InterfaceKind::Network
    )
}

/// Whether QEMU gets an opened device of the host for it.
pub(crate) fn is_vdpa(interface: &Interface) -> bool {
    interface.kind == InterfaceKind::Vdpa
}

/// Opens the device that an interface of vDPA is.
///
/// # Errors
/// It can't be opened.
pub(crate) async fn open_vdpa(interface: &Interface) -> Result<OwnedFd> {
    let path = interface.source.as_ref().and_then(|source| source.dev.clone());
    let path = path.unwrap_or_default();
    crate::blocking::file("opening a vDPA device", move || {
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let failed = |error| Error::system(format_args!("Unable to open '{path}' for vdpa device"), error);
        opened.map(OwnedFd::from).map_err(failed)
    })
    .await
}

/// What a start can't give yet is refused by name: before anything is done, and once the networks have said what their
/// interfaces become.
pub(crate) fn refuse_what_is_missing(driver: &Driver, document: &domxml::Domain) -> Result<()> {
    let mut interfaces = document.devices.interfaces.iter();
    interfaces.try_for_each(|interface| refuse_one(driver, interface, "starting a guest with"))
}

/// `doing` begins the message.
fn refuse_one(driver: &Driver, interface: &Interface, doing: &str) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::new(
            Code::ConfigUnsupported,
            format!("{doing} {what} is not supported yet"),
        ))
    };
    if let Some(what) = missing(interface) {
        return refuse(what);
    }
    if kind(interface) == InterfaceKind::Hostdev && !hostinfo::has_vfio(driver.hostdevs.root()) {
        let text = "host doesn't support passthrough of host PCI devices";
        return Err(Error::new(Code::ConfigUnsupported, text));
    }
    let is_known = QEMUS_OWN.contains(&interface.kind) || kind(interface) == InterfaceKind::Hostdev;
    if is_plugged(interface) || is_known || is_vdpa(interface) {
        return Ok(());
    }
    match &interface.actual {
        Some(_) => refuse(format!(
            "a network that gives interfaces of type '{}'",
            kind(interface).as_str()
        )),
        None => refuse(format!("an interface of type '{}'", interface.kind.as_str())),
    }
}

/// Kinds of interfaces that QEMU connects by itself.
// table
const QEMUS_OWN: &[InterfaceKind] = &[
    InterfaceKind::User,
    InterfaceKind::Null,
    InterfaceKind::Server,
    InterfaceKind::Client,
    InterfaceKind::Mcast,
    InterfaceKind::Udp,
    InterfaceKind::Vhostuser,
];

/// What of an interface a start can't give yet.
fn missing(interface: &Interface) -> Option<String> {
    let port = virtual_port(interface)
        .or(interface.virtualport.as_ref())
        .and_then(|port| port.kind);
    let is_direct = kind(interface) == InterfaceKind::Direct;
    let associated = is_direct && matches!(port, Some(VirtualPortKind::Qbg | VirtualPortKind::Qbh));
    let parts = [
        (
            "a virtual port that a switch is told of (802.1Qbg, 802.1Qbh)",
            associated,
        ),
        (
            "a virtual port of MidoNet",
            port == Some(VirtualPortKind::Midonet),
        ),
        (
            "addresses on the host",
            interface
                .source
                .as_ref()
                .is_some_and(|s| !s.ips.is_empty() || !s.routes.is_empty()),
        ),
    ];
    let found = parts
        .into_iter()
        .find(|(_, there)| *there && is_plugged(interface));
    found.map(|(what, _)| format!("an interface of type '{}' with {what}", interface.kind.as_str()))
}

/// What an interface can't have, now that it is known what it is plugged into.
///
/// # Errors
/// `ConfigUnsupported`, in libvirt's words.
pub(crate) fn check(document: &domxml::Domain) -> Result<()> {
    document.devices.interfaces.iter().try_for_each(check_one)
}

fn check_one(interface: &Interface) -> Result<()> {
    let mac = interface
        .mac
        .as_ref()
        .map(|mac| mac.address.as_str())
        .unwrap_or_default();
    let refuse = |what: String| Err(Error::new(Code::ConfigUnsupported, what));
    let kind = kind(interface);
    let bridged = matches!(kind, InterfaceKind::Bridge | InterfaceKind::Network);
    let source = plug_source(interface);
    let passthrough =
        kind == InterfaceKind::Direct && source.is_some_and(|s| s.mode.as_deref() == Some("passthrough"));
    if vlan(interface).is_some() && passthrough {
        let below = source.and_then(|s| s.dev.as_deref()).unwrap_or_default();
        if Path::new("/sys/class/net")
            .join(below)
            .join("device/physfn")
            .exists()
        {
            return refuse(format!(
                "starting a guest with VLAN tags of the virtual function '{below}' is not supported yet"
            ));
        }
        return refuse(format!(
            "vlan can only be set for SR-IOV VFs, but {below} is not a VF"
        ));
    }
    if vlan(interface).is_some() && !bridged && kind != InterfaceKind::Hostdev {
        return refuse(format!(
            "interface {mac} - vlan tag not supported for this connection type"
        ));
    }
    if let Some(filtered) = wrongly_filtered(interface) {
        return refuse(format!(
            "interface {mac} - filterref is not supported for network interfaces {filtered}"
        ));
    }
    if kind == InterfaceKind::Hostdev && limits_of(interface).is_some() {
        return refuse(format!(
            "interface {mac} - bandwidth settings are not supported for hostdev interfaces"
        ));
    }
    let team = interface.teaming.as_ref().and_then(|team| team.kind);
    if team == Some(TeamingKind::Transient) && kind != InterfaceKind::Hostdev {
        return refuse(format!(
            "interface {mac} - teaming transient device must be type='hostdev', not '{}'",
            kind.as_str()
        ));
    }
    let isolated = interface
        .actual
        .as_ref()
        .map_or(interface.isolated, |actual| actual.isolated)
        == Some(YesNo::Yes);
    let no_isolation =
        format!("interface {mac} - <port isolated='yes'/> is not supported for network interfaces with");
    match virtual_port(interface).and_then(|port| port.kind) {
        _ if !isolated => Ok(()),
        _ if !bridged => refuse(format!("{no_isolation} type='{}'", kind.as_str())),
        Some(port) if port != VirtualPortKind::None => {
            refuse(format!("{no_isolation} virtualport type='{}'", port.as_str()))
        }
        _ => Ok(()),
    }
}

/// Why an interface can't have the filter that it names, if it names one.
fn wrongly_filtered(interface: &Interface) -> Option<String> {
    interface.filterref.as_ref()?;
    let kind = kind(interface);
    if !is_tap(interface) {
        return Some(format!("of type {}", kind.as_str()));
    }
    let port = virtual_port(interface).and_then(|port| port.kind)?;
    (port != VirtualPortKind::None).then(|| format!("with virtualport type {}", port.as_str()))
}

/// Makes the host's ends of all interfaces of a guest that starts and hands them to QEMU; the document shows their names.
pub(crate) async fn plug(
    driver: &Arc<Driver>,
    prepared: &mut Prepared,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
    undo: &mut Undo,
) -> Result<()> {
    let (owner, kind_of_guest) = (ports::owner(&prepared.document), prepared.document.kind);
    for interface in &mut prepared.document.devices.interfaces {
        let alias = interface.info.alias.clone().unwrap_or_default();
        if is_vdpa(interface) {
            let fd = Some(qemu.pass(open_vdpa(interface).await?)?);
            let given = DeviceResources {
                fd,
                ..DeviceResources::default()
            };
            resources.devices.insert(alias, given);
        } else if let Some(given) = acquire(driver, interface, (&owner, kind_of_guest), qemu, undo).await? {
            resources.devices.insert(alias, given);
        }
    }
    Ok(())
}

/// Makes the host's end of one interface and hands it to QEMU; the interface shows its name. None for an interface that
/// QEMU connects by itself.
///
/// # Errors
/// The kernel's, those of the programs and daemons that take part, QEMU's.
pub(crate) async fn acquire(
    driver: &Arc<Driver>,
    interface: &mut Interface,
    (owner, kind_of_guest): (&PortOwner, VirtType),
    qemu: &mut impl Handover,
    undo: &mut Undo,
) -> Result<Option<DeviceResources>> {
    if !is_plugged(interface) {
        return Ok(None);
    }
    let guest = Uuid::try_parse(&owner.uuid).unwrap_or_default();
    let plug = match kind_of_guest {
        VirtType::Kvm => Plug::of(interface)?,
        _ => Plug::of(interface)?.without_vhost(),
    };
    let (alias, is_port) = (plug.alias.clone(), plug.bridge.is_some());
    let plugged = match plug.macvtap {
        Some(mode) => macvtap(driver, interface, (plug, mode), undo).await?,
        None => tap(driver, plug).await?,
    };
    let device = plugged.device.clone();
    let given = hand_over(plugged, &alias, qemu, undo).await?;
    interface.target.get_or_insert_with(InterfaceTarget::default).dev = Some(device.clone());
    if is_port {
        mac_filter::allow(driver, interface, undo).await?;
    }
    script::run_up(interface, &device, undo).await?;
    switch_port(driver, interface, guest, undo).await?;
    crate::ops::holdings::net::traffic_control::put_on(interface, &device, guest).await?;
    ports::filter(driver, interface, owner.clone(), undo).await?;
    Ok(Some(given))
}

/// What `acquire` checks of one interface, now that it is known what it is plugged into.
///
/// # Errors
/// `ConfigUnsupported`, in libvirt's words where libvirt refuses it too.
pub(crate) fn check_acquirable(driver: &Driver, interface: &Interface) -> Result<()> {
    refuse_one(driver, interface, "attaching")?;
    check_one(interface)
}

/// Gives back what a device that has left the guest had of the host. What can't be given back is logged, and tried again
/// where that helps.
pub(crate) async fn release(driver: &Arc<Driver>, interface: &Interface, guest: Uuid) {
    if let Err(error) = script::run_down(interface).await {
        tracing::error!(%guest, %error, "an interface was not taken down");
    }
    mac_filter::forget(driver, interface).await;
    ports::give_back_one(driver, interface, guest).await;
}

/// Makes a TAP device. A port of a bridge is made by a helper where we are one user's daemon.
async fn tap(driver: &Arc<Driver>, plug: Plug) -> Result<Plugged> {
    if let (Some(bridge), crate::paths::Scope::Session) = (&plug.bridge, driver.host.scope) {
        let config = driver.config();
        let (tap, device) = Request {
            helper: &config.bridge_helper,
            bridge,
            header: plug.header,
        }
        .carry_out()
        .await?;
        return Ok(Plugged {
            device,
            taps: vec![tap],
            vhosts: plug.vhosts(1)?,
        });
    }
    let owned = Arc::clone(driver);
    crate::blocking::file("making a TAP device", move || plug.carry_out(&owned.link_names)).await
}

/// Makes a macvtap, which outlives QEMU and so is noted first.
async fn macvtap(
    driver: &Arc<Driver>,
    interface: &mut Interface,
    (plug, mode): (Plug, MacvtapMode),
    undo: &mut Undo,
) -> Result<Plugged> {
    let _held = driver.owed.hold().await;
    let device = plug
        .device
        .clone()
        .map_or_else(|| driver.link_names.take(MACVTAP), Ok)?;
    let named = Macvtap::named(interface, device);
    let macvtap =
        named.ok_or_else(|| Error::internal(format!("interface '{}' names no device below", plug.alias)))?;
    let debt = Debt::Macvtap(macvtap.clone());
    let (checked, mac) = (macvtap.clone(), plug.mac);
    crate::blocking::file("looking for the device below a macvtap", move || {
        checked.check(mac)
    })
    .await?;
    driver.owed.take_due(&debt);
    release::remember(driver, debt, undo).await?;
    interface.private_data = Some(InterfacePrivate {
        created: Some(YesNo::Yes),
        ..InterfacePrivate::default()
    });
    let state = driver.registry.store().paths().state.clone();
    crate::blocking::file("making a macvtap device", move || {
        plug.carry_out_macvtap(macvtap, mode, &state)
    })
    .await
}

/// Has Open vSwitch take the device as a port, if its bridge is one of its own. The port outlives QEMU and so is noted first.
async fn switch_port(
    driver: &Arc<Driver>,
    interface: &Interface,
    guest: Uuid,
    undo: &mut Undo,
) -> Result<()> {
    let Some(port) = Port::of(interface, guest) else {
        return Ok(());
    };
    let bridge = plug_source(interface)
        .and_then(|s| s.bridge.as_deref())
        .unwrap_or_default();
    let debt = Debt::SwitchPort(port.clone());
    let _held = driver.owed.hold().await;
    driver.owed.take_due(&debt);
    release::remember(driver, debt, undo).await?;
    port.add(interface, bridge).await
}

async fn hand_over(
    plugged: Plugged,
    alias: &str,
    qemu: &mut impl Handover,
    undo: &mut Undo,
) -> Result<DeviceResources> {
    let mut given = DeviceResources::default();
    for (n, tap) in plugged.taps.into_iter().enumerate() {
        given
            .tap_fds
            .push(qemu.pass(format!("tapfd-{alias}{n}"), tap, undo).await?);
    }
    for (n, vhost) in plugged.vhosts.into_iter().enumerate() {
        let name = format!("vhostfd-{alias}{n}");
        given.vhost_fds.push(qemu.pass(name, vhost, undo).await?);
    }
    Ok(given)
}
