//! What is left of a device when only that counts which its kind knows.
//!
//! libvirt's reader looks at the attributes that a kind has and never sees the others; a
//! struct here has them all. [`Devices::canonicalize`] makes up for that after reading. It
//! needs no knowledge of a host or of QEMU: what does is filled in elsewhere.

/// Makes fields absent.
macro_rules! clear {
    ($value:expr; $($field:ident),+ $(,)?) => {
        $($value.$field = Default::default();)+
    };
}

/// Makes fields absent that have a value which says no more than absence does.
macro_rules! drop_values {
    ($value:expr, $word:expr; $($field:ident),+ $(,)?) => {
        $(if $value.$field.as_ref().is_some_and(|v| $word(v.as_str())) { $value.$field = None; })+
    };
}

mod chardev;
mod display;
mod net;
mod storage;

use super::{
    Address, Controller, ControllerKind, Device, DeviceInfo, DeviceMut, Devices, Filesystem,
    FilesystemDriver, FilesystemDriverKind, FilesystemKind, FilesystemSource, Hostdev, HostdevAddress,
    HostdevKind, HostdevMode, HostdevProtocol, Input, InputKind, Memory, MemoryModel, PciModel, Pstore,
    Reconnect, Redirfilter, Shmem, Size, Sound, SoundModel, TpmBackend, TpmBackendKind, UsbModel, Video,
    VideoModel, VideoModelKind, YesNo,
};
use chardev::{
    canonical_channel_target, canonical_chardev, canonical_rng_backend, canonical_smartcard, drop_labels,
};
use display::{canonical_audio, canonical_graphics};
use net::{canonical_interface, canonical_ip, canonical_route};
use storage::{canonical_disk, canonical_host};

/// Whether to dial again, and when.
fn canonical_reconnect(reconnect: Option<Reconnect>) -> Option<Reconnect> {
    let mut reconnect = reconnect.filter(|reconnect| reconnect.enabled.is_some())?;
    clear!(reconnect; delay);
    if reconnect.enabled != Some(YesNo::Yes) {
        clear!(reconnect; timeout);
    }
    Some(reconnect)
}

fn is_default(word: &str) -> bool {
    word == "default"
}

impl Devices {
    /// Drops what the kind of each device does not know, and spells out what reading implies.
    pub fn canonicalize(&mut self) {
        self.iter_mut().for_each(canonicalize);
        let infos = self.iter_mut().filter_map(DeviceMut::into_info);
        infos.for_each(canonical_info);
        self.redirfilter = self.redirfilter.take().filter(|filter| !filter.rules.is_empty());
    }
}

impl Device {
    /// Drops what the kind of the device does not know, and spells out what reading implies.
    pub fn canonicalize(&mut self) {
        canonicalize(self.as_mut());
        if let Some(info) = self.as_mut().into_info() {
            canonical_info(info);
        }
    }
}

fn canonicalize(device: DeviceMut<'_>) {
    match device {
        DeviceMut::Disk(disk) => canonical_disk(disk),
        DeviceMut::Filesystem(filesystem) => canonical_filesystem(filesystem),
        DeviceMut::Interface(interface) => canonical_interface(interface),
        DeviceMut::Graphics(graphics) => canonical_graphics(graphics),
        DeviceMut::Hostdev(hostdev) => canonical_hostdev(hostdev),
        DeviceMut::Serial(serial) => canonical_chardev(&mut serial.chardev),
        DeviceMut::Parallel(parallel) => canonical_chardev(&mut parallel.chardev),
        DeviceMut::Console(console) => canonical_chardev(&mut console.chardev),
        DeviceMut::Channel(channel) => {
            canonical_chardev(&mut channel.chardev);
            channel.target.iter_mut().for_each(canonical_channel_target);
        }
        DeviceMut::Controller(controller) => canonical_controller(controller),
        DeviceMut::Input(input) => canonical_input(input),
        DeviceMut::Audio(audio) => canonical_audio(audio),
        DeviceMut::Lease(lease) => canonical_lease(lease),
        DeviceMut::Memory(memory) => canonical_memory(memory),
        DeviceMut::Shmem(shmem) => canonical_shmem(shmem),
        DeviceMut::Pstore(pstore) => canonical_pstore(pstore),
        DeviceMut::Sound(sound) => canonical_sound(sound),
        DeviceMut::Video(video) => canonical_video(video),
        DeviceMut::Tpm(tpm) => {
            if let Some(backend) = &mut tpm.backend {
                canonical_tpm_backend(backend);
                backend.encryption = backend.encryption.take().filter(|key| !key.secret.is_empty());
            }
        }
        DeviceMut::Redirdev(redirdev) => {
            canonical_chardev(&mut redirdev.chardev);
            drop_labels(&mut redirdev.chardev.sources);
        }
        DeviceMut::Smartcard(smartcard) => canonical_smartcard(smartcard),
        DeviceMut::Redirfilter(filter) => canonical_redirfilter(filter),
        DeviceMut::Rng(rng) => {
            rng.rate = rng.rate.take().filter(|rate| rate.bytes != 0);
            rng.backend.iter_mut().for_each(canonical_rng_backend);
        }
        _ => {}
    }
}

/// What all devices have.
fn canonical_info(info: &mut DeviceInfo) {
    if let Some(parameter) = info.boot.as_mut().and_then(|boot| boot.loadparm.as_mut()) {
        parameter.make_ascii_uppercase();
    }
    if let Some(Address::Pci(address)) = &mut info.address {
        let zero = |number: Option<u32>| number.unwrap_or_default() == 0;
        address.zpci = address.zpci.filter(|zpci| !zero(zpci.uid) || !zero(zpci.fid));
    }
}

/// Shared memory is measured in MiB.
fn canonical_shmem(shmem: &mut Shmem) {
    const MIB: u64 = 1 << 20;
    shmem.size = shmem.size.take().filter(|size| size.value != 0);
    if let Some(size) = &mut shmem.size
        && let Ok(bytes) = crate::units::scale(size.value, size.unit.as_deref().unwrap_or("B"))
        && bytes % MIB == 0
    {
        *size = Size {
            unit: Some("M".to_owned()),
            value: bytes / MIB,
        };
    }
}

/// A store of crash records is measured in KiB.
fn canonical_pstore(pstore: &mut Pstore) {
    if let Some(size) = &mut pstore.size
        && let Ok(bytes) = crate::units::scale(size.value, size.unit.as_deref().unwrap_or("KiB"))
    {
        *size = Size {
            unit: Some("KiB".to_owned()),
            value: bytes.div_ceil(1 << 10),
        };
    }
}

/// Streams and a driver are of virtio cards.
fn canonical_sound(sound: &mut Sound) {
    if sound.model != SoundModel::Virtio {
        clear!(sound; streams, driver);
    }
}

fn canonical_lease(lease: &mut super::Lease) {
    if let Some(target) = &mut lease.target {
        target.offset = target.offset.filter(|offset| *offset != 0);
    }
}

fn canonical_filesystem(filesystem: &mut Filesystem) {
    let kind = filesystem.kind;
    if let Some(source) = &mut filesystem.source {
        canonical_filesystem_source(kind, source);
    }
    // Groups are mapped where users are.
    filesystem.idmap = filesystem.idmap.take().filter(|map| !map.uids.is_empty());
    drop_values!(filesystem, is_default; multidevs);
    let virtiofs = |driver: &FilesystemDriver| driver.kind == Some(FilesystemDriverKind::Virtiofs);
    if let Some(driver) = filesystem.driver.as_mut().filter(|driver| driver.kind.is_none()) {
        clear!(driver; format, wrpolicy);
    }
    if !filesystem.driver.as_ref().is_some_and(virtiofs) {
        clear!(filesystem; binary);
        if let Some(driver) = &mut filesystem.driver {
            clear!(driver; queue);
        }
    }
}

/// Where a filesystem comes from: the one attribute of its kind, or the socket of whoever serves it.
fn canonical_filesystem_source(kind: FilesystemKind, source: &mut FilesystemSource) {
    use FilesystemKind::{Bind, Block, File, Mount, Ram, Template, Volume};
    if !matches!(kind, Mount | Bind) || source.socket.is_some() {
        clear!(source; dir);
    }
    if kind != Mount {
        clear!(source; socket);
    }
    if kind != Block {
        clear!(source; dev);
    }
    if kind != File {
        clear!(source; file);
    }
    if kind != Template {
        clear!(source; name);
    }
    if kind != Ram {
        clear!(source; usage, units);
    }
    if kind != Volume {
        clear!(source; pool, volume);
    }
}

/// What each kind of controller has besides an index and a model.
fn canonical_controller(controller: &mut Controller) {
    use ControllerKind::{Pci, Usb, VirtioSerial, Xenbus};
    let kind = controller.kind;
    if !matches!(kind, Usb | VirtioSerial) {
        clear!(controller; ports);
    }
    if kind != VirtioSerial {
        clear!(controller; vectors);
    }
    if kind != Xenbus {
        clear!(controller; max_grant_frames, max_event_channels);
    }
    if kind != Pci {
        clear!(controller; model_name, target);
    }
    if controller.usb_model() == Some(UsbModel::None) {
        // A user's alias of what is not there goes with the rest; that of a run stays, for a daemon that comes back shows
        // what it showed.
        let alias = controller.info.alias.take();
        clear!(controller; info);
        controller.info.alias = alias.filter(|alias| !alias.starts_with("ua-"));
    }
    let root = matches!(
        controller.pci_model(),
        Some(PciModel::PciRoot | PciModel::PcieRoot)
    );
    if !root {
        clear!(controller; pcihole64);
    }
    if let Some(driver) = &mut controller.driver {
        for number in [
            &mut driver.queues,
            &mut driver.cmd_per_lun,
            &mut driver.max_sectors,
            &mut driver.iothread,
        ] {
            *number = number.filter(|number| *number != 0);
        }
        driver.iothreads = driver.iothreads.take().filter(|map| !map.threads.is_empty());
    }
}

/// What each kind of module has behind it, and what the guest sees of it.
fn canonical_memory(memory: &mut Memory) {
    use MemoryModel::{Dimm, Nvdimm, SgxEpc, VirtioMem, VirtioPmem};
    let model = memory.model;
    if model != Nvdimm {
        clear!(memory; uuid);
    }
    if let Some(source) = &mut memory.source {
        if let Some(Ok(nodes)) = source.nodemask.as_deref().map(str::parse::<crate::Bitmap>) {
            source.nodemask = Some(nodes.to_string());
        }
        if !matches!(model, Dimm | VirtioMem | SgxEpc) {
            clear!(source; nodemask);
        }
        if !matches!(model, Dimm | VirtioMem) {
            clear!(source; pagesize);
        }
        source.pagesize = source.pagesize.take().filter(|size| size.value != 0);
        if !matches!(model, Nvdimm | VirtioPmem) {
            clear!(source; path);
        }
        if model != Nvdimm {
            clear!(source; alignsize, pmem);
        }
    }
    if let Some(target) = &mut memory.target {
        if model != Nvdimm {
            clear!(target; label, readonly);
        }
        if model != VirtioMem {
            clear!(target; block, requested, current, dynamic_memslots);
        }
        if !matches!(model, VirtioMem | VirtioPmem) {
            clear!(target; address);
        }
        target.address = target.address.filter(|base| *base != 0);
    }
}

/// An adapter that is none has nothing.
fn canonical_video(video: &mut Video) {
    if let Some(model) = &mut video.model {
        for size in [
            &mut model.ram,
            &mut model.vram,
            &mut model.vram64,
            &mut model.vgamem,
        ] {
            *size = size.filter(|size| *size != 0);
        }
    }
    let model = video.model.as_mut();
    if let Some(model) = model.filter(|model| model.kind == VideoModelKind::None) {
        *model = VideoModel {
            kind: model.kind,
            ..VideoModel::default()
        };
        video.driver = None;
    }
}

fn canonical_tpm_backend(backend: &mut TpmBackend) {
    use TpmBackendKind::{Emulator, Passthrough};
    if let Some(source) = backend.source.as_mut().filter(|_| backend.kind == Emulator) {
        clear!(source; mode);
    }
    backend.device = backend
        .device
        .take()
        .filter(|device| device.path.as_deref() != Some(""));
    if backend.kind != Passthrough {
        clear!(backend; device);
    } else {
        clear!(backend; source);
    }
    if backend.kind != Emulator {
        clear!(backend; version, persistent_state, debug, encryption, active_pcr_banks, profile);
    }
}

fn canonical_input(input: &mut Input) {
    if let Some(source) = &mut input.source {
        if input.kind != InputKind::Passthrough {
            clear!(source; evdev);
        }
        if input.kind != InputKind::Evdev {
            clear!(source; dev, grab, grab_toggle, repeat);
        }
    }
}

/// What each kind of host device says of itself and of where it is.
fn canonical_hostdev(hostdev: &mut Hostdev) {
    use HostdevKind::{Pci, Scsi, ScsiHost, Usb};
    let kind = hostdev.kind;
    if kind != Pci {
        clear!(hostdev; driver);
    }
    if kind != Scsi {
        clear!(hostdev; readonly, shareable);
    }
    if !matches!(kind, Pci | HostdevKind::Mdev) {
        clear!(hostdev; display, ramfb);
    }
    if let Some(source) = &mut hostdev.source {
        if kind != Usb {
            clear!(source; guest_reset);
        }
        if kind != Pci {
            clear!(source; write_filtering);
        }
        if !matches!(kind, Scsi | ScsiHost) {
            clear!(source; protocol);
        }
        if source.protocol != Some(HostdevProtocol::Iscsi) || kind != Scsi {
            clear!(source; name, hosts, auth, initiator);
        }
        source.hosts.iter_mut().for_each(canonical_host);
        if kind != Scsi || source.protocol == Some(HostdevProtocol::Iscsi) {
            clear!(source; adapter);
        }
        if kind == Scsi && source.protocol == Some(HostdevProtocol::Iscsi) {
            clear!(source; address);
        }
        if kind != Usb {
            clear!(source; vendor, product);
        }
        if kind != ScsiHost {
            clear!(source; wwpn);
        }
        if kind == Pci && hostdev.mode == HostdevMode::Subsystem {
            source.address.get_or_insert(HostdevAddress::Pci {
                domain: 0,
                bus: 0,
                slot: 0,
                function: 0,
            });
        }
    }
    hostdev.ips.iter_mut().for_each(canonical_ip);
    hostdev.routes.iter_mut().for_each(canonical_route);
}

/// A version in two parts, the second with two digits: `1.1` means 1.10. -1 stands for any.
fn canonical_version(version: &str) -> Option<String> {
    let Some((major, minor)) = version.split_once('.') else {
        return Some(version.to_owned()).filter(|version| version != "-1");
    };
    let tens = if minor.len() == 1 { "0" } else { "" };
    Some(format!("{major}.{minor}{tens}"))
}

fn canonical_redirfilter(filter: &mut Redirfilter) {
    for rule in &mut filter.rules {
        for id in [&mut rule.class, &mut rule.vendor, &mut rule.product] {
            *id = id.filter(|id| *id >= 0);
        }
        rule.version = rule
            .version
            .take()
            .and_then(|version| canonical_version(&version));
    }
}
