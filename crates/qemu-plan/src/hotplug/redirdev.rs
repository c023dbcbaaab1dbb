//! USB devices that a client redirects.

use domxml::Domain;
use domxml::devices::{Devices, Redirdev};

use super::chardev::same_source;
use super::{Rules, Side, first, invalid, is_named, missing};
use crate::error::Result;

impl Rules for Redirdev {
    fn attach(&self, _: &Domain, _: Side) -> Result<()> {
        Ok(())
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        let is_meant = |other: &Redirdev| {
            self.bus == other.bus
                && same_source(&self.chardev, &other.chardev)
                && is_named(&self.info, &other.info)
        };
        // These words are libvirt's.
        let words = "no matching redirdev was not found";
        first(&devices.redirdevs, is_meant, || match side {
            Side::Live => invalid(words),
            Side::Stored => missing(words),
        })
    }
}
