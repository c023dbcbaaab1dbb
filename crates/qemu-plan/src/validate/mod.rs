//! Documents that make no sense, or that QEMU here cannot honour: libvirt's refusals, in its order and words.
//!
//! Three passes. [`shape`] needs nothing but the document and comes before anything is filled in; [`early`] is called
//! while a document is completed; [`validate`] looks at the completed one with the emulator's capabilities. A rule is
//! a line of a table (`rule`); the first one that refuses decides, so the order of tables and lines is libvirt's.

mod device;
mod domain;
pub(crate) mod early;
mod guest;
mod limits;
mod nvram;
mod os;
mod rule;
mod shape;
mod whole;

use domxml::Domain;

use crate::caps::Caps;
use crate::error::Result;
pub(crate) use guest::Guest;
pub(crate) use shape::usb_leaders;

/// Checks a document before anything is filled in.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub fn shape(def: &Domain) -> Result<()> {
    shape::shape(def)
}

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
