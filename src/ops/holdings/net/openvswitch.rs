//! Ports of Open vSwitch: bridges that are programs' and not the kernel's.
//!
//! Everything goes through `ovs-vsctl`, as with libvirt: what a controller of the switch looks for is said of a port in the
//! same words. A port stays in the switch's database when its device is gone; so it is noted before it is made
//! ([`crate::ops::holdings::ledger`]) and removed when a start fails or a run ends, with the limits that were put on it.

use std::{process::Stdio, time::Duration};

use domxml::devices::{
    Bandwidth, Interface, InterfaceKind, NativeMode, Rate, VirtualPort, VirtualPortKind, Vlan, YesNo,
};
use qemu_plan::command::net::kind;
use uuid::Uuid;

use crate::error::{Error, Result};

const PROGRAM: &str = "ovs-vsctl";
/// How long the switch may take, in the program's words.
const TIMEOUT: &str = "--timeout=5";
/// How long the program may take, which gives up before.
const DEADLINE: Duration = Duration::from_secs(20);
/// Characters of the program's messages that are shown.
const SAID_MAX: usize = 500;
/// Bits a second in a KiB a second, as the switch's tools reckon; bits in a KiB; and kilobits in a KiB.
const BITS_OF_RATE: u64 = 8_000;
const BITS_OF_BURST: u64 = 8_192;
const KILOBITS: u64 = 8;

/// A port that was made, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    /// The device.
    pub(crate) device: String,
    /// The guest, of whom the switch's database knows.
    pub(crate) guest: Uuid,
}

/// The virtual port that holds for an interface: what its network gave, or its own.
pub(crate) fn virtual_port(interface: &Interface) -> Option<&VirtualPort> {
    interface
        .actual
        .as_ref()
        .map_or(interface.virtualport.as_ref(), |actual| {
            actual.virtualport.as_ref()
        })
}

/// The tags that hold for an interface: what its network gave, or its own.
pub(crate) fn vlan(interface: &Interface) -> Option<&Vlan> {
    let vlan = interface
        .actual
        .as_ref()
        .map_or(interface.vlan.as_ref(), |actual| actual.vlan.as_ref());
    vlan.filter(|vlan| !vlan.tags.is_empty())
}

/// Whether an interface is plugged into a switch of this kind.
pub(crate) fn is_port(interface: &Interface) -> bool {
    let bridged = matches!(kind(interface), InterfaceKind::Bridge | InterfaceKind::Network);
    bridged && virtual_port(interface).and_then(|port| port.kind) == Some(VirtualPortKind::Openvswitch)
}

impl Port {
    /// The one that an interface of a run has.
    pub(crate) fn of(interface: &Interface, guest: Uuid) -> Option<Self> {
        let device = interface
            .target
            .as_ref()
            .and_then(|t| t.dev.clone())
            .filter(|_| is_port(interface))?;
        Some(Self { device, guest })
    }

    /// Makes the device a port of a bridge.
    ///
    /// # Errors
    /// `Internal` with the program's words, or that it can't be run.
    pub(crate) async fn add(&self, interface: &Interface, bridge: &str) -> Result<()> {
        let failed = |error: Error| {
            Error::internal(format!(
                "Unable to add port {} to OVS bridge {bridge}: {}",
                self.device, error.message
            ))
            .caused_by(error)
        };
        run(&self.add_words(interface, bridge))
            .await
            .map(drop)
            .map_err(failed)
    }

    fn add_words(&self, interface: &Interface, bridge: &str) -> Vec<String> {
        let device = self.device.as_str();
        let parameters = virtual_port(interface)
            .and_then(|port| port.parameters.clone())
            .unwrap_or_default();
        let mac = interface
            .mac
            .as_ref()
            .map(|mac| mac.address.as_str())
            .unwrap_or_default();
        let mut all = words(&[
            "--",
            "--may-exist",
            "add-port",
            bridge,
            device,
            "--",
            "set",
            "Port",
            device,
            "other_config:transient=true",
        ]);
        all.extend(vlan(interface).map(vlan_words).unwrap_or_default());
        let mut say = |what: String| all.extend(words(&["--", "set", "Interface", device, &what]));
        say(format!("external-ids:attached-mac=\"{mac}\""));
        say(format!(
            "external-ids:iface-id=\"{}\"",
            parameters.interfaceid.unwrap_or_default()
        ));
        say(format!("external-ids:vm-id=\"{}\"", self.guest));
        if let Some(profile) = parameters.profileid.filter(|profile| !profile.is_empty()) {
            say(format!("external-ids:port-profile=\"{profile}\""));
            say(format!("external-ids:ifname=\"{device}\""));
        }
        say("external-ids:iface-status=active".to_owned());
        all
    }

    /// Removes the port and its limits. One that is gone is removed.
    ///
    /// # Errors
    /// `Internal` with the program's words.
    pub(crate) async fn remove(&self) -> Result<()> {
        let lifted = self.lift().await;
        let removed = run(&words(&["--", "--if-exists", "del-port", &self.device])).await;
        removed.map_err(|error| {
            Error::internal(format!(
                "Unable to delete port {} from OVS: {}",
                self.device, error.message
            ))
        })?;
        lifted
    }

    /// Replaces all limits of the port.
    ///
    /// # Errors
    /// `Internal` with the program's words.
    pub(crate) async fn limit(&self, limits: &Bandwidth) -> Result<()> {
        self.lift().await?;
        for words in self.limit_words(limits) {
            run(&words).await?;
        }
        Ok(())
    }

    fn limit_words(&self, limits: &Bandwidth) -> Vec<Vec<String>> {
        let device = self.device.as_str();
        let of = |rate: &Option<Rate>| {
            rate.clone()
                .filter(|rate| rate.average.is_some_and(|average| average > 0))
        };
        let mut all = Vec::new();
        if let Some(rate) = of(&limits.inbound) {
            let shape = shape_words(&rate);
            let own = self.own_words();
            let parts: [&[String]; 8] = [
                &words(&["set", "port", device, "qos=@qos1"]),
                &own,
                &words(&["--", "--id=@qos1", "create", "qos", "type=linux-htb"]),
                &shape,
                &words(&["queues:0=@queue0"]),
                &own,
                &words(&["--", "--id=@queue0", "create", "queue"]),
                &shape,
            ];
            all.push([parts.concat(), own.to_vec()].concat());
        }
        if let Some(rate) = of(&limits.outbound) {
            let mut set = words(&["set", "Interface", device]);
            set.push(format!(
                "ingress_policing_rate={}",
                rate.average.unwrap_or(0).saturating_mul(KILOBITS)
            ));
            set.extend(
                rate.burst
                    .map(|burst| format!("ingress_policing_burst={}", burst.saturating_mul(KILOBITS))),
            );
            all.push(set);
        }
        all
    }

    /// By what the switch's database knows whose an entry is.
    fn own_words(&self) -> Vec<String> {
        vec![
            format!("external-ids:vm-id=\"{}\"", self.guest),
            format!("external-ids:ifname=\"{}\"", self.device),
        ]
    }

    /// Takes all limits off.
    async fn lift(&self) -> Result<()> {
        let device = self.device.as_str();
        let (shapes, queues) = (self.find("qos").await?, self.find("queue").await?);
        for id in &shapes {
            run(&words(&["--if-exists", "remove", "port", device, "qos", id])).await?;
            run(&words(&["destroy", "qos", id])).await?;
        }
        for id in &queues {
            run(&words(&["destroy", "queue", id])).await?;
        }
        let free = [
            "--if-exists",
            "set",
            "Interface",
            device,
            "ingress_policing_rate=0",
            "ingress_policing_burst=0",
        ];
        run(&words(&free)).await.map(drop)
    }

    /// The entries of a table that are this port's.
    async fn find(&self, table: &str) -> Result<Vec<String>> {
        let found = run(&[
            words(&["--no-heading", "--columns=_uuid", "find", table]),
            self.own_words(),
        ]
        .concat())
        .await?;
        Ok(found
            .lines()
            .map(str::trim)
            .filter(|line| Uuid::try_parse(line).is_ok())
            .map(str::to_owned)
            .collect())
    }
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

/// What is said of a port's tags.
fn vlan_words(vlan: &Vlan) -> Vec<String> {
    let native = vlan
        .tags
        .iter()
        .find_map(|tag| tag.native_mode.map(|mode| (tag.id, mode)));
    let mut all = Vec::new();
    if let Some((id, mode)) = native {
        let mode = match mode {
            NativeMode::Tagged => "native-tagged",
            NativeMode::Untagged => "native-untagged",
        };
        all.extend([format!("vlan_mode={mode}"), format!("tag={id}")]);
    }
    let ids: Vec<String> = vlan.tags.iter().map(|tag| tag.id.to_string()).collect();
    let is_trunk = vlan.trunk == Some(YesNo::Yes) || ids.len() > 1;
    all.push(if is_trunk {
        format!("trunk={}", ids.join(","))
    } else {
        format!("tag={}", ids.join(","))
    });
    all
}

fn shape_words(rate: &Rate) -> Vec<String> {
    let parts = [
        ("min-rate", rate.average, BITS_OF_RATE),
        ("burst", rate.burst, BITS_OF_BURST),
        ("max-rate", rate.peak, BITS_OF_RATE),
    ];
    let given = parts
        .into_iter()
        .filter_map(|(name, value, bits)| Some((name, value.filter(|v| *v > 0)?.saturating_mul(bits))));
    given
        .map(|(name, bits)| format!("other_config:{name}={bits}"))
        .collect()
}

/// What the program prints.
async fn run(arguments: &[String]) -> Result<String> {
    let mut command = tokio::process::Command::new(PROGRAM);
    let child = command
        .arg(TIMEOUT)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, child).await;
    let output = output
        .map_err(|_| Error::internal(format!("{PROGRAM} did not end within {} s", DEADLINE.as_secs())))?;
    let output = output
        .map_err(|error| Error::internal(format!("{PROGRAM} can't be run: {error}")).caused_by(error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said: String = String::from_utf8_lossy(&output.stderr)
        .trim()
        .chars()
        .take(SAID_MAX)
        .collect();
    Err(Error::internal(if said.is_empty() {
        format!("{PROGRAM}: {}", output.status)
    } else {
        said
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: &str = "ff917d13-6344-4067-92fd-469925af8186";

    fn interface(inside: &str) -> Interface {
        let text = format!(
            "<domain type='qemu'><name>a</name><devices><interface type='bridge'><mac address='52:54:00:aa:01:02'/><source bridge='b'/>\
             {inside}<target dev='mine'/></interface></devices></domain>"
        );
        domxml::Domain::parse(&text, domxml::ParseFlags::ACTUAL_NET)
            .unwrap()
            .devices
            .interfaces
            .remove(0)
    }

    fn port() -> Port {
        Port {
            device: "mine".to_owned(),
            guest: GUEST.parse().unwrap(),
        }
    }

    #[test]
    fn a_port_is_added_in_libvirts_words() {
        let id = "interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'";
        let told = |vlan: &str, more: &str| {
            let inside =
                format!("{vlan}<virtualport type='openvswitch'><parameters {id}{more}/></virtualport>");
            port().add_words(&interface(&inside), "br").join(" ")
        };
        let added = |vlan: &str, more: &str| {
            let set = "-- set Interface mine external-ids:";
            format!(
                "-- --may-exist add-port br mine -- set Port mine other_config:transient=true{vlan} {set}attached-mac=\"52:54:00:aa:01:02\" \
                 {set}iface-id=\"09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f\" {set}vm-id=\"{GUEST}\"{more} {set}iface-status=active"
            )
        };
        let profile = " -- set Interface mine external-ids:port-profile=\"prof\" -- set Interface mine external-ids:ifname=\"mine\"";
        assert_eq!(told("", ""), added("", ""));
        assert_eq!(told("", " profileid='prof'"), added("", profile));
        // Tags, and what is said of them.
        let table = [
            ("<vlan><tag id='9'/></vlan>", " tag=9"),
            ("<vlan trunk='yes'><tag id='4'/></vlan>", " trunk=4"),
            (
                "<vlan trunk='yes'><tag id='4'/><tag id='5'/></vlan>",
                " trunk=4,5",
            ),
            (
                "<vlan trunk='yes'><tag id='4' nativeMode='tagged'/><tag id='5'/></vlan>",
                " vlan_mode=native-tagged tag=4 trunk=4,5",
            ),
            (
                "<vlan trunk='yes'><tag id='42'/><tag id='47' nativeMode='untagged'/></vlan>",
                " vlan_mode=native-untagged tag=47 trunk=42,47",
            ),
        ];
        for (vlan, words) in table {
            assert_eq!(told(vlan, ""), added(words, ""), "{vlan}");
        }
    }

    #[test]
    fn limits_are_put_on_in_libvirts_words() {
        let rate = |average, peak, burst| {
            Some(Rate {
                average: Some(average),
                peak,
                burst,
                floor: None,
            })
        };
        let limits = Bandwidth {
            inbound: rate(100, Some(200), Some(300)),
            outbound: rate(128, Some(300), Some(400)),
            class_id: None,
        };
        let told: Vec<String> = port()
            .limit_words(&limits)
            .into_iter()
            .map(|words| words.join(" "))
            .collect();
        let shape = "other_config:min-rate=800000 other_config:burst=2457600 other_config:max-rate=1600000";
        let own = format!("external-ids:vm-id=\"{GUEST}\" external-ids:ifname=\"mine\"");
        let inbound = format!(
            "set port mine qos=@qos1 {own} -- --id=@qos1 create qos type=linux-htb {shape} queues:0=@queue0 {own} -- --id=@queue0 create \
             queue {shape} {own}"
        );
        assert_eq!(
            told,
            [
                inbound,
                "set Interface mine ingress_policing_rate=1024 ingress_policing_burst=3200".to_owned()
            ]
        );
        let slow = Bandwidth {
            outbound: rate(100, None, None),
            ..Bandwidth::default()
        };
        assert_eq!(
            port().limit_words(&slow),
            [words(&["set", "Interface", "mine", "ingress_policing_rate=800"])]
        );
    }

    #[test]
    fn only_bridged_interfaces_are_ports() {
        let vport = "<virtualport type='openvswitch'/>";
        let guest: Uuid = GUEST.parse().unwrap();
        assert_eq!(Port::of(&interface(vport), guest), Some(port()));
        assert_eq!(Port::of(&interface(""), guest), None);
        let direct = Interface {
            kind: InterfaceKind::Direct,
            ..interface(vport)
        };
        assert_eq!(Port::of(&direct, guest), None);
    }
}
