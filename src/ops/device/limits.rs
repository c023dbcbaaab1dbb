//! Limits of what a guest's interfaces receive and send.
//!
//! Called by the Devices service, by a start, and after a restart of the daemon. Limits are put on the host's end of the
//! plug, where directions are the other way round: what the guest receives is what its TAP device sends. The kernel is told
//! through `tc`. All limits of a device are replaced at once; what is about to be done is noted first, and a daemon that
//! finds the note puts on what the document has.

use std::sync::Arc;

use domxml::devices::{Bandwidth, Interface, InterfaceKind, Rate};
use qemu_plan::command::net::kind;

use crate::{
    domain::{
        Document, Domain, Effects, Either, Job, Stored, View,
        jobs::{Kind, Want},
    },
    error::{Area, Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::scope::{self, Scope, Which},
        holdings::net::traffic_control::{Device, limits_of, of_device},
        run::guest::Guest,
    },
};

/// The intent to change limits.
const INTENT: &str = "limit-interface";

/// What is wanted. A rate that is given replaces what there is; one without average and floor takes it away.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Name or MAC address of the interface.
    pub interface: String,
    /// What the guest receives.
    pub inbound: Option<Rate>,
    /// What the guest sends.
    pub outbound: Option<Rate>,
}

/// The limits of an interface.
///
/// # Errors
/// `InvalidArg` if there is none of that name, `OperationInvalid` if the guest has no such configuration.
pub fn read(view: &View, scope: Scope, name: &str) -> Result<Bandwidth> {
    let document = scope::read(view, scope)?.domain()?;
    let interface = document
        .devices
        .interfaces
        .iter()
        .find(|i| is_named(i, name))
        .ok_or_else(|| unknown(name))?;
    Ok(limits_of(interface).cloned().unwrap_or_default())
}

/// Changes the limits of an interface.
///
/// # Errors
/// As [`read`]; `ConfigUnsupported` for an interface of a running guest that has no device on the host, `Internal` with the
/// words of `tc`. Nothing is changed then.
pub async fn set(
    driver: &Arc<Driver>,
    domain: &Domain,
    scope: Scope,
    wanted: Wanted,
    conditions: &Conditions,
) -> Result<()> {
    let job = domain.job(Want::Plain(Kind::Modify)).await?;
    let view = job.view();
    conditions.check(&view)?;
    let which = Which::of(scope, &view)?;
    let live = if which.live {
        Some(Live::of(driver, &view, &wanted)?)
    } else {
        None
    };
    let config = view.config.as_ref().filter(|_| which.config);
    let stored = config
        .map(|config| changed(Either::Stored(config), &wanted))
        .transpose()?;
    let stored = stored.map(|document| Stored::new(&document));
    if conditions.trial {
        return Ok(());
    }
    let owned = Arc::clone(driver);
    driver
        .tracked(Box::pin(async move {
            match live {
                Some(live) => Box::pin(live.carry_out(&owned, &job, stored)).await,
                None => job
                    .commit(move |view| Ok(follow(view, stored, None)))
                    .await
                    .map(drop),
            }
        }))
        .await
}

/// Ends a change that another daemon left in the midst: the devices have the limits of the document.
pub(crate) async fn settle(driver: &Arc<Driver>, guest: &Arc<Guest>) {
    let (store, view) = (driver.registry.store(), guest.domain.view());
    if !store.has_intent(view.uuid, guest.id, INTENT) {
        return;
    }
    let put = async {
        for interface in view
            .running()?
            .document
            .domain
            .devices
            .interfaces
            .iter()
            .filter(|i| has_device(i))
        {
            if let Some(device) = device(interface) {
                let limits = limits_of(interface).cloned().unwrap_or_default();
                Device::of(interface, &device, view.uuid)
                    .limit(&of_device(interface, &limits))
                    .await?;
            }
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = put.await {
        tracing::error!(guest = %view.name, %error, "the limits of its interfaces could not be set right");
    }
    store.clear_intent(view.uuid, guest.id).await;
}

/// A change of a running guest's interface.
struct Live {
    guest: Arc<Guest>,
    device: Device,
    before: Bandwidth,
    after: Bandwidth,
    document: Box<domxml::Domain>,
}

impl Live {
    fn of(driver: &Arc<Driver>, view: &View, wanted: &Wanted) -> Result<Self> {
        let run = view.running()?;
        let interfaces = &run.document.domain.devices.interfaces;
        let interface = interfaces
            .iter()
            .find(|i| is_named(i, &wanted.interface))
            .ok_or_else(|| unknown(&wanted.interface))?;
        if !has_device(interface) {
            let kind = interface.kind.as_str();
            let text = format!("setting bandwidth on interfaces of type '{kind}' is not implemented yet");
            return Err(Error::new(Code::ConfigUnsupported, text));
        }
        check_floor(interface, wanted)?;
        let document = changed(Either::Live(&run.document), wanted)?;
        let after = document
            .devices
            .interfaces
            .iter()
            .find(|i| is_named(i, &wanted.interface))
            .and_then(limits_of);
        Ok(Self {
            guest: driver.guests.of(view)?,
            device: device(interface)
                .map(|name| Device::of(interface, &name, view.uuid))
                .ok_or_else(|| Error::internal("the interface has no device on the host"))?,
            before: of_device(interface, &limits_of(interface).cloned().unwrap_or_default()),
            after: of_device(interface, &after.cloned().unwrap_or_default()),
            document: Box::new(document),
        })
    }

    async fn carry_out(self, driver: &Arc<Driver>, job: &Job, stored: Option<Arc<Stored>>) -> Result<()> {
        let (store, uuid) = (driver.registry.store(), job.domain().uuid());
        store.note_intent(uuid, self.guest.id, INTENT).await;
        let document = self.document;
        let result = match self.device.limit(&self.after).await {
            Ok(()) => job
                .commit(move |view| Ok(follow(view, stored, Some(document))))
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        if result.is_err()
            && let Err(error) = self.device.limit(&self.before).await
        {
            tracing::error!(device = ?self.device, %error, "its former limits could not be put on again");
        }
        // A power-off that came meanwhile has noted its own.
        if store.has_intent(uuid, self.guest.id, INTENT) {
            store.clear_intent(uuid, self.guest.id).await;
        }
        result
    }
}

/// Only a network that routes can promise a part of what its bridge carries.
fn check_floor(interface: &Interface, wanted: &Wanted) -> Result<()> {
    if wanted
        .inbound
        .as_ref()
        .and_then(|rate| rate.floor)
        .is_none_or(|floor| floor == 0)
    {
        return Ok(());
    }
    if interface.kind == InterfaceKind::Network {
        return Err(Error::new(
            Code::OperationUnsupported,
            "changing 'floor' of an interface of a running guest is not supported yet",
        ));
    }
    let mac = interface
        .mac
        .as_ref()
        .map(|m| m.address.as_str())
        .unwrap_or_default();
    let text = format!(
        "Invalid use of 'floor' on interface with MAC address {mac} - 'floor' is only supported for interface type 'network' with \
         forward type 'nat', 'route', 'open' or none"
    );
    Err(Error::new(Code::OperationUnsupported, text))
}

fn follow(view: &mut View, stored: Option<Arc<Stored>>, live: Option<Box<domxml::Domain>>) -> Effects {
    let effects = if live.is_some() {
        Effects::none()
    } else {
        Effects::none().config_only()
    };
    if let Some((document, run)) = live.zip(view.run.as_mut()) {
        run.document = Document::live(*document);
    }
    if stored.is_some() {
        view.config = stored;
    }
    effects
}

/// A copy of the document with the limits that are wanted.
fn changed(document: Either<'_>, wanted: &Wanted) -> Result<domxml::Domain> {
    let mut document = domxml::Domain::clone(&*document.domain()?);
    let found = document
        .devices
        .interfaces
        .iter_mut()
        .find(|i| is_named(i, &wanted.interface));
    let interface = found.ok_or_else(|| unknown(&wanted.interface))?;
    let mut limits = limits_of(interface).cloned().unwrap_or_default();
    for (place, rate) in [
        (&mut limits.inbound, &wanted.inbound),
        (&mut limits.outbound, &wanted.outbound),
    ] {
        if let Some(rate) = rate {
            *place = Some(rate.clone())
                .filter(|r| r.average.is_some_and(|n| n > 0) || r.floor.is_some_and(|n| n > 0));
        }
    }
    let limits = Some(limits).filter(|l| l.inbound.is_some() || l.outbound.is_some());
    if let Some(given) = interface.actual.as_mut().filter(|a| a.bandwidth.is_some()) {
        given.bandwidth.clone_from(&limits);
    }
    interface.bandwidth = limits;
    Ok(document)
}

fn is_named(interface: &Interface, name: &str) -> bool {
    let mac = interface
        .mac
        .as_ref()
        .is_some_and(|m| m.address.eq_ignore_ascii_case(name));
    !name.is_empty() && (mac || device(interface).as_deref() == Some(name))
}

fn device(interface: &Interface) -> Option<String> {
    interface.target.as_ref().and_then(|t| t.dev.clone())
}

fn has_device(interface: &Interface) -> bool {
    matches!(
        kind(interface),
        InterfaceKind::Ethernet | InterfaceKind::Bridge | InterfaceKind::Network | InterfaceKind::Direct
    )
}

fn unknown(name: &str) -> Error {
    Error::argument(format!("'{name}' is not a known interface")).in_area(Area::Domain)
}
