//! What was taken from other daemons or from the host and must be given back: ports of networks, filters on devices, PCI
//! devices of the host, macvtap devices, ports of Open vSwitch.
//!
//! A file notes each thing before it is asked for, and goes when it was given back. So a daemon that is killed at any
//! point leaves a note of what it held; the next one gives back what belongs to no run. What can't be given back
//! because the other daemon does not answer becomes due, and is tried again until it does.
//!
//! ```text
//!  noted ──given back──▶ gone
//!    └──nobody answers, or found without its run──▶ due ──tried again──▶ gone
//! ```

use std::{
    collections::HashSet,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use hostinfo::PciAddress;
use tokio::sync::{RwLock, RwLockReadGuard};
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    ops::holdings::net::{macvtap::Macvtap, openvswitch},
    peers::PortId,
};

/// Longest name of a device, as the kernel has it.
const DEVICE_MAX: usize = 15;
/// The word in the note of a macvtap that has the device below for itself.
const PASSTHROUGH: &str = "passthrough";
/// Longest note, bytes.
const NOTE_MAX: u64 = 4096;

/// One thing that another daemon, or the host, gave us.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Debt {
    /// A port of a network.
    Port(PortId),
    /// The filter on a device.
    Filter(String),
    /// A PCI device that was taken from its driver.
    Device(PciAddress),
    /// A device of the kernel's that stays until it is removed.
    Macvtap(Macvtap),
    /// A port of Open vSwitch.
    SwitchPort(openvswitch::Port),
}

/// All of them.
pub struct Owed {
    directory: PathBuf,
    due: Mutex<HashSet<Debt>>,
    /// Somebody tries to give back what is due.
    pub(crate) busy: AtomicBool,
    /// Held for writing while what is due is given back, for reading while a name that may be due is used anew: a device
    /// that has gone lends its name to the next.
    pub(crate) hand: RwLock<()>,
}

impl Owed {
    /// Notes below the daemon's own directory; nothing is read yet.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.join("owed"),
            due: Mutex::default(),
            busy: AtomicBool::new(false),
            hand: RwLock::default(),
        }
    }

    pub(crate) fn due(&self) -> MutexGuard<'_, HashSet<Debt>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, debt: &Debt) -> PathBuf {
        self.directory.join(debt.name())
    }

    /// What a former daemon noted and no run holds is due. Blocks on files.
    pub(crate) fn load(&self, held: &HashSet<Debt>) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let noted = entries.filter_map(|entry| read_note(&entry.path()));
        self.due().extend(noted.filter(|debt| !held.contains(debt)));
    }

    /// Notes what is about to be asked for.
    pub(crate) async fn note(&self, debt: &Debt) -> Result<()> {
        let (path, content) = (self.path(debt), debt.content());
        let failed = move |path: &Path, e| Error::system(format_args!("cannot note '{}'", path.display()), e);
        let write = move || {
            crate::domain::store::write(&path, content.as_bytes(), false).map_err(|e| failed(&path, e))
        };
        crate::blocking::file("noting what other daemons give", write).await
    }

    /// It was given back.
    pub(crate) async fn settled(&self, debt: &Debt) {
        self.due().remove(debt);
        let path = self.path(debt);
        if let Err(error) =
            crate::blocking::file("removing a note", move || crate::ops::host::files::remove(&path)).await
        {
            tracing::warn!(%error, "a note is left of what was given back");
        }
    }

    /// Nothing that is due is given back while the guard lives.
    pub(crate) async fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.hand.read().await
    }

    /// Whether it is due; it is no longer then: the caller sees to it.
    pub(crate) fn take_due(&self, debt: &Debt) -> bool {
        self.due().remove(debt)
    }

    /// Whether anything is due.
    pub(crate) fn any_due(&self) -> bool {
        !self.due().is_empty()
    }
}

impl Debt {
    /// The name of its note.
    fn name(&self) -> String {
        match self {
            Self::Port(id) => format!("port-{}", id.port),
            Self::Filter(device) => format!("filter-{device}"),
            Self::Device(address) => format!("device-{address}"),
            Self::Macvtap(macvtap) => format!("macvtap-{}", macvtap.device),
            Self::SwitchPort(port) => format!("switch-{}", port.device),
        }
    }

    /// What is in its note.
    fn content(&self) -> String {
        match self {
            Self::Port(id) => id.network.clone(),
            Self::Filter(_) | Self::Device(_) => String::new(),
            Self::Macvtap(macvtap) if macvtap.passthrough => format!("{}\n{PASSTHROUGH}", macvtap.below),
            Self::Macvtap(macvtap) => macvtap.below.clone(),
            Self::SwitchPort(port) => port.guest.to_string(),
        }
    }

    /// What a note tells of; none if it is no such note.
    fn of_note(name: &str, content: String) -> Option<Self> {
        match name.split_once('-')? {
            ("filter", device) if !device.is_empty() && device.len() <= DEVICE_MAX => {
                Some(Self::Filter(device.to_owned()))
            }
            ("port", port) if !content.is_empty() => Some(Self::Port(PortId {
                network: content,
                port: Uuid::try_parse(port).ok()?,
            })),
            ("device", address) => address.parse().ok().map(Self::Device),
            ("switch", device) if !device.is_empty() && device.len() <= DEVICE_MAX => {
                Some(Self::SwitchPort(openvswitch::Port {
                    device: device.to_owned(),
                    guest: Uuid::try_parse(&content).ok()?,
                }))
            }
            ("macvtap", device) if !device.is_empty() && device.len() <= DEVICE_MAX => {
                let (below, more) = content.split_once('\n').unwrap_or((&content, ""));
                let [device, below] = [device, below].map(str::to_owned);
                Some(Self::Macvtap(Macvtap {
                    device,
                    below,
                    passthrough: more == PASSTHROUGH,
                }))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Debt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(id) => write!(f, "port {} of network '{}'", id.port, id.network),
            Self::Filter(device) => write!(f, "filter on '{device}'"),
            Self::Device(address) => write!(f, "PCI device {address}"),
            Self::SwitchPort(port) => write!(f, "port '{}' of Open vSwitch", port.device),
            Self::Macvtap(macvtap) => write!(f, "macvtap '{}' above '{}'", macvtap.device, macvtap.below),
        }
    }
}

/// A note that was found. Names of networks are short; what is longer is no note.
fn read_note(path: &Path) -> Option<Debt> {
    let mut content = String::new();
    fs::File::open(path)
        .ok()?
        .take(NOTE_MAX)
        .read_to_string(&mut content)
        .ok()?;
    Debt::of_note(path.file_name()?.to_str()?, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_no_run_holds_is_due_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let port = Debt::Port(PortId {
            network: "default".to_owned(),
            port: Uuid::from_u128(2),
        });
        let (held, lost, gone) = (
            Debt::Filter("vnet0".to_owned()),
            port,
            Debt::Filter("vnet-1".to_owned()),
        );
        let macvtap = |device: &str, passthrough| {
            Debt::Macvtap(Macvtap {
                device: device.to_owned(),
                below: "eth0".to_owned(),
                passthrough,
            })
        };
        let switch_port = Debt::SwitchPort(openvswitch::Port {
            device: "vnet7".to_owned(),
            guest: Uuid::from_u128(3),
        });
        let links = [
            macvtap("macvtap0", false),
            macvtap("my-macvtap", true),
            switch_port,
        ];
        let before = Owed::new(dir.path());
        for debt in [&held, &lost, &gone].into_iter().chain(&links) {
            before.note(debt).await.unwrap();
        }
        before.settled(&gone).await;
        fs::write(dir.path().join("owed/something"), "").unwrap();
        let after = Owed::new(dir.path());
        after.load(&HashSet::from([held]));
        assert_eq!(*after.due(), [lost.clone()].into_iter().chain(links).collect());
        assert!(after.take_due(&lost) && !after.take_due(&lost));
    }
}
