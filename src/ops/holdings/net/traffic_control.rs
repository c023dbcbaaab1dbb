//! Limits of an interface's traffic on the host: by `tc` on its device, or by Open vSwitch on its port.

use std::time::Duration;

use domxml::devices::{Bandwidth, Interface, InterfaceKind, Rate};
use qemu_plan::command::net::kind;
use uuid::Uuid;

use crate::{
    error::Result,
    ops::{holdings::net::openvswitch, host::programs},
};

/// How long one call of `tc` may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of a frame, by which a share of the sender's turn is reckoned.
pub(crate) const FRAME: u64 = 1500;

/// Puts the limits of an interface on its device, if it has any.
///
/// # Errors
/// `Internal` with the words of `tc`.
pub(crate) async fn put_on(interface: &Interface, device: &str, guest: Uuid) -> Result<()> {
    match limits_of(interface) {
        Some(limits) => {
            Device::of(interface, device, guest)
                .limit(&of_device(interface, limits))
                .await
        }
        None => Ok(()),
    }
}

/// The limits of the device on the host, as if it were a TAP device. A macvtap is seen from the guest's side: what the guest
/// sends, it sends.
pub(crate) fn of_device(interface: &Interface, limits: &Bandwidth) -> Bandwidth {
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

/// Replaces all limits of a device.
pub(crate) async fn apply(device: &str, limits: &Bandwidth) -> Result<()> {
    for arguments in ["qdisc del dev DEV root", "qdisc del dev DEV ingress"] {
        // There may be none.
        let _ = tc(&words(arguments, device)).await;
    }
    for arguments in commands(limits) {
        tc(&words(&arguments, device)).await?;
    }
    Ok(())
}

pub(crate) fn words(arguments: &str, device: &str) -> Vec<String> {
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
pub(crate) fn commands(limits: &Bandwidth) -> Vec<String> {
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

pub(crate) async fn tc(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    programs::run("tc", &words, DEADLINE, "limiting traffic").await
}

/// Who limits a device on the host.
#[derive(Clone, Debug)]
pub(crate) enum Device {
    /// The kernel.
    Kernel(String),
    /// Open vSwitch.
    Switch(openvswitch::Port),
}

impl Device {
    pub(crate) fn of(interface: &Interface, name: &str, guest: Uuid) -> Self {
        let device = name.to_owned();
        if openvswitch::is_port(interface) {
            Self::Switch(openvswitch::Port { device, guest })
        } else {
            Self::Kernel(device)
        }
    }

    /// Replaces all limits.
    pub(crate) async fn limit(&self, limits: &Bandwidth) -> Result<()> {
        match self {
            Self::Kernel(device) => apply(device, limits).await,
            Self::Switch(port) => port.limit(limits).await,
        }
    }
}

/// The limits that hold: what the network gave, or the interface's own.
pub(crate) fn limits_of(interface: &Interface) -> Option<&Bandwidth> {
    let given = interface.actual.as_ref().and_then(|a| a.bandwidth.as_ref());
    given.or(interface.bandwidth.as_ref())
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
