//! Ports of virtio-serial controllers. Port 0 is for the first console only.

use std::collections::BTreeMap;

use domxml::devices::{
    Address, ChannelTargetKind, Console, ConsoleTargetKind, Controller, ControllerKind, DeviceInfo, Devices,
    VirtioSerialAddress,
};

use crate::error::{Error, Result};
use crate::facts::insert_controller;

/// Ports of a controller that does not say how many it has.
const DEFAULT_PORTS: u32 = 31;
/// Most ports that are looked at.
const MAX_PORTS: u32 = 1024;

/// Taken ports of each controller.
#[derive(Default)]
struct Controllers(BTreeMap<u32, Taken>);

struct Taken {
    ports: u32,
    taken: Vec<u32>,
}

/// Whether port 0 may be given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Zero,
    One,
}

/// Gives consoles and channels a port, adding a controller when all are full.
///
/// # Errors
/// When a given port does not exist or is taken.
pub(super) fn assign(devices: &mut Devices) -> Result<()> {
    let mut all = Controllers::of(devices);
    for (_, info) in users(devices) {
        if let Some(a) = complete(info) {
            all.reserve(a)?;
        }
    }
    let mut added = Vec::new();
    for (first, info) in users(devices) {
        if complete(info).is_none() {
            let (controller, port) = all.find(info, first, &mut added)?;
            let taken = VirtioSerialAddress {
                controller,
                bus: 0,
                port,
            };
            all.reserve(taken)?;
            info.address = Some(Address::VirtioSerial(taken));
        }
    }
    for index in added {
        let new = Controller {
            kind: ControllerKind::VirtioSerial,
            index: Some(index),
            ..Controller::default()
        };
        insert_controller(&mut devices.controllers, new);
    }
    Ok(())
}

/// The same on the controllers that there are: none is added to a running guest.
///
/// # Errors
/// As [`assign`], or when there is no port left.
pub(super) fn plug(devices: &mut Devices) -> Result<()> {
    let controllers = devices.controllers.len();
    assign(devices)?;
    if devices.controllers.len() > controllers {
        return Err(Error::xml("Unable to find a free virtio-serial port"));
    }
    Ok(())
}

fn users(devices: &mut Devices) -> Vec<(First, &mut DeviceInfo)> {
    let virtio_console = |c: &&mut Console| {
        let kind = c.target.as_ref().and_then(|t| t.kind);
        // QEMU places a console whose document names no place.
        kind == Some(ConsoleTargetKind::Virtio) && c.info.address.is_some()
    };
    let consoles = devices.consoles.iter_mut().filter(virtio_console);
    let virtio_channel = |k: Option<ChannelTargetKind>| k == Some(ChannelTargetKind::Virtio);
    let channels = devices
        .channels
        .iter_mut()
        .filter(|c| virtio_channel(c.target.as_ref().and_then(|t| t.kind)));
    consoles
        .map(|c| (First::Zero, &mut c.info))
        .chain(channels.map(|c| (First::One, &mut c.info)))
        .collect()
}

/// An address that names a port; port 0 of a channel means any.
fn complete(info: &DeviceInfo) -> Option<VirtioSerialAddress> {
    match &info.address {
        Some(Address::VirtioSerial(a)) if a.port != 0 => Some(*a),
        _ => None,
    }
}

impl Controllers {
    fn of(devices: &Devices) -> Self {
        let serial = devices
            .controllers
            .iter()
            .filter(|c| c.kind == ControllerKind::VirtioSerial);
        let ports = |c: &Controller| c.ports.unwrap_or(DEFAULT_PORTS).min(MAX_PORTS);
        Self(
            serial
                .map(|c| {
                    (
                        c.index.unwrap_or(0),
                        Taken {
                            ports: ports(c),
                            taken: Vec::new(),
                        },
                    )
                })
                .collect(),
        )
    }

    fn reserve(&mut self, a: VirtioSerialAddress) -> Result<()> {
        let there = self.0.get_mut(&a.controller);
        let there = there
            .ok_or_else(|| Error::xml(format!("virtio serial controller {} is missing", a.controller)))?;
        if a.port >= there.ports {
            return Err(Error::xml(format!(
                "virtio serial controller {} does not have port {}",
                a.controller, a.port
            )));
        }
        if there.taken.contains(&a.port) {
            return Err(Error::xml(format!(
                "virtio serial port {} on controller {} is already occupied",
                a.port, a.controller
            )));
        }
        there.taken.push(a.port);
        Ok(())
    }

    fn find(&mut self, info: &DeviceInfo, first: First, added: &mut Vec<u32>) -> Result<(u32, u32)> {
        let named = match &info.address {
            Some(Address::VirtioSerial(a)) => Some(a.controller),
            _ => None,
        };
        let candidates = self
            .0
            .iter()
            .filter(|(index, _)| named.is_none_or(|n| n == **index));
        if let Some(found) = candidates.filter_map(|(i, t)| Some((*i, t.free(first)?))).next() {
            return Ok(found);
        }
        if let Some(index) = named {
            return Err(Error::xml(format!(
                "Unable to find a free port on virtio-serial controller {index}"
            )));
        }
        let index = self.0.keys().next_back().map_or(0, |last| last.saturating_add(1));
        self.0.insert(
            index,
            Taken {
                ports: DEFAULT_PORTS,
                taken: Vec::new(),
            },
        );
        added.push(index);
        Ok((index, if first == First::Zero { 0 } else { 1 }))
    }
}

impl Taken {
    fn free(&self, first: First) -> Option<u32> {
        let start = if first == First::Zero { 0 } else { 1 };
        (start..self.ports).find(|p| !self.taken.contains(p))
    }
}
