//! Character devices: serial and parallel ports, consoles, channels.

use domxml::Domain;
use domxml::devices::{
    Address, Channel, ChannelTarget, ChannelTargetKind, Chardev, ChardevKind, ChardevMode, ChardevSource,
    Console, ControllerKind, Device, DeviceInfo, Devices, Parallel, Serial, SerialModel,
};

use super::document::is_twin;
use super::{Rules, Side, invalid, missing};
use crate::error::{Area, Code, Error, Result};

/// What a character device that comes is asked, whichever it is.
struct Coming<'a> {
    chardev: &'a Chardev,
    /// The guest has one like it.
    is_there: bool,
    /// It is a port of a virtio-serial controller.
    is_port: bool,
    info: &'a DeviceInfo,
}

impl Coming<'_> {
    fn check(&self, def: &Domain, side: Side) -> Result<()> {
        if self.is_there {
            return Err(invalid("chardev already exists"));
        }
        if side == Side::Stored {
            return Ok(());
        }
        let serial = |kind| kind == ControllerKind::VirtioSerial;
        if self.is_port && !def.devices.controllers.iter().any(|c| serial(c.kind)) {
            return Err(Error::internal("no virtio-serial controllers are available"));
        }
        let odd = |address: &Address| match address {
            Address::VirtioSerial(_) => false,
            // One that says nothing.
            Address::Pci(address) => !address.is_empty(),
            _ => true,
        };
        if self.is_port && self.info.address.as_ref().is_some_and(odd) {
            return Err(Error::unsupported(
                "Unsupported address type for character device",
            ));
        }
        pluggable(self.chardev.kind)
    }
}

/// Back ends that a running QEMU is not given.
fn pluggable(kind: ChardevKind) -> Result<()> {
    use ChardevKind::{Nmdm, Pipe, Spiceport, Stdio};
    match kind {
        Spiceport | Pipe | Stdio | Nmdm => Err(Error::new(
            Code::OperationFailed,
            Area::Qemu,
            format!("Hotplug unsupported for char device type '{}'", kind.as_str()),
        )),
        _ => Ok(()),
    }
}

impl Rules for Serial {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        if side == Side::Live {
            on_no_board(self, "hotplug")?;
        }
        let is_there = position(&def.devices.serials, |other| same_serial(self, other)).is_some();
        let coming = Coming {
            chardev: &self.chardev,
            is_there,
            is_port: false,
            info: &self.info,
        };
        coming.check(def, side)
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        position(&devices.serials, |other| same_serial(self, other)).ok_or_else(|| none("serial", side))
    }

    fn detach(&self, _: &Devices) -> Result<()> {
        on_no_board(self, "detach")
    }

    fn leaves_a_bus(&self) -> bool {
        false
    }
}

impl Rules for Parallel {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        let is_there = position(&def.devices.parallels, |other| same_parallel(self, other)).is_some();
        let coming = Coming {
            chardev: &self.chardev,
            is_there,
            is_port: false,
            info: &self.info,
        };
        coming.check(def, side)
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        position(&devices.parallels, |other| same_parallel(self, other)).ok_or_else(|| none("parallel", side))
    }

    fn leaves_a_bus(&self) -> bool {
        false
    }
}

impl Rules for Console {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        if is_twin(self) {
            return Err(match side {
                Side::Live => Error::unsupported("unsupported console target type serial"),
                Side::Stored => Error::not_pluggable("attaching serial console is not supported"),
            });
        }
        let is_there = position(&def.devices.consoles, |other| same_console(self, other)).is_some();
        let coming = Coming {
            chardev: &self.chardev,
            is_there,
            is_port: true,
            info: &self.info,
        };
        coming.check(def, side)
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        let at = position(&devices.consoles, |other| same_console(self, other));
        if side == Side::Stored && is_twin(self) {
            return Err(invalid("detaching serial console is not supported"));
        }
        at.ok_or_else(|| none("console", side))
    }

    fn detach(&self, _: &Devices) -> Result<()> {
        match is_twin(self) {
            true => Err(Error::not_pluggable(
                "detaching of <console/> is unsupported. Try corresponding <serial/> instead",
            )),
            false => Ok(()),
        }
    }

    fn leaves_a_bus(&self) -> bool {
        false
    }
}

impl Rules for Channel {
    fn attach(&self, def: &Domain, side: Side) -> Result<()> {
        let is_there = position(&def.devices.channels, |other| same_channel(self, other)).is_some();
        let kind = self.target.as_ref().and_then(|target| target.kind);
        let coming = Coming {
            chardev: &self.chardev,
            is_there,
            is_port: kind == Some(ChannelTargetKind::Virtio),
            info: &self.info,
        };
        coming.check(def, side)
    }

    fn find(&self, devices: &Devices, side: Side) -> Result<usize> {
        position(&devices.channels, |other| same_channel(self, other)).ok_or_else(|| none("channel", side))
    }

    fn leaves_a_bus(&self) -> bool {
        false
    }
}

/// Gives the socket of a channel that names none its path, as libvirt does before it looks whether the guest has such a
/// channel; `dir` is that of the run's channels.
pub fn give_path(device: &mut Device, dir: &str) {
    let Device::Channel(channel) = device else { return };
    let is_virtio = channel.target.as_ref().and_then(|t| t.kind) == Some(ChannelTargetKind::Virtio);
    let listens = channel
        .chardev
        .source()
        .is_none_or(|source| source.path.is_none());
    if channel.chardev.kind != ChardevKind::Unix || !is_virtio || !listens {
        return;
    }
    let path = format!("{dir}/{}", crate::command::channel_socket(channel));
    let source = channel.chardev.source_mut();
    (source.mode, source.path) = (Some(ChardevMode::Bind), Some(path));
}

fn position<T>(list: &[T], is_meant: impl Fn(&T) -> bool) -> Option<usize> {
    list.iter().position(is_meant)
}

fn none(kind: &str, side: Side) -> Error {
    match side {
        Side::Live => missing(format!(
            "chr type '{kind}' device not present in domain configuration"
        )),
        Side::Stored => Error::argument_qemu("device not present in domain configuration"),
    }
}

/// Ports that a board has built in neither come nor go.
fn on_no_board(serial: &Serial, what: &str) -> Result<()> {
    let model = serial.target.as_ref().and_then(|target| target.model);
    match model {
        Some(SerialModel::Pl011 | SerialModel::U16550a) => {
            Err(Error::unsupported(format!("Cannot {what} platform device")))
        }
        _ => Ok(()),
    }
}

fn same_serial(one: &Serial, other: &Serial) -> bool {
    let key = |serial: &Serial| {
        let target = serial.target.as_ref();
        (
            target.and_then(|t| t.kind).unwrap_or_default(),
            target.and_then(|t| t.port),
        )
    };
    key(one) == key(other) && same_source(&one.chardev, &other.chardev)
}

fn same_parallel(one: &Parallel, other: &Parallel) -> bool {
    let port = |parallel: &Parallel| parallel.target.as_ref().and_then(|target| target.port);
    port(one) == port(other) && same_source(&one.chardev, &other.chardev)
}

fn same_console(one: &Console, other: &Console) -> bool {
    let port = |console: &Console| console.target.as_ref().and_then(|target| target.port);
    port(one) == port(other) && same_source(&one.chardev, &other.chardev)
}

fn same_channel(one: &Channel, other: &Channel) -> bool {
    let key = |target: &ChannelTarget| {
        let kind = target.kind.unwrap_or_default();
        match kind {
            ChannelTargetKind::Guestfwd => (kind, target.address.clone(), target.port),
            _ => (kind, target.name.clone(), None),
        }
    };
    one.target.as_ref().map(key) == other.target.as_ref().map(key)
        && same_source(&one.chardev, &other.chardev)
}

/// Whether two back ends are one: what they are and where; how they are used does not count.
pub(super) fn same_source(one: &Chardev, other: &Chardev) -> bool {
    one.kind == other.kind && same_sources(one.kind, &one.sources, &other.sources)
}

/// The same for their sources.
pub(super) fn same_sources(kind: ChardevKind, one: &[ChardevSource], other: &[ChardevSource]) -> bool {
    use ChardevKind::{Null, Spicevmc, Stdio, Vc};
    if matches!(kind, Null | Vc | Stdio | Spicevmc) {
        return true;
    }
    let place = |s: &ChardevSource| {
        let paths = [&s.path, &s.host, &s.service, &s.channel, &s.master, &s.slave];
        (s.mode, s.append, paths.map(Clone::clone))
    };
    // No source is one that says nothing.
    let places = |sources: &[ChardevSource]| {
        let mut places: Vec<_> = sources.iter().map(place).collect();
        places.retain(|(_, append, paths)| append.is_some() || paths.iter().any(Option::is_some));
        places
    };
    places(one) == places(other)
}
