//! The host's end of a running guest's interface becomes another one: its bridge or network, its filter, its limits.
//!
//! `link` calls it for a change of more than the link. What is the guest's stays: the device, its address, the name of its
//! end on the host. The hard thing is that other daemons take part: a new port and a new filter are noted in the ledger
//! before they are asked for, and the old port goes only once the documents have the new one. A daemon that finds such a
//! change half done has the host's end follow the document; the ledger gives back what no document has.

use std::sync::Arc;

use domxml::{
    devices::{Interface, InterfaceKind, YesNo, interface::LinkState},
    ports::PortOwner,
};
use qemu_plan::command::net::kind;
use uuid::Uuid;

use super::link;
use crate::{
    domain::{Edit, Effects, intents::Intent},
    error::{Code, Error, Result},
    ops::{
        Driver,
        holdings::net::{
            interface,
            openvswitch::{self, vlan},
            ports,
            tap::Plug,
            traffic_control::{Device, limits_of, of_device},
        },
        operation::{Context, undo::Undo},
        run::guest::Guest,
    },
};

/// An interface before and after.
pub(super) struct Rewire {
    pub(super) old: Interface,
    pub(super) new: Interface,
    /// It goes to another bridge or network.
    pub(super) moves: bool,
}

/// Takes over what can be changed while the guest runs, where the interface is plugged in aside.
pub(super) fn take_over(interface: &mut Interface, wanted: &Interface) {
    let Interface {
        trust_guest_rx_filters,
        bandwidth,
        isolated,
        filterref,
        coalesce,
        vlan,
        link,
        ..
    } = wanted;
    interface.vlan.clone_from(vlan);
    interface.trust_guest_rx_filters = *trust_guest_rx_filters;
    interface.bandwidth.clone_from(bandwidth);
    interface.isolated = *isolated;
    interface.filterref.clone_from(filterref);
    interface.coalesce.clone_from(coalesce);
    interface.link = *link;
    if let Some(actual) = &mut interface.actual {
        actual.trust_guest_rx_filters = *trust_guest_rx_filters;
        actual.bandwidth.clone_from(bandwidth);
        actual.isolated = *isolated;
        actual.vlan.clone_from(vlan);
    }
}

/// Whether an interface is a TAP device that this can change.
pub(super) fn can_change(interface: &Interface) -> bool {
    let is_tap = matches!(
        kind(interface),
        InterfaceKind::Ethernet | InterfaceKind::Bridge | InterfaceKind::Network
    );
    is_tap && !openvswitch::is_port(interface)
}

/// Whether an interface of this type can be plugged into another bridge.
pub(super) fn can_move(kind: InterfaceKind) -> bool {
    matches!(kind, InterfaceKind::Bridge | InterfaceKind::Network)
}

impl Rewire {
    /// Does it, and commits it with the change of the stored document.
    ///
    /// # Errors
    /// What the kernel, the network, the filter or QEMU says.
    pub(super) async fn carry_out(
        self,
        context: &Context,
        guest: &Arc<Guest>,
        (stored, effects): (Edit, Effects),
    ) -> Result<()> {
        let driver = context.driver();
        let Self { old, mut new, moves } = self;
        let alias = old.info.alias.clone().unwrap_or_default();
        context.intend(Intent::Rewire { alias: alias.clone() }).await?;
        let view = context.view();
        let owner = ports::owner(&view.running()?.document.domain);
        let mut undo = context.steps("the host's end of the interface").await?;
        if moves && new.kind == InterfaceKind::Network {
            ports::take_one(driver, &mut new, owner.clone(), &mut undo).await?;
        }
        if moves && !(can_change(&new) && can_move(kind(&new))) {
            return Err(not_so(&new));
        }
        interface::check_acquirable(driver, &new)?;
        if can_change(&old) {
            let end = End::of(driver, &old, owner)?;
            end.change((&old, &new), moves, &mut undo).await?;
        }
        drop(undo);
        let is_up = |interface: &Interface| interface.link != Some(LinkState::Down);
        if is_up(&old) != is_up(&new) {
            let (again, name, was_up) = (Arc::clone(guest), alias.clone(), is_up(&old));
            let reversal = async move { link::set(&again, name, was_up).await };
            context
                .step("the link", link::set(guest, alias.clone(), is_up(&new)), reversal)
                .await?;
        }
        let live = Edit::live(move |document| {
            let mut all = document.devices.interfaces.iter_mut();
            let place = all.find(|i| i.info.alias.as_deref() == Some(&alias));
            let place = place.ok_or_else(|| Error::internal("the interface has gone meanwhile"))?;
            *place = new.clone();
            Ok(())
        });
        context.commit(stored.and(live), effects).await?;
        if moves {
            ports::give_back_port(driver, &old).await;
        }
        Ok(())
    }
}

/// The refusal of what can't be changed while the guest runs, in libvirt's words.
pub(super) fn not_so(wanted: &Interface) -> Error {
    let kind = wanted.kind.as_str();
    Error::new(
        Code::OperationUnsupported,
        format!("unable to change config on '{kind}' network type"),
    )
}

/// The host's end of an interface.
struct End {
    driver: Arc<Driver>,
    device: String,
    guest: Uuid,
    owner: PortOwner,
}

impl End {
    fn of(driver: &Arc<Driver>, interface: &Interface, owner: PortOwner) -> Result<Self> {
        let device = interface.target.as_ref().and_then(|target| target.dev.clone());
        Ok(Self {
            driver: Arc::clone(driver),
            device: device.ok_or_else(|| Error::internal("the interface has no device on the host"))?,
            guest: Uuid::try_parse(&owner.uuid).unwrap_or_default(),
            owner,
        })
    }

    /// Changes what differs.
    async fn change(&self, (old, new): (&Interface, &Interface), moves: bool, undo: &mut Undo) -> Result<()> {
        let device = self.device.clone();
        if moves || isolated(old) != isolated(new) || vlan(old) != vlan(new) {
            let (back, guest, name) = (Plug::of(old)?, self.owner.name.clone(), device.clone());
            undo.push("the bridge", rejoin(back, guest, name));
            rejoin(Plug::of(new)?, self.owner.name.clone(), device.clone()).await?;
        }
        if limits_of(old) != limits_of(new) {
            let (before, name, guest) = (old.clone(), device.clone(), self.guest);
            undo.push("the limits", async move { limit(&before, &name, guest).await });
            limit(new, &device, self.guest).await?;
        }
        if frames(old) != frames(new) {
            let (name, before) = (device.clone(), frames(old));
            undo.push("the coalescing of frames", set_frames(name, before));
            set_frames(device.clone(), frames(new)).await?;
        }
        if old.filterref != new.filterref {
            if old.filterref.is_some() {
                let (driver, before, owner) = (self.driver.clone(), old.clone(), self.owner.clone());
                undo.push("the filter", async move {
                    ports::bind_again(&driver, &before, owner).await
                });
                ports::give_back_filter(&self.driver, &device).await;
            }
            let bound = ports::filter(&self.driver, new, self.owner.clone(), undo).await;
            bound.map_err(|error| {
                let text =
                    format!("failed to add new filter rules to '{device}' - attempting to restore old rules");
                Error::new(Code::OperationFailed, text).caused_by(error)
            })?;
        }
        Ok(())
    }
}

fn isolated(interface: &Interface) -> bool {
    let given = interface
        .actual
        .as_ref()
        .map_or(interface.isolated, |a| a.isolated);
    given == Some(YesNo::Yes)
}

fn frames(interface: &Interface) -> u32 {
    let coalesce = interface.coalesce.as_ref();
    coalesce
        .and_then(|coalesce| coalesce.rx.as_ref()?.frames)
        .unwrap_or(0)
}

async fn rejoin(plug: Plug, guest: String, device: String) -> Result<()> {
    crate::blocking::file("plugging an interface into its bridge", move || {
        plug.rejoin(&guest, &device)
    })
    .await
}

async fn limit(interface: &Interface, device: &str, guest: Uuid) -> Result<()> {
    let limits = limits_of(interface).cloned().unwrap_or_default();
    Device::of(interface, device, guest)
        .limit(&of_device(interface, &limits))
        .await
}

async fn set_frames(device: String, frames: u32) -> Result<()> {
    crate::blocking::file("changing how frames are coalesced", move || {
        unixfd::set_receive_frames(&device, frames)
            .map_err(|error| Error::system(format!("Cannot set coalesce info on '{device}'"), error))
    })
    .await
}

/// Has the host's end of an interface follow the document of its run, after a change that was cut off.
///
/// # Errors
/// What the kernel, the filter or QEMU says.
pub(crate) async fn set_right(driver: &Arc<Driver>, guest: &Arc<Guest>, alias: &str) -> Result<()> {
    let view = guest.domain.view();
    let document = &view.running()?.document.domain;
    let mut all = document.devices.interfaces.iter();
    let Some(interface) = all.find(|i| i.info.alias.as_deref() == Some(alias) && can_change(i)) else {
        return Ok(());
    };
    let end = End::of(driver, interface, ports::owner(document))?;
    rejoin(Plug::of(interface)?, end.owner.name.clone(), end.device.clone()).await?;
    limit(interface, &end.device, end.guest).await?;
    set_frames(end.device.clone(), frames(interface)).await?;
    // Which filter is on it, nobody tells: the one that the document names is put on anew. One that no document names is
    // given back by the ledger.
    if interface.filterref.is_some() {
        ports::give_back_filter(driver, &end.device).await;
        ports::bind_again(driver, interface, end.owner.clone()).await?;
    }
    link::set(guest, alias.to_owned(), interface.link != Some(LinkState::Down)).await
}
