//! Families of few words: watchdogs, input devices, shared memory, vsock, sound cards, the I/O MMU.

use domxml::Domain;
use domxml::devices::{
    Devices, Input, InputBus, InputKind, Iommu, Shmem, ShmemModelKind, Sound, Vsock, Watchdog, WatchdogModel,
};

use super::{Rules, Side, first, invalid, is_at, is_named, missing};
use crate::error::{Area, Code, Error, Result};
use crate::facts::size;

impl Rules for Watchdog {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        let all = &def.devices.watchdogs;
        if side == Side::Stored {
            return match all.iter().any(|other| same_watchdog(self, other)) {
                true => Err(invalid("device is already in the domain configuration")),
                false => Ok(()),
            };
        }
        let action = self.action.unwrap_or_default();
        if all.iter().any(|other| other.action.unwrap_or_default() != action) {
            return Err(Error::unsupported(
                "watchdogs with different actions are not supported with this QEMU binary",
            ));
        }
        only_i6300esb(self.model, |model| {
            format!("hotplug of watchdog model '{model}' is not supported")
        })
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        let words = "no matching watchdog was found";
        first(
            &devices.watchdogs,
            |other| same_watchdog(self, other),
            || match side {
                Side::Live => invalid(words),
                Side::Stored => missing(words),
            },
        )
    }

    fn detach(&self, _: &Devices) -> Result<()> {
        only_i6300esb(self.model, |model| {
            format!("hot unplug of watchdog of model {model} is not supported")
        })
    }
}

fn same_watchdog(wanted: &Watchdog, has: &Watchdog) -> bool {
    wanted.model == has.model
        && wanted.action.unwrap_or_default() == has.action.unwrap_or_default()
        && is_named(&wanted.info, &has.info)
}

fn only_i6300esb(model: WatchdogModel, words: impl FnOnce(&str) -> String) -> Result<()> {
    match model {
        WatchdogModel::I6300esb => Ok(()),
        other => Err(Error::not_pluggable(words(other.as_str()))),
    }
}

impl Rules for Input {
    fn attach(&self, _: &Domain, side: Side) -> Result<()> {
        match side {
            Side::Live => on_a_bus(self, |bus| {
                format!("input device on bus '{bus}' cannot be hot plugged.")
            }),
            Side::Stored => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, _: Side) -> Result<usize> {
        let source = |input: &Input| {
            let source = input.source.as_ref();
            source.and_then(|s| s.evdev.clone().or_else(|| s.dev.clone()))
        };
        let is_meant = |other: &Input| {
            self.kind == other.kind
                && (self.bus.is_none() || self.bus == other.bus)
                && source(self) == source(other)
                && is_at(&self.info, &other.info)
        };
        first(&devices.inputs, is_meant, || {
            missing("matching input device not found")
        })
    }

    fn detach(&self, _: &Devices) -> Result<()> {
        on_a_bus(self, |bus| {
            format!("input device on bus '{bus}' cannot be detached")
        })
    }

    /// QEMU reads an event device itself: the guest sees nothing go.
    fn leaves_a_bus(&self) -> bool {
        self.kind != InputKind::Evdev
    }
}

fn on_a_bus(input: &Input, words: impl FnOnce(&str) -> String) -> Result<()> {
    match input.bus {
        Some(InputBus::Usb | InputBus::Virtio) => Ok(()),
        _ if input.kind == InputKind::Evdev => Ok(()),
        other => Err(Error::not_pluggable(words(
            other.unwrap_or(InputBus::None).as_str(),
        ))),
    }
}

impl Rules for Shmem {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        match side {
            Side::Live => only_new_models(self, "attach"),
            Side::Stored if def.devices.shmems.iter().any(|other| same_shmem(self, other)) => {
                Err(invalid("device is already in the domain configuration"))
            }
            Side::Stored => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        first(
            &devices.shmems,
            |other| same_shmem(self, other),
            || match side {
                Side::Live => missing(format!(
                    "model '{}' shmem device not present in domain configuration",
                    self.model.unwrap_or_default().as_str()
                )),
                Side::Stored => missing("matching shmem device was not found"),
            },
        )
    }

    fn detach(&self, _: &Devices) -> Result<()> {
        only_new_models(self, "detach")
    }
}

fn only_new_models(shmem: &Shmem, what: &str) -> Result<()> {
    match shmem.model.unwrap_or_default() {
        ShmemModelKind::IvshmemPlain | ShmemModelKind::IvshmemDoorbell => Ok(()),
        ShmemModelKind::Ivshmem => Err(Error::not_pluggable(format!(
            "live {what} of shmem model 'ivshmem' is not supported"
        ))),
    }
}

fn same_shmem(wanted: &Shmem, has: &Shmem) -> bool {
    let size = |shmem: &Shmem| {
        let given = shmem.size.as_ref();
        given.and_then(|size| size::bytes(size.value, size.unit.as_deref().unwrap_or("B")))
    };
    let server = |shmem: &Shmem| shmem.server.as_ref().and_then(|server| server.path.clone());
    let msi = |shmem: &Shmem| {
        shmem
            .msi
            .as_ref()
            .map(|msi| (msi.vectors.unwrap_or(0), msi.ioeventfd))
    };
    wanted.name == has.name
        && wanted.model.unwrap_or_default() == has.model.unwrap_or_default()
        && wanted.role == has.role
        && size(wanted) == size(has)
        && server(wanted) == server(has)
        && msi(wanted) == msi(has)
        && is_at(&wanted.info, &has.info)
}

impl Rules for Vsock {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        match (def.devices.vsock.is_some(), side) {
            (true, Side::Live) => Err(Error::not_pluggable("the domain already has a vsock device")),
            (true, Side::Stored) => Err(invalid("domain already has a vsock device")),
            (false, _) => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        let auto = |vsock: &Vsock| vsock.cid.as_ref().and_then(|cid| cid.auto);
        let is_meant = |has: &Vsock| {
            (self.model.is_none() || self.model == has.model)
                && auto(self) == auto(has)
                && is_at(&self.info, &has.info)
        };
        match (devices.vsock.as_ref().is_some_and(is_meant), side) {
            (true, _) => Ok(0),
            (false, Side::Live) => Err(missing("matching vsock device not found")),
            (false, Side::Stored) => Err(Error::new(
                Code::OperationFailed,
                Area::Qemu,
                "matching vsock device not found",
            )),
        }
    }
}

impl Rules for Sound {
    fn attach(&self, _: &Domain, _: Side) -> Result<()> {
        Ok(())
    }

    fn find(&self, devices: &Devices, _: Side) -> Result<usize> {
        let is_meant = |other: &Sound| {
            self.model == other.model && self.codecs == other.codecs && is_at(&self.info, &other.info)
        };
        first(&devices.sounds, is_meant, || {
            missing("device not present in domain configuration")
        })
    }
}

impl Rules for Iommu {
    fn attach(&self, def: &Domain, _: Side) -> Result<()> {
        match def.devices.iommu {
            Some(_) => Err(invalid("domain already has an iommu device")),
            None => Ok(()),
        }
    }

    fn find(&self, devices: &Devices, _: Side) -> Result<usize> {
        let is_meant = |has: &Iommu| self.model == has.model;
        match devices.iommu.as_ref().is_some_and(is_meant) {
            true => Ok(0),
            false => Err(missing("matching iommu device not found")),
        }
    }
}
