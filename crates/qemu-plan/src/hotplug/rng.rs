//! Sources of randomness.

use domxml::Domain;
use domxml::devices::{Address, DeviceRef, Devices, Rng, RngBackend, RngRate, VirtioModel};

use super::chardev::same_sources;
use super::{Rules, Side, first, is_at, missing};
use crate::error::{Error, Result};

impl Rules for Rng {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        let taken = |other: DeviceRef<'_>| {
            let is_there = other.info().is_some_and(|info| is_at(&self.info, info));
            let is_asked_for = match &self.info.address {
                Some(Address::Pci(address)) => !address.is_empty(),
                address => address.is_some(),
            };
            is_asked_for && is_there
        };
        match side {
            // The blank at the end is libvirt's.
            Side::Stored if def.devices.iter().any(taken) => Err(Error::unsupported(
                "a device with the same address already exists ",
            )),
            _ => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        first(
            &devices.rngs,
            |other| is_meant(self, other),
            || match side {
                Side::Live => missing(format!(
                    "model '{}' RNG device not present in domain configuration",
                    odd_word(self.model)
                )),
                Side::Stored => missing("no matching RNG device was found"),
            },
        )
    }
}

/// libvirt looks the model up among the words for back ends.
fn odd_word(model: VirtioModel) -> &'static str {
    match model {
        VirtioModel::Virtio => "random",
        VirtioModel::Transitional => "egd",
        VirtioModel::NonTransitional => "builtin",
    }
}

fn is_meant(wanted: &Rng, has: &Rng) -> bool {
    let rate = |rng: &Rng| {
        let RngRate { bytes, period } = rng.rate.clone().unwrap_or_default();
        (bytes, period.unwrap_or(0))
    };
    wanted.model == has.model
        && rate(wanted) == rate(has)
        && same_backend(wanted.backend.as_ref(), has.backend.as_ref())
        && is_at(&wanted.info, &has.info)
}

fn same_backend(wanted: Option<&RngBackend>, has: Option<&RngBackend>) -> bool {
    let (Some(wanted), Some(has)) = (wanted, has) else {
        return wanted.is_none() && has.is_none();
    };
    let kind = wanted.kind.unwrap_or_default();
    wanted.model == has.model
        && wanted.path == has.path
        && wanted.kind == has.kind
        && same_sources(kind, &wanted.sources, &has.sources)
}
