//! Setting the link of an interface up or down, in a running guest, its stored configuration, or both.
//!
//! Clients hand in the whole interface as they were shown it, so what they may not change is told from what they changed.
//! The intent is noted before QEMU is told: a daemon that finds it sets all links by the document.

use std::sync::Arc;

use domxml::devices::{
    Device, DeviceRef, Interface, InterfaceKind,
    interface::{InterfaceSource, LinkState},
};
use qemu_plan::{caps::Caps, command::net::kind, hotplug, postparse::Context as Filling};
use qmp::commands;

use super::{
    change::{self, Change, Live},
    fixed,
    rewire::{self, Rewire},
};
use crate::{
    domain::{Domain, Edit, Effects, View, intents::Intent},
    error::{Area, Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::{plan, scope::Scope},
        holdings::net::ports,
        operation::Context,
        run::guest::Guest,
    },
};
/// Changes an interface to what is wanted: its link in a running guest, all of it in a stored configuration.
///
/// # Errors
/// `DeviceMissing`, `OperationUnsupported` for anything but the link of a running guest, what QEMU refuses.
pub(crate) async fn update(
    driver: &Arc<Driver>,
    domain: &Domain,
    new: Interface,
    scope: Scope,
    conditions: &Conditions,
) -> Result<()> {
    change::make(driver, domain, &new, scope, conditions).await
}

impl Change for Interface {
    type Live = Link;

    const KIND: &'static str = "set-link";

    async fn in_stored(
        &self,
        _: &Arc<Driver>,
        mut document: Box<domxml::Domain>,
    ) -> Result<Box<domxml::Domain>> {
        let wanted = without_name(self.clone());
        let place = find(&mut document.devices.interfaces, &wanted)?;
        // Another model may need another place.
        let stays = place.model == wanted.model;
        let address = place.info.address.clone().filter(|_| stays);
        *place = wanted;
        place.info.address = place.info.address.take().or(address);
        Ok(document)
    }

    async fn in_live(&self, driver: &Arc<Driver>, view: &View) -> Result<Link> {
        let wanted = complete(driver, view, self).await?;
        let interface = find_live(view, self)?;
        hotplug::check_kept(DeviceRef::Interface(&interface), DeviceRef::Interface(self))?;
        let mut others = domxml::Domain::clone(&view.running()?.document.domain);
        others
            .devices
            .interfaces
            .retain(|other| other.info.alias != interface.info.alias);
        hotplug::check_boot_order(&others, &Device::Interface(Box::new(self.clone())))?;
        Ok(Link {
            guest: driver.guests.of(view)?,
            alias: interface.info.alias.clone().unwrap_or_default(),
            up: interface.link != Some(LinkState::Down),
            rewire: what_changes(driver, interface, &wanted).await?,
            new: wanted,
        })
    }
}

/// The link of a running guest's interface.
pub(super) struct Link {
    guest: Arc<Guest>,
    alias: String,
    /// As it is before the change.
    up: bool,
    /// The interface as it is to be.
    new: Interface,
    /// More than the link changes.
    rewire: Option<Rewire>,
}

impl Live for Link {
    /// The link alone is changed in the document of a run.
    fn edit(&self) -> Edit {
        if self.rewire.is_some() {
            return Edit::none();
        }
        let new = self.new.clone();
        Edit::live(move |document| {
            let place = find(&mut document.devices.interfaces, &new)?;
            place.link = new.link;
            Ok(())
        })
    }

    async fn carry_out(self, context: &Context, (stored, effects): (Edit, Effects)) -> Result<()> {
        let edit = stored.and(self.edit());
        let Self {
            guest,
            alias,
            up,
            new,
            rewire,
        } = self;
        if let Some(rewire) = rewire {
            return rewire.carry_out(context, &guest, (edit, effects)).await;
        }
        context.intend(Intent::SetLink { alias: alias.clone() }).await?;
        let (again, name) = (Arc::clone(&guest), alias.clone());
        let reversal = async move { set(&again, name, up).await };
        let is_up = new.link != Some(LinkState::Down);
        context
            .step("the link", set(&guest, alias, is_up), reversal)
            .await?;
        context.commit(edit, effects).await.map(drop)
    }
}

/// The interface as one of the running guest, complete and checked by itself. What the document does not say of place and
/// host's end is not made up.
async fn complete(driver: &Arc<Driver>, view: &View, given: &Interface) -> Result<Interface> {
    let def = &view.running()?.document.domain;
    let device = Device::Interface(Box::new(given.clone()));
    let pass = move |caps: &Caps, context: &mut Filling<'_>| hotplug::complete(def, device, caps, context);
    let Device::Interface(mut complete) = plan::with_caps(driver, def, pass).await? else {
        return Err(Error::internal("the device got lost"));
    };
    complete.info.address = given.info.address.clone().filter(|_| given.info.pci().is_some());
    Ok(*complete)
}

/// A name that the run made up is in no stored document.
fn without_name(mut interface: Interface) -> Interface {
    if !interface.info.has_user_alias() {
        interface.info.alias = None;
    }
    interface
}

fn find_live(view: &View, new: &Interface) -> Result<Interface> {
    let mut interfaces = view.running()?.document.domain.devices.interfaces.clone();
    Ok(find(&mut interfaces, new)?.clone())
}

/// Tells QEMU what an interface's link is.
///
/// # Errors
/// What QEMU refuses, or that it does not answer.
pub(crate) async fn set(guest: &Guest, name: String, up: bool) -> Result<()> {
    guest.execute(commands::SetLink { name, up }).await.map(drop)
}

/// The one interface that a document means: what it says of MAC address, place and alias is to be the same.
fn find<'a>(interfaces: &'a mut [Interface], wanted: &Interface) -> Result<&'a mut Interface> {
    let mac = |i: &Interface| i.mac.as_ref().map(|m| m.address.to_ascii_lowercase());
    let place = |i: &Interface| i.info.pci().filter(|p| !p.is_empty()).map(ToString::to_string);
    let alias = |i: &Interface| i.info.alias.clone();
    let parts = |i: &Interface| [place(i), mac(i), alias(i)];
    let same = |i: &Interface| {
        parts(wanted)
            .iter()
            .zip(parts(i))
            // A stored interface may have no name.
            .all(|(said, has)| said.is_none() || *said == has || (has.is_none() && *said == alias(wanted)))
    };
    let mut found = interfaces.iter_mut().filter(|i| same(i));
    match (found.next(), found.next()) {
        (Some(interface), None) => Ok(interface),
        (Some(_), Some(_)) => {
            Err(Error::new(Code::OperationFailed, "multiple matching devices found").in_area(Area::Domain))
        }
        (None, _) => {
            let [place, mac, alias] = parts(wanted).map(|part| part.unwrap_or_else(|| "(<null>)".to_owned()));
            let text = format!(
                "no device found at address '{place}' matching MAC address '{mac}' and alias '{alias}'"
            );
            Err(Error::new(Code::DeviceMissing, text).in_area(Area::Domain))
        }
    }
}

/// What changes beside the link.
///
/// # Errors
/// `OperationUnsupported` for what can't be changed while the guest runs; `NoNetwork`.
async fn what_changes(driver: &Driver, old: Interface, wanted: &Interface) -> Result<Option<Rewire>> {
    fixed::check(&old, wanted)?;
    match check(old, wanted) {
        Err(error) => {
            ports::look_up(driver, wanted).await?;
            Err(error)
        }
        changes => changes,
    }
}

/// What changes beside the link, whatever the network says.
///
/// # Errors
/// `OperationUnsupported` for what can't be changed while the guest runs.
fn check(old: Interface, wanted: &Interface) -> Result<Option<Rewire>> {
    fixed::check(&old, wanted)?;
    fixed::check_kind(&old, wanted)?;
    let wanted_as = comparable(wanted.clone(), wanted);
    let is_wanted = |interface: &Interface| {
        let mut shown = interface.clone();
        shown.show_actual();
        wanted_as == comparable(shown, wanted) || wanted_as == comparable(interface.clone(), wanted)
    };
    if is_wanted(&old) {
        return Ok(None);
    }
    fixed::check_host_end(&old, wanted)?;
    let mut new = old.clone();
    rewire::take_over(&mut new, wanted);
    if is_wanted(&new) {
        let moves = false;
        return Ok(Some(Rewire { old, new, moves }));
    }
    (new.kind, new.actual) = (wanted.kind, None);
    new.source.clone_from(&wanted.source);
    if let Some(source) = &mut new.source {
        forget_the_run(source, new.kind);
    }
    if is_wanted(&new) && rewire::can_move(kind(&old)) && rewire::can_move(new.kind) {
        let moves = true;
        return Ok(Some(Rewire { old, new, moves }));
    }
    Err(rewire::not_so(wanted))
}

/// An interface without what a running guest has beyond its configuration, and what need not be said.
fn comparable(mut interface: Interface, wanted: &Interface) -> Interface {
    (
        interface.actual,
        interface.private_data,
        interface.link,
        interface.info.alias,
    ) = (None, None, None, None);
    if let Some(source) = &mut interface.source {
        forget_the_run(source, interface.kind);
    }
    if let Some(mac) = &mut interface.mac {
        mac.address.make_ascii_lowercase();
        (mac.current_address, mac.kind, mac.check) = (None, None, None);
    }
    if wanted.target.is_none() {
        interface.target = None;
    }
    interface.source = interface
        .source
        .take()
        .filter(|source| *source != InterfaceSource::default());
    if wanted.info.address.is_none() {
        interface.info.address = None;
    }
    if wanted.model.is_none() {
        interface.model = None;
    }
    interface
}

/// Leaves of a source what a configuration says: a live document shows network and bridge, whichever was asked for.
fn forget_the_run(source: &mut InterfaceSource, kind: InterfaceKind) {
    (source.portid, source.mac_table_manager, source.missing) = (None, None, None);
    match kind {
        InterfaceKind::Network => source.bridge = None,
        _ => (source.network, source.portgroup) = (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "<interface type='network'><mac address='52:54:00:aa:00:01'/><source network='n' portid='p'/>\
        <actual type='bridge'><source bridge='b'/></actual><target dev='vnet5'/><model type='virtio'/><filterref filter='f'/>\
        <alias name='net0'/><address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/></interface>";

    fn interface(xml: &str, flags: domxml::ParseFlags) -> Interface {
        let text = format!("<domain type='qemu'><name>a</name><devices>{xml}</devices></domain>");
        domxml::Domain::parse(&text, flags)
            .unwrap()
            .devices
            .interfaces
            .remove(0)
    }

    #[test]
    fn nothing_but_the_link_is_changed() {
        let old = interface(LIVE, domxml::ParseFlags::ACTUAL_NET);
        assert!(old.actual.is_some());
        let shown = "<interface type='bridge'><mac address='52:54:00:AA:00:01'/><source network='n' portid='p' bridge='b'/>\
            <target dev='vnet5'/><model type='virtio'/><filterref filter='f'/><link state='down'/><alias name='net0'/>\
            <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/></interface>";
        let asked = "<interface type='network'><mac address='52:54:00:aa:00:01'/><source network='n'/><model type='virtio'/>\
            <filterref filter='f'/></interface>";
        // The interface as it was shown or asked for, what is changed in it, and what is said.
        let table = [
            (shown, ("", ""), None),
            (asked, ("", ""), None),
            (
                shown,
                ("<model type='virtio'/>", "<model type='e1000'/>"),
                Some("cannot modify network device model from virtio to e1000"),
            ),
            (
                shown,
                ("<link", "<mtu size='1300'/><link"),
                Some("cannot modify MTU"),
            ),
            (
                shown,
                ("<model", "<driver queues='2'/><model"),
                Some("cannot modify virtio network device driver attributes"),
            ),
            (
                shown,
                ("vnet5", "vnet6"),
                Some("cannot modify network device tap name"),
            ),
            (
                shown,
                ("<link", "<rom bar='off'/><link"),
                Some("cannot modify network device rom bar setting"),
            ),
            (
                shown,
                ("type='bridge'", "type='user'"),
                Some("unable to change config on 'user' network type"),
            ),
            (
                asked,
                ("<filterref", "<tune><sndbuf>1600</sndbuf></tune><filterref"),
                Some("unable to change config on 'network' network type"),
            ),
        ];
        for (xml, (before, after), said) in table {
            let wanted = interface(&xml.replace(before, after), domxml::ParseFlags::INACTIVE);
            match (check(old.clone(), &wanted), said) {
                (Ok(None), None) => {}
                (Err(error), Some(said)) => assert!(error.message.contains(said), "{error}"),
                (other, _) => panic!("{before} to {after} in {xml}: {:?}", other.err()),
            }
        }
    }

    #[test]
    fn what_the_host_has_of_it_is_changed() {
        let old = interface(LIVE, domxml::ParseFlags::ACTUAL_NET);
        let asked = "<interface type='network'><mac address='52:54:00:aa:00:01'/><source network='n'/><model type='virtio'/>\
            <filterref filter='f'/></interface>";
        let table = [
            ("<filterref filter='f'/>", "", false),
            ("<filterref filter='f'/>", "<filterref filter='g'/>", false),
            ("<filterref", "<port isolated='yes'/><filterref", false),
            (
                "<filterref",
                "<bandwidth><inbound average='7'/></bandwidth><filterref",
                false,
            ),
            (
                "<filterref",
                "<coalesce><rx><frames max='7'/></rx></coalesce><filterref",
                false,
            ),
            ("network='n'", "network='m'", true),
            (
                "type='network'><mac address='52:54:00:aa:00:01'/><source network='n'",
                "type='bridge'><mac address='52:54:00:aa:00:01'/><source bridge='c'",
                true,
            ),
        ];
        for (before, after, moves) in table {
            let wanted = interface(&asked.replace(before, after), domxml::ParseFlags::INACTIVE);
            let rewire = check(old.clone(), &wanted).unwrap().expect(after);
            assert_eq!(rewire.moves, moves, "{after}");
            // What is the guest's stays.
            assert_eq!(
                (&rewire.new.target, &rewire.new.info),
                (&old.target, &old.info),
                "{after}"
            );
            assert_eq!(rewire.new.actual.is_some(), !moves, "{after}");
        }
    }

    #[test]
    fn an_interface_is_found_by_all_that_is_said_of_it() {
        let second =
            "<interface type='user'><mac address='52:54:00:aa:00:02'/><alias name='ua-2'/></interface>";
        let mut all = [
            interface(LIVE, domxml::ParseFlags::ACTUAL_NET),
            interface(second, domxml::ParseFlags::NONE),
        ];
        let none = |place: &str, mac: &str, alias: &str| {
            Err(format!(
                "no device found at address '{place}' matching MAC address '{mac}' and alias '{alias}'"
            ))
        };
        let cases = [
            ("<mac address='52:54:00:AA:00:01'/>", Ok("vnet5")),
            ("<alias name='ua-2'/>", Ok("")),
            (
                "<mac address='52:54:00:aa:00:01'/><alias name='ua-2'/>",
                none("(<null>)", "52:54:00:aa:00:01", "ua-2"),
            ),
            (
                "<mac address='52:54:00:aa:00:02'/><address type='pci' domain='0' bus='5' slot='0' function='0'/>",
                none("0000:05:00.0", "52:54:00:aa:00:02", "(<null>)"),
            ),
        ];
        for (said, expected) in cases {
            let wanted = interface(
                &format!("<interface type='user'>{said}</interface>"),
                domxml::ParseFlags::INACTIVE,
            );
            let found = find(&mut all, &wanted).map_err(|e| e.message.into_owned());
            let found = found.map(|i| {
                i.target
                    .as_ref()
                    .and_then(|t| t.dev.as_deref())
                    .unwrap_or_default()
            });
            assert_eq!(found, expected, "{said}");
        }
        let any = Interface::default();
        assert_eq!(
            find(&mut all, &any).unwrap_err().message,
            "multiple matching devices found"
        );
    }
}
