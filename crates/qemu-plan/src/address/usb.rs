//! USB ports: which there are, which are taken, and hubs for devices that find none.

use domxml::devices::{
    Address, ControllerKind, DeviceInfo, DeviceRef, Devices, DiskBus, Filesystem, FilesystemDriverKind,
    HostdevKind, Hub, InputBus, Serial, SerialTargetKind, SoundModel, UsbAddress, UsbModel, UsbPort,
};

use crate::error::{Error, Result};
use crate::facts::Age;

/// Ports of a hub.
const HUB_PORTS: usize = 8;
/// Hubs behind hubs, at most.
const MAX_DEPTH: usize = 4;

/// Ports of a bus or a hub.
#[derive(Debug, Clone, Default)]
struct Ports(Vec<Port>);

#[derive(Debug, Clone, Default)]
struct Port {
    taken: bool,
    hub: Option<Ports>,
}

impl Ports {
    fn new(count: usize) -> Self {
        Self(vec![Port::default(); count])
    }

    fn at(&mut self, path: &[u32]) -> Option<&mut Port> {
        let (first, rest) = path.split_first()?;
        let port = self.0.get_mut((*first as usize).checked_sub(1)?)?;
        if rest.is_empty() {
            Some(port)
        } else {
            port.hub.as_mut()?.at(rest)
        }
    }

    /// The first free port, then those of hubs in order.
    fn free(&self) -> Option<Vec<u32>> {
        if let Some((n, _)) = (1u32..).zip(&self.0).find(|(_, p)| !p.taken) {
            return Some(vec![n]);
        }
        (1u32..).zip(&self.0).find_map(|(n, port)| {
            let mut below = port.hub.as_ref()?.free()?;
            below.insert(0, n);
            Some(below)
        })
    }
}

/// The USB buses of a guest.
#[derive(Debug, Clone, Default)]
struct Buses(Vec<Option<Ports>>);

/// Gives every USB device of a new document a port, adding hubs when ports run out. In one that was defined before, where a
/// port is missing, all is left as it is until the guest starts.
///
/// # Errors
/// Libvirt's, when a given port does not exist or is taken.
pub(super) fn assign(devices: &mut Devices, age: Age) -> Result<()> {
    check(devices)?;
    let is_placed = |info: &DeviceInfo| port_of(info).is_some();
    let is_whole = devices.hubs.iter().all(|hub| is_placed(&hub.info))
        && infos(devices).into_iter().all(|info| is_placed(info));
    if age == Age::Known && !is_whole {
        return Ok(());
    }
    add_hubs(devices);
    let mut buses = Buses::of(devices);
    for hub in &devices.hubs {
        if let Some((bus, path)) = port_of(&hub.info) {
            if buses
                .bus(bus)
                .and_then(|b| b.at(&path))
                .is_some_and(|p| p.hub.is_some())
            {
                return Err(Error::xml(format!(
                    "Duplicate USB hub on bus {bus} port {}",
                    path_text(&path)
                )));
            }
            buses.reserve(bus, &path)?;
            buses.add_hub(bus, &path);
        }
    }
    for info in infos(devices) {
        if let Some((bus, path)) = port_of(info) {
            buses.reserve(bus, &path)?;
        }
    }
    for hub in &mut devices.hubs {
        if port_of(&hub.info).is_none() {
            let (bus, path) = buses.assign(&mut hub.info)?;
            buses.add_hub(bus, &path);
        }
    }
    for info in infos(devices) {
        if port_of(info).is_none() && !matches!(&info.address, Some(a) if !matches!(a, Address::Usb(_))) {
            buses.assign(info)?;
        }
    }
    Ok(())
}

/// Devices need a controller, and each bus is one's own.
fn check(devices: &mut Devices) -> Result<()> {
    let any = !devices.hubs.is_empty() || !infos(devices).is_empty();
    let usb = || {
        devices
            .controllers
            .iter()
            .filter(|c| c.kind == ControllerKind::Usb)
    };
    if any && usb().all(|c| c.usb_model() == Some(UsbModel::None)) {
        return Err(Error::unsupported(
            "USB is disabled for this domain, but USB devices are present in the domain XML",
        ));
    }
    let mut seen = Vec::new();
    for c in usb().filter(|c| ports(c.usb_model(), c.ports) > 0) {
        let index = c.index.unwrap_or(0);
        if seen.contains(&index) {
            return Err(Error::xml(format!(
                "Duplicate USB controllers with index {index}"
            )));
        }
        seen.push(index);
    }
    Ok(())
}

/// Every USB device but hubs, in the order in which they get ports.
fn infos(devices: &mut Devices) -> Vec<&mut DeviceInfo> {
    let mut all: Vec<&mut DeviceInfo> = Vec::new();
    pick(
        &mut all,
        &mut devices.disks,
        |d| d.target.bus == Some(DiskBus::Usb),
        |d| &mut d.info,
    );
    pick(
        &mut all,
        &mut devices.interfaces,
        |n| n.model.as_deref() == Some("usb-net"),
        |n| &mut n.info,
    );
    pick(
        &mut all,
        &mut devices.sounds,
        |s| s.model == SoundModel::Usb,
        |s| &mut s.info,
    );
    pick(
        &mut all,
        &mut devices.hostdevs,
        |h| h.kind == HostdevKind::Usb,
        |h| &mut h.info,
    );
    pick(
        &mut all,
        &mut devices.controllers,
        |c| c.kind == ControllerKind::Ccid,
        |c| &mut c.info,
    );
    pick(&mut all, &mut devices.serials, is_usb_serial, |s| &mut s.info);
    pick(
        &mut all,
        &mut devices.inputs,
        |i| i.bus == Some(InputBus::Usb),
        |i| &mut i.info,
    );
    pick(&mut all, &mut devices.filesystems, is_mtp, |f| &mut f.info);
    pick(&mut all, &mut devices.redirdevs, |_| true, |r| &mut r.info);
    all
}

fn pick<'a, D>(
    all: &mut Vec<&'a mut DeviceInfo>,
    list: &'a mut [D],
    wanted: impl Fn(&D) -> bool,
    info: fn(&mut D) -> &mut DeviceInfo,
) {
    all.extend(list.iter_mut().filter(|d| wanted(d)).map(info));
}

/// Whether a device gets a port of a USB bus, or is a hub.
pub(super) fn is_usb(device: DeviceRef<'_>) -> bool {
    match device {
        DeviceRef::Disk(d) => d.target.bus == Some(DiskBus::Usb),
        DeviceRef::Interface(n) => n.model.as_deref() == Some("usb-net"),
        DeviceRef::Sound(s) => s.model == SoundModel::Usb,
        DeviceRef::Hostdev(h) => h.kind == HostdevKind::Usb,
        DeviceRef::Controller(c) => c.kind == ControllerKind::Ccid,
        DeviceRef::Serial(s) => is_usb_serial(s),
        DeviceRef::Input(i) => i.bus == Some(InputBus::Usb),
        DeviceRef::Filesystem(f) => is_mtp(f),
        DeviceRef::Redirdev(_) | DeviceRef::Hub(_) => true,
        _ => false,
    }
}

fn is_usb_serial(serial: &Serial) -> bool {
    serial.target.as_ref().and_then(|t| t.kind) == Some(SerialTargetKind::UsbSerial)
}

fn is_mtp(filesystem: &Filesystem) -> bool {
    filesystem.driver.as_ref().and_then(|d| d.kind) == Some(FilesystemDriverKind::Mtp)
}

fn port_of(info: &DeviceInfo) -> Option<(u32, Vec<u32>)> {
    match &info.address {
        Some(Address::Usb(a)) => Some((a.bus, a.port?.way().to_vec())),
        _ => None,
    }
}

fn bus_of(info: &DeviceInfo) -> Option<u32> {
    match &info.address {
        Some(Address::Usb(a)) => Some(a.bus),
        _ => None,
    }
}

/// Ports of a controller; companions have none of their own.
fn ports(model: Option<UsbModel>, given: Option<u32>) -> usize {
    match model {
        None | Some(UsbModel::Piix3Uhci | UsbModel::Piix4Uhci | UsbModel::Vt82c686bUhci) => 2,
        Some(UsbModel::Ehci | UsbModel::Ich9Ehci1) => 6,
        Some(UsbModel::PciOhci) => 3,
        Some(UsbModel::NecXhci | UsbModel::QemuXhci | UsbModel::Qusb1 | UsbModel::Qusb2) => {
            given.unwrap_or(4) as usize
        }
        Some(UsbModel::Ich9Uhci1 | UsbModel::Ich9Uhci2 | UsbModel::Ich9Uhci3 | UsbModel::None) => 0,
    }
}

fn add_hubs(devices: &mut Devices) {
    let buses = devices
        .controllers
        .iter()
        .filter(|c| c.kind == ControllerKind::Usb);
    let root: usize = buses.map(|c| ports(c.usb_model(), c.ports).min(255)).sum();
    let available = root + devices.hubs.len() * (HUB_PORTS - 1);
    let wanted = infos(devices).len();
    if root > 0 && wanted > available {
        let missing = (wanted - available).div_ceil(HUB_PORTS - 1);
        devices
            .hubs
            .extend(std::iter::repeat_with(Hub::default).take(missing));
    }
}

impl Buses {
    fn of(devices: &Devices) -> Self {
        let mut buses = Self::default();
        for c in devices
            .controllers
            .iter()
            .filter(|c| c.kind == ControllerKind::Usb)
        {
            let index = c.index.unwrap_or(0).min(255) as usize;
            let count = ports(c.usb_model(), c.ports).min(255);
            if count > 0 {
                let needed = buses.0.len().max(index + 1);
                buses.0.resize(needed, None);
                buses.0[index] = Some(Ports::new(count));
            }
        }
        buses
    }

    fn bus(&mut self, bus: u32) -> Option<&mut Ports> {
        self.0.get_mut(bus as usize)?.as_mut()
    }

    fn reserve(&mut self, bus: u32, path: &[u32]) -> Result<()> {
        let text = path_text(path);
        let Some(ports) = self.bus(bus) else {
            return Err(Error::xml(format!("Missing USB bus {bus}")));
        };
        for length in 1..path.len() {
            let hub = path.get(..length).unwrap_or_default();
            let last = hub.last().copied().unwrap_or_default();
            let Some(port) = ports.at(hub) else {
                return Err(Error::xml(format!(
                    "port {last} out of range in USB address bus: {bus} port: {text}"
                )));
            };
            if port.hub.is_none() {
                let hub = last;
                return Err(Error::xml(format!(
                    "there is no hub at port {hub} in USB address bus: {bus} port: {text}"
                )));
            }
        }
        let Some(port) = ports.at(path) else {
            return Err(Error::xml(format!(
                "requested USB port {text} not present on USB bus {bus}"
            )));
        };
        if port.taken {
            return Err(Error::xml(format!("Duplicate USB address bus {bus} port {text}")));
        }
        port.taken = true;
        Ok(())
    }

    fn add_hub(&mut self, bus: u32, path: &[u32]) {
        if path.len() <= MAX_DEPTH
            && let Some(port) = self.bus(bus).and_then(|b| b.at(path))
        {
            port.hub = Some(Ports::new(HUB_PORTS));
        }
    }

    fn assign(&mut self, info: &mut DeviceInfo) -> Result<(u32, Vec<u32>)> {
        let wanted = bus_of(info);
        if let Some(bus) = wanted.filter(|bus| self.bus(*bus).is_none()) {
            return Err(Error::xml(format!(
                "USB bus {bus} requested but no controller with that index is present"
            )));
        }
        let all = (0u32..)
            .zip(&self.0)
            .filter(|(n, _)| wanted.is_none_or(|w| w == *n));
        let found = all.filter_map(|(n, bus)| Some((n, bus.as_ref()?.free()?))).next();
        let (bus, path) = found.ok_or_else(|| Error::internal("No free USB ports"))?;
        self.reserve(bus, &path)?;
        info.address = Some(Address::Usb(UsbAddress {
            bus,
            port: UsbPort::new(&path),
        }));
        Ok((bus, path))
    }
}

fn path_text(path: &[u32]) -> String {
    path.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}
