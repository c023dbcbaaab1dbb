//! Devices that need a word or two: input, balloon, watchdog, panic, TPM, random source, sound, vsock, host devices.

use domxml::devices::{
    AccessMode, Address, Audio, AudioKind, Devices, DiskBus, DriveAddress, GraphicsKind, HostdevKind,
    HostdevMode, HostdevModel, HostdevProtocol, Input, InputBus, InputKind, Memballoon, MemballoonModel,
    OnOff, PanicModel, Redirdev, RngBackendModel, ShmemModelKind, Size, Sound, SoundModel, Tpm,
    TpmBackendKind, TpmModel, TpmVersion, VirtioModel, YesNo,
};

use super::HostAudio;
use crate::error::{Error, Result};

/// Whether a machine has a PS/2 controller that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ps2 {
    Present,
    Absent,
}

/// Gives input devices a bus, and adds the mouse and the keyboard that a PC has anyway.
pub(super) fn fill_inputs(devices: &mut Devices, ps2: Ps2) {
    if ps2 == Ps2::Present {
        for kind in [InputKind::Mouse, InputKind::Keyboard] {
            let there = |i: &Input| i.kind == kind && i.bus == Some(InputBus::Ps2);
            if !devices.inputs.iter().any(there) {
                devices.inputs.push(Input {
                    kind,
                    bus: Some(InputBus::Ps2),
                    ..Input::default()
                });
            }
        }
    }
    fill_buses(devices, ps2);
}

/// Gives input devices that name no bus the usual one.
pub(super) fn fill_buses(devices: &mut Devices, ps2: Ps2) {
    for input in &mut devices.inputs {
        if input.bus.is_none() {
            input.bus = input_bus(input, ps2);
        }
    }
}

fn input_bus(input: &Input, ps2: Ps2) -> Option<InputBus> {
    match input.kind {
        InputKind::Mouse | InputKind::Keyboard if ps2 == Ps2::Present => Some(InputBus::Ps2),
        InputKind::Mouse | InputKind::Keyboard | InputKind::Tablet => Some(InputBus::Usb),
        InputKind::Passthrough => Some(InputBus::Virtio),
        InputKind::Evdev => None,
    }
}

/// A guest without a balloon gets one; `none` says that it shall have none.
pub(super) fn fill_memballoon(devices: &mut Devices) {
    let balloon = devices.memballoon.get_or_insert_with(|| Memballoon {
        model: MemballoonModel::Virtio,
        ..Memballoon::default()
    });
    if balloon.stats_period == Some(0) {
        balloon.stats_period = None;
    }
}

/// Default actions and models of the families that have one.
pub(super) fn fill_defaults(devices: &mut Devices) {
    for filesystem in &mut devices.filesystems {
        // Who runs the server elsewhere decides there.
        if filesystem.source.as_ref().is_none_or(|s| s.socket.is_none()) {
            filesystem.accessmode.get_or_insert(AccessMode::Passthrough);
        }
    }
    for rule in devices.redirfilter.iter_mut().flat_map(|f| &mut f.rules) {
        for any in [&mut rule.class, &mut rule.vendor, &mut rule.product] {
            *any = any.filter(|v| *v != -1);
        }
        rule.version = rule.version.take().filter(|v| v != "-1");
    }
    for panic in &mut devices.panics {
        panic.model = panic
            .model
            .filter(|m| *m != PanicModel::Default)
            .or(Some(PanicModel::Isa));
    }
    devices.tpms.iter_mut().for_each(fill_tpm);
    for rng in &mut devices.rngs {
        if let Some(backend) = rng
            .backend
            .as_mut()
            .filter(|b| b.model == RngBackendModel::Random)
            && backend.path.is_empty()
        {
            backend.path = "/dev/random".to_owned();
        }
    }
    devices.sounds.iter_mut().for_each(fill_sound);
    for shmem in &mut devices.shmems {
        if !matches!(shmem.model, None | Some(ShmemModelKind::IvshmemDoorbell)) {
            shmem.size.get_or_insert_with(shmem_size);
        }
        if shmem.model == Some(ShmemModelKind::IvshmemDoorbell) {
            shmem.msi.get_or_insert_default();
        }
    }
    for msi in devices.shmems.iter_mut().filter_map(|s| s.msi.as_mut()) {
        msi.ioeventfd.get_or_insert(OnOff::On);
    }
    if let Some(vsock) = &mut devices.vsock {
        let cid = vsock.cid.get_or_insert_default();
        cid.auto
            .get_or_insert((cid.address.unwrap_or_default() == 0).into());
        vsock.model.get_or_insert(VirtioModel::Virtio);
    }
    devices.redirdevs.iter_mut().for_each(fill_redirdev);
}

/// What shared memory has that names no size.
fn shmem_size() -> Size {
    Size {
        unit: Some("M".to_owned()),
        value: 4,
    }
}

/// Streams are of virtio cards, channels of USB ones, codecs of HDA ones.
fn fill_sound(sound: &mut Sound) {
    match sound.model {
        SoundModel::Virtio => {
            sound.streams.get_or_insert(2);
            sound.codecs.clear();
        }
        SoundModel::Ich6 | SoundModel::Ich9 => {}
        _ => sound.codecs.clear(),
    }
    if sound.model != SoundModel::Usb {
        sound.multichannel = None;
    }
}

fn fill_tpm(tpm: &mut Tpm) {
    let model = *tpm.model.get_or_insert(TpmModel::TpmTis);
    let passed = tpm
        .backend
        .as_mut()
        .filter(|b| b.kind == TpmBackendKind::Passthrough);
    if let Some(backend) = passed {
        let device = backend.device.get_or_insert_default();
        device.path.get_or_insert_with(|| HOST_TPM.to_owned());
    }
    if let Some(backend) = tpm
        .backend
        .as_mut()
        .filter(|b| b.kind == TpmBackendKind::Emulator)
    {
        let version = if model == TpmModel::TpmTis {
            TpmVersion::V1_2
        } else {
            TpmVersion::V2_0
        };
        backend.version.get_or_insert(version);
    }
}

/// The host's first TPM.
const HOST_TPM: &str = "/dev/tpm0";

fn fill_redirdev(redirdev: &mut Redirdev) {
    use domxml::devices::ChardevKind;
    if redirdev.chardev.kind == ChardevKind::Dbus {
        redirdev
            .chardev
            .source_mut()
            .channel
            .get_or_insert_with(|| "org.qemu.usbredir".to_owned());
    }
}

/// Numbers the audio back ends; a guest without one gets what suits its display.
pub(super) fn fill_audio(devices: &mut Devices, host: HostAudio) {
    if devices.audios.is_empty()
        && let Some(kind) = default_audio(devices, host)
    {
        devices.audios.push(Audio {
            kind,
            ..Audio::default()
        });
    }
    let mut next = devices.audios.iter().filter_map(|a| a.id).max().unwrap_or(0);
    for audio in devices.audios.iter_mut().filter(|a| a.id.is_none()) {
        next = next.saturating_add(1);
        audio.id = Some(next);
    }
}

/// SDL chooses its own sound when the guest starts, so nothing is written down.
fn default_audio(devices: &Devices, host: HostAudio) -> Option<AudioKind> {
    let has = |kind| devices.graphics.iter().any(|g| g.kind == kind);
    if has(GraphicsKind::Spice) {
        return Some(AudioKind::Spice);
    }
    // SDL, D-Bus and a display without a screen choose their own sound when the guest starts.
    // Of SDL and VNC the last one decides.
    let mut displays = devices.graphics.iter().rev();
    let decides = displays.find(|g| matches!(g.kind, GraphicsKind::Sdl | GraphicsKind::Vnc));
    let chosen = match decides.map(|display| display.kind) {
        _ if devices.graphics.is_empty() => host.without_graphics,
        Some(GraphicsKind::Vnc) => host.with_vnc,
        _ => true,
    };
    (!chosen).then_some(AudioKind::None)
}

/// Units of a SCSI bus that host devices are spread over.
const SCSI_UNITS: u32 = 7;

/// Fills in host devices, and gives those on a SCSI bus the next free unit.
pub(super) fn fill_hostdevs(devices: &mut Devices) -> Result<()> {
    for hostdev in &mut devices.hostdevs {
        if hostdev.mode == HostdevMode::Subsystem {
            hostdev.managed.get_or_insert(YesNo::No);
        }
        // A target without a unit means the first one.
        if let Some(source) = &mut hostdev.source
            && source.protocol == Some(HostdevProtocol::Iscsi)
            && let Some(name) = source.name.as_mut().filter(|n| !n.contains('/'))
        {
            name.push_str("/0");
        }
        if hostdev.kind == HostdevKind::Mdev && hostdev.model == Some(HostdevModel::VfioPci) {
            hostdev.display.get_or_insert(OnOff::Off);
        }
    }
    for at in 0..devices.hostdevs.len() {
        let hostdev = &devices.hostdevs[at];
        let unplaced = hostdev.info.address.is_none();
        if hostdev.kind == HostdevKind::Scsi && unplaced {
            let place = next_scsi_unit(devices)?;
            devices.hostdevs[at].info.address = Some(Address::Drive(place));
        }
    }
    Ok(())
}

fn next_scsi_unit(devices: &Devices) -> Result<DriveAddress> {
    let disks = devices
        .disks
        .iter()
        .filter(|d| d.target.bus == Some(DiskBus::Scsi))
        .map(|d| &d.info);
    let taken: Vec<DriveAddress> = disks
        .chain(devices.hostdevs.iter().map(|h| &h.info))
        .filter_map(|i| match &i.address {
            Some(Address::Drive(a)) => Some(*a),
            _ => None,
        })
        .collect();
    let free = |a: &DriveAddress| {
        !taken
            .iter()
            .any(|t| t.controller == a.controller && t.unit == a.unit && t.bus == a.bus)
    };
    let all = (0..256).flat_map(|controller| {
        (0..SCSI_UNITS).map(move |unit| DriveAddress {
            controller,
            unit,
            ..DriveAddress::default()
        })
    });
    all.into_iter()
        .find(free)
        .ok_or_else(|| Error::internal("No free SCSI unit for a host device"))
}
