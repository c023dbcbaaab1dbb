//! The host's end of interfaces: TAP devices, their bridge, the kernel's virtio back end.
//!
//! A device lives as long as QEMU holds its descriptors, so nothing is left of it when a start fails or a guest ends;
//! only the script of an interface of type ethernet has something to undo.

use std::{
    os::fd::OwnedFd,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use domxml::devices::{Interface, InterfaceKind, InterfaceSource, InterfaceTarget, YesNo, interface::MacTableManager};
use qemu_plan::command::{DeviceResources, Resources, net::kind};
use unixfd::TapFlags;

use super::{Prepared, bridge_helper::Request};
use crate::{
    error::{Area, Code, Error, Result},
    ops::{Driver, ports, undo::Undo},
    qemu,
};

/// Beginning of the names that the daemon makes up.
const PREFIX: &str = "vnet";
/// Names tried before giving up.
const TRIES: u32 = 10_000;
/// First byte of the addresses of the host's ends, so that a bridge never takes one of them for its own.
const OWN_MAC: u8 = 0xfe;
/// Cards that can do with packets that have a header for offloads.
const OFFLOADING: &[&str] = &["virtio", "virtio-transitional", "virtio-non-transitional", "e1000e", "vmxnet3", "igb"];
/// How long a script may take.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(60);
/// Most queues of a card, as the kernel has it.
const QUEUES_MAX: u32 = 256;

/// Makes up names of devices: each one is used once, as long as the daemon lives.
#[derive(Debug, Default)]
pub struct TapNames {
    next: AtomicU32,
}

impl TapNames {
    /// A name that no device has.
    fn take(&self) -> Result<String> {
        let names = (0..TRIES).map(|_| format!("{PREFIX}{}", self.next.fetch_add(1, Ordering::Relaxed)));
        names.into_iter().find(|name| !exists(name)).ok_or_else(|| Error::internal("no name is free for a TAP device"))
    }
}

fn exists(device: &str) -> bool {
    Path::new("/sys/class/net").join(device).exists()
}

/// What is to be made for one interface.
struct Plug {
    alias: String,
    /// None: a new device with a name of the daemon's choice.
    device: Option<String>,
    bridge: Option<String>,
    mac: [u8; 6],
    /// Nothing but opened: somebody else made the device.
    foreign: bool,
    mtu: Option<u32>,
    queues: u32,
    header: bool,
    vhost: Vhost,
    isolated: bool,
}

/// Whether the kernel moves the packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vhost {
    No,
    IfPossible,
    Must,
}

/// What was made for one interface.
struct Plugged {
    device: String,
    taps: Vec<OwnedFd>,
    vhosts: Vec<OwnedFd>,
}

/// Which interfaces are plugged in here.
pub(super) fn is_tap(interface: &Interface) -> bool {
    matches!(kind(interface), InterfaceKind::Ethernet | InterfaceKind::Bridge | InterfaceKind::Network)
}

/// What an interface is plugged into where it names what: its own source, or what its network gave.
fn plug_source(interface: &Interface) -> Option<&InterfaceSource> {
    interface.actual.as_ref().map_or(interface.source.as_ref(), |actual| actual.source.as_ref())
}

/// What a start can't give yet is refused by name: before anything is done, and once the networks have said what their
/// interfaces become.
pub(super) fn refuse_what_is_missing(document: &domxml::Domain) -> Result<()> {
    let refuse = |what: String| Err(Error::new(Code::ConfigUnsupported, format!("starting a guest with {what} is not supported yet")));
    let interfaces = &document.devices.interfaces;
    if let Some(what) = interfaces.iter().find_map(missing) {
        return refuse(what);
    }
    let unknown = |i: &&Interface| !is_tap(i) && !matches!(i.kind, InterfaceKind::User | InterfaceKind::Null);
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
    let found = parts.into_iter().find(|(_, there)| *there && is_tap(interface));
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
    for interface in prepared.document.devices.interfaces.iter_mut().filter(|i| is_tap(i)) {
        let plug = Plug::of(interface)?;
        let alias = plug.alias.clone();
        let plugged = make(driver, plug).await?;
        let mut given = DeviceResources::default();
        for tap in plugged.taps {
            given.tap_fds.push(qemu.pass(tap)?);
        }
        for vhost in plugged.vhosts {
            given.vhost_fds.push(qemu.pass(vhost)?);
        }
        resources.devices.insert(alias, given);
        interface.target.get_or_insert_with(InterfaceTarget::default).dev = Some(plugged.device.clone());
        run_up(interface, &plugged.device, undo).await?;
        crate::ops::bandwidth::put_on(interface, &plugged.device).await?;
        ports::filter(driver, interface, owner.clone(), undo).await?;
    }
    Ok(())
}

/// Makes one host's end. A port of a bridge is made by a helper where we are one user's daemon.
async fn make(driver: &Arc<Driver>, plug: Plug) -> Result<Plugged> {
    if let (Some(bridge), crate::paths::Scope::Session) = (&plug.bridge, driver.host.scope) {
        let config = driver.config();
        let (tap, device) = Request { helper: &config.bridge_helper, bridge, header: plug.header }.carry_out().await?;
        return Ok(Plugged { device, taps: vec![tap], vhosts: plug.vhosts(1)? });
    }
    let owned = Arc::clone(driver);
    crate::blocking::file("making a TAP device", move || plug.carry_out(&owned.tap_names)).await
}

/// Runs the script of an interface, if it has one.
async fn run_up(interface: &Interface, device: &str, undo: &mut Undo) -> Result<()> {
    let Some(script) = interface.script.as_deref().filter(|_| interface.kind == InterfaceKind::Ethernet) else { return Ok(()) };
    run_script(script, device).await?;
    if let Some(down) = interface.downscript.clone() {
        let device = device.to_owned();
        undo.push("what an interface's script did", async move { run_script(&down, &device).await });
    }
    Ok(())
}

/// Runs the scripts that undo what was done for the interfaces of a guest that has ended. The first error is told, all run.
pub(in crate::ops) async fn unplug(document: &domxml::Domain) -> Result<()> {
    let mut outcome = Ok(());
    for interface in document.devices.interfaces.iter().filter(|i| i.kind == InterfaceKind::Ethernet) {
        let device = interface.target.as_ref().and_then(|t| t.dev.as_deref());
        if let (Some(script), Some(device)) = (interface.downscript.as_deref(), device) {
            outcome = outcome.and(run_script(script, device).await);
        }
    }
    outcome
}

async fn run_script(script: &str, device: &str) -> Result<()> {
    let child = tokio::process::Command::new(script).arg(device).stdin(Stdio::null()).kill_on_drop(true).output();
    let failed = |what: String| Error::internal(format!("the script '{script}' for the interface '{device}' {what}"));
    let output = tokio::time::timeout(SCRIPT_DEADLINE, child)
        .await
        .map_err(|_| failed(format!("did not end within {} s", SCRIPT_DEADLINE.as_secs())))?;
    let output = output.map_err(|error| failed("can't be run".to_owned()).caused_by(error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("failed with {}: {}", output.status, words.trim().chars().take(200).collect::<String>())))
}

impl Plug {
    fn of(interface: &Interface) -> Result<Self> {
        let alias = interface.info.alias.clone().unwrap_or_default();
        let model = interface.model.as_deref().unwrap_or_default();
        let virtio = model.starts_with("virtio");
        let driver = interface.driver.as_ref();
        let target = interface.target.as_ref();
        let is_port = kind(interface) != InterfaceKind::Ethernet;
        let bridge = plug_source(interface).and_then(|s| s.bridge.clone()).filter(|_| is_port);
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
            device: target.and_then(|t| t.dev.clone()).filter(|name| !name.is_empty()),
            foreign: target.is_some_and(|t| t.managed == Some(YesNo::No)),
            bridge,
            mac: mac(interface.mac.as_ref().map(|m| m.address.as_str()).unwrap_or_default())?,
            mtu: interface.mtu.filter(|mtu| *mtu > 0),
            queues: driver.and_then(|d| d.queues).filter(|_| virtio).unwrap_or(1).clamp(1, QUEUES_MAX),
            header: OFFLOADING.contains(&model),
            vhost,
            isolated: interface.actual.as_ref().map_or(interface.isolated, |actual| actual.isolated) == Some(YesNo::Yes),
            alias,
        })
    }

    /// Makes the device and all that belongs to it.
    fn carry_out(self, names: &TapNames) -> Result<Plugged> {
        let name = self.device.clone().map_or_else(|| names.take(), Ok)?;
        let flags = TapFlags { vnet_header: self.header, multi_queue: self.queues > 1 };
        let open = |name: &str| unixfd::tap(name, flags).map_err(|error| failed(format_args!("Unable to create tap device {name}"), error));
        let (first, device) = open(&name)?;
        let mut taps = vec![first];
        for _ in 1..self.queues {
            taps.push(open(&device)?.0);
        }
        if !self.foreign {
            self.set_up(&device)?;
        }
        Ok(Plugged { device, taps, vhosts: self.vhosts(self.queues)? })
    }

    fn set_up(&self, device: &str) -> Result<()> {
        let [_, rest @ ..] = self.mac;
        let [b, c, d, e, f] = rest;
        unixfd::set_mac(device, [OWN_MAC, b, c, d, e, f])
            .map_err(|error| failed(format_args!("Cannot set interface MAC on '{device}'"), error))?;
        let of_bridge = || self.bridge.as_deref().and_then(|bridge| unixfd::mtu(bridge).ok());
        if let Some(mtu) = self.mtu.or_else(of_bridge) {
            unixfd::set_mtu(device, mtu).map_err(|error| failed(format_args!("Cannot set interface MTU on '{device}'"), error))?;
        }
        if let Some(bridge) = &self.bridge {
            unixfd::add_to_bridge(bridge, device)
                .map_err(|error| failed(format_args!("Unable to add bridge {bridge} port {device}"), error))?;
        }
        if self.isolated {
            let file = Path::new("/sys/class/net").join(device).join("brport/isolated");
            std::fs::write(&file, "1").map_err(|error| failed(format_args!("Cannot isolate the port '{device}'"), error))?;
        }
        unixfd::set_up(device).map_err(|error| failed(format_args!("Cannot set interface flags on '{device}'"), error))
    }

    fn vhosts(&self, queues: u32) -> Result<Vec<OwnedFd>> {
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

pub(super) fn failed(what: impl std::fmt::Display, error: std::io::Error) -> Error {
    Error::system(what, error).in_area(Area::None)
}

/// The bytes of an address that the document has.
fn mac(text: &str) -> Result<[u8; 6]> {
    let wrong = || Error::internal(format!("'{text}' is no MAC address"));
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mac: [u8; 6] = bytes.and_then(|b| b.try_into().ok()).ok_or_else(wrong)?;
    if mac[0] == OWN_MAC {
        let message = format!("Unable to use MAC address starting with reserved value 0xFE - '{text}' - ");
        return Err(Error::new(Code::ConfigUnsupported, message));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
    fn addresses_of_the_hosts_own_ends_are_refused() {
        assert_eq!(mac("52:54:00:0a:0b:0c").unwrap(), [0x52, 0x54, 0, 10, 11, 12]);
        assert_eq!(mac("fe:54:00:0a:0b:0c").unwrap_err().code, Code::ConfigUnsupported);
        for text in ["", "52:54:00", "52:54:00:0a:0b:0g", "1:2:3:4:5:6:7"] {
            assert!(mac(text).is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_script_that_fails_is_told_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("up");
        std::fs::write(&script, "#!/bin/sh\necho no $1 here >&2\n[ $1 = good ]\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let script = script.to_str().unwrap();
        run_script(script, "good").await.unwrap();
        let error = run_script(script, "bad").await.unwrap_err();
        assert!(error.message.contains("no bad here"), "{}", error.message);
        assert!(run_script("/nonexistent", "good").await.is_err());
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
            let plug = Plug { device: Some("tap-test".to_owned()), ..plug("virtio", "name='qemu' queues='2'") };
            let plugged = plug.carry_out(&TapNames::default()).unwrap();
            assert_eq!((plugged.device.as_str(), plugged.taps.len(), plugged.vhosts.len()), ("tap-test", 2, 0));
            let shown = std::process::Command::new("ip").args(["link", "show", "tap-test"]).output().unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            for part in ["master br-test", "mtu 1450", "fe:54:00:01:02:03", "UP"] {
                assert!(shown.contains(part), "{part}: {shown}");
            }
            drop(plugged);
            assert!(unixfd::mtu("tap-test").is_err());
        };
        std::thread::spawn(test).join().unwrap();
    }
}
