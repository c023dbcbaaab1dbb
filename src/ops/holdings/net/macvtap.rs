//! macvtap devices: the host's ends of interfaces of type `direct`.
//!
//! Unlike a TAP device, one stays until it is removed. A start notes it before it is made ([`crate::ops::holdings::ledger`]); it is removed
//! when the start fails, the run ends, or a daemon finds the note of a run that is gone. One that has the device below
//! for itself (`passthrough`) lends that device the guest's address; the one it had is kept in a file, where libvirt
//! keeps it too, until the macvtap is removed.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use domxml::devices::{Interface, InterfaceKind, InterfaceSource, YesNo};
use qemu_plan::command::net::kind;
use unixfd::MacvtapMode;

use crate::error::{Area, Code, Error, Result};

/// Longest file of an address, bytes.
const SAVED_MAX: u64 = 4096;
/// The key of the address in its file.
const KEY: &str = "mac";
/// Words of the document and what they are for the kernel.
const MODES: &[(&str, MacvtapMode)] = &[
    ("vepa", MacvtapMode::Vepa),
    ("private", MacvtapMode::Private),
    ("bridge", MacvtapMode::Bridge),
    ("passthrough", MacvtapMode::Passthrough),
];

/// A macvtap device that is a guest's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Macvtap {
    /// Its name.
    pub(crate) device: String,
    /// The device below.
    pub(crate) below: String,
    /// Whether the device below is its own.
    pub(crate) passthrough: bool,
}

impl Macvtap {
    /// The one that was made for an interface of a run.
    pub(crate) fn of(interface: &Interface) -> Option<Self> {
        let made = interface
            .private_data
            .as_ref()
            .is_some_and(|p| p.created == Some(YesNo::Yes));
        let device = interface
            .target
            .as_ref()
            .and_then(|t| t.dev.clone())
            .filter(|_| made)?;
        Self::named(interface, device)
    }

    /// The one that is to be made for an interface, with its name; none for an interface of another type.
    pub(crate) fn named(interface: &Interface, device: String) -> Option<Self> {
        let source = plug_source(interface).filter(|_| kind(interface) == InterfaceKind::Direct)?;
        let passthrough = mode(source).ok()? == MacvtapMode::Passthrough;
        Some(Self {
            device,
            below: source.dev.clone()?,
            passthrough,
        })
    }

    /// Whether it can be made, before anything is noted or done: the device below is there, and the name is free. Blocks.
    ///
    /// # Errors
    /// As the kernel's would be.
    pub(crate) fn check(&self, mac: [u8; 6]) -> Result<()> {
        let Self {
            device,
            below,
            passthrough,
        } = self;
        if *passthrough {
            address(below)?;
        }
        unixfd::link_index(below)
            .map_err(|error| failed(format_args!("Unable to get index for interface {below}"), error))?;
        match unixfd::link_index(device) {
            Ok(_) => Err(self.not_made(
                mac,
                io::Error::from_raw_os_error(nix::errno::Errno::EEXIST as i32),
            )),
            Err(_) => Ok(()),
        }
    }

    fn not_made(&self, mac: [u8; 6], error: io::Error) -> Error {
        let Self { device, below, .. } = self;
        failed(
            format_args!(
                "error creating macvtap interface {device}@{below} ({})",
                shown(mac)
            ),
            error,
        )
        .in_area(Area::Net)
    }

    /// Makes it. `state` is where addresses of devices below are kept. Blocks.
    ///
    /// # Errors
    /// The kernel's; nothing is left then.
    pub(crate) fn make(&self, mac: [u8; 6], mode: MacvtapMode, state: &Path) -> Result<()> {
        let Self {
            device,
            below,
            passthrough,
        } = self;
        let before = if *passthrough { Some(address(below)?) } else { None };
        unixfd::add_macvtap(&unixfd::Macvtap {
            name: device,
            below,
            mac,
            mode,
        })
        .map_err(|error| self.not_made(mac, error))?;
        // From here the device below is this guest's: nobody else's macvtap can be made above it.
        let lent = before.map_or(Ok(()), |before| lend(below, before, mac, state));
        if lent.is_err()
            && let Err(error) = self.remove(state)
        {
            tracing::error!(device, %error, "is left of an interface that could not be made");
        }
        lent
    }

    /// Removes it, and gives the device below its address back. What is gone already is no error. Blocks.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn remove(&self, state: &Path) -> Result<()> {
        let Self {
            device,
            below,
            passthrough,
        } = self;
        unixfd::remove_macvtap(device, below)
            .map_err(|error| failed(format_args!("error destroying network device {device}"), error))?;
        if !passthrough {
            return Ok(());
        }
        let Some(path) = saved_at(state, below) else {
            return Ok(());
        };
        let Some(before) = saved(&path) else { return Ok(()) };
        set_address(below, before)?;
        crate::ops::host::files::remove(&path)
    }
}

/// What an interface is plugged into where it names what: its own source, or what its network gave.
pub(crate) fn plug_source(interface: &Interface) -> Option<&InterfaceSource> {
    interface
        .actual
        .as_ref()
        .map_or(interface.source.as_ref(), |actual| actual.source.as_ref())
}

/// The mode that a document says.
///
/// # Errors
/// `Internal` for a word that is none.
pub(crate) fn mode(source: &InterfaceSource) -> Result<MacvtapMode> {
    let word = source.mode.as_deref().unwrap_or("vepa");
    let found = MODES.iter().find(|(name, _)| *name == word);
    found
        .map(|(_, mode)| *mode)
        .ok_or_else(|| Error::internal(format!("'{word}' is no mode of a macvtap")))
}

/// Keeps the address of a device and gives it the guest's.
fn lend(below: &str, before: [u8; 6], mac: [u8; 6], state: &Path) -> Result<()> {
    let path = saved_at(state, below)
        .ok_or_else(|| Error::internal(format!("'{below}' can't be the name of a file")))?;
    let text = format!("{{\n  \"{KEY}\": \"{}\"\n}}\n", shown(before));
    if path.exists() && saved(&path).is_none() {
        return Err(Error::new(
            Code::OperationFailed,
            format!("'{}' is there, and holds no address of a device", path.display()),
        ));
    }
    crate::domain::store::write(&path, text.as_bytes(), false).map_err(|error| {
        Error::system(
            format_args!("Unable to write state file '{}'", path.display()),
            error,
        )
    })?;
    set_address(below, mac)
}

/// Where the address of a device is kept; none if its name can't be that of a file.
fn saved_at(state: &Path, below: &str) -> Option<PathBuf> {
    let plain = !below.is_empty() && !below.contains('/') && !matches!(below, "." | "..");
    plain.then(|| state.join(below))
}

/// The address in a file; none if there is no such file, or it is none of these.
fn saved(path: &Path) -> Option<[u8; 6]> {
    let mut text = String::new();
    fs::File::open(path)
        .ok()?
        .take(SAVED_MAX)
        .read_to_string(&mut text)
        .ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    parse(value.get(KEY)?.as_str()?)
}

fn address(device: &str) -> Result<[u8; 6]> {
    unixfd::mac(device).map_err(|error| failed(format_args!("Cannot get interface MAC on '{device}'"), error))
}

fn set_address(device: &str, mac: [u8; 6]) -> Result<()> {
    match unixfd::set_mac(device, mac) {
        Err(error)
            if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
                && unixfd::link_index(device).is_err() =>
        {
            Ok(())
        }
        result => result.map_err(|error| {
            failed(
                format_args!("Cannot set interface MAC to {} on '{device}'", shown(mac)),
                error,
            )
        }),
    }
}

/// An address from its text.
pub(crate) fn parse(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes.and_then(|bytes| bytes.try_into().ok())
}

/// An address as text.
pub(crate) fn shown(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// What the kernel refused.
pub(crate) fn failed(what: impl std::fmt::Display, error: io::Error) -> Error {
    Error::system(what, error).in_area(Area::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(words: &str) -> bool {
        std::process::Command::new("ip")
            .args(words.split(' '))
            .status()
            .is_ok_and(|status| status.success())
    }

    /// In a network of the thread's own, which ends with it; not where nobody may make one.
    fn alone(test: impl FnOnce() + Send + 'static) {
        let run = || {
            let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
            if own
                && ip("link add va address 52:54:00:0a:0a:0a type veth peer name vb")
                && ip("link add vm link va type macvtap")
            {
                assert!(ip("link del vm"));
                test();
            }
        };
        std::thread::spawn(run).join().unwrap();
    }

    fn macvtap(device: &str, passthrough: bool) -> Macvtap {
        Macvtap {
            device: device.to_owned(),
            below: "va".to_owned(),
            passthrough,
        }
    }

    const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const BELOW: [u8; 6] = [0x52, 0x54, 0, 0xa, 0xa, 0xa];

    #[test]
    fn the_device_below_gets_its_address_back() {
        alone(|| {
            let dir = tempfile::tempdir().unwrap();
            let (mine, other) = (macvtap("vm", true), macvtap("vn", true));
            for _ in 0..2 {
                mine.make(GUEST, MacvtapMode::Passthrough, dir.path()).unwrap();
                assert_eq!(
                    (unixfd::mac("va").unwrap(), unixfd::mac("vm").unwrap()),
                    (GUEST, GUEST)
                );
                let text = fs::read_to_string(dir.path().join("va")).unwrap();
                assert_eq!(text, "{\n  \"mac\": \"52:54:00:0a:0a:0a\"\n}\n");
                // Another that wants the same device changes nothing.
                let refused = other
                    .make([2; 6], MacvtapMode::Passthrough, dir.path())
                    .unwrap_err();
                assert_eq!(
                    refused.message,
                    "error creating macvtap interface vn@va (02:02:02:02:02:02): Invalid argument"
                );
                assert_eq!(unixfd::mac("va").unwrap(), GUEST);
                mine.remove(dir.path()).unwrap();
                assert_eq!(unixfd::mac("va").unwrap(), BELOW);
                assert!(unixfd::link_index("vm").is_err() && !dir.path().join("va").exists());
            }
            mine.remove(dir.path()).unwrap();
        });
    }

    #[test]
    fn a_file_that_is_something_else_is_kept() {
        alone(|| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("va"), "<domstatus/>").unwrap();
            let mine = macvtap("vm", true);
            assert!(mine.make(GUEST, MacvtapMode::Passthrough, dir.path()).is_err());
            assert_eq!(
                (unixfd::mac("va").unwrap(), unixfd::link_index("vm").is_err()),
                (BELOW, true)
            );
            assert_eq!(fs::read_to_string(dir.path().join("va")).unwrap(), "<domstatus/>");
        });
    }

    #[test]
    fn the_kernels_refusals_are_told_as_libvirt_tells_them() {
        alone(|| {
            let dir = tempfile::tempdir().unwrap();
            let below = |below: &str, passthrough| Macvtap {
                below: below.to_owned(),
                ..macvtap("vm", passthrough)
            };
            let table = [
                (
                    below("none", false),
                    "Unable to get index for interface none: No such device",
                ),
                (
                    below("none", true),
                    "Cannot get interface MAC on 'none': No such device",
                ),
                (
                    macvtap("vb", false),
                    "error creating macvtap interface vb@va (52:54:00:01:02:03): File exists",
                ),
            ];
            for (macvtap, said) in table {
                assert_eq!(macvtap.check(GUEST).unwrap_err().message, said);
                assert!(macvtap.make(GUEST, MacvtapMode::Vepa, dir.path()).is_err());
            }
            // What is no macvtap of this device is not removed, whatever a note says.
            macvtap("vb", false).remove(dir.path()).unwrap();
            assert!(unixfd::link_index("vb").is_ok());
        });
    }

    #[test]
    fn an_interface_of_a_run_says_what_was_made_for_it() {
        let xml = |mode: &str, created: &str| {
            format!(
                "<domstatus state='running' reason='booted' pid='1'><domain type='qemu' id='1'><name>a</name><memory>1</memory><os>\
                 <type>hvm</type></os><devices><interface type='network'><source network='n'/><actual type='direct'>\
                 <source dev='eth0' mode='{mode}'/></actual><target dev='macvtap3'/>{created}</interface></devices></domain></domstatus>"
            )
        };
        let of = |mode, created| {
            let status = domxml::StatusDocument::parse(&xml(mode, created)).unwrap();
            Macvtap::of(&status.domain.devices.interfaces[0])
        };
        let created = "<privateData><created value='yes'/></privateData>";
        let wanted = |passthrough| {
            Some(Macvtap {
                device: "macvtap3".to_owned(),
                below: "eth0".to_owned(),
                passthrough,
            })
        };
        assert_eq!(of("vepa", created), wanted(false));
        assert_eq!(of("passthrough", created), wanted(true));
        assert_eq!(of("passthrough", ""), None);
    }
}
