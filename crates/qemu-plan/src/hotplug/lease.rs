//! Leases that a guest holds.

use domxml::Domain;
use domxml::devices::{Devices, Lease};

use super::{Rules, Side, first, invalid, missing};
use crate::error::{Error, Result};

impl Rules for Lease {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        match side {
            Side::Stored if def.devices.leases.iter().any(|other| same(self, other)) => {
                Err(invalid(format!("{} already exists", shown(self))))
            }
            _ => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        first(
            &devices.leases,
            |other| same(self, other),
            || {
                let message = format!("{} does not exist", shown(self));
                match side {
                    Side::Live => Error::argument_qemu(message),
                    Side::Stored => missing(message),
                }
            },
        )
    }

    /// The guest does not see it.
    fn leaves_a_bus(&self) -> bool {
        false
    }
}

fn same(one: &Lease, other: &Lease) -> bool {
    (&one.lockspace, &one.key) == (&other.lockspace, &other.key)
}

fn shown(lease: &Lease) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    format!(
        "Lease {} in lockspace {}",
        word(&lease.key),
        word(&lease.lockspace)
    )
}
