//! Which devices want a PCI function, in the order in which they get one, and how each plugs in.
//!
//! The order is part of what a guest sees: it decides slots, and must not change.

use domxml::devices::{
    Controller, ControllerKind, DeviceInfo, Devices, Disk, DiskBus, Filesystem,
    FilesystemDriverKind, Hostdev, HostdevKind, HostdevMode, HostdevModel, InputBus, Interface,
    InterfaceKind, IommuModel, MemballoonModel, MemoryModel, PanicModel, ScsiModel,
    SerialTargetKind, Sound, SoundModel, UsbModel, Video, VideoModelKind, VirtioModel,
    WatchdogModel,
};

use super::connect::{BusKind, Connect};

/// A device that may have a place on a PCI bus.
pub(super) struct Candidate<'a> {
    /// How it plugs in; never empty.
    pub(super) wanted: Connect,
    /// The part that all devices share.
    pub(super) info: &'a mut DeviceInfo,
    /// What is special about it.
    pub(super) role: Role,
}

/// What is special about placing a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing.
    Plain,
    /// A function of a USB 2 controller: they share a slot.
    Usb2 { index: u32, model: UsbModel },
    /// The first IDE controller, part of the chipset.
    FirstIde,
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
            role: Role::Plain,
        })
    });
    placed.filter(|c| !c.wanted.is_none()).collect()
}

/// All other devices, in the order in which they are placed.
pub(super) fn devices(devices: &mut Devices, slots: Slots) -> Vec<Candidate<'_>> {
    let mut all = Vec::new();
    let mut add = |wanted: Connect, info| {
        all.push(Candidate {
            wanted,
            info,
            role: Role::Plain,
        })
    };
    devices
        .filesystems
        .iter_mut()
        .for_each(|f| add(filesystem(f, slots), &mut f.info));
    let passed = |n: &&mut Interface| n.kind == InterfaceKind::Hostdev;
    let (passed, cards): (Vec<_>, Vec<_>) = devices.interfaces.iter_mut().partition(passed);
    cards
        .into_iter()
        .for_each(|n| add(interface(n, slots), &mut n.info));
    devices
        .sounds
        .iter_mut()
        .for_each(|s| add(sound(s, slots), &mut s.info));
    for c in &mut devices.controllers {
        let role = controller_role(c);
        all.push(Candidate {
            wanted: controller(c, slots),
            info: &mut c.info,
            role,
        });
    }
    let mut add = |wanted: Connect, info| {
        all.push(Candidate {
            wanted,
            info,
            role: Role::Plain,
        })
    };
    devices
        .disks
        .iter_mut()
        .for_each(|d| add(disk(d, slots), &mut d.info));
    passed
        .into_iter()
        .for_each(|n| add(slots.pcie, &mut n.info));
    devices
        .hostdevs
        .iter_mut()
        .for_each(|h| add(hostdev(h, slots), &mut h.info));
    devices
        .memballoon
        .iter_mut()
        .for_each(|b| add(memballoon(b.model, slots), &mut b.info));
    devices
        .rngs
        .iter_mut()
        .for_each(|r| add(slots.virtio(Some(r.model)), &mut r.info));
    devices.watchdogs.iter_mut().for_each(|w| {
        add(
            only(w.model == WatchdogModel::I6300esb, Connect::PCI),
            &mut w.info,
        )
    });
    devices
        .videos
        .iter_mut()
        .for_each(|v| add(video(v, slots), &mut v.info));
    devices
        .shmems
        .iter_mut()
        .for_each(|s| add(Connect::PCI, &mut s.info));
    devices.inputs.iter_mut().for_each(|i| {
        add(
            only(i.bus == Some(InputBus::Virtio), slots.virtio(i.model)),
            &mut i.info,
        )
    });
    for s in &mut devices.serials {
        let kind = s.target.as_ref().and_then(|t| t.kind);
        add(
            only(kind == Some(SerialTargetKind::PciSerial), Connect::PCI),
            &mut s.info,
        );
    }
    let virtio_memory = |m| matches!(m, MemoryModel::VirtioMem | MemoryModel::VirtioPmem);
    devices
        .memories
        .iter_mut()
        .for_each(|m| add(only(virtio_memory(m.model), slots.pcie), &mut m.info));
    devices.panics.iter_mut().for_each(|p| {
        add(
            only(
                p.model == Some(PanicModel::Pvpanic),
                Connect::PCI | Connect::INTEGRATED,
            ),
            &mut p.info,
        );
    });
    devices
        .vsock
        .iter_mut()
        .for_each(|v| add(slots.virtio(v.model), &mut v.info));
    devices.iommu.iter_mut().for_each(|i| {
        add(
            only(
                i.model == IommuModel::Virtio,
                slots.pcie | Connect::INTEGRATED,
            ),
            &mut i.info,
        );
    });
    devices
        .cryptos
        .iter_mut()
        .for_each(|c| add(Connect::PCI, &mut c.info));
    devices
        .pstore
        .iter_mut()
        .for_each(|p| add(Connect::PCI, &mut p.info));
    all.retain(|c| !c.wanted.is_none());
    all
}

const fn only(condition: bool, wanted: Connect) -> Connect {
    if condition { wanted } else { Connect::NONE }
}

fn filesystem(f: &Filesystem, slots: Slots) -> Connect {
    let kind = f.driver.as_ref().and_then(|d| d.kind);
    only(
        kind != Some(FilesystemDriverKind::Mtp),
        slots.virtio(f.model),
    )
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
    match NICS
        .iter()
        .find(|(name, _)| *name == model)
        .map(|(_, nic)| *nic)
    {
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
        ControllerKind::VirtioSerial => {
            only(
                c.model.as_deref() != Some("virtio-transitional"),
                slots.virtio,
            ) | only(
                c.model.as_deref() == Some("virtio-transitional"),
                Connect::PCI,
            )
        }
        _ => Connect::NONE,
    }
}

fn controller_role(c: &Controller) -> Role {
    let index = c.index.unwrap_or(0);
    match c.usb_model() {
        Some(
            model @ (UsbModel::Ich9Ehci1
            | UsbModel::Ich9Uhci1
            | UsbModel::Ich9Uhci2
            | UsbModel::Ich9Uhci3),
        ) => Role::Usb2 { index, model },
        _ if c.kind == ControllerKind::Ide && index == 0 => Role::FirstIde,
        _ => Role::Plain,
    }
}

fn disk(d: &Disk, slots: Slots) -> Connect {
    only(d.target.bus == Some(DiskBus::Virtio), slots.virtio(d.model))
}

/// A passed-through device is taken for PCI Express: its host may not be this one.
fn hostdev(h: &Hostdev, slots: Slots) -> Connect {
    if h.mode != HostdevMode::Subsystem {
        return Connect::NONE;
    }
    match (h.kind, h.model) {
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

fn video(v: &Video, slots: Slots) -> Connect {
    match v.model.as_ref().map(|m| m.kind) {
        Some(VideoModelKind::None | VideoModelKind::Ramfb) => Connect::NONE,
        Some(VideoModelKind::Virtio) => slots.virtio,
        Some(VideoModelKind::Bochs) => slots.pcie,
        _ => Connect::PCI,
    }
}
