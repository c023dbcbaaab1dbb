//! What PCI controllers are asked for: which option is whose.

use domxml::devices::{Controller, ControllerTarget, PciModel, PciModelName};

use super::super::Guest;
use crate::caps::Flag;
use crate::error::{Error, Result};
use crate::facts::MachineKind;

/// QEMU's device of each model, and what needs it; root buses have none.
// table
const DEVICES: &[(PciModel, &[(PciModelName, Flag)])] = &[
    (PciModel::PciBridge, &[(PciModelName::PciBridge, Flag::PciBridge)]),
    (
        PciModel::DmiToPciBridge,
        &[(PciModelName::I82801b11Bridge, Flag::DmiToPciBridge)],
    ),
    (
        PciModel::PcieRootPort,
        &[
            (PciModelName::Ioh3420, Flag::Ioh3420),
            (PciModelName::PcieRootPort, Flag::PcieRootPort),
        ],
    ),
    (
        PciModel::PcieSwitchUpstreamPort,
        &[(PciModelName::X3130Upstream, Flag::X3130Upstream)],
    ),
    (
        PciModel::PcieSwitchDownstreamPort,
        &[(PciModelName::Xio3130Downstream, Flag::Xio3130Downstream)],
    ),
    (PciModel::PciExpanderBus, &[(PciModelName::Pxb, Flag::Pxb)]),
    (
        PciModel::PcieExpanderBus,
        &[(PciModelName::PxbPcie, Flag::PxbPcie)],
    ),
    (
        PciModel::PcieToPciBridge,
        &[(PciModelName::PciePciBridge, Flag::PciePciBridge)],
    ),
];

/// An option of `<target>`, whether it is given, and the models that have it.
type Option_ = (&'static str, fn(&ControllerTarget) -> bool, &'static [PciModel]);

/// Options in the order in which they are looked at, around the size of the hole above 4 GiB.
// table
const OPTIONS: &[Option_] = &[
    ("targetIndex", |t| t.index.is_some(), &[]),
    (
        "busNr",
        |t| t.bus_nr.is_some(),
        &[PciModel::PciExpanderBus, PciModel::PcieExpanderBus],
    ),
    (
        "numaNode",
        |t| t.node.is_some(),
        &[PciModel::PciExpanderBus, PciModel::PcieExpanderBus],
    ),
    ("chassisNr", |t| t.chassis_nr.is_some(), &[PciModel::PciBridge]),
    (
        "chassis",
        |t| t.chassis.is_some(),
        &[PciModel::PcieRootPort, PciModel::PcieSwitchDownstreamPort],
    ),
    (
        "port",
        |t| t.port.is_some(),
        &[PciModel::PcieRootPort, PciModel::PcieSwitchDownstreamPort],
    ),
    (
        "hotplug",
        |t| t.hotplug.is_some(),
        &[
            PciModel::PciRoot,
            PciModel::PcieRootPort,
            PciModel::PcieSwitchDownstreamPort,
        ],
    ),
    (
        "memReserve",
        |t| t.mem_reserve.is_some(),
        &[PciModel::PcieRootPort, PciModel::PciBridge],
    ),
];

/// Checks a controller's options against its model.
pub(super) fn options(guest: &Guest<'_>, c: &Controller) -> Result<()> {
    let Some(model) = c.pci_model() else { return Ok(()) };
    model_name(c, model)?;
    let device = model != PciModel::PciRoot && model != PciModel::PcieRoot;
    if device && c.index.unwrap_or(0) == 0 {
        return Err(Error::unsupported(format!(
            "Index for '{}' controllers must be > 0",
            model.as_str()
        )));
    }
    let target = c.target.clone().unwrap_or_default();
    let given = |name: &str| {
        OPTIONS
            .iter()
            .find(|(known, ..)| *known == name)
            .is_some_and(|(_, is, _)| is(&target))
    };
    if given("targetIndex") {
        return Err(invalid(c, "targetIndex"));
    }
    hole(guest, c, model)?;
    let stray = OPTIONS
        .iter()
        .find(|(_, is, models)| is(&target) && !models.contains(&model));
    if let Some((name, ..)) = stray {
        return Err(invalid(c, name));
    }
    if given("hotplug") && !guest.caps.has(hotplug_flag(model)) {
        return Err(Error::unsupported(format!(
            "setting the 'hotplug' property on a '{}' device is not supported by this QEMU binary",
            model.as_str()
        )));
    }
    supported(guest, c, model)
}

fn model_name(c: &Controller, model: PciModel) -> Result<()> {
    let devices = DEVICES.iter().find(|(m, _)| *m == model);
    match (devices, c.model_name) {
        (None, Some(_)) => Err(invalid(c, "modelName")),
        (Some((_, names)), Some(name)) if !names.iter().any(|(n, _)| *n == name) => {
            Err(refusal(c, "modelName", "has invalid value"))
        }
        _ => Ok(()),
    }
}

/// The hole above 4 GiB is the root bus's.
fn hole(guest: &Guest<'_>, c: &Controller, model: PciModel) -> Result<()> {
    let fits = match model {
        PciModel::PciRoot => guest.machine == MachineKind::I440fx,
        PciModel::PcieRoot => guest.machine == MachineKind::Q35,
        _ => true,
    };
    if c.pcihole64.is_some() && !fits {
        return Err(Error::unsupported(format!(
            "Setting the 64-bit PCI hole size is not supported for machine '{}'",
            guest.machine_name()
        )));
    }
    Ok(())
}

fn hotplug_flag(model: PciModel) -> Flag {
    match model {
        PciModel::PciRoot => Flag::Piix4AcpiRootPciHotplug,
        _ => Flag::PcieRootPortHotplug,
    }
}

fn supported(guest: &Guest<'_>, c: &Controller, model: PciModel) -> Result<()> {
    let names = DEVICES
        .iter()
        .find(|(m, _)| *m == model)
        .map_or(&[][..], |(_, names)| names);
    let lacks = |(name, flag): &&(PciModelName, Flag)| Some(*name) == c.model_name && !guest.caps.has(*flag);
    names.iter().find(lacks).map_or(Ok(()), |(name, _)| {
        Err(Error::unsupported(format!(
            "The '{}' device is not supported by this QEMU binary",
            name.as_str()
        )))
    })
}

fn invalid(c: &Controller, option: &str) -> Error {
    refusal(c, option, "is not valid")
}

fn refusal(c: &Controller, option: &str, why: &str) -> Error {
    Error::unsupported(format!(
        "Option '{option}' {why} for PCI controller with index '{}', model '{}' and modelName '{}'",
        c.index.unwrap_or(0),
        c.model.as_deref().unwrap_or_default(),
        c.model_name.map_or("none", |n| n.as_str()),
    ))
}
