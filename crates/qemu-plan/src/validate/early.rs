//! What is refused while a document is completed: rules that come before addresses are given out. Completing calls
//! them at the places where libvirt does.

use domxml::Domain;
use domxml::clock::{TickPolicy, Timer, TimerName};
use domxml::cpu::FeaturePolicy;
use domxml::devices::{
    Address, Console, ConsoleTargetKind, Controller, ControllerKind, DeviceRef, Devices, Disk, DiskBus,
    Filesystem, FilesystemDriverKind, Hostdev, HostdevKind, HostdevModel, MemballoonModel, OnOff, Serial,
    SerialTargetKind, SoundModel, UsbModel, YesNo,
};
use domxml::features::Features;
use domxml::tuning::VcpuState;

use super::Guest;
use super::device::{controller, small};
use super::rule::{check, rules};
use crate::caps::{Caps, Flag};
use crate::error::{Error, Result};
use crate::facts::{MachineKind, address_kind, size::size_kib};

/// Serial ports that a PC's BIOS knows.
const ISA_PORTS: u32 = 4;

/// Firmware: what of it goes together.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub(crate) fn firmware(def: &Domain, caps: &Caps) -> Result<()> {
    super::os::os(&Guest::new(def, caps))
}

/// QEMU's rules on the whole document: CPUs one by one, features, memory that can be plugged in.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub(crate) fn domain(def: &Domain, caps: &Caps) -> Result<()> {
    let guest = Guest::new(def, caps);
    vcpus(def)?;
    check(CPU, &guest, def)?;
    def.features
        .as_ref()
        .map_or(Ok(()), |features| check(TSEG, &guest, features))
}

/// Serial ports that name their kind themselves.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub(crate) fn serials(all: &[Serial]) -> Result<()> {
    let isa = |s: &&Serial| s.target.as_ref().and_then(|t| t.kind) == Some(SerialTargetKind::IsaSerial);
    let mut used = Vec::new();
    for (count, serial) in (1..).zip(all.iter().filter(isa)) {
        let port = serial.target.as_ref().and_then(|t| t.port);
        if count > ISA_PORTS || port.is_some_and(|p| p >= ISA_PORTS) {
            return Err(Error::internal(format!(
                "Maximum supported number of ISA serial ports is '{ISA_PORTS}'"
            )));
        }
        if let Some(port) = port {
            if used.contains(&port) {
                return Err(Error::internal(format!("target port '{port}' already allocated")));
            }
            used.push(port);
        }
    }
    Ok(())
}

/// Devices, as far as their places or their defaults depend on it.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub(crate) fn devices(def: &Domain, caps: &Caps) -> Result<()> {
    let guest = Guest::new(def, caps);
    let devices = &def.devices;
    devices
        .hostdevs
        .iter()
        .try_for_each(|h| check(HOSTDEV, &guest, h))?;
    devices
        .controllers
        .iter()
        .try_for_each(|c| controller::early(&guest, c))?;
    devices
        .serials
        .iter()
        .try_for_each(|s| check(SERIAL, &guest, s))?;
    devices
        .shmems
        .iter()
        .try_for_each(|s| check(small::SHMEM_EARLY, &guest, s))
}

/// Devices that no bus of a PC takes.
///
/// # Errors
/// When there is one.
pub(crate) fn placeless(def: &Domain) -> Result<()> {
    let devices = &def.devices;
    let for_virtio = |a: &Address| matches!(a, Address::Pci(_) | Address::Ccw(_) | Address::VirtioMmio);
    let virtio = devices
        .disks
        .iter()
        .filter(|d| d.target.bus == Some(DiskBus::Virtio));
    if let Some(kind) = virtio
        .filter_map(|d| d.info.address.as_ref())
        .find(|a| !for_virtio(a))
        .map(address_kind)
    {
        return Err(Error::unsupported(format!(
            "virtio disk cannot have an address of type '{kind}'"
        )));
    }
    if has_placeless(devices) {
        return Err(Error::internal(
            "Cannot automatically add a new PCI bus for a device with connect flags 00",
        ));
    }
    Ok(())
}

/// Whether a device that libvirt gives a PCI address, and that fits on no bus, has none.
fn has_placeless(devices: &Devices) -> bool {
    let driver = |f: &Filesystem| f.driver.as_ref().and_then(|d| d.kind);
    let mounted = |f: &Filesystem| {
        use FilesystemDriverKind::{Loop, Nbd, Ploop};
        matches!(driver(f), Some(Loop | Nbd | Ploop))
    };
    let of_xen = |c: &Controller| matches!(c.kind, ControllerKind::Isa | ControllerKind::Xenbus);
    let controllers = devices.controllers.iter().filter(|c| of_xen(c)).map(|c| &c.info);
    let filesystems = devices.filesystems.iter().filter(|f| mounted(f)).map(|f| &f.info);
    let sounds = devices.sounds.iter().filter(|s| s.model == SoundModel::Ich7);
    let balloons = devices
        .memballoon
        .iter()
        .filter(|b| b.model == MemballoonModel::Xen);
    let mut all = controllers
        .chain(filesystems)
        .chain(sounds.map(|s| &s.info))
        .chain(balloons.map(|b| &b.info));
    all.any(|info| info.address.is_none())
}

/// Any hypervisor's rules on the whole document.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub(crate) fn whole(def: &Domain, caps: &Caps) -> Result<()> {
    let guest = Guest::new(def, caps);
    check(CONTAINER, &guest, def)?;
    let states = def.vcpus.as_ref().map_or(&[][..], |v| v.all.as_slice());
    states.iter().try_for_each(|state| check(VCPU, &guest, state))?;
    memory(def)?;
    controllers(def)?;
    panics(def)?;
    check(BOOT, &guest, def)?;
    let timers = def.clock.iter().flat_map(|c| &c.timers);
    timers
        .into_iter()
        .try_for_each(|timer| check(TIMER, &guest, timer))?;
    def.devices
        .consoles
        .iter()
        .skip(1)
        .try_for_each(|c| check(CONSOLE, &guest, c))
}

/// What comes after addresses are given out.
///
/// # Errors
/// When the name has a slash.
pub(crate) fn last(def: &Domain) -> Result<()> {
    match def.name.contains('/') {
        true => Err(Error::xml(format!("name {} cannot contain '/'", def.name))),
        false => Ok(()),
    }
}

/// Companions serve the ports of a leader.
///
/// # Errors
/// When no USB controller is one.
pub(crate) fn usb_leaders(all: &[Controller]) -> Result<()> {
    let is_none = |c: &&Controller| c.usb_model() == Some(UsbModel::None);
    let usb = all.iter().filter(|c| c.kind == ControllerKind::Usb);
    let mut usb = usb.filter(|c| !is_none(c)).peekable();
    if usb.peek().is_some() && usb.all(|c| c.info.master.is_some()) {
        return Err(Error::detail("No master USB controller specified"));
    }
    Ok(())
}

/// CPUs that are listed one by one: the first is there, the others come in order.
fn vcpus(def: &Domain) -> Result<()> {
    if def.vcpu.as_ref().is_some_and(|vcpu| vcpu.current == Some(0)) {
        return Err(Error::unsupported("vcpu 0 can't be offline"));
    }
    let states = def.vcpus.as_ref().map_or(&[][..], |v| v.all.as_slice());
    let mut all: Vec<&VcpuState> = states.iter().collect();
    all.sort_by_key(|s| s.id);
    let Some(first) = all.first().filter(|s| s.id == 0) else {
        return Ok(());
    };
    let refuse = |text: &str| Err(Error::unsupported(text));
    if first.enabled == YesNo::No {
        return refuse("vcpu 0 can't be offline");
    }
    if first.hotpluggable == Some(YesNo::Yes) {
        return refuse("vcpu0 can't be hotpluggable");
    }
    let order = |s: &VcpuState| s.order.unwrap_or(0);
    if order(first) > 1 {
        return refuse("vcpu0 must be enabled first");
    }
    let mut before = *first;
    for state in &all[1..] {
        if state.enabled == YesNo::Yes && (order(state) == 0) != (order(first) == 0) {
            return refuse("all vcpus must have either set or unset order");
        }
        if state.hotpluggable == Some(YesNo::No) {
            if before.hotpluggable == Some(YesNo::Yes) {
                return refuse(
                    "online non-hotpluggable vcpus need to be ordered prior to hotpluggable vcpus",
                );
            }
            if order(state) < order(before) {
                return refuse("online non-hotpluggable vcpus must be ordered in ascending order");
            }
        }
        before = state;
    }
    Ok(())
}

rules! {
    /// Features of the CPU that need another one.
    CPU(guest, def: Domain) {
        unsupported "SVE disabled, but SVE vector lengths provided" if def.cpu.as_ref().is_some_and(|c| {
            let off = |f: &domxml::cpu::CpuFeature| {
                f.name == "sve" && matches!(f.policy, Some(FeaturePolicy::Disable | FeaturePolicy::Forbid))
            };
            c.features.iter().any(off) && c.features.iter().any(|f| f.name.len() > 3
                && f.name.starts_with("sve"))
        });
    }
}

rules! {
    /// Memory of the system management mode.
    TSEG(guest, f: Features) {
        unsupported "SMM TSEG is only supported with q35 machine type"
            if tseg(f).is_some() && guest.machine != MachineKind::Q35;
        unsupported "Setting TSEG size is not supported with this QEMU binary"
            if tseg(f).is_some() && !guest.caps.has(Flag::MchExtendedTsegMbytes);
        unsupported "SMM TSEG size must be divisible by 1 MiB"
            if tseg(f).is_some_and(|bytes| bytes % (1 << 20) != 0);
    }
}

rules! {
    /// Devices of the host.
    HOSTDEV(guest, device: Hostdev) {
        xml "SCSI host address controller='{}' bus='{}' target='{}' unit='{}' in use by a SCSI disk"
            (place(device)[0], place(device)[1], place(device)[2], place(device)[3])
            if device.kind == HostdevKind::Scsi && guest.def.devices.disks.iter().any(|d| holds(d, device));
        xml "Unsupported address type '{}' with mediated device model '{}'"
            (device.info.address.as_ref().map_or("none", address_kind), device.model.map_or("", |m| m.as_str()))
            if device.kind == HostdevKind::Mdev
                && device.info.address.as_ref().is_some_and(|a| match device.model {
                Some(HostdevModel::VfioPci) => !matches!(a, Address::Pci(_)),
                Some(HostdevModel::VfioCcw) => !matches!(a, Address::Ccw(_)),
                _ => false,
            });
    }
}

rules! {
    /// Serial ports.
    SERIAL(guest, serial: Serial) {
        conflicting "isa-debug serial type only valid on x86 architecture"
            if serial.target.as_ref().and_then(|t| t.kind) == Some(SerialTargetKind::IsaDebug)
                && !guest.is_x86();
    }
}

rules! {
    /// What a container runs.
    CONTAINER(guest, def: Domain) {
        xml "init binary must be specified"
            if def.os.kind.as_ref().is_some_and(|t| t.value == "exe")
                && def.os.init.as_deref().is_none_or(str::is_empty);
    }
}

rules! {
    /// CPUs that can never come.
    VCPU(guest, state: VcpuState) {
        conflicting "vcpu '{}' is both offline and not hotpluggable" (state.id)
            if state.enabled == YesNo::No && state.hotpluggable == Some(YesNo::No);
    }
}

rules! {
    /// What the guest boots from.
    BOOT(guest, def: Domain) {
        conflicting "boot order '{}' used for more than one device" (order_twice(def).unwrap_or_default())
            if order_twice(def).is_some();
        conflicting "per-device boot elements cannot be used together with os/boot elements"
            if !def.os.boot.is_empty() && !orders(def).is_empty();
    }
}

rules! {
    /// Options of timers that have none of their kind.
    TIMER(guest, timer: Timer) {
        conflicting "timer {} doesn't support setting of timer tickpolicy" (timer.name.as_str())
            if timer.tickpolicy.is_some()
                && matches!(timer.name, TimerName::Kvmclock | TimerName::Hypervclock);
        xml "setting of timer catchup policies is only supported with tickpolicy='catchup'"
            if timer.tickpolicy != Some(TickPolicy::Catchup) && timer.catchup.is_some_and(|c| {
                [c.threshold, c.slew, c.limit].iter().any(|limit| limit.is_some_and(|l| l > 0))
            });
        conflicting "timer {} doesn't support setting of timer frequency" (timer.name.as_str())
            if timer.name != TimerName::Tsc && timer.frequency.is_some_and(|f| f > 0);
        conflicting "timer {} doesn't support setting of timer mode" (timer.name.as_str())
            if timer.name != TimerName::Tsc && timer.mode.is_some();
        conflicting "timer {} doesn't support setting of timer track" (timer.name.as_str())
            if timer.track.is_some() && !matches!(timer.name, TimerName::Platform | TimerName::Rtc);
    }
}

rules! {
    /// Consoles after the first.
    CONSOLE(guest, console: Console) {
        conflicting "Only the first console can be a serial port"
            if matches!(console.target.as_ref().and_then(|t| t.kind), None | Some(ConsoleTargetKind::Serial));
    }
}

/// How much memory there is and may be.
fn memory(def: &Domain) -> Result<()> {
    let total = def.memory.map_or(0, |m| m.size.0);
    let sizes = def
        .devices
        .memories
        .iter()
        .filter_map(|m| m.target.as_ref()?.size.as_ref());
    let plugged = sizes
        .map(size_kib)
        .try_fold(0u64, |sum, size| size.map(|s| sum.saturating_add(s)))?;
    if plugged > total {
        // A guest that memory can be plugged into is QEMU's own matter.
        let text = "Total size of memory devices exceeds the total memory size";
        return Err(if def.max_memory.is_some() {
            Error::xml_qemu(text)
        } else {
            Error::xml(text)
        });
    }
    if total == plugged {
        return Err(Error::xml(
            "Memory size must be specified via <memory> or in the <numa> configuration",
        ));
    }
    let Some(max) = def.max_memory else { return Ok(()) };
    if max.size.0 == 0 && max.slots.unwrap_or(0) > 0 {
        return Err(Error::xml(
            "maximum memory size must be specified when specifying number of memory slots",
        ));
    }
    if max.size.0 > 0 && max.size.0 < total {
        return Err(Error::xml(
            "maximum memory size must be equal or greater than the actual memory size",
        ));
    }
    Ok(())
}

fn controllers(def: &Domain) -> Result<()> {
    let all = &def.devices.controllers;
    for (at, c) in all
        .iter()
        .enumerate()
        .filter(|(_, c)| c.kind != ControllerKind::Usb)
    {
        if all[..at]
            .iter()
            .any(|other| other.kind == c.kind && other.index == c.index)
        {
            return Err(Error::xml(format!(
                "Multiple '{}' controllers with index '{}'",
                c.kind.as_str(),
                c.index.unwrap_or(0)
            )));
        }
    }
    Ok(())
}

fn panics(def: &Domain) -> Result<()> {
    let models: Vec<_> = def.devices.panics.iter().filter_map(|p| p.model).collect();
    let twice = |(at, model): &(usize, &domxml::devices::PanicModel)| models[..*at].contains(model);
    models
        .iter()
        .enumerate()
        .find(twice)
        .map_or(Ok(()), |(_, model)| {
            Err(Error::xml(format!(
                "Multiple panic devices with model '{}'",
                model.as_str()
            )))
        })
}

fn tseg(f: &Features) -> Option<u64> {
    let smm = f.smm.filter(|s| s.state == OnOff::On)?;
    smm.tseg.map(|t| t.0)
}

fn orders(def: &Domain) -> Vec<u32> {
    let infos = def.devices.iter().filter_map(DeviceRef::info);
    infos.filter_map(|i| i.boot.as_ref()).map(|b| b.order).collect()
}

fn order_twice(def: &Domain) -> Option<u32> {
    let all = orders(def);
    let mut twice = all
        .iter()
        .enumerate()
        .filter(|(at, order)| all[..*at].contains(order));
    twice.next().map(|(_, order)| *order)
}

/// Numbers of a device's place on a SCSI bus.
fn place(device: &Hostdev) -> [u32; 4] {
    match &device.info.address {
        Some(Address::Drive(a)) => [a.controller, a.bus, a.target, a.unit],
        _ => [0; 4],
    }
}

fn holds(disk: &Disk, device: &Hostdev) -> bool {
    disk.target.bus == Some(DiskBus::Scsi)
        && matches!(disk.info.address, Some(Address::Drive(_)))
        && disk.info.address == device.info.address
}
