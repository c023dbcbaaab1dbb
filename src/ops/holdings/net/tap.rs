//! What is to be made on the host for one interface, and how it is made: TAP devices and macvtap devices with all their
//! queues, and the kernel's virtio back end.
//!
//! A TAP device lives as long as QEMU holds its descriptors. A macvtap has to be removed: who makes one has noted it before
//! ([`crate::ops::holdings::net::interface`]).

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use domxml::devices::{
    Interface, InterfaceKind, NativeMode, Vlan, VlanTag, YesNo, interface::MacTableManager,
};
use qemu_plan::command::net::kind;
use unixfd::{MacvtapMode, PortVlan, TapFlags};

use crate::{
    error::{Code, Error, Result},
    ops::holdings::net::{
        macvtap::{self, Macvtap, failed, plug_source},
        openvswitch,
    },
};

/// Beginnings of the names that the daemon makes up.
pub(crate) const TAP: &str = "vnet";
pub(crate) const MACVTAP: &str = "macvtap";
/// What the kernel makes a name of for a device that is asked for without one.
const OF_THE_KERNEL: &str = "tap%d";
/// Longest name of a device.
const NAME_MAX: usize = 15;
/// Names tried before giving up.
const TRIES: u32 = 10_000;
/// First byte of the addresses of the host's ends, so that a bridge never takes one of them for its own.
const OWN_MAC: u8 = 0xfe;
/// Cards that can do with packets that have a header for offloads.
const OFFLOADING: &[&str] = &[
    "virtio",
    "virtio-transitional",
    "virtio-non-transitional",
    "e1000e",
    "vmxnet3",
    "igb",
];
/// The VLAN that every port of a bridge carries at first.
const EVERY_PORTS_VLAN: u16 = 1;
/// Most queues of a card, as the kernel has it.
const QUEUES_MAX: u32 = 256;

/// Makes up names of devices: each one is used once, as long as the daemon lives.
#[derive(Debug, Default)]
pub struct LinkNames {
    taps: AtomicU32,
    macvtaps: AtomicU32,
}

impl LinkNames {
    /// A name that no device has, with one of the two beginnings.
    pub(crate) fn take(&self, beginning: &str) -> Result<String> {
        let next = if beginning == MACVTAP {
            &self.macvtaps
        } else {
            &self.taps
        };
        let mut names = (0..TRIES).map(|_| format!("{beginning}{}", next.fetch_add(1, Ordering::Relaxed)));
        names
            .find(|name| unixfd::link_index(name).is_err())
            .ok_or_else(|| Error::internal("no name is free for a network device"))
    }
}

/// What is to be made for one interface.
pub(crate) struct Plug {
    pub(crate) alias: String,
    /// None: a new device with a name of the daemon's choice.
    pub(crate) device: Option<String>,
    pub(crate) bridge: Option<String>,
    /// How a macvtap talks to its neighbours; only of an interface that has one.
    pub(crate) macvtap: Option<MacvtapMode>,
    pub(crate) mac: [u8; 6],
    /// Nothing but opened: somebody else made the device.
    foreign: bool,
    mtu: Option<u32>,
    /// Packets that it may gather before it tells of them.
    frames: Option<u32>,
    queues: u32,
    pub(crate) header: bool,
    vhost: Vhost,
    isolated: bool,
    /// What a port of the kernel's own bridges carries.
    vlan: Option<Vlan>,
    /// Who fills the bridge's table of addresses: the bridge, or we.
    learns: bool,
    /// The bridge is Open vSwitch's, which makes the device its port itself.
    pub(crate) of_switch: bool,
}

/// Whether the kernel moves the packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vhost {
    No,
    IfPossible,
    Must,
}

/// What was made for one interface.
pub(crate) struct Plugged {
    pub(crate) device: String,
    pub(crate) taps: Vec<OwnedFd>,
    pub(crate) vhosts: Vec<OwnedFd>,
}

impl Plug {
    pub(crate) fn of(interface: &Interface) -> Result<Self> {
        let alias = interface.info.alias.clone().unwrap_or_default();
        let model = interface.model.as_deref().unwrap_or_default();
        let virtio = model.starts_with("virtio");
        let driver = interface.driver.as_ref();
        let target = interface.target.as_ref();
        let is_port = matches!(kind(interface), InterfaceKind::Bridge | InterfaceKind::Network);
        let of_switch = openvswitch::is_port(interface);
        let bridge = plug_source(interface)
            .and_then(|s| s.bridge.clone())
            .filter(|_| is_port);
        if is_port && bridge.is_none() {
            return Err(Error::internal(format!("interface '{alias}' names no bridge")));
        }
        let vhost = match driver.and_then(|d| d.name.as_deref()) {
            _ if !virtio => Vhost::No,
            Some("qemu") => Vhost::No,
            Some("vhost") => Vhost::Must,
            _ => Vhost::IfPossible,
        };
        Ok(Self {
            // With an empty name, the kernel chooses.
            device: target.and_then(|t| t.dev.clone()),
            foreign: target.is_some_and(|t| t.managed == Some(YesNo::No)),
            bridge,
            macvtap: plug_source(interface)
                .filter(|_| kind(interface) == InterfaceKind::Direct)
                .map(macvtap::mode)
                .transpose()?,
            mac: mac(interface
                .mac
                .as_ref()
                .map(|m| m.address.as_str())
                .unwrap_or_default())?,
            mtu: interface.mtu.filter(|mtu| *mtu > 0),
            frames: interface
                .coalesce
                .as_ref()
                .and_then(|coalesce| coalesce.rx.as_ref()?.frames),
            queues: driver
                .and_then(|d| d.queues)
                .filter(|_| virtio)
                .unwrap_or(1)
                .clamp(1, QUEUES_MAX),
            header: OFFLOADING.contains(&model),
            vhost,
            isolated: interface
                .actual
                .as_ref()
                .map_or(interface.isolated, |actual| actual.isolated)
                == Some(YesNo::Yes),
            vlan: openvswitch::vlan(interface)
                .filter(|_| is_port && !of_switch)
                .cloned(),
            learns: plug_source(interface)
                .is_none_or(|s| s.mac_table_manager != Some(MacTableManager::Libvirt)),
            of_switch,
            alias,
        })
    }

    /// Makes a TAP device and all that belongs to it, or opens what somebody else has made.
    pub(crate) fn carry_out(self, names: &LinkNames) -> Result<Plugged> {
        if self.foreign {
            self.check_foreign()?;
        }
        let name = match self.device.as_deref() {
            None => names.take(TAP)?,
            Some("") => OF_THE_KERNEL.to_owned(),
            Some(name) => name.to_owned(),
        };
        if self.foreign && is_macvtap(&name) {
            let taps = self.queues_of(&name)?;
            return Ok(Plugged {
                device: name,
                taps,
                vhosts: self.vhosts(self.queues)?,
            });
        }
        if name.len() > NAME_MAX {
            let error = std::io::Error::from_raw_os_error(nix::libc::ERANGE);
            return Err(failed(
                format_args!("Network interface name '{name}' is too long"),
                error,
            ));
        }
        let flags = self.flags();
        let open = |name: &str| {
            unixfd::tap(name, flags)
                .map_err(|error| failed(format_args!("Unable to create tap device {name}"), error))
        };
        let (first, device) = open(&name)?;
        let mut taps = vec![first];
        for _ in 1..self.queues {
            taps.push(open(&device)?.0);
        }
        if !self.foreign {
            self.set_up(&device)?;
        }
        Ok(Plugged {
            device,
            taps,
            vhosts: self.vhosts(self.queues)?,
        })
    }

    /// Makes a macvtap device and opens its queues. `state` is where addresses of devices below are kept.
    pub(crate) fn carry_out_macvtap(
        &self,
        macvtap: Macvtap,
        mode: MacvtapMode,
        state: &Path,
    ) -> Result<Plugged> {
        macvtap.make(self.mac, mode, state)?;
        send_at_once(&macvtap.device);
        Ok(Plugged {
            taps: self.queues_of(&macvtap.device)?,
            vhosts: self.vhosts(self.queues)?,
            device: macvtap.device,
        })
    }

    /// Opens the queues of a macvtap.
    fn queues_of(&self, device: &str) -> Result<Vec<OwnedFd>> {
        let node = unixfd::macvtap_node(device)
            .map_err(|error| failed(format_args!("Unable to get index for interface {device}"), error))?;
        let open = |_| {
            let queue = unixfd::open_macvtap(&node)
                .map_err(|error| failed(format_args!("cannot open macvtap tap device {node}"), error))?;
            unixfd::set_macvtap_flags(&queue, device, self.flags())
                .map_err(|error| failed(format_args!("unable to set tun flags on '{device}'"), error))?;
            Ok(queue)
        };
        (0..self.queues).map(open).collect()
    }

    fn flags(&self) -> TapFlags {
        TapFlags {
            vnet_header: self.header,
            multi_queue: self.queues > 1,
        }
    }

    fn check_foreign(&self) -> Result<()> {
        match &self.device {
            None => Err(Error::new(
                Code::ConfigUnsupported,
                "target dev must be supplied when managed='no'",
            )),
            Some(device) if unixfd::link_index(device).is_err() => Err(Error::internal(
                "target managed='no' but specified dev doesn't exist",
            )),
            Some(_) => Ok(()),
        }
    }

    fn set_up(&self, device: &str) -> Result<()> {
        let [_, rest @ ..] = self.mac;
        let [b, c, d, e, f] = rest;
        unixfd::set_mac(device, [OWN_MAC, b, c, d, e, f])
            .map_err(|error| failed(format_args!("Cannot set interface MAC on '{device}'"), error))?;
        if let Some(mtu) = self
            .mtu
            .map_or_else(|| self.mtu_of_bridge(), |mtu| Ok(Some(mtu)))?
        {
            unixfd::set_mtu(device, mtu)
                .map_err(|error| failed(format_args!("Cannot set interface MTU on '{device}'"), error))?;
        }
        if let Some(frames) = self.frames {
            unixfd::set_receive_frames(device, frames)
                .map_err(|error| failed(format_args!("Cannot set coalesce info on '{device}'"), error))?;
        }
        if let Some(bridge) = self.bridge.as_deref().filter(|_| !self.of_switch) {
            self.join(bridge, device)?;
        }
        if !self.of_switch {
            send_at_once(device);
        }
        unixfd::set_up(device)
            .map_err(|error| failed(format_args!("Cannot set interface flags on '{device}'"), error))
    }

    fn mtu_of_bridge(&self) -> Result<Option<u32>> {
        let mtu = |bridge: &String| {
            unixfd::mtu(bridge)
                .map_err(|error| failed(format_args!("Cannot get interface MTU on '{bridge}'"), error))
        };
        self.bridge.as_ref().map(mtu).transpose()
    }

    /// Makes a device that is there a port of its bridge, with what is particular to the port, whatever it was before.
    ///
    /// # Errors
    /// The bridge is not there, or what the kernel says.
    pub(crate) fn rejoin(&self, guest: &str, device: &str) -> Result<()> {
        let Some(bridge) = self.bridge.as_deref().filter(|_| !self.of_switch) else {
            return Ok(());
        };
        if unixfd::link_index(bridge).is_err() {
            let text = format!("cannot add domain {guest} device {device} to nonexistent bridge {bridge}");
            return Err(Error::new(Code::OperationFailed, text));
        }
        unixfd::leave_bridge(device)
            .map_err(|error| failed(format_args!("Unable to take {device} out of its bridge"), error))?;
        self.join(bridge, device)
    }

    /// Makes the device a port of one of the kernel's bridges, with what is particular to the port.
    fn join(&self, bridge: &str, device: &str) -> Result<()> {
        unixfd::add_to_bridge(bridge, device)
            .map_err(|error| failed(format_args!("Unable to add bridge {bridge} port {device}"), error))?;
        let settings = [
            ("isolated", "1", self.isolated),
            ("learning", "0", !self.learns),
            ("unicast_flood", "0", !self.learns),
        ];
        for (name, value, _) in settings.iter().filter(|(.., wanted)| *wanted) {
            let file = Path::new("/sys/class/net").join(device).join("brport").join(name);
            std::fs::write(&file, value).map_err(|error| {
                // A kernel without the setting has no such file.
                let error = match error.kind() {
                    std::io::ErrorKind::NotFound => std::io::Error::from_raw_os_error(nix::libc::EINVAL),
                    _ => error,
                };
                failed(
                    format_args!("Unable to set bridge {bridge} port {device} {name} to {value}"),
                    error,
                )
            })?;
        }
        self.vlan.as_ref().map_or(Ok(()), |vlan| carry(vlan, device))
    }

    /// Without the kernel's help for queues, which an emulated guest does not get.
    pub(crate) fn without_vhost(self) -> Self {
        Self {
            vhost: Vhost::No,
            ..self
        }
    }

    pub(crate) fn vhosts(&self, queues: u32) -> Result<Vec<OwnedFd>> {
        if self.vhost == Vhost::No {
            return Ok(Vec::new());
        }
        let opened: std::io::Result<Vec<OwnedFd>> = (0..queues).map(|_| unixfd::vhost_net()).collect();
        match opened {
            Ok(fds) => Ok(fds),
            Err(error) if self.vhost == Vhost::Must => {
                let message = "vhost-net was requested for an interface, but is unavailable".to_owned();
                Err(Error::new(Code::ConfigUnsupported, message).caused_by(error))
            }
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// Has a device send without a queue of its own: QEMU has one. Slower otherwise, and no worse.
fn send_at_once(device: &str) {
    if let Err(error) = unixfd::send_without_queue(device) {
        tracing::debug!(device, %error, "sends through a queue");
    }
}

/// Has a port of a bridge carry these VLANs and no others.
fn carry(vlan: &Vlan, port: &str) -> Result<()> {
    unixfd::remove_port_vlan(port, EVERY_PORTS_VLAN).map_err(|error| {
        failed(
            format_args!("error removing vlan filter from interface {port}"),
            error,
        )
    })?;
    for (id, how) in port_vlans(vlan) {
        unixfd::add_port_vlan(port, id, how).map_err(|error| {
            failed(
                format_args!("error adding vlan filter to interface {port}"),
                error,
            )
        })?;
    }
    Ok(())
}

/// What a port carries, that without tags first.
fn port_vlans(vlan: &Vlan) -> Vec<(u16, PortVlan)> {
    let is_trunk = vlan.trunk == Some(YesNo::Yes) || vlan.tags.len() > 1;
    let how = |tag: &VlanTag| match tag.native_mode {
        _ if !is_trunk => PortVlan::Native,
        None => PortVlan::Tagged,
        Some(NativeMode::Tagged) => PortVlan::NativeTagged,
        Some(NativeMode::Untagged) => PortVlan::Native,
    };
    let mut all: Vec<_> = vlan
        .tags
        .iter()
        .filter_map(|tag| Some((u16::try_from(tag.id).ok()?, how(tag))))
        .collect();
    all.sort_by_key(|(_, how)| *how == PortVlan::Tagged);
    all
}

/// Whether a device that somebody else made is a macvtap.
fn is_macvtap(device: &str) -> bool {
    unixfd::macvtap_node(device).is_ok_and(|node| Path::new(&node).exists())
}

/// The bytes of an address that the document has.
fn mac(text: &str) -> Result<[u8; 6]> {
    let wrong = || Error::internal(format!("'{text}' is no MAC address"));
    let mac = macvtap::parse(text).ok_or_else(wrong)?;
    if mac[0] == OWN_MAC {
        let message = format!("Unable to use MAC address starting with reserved value 0xFE - '{text}' - ");
        return Err(Error::new(Code::ConfigUnsupported, message));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(model: &str, driver: &str) -> Plug {
        let xml = format!(
            "<domain type='qemu'><name>a</name><devices><interface type='bridge'><mac address='52:54:00:01:02:03'/><source bridge='br-test'/>\
             <model type='{model}'/><driver {driver}/></interface></devices></domain>"
        );
        let domain = domxml::Domain::parse(&xml, domxml::ParseFlags::INACTIVE).unwrap();
        Plug::of(&domain.devices.interfaces[0]).unwrap()
    }

    #[test]
    fn the_driver_says_how_packets_are_moved() {
        let shown = |model, driver| {
            let plug = plug(model, driver);
            (plug.queues, plug.header, plug.vhost)
        };
        assert!(shown("virtio", "name='vhost' queues='4'") == (4, true, Vhost::Must));
        assert!(shown("virtio", "name='qemu'") == (1, true, Vhost::No));
        assert!(shown("virtio", "") == (1, true, Vhost::IfPossible));
        assert!(shown("rtl8139", "queues='4'") == (1, false, Vhost::No));
        assert!(shown("e1000e", "") == (1, true, Vhost::No));
    }

    #[test]
    fn a_port_without_a_trunk_has_one_vlan_and_no_tags() {
        let tag = |id, native_mode| VlanTag { id, native_mode };
        let vlan = |trunk: Option<YesNo>, tags: &[VlanTag]| {
            port_vlans(&Vlan {
                trunk,
                tags: tags.to_vec(),
            })
        };
        assert_eq!(vlan(None, &[tag(9, None)]), [(9, PortVlan::Native)]);
        assert_eq!(vlan(Some(YesNo::Yes), &[tag(9, None)]), [(9, PortVlan::Tagged)]);
        let native = [tag(4, None), tag(5, Some(NativeMode::Tagged)), tag(6, None)];
        assert_eq!(
            vlan(Some(YesNo::Yes), &native),
            [
                (5, PortVlan::NativeTagged),
                (4, PortVlan::Tagged),
                (6, PortVlan::Tagged)
            ]
        );
        assert_eq!(
            vlan(None, &[tag(4, None), tag(5, Some(NativeMode::Untagged))]),
            [(5, PortVlan::Native), (4, PortVlan::Tagged)]
        );
    }

    #[test]
    fn addresses_of_the_hosts_own_ends_are_refused() {
        assert_eq!(mac("52:54:00:0a:0b:0c").unwrap(), [0x52, 0x54, 0, 10, 11, 12]);
        assert_eq!(
            mac("fe:54:00:0a:0b:0c").unwrap_err().code,
            Code::ConfigUnsupported
        );
        for text in ["", "52:54:00", "52:54:00:0a:0b:0g", "1:2:3:4:5:6:7"] {
            assert!(mac(text).is_err(), "{text:?}");
        }
    }

    /// In a network of the thread's own, which ends with it.
    #[test]
    fn the_device_is_a_port_of_the_bridge_and_goes_with_its_descriptors() {
        let test = || {
            let own_network = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
            let bridge = own_network
                && std::process::Command::new("ip")
                    .args(["link", "add", "br-test", "mtu", "1450", "type", "bridge"])
                    .status()
                    .is_ok_and(|s| s.success());
            // Nobody but root may; then there is nothing to test.
            if !bridge || !Path::new("/dev/net/tun").exists() {
                return;
            }
            let unnamed = Plug {
                device: Some(String::new()),
                ..plug("virtio", "name='qemu'")
            };
            let plug = Plug {
                device: Some("tap-test".to_owned()),
                ..plug("virtio", "name='qemu' queues='2'")
            };
            let plugged = plug.carry_out(&LinkNames::default()).unwrap();
            assert_eq!(
                (plugged.device.as_str(), plugged.taps.len(), plugged.vhosts.len()),
                ("tap-test", 2, 0)
            );
            let shown = std::process::Command::new("ip")
                .args(["link", "show", "tap-test"])
                .output()
                .unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            for part in ["master br-test", "mtu 1450", "fe:54:00:01:02:03", "UP"] {
                assert!(shown.contains(part), "{part}: {shown}");
            }
            drop(plugged);
            assert!(unixfd::mtu("tap-test").is_err());
            let plugged = unnamed.carry_out(&LinkNames::default()).unwrap();
            assert_eq!(plugged.device, "tap0");
        };
        std::thread::spawn(test).join().unwrap();
    }
}
