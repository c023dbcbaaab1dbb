//! The kind of a guest's machine, its accelerator, and whether a document is new.

use domxml::Domain;

use crate::caps::Accel;

/// Kind of an x86 machine, by the beginning of its canonical name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineKind {
    /// `pc-i440fx-*`.
    I440fx,
    /// `pc-q35-*`.
    Q35,
    /// `isapc`: no PCI.
    IsaPc,
    /// `microvm` and others that nothing is built in for.
    Other,
}

impl MachineKind {
    /// The kind of a machine type.
    pub fn of(machine: &str) -> Self {
        let is = |prefix: &str| {
            machine == prefix || machine.strip_prefix(prefix).is_some_and(|r| r.starts_with('-'))
        };
        let old = |prefix: &str| {
            machine
                .strip_prefix(prefix)
                .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        };
        match machine {
            m if is("pc-q35") || m == "q35" => Self::Q35,
            "isapc" => Self::IsaPc,
            _m if is("pc-i440fx") || machine == "pc" || old("pc-") => Self::I440fx,
            _ => Self::Other,
        }
    }

    /// Model of the root bus.
    pub const fn root_bus(self) -> Option<&'static str> {
        match self {
            Self::I440fx => Some("pci-root"),
            Self::Q35 => Some("pcie-root"),
            Self::IsaPc | Self::Other => None,
        }
    }

    /// Whether there is a PS/2 controller.
    pub const fn has_ps2(self) -> bool {
        matches!(self, Self::I440fx | Self::Q35 | Self::IsaPc)
    }
}

/// Whether a document is seen for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Somebody hands it in: room for hot-plug may be added.
    New,
    /// It was defined before: nothing is added that a guest could see.
    Known,
}

/// The accelerator that a document asks for; those of other hypervisors have none.
pub fn accel_of(def: &Domain) -> Option<Accel> {
    Accel::from_virt_type(def.kind.as_str())
}
