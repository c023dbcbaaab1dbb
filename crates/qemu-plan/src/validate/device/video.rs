//! Display adapters.

use domxml::devices::{OnOff, Video, VideoBackend, VideoModel, VideoModelKind, YesNo};
use domxml::tuning::MemorySource;

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::Result;

/// What each adapter needs of QEMU; those not named are other hypervisors'.
// table
const MODELS: &[(VideoModelKind, Flag)] = &[
    (VideoModelKind::Vga, Flag::Vga),
    (VideoModelKind::Cirrus, Flag::CirrusVga),
    (VideoModelKind::Vmvga, Flag::VmwareSvga),
    (VideoModelKind::Qxl, Flag::Qxl),
    (VideoModelKind::Virtio, Flag::VirtioGpu),
    (VideoModelKind::Bochs, Flag::BochsDisplay),
    (VideoModelKind::Ramfb, Flag::Ramfb),
];

/// Most memory of one kind of qxl, KiB.
const QXL_MOST: u32 = u32::MAX / 1024;

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, video: &Video) -> Result<()> {
    check(GENERIC, guest, video)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, video: &Video) -> Result<()> {
    if kind(video) == VideoModelKind::None {
        return Ok(());
    }
    check(QEMU, guest, video)
}

rules! {
    /// What no hypervisor takes.
    GENERIC(guest, video: Video) {
        internal "missing video model and cannot determine default" if kind(video) == VideoModelKind::Default;
        conflicting "a 'none' video type must be the only video device defined for the domain"
            if guest.def.devices.videos.len() > 1
                && guest.def.devices.videos.iter().any(|v| kind(v) == VideoModelKind::None);
        conflicting "'vhostuser' driver is only supported with 'virtio' device"
            if behind_vhost(video) && kind(video) != VideoModelKind::Virtio;
        conflicting "unsupported rendernode accel attribute without 'vhostuser'"
            if !behind_vhost(video) && model(video).acceleration.as_ref().is_some_and(|a| a.rendernode.is_some());
        conflicting "video resolution values must be greater than 0"
            if model(video).resolution.as_ref().is_some_and(|r| r.x == 0 || r.y == 0);
        conflicting "{} attribute only supported for video type qxl" (qxl_memory(video).unwrap_or_default())
            if kind(video) != VideoModelKind::Qxl && qxl_memory(video).is_some();
        conflicting "address not supported for video type ramfb"
            if kind(video) == VideoModelKind::Ramfb && video.info.address.is_some();
        conflicting "{} is only supported for virtio devices"
            (super::virtio_option(video.driver.as_ref().map(|d| &d.virtio)))
            if kind(video) != VideoModelKind::Virtio
                && super::has_virtio_options(video.driver.as_ref().map(|d| &d.virtio));
        conflicting "video type '{}' does not support blob resources" (kind(video).as_str())
            if kind(video) != VideoModelKind::Virtio && model(video).blob.is_some();
    }
}

rules! {
    /// What QEMU does not take.
    QEMU(guest, video: Video) {
        unsupported "domain configuration does not support video model '{}'" (kind(video).as_str())
            if !MODELS.iter().any(|(k, flag)| *k == kind(video) && guest.caps.has(*flag));
        unsupported "video type '{}' is only valid as primary video device" (kind(video).as_str())
            if !many_heads(video) && model(video).primary != Some(YesNo::Yes);
        unsupported "video type '{}' doesn't support multiple 'heads'" (kind(video).as_str())
            if !many_heads(video) && model(video).heads.is_some_and(|h| h != 1);
        unsupported "qemu does not support the accel2d setting"
            if model(video).acceleration.as_ref().is_some_and(|a| a.accel2d == Some(YesNo::Yes));
        overflow_qemu "value for 'vram' must be less than '{}'" (QXL_MOST)
            if kind(video) == VideoModelKind::Qxl && model(video).vram.is_some_and(|v| v > QXL_MOST);
        overflow_qemu "value for 'ram' must be less than '{}'" (QXL_MOST)
            if kind(video) == VideoModelKind::Qxl && model(video).ram.is_some_and(|v| v > QXL_MOST);
        unsupported "value for 'vgamem' must be at least 1 MiB (1024 KiB)"
            if kind(video) == VideoModelKind::Qxl && model(video).vgamem.is_some_and(|v| v > 0 && v < 1024);
        unsupported "value for 'vgamem' must be power of two"
            if kind(video) == VideoModelKind::Qxl && model(video).vgamem.is_some_and(|v| v > 0
                && !v.is_power_of_two());
        xml_qemu "model resolution is not supported"
            if model(video).resolution.is_some() && !has_resolution(video);
        unsupported "value for 'vram' must be at least 1 MiB (1024 KiB)"
            if matches!(kind(video), VideoModelKind::Vga | VideoModelKind::Vmvga)
                && model(video).vram.is_some_and(|v| v > 0 && v < 1024);
        unsupported "this QEMU does not support 'vhost-user' video device"
            if behind_vhost(video) && !guest.caps.has(Flag::VhostUserGpu);
        unsupported "3d acceleration is supported only with 'virtio' video device"
            if accelerated(video) && kind(video) != VideoModelKind::Virtio;
        unsupported "3d acceleration is not supported by this QEMU binary"
            if accelerated(video) && ![Flag::VirtioGpuVirgl, Flag::VirtioGpuGlPci, Flag::VirtioVgaGl].iter().any(|f| guest.caps.has(*f));
        unsupported "this QEMU does not support 'blob' for virtio-gpu devices"
            if model(video).blob.is_some() && !guest.caps.has(Flag::VirtioGpuBlob);
        unsupported "'blob' support for virtio-gpu devices requires a memfd memory backend"
            if model(video).blob == Some(OnOff::On)
                && guest.def.memory_backing.as_ref().and_then(|m| m.source) != Some(MemorySource::Memfd);
    }
}

fn model(video: &Video) -> &VideoModel {
    const NONE: &VideoModel = &VideoModel {
        kind: VideoModelKind::Default,
        ram: None,
        vram: None,
        vram64: None,
        vgamem: None,
        heads: None,
        primary: None,
        blob: None,
        acceleration: None,
        resolution: None,
    };
    video.model.as_ref().unwrap_or(NONE)
}

fn kind(video: &Video) -> VideoModelKind {
    model(video).kind
}

/// Whether a helper of its own renders.
fn behind_vhost(video: &Video) -> bool {
    video.driver.as_ref().and_then(|d| d.name) == Some(VideoBackend::Vhostuser)
}

fn accelerated(video: &Video) -> bool {
    !behind_vhost(video) && model(video).acceleration.as_ref().and_then(|a| a.accel3d) == Some(YesNo::Yes)
}

/// Whether an adapter has several outlets, and works beside others.
fn many_heads(video: &Video) -> bool {
    matches!(kind(video), VideoModelKind::Qxl | VideoModelKind::Virtio)
}

fn has_resolution(video: &Video) -> bool {
    many_heads(video) || matches!(kind(video), VideoModelKind::Vga | VideoModelKind::Bochs)
}

fn qxl_memory(video: &Video) -> Option<&'static str> {
    let model = model(video);
    let sizes = [
        ("ram", model.ram),
        ("vram64", model.vram64),
        ("vgamem", model.vgamem),
    ];
    sizes
        .iter()
        .find(|(_, size)| size.is_some_and(|s| s > 0))
        .map(|(name, _)| *name)
}
