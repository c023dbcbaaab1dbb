//! What a guest's interfaces have from other daemons: a port of a network, a filter on the host's end.
//!
//! [`take`] and [`filter`] are steps of a start, with their reversals; [`give_back`] is part of every end of a run;
//! [`make_known`] sees to it after a restart of ours that the other daemons still know what the run holds.

use std::{collections::HashSet, sync::Arc};

use domxml::{
    devices::{Interface, InterfaceKind},
    ports::{FilterBinding, NetworkPort, PortOwner},
};
use qemu_plan::command::net::kind;
use uuid::Uuid;

use crate::{
    error::{Code, Error, Result},
    ops::{
        Driver,
        holdings::{
            hostdev,
            ledger::Debt,
            net::{macvtap::Macvtap, openvswitch},
            release::{remember, return_within},
        },
        operation::undo::Undo,
    },
    peers::PortId,
};

/// Makes a port for each interface of type `network` and writes into the document what the network made of it.
///
/// # Errors
/// What the network says, or that nobody serves networks.
pub(crate) async fn take(driver: &Arc<Driver>, document: &mut domxml::Domain, undo: &mut Undo) -> Result<()> {
    let owner = owner(document);
    for interface in document
        .devices
        .interfaces
        .iter_mut()
        .filter(|i| i.kind == InterfaceKind::Network)
    {
        take_one(driver, interface, owner.clone(), undo).await?;
    }
    Ok(())
}

/// Makes a port for one interface of type `network` and writes into it what the network made of it.
///
/// # Errors
/// As [`take`].
pub(crate) async fn take_one(
    driver: &Arc<Driver>,
    interface: &mut Interface,
    owner: PortOwner,
    undo: &mut Undo,
) -> Result<()> {
    let name = interface
        .source
        .as_ref()
        .and_then(|s| s.network.clone())
        .ok_or_else(|| Error::internal("an interface of type 'network' names no network"))?;
    let mut networks = driver.peers.networks().await?;
    let id = PortId {
        network: name,
        port: Uuid::new_v4(),
    };
    // Noted first: whatever happens from here on, somebody knows of the port.
    remember(driver, Debt::Port(id.clone()), undo).await?;
    let asked = NetworkPort::asked(interface, id.port.to_string(), owner).document();
    let given = networks.create_port(&id.network, &asked).await?;
    interface.actual = Some(NetworkPort::parse(&given)?.actual()?);
    if let Some(source) = &mut interface.source {
        source.portid = Some(id.port.to_string());
    }
    Ok(())
}

/// Asks whether the network of an interface is there, if it is of type `network`. Nothing is taken: libvirt's daemon takes a
/// port before it looks at what else is in the way of an interface, so what the network says is told before that.
///
/// # Errors
/// As [`take`].
pub(crate) async fn look_up(driver: &Driver, interface: &Interface) -> Result<()> {
    let name = interface.source.as_ref().and_then(|s| s.network.as_deref());
    match name.filter(|_| interface.kind == InterfaceKind::Network) {
        Some(name) => driver.peers.networks().await?.look_up(name).await,
        None => Ok(()),
    }
}

/// Puts the filter of an interface on its host's end, which exists.
///
/// # Errors
/// What the filter's daemon says, or that there is none.
pub(crate) async fn filter(
    driver: &Arc<Driver>,
    interface: &Interface,
    owner: PortOwner,
    undo: &mut Undo,
) -> Result<()> {
    let Some(binding) = FilterBinding::of(interface, owner).filter(|_| can_be_filtered(interface)) else {
        return Ok(());
    };
    let debt = Debt::Filter(binding.port_device.clone());
    let mut filters = driver.peers.nwfilters().await?;
    let _held = driver.owed.hold().await;
    let left_over = driver.owed.take_due(&debt);
    remember(driver, debt, undo).await?;
    if left_over {
        filters.unbind(&binding.port_device).await?;
    }
    match filters.bind(&binding.document()).await {
        // Nobody else has the device, so a binding of its name has outlived the one that it was for: the filters' daemon was
        // busy or away when that was given back.
        Err(_) if filters.is_bound(&binding.port_device).await? => {
            filters.unbind(&binding.port_device).await?;
            filters.bind(&binding.document()).await
        }
        bound => bound,
    }
}

/// Gives back what the interfaces of a run hold; what is not taken in time is given back later.
pub(crate) async fn give_back(driver: &Arc<Driver>, document: &domxml::Domain) {
    let debts = held_by(document);
    if !debts.is_empty() {
        return_within(driver, debts).await;
    }
}

/// Gives back what one interface of a guest holds; what is not taken in time is given back later.
pub(crate) async fn give_back_one(driver: &Arc<Driver>, interface: &Interface, guest: Uuid) {
    let debts = held_by_one(interface, guest);
    if !debts.is_empty() {
        return_within(driver, debts).await;
    }
}

/// Gives back the port of a network that an interface had.
pub(crate) async fn give_back_port(driver: &Arc<Driver>, interface: &Interface) {
    if let Some(port) = port_of(interface) {
        return_within(driver, vec![Debt::Port(port)]).await;
    }
}

/// Takes the filter off an interface's end on the host.
pub(crate) async fn give_back_filter(driver: &Arc<Driver>, device: &str) {
    return_within(driver, vec![Debt::Filter(device.to_owned())]).await;
}

/// The document's guest, as the other daemons know it.
pub(crate) fn owner(document: &domxml::Domain) -> PortOwner {
    PortOwner {
        name: document.name.clone(),
        uuid: document.uuid.unwrap_or_default().to_string(),
    }
}

fn port_of(interface: &Interface) -> Option<PortId> {
    let source = interface
        .source
        .as_ref()
        .filter(|_| interface.kind == InterfaceKind::Network)?;
    Some(PortId {
        network: source.network.clone()?,
        port: Uuid::try_parse(source.portid.as_deref()?).ok()?,
    })
}

/// Filters see the packets of TAP devices only: that of a macvtap is not put on, as with libvirt.
fn can_be_filtered(interface: &Interface) -> bool {
    kind(interface) != InterfaceKind::Direct
}

/// What the interfaces of a run hold.
pub(crate) fn held_by(document: &domxml::Domain) -> Vec<Debt> {
    let guest = document.uuid.unwrap_or_default();
    let interfaces = document.devices.interfaces.iter();
    interfaces.flat_map(|i| held_by_one(i, guest)).collect()
}

/// What one interface holds, in the order in which it is given back.
fn held_by_one(interface: &Interface, guest: Uuid) -> Vec<Debt> {
    let device = interface.target.as_ref().and_then(|t| t.dev.clone());
    let filter = device.filter(|_| interface.filterref.is_some() && can_be_filtered(interface));
    let all = [
        openvswitch::Port::of(interface, guest).map(Debt::SwitchPort),
        Macvtap::of(interface).map(Debt::Macvtap),
        filter.map(Debt::Filter),
        port_of(interface).map(Debt::Port),
    ];
    all.into_iter().flatten().collect()
}

/// Tells the other daemons, should they have forgotten, what a run that was found holds. Nothing depends on it now: what
/// fails is logged.
pub(crate) async fn make_known(driver: &Driver, document: &domxml::Domain) {
    let owner = owner(document);
    for interface in &document.devices.interfaces {
        let told = async {
            reclaim(driver, interface, owner.clone()).await?;
            bind_again(driver, interface, owner.clone()).await
        };
        if let Err(error) = told.await {
            tracing::warn!(guest = document.name, %error, "an interface could not be made known to the daemon that serves it");
        }
    }
}

async fn reclaim(driver: &Driver, interface: &Interface, owner: PortOwner) -> Result<()> {
    let Some(id) = port_of(interface) else {
        return Ok(());
    };
    let mut networks = driver.peers.networks().await?;
    match networks.port(&id).await {
        Err(error) if error.code == Code::NoNetworkPort => {}
        known => return known.map(drop),
    }
    let had = NetworkPort::had(interface, id.port.to_string(), owner).document();
    networks.reclaim_port(&id.network, &had).await.map(drop)
}

/// Puts the filter of an interface on its host's end, if it is not there.
///
/// # Errors
/// What the filter's daemon says, or that there is none.
pub(crate) async fn bind_again(driver: &Driver, interface: &Interface, owner: PortOwner) -> Result<()> {
    let Some(binding) = FilterBinding::of(interface, owner).filter(|_| can_be_filtered(interface)) else {
        return Ok(());
    };
    let mut filters = driver.peers.nwfilters().await?;
    if filters.is_bound(&binding.port_device).await? {
        return Ok(());
    }
    match filters.bind(&binding.document()).await {
        // Nobody else has the device, so a binding of its name has outlived the one that it was for: the filters' daemon was
        // busy or away when that was given back.
        Err(_) if filters.is_bound(&binding.port_device).await? => {
            filters.unbind(&binding.port_device).await?;
            filters.bind(&binding.document()).await
        }
        bound => bound,
    }
}

/// What all of these documents hold.
pub(crate) fn held_by_all<'a>(documents: impl Iterator<Item = &'a domxml::Domain>) -> HashSet<Debt> {
    let devices = |document| hostdev::taken_from_host(document).into_iter().map(Debt::Device);
    documents
        .flat_map(|document| held_by(document).into_iter().chain(devices(document)))
        .collect()
}
