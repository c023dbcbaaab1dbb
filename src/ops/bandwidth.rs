//! Limits of what a guest's interfaces receive and send.
//!
//! Called by the Devices service, by a start, and after a restart of the daemon. Limits are put on the host's end of the
//! plug, where directions are the other way round: what the guest receives is what its TAP device sends. The kernel is told
//! through `tc`. All limits of a device are replaced at once; what is about to be done is noted first, and a daemon that
//! finds the note puts on what the document has.

use std::{process::Stdio, sync::Arc, time::Duration};

use domxml::devices::{Bandwidth, Interface, InterfaceKind, Rate};

use qemu_plan::command::net::kind;
use uuid::Uuid;

use super::{
    Conditions, Driver,
    configure::{self, Scope, Which},
    guest::Guest,
    openvswitch,
};
use crate::{
    domain::{Document, Domain, Effects, Either, Job, Stored, View, jobs::Kind, jobs::Want},
    error::{Area, Code, Error, Result},
};

/// The intent to change limits.
const INTENT: &str = "limit-interface";
/// How long one call of `tc` may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a frame, by which a share of the sender's turn is reckoned.
const FRAME: u64 = 1500;

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
    let document = configure::read(view, scope)?.domain()?;
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

/// Puts the limits of an interface on its device, if it has any.
///
/// # Errors
/// `Internal` with the words of `tc`.
pub(super) async fn put_on(interface: &Interface, device: &str, guest: Uuid) -> Result<()> {
    match limits_of(interface) {
        Some(limits) => {
            Device::of(interface, device, guest)
                .limit(&of_device(interface, limits))
                .await
        }
        None => Ok(()),
    }
}

/// Ends a change that another daemon left in the midst: the devices have the limits of the document.
pub(super) async fn settle(driver: &Arc<Driver>, guest: &Arc<Guest>) {
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

/// Who limits a device on the host.
#[derive(Debug)]
enum Device {
    /// The kernel.
    Kernel(String),
    /// Open vSwitch.
    Switch(openvswitch::Port),
}

impl Device {
    fn of(interface: &Interface, name: &str, guest: Uuid) -> Self {
        let device = name.to_owned();
        if openvswitch::is_port(interface) {
            Self::Switch(openvswitch::Port { device, guest })
        } else {
            Self::Kernel(device)
        }
    }

    /// Replaces all limits.
    async fn limit(&self, limits: &Bandwidth) -> Result<()> {
        match self {
            Self::Kernel(device) => apply(device, limits).await,
            Self::Switch(port) => port.limit(limits).await,
        }
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

/// The limits that hold: what the network gave, or the interface's own.
fn limits_of(interface: &Interface) -> Option<&Bandwidth> {
    let given = interface.actual.as_ref().and_then(|a| a.bandwidth.as_ref());
    given.or(interface.bandwidth.as_ref())
}

/// The limits of the device on the host, as if it were a TAP device. A macvtap is seen from the guest's side: what the guest
/// sends, it sends.
fn of_device(interface: &Interface, limits: &Bandwidth) -> Bandwidth {
    let Bandwidth {
        inbound,
        outbound,
        class_id,
    } = limits.clone();
    match kind(interface) {
        InterfaceKind::Direct => Bandwidth {
            inbound: outbound,
            outbound: inbound,
            class_id,
        },
        _ => Bandwidth {
            inbound,
            outbound,
            class_id,
        },
    }
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

/// Replaces all limits of a device.
async fn apply(device: &str, limits: &Bandwidth) -> Result<()> {
    for arguments in ["qdisc del dev DEV root", "qdisc del dev DEV ingress"] {
        // There may be none.
        let _ = tc(&words(arguments, device)).await;
    }
    for arguments in commands(limits) {
        tc(&words(&arguments, device)).await?;
    }
    Ok(())
}

fn words(arguments: &str, device: &str) -> Vec<String> {
    arguments
        .split(' ')
        .map(|word| {
            if word == "DEV" {
                device.to_owned()
            } else {
                word.to_owned()
            }
        })
        .collect()
}

/// What `tc` is told of a device without limits, named DEV. Rates are KiB a second, which it calls "kbps".
fn commands(limits: &Bandwidth) -> Vec<String> {
    let average = |rate: Option<&Rate>| rate.and_then(|r| r.average).filter(|n| *n > 0);
    let (inbound, outbound) = (limits.inbound.as_ref(), limits.outbound.as_ref());
    let mut all = Vec::new();
    if let Some((rate, kib)) = inbound.zip(average(inbound)) {
        let peak = rate
            .peak
            .filter(|n| *n > 0)
            .map(|n| format!(" ceil {n}kbps"))
            .unwrap_or_default();
        let burst = rate
            .burst
            .filter(|n| *n > 0)
            .map(|n| format!(" burst {n}kb"))
            .unwrap_or_default();
        let quantum = (kib.saturating_mul(1024) / 8 / FRAME).max(1);
        all.push("qdisc add dev DEV root handle 1: htb default 1".to_owned());
        all.push(format!(
            "class add dev DEV parent 1: classid 1:1 htb rate {kib}kbps{peak}{burst} quantum {quantum}"
        ));
        all.push("qdisc add dev DEV parent 1:1 handle 2: sfq perturb 10".to_owned());
        all.push("filter add dev DEV parent 1:0 protocol all prio 1 handle 1 fw flowid 1".to_owned());
    }
    if let Some((rate, kib)) = outbound.zip(average(outbound)) {
        let burst = rate.burst.filter(|n| *n > 0).unwrap_or(kib);
        all.push("qdisc add dev DEV ingress".to_owned());
        let police = format!("police rate {kib}kbps burst {burst}kb mtu 64kb drop flowid :1");
        all.push(format!(
            "filter add dev DEV parent ffff: protocol all u32 match u32 0 0 {police}"
        ));
    }
    if average(inbound).is_none() {
        all.push("qdisc add dev DEV root handle 0: noqueue".to_owned());
    }
    all
}

async fn tc(arguments: &[String]) -> Result<()> {
    let failed = |what: String| Error::internal(format!("Child process (tc {}) {what}", arguments.join(" ")));
    let child = tokio::process::Command::new("tc")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, child).await;
    let output = output.map_err(|_| failed(format!("did not end within {} s", DEADLINE.as_secs())))?;
    let output = output.map_err(|error| {
        failed(format!("can't be run: {error}; limits need it installed")).caused_by(error)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr)
        .chars()
        .take(500)
        .collect::<String>();
    let status = output
        .status
        .code()
        .map_or_else(|| output.status.to_string(), |code| format!("exit status {code}"));
    Err(failed(format!("unexpected {status}: {words}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_sends_its_macvtap_sends() {
        let limits = Bandwidth {
            inbound: Some(rate(1, 0, 0)),
            outbound: Some(rate(2, 0, 0)),
            class_id: None,
        };
        for (kind, inbound) in [
            (InterfaceKind::Bridge, 1),
            (InterfaceKind::Ethernet, 1),
            (InterfaceKind::Direct, 2),
        ] {
            let interface = Interface {
                kind,
                ..Interface::default()
            };
            assert_eq!(
                of_device(&interface, &limits).inbound,
                Some(rate(inbound, 0, 0)),
                "{kind:?}"
            );
        }
    }

    fn rate(average: u64, peak: u64, burst: u64) -> Rate {
        let given = |n: u64| (n > 0).then_some(n);
        Rate {
            average: given(average),
            peak: given(peak),
            burst: given(burst),
            floor: None,
        }
    }

    #[test]
    fn the_kernel_is_told_of_limits_as_libvirt_tells_it() {
        let (htb, sfq) = (
            "qdisc add dev DEV root handle 1: htb default 1",
            "qdisc add dev DEV parent 1:1 handle 2: sfq perturb 10",
        );
        let mark = "filter add dev DEV parent 1:0 protocol all prio 1 handle 1 fw flowid 1";
        let police = "filter add dev DEV parent ffff: protocol all u32 match u32 0 0 police rate";
        let outward = format!("{police} 128kbps burst 128kb mtu 64kb drop flowid :1");
        let both = Bandwidth {
            inbound: Some(rate(100, 200, 300)),
            outbound: Some(rate(128, 0, 0)),
            class_id: None,
        };
        let class =
            "class add dev DEV parent 1: classid 1:1 htb rate 100kbps ceil 200kbps burst 300kb quantum 8";
        assert_eq!(
            commands(&both),
            [htb, class, sfq, mark, "qdisc add dev DEV ingress", &outward]
        );
        let slow = Bandwidth {
            inbound: Some(rate(5, 0, 0)),
            ..Bandwidth::default()
        };
        let class = "class add dev DEV parent 1: classid 1:1 htb rate 5kbps quantum 1";
        assert_eq!(commands(&slow), [htb, class, sfq, mark]);
        let out = Bandwidth {
            outbound: Some(rate(5, 6, 7)),
            ..Bandwidth::default()
        };
        let outward = format!("{police} 5kbps burst 7kb mtu 64kb drop flowid :1");
        assert_eq!(
            commands(&out),
            [
                "qdisc add dev DEV ingress",
                &outward,
                "qdisc add dev DEV root handle 0: noqueue"
            ]
        );
    }
}
