//! TAP devices: a network card on the host whose other end is a descriptor, and what is done to it.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Longest name of a network device, in bytes.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNGETFEATURES: libc::c_ulong = 0x8004_54cf;
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
const ETHTOOL_SCOALESCE: u32 = 0xf;
const COALESCE_WORDS: usize = 23;
const TUN: &str = "/dev/net/tun";
const VHOST_NET: &str = "/dev/vhost-net";

/// What a TAP device is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapFlags {
    /// A header for offloads before each packet.
    pub vnet_header: bool,
    /// Several descriptors, a queue each.
    pub multi_queue: bool,
}

/// Opens a queue of a TAP device, and makes the device if it is not there. A name with `%d` is completed by the kernel.
/// The device goes with the last descriptor, unless it was there before.
///
/// # Errors
/// When the name is too long or taken by another kind of device, or the caller lacks the right.
pub fn tap(name: &str, flags: TapFlags) -> io::Result<(OwnedFd, String)> {
    let file = File::options().read(true).write(true).open(TUN)?;
    let mut request = request(name)?;
    let mut bits = libc::IFF_TAP | libc::IFF_NO_PI;
    if flags.vnet_header && features(&file)? & libc::IFF_VNET_HDR != 0 {
        bits |= libc::IFF_VNET_HDR;
    }
    if flags.multi_queue {
        bits |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = short(bits)?;
    control(&file, TUNSETIFF, &mut request)?;
    Ok((file.into(), name_in(&request)))
}

/// The name of the device that a descriptor belongs to.
///
/// # Errors
/// When it belongs to no TAP device.
pub fn tap_name(tap: &OwnedFd) -> io::Result<String> {
    // SAFETY: a structure of numbers, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    control(tap, TUNGETIFF, &mut request)?;
    Ok(name_in(&request))
}

/// Sets what a queue of a macvtap of this name has, which was opened by its device node.
///
/// # Errors
/// The kernel's; when the node is another device's: numbers of devices are their network's, nodes are the machine's.
pub fn set_macvtap_flags(queue: &OwnedFd, name: &str, flags: TapFlags) -> io::Result<()> {
    // SAFETY: a structure of numbers, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    control(queue, TUNGETIFF, &mut request)?;
    let owner = name_in(&request);
    if owner != name {
        let message = format!("its device node is that of '{owner}', in another network of this host");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    // SAFETY: the call has filled this member of the union.
    let before = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let mut bits = before & !(libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE);
    let wanted = [
        (flags.vnet_header, libc::IFF_VNET_HDR),
        (flags.multi_queue, libc::IFF_MULTI_QUEUE),
    ];
    let known = features(queue)?;
    bits |= wanted
        .iter()
        .filter(|(wanted, bit)| *wanted && known & bit != 0)
        .fold(0, |all, (_, bit)| all | bit);
    if bits == before {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = short(bits)?;
    control(queue, TUNSETIFF, &mut request)
}

/// A descriptor of the kernel's own end of virtio networking.
///
/// # Errors
/// When the kernel has none, or the caller lacks the right.
pub fn vhost_net() -> io::Result<OwnedFd> {
    Ok(File::options()
        .read(true)
        .write(true)
        .open(Path::new(VHOST_NET))?
        .into())
}

/// Largest packet of a device, in bytes.
///
/// # Errors
/// When there is no such device.
pub fn mtu(name: &str) -> io::Result<u32> {
    let mut request = request(name)?;
    on_device(libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: the call has filled this member of the union.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Sets how many packets a device may gather before it tells of them.
///
/// # Errors
/// When there is no such device, or it can't.
pub fn set_receive_frames(name: &str, frames: u32) -> io::Result<()> {
    // Words of the kernel's structure, of which the first is the command and the third this number.
    let mut settings = [0_u32; COALESCE_WORDS];
    settings[0] = ETHTOOL_SCOALESCE;
    settings[2] = frames;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = settings.as_mut_ptr().cast();
    on_device(libc::SIOCETHTOOL, &mut request)
}

/// Sets the largest packet of a device, in bytes.
///
/// # Errors
/// When there is no such device, or it can't.
pub fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = i32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
    on_device(libc::SIOCSIFMTU, &mut request)
}

/// Sets the address of a device.
///
/// # Errors
/// When there is no such device, or the address is of a group.
pub fn set_mac(name: &str, mac: [u8; 6]) -> io::Result<()> {
    let mut request = request(name)?;
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: data,
    };
    on_device(libc::SIOCSIFHWADDR, &mut request)
}

/// Switches a device on.
///
/// # Errors
/// When there is no such device.
pub fn set_up(name: &str) -> io::Result<()> {
    change_flags(name, |flags| flags | libc::IFF_UP)
}

/// Switches a device off.
///
/// # Errors
/// When there is no such device.
pub fn set_down(name: &str) -> io::Result<()> {
    change_flags(name, |flags| flags & !libc::IFF_UP)
}

/// Makes a device a port of a bridge.
///
/// # Errors
/// When either is not there, the bridge is none, or the device is a port of another.
pub fn add_to_bridge(bridge: &str, port: &str) -> io::Result<()> {
    let mut found = request(port)?;
    on_device(libc::SIOCGIFINDEX, &mut found)?;
    // SAFETY: the call has filled this member of the union.
    let index = unsafe { found.ifr_ifru.ifru_ifindex };
    let mut request = request(bridge)?;
    request.ifr_ifru.ifru_ifindex = index;
    on_device(SIOCBRADDIF, &mut request)
}

fn change_flags(name: &str, change: impl Fn(libc::c_int) -> libc::c_int) -> io::Result<()> {
    let mut request = request(name)?;
    on_device(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the call has filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = short(change(libc::c_int::from(flags)))?;
    on_device(libc::SIOCSIFFLAGS, &mut request)
}

fn features(tun: &impl AsRawFd) -> io::Result<libc::c_int> {
    let mut bits: libc::c_uint = 0;
    // SAFETY: the request writes one word to the address given.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETFEATURES, std::ptr::from_mut(&mut bits)) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(bits.cast_signed())
    }
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    if name.len() > NAME_MAX || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("'{name}' can't be the name of a network device"),
        ));
    }
    // SAFETY: a structure of numbers, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn name_in(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|c| c.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn short(bits: libc::c_int) -> io::Result<libc::c_short> {
    // Sixteen bits of flags, of which the uppermost is no sign.
    u16::try_from(bits & 0xffff)
        .map(u16::cast_signed)
        .map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn on_device(call: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .map(OwnedFd::from)
        .or_else(|_| any_socket())?;
    control(&socket, call, request)
}

fn any_socket() -> io::Result<OwnedFd> {
    std::os::unix::net::UnixDatagram::unbound().map(OwnedFd::from)
}

fn control(fd: &impl AsRawFd, call: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: these requests read and write one `ifreq`.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), call, std::ptr::from_mut(request)) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_device_can_have_are_refused() {
        let unnamed = request("").map(|_| ()).unwrap_err();
        assert_eq!(unnamed.raw_os_error(), Some(libc::ENODEV));
        for name in ["sixteen-letters-", "a\0b"] {
            assert_eq!(
                request(name).map(|_| ()).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{name:?}"
            );
        }
        assert_eq!(name_in(&request("fifteen-letters").unwrap()), "fifteen-letters");
    }

    #[test]
    fn a_device_that_is_not_there_is_told() {
        for result in [
            set_up("no-such-dev0"),
            set_mtu("no-such-dev0", 1500),
            add_to_bridge("no-such-dev0", "lo"),
            mtu("no-such-dev0").map(drop),
        ] {
            assert!(matches!(
                result.unwrap_err().raw_os_error(),
                Some(libc::ENODEV | libc::EPERM)
            ));
        }
        assert!(mtu("lo").unwrap() > 1000);
    }

    /// In a network of the thread's own, which ends with it.
    #[test]
    fn a_tap_device_is_made_set_up_and_goes_with_its_descriptor() {
        std::thread::spawn(|| {
            // Nobody but root may; then there is nothing to test.
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() || !Path::new(TUN).exists()
            {
                return;
            }
            let flags = TapFlags {
                vnet_header: true,
                multi_queue: false,
            };
            let (fd, name) = tap("vnet%d", flags).unwrap();
            assert_eq!(name, "vnet0");
            set_mac(&name, [0xfe, 0x54, 0, 1, 2, 3]).unwrap();
            set_mtu(&name, 1400).unwrap();
            set_up(&name).unwrap();
            assert_eq!(mtu(&name).unwrap(), 1400);
            set_down(&name).unwrap();
            assert!(add_to_bridge("lo", &name).is_err());
            drop(fd);
            assert!(mtu(&name).is_err());
        })
        .join()
        .unwrap();
    }
}
