//! What only a start refuses: documents that can be kept, and that no QEMU here can be started with. The native form of
//! a command line is refused for the same reasons, but for those of network cards.

use domxml::Domain;
use domxml::cpu::{Cell, CpuFallback, CpuMatch, CpuMode};
use domxml::devices::{
    Address, Channel, ChardevKind, Controller, ControllerKind, Disk, EncryptionFormat, Graphics,
    GraphicsKind, HostTransport, Hostdev, HostdevDriverName, HostdevKind, Interface, InterfaceKind,
    ListenKind, Memory, MemoryModel, NetProtocol, Shmem, StorageFormat, StorageKind, UsbModel, YesNo,
};
use domxml::os::SmbiosMode;
use domxml::tuning::{MemorySource, Placement};

use super::Guest;
use super::device::source::{Image, images};
use super::rule::{check, rules};
use crate::caps::{Caps, Flag};
use crate::error::Result;
use crate::facts::size::START_ALIGN_KIB;

/// Ports that VNC has.
const VNC_PORTS: std::ops::RangeInclusive<i32> = 5900..=65535;

/// Checks a document that a command line is to be made of.
///
/// # Errors
/// Libvirt's, for the first thing that is wrong.
pub(crate) fn start(def: &Domain, caps: &Caps) -> Result<()> {
    let guest = Guest::new(def, caps);
    let devices = &def.devices;
    devices
        .graphics
        .iter()
        .try_for_each(|display| check(LISTENS, &guest, display))?;
    check(CPU, &guest, def)?;
    devices
        .disks
        .iter()
        .try_for_each(|disk| disk_images(&guest, disk))?;
    guest
        .cells()
        .iter()
        .enumerate()
        .try_for_each(|cell| check(CELL, &guest, &cell))?;
    check(SIZE, &guest, def)?;
    check(BOARD, &guest, def)?;
    devices
        .memories
        .iter()
        .try_for_each(|module| check(MEMORY, &guest, module))?;
    devices
        .hostdevs
        .iter()
        .try_for_each(|device| check(HOSTDEV, &guest, device))?;
    devices
        .controllers
        .iter()
        .try_for_each(|c| check(CONTROLLER, &guest, c))?;
    devices
        .channels
        .iter()
        .try_for_each(|channel| check(CHANNEL, &guest, channel))?;
    devices
        .graphics
        .iter()
        .try_for_each(|display| check(DISPLAY, &guest, display))?;
    devices
        .shmems
        .iter()
        .try_for_each(|shmem| check(SHMEM, &guest, shmem))
}

/// Checks what a native form can't be made of, though a start can go on: nobody is asked where the guest should run.
///
/// # Errors
/// As [`start`].
pub(crate) fn native(def: &Domain, caps: &Caps) -> Result<()> {
    check(ADVICE, &Guest::new(def, caps), def)
}

rules! {
    /// Places that are left to an adviser.
    ADVICE(guest, def: Domain) {
        internal "Advice from numad is needed in case of automatic numa placement"
            if is_advised(def);
    }
}

/// Whether the guest's memory lies where an adviser says.
#[must_use]
pub fn is_advised(def: &Domain) -> bool {
    let memory = def.numatune.as_ref().and_then(|t| t.memory.as_ref());
    match memory {
        Some(memory) if memory.placement.is_some() => memory.placement == Some(Placement::Auto),
        Some(memory) if memory.nodeset.is_some() => false,
        _ => def
            .vcpu
            .as_ref()
            .is_some_and(|v| v.placement == Some(Placement::Auto)),
    }
}

/// Checks the network cards of a guest that is started.
///
/// # Errors
/// As [`start`].
pub(crate) fn cards(def: &Domain, caps: &Caps) -> Result<()> {
    let guest = Guest::new(def, caps);
    def.devices
        .interfaces
        .iter()
        .try_for_each(|card| check(CARD, &guest, card))
}

rules! {
    /// Places that displays listen at.
    LISTENS(guest, display: Graphics) {
        unsupported "QEMU does not support multiple listens for one graphics device."
            if matches!(display.kind, GraphicsKind::Vnc | GraphicsKind::Spice) && display.listens.len() > 1;
        unsupported "qemu-rdp does not support multiple listens for one graphics device."
            if display.kind == GraphicsKind::Rdp && display.listens.len() > 1;
        unsupported "qemu-rdp support requires a D-Bus bus graphics device."
            if display.kind == GraphicsKind::Rdp && !on_bus(guest);
    }
}

rules! {
    /// The CPU.
    CPU(guest, def: Domain) {
        conflicting_cpu "unknown CPU feature: {}" (crate::command::cpu::unknown_feature(def).unwrap_or_default())
            if guest.is_x86() && crate::command::cpu::unknown_feature(def).is_some();
        internal_cpu "Unknown CPU model {}" (unknown_model(guest).unwrap_or_default())
            if unknown_model(guest).is_some();
        conflicting_cpu "CPU model {} is not supported by hypervisor" (forbidden_model(guest).unwrap_or_default())
            if forbidden_model(guest).is_some();
    }
}

rules! {
    /// Images of disks.
    IMAGE(guest, image: Image<'_>) {
        unsupported "VxHS protocol is not supported with this QEMU binary" if protocol(image) == Some(NetProtocol::Vxhs);
        unsupported "NVMe disks are not supported with this QEMU binary"
            if image.kind == StorageKind::Nvme && !guest.caps.has(Flag::DriveNvme);
        unsupported "this qemu does not support TLS transport for NBD"
            if protocol(image) == Some(NetProtocol::Nbd) && tls(image) && !guest.caps.has(Flag::NbdTls);
        unsupported "TLS transport is not supported for disk protocol '{}'" (protocol(image).map_or("", |p| p.as_str()))
            if tls(image) && protocol(image).is_some_and(|p| p != NetProtocol::Nbd);
        internal_qemu "only TCP protocol can be converted to InetSocketAddress"
            if matches!(protocol(image), Some(NetProtocol::Rbd | NetProtocol::Ssh))
                && image.source.is_some_and(|s| s.hosts.iter().any(|h| h.transport.is_some_and(|t| t != HostTransport::Tcp)));
        internal_qemu "transport protocol '{}' is not yet supported" (HostTransport::Rdma.as_str())
            if protocol(image).is_some()
                && image.source.is_some_and(|s| s.hosts.iter().any(|h| h.transport == Some(HostTransport::Rdma)));
        internal_qemu "{} protocol accepts only one host" (lonely(image).unwrap_or_default()) if lonely(image).is_some();
        internal_qemu "missing secret info for 'luks' driver"
            if image.encryption.is_some_and(|e| e.format == EncryptionFormat::Luks && e.secrets.is_empty())
                && matches!(image.format, None | Some(StorageFormat::Raw | StorageFormat::Luks));
        unsupported "storage format '{}' does not support backing store" (image.format.map_or("", |f| f.as_str()))
            if image.has_backing && image.format.is_some_and(|f| FLAT.contains(&f));
    }
}

/// Formats of images that lie on no other.
const FLAT: &[StorageFormat] = &[
    StorageFormat::Vdi,
    StorageFormat::Bochs,
    StorageFormat::Cloop,
    StorageFormat::Dmg,
    StorageFormat::Ploop,
    StorageFormat::Fat,
];

fn disk_images(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    images(disk)
        .iter()
        .try_for_each(|image| check(IMAGE, guest, image))
}

/// Most memory that a number of KiB tells of.
const MOST_KIB: u64 = i64::MAX as u64 / 1024;

/// Whether a size has no room for what its step adds.
fn overflows(kib: u64, step: u64) -> bool {
    kib.div_ceil(step).saturating_mul(step) > MOST_KIB
}

rules! {
    /// Memory of a cell.
    CELL(guest, cell: (usize, &Cell)) {
        unsupported "memory size of NUMA node '{}' overflowed after alignment" (cell.0)
            if overflows(cell.1.memory.0, START_ALIGN_KIB);
    }
}

rules! {
    /// Memory of the guest, whole steps of it.
    SIZE(guest, def: Domain) {
        unsupported "initial memory size overflowed after alignment"
            if def.memory.is_some_and(|m| overflows(m.size.0, START_ALIGN_KIB));
        unsupported "maximum memory size overflowed after alignment"
            if def.max_memory.is_some_and(|m| overflows(m.size.0, START_ALIGN_KIB));
    }
}

rules! {
    /// Memory, CPUs and firmware of the board, and what there may be one of.
    BOARD(guest, def: Domain) {
        unsupported "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus, rdp) is supported"
            if display_twice(def);
        unsupported "'aes-key-wrap'/'dea-key-wrap' is not available on this architecture"
            if def.keywrap.is_some() && !guest.is_s390();
        unsupported "this qemu doesn't support the memory-backend-memfd object"
            if def.memory_backing.as_ref().and_then(|m| m.source) == Some(MemorySource::Memfd)
                && !guest.caps.has(Flag::MemoryBackendMemfd);
        unsupported "Only 1 die per socket is supported"
            if topology(def).is_some_and(|t| t.dies != 1) && !guest.caps.has(Flag::SmpDies);
        unsupported "Only 1 cluster per die is supported"
            if topology(def).is_some_and(|t| t.clusters != 1) && !guest.caps.has(Flag::SmpClusters);
        unsupported "At least one NUMA node has to have CPUs"
            if !guest.cells().is_empty()
                && guest.cells().iter().all(|c| c.cpus.as_ref().is_none_or(domxml::Bitmap::is_empty));
        unsupported "qemu does not support more than one entry to Type 2 in SMBIOS table"
            if def.os.smbios == Some(SmbiosMode::Sysinfo) && def.sysinfo.iter().any(|i| i.base_boards.len() > 1);
        internal_qemu "unable to find audio backend for sound device" if def.devices.sounds.iter().any(|s| {
            let id = s.audio.filter(|id| *id > 0);
            def.devices.audios.is_empty() || id.is_some_and(|id| !def.devices.audios.iter().any(|a| a.id == Some(id)))
        });
    }
}

rules! {
    /// Memory modules.
    MEMORY(guest, module: Memory) {
        unsupported "nvdimm pmem property is not available with this QEMU binary"
            if module.model == MemoryModel::Nvdimm && module.source.as_ref().is_some_and(|s| s.pmem)
                && !guest.caps.has(Flag::MemoryBackendFilePmem);
    }
}

rules! {
    /// Devices of the host.
    HOSTDEV(guest, device: Hostdev) {
        internal_qemu "invalid PCI passthrough type '{}'" (pci_driver(device).map_or("", |d| d.as_str()))
            if matches!(pci_driver(device), Some(HostdevDriverName::Kvm | HostdevDriverName::Xen));
    }
}

rules! {
    /// Controllers.
    CONTROLLER(guest, c: Controller) {
        unsupported "usb controller type '{}' doesn't support 'ports' with this QEMU binary" (c.model.as_deref().unwrap_or_default())
            if c.kind == ControllerKind::Usb && c.ports.is_some()
                && !matches!(c.usb_model(), Some(UsbModel::NecXhci | UsbModel::QemuXhci));
    }
}

rules! {
    /// Channels.
    CHANNEL(guest, channel: Channel) {
        unsupported "Unsupported spicevmc target name '{}'" (channel_name(channel))
            if channel.chardev.kind == ChardevKind::Spicevmc && channel_name(channel) != "com.redhat.spice.0";
        unsupported "unsupported chardev '{}'" (channel.chardev.kind.as_str()) if channel.chardev.kind == ChardevKind::Nmdm;
    }
}

rules! {
    /// Displays.
    DISPLAY(guest, display: Graphics) {
        unsupported "vnc port must be in range [5900,65535]"
            if display.kind == GraphicsKind::Vnc && by_port(display) && display.autoport != Some(YesNo::Yes)
                && display.port.is_none_or(|port| !VNC_PORTS.contains(&port));
    }
}

rules! {
    /// Shared memory.
    SHMEM(guest, shmem: Shmem) {
        unsupported "only 'pci' addresses are supported for the shared memory device"
            if shmem.info.address.as_ref().is_some_and(|a| !matches!(a, Address::Pci(_)));
    }
}

/// Checks a card that is plugged into a running guest, by the kind of the port that it gets.
///
/// # Errors
/// Libvirt's refusal.
pub(crate) fn card(def: &Domain, caps: &Caps, card: &Interface) -> Result<()> {
    check(CARD, &Guest::new(def, caps), card)
}

/// Kinds of ports whose card has several queues.
const MANY_QUEUES: &[InterfaceKind] = &[
    InterfaceKind::Network,
    InterfaceKind::Bridge,
    InterfaceKind::Direct,
    InterfaceKind::Ethernet,
    InterfaceKind::Vhostuser,
    InterfaceKind::Vdpa,
];

rules! {
    /// Network cards, by the kind of the port that they got.
    CARD(guest, card: Interface) {
        unsupported "interface {} - multiqueue is not supported for network interfaces of type {}"
            (mac(card), port(card).as_str())
            if card.driver.as_ref().and_then(|d| d.queues).is_some_and(|q| q > 0) && !MANY_QUEUES.contains(&port(card));
        unsupported "interface {} - custom tap device path is not supported for network interfaces of type {}"
            (mac(card), port(card).as_str())
            if card.backend.as_ref().is_some_and(|b| b.tap.is_some()) && !matches!(
                port(card), InterfaceKind::Network | InterfaceKind::Bridge | InterfaceKind::Ethernet);
        unsupported "scripts are not supported on interfaces of type {}" (port(card).as_str())
            if card.script.is_some() && port(card) != InterfaceKind::Ethernet;
        unsupported "network device type '{}' is not supported by this hypervisor" (port(card).as_str())
            if matches!(port(card), InterfaceKind::Null | InterfaceKind::Vds);
    }
}

/// Whether the first display on D-Bus is on a bus that others reach.
fn on_bus(guest: &Guest<'_>) -> bool {
    let mut displays = guest
        .def
        .devices
        .graphics
        .iter()
        .filter(|g| g.kind == GraphicsKind::Dbus);
    displays.next().is_some_and(|g| g.p2p != Some(YesNo::Yes))
}

/// A model that is none.
fn unknown_model<'a>(guest: &Guest<'a>) -> Option<&'a str> {
    let cpu = guest.def.cpu.as_ref()?;
    crate::command::cpu::unknown_model(guest.def).filter(|_| cpu.match_ != Some(CpuMatch::Minimum))
}

/// A model that QEMU has not, and that no other may stand for.
fn forbidden_model<'a>(guest: &Guest<'a>) -> Option<&'a str> {
    let cpu = guest.def.cpu.as_ref()?;
    let model = cpu.model.as_ref()?;
    let custom = cpu.mode == Some(CpuMode::Custom) && cpu.match_ != Some(CpuMatch::Minimum);
    let name = model.name.as_deref()?;
    let fixed = custom && model.fallback == Some(CpuFallback::Forbid) && guest.is_x86();
    (fixed && guest.caps.cpu(guest.accel, name).is_none()).then_some(name)
}

fn protocol(image: &Image<'_>) -> Option<NetProtocol> {
    image
        .source
        .filter(|_| image.kind == StorageKind::Network)?
        .protocol
}

fn tls(image: &Image<'_>) -> bool {
    image.source.is_some_and(|s| s.tls == Some(YesNo::Yes))
}

/// A protocol with one server that is given another number of them.
fn lonely(image: &Image<'_>) -> Option<&'static str> {
    let name = match protocol(image)? {
        NetProtocol::Iscsi => "iSCSI",
        NetProtocol::Nbd => "nbd",
        NetProtocol::Ssh => "ssh",
        _ => return None,
    };
    image.source.filter(|s| s.hosts.len() != 1).map(|_| name)
}

fn pci_driver(device: &Hostdev) -> Option<HostdevDriverName> {
    let driver = device.driver.as_ref();
    driver.filter(|_| device.kind == HostdevKind::Pci)?.name
}

fn display_twice(def: &Domain) -> bool {
    let kinds: Vec<_> = def.devices.graphics.iter().map(|g| g.kind).collect();
    kinds
        .iter()
        .enumerate()
        .any(|(at, kind)| kinds[..at].contains(kind))
}

fn topology(def: &Domain) -> Option<domxml::cpu::Topology> {
    def.cpu.as_ref()?.topology
}

fn channel_name(channel: &Channel) -> &str {
    let target = channel.target.as_ref();
    target
        .and_then(|t| t.name.as_deref())
        .unwrap_or("com.redhat.spice.0")
}

/// Whether a display is reached at a port.
fn by_port(display: &Graphics) -> bool {
    let first = display.listens.first().map(|l| l.kind);
    matches!(first, None | Some(ListenKind::Address | ListenKind::Network)) && display.socket.is_none()
}

fn mac(card: &Interface) -> &str {
    card.mac.as_ref().map_or("", |m| m.address.as_str())
}

/// The kind of port that a card has, as far as it is known.
fn port(card: &Interface) -> InterfaceKind {
    card.actual.as_ref().map_or(card.kind, |actual| actual.kind)
}
