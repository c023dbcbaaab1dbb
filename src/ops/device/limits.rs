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
        Domain, Edit, Effects, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Area, Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::scope::{self, Scope, Which},
        holdings::net::traffic_control::{Device, limits_of, of_device},
        operation::{Ask, Context, Operation},
    },
};

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
    let ask = Ask {
        kind: "limit-interface",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let which = Which::of(scope, &view)?;
    let (mut edit, mut live) = (Edit::none(), None);
    if which.live {
        live = Some(Live::of(&view, &wanted)?);
        let wanted = wanted.clone();
        edit = edit.and(Edit::live(move |document| change(document, &wanted)));
    }
    if which.config {
        edit = edit.and(Edit::stored(move |document| change(document, &wanted)));
    }
    edit.check(&view)?;
    if operation.is_trial() {
        return Ok(());
    }
    let work = async move |context: Arc<Context>| {
        if let Some(Live {
            device,
            name,
            before,
            after,
        }) = live
        {
            context.intend(Intent::LimitInterface { device: name }).await?;
            let again = device.clone();
            context
                .step("the limits", device.limit(&after), async move {
                    again.limit(&before).await
                })
                .await?;
        }
        context.commit(edit, Effects::none()).await.map(drop)
    };
    operation.carry_out(|context| Box::pin(work(context))).await
}

/// Puts on an interface's device what the document of its run says, after a change that was cut off.
///
/// # Errors
/// What the kernel or the switch says.
pub(crate) async fn set_right(view: &View, name: &str) -> Result<()> {
    let interfaces = &view.running()?.document.domain.devices.interfaces;
    let Some(interface) = interfaces
        .iter()
        .find(|i| has_device(i) && device(i).as_deref() == Some(name))
    else {
        return Ok(());
    };
    let limits = limits_of(interface).cloned().unwrap_or_default();
    Device::of(interface, name, view.uuid)
        .limit(&of_device(interface, &limits))
        .await
}

/// A change of a running guest's interface.
struct Live {
    device: Device,
    name: String,
    before: Bandwidth,
    after: Bandwidth,
}

impl Live {
    fn of(view: &View, wanted: &Wanted) -> Result<Self> {
        let run = view.running()?;
        let interfaces = &run.document.domain.devices.interfaces;
        let interface = interfaces
            .iter()
            .find(|i| is_named(i, &wanted.interface))
            .ok_or_else(|| unknown(&wanted.interface))?;
        check_kind(interface)?;
        check_floor(interface, wanted)?;
        let name =
            device(interface).ok_or_else(|| Error::internal("the interface has no device on the host"))?;
        let before = limits_of(interface).cloned().unwrap_or_default();
        let after = wanted.on(&before).unwrap_or_default();
        Ok(Self {
            device: Device::of(interface, &name, view.uuid),
            name,
            before: of_device(interface, &before),
            after: of_device(interface, &after),
        })
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

impl Wanted {
    /// The limits after the change of `before`; none if nothing is limited then.
    fn on(&self, before: &Bandwidth) -> Option<Bandwidth> {
        let mut limits = before.clone();
        for (place, rate) in [
            (&mut limits.inbound, &self.inbound),
            (&mut limits.outbound, &self.outbound),
        ] {
            if let Some(rate) = rate {
                *place = Some(rate.clone())
                    .filter(|r| r.average.is_some_and(|n| n > 0) || r.floor.is_some_and(|n| n > 0));
            }
        }
        Some(limits).filter(|l| l.inbound.is_some() || l.outbound.is_some())
    }
}

/// Only what has a device on the host can be limited, be it running or not.
fn check_kind(interface: &Interface) -> Result<()> {
    if has_device(interface) {
        return Ok(());
    }
    let kind = interface.kind.as_str();
    let text = format!("setting bandwidth on interfaces of type '{kind}' is not implemented yet");
    Err(Error::new(Code::ConfigUnsupported, text))
}

/// Puts the limits that are wanted into a document.
fn change(document: &mut domxml::Domain, wanted: &Wanted) -> Result<()> {
    let found = document
        .devices
        .interfaces
        .iter_mut()
        .find(|i| is_named(i, &wanted.interface));
    let interface = found.ok_or_else(|| unknown(&wanted.interface))?;
    check_kind(interface)?;
    let limits = wanted.on(&limits_of(interface).cloned().unwrap_or_default());
    if let Some(given) = interface.actual.as_mut().filter(|a| a.bandwidth.is_some()) {
        given.bandwidth.clone_from(&limits);
    }
    interface.bandwidth = limits;
    Ok(())
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
