//! Links of the host that guests are plugged into, beyond TAP devices: macvtap devices, and how a port of a bridge
//! learns and forwards.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crate::netlink::{CREATE, EXCLUSIVE, Message, attribute, i32_at, text};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const NEW_QDISC: u16 = 36;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_BELOW: u16 = 5;
const LINK_INFO: u16 = 18;
const LINK_FAMILY: u16 = 26;
const PORT_VLAN: u16 = 2;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const MACVLAN_MODE: u16 = 1;
const NEIGHBOUR_ADDRESS: u16 = 2;
const QDISC_KIND: u16 = 1;

const FAMILY_BRIDGE: u8 = 7;
/// Reachable, and with nothing to be asked for: an entry that may be moved, but is not learned.
const STATE: u16 = 0x42;
/// The entry is kept by the bridge, not by the port.
const BY_BRIDGE: u8 = 0x04;
/// What the kernel calls the root of a device's queues.
const ROOT: u32 = 0xffff_ffff;

const MACVTAP: &str = "macvtap";
/// How often the device node of a macvtap is looked for, which is made by another program, and the pause between.
const NODE_TRIES: u32 = 11;
const NODE_PAUSE: Duration = Duration::from_millis(20);

/// To whom a macvtap talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvtapMode {
    /// To none of its neighbours.
    Private = 1,
    /// To its neighbours by way of the switch outside.
    Vepa = 2,
    /// To its neighbours straight.
    Bridge = 4,
    /// It has none: all of the device below is its own.
    Passthrough = 8,
}

/// A macvtap device to be made.
#[derive(Debug, Clone, Copy)]
pub struct Macvtap<'a> {
    /// Its name.
    pub name: &'a str,
    /// The device below.
    pub below: &'a str,
    /// Its address.
    pub mac: [u8; 6],
    /// To whom it talks.
    pub mode: MacvtapMode,
}

/// The kernel's number of a device.
///
/// # Errors
/// When there is none of this name.
pub fn link_index(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(Into::into)
}

/// The kernel's number of the device below, and makes a macvtap device above it.
///
/// # Errors
/// When the name is taken or can't be one, the device below is not there or has a passthrough already, or the kernel has
/// no such devices.
pub fn add_macvtap(macvtap: &Macvtap<'_>) -> io::Result<()> {
    let below = link_index(macvtap.below)?;
    let mut message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link(0));
    message
        .put(LINK_BELOW, &below.to_ne_bytes())
        .put(LINK_ADDRESS, &macvtap.mac)
        .put_text(LINK_NAME, macvtap.name)
        .put_nested(LINK_INFO, |info| {
            info.put(INFO_KIND, MACVTAP.as_bytes())
                .put_nested(INFO_DATA, |data| {
                    data.put(MACVLAN_MODE, &(macvtap.mode as u32).to_ne_bytes());
                });
        });
    message.carry_out()
}

/// Removes a macvtap device, if there is one of this name and it is above that device; nothing else is removed.
///
/// # Errors
/// The kernel's, other than that it is gone already.
pub fn remove_macvtap(name: &str, below: &str) -> io::Result<()> {
    let (Ok(index), Ok(below)) = (link_index(name), link_index(below)) else {
        return Ok(());
    };
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    };
    let found = match Message::new(GET_LINK, 0, &link(index)).ask() {
        Err(error) => return gone(Err(error)),
        Ok(found) => found,
    };
    if is_macvtap(&found, below) {
        gone(Message::new(DELETE_LINK, 0, &link(index)).carry_out())
    } else {
        Ok(())
    }
}

/// Whether the kernel's answer tells of a macvtap above the device of this number.
fn is_macvtap(answer: &[u8], below: u32) -> bool {
    let attributes = answer.get(link(0).len()..).unwrap_or_default();
    let kind = attribute(attributes, LINK_INFO)
        .and_then(|info| attribute(info, INFO_KIND))
        .map(text);
    let above = attribute(attributes, LINK_BELOW).and_then(|index| i32_at(index, 0));
    kind.as_deref() == Some(MACVTAP) && above == Some(below.cast_signed())
}

/// Path of the device node of a macvtap device.
///
/// # Errors
/// When there is no device of this name.
pub fn macvtap_node(name: &str) -> io::Result<String> {
    Ok(format!("/dev/tap{}", link_index(name)?))
}

/// Opens a queue of a macvtap by its device node, which may take a moment to appear. Blocks.
///
/// # Errors
/// When it can't be opened.
pub fn open_macvtap(node: &str) -> io::Result<OwnedFd> {
    let open = || File::options().read(true).write(true).open(Path::new(node));
    for _ in 1..NODE_TRIES {
        match open() {
            Ok(file) => return Ok(file.into()),
            Err(_) => pause(),
        }
    }
    open().map(Into::into)
}

#[expect(
    clippy::disallowed_methods,
    reason = "opening a node blocks anyway, so this runs where one may block"
)]
fn pause() {
    std::thread::sleep(NODE_PAUSE);
}

/// Has packets that a device sends go out at once, without a queue. One that has a queue of another kind keeps it.
///
/// # Errors
/// The kernel's.
pub fn send_without_queue(name: &str) -> io::Result<()> {
    let mut fixed = vec![0; 4];
    fixed.extend_from_slice(&link_index(name)?.to_ne_bytes());
    fixed.extend_from_slice(&[0; 4]);
    fixed.extend_from_slice(&ROOT.to_ne_bytes());
    fixed.extend_from_slice(&[0; 4]);
    let mut message = Message::new(NEW_QDISC, CREATE | EXCLUSIVE, &fixed);
    message.put_text(QDISC_KIND, "noqueue");
    message.carry_out()
}

/// Has a bridge know that an address is behind a port.
///
/// # Errors
/// The kernel's.
pub fn add_bridge_address(port: &str, mac: [u8; 6]) -> io::Result<()> {
    bridge_address(NEW_NEIGHBOUR, CREATE | EXCLUSIVE, port, mac)
}

/// Has a bridge forget that an address is behind a port.
///
/// # Errors
/// The kernel's.
pub fn remove_bridge_address(port: &str, mac: [u8; 6]) -> io::Result<()> {
    bridge_address(DELETE_NEIGHBOUR, 0, port, mac)
}

fn bridge_address(kind: u16, flags: u16, port: &str, mac: [u8; 6]) -> io::Result<()> {
    let mut fixed = vec![FAMILY_BRIDGE, 0, 0, 0];
    fixed.extend_from_slice(&link_index(port)?.to_ne_bytes());
    fixed.extend_from_slice(&STATE.to_ne_bytes());
    fixed.extend_from_slice(&[BY_BRIDGE, 0]);
    let mut message = Message::new(kind, flags, &fixed);
    message.put(NEIGHBOUR_ADDRESS, &mac);
    message.carry_out()
}

/// How a port of a bridge carries a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortVlan {
    /// With its tag.
    Tagged,
    /// With its tag; what comes without one belongs to it.
    NativeTagged,
    /// Without a tag; what comes without one belongs to it.
    Native,
}

impl PortVlan {
    fn flags(self) -> u16 {
        const NATIVE: u16 = 0x2;
        const UNTAGGED: u16 = 0x4;
        match self {
            Self::Tagged => 0,
            Self::NativeTagged => NATIVE,
            Self::Native => NATIVE | UNTAGGED,
        }
    }
}

/// Has a port of a bridge carry a VLAN.
///
/// # Errors
/// The kernel's; it may have no VLANs on bridges.
pub fn add_port_vlan(port: &str, id: u16, how: PortVlan) -> io::Result<()> {
    port_vlan(SET_LINK, port, id, how.flags())
}

/// Has a port of a bridge carry a VLAN no longer.
///
/// # Errors
/// The kernel's.
pub fn remove_port_vlan(port: &str, id: u16) -> io::Result<()> {
    port_vlan(DELETE_LINK, port, id, 0)
}

fn port_vlan(kind: u16, port: &str, id: u16, flags: u16) -> io::Result<()> {
    let mut fixed = link(link_index(port)?);
    fixed[0] = FAMILY_BRIDGE;
    let mut message = Message::new(kind, 0, &fixed);
    message.put_nested(LINK_FAMILY, |inside| {
        inside.put(PORT_VLAN, &[flags.to_ne_bytes(), id.to_ne_bytes()].concat());
    });
    message.carry_out()
}

/// Address of a device.
///
/// # Errors
/// When there is no such device, or it has no address of Ethernet.
pub fn mac(name: &str) -> io::Result<[u8; 6]> {
    let found = Message::new(GET_LINK, 0, &link(link_index(name)?)).ask()?;
    let attributes = found.get(link(0).len()..).unwrap_or_default();
    let address = attribute(attributes, LINK_ADDRESS).and_then(|value| value.try_into().ok());
    address.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether a device is switched on.
///
/// # Errors
/// When there is no such device.
pub fn is_up(name: &str) -> io::Result<bool> {
    let found = Message::new(GET_LINK, 0, &link(link_index(name)?)).ask()?;
    i32_at(&found, 8)
        .map(|flags| flags & libc::IFF_UP != 0)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The fixed part of messages on links.
fn link(index: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap;

    fn ip(words: &str) -> bool {
        std::process::Command::new("ip")
            .args(words.split(' '))
            .status()
            .is_ok_and(|status| status.success())
    }

    /// In a network of the thread's own, which ends with it; none where nobody may make one.
    fn alone(test: impl FnOnce() + Send + 'static) {
        let run = || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok()
                && ip("link add va type veth peer name vb")
            {
                test();
            }
        };
        std::thread::spawn(run).join().unwrap();
    }

    #[test]
    fn a_macvtap_is_made_and_nothing_else_is_removed_for_it() {
        alone(|| {
            let wanted = Macvtap {
                name: "mine",
                below: "va",
                mac: [0x52, 0x54, 0, 1, 2, 3],
                mode: MacvtapMode::Bridge,
            };
            match add_macvtap(&wanted) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
                result => result.unwrap(),
            }
            assert_eq!(mac("mine").unwrap(), wanted.mac);
            assert!(!is_up("va").unwrap());
            tap::set_up("va").unwrap();
            assert!(is_up("va").unwrap());
            let again = |name, mode| {
                add_macvtap(&Macvtap { name, mode, ..wanted })
                    .unwrap_err()
                    .raw_os_error()
            };
            assert_eq!(again("mine", MacvtapMode::Vepa), Some(libc::EEXIST));
            assert_eq!(
                again("a-name-that-is-too-long", MacvtapMode::Vepa),
                Some(libc::ERANGE)
            );
            assert_eq!(again("other", MacvtapMode::Passthrough), Some(libc::EINVAL));
            let nothing = Macvtap {
                below: "none",
                ..wanted
            };
            assert_eq!(
                add_macvtap(&nothing).unwrap_err().raw_os_error(),
                Some(libc::ENODEV)
            );
            for (name, below) in [("vb", "va"), ("va", "vb"), ("mine", "vb"), ("none", "va")] {
                remove_macvtap(name, below).unwrap();
                assert!(link_index("vb").is_ok() && link_index("mine").is_ok());
            }
            remove_macvtap("mine", "va").unwrap();
            assert!(link_index("mine").is_err());
        });
    }

    #[test]
    fn a_bridge_is_told_an_address_once() {
        alone(|| {
            if !ip("link add vbr type bridge") {
                return;
            }
            tap::add_to_bridge("vbr", "va").unwrap();
            let mac = [0x52, 0x54, 0, 1, 2, 3];
            add_bridge_address("va", mac).unwrap();
            assert_eq!(
                add_bridge_address("va", mac).unwrap_err().raw_os_error(),
                Some(libc::EEXIST)
            );
            remove_bridge_address("va", mac).unwrap();
            assert!(remove_bridge_address("va", mac).is_err());
            remove_port_vlan("va", 1).unwrap();
            match add_port_vlan("va", 7, PortVlan::Native) {
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP)),
                Ok(()) => remove_port_vlan("va", 7).unwrap(),
            }
            assert!(add_port_vlan("vb", 7, PortVlan::Tagged).is_err(), "not a port");
        });
    }

    #[test]
    fn a_node_that_never_appears_is_told() {
        assert_eq!(
            open_macvtap("/dev/tap-none").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(link_index("no-such-dev0").is_err());
    }
}
