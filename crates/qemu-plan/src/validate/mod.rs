//! Documents that make no sense, or that QEMU here cannot honour: libvirt's refusals, in its words.
//!
//! Two passes: [`shape`] needs nothing but the document and comes before anything is filled in; [`validate`] looks at
//! the filled-in document with the emulator's capabilities. A check is one function in a table; the first one that
//! refuses decides, so the order of the tables is libvirt's.

mod chardev;
mod controller;
mod cpu;
mod disk;
mod domain;
mod families;
mod hostdev;
mod net;
mod options;
mod small;
mod tuning;
mod video;
mod whole;

use domxml::Domain;

use crate::caps::{Accel, Caps};
use crate::error::Result;
use crate::facts::{MachineKind, accel_of};

/// A filled-in document and what it is held against.
pub(crate) struct Guest<'a> {
    pub(crate) def: &'a Domain,
    pub(crate) caps: &'a Caps,
    pub(crate) machine: MachineKind,
    pub(crate) accel: Accel,
}

type Shape = fn(&Domain) -> Result<()>;
type Check = fn(&Guest<'_>) -> Result<()>;

const SHAPES: &[Shape] = &[
    whole::shapes,
    whole::cpu_shapes,
    whole::tuning_shapes,
    disk::one_auth,
    disk::one_encryption,
    disk::protocols,
    disk::secrets,
    domain::seclabels,
    domain::addresses,
    chardev::one_source,
    chardev::shapes,
    net::shapes,
    families::boot_order,
    options::shapes,
    families::required,
    families::input_buses,
    small::usb_is_there,
    tuning::resctrl,
    hostdev::scsi_options,
];

const CHECKS: &[Check] = &[
    domain::machine,
    whole::lifecycle,
    whole::clock,
    whole::features,
    whole::vcpus,
    whole::memory,
    whole::os,
    domain::vcpus,
    domain::acpi_tables,
    domain::sysinfo,
    domain::features,
    domain::launch_security,
    cpu::cache,
    cpu::address_bits,
    cpu::distances,
    options::references,
    options::aliases,
    tuning::schedulers,
    tuning::cache_needs_kvm,
    tuning::memory_nodes,
    tuning::hugepages,
    domain::memory_devices,
    disk::targets,
    chardev::first_console,
    options::disks,
    disk::checks,
    controller::options,
    controller::expanders,
    video::models,
    video::acceleration,
    video::addresses,
    video::options,
    hostdev::duplicates,
    hostdev::checks,
    net::checks,
    options::others,
    chardev::sources,
    chardev::spice_only,
    chardev::console_targets,
    chardev::serial_targets,
    small::inputs,
    families::watchdogs,
    families::panics,
    families::audio,
    families::singles,
    families::virtiofs,
    families::vsock,
    small::iommu,
    families::placeless,
    video::passwords,
    video::graphics,
];

/// Checks controllers before anything is placed on them.
pub(crate) use controller::usb_leaders;

/// Checks a document before anything is filled in.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub fn shape(def: &Domain) -> Result<()> {
    SHAPES.iter().try_for_each(|check| check(def))
}

/// Checks a filled-in document against what its emulator can do.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub fn validate(def: &Domain, caps: &Caps) -> Result<()> {
    let machine = def
        .os
        .kind
        .as_ref()
        .and_then(|t| t.machine.as_deref())
        .unwrap_or_default();
    let guest = Guest {
        def,
        caps,
        machine: MachineKind::of(machine),
        accel: accel_of(def).unwrap_or(Accel::Tcg),
    };
    CHECKS.iter().try_for_each(|check| check(&guest))
}
