//! Links of the host that guests are plugged into, beyond TAP devices: macvtap devices, and how a port of a bridge
//! learns and forwards.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Request,
    link::{
        AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoData, InfoKind, InfoMacVtap, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage, MacVtapMode,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    tc::{TcAttribute, TcHandle, TcMessage},
};

use crate::netlink::{ask, carry_out};

/// What is made must not be there.
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Reachable, and with nothing to be asked for (`NUD_REACHABLE | NUD_NOARP`): an entry that may be moved, but is not
/// learned.
const FIXED: NeighbourState = NeighbourState::Other(0x42);

/// How often the device node of a macvtap is looked for, which is made by another program, and the pause between.
const NODE_TRIES: u32 = 11;
const NODE_PAUSE: Duration = Duration::from_millis(20);

/// To whom a macvtap talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvtapMode {
    /// To none of its neighbours.
    Private,
    /// To its neighbours by way of the switch outside.
    Vepa,
    /// To its neighbours straight.
    Bridge,
    /// It has none: all of the device below is its own.
    Passthrough,
}

impl From<MacvtapMode> for MacVtapMode {
    fn from(mode: MacvtapMode) -> Self {
        match mode {
            MacvtapMode::Private => Self::Private,
            MacvtapMode::Vepa => Self::Vepa,
            MacvtapMode::Bridge => Self::Bridge,
            MacvtapMode::Passthrough => Self::Passthrough,
        }
    }
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
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::Link(link_index(macvtap.below)?),
        LinkAttribute::Address(macvtap.mac.to_vec()),
        LinkAttribute::IfName(macvtap.name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVtap),
            LinkInfo::Data(InfoData::MacVtap(vec![InfoMacVtap::Mode(macvtap.mode.into())])),
        ]),
    ];
    carry_out(Request::NewLink(link), NEW)
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
    let found = match get(index) {
        Err(error) => return gone(Err(error)),
        Ok(found) => found,
    };
    if is_macvtap(&found, below) {
        gone(carry_out(Request::DelLink(link(index)), 0))
    } else {
        Ok(())
    }
}

/// Takes a device out of whatever bridge it is a port of.
///
/// # Errors
/// There is no such device, or the kernel refuses.
pub fn leave_bridge(port: &str) -> io::Result<()> {
    let mut message = link(link_index(port)?);
    message.attributes = vec![LinkAttribute::Controller(0)];
    carry_out(Request::SetLink(message), 0)
}

/// Whether this is a macvtap above the device of this number.
fn is_macvtap(found: &LinkMessage, below: u32) -> bool {
    let is_kind = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::MacVtap)),
        _ => false,
    };
    found.attributes.iter().any(is_kind) && found.attributes.contains(&LinkAttribute::Link(below))
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
    let mut queue = TcMessage::with_index(link_index(name)?.cast_signed());
    queue.header.parent = TcHandle::ROOT;
    queue.attributes = vec![TcAttribute::Kind("noqueue".to_owned())];
    carry_out(Request::NewQueueDiscipline(queue), NEW)
}

/// Has a bridge know that an address is behind a port.
///
/// # Errors
/// The kernel's.
pub fn add_bridge_address(port: &str, mac: [u8; 6]) -> io::Result<()> {
    carry_out(Request::NewNeighbour(behind(port, mac)?), NEW)
}

/// Has a bridge forget that an address is behind a port.
///
/// # Errors
/// The kernel's.
pub fn remove_bridge_address(port: &str, mac: [u8; 6]) -> io::Result<()> {
    carry_out(Request::DelNeighbour(behind(port, mac)?), 0)
}

/// That an address is behind a port, an entry which the bridge has and not the port.
fn behind(port: &str, mac: [u8; 6]) -> io::Result<NeighbourMessage> {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    entry.header.ifindex = link_index(port)?;
    entry.header.state = FIXED;
    entry.header.flags = NeighbourFlags::Controller;
    entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    Ok(entry)
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
    fn flags(self) -> BridgeVlanInfoFlags {
        match self {
            Self::Tagged => BridgeVlanInfoFlags::empty(),
            Self::NativeTagged => BridgeVlanInfoFlags::Pvid,
            Self::Native => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
        }
    }
}

/// Has a port of a bridge carry a VLAN.
///
/// # Errors
/// The kernel's; it may have no VLANs on bridges.
pub fn add_port_vlan(port: &str, id: u16, how: PortVlan) -> io::Result<()> {
    carry_out(Request::SetLink(port_vlan(port, id, how.flags())?), 0)
}

/// Has a port of a bridge carry a VLAN no longer.
///
/// # Errors
/// The kernel's.
pub fn remove_port_vlan(port: &str, id: u16) -> io::Result<()> {
    let vlan = port_vlan(port, id, BridgeVlanInfoFlags::empty())?;
    carry_out(Request::DelLink(vlan), 0)
}

fn port_vlan(port: &str, id: u16, flags: BridgeVlanInfoFlags) -> io::Result<LinkMessage> {
    let mut message = link(link_index(port)?);
    message.header.interface_family = AddressFamily::Bridge;
    let vlan = BridgeVlanInfo { flags, vid: id };
    message.attributes = vec![LinkAttribute::AfSpecBridge(vec![AfSpecBridge::VlanInfo(vlan)])];
    Ok(message)
}

/// Address of a device.
///
/// # Errors
/// When there is no such device, or it has no address of Ethernet.
pub fn mac(name: &str) -> io::Result<[u8; 6]> {
    let address = |attribute| match attribute {
        LinkAttribute::Address(address) => address.try_into().ok(),
        _ => None,
    };
    let found = get(link_index(name)?)?;
    let address = found.attributes.into_iter().find_map(address);
    address.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether a device is switched on.
///
/// # Errors
/// When there is no such device.
pub fn is_up(name: &str) -> io::Result<bool> {
    Ok(get(link_index(name)?)?.header.flags.contains(LinkFlags::Up))
}

/// What the kernel says of a device.
fn get(index: u32) -> io::Result<LinkMessage> {
    match ask(Request::GetLink(link(index)), 0)? {
        Some(Request::NewLink(found)) => Ok(found),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A message on a device, with nothing in it yet.
fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
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
