//! What a document must say, whatever becomes of it: rules that need nothing but its text, in the order in which
//! libvirt reads its parts.

mod chardev;
mod cpu;
mod disk;
mod net;
mod numa;
mod qemu;
mod small;
mod tuning;

use domxml::Domain;
use domxml::devices::{DeviceSeclabel, YesNo};

use crate::error::{Error, Result};
pub(crate) use small::usb_leaders;

type Shape = fn(&Domain) -> Result<()>;

/// Checks of each part.
// table
const SHAPES: &[Shape] = &[
    system,
    seclabels,
    tuning::tuning,
    cpu::cpu,
    numa::cells,
    numa::placement,
    small::features,
    small::clock,
    disk::disks,
    small::addresses,
    chardev::chardevs,
    net::cards,
    small::boot_order,
    small::required,
    small::usb_is_there,
    tuning::resctrl,
    small::hostdevs,
    small::rngs,
    small::sysinfo,
    qemu::qemu,
];

/// Goes through them.
pub(super) fn shape(def: &Domain) -> Result<()> {
    SHAPES.iter().try_for_each(|check| check(def))
}

/// Types of operating systems that any hypervisor has.
const SYSTEMS: &[&str] = &["hvm", "xen", "linux", "exe", "uml", "xenpvh"];

fn system(def: &Domain) -> Result<()> {
    let Some(kind) = def.os.kind.as_ref().filter(|t| !t.value.is_empty()) else {
        return Err(Error::xml("an os <type> must be specified"));
    };
    if !SYSTEMS.contains(&kind.value.as_str()) {
        return Err(Error::conflicting(format!("unknown OS type '{}'", kind.value)));
    }
    match kind.arch.as_deref() {
        Some(arch) if !crate::facts::ARCHES.contains(&arch) => {
            Err(Error::conflicting(format!("Unknown architecture {arch}")))
        }
        _ => Ok(()),
    }
}

fn seclabels(def: &Domain) -> Result<()> {
    let twice = |at: usize| {
        def.seclabels[..at]
            .iter()
            .any(|l| l.model == def.seclabels[at].model)
    };
    if let Some(at) = (0..def.seclabels.len()).find(|at| twice(*at)) {
        let model = def.seclabels[at].model.as_deref().unwrap_or("(null)");
        return Err(Error::detail(format!(
            "seclabel for model {model} is already provided"
        )));
    }
    let sources = def.devices.disks.iter().filter_map(|d| d.source.as_ref());
    sources
        .into_iter()
        .try_for_each(|s| device_seclabels(&s.seclabels))
}

fn device_seclabels(labels: &[DeviceSeclabel]) -> Result<()> {
    for (at, label) in labels.iter().enumerate() {
        let model = label.model.as_deref();
        if labels.len() > 1 && labels[..at].iter().any(|l| l.model.as_deref() == model) {
            return Err(Error::xml("missing security model when using multiple labels"));
        }
        let empty = label.label.as_deref().is_none_or(str::is_empty);
        if label.relabel == Some(YesNo::Yes) && empty {
            let model = model.unwrap_or("<null>");
            return Err(Error::xml(format!(
                "Cannot specify relabel if label is missing. model={model}"
            )));
        }
    }
    Ok(())
}
