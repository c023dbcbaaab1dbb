//! Documents that make no sense, or that QEMU here cannot honour: libvirt's refusals, in its order and words.
//!
//! What a client's document has to be in itself is checked when it is read ([`domxml::Domain::given`]). Here are three
//! passes: [`early`] is called while a document is completed; [`validate`] looks at the completed one with the emulator's
//! capabilities; [`start`] at what is to become a command line. A rule is a line of a table (`rule`); the first one that
//! refuses decides, so the order of tables and lines is libvirt's.

mod device;
mod domain;
pub(crate) mod early;
mod guest;
mod limits;
mod nvram;
mod os;
mod rule;
pub(crate) mod start;
mod whole;

use domxml::Domain;
use domxml::devices::{Device, Family, Place};

use crate::caps::Caps;
use crate::error::Result;
pub(crate) use guest::Guest;
pub use start::is_advised;
pub(crate) use whole::unique_target;

/// Checks a completed document against what its emulator can do.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub fn validate(def: &Domain, caps: &Caps) -> Result<()> {
    let guest = Guest::new(def, caps);
    domain::domain(&guest)?;
    device::devices(&guest)?;
    whole::whole(&guest)
}

/// Checks a filled-in device, as one of a guest whose own devices are right. Whether it gets on with those is not
/// looked at.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub fn device(def: &Domain, device: &Device, caps: &Caps) -> Result<()> {
    let (trial, place) = alone(def, device);
    let guest = Guest::new(&trial, caps);
    let found = place.and_then(|place| trial.devices.get(place));
    found.map_or(Ok(()), |device| device::device(&guest, device))
}

/// The guest with this device as the only one of its family, and where it is. Families whose rules look at one another
/// stay, controllers among them: other devices refer to them.
fn alone(def: &Domain, device: &Device) -> (Domain, Option<Place>) {
    let mut trial = def.clone();
    let family = device.as_ref().family();
    let stays = matches!(
        family,
        Family::Controller | Family::Memory | Family::Filesystem | Family::Watchdog | Family::Audio
    );
    if !stays {
        while trial.devices.remove(Place { family, at: 0 }).is_some() {}
    }
    trial.devices.for_each_info(|_, info| info.boot = None);
    let at = trial.devices.count(family);
    let place = trial.devices.insert(device.clone(), at).ok();
    (trial, place)
}
