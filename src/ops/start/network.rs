//! The host's end of interfaces: what a start makes of each, in which order, and what it can't make yet.
//!
//! What is made for one interface is in [`super::plug`]. A TAP device goes with QEMU's descriptors; a macvtap is noted
//! before it is made, so that it is removed however the start or the run ends.

use std::sync::Arc;

use domxml::devices::{Interface, InterfaceKind, InterfaceTarget, YesNo, interface::InterfacePrivate, interface::MacTableManager};
use qemu_plan::command::{DeviceResources, Resources, net::kind};
use unixfd::MacvtapMode;

use super::{
    Prepared,
    bridge_helper::Request,
    plug::{MACVTAP, Plug, Plugged},
    script,
};
use crate::{
    error::{Code, Error, Result},
    ops::{
        Driver,
        macvtap::{Macvtap, plug_source},
        owed::Debt,
        ports,
        undo::Undo,
    },
    qemu,
};

/// Which interfaces are plugged in here.
pub(super) fn is_plugged(interface: &Interface) -> bool {
    is_tap(interface) || kind(interface) == InterfaceKind::Direct
}

fn is_tap(interface: &Interface) -> bool {
    matches!(kind(interface), InterfaceKind::Ethernet | InterfaceKind::Bridge | InterfaceKind::Network)
}

/// What a start can't give yet is refused by name: before anything is done, and once the networks have said what their
/// interfaces become.
pub(super) fn refuse_what_is_missing(document: &domxml::Domain) -> Result<()> {
    let refuse = |what: String| Err(Error::new(Code::ConfigUnsupported, format!("starting a guest with {what} is not supported yet")));
    let interfaces = &document.devices.interfaces;
    if let Some(what) = interfaces.iter().find_map(missing) {
        return refuse(what);
    }
    let unknown = |i: &&Interface| !is_plugged(i) && !matches!(i.kind, InterfaceKind::User | InterfaceKind::Null);
    match interfaces.iter().find(unknown) {
        Some(i) if i.actual.is_some() => refuse(format!("a network that gives interfaces of type '{}'", kind(i).as_str())),
        Some(i) => refuse(format!("an interface of type '{}'", i.kind.as_str())),
        None => Ok(()),
    }
}

/// What of an interface a start can't give yet.
fn missing(interface: &Interface) -> Option<String> {
    let given = interface.actual.as_ref();
    let parts = [
        ("a virtual port", interface.virtualport.is_some() || given.is_some_and(|a| a.virtualport.is_some())),
        ("VLAN tags", interface.vlan.is_some() || given.is_some_and(|a| a.vlan.is_some())),
        ("coalescing", interface.coalesce.is_some()),
        ("macTableManager='libvirt'", plug_source(interface).is_some_and(|s| s.mac_table_manager == Some(MacTableManager::Libvirt))),
        ("addresses on the host", interface.source.as_ref().is_some_and(|s| !s.ips.is_empty() || !s.routes.is_empty())),
    ];
    let found = parts.into_iter().find(|(_, there)| *there && is_plugged(interface));
    found.map(|(what, _)| format!("an interface of type '{}' with {what}", interface.kind.as_str()))
}

/// Makes the host's ends and hands them to QEMU; the document shows their names.
pub(super) async fn plug(
    driver: &Arc<Driver>,
    prepared: &mut Prepared,
    qemu: &mut qemu::Prepared,
    resources: &mut Resources,
    undo: &mut Undo,
) -> Result<()> {
    let owner = ports::owner(&prepared.document);
    for interface in prepared.document.devices.interfaces.iter_mut().filter(|i| is_plugged(i)) {
        let plug = Plug::of(interface)?;
        let alias = plug.alias.clone();
        let plugged = match plug.macvtap {
            Some(mode) => macvtap(driver, interface, (plug, mode), undo).await?,
            None => tap(driver, plug).await?,
        };
        let device = plugged.device.clone();
        resources.devices.insert(alias, hand_over(plugged, qemu)?);
        interface.target.get_or_insert_with(InterfaceTarget::default).dev = Some(device.clone());
        script::run_up(interface, &device, undo).await?;
        crate::ops::bandwidth::put_on(interface, &device).await?;
        ports::filter(driver, interface, owner.clone(), undo).await?;
    }
    Ok(())
}

/// Makes a TAP device. A port of a bridge is made by a helper where we are one user's daemon.
async fn tap(driver: &Arc<Driver>, plug: Plug) -> Result<Plugged> {
    if let (Some(bridge), crate::paths::Scope::Session) = (&plug.bridge, driver.host.scope) {
        let config = driver.config();
        let (tap, device) = Request { helper: &config.bridge_helper, bridge, header: plug.header }.carry_out().await?;
        return Ok(Plugged { device, taps: vec![tap], vhosts: plug.vhosts(1)? });
    }
    let owned = Arc::clone(driver);
    crate::blocking::file("making a TAP device", move || plug.carry_out(&owned.link_names)).await
}

/// Makes a macvtap, which outlives QEMU and so is noted first.
async fn macvtap(driver: &Arc<Driver>, interface: &mut Interface, (plug, mode): (Plug, MacvtapMode), undo: &mut Undo) -> Result<Plugged> {
    let _held = driver.owed.hold().await;
    let device = plug.device.clone().map_or_else(|| driver.link_names.take(MACVTAP), Ok)?;
    let named = Macvtap::named(interface, device);
    let macvtap = named.ok_or_else(|| Error::internal(format!("interface '{}' names no device below", plug.alias)))?;
    let debt = Debt::Macvtap(macvtap.clone());
    let (checked, mac) = (macvtap.clone(), plug.mac);
    crate::blocking::file("looking for the device below a macvtap", move || checked.check(mac)).await?;
    driver.owed.take_due(&debt);
    ports::remember(driver, debt, undo).await?;
    interface.private_data = Some(InterfacePrivate { created: Some(YesNo::Yes) });
    let state = driver.registry.store().paths().state.clone();
    crate::blocking::file("making a macvtap device", move || plug.carry_out_macvtap(macvtap, mode, &state)).await
}

fn hand_over(plugged: Plugged, qemu: &mut qemu::Prepared) -> Result<DeviceResources> {
    let mut given = DeviceResources::default();
    for tap in plugged.taps {
        given.tap_fds.push(qemu.pass(tap)?);
    }
    for vhost in plugged.vhosts {
        given.vhost_fds.push(qemu.pass(vhost)?);
    }
    Ok(given)
}
