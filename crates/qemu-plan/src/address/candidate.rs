//! Which devices want a PCI function, in the order in which they get one, and how each plugs in.
//!
//! The order is part of what a guest sees: it decides slots, and must not change.

use domxml::devices::{
    Console, ConsoleTargetKind, Controller, ControllerKind, DeviceInfo, Devices, Disk, DiskBus, Family,
    Filesystem, FilesystemDriverKind, Hostdev, HostdevKind, HostdevMode, HostdevModel, Input, InputBus,
    Interface, InterfaceKind, Iommu, IommuModel, MemballoonModel, Memory, MemoryModel, Panic, PanicModel,
    ScsiModel, Serial, SerialTargetKind, Sound, SoundModel, UsbModel, Video, VideoModelKind, VirtioModel,
    Watchdog, WatchdogModel,
};

use super::connect::{BusKind, Connect};
use super::pci::place_of;

/// A device that may have a place on a PCI bus.
pub(super) struct Candidate<'a> {
    /// How it plugs in; never empty.
    pub(super) wanted: Connect,
    /// The part that all devices share.
    pub(super) info: &'a mut DeviceInfo,
    /// What is special about it.
    pub(super) role: Role,
    /// Its family.
    pub(super) family: Family,
}

/// What is special about placing a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing.
    Plain,
    /// A function of a USB 2 controller: they share a slot.
    Usb2 { index: u32, model: UsbModel },
    /// A bus.
    Bus,
    /// The first IDE controller, part of the chipset.
    FirstIde,
    /// The first USB controller, which may be part of the chipset.
    FirstUsb,
}

/// How virtio and PCI Express devices plug in on a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    pcie: Connect,
    virtio: Connect,
}

impl Slots {
    /// `root` is the machine's root bus.
    pub(super) fn of(root: BusKind) -> Self {
        let pcie = if root == BusKind::PcieRoot {
            Connect::PCIE
        } else {
            Connect::PCI
        };
        Self { pcie, virtio: pcie }
    }

    fn virtio(self, model: Option<VirtioModel>) -> Connect {
        if model == Some(VirtioModel::Transitional) {
            Connect::PCI
        } else {
            self.virtio
        }
    }
}

/// Controllers of PCI buses: they are placed before everything else.
pub(super) fn pci_controllers(devices: &mut Devices) -> Vec<Candidate<'_>> {
    let buses = devices
        .controllers
        .iter_mut()
        .filter(|c| c.kind == ControllerKind::Pci);
    let placed = buses.filter_map(|c| {
        let wanted = BusKind::from_model(c.model.as_deref()?)?.rule().plugs_into;
        Some(Candidate {
            wanted,
            info: &mut c.info,
            role: Role::Bus,
            family: Family::Controller,
        })
    });
    placed.filter(|c| !c.wanted.is_none()).collect()
}

/// All other devices, in the order in which they are placed.
pub(super) fn devices(devices: &mut Devices, slots: Slots) -> Vec<Candidate<'_>> {
    let mut all = every(devices, slots);
    all.retain(|c| !c.wanted.is_none() && !c.is_bus());
    all
}

/// All devices that have a place on a PCI bus, in the order in which places are taken. What has one and is not of PCI is
/// taken for a conventional device.
pub(super) fn taken(devices: &mut Devices, slots: Slots) -> Vec<Candidate<'_>> {
    let mut all = every(devices, slots);
    all.retain(|c| place_of(c.info).is_some());
    for c in &mut all {
        if c.wanted.is_none() {
            c.wanted = Connect::PCI;
        }
    }
    let rank = |c: &Candidate<'_>| WALK.iter().position(|family| *family == c.family);
    all.sort_by_key(|c| rank(c).unwrap_or(WALK.len()));
    all
}

/// The order in which places are taken.
const WALK: &[Family] = &[
    Family::Disk,
    Family::Interface,
    Family::Sound,
    Family::Hostdev,
    Family::Video,
    Family::Controller,
    Family::Smartcard,
    Family::Serial,
    Family::Parallel,
    Family::Channel,
    Family::Console,
    Family::Input,
    Family::Filesystem,
    Family::Watchdog,
    Family::Memballoon,
    Family::Rng,
    Family::Nvram,
    Family::Hub,
    Family::Shmem,
    Family::Tpm,
    Family::Panic,
    Family::Memory,
    Family::Redirdev,
    Family::Iommu,
    Family::Vsock,
    Family::Crypto,
    Family::Pstore,
];

/// All devices, in the order in which they are placed; the last ones never are.
fn every(devices: &mut Devices, slots: Slots) -> Vec<Candidate<'_>> {
    let mut all = List(Vec::new());
    let none = Connect::NONE;
    // The first console is most often the first serial port, which has its place.
    let mirrored = usize::from(!devices.serials.is_empty() && mirrors_serial(devices.consoles.first()));
    let (passed, cards): (Vec<_>, Vec<_>) = devices
        .interfaces
        .iter_mut()
        .partition(|n| n.kind == InterfaceKind::Hostdev);
    all.add(Family::Filesystem, &mut devices.filesystems, |f| {
        (filesystem(f, slots), &mut f.info)
    });
    all.add(Family::Interface, cards, |n| (interface(n, slots), &mut n.info));
    all.add(Family::Sound, &mut devices.sounds, |s| {
        (sound(s, slots), &mut s.info)
    });
    all.add_controllers(&mut devices.controllers, slots);
    all.add(Family::Disk, &mut devices.disks, |d| {
        (disk(d, slots), &mut d.info)
    });
    all.add(Family::Interface, passed, |n| (slots.pcie, &mut n.info));
    all.add(Family::Hostdev, &mut devices.hostdevs, |h| {
        (hostdev(h, slots), &mut h.info)
    });
    all.add(Family::Memballoon, &mut devices.memballoon, |b| {
        (memballoon(b.model, slots), &mut b.info)
    });
    all.add(Family::Rng, &mut devices.rngs, |r| {
        (slots.virtio(Some(r.model)), &mut r.info)
    });
    all.add(Family::Watchdog, &mut devices.watchdogs, |w| {
        (watchdog(w), &mut w.info)
    });
    all.add(Family::Video, &mut devices.videos, |v| {
        (video(v, slots), &mut v.info)
    });
    all.add(Family::Shmem, &mut devices.shmems, |s| {
        (Connect::PCI, &mut s.info)
    });
    all.add(Family::Input, &mut devices.inputs, |i| {
        (input(i, slots), &mut i.info)
    });
    all.add(Family::Serial, &mut devices.serials, |s| (serial(s), &mut s.info));
    all.add(Family::Vsock, &mut devices.vsock, |v| {
        (slots.virtio(v.model), &mut v.info)
    });
    all.add(Family::Memory, &mut devices.memories, |m| {
        (memory(m, slots), &mut m.info)
    });
    all.add(Family::Crypto, &mut devices.cryptos, |c| {
        (Connect::PCI, &mut c.info)
    });
    all.add(Family::Iommu, &mut devices.iommu, |i| {
        (iommu(i, slots), &mut i.info)
    });
    all.add(Family::Panic, &mut devices.panics, |p| (panic(p), &mut p.info));
    all.add(Family::Pstore, &mut devices.pstore, |p| {
        (Connect::PCI, &mut p.info)
    });
    all.add(Family::Smartcard, &mut devices.smartcards, |s| {
        (none, &mut s.info)
    });
    all.add(Family::Parallel, &mut devices.parallels, |p| (none, &mut p.info));
    all.add(Family::Channel, &mut devices.channels, |c| (none, &mut c.info));
    all.add(Family::Console, devices.consoles.iter_mut().skip(mirrored), |c| {
        (none, &mut c.info)
    });
    all.add(Family::Nvram, &mut devices.nvram, |n| (none, &mut n.info));
    all.add(Family::Hub, &mut devices.hubs, |h| (none, &mut h.info));
    all.add(Family::Tpm, &mut devices.tpms, |t| (none, &mut t.info));
    all.add(Family::Redirdev, &mut devices.redirdevs, |r| (none, &mut r.info));
    all.0
}

fn mirrors_serial(console: Option<&Console>) -> bool {
    let target = console.and_then(|c| c.target.as_ref());
    matches!(
        target.and_then(|t| t.kind),
        None | Some(ConsoleTargetKind::Serial)
    )
}

impl Candidate<'_> {
    fn is_bus(&self) -> bool {
        self.role == Role::Bus
    }
}

/// Devices of a guest.
struct List<'a>(Vec<Candidate<'a>>);

impl<'a> List<'a> {
    fn add<D: 'a>(
        &mut self,
        family: Family,
        devices: impl IntoIterator<Item = &'a mut D>,
        plug: impl Fn(&'a mut D) -> (Connect, &'a mut DeviceInfo),
    ) {
        for device in devices {
            let (wanted, info) = plug(device);
            self.0.push(Candidate {
                wanted,
                info,
                role: Role::Plain,
                family,
            });
        }
    }

    fn add_controllers(&mut self, controllers: &'a mut [Controller], slots: Slots) {
        for c in controllers {
            let (role, wanted) = (controller_role(c), controller(c, slots));
            self.0.push(Candidate {
                wanted,
                info: &mut c.info,
                role,
                family: Family::Controller,
            });
        }
    }
}

fn watchdog(w: &Watchdog) -> Connect {
    only(w.model == WatchdogModel::I6300esb, Connect::PCI)
}

fn input(i: &Input, slots: Slots) -> Connect {
    only(i.bus == Some(InputBus::Virtio), slots.virtio(i.model))
}

fn serial(s: &Serial) -> Connect {
    let kind = s.target.as_ref().and_then(|t| t.kind);
    only(kind == Some(SerialTargetKind::PciSerial), Connect::PCI)
}

fn memory(m: &Memory, slots: Slots) -> Connect {
    let virtio = matches!(m.model, MemoryModel::VirtioMem | MemoryModel::VirtioPmem);
    only(virtio, slots.pcie)
}

fn iommu(i: &Iommu, slots: Slots) -> Connect {
    only(i.model == IommuModel::Virtio, slots.pcie | Connect::INTEGRATED)
}

fn panic(p: &Panic) -> Connect {
    only(
        p.model == Some(PanicModel::Pvpanic),
        Connect::PCI | Connect::INTEGRATED,
    )
}

const fn only(condition: bool, wanted: Connect) -> Connect {
    if condition { wanted } else { Connect::NONE }
}

fn filesystem(f: &Filesystem, slots: Slots) -> Connect {
    let kind = f.driver.as_ref().and_then(|d| d.kind);
    only(kind != Some(FilesystemDriverKind::Mtp), slots.virtio(f.model))
}

/// Models of network cards; what is not listed is taken for a PCI Express device.
const NICS: &[(&str, Nic)] = &[
    ("virtio", Nic::Virtio),
    ("virtio-net", Nic::Virtio),
    ("virtio-non-transitional", Nic::Virtio),
    ("virtio-transitional", Nic::Pci),
    ("rtl8139", Nic::Pci),
    ("e1000", Nic::Pci),
    ("netfront", Nic::Pci),
    ("lan9118", Nic::Pci),
    ("smc91c111", Nic::Pci),
    ("vlance", Nic::Pci),
    ("vmxnet", Nic::Pci),
    ("vmxnet2", Nic::Pci),
    ("vmxnet3", Nic::Pci),
    ("usb-net", Nic::NoPci),
    ("spapr-vlan", Nic::NoPci),
];

#[derive(Clone, Copy)]
enum Nic {
    Virtio,
    Pci,
    NoPci,
}

fn interface(n: &Interface, slots: Slots) -> Connect {
    if n.kind == InterfaceKind::Hostdev {
        return slots.pcie;
    }
    let model = n.model.as_deref().unwrap_or_default();
    match NICS.iter().find(|(name, _)| *name == model).map(|(_, nic)| *nic) {
        Some(Nic::Virtio) => slots.virtio,
        Some(Nic::Pci) => Connect::PCI,
        Some(Nic::NoPci) => Connect::NONE,
        None => slots.pcie,
    }
}

fn sound(s: &Sound, slots: Slots) -> Connect {
    match s.model {
        SoundModel::Sb16 | SoundModel::Pcspk | SoundModel::Usb => Connect::NONE,
        SoundModel::Virtio => slots.virtio,
        _ => Connect::PCI,
    }
}

fn controller(c: &Controller, slots: Slots) -> Connect {
    match c.kind {
        ControllerKind::Ide | ControllerKind::Sata => Connect::PCI,
        ControllerKind::Scsi => match c.scsi_model() {
            Some(ScsiModel::VirtioScsi | ScsiModel::VirtioNonTransitional) => slots.virtio,
            Some(ScsiModel::Ibmvscsi | ScsiModel::Ncr53c90) => Connect::NONE,
            _ => Connect::PCI,
        },
        ControllerKind::Usb => match c.usb_model() {
            Some(UsbModel::NecXhci | UsbModel::QemuXhci) => slots.pcie,
            Some(UsbModel::None) => Connect::NONE,
            _ => Connect::PCI,
        },
        ControllerKind::Pci => {
            let kind = c.model.as_deref().and_then(BusKind::from_model);
            kind.map_or(Connect::NONE, |kind| kind.rule().plugs_into)
        }
        ControllerKind::VirtioSerial => {
            only(c.model.as_deref() != Some("virtio-transitional"), slots.virtio)
                | only(c.model.as_deref() == Some("virtio-transitional"), Connect::PCI)
        }
        _ => Connect::NONE,
    }
}

fn controller_role(c: &Controller) -> Role {
    let index = c.index.unwrap_or(0);
    match c.usb_model() {
        _ if c.kind == ControllerKind::Pci => Role::Bus,
        Some(
            model @ (UsbModel::Ich9Ehci1 | UsbModel::Ich9Uhci1 | UsbModel::Ich9Uhci2 | UsbModel::Ich9Uhci3),
        ) => Role::Usb2 { index, model },
        _ if c.kind == ControllerKind::Ide && index == 0 => Role::FirstIde,
        None | Some(UsbModel::Piix3Uhci) if c.kind == ControllerKind::Usb && index == 0 => Role::FirstUsb,
        _ => Role::Plain,
    }
}

fn disk(d: &Disk, slots: Slots) -> Connect {
    only(d.target.bus == Some(DiskBus::Virtio), slots.virtio(d.model))
}

/// A passed-through device is taken for PCI Express unless this host says otherwise: its host may not be this one.
fn hostdev(h: &Hostdev, slots: Slots) -> Connect {
    if h.mode != HostdevMode::Subsystem {
        return Connect::NONE;
    }
    match (h.kind, h.model) {
        (HostdevKind::Pci, _) if h.source.as_ref().is_some_and(|source| source.conventional) => Connect::PCI,
        (HostdevKind::Pci, _) | (HostdevKind::Mdev, Some(HostdevModel::VfioPci)) => slots.pcie,
        (HostdevKind::ScsiHost, Some(HostdevModel::VirtioTransitional)) => Connect::PCI,
        (HostdevKind::ScsiHost, _) => slots.virtio,
        _ => Connect::NONE,
    }
}

fn memballoon(model: MemballoonModel, slots: Slots) -> Connect {
    match model {
        MemballoonModel::Virtio | MemballoonModel::VirtioNonTransitional => slots.virtio,
        MemballoonModel::VirtioTransitional => Connect::PCI,
        MemballoonModel::None | MemballoonModel::Xen => Connect::NONE,
    }
}

/// How a display adapter plugs in.
pub(super) fn video(v: &Video, slots: Slots) -> Connect {
    match v.model.as_ref().map(|m| m.kind) {
        Some(VideoModelKind::None | VideoModelKind::Ramfb) => Connect::NONE,
        Some(VideoModelKind::Virtio) => slots.virtio,
        Some(VideoModelKind::Bochs) => slots.pcie,
        _ => Connect::PCI,
    }
}
