//! What every part of a command line is made from, and the look-ups that several parts share.

use std::collections::BTreeMap;

use domxml::Domain;
use domxml::devices::controller::{Controller, ControllerKind, PciModel};
use domxml::devices::info::DeviceInfo;

use super::Resources;
use crate::caps::Caps;
use crate::{Error, Result};

/// Document, capabilities and resources. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The guest: defaults filled in, addresses and aliases assigned.
    pub def: &'a Domain,
    /// What its QEMU can do.
    pub caps: &'a Caps,
    /// What the world gives.
    pub res: &'a Resources,
    /// Boot index of a device, by alias.
    pub boot: &'a BTreeMap<String, u32>,
}

/// The alias of a device.
///
/// # Errors
/// Internal, when aliases were not assigned.
pub fn alias(info: &DeviceInfo) -> Result<&str> {
    info.alias
        .as_deref()
        .ok_or_else(|| Error::internal_qemu("missing alias of a device"))
}

impl<'a> Context<'a> {
    /// A controller by kind and index.
    pub fn controller(&self, kind: ControllerKind, index: u32) -> Option<&'a Controller> {
        self.def
            .devices
            .controllers
            .iter()
            .find(|controller| controller.kind == kind && controller.index.unwrap_or_default() == index)
    }

    /// The alias of a controller by kind and index.
    ///
    /// # Errors
    /// Internal, when there is no such controller.
    pub fn controller_alias(&self, kind: ControllerKind, index: u32) -> Result<&'a str> {
        let controller = self.controller(kind, index).ok_or_else(|| {
            Error::internal_qemu(format!(
                "could not find {} controller with index {index}",
                kind.as_str()
            ))
        })?;
        alias(&controller.info)
    }

    /// Boot index of a device, if it takes part in booting.
    pub fn boot_index(&self, info: &DeviceInfo) -> Option<u32> {
        self.boot.get(info.alias.as_deref()?).copied()
    }

    /// Machine type of the guest.
    pub fn machine(&self) -> &'a str {
        self.def
            .os
            .kind
            .as_ref()
            .and_then(|kind| kind.machine.as_deref())
            .unwrap_or_default()
    }

    /// Whether the machine is a Q35.
    pub fn is_q35(&self) -> bool {
        let machine = self.machine();
        machine == "q35" || machine.starts_with("pc-q35")
    }

    /// Whether the machine is an i440FX.
    pub fn is_i440fx(&self) -> bool {
        let machine = self.machine();
        ["pc", "isapc"].contains(&machine)
            || ["pc-0.", "pc-1.", "pc-i440", "rhel"]
                .iter()
                .any(|start| machine.starts_with(start))
    }

    /// Whether the guest's root bus is PCI Express.
    pub fn is_pcie(&self) -> bool {
        self.controller(ControllerKind::Pci, 0)
            .is_some_and(|root| root.pci_model() == Some(PciModel::PcieRoot))
    }
}
