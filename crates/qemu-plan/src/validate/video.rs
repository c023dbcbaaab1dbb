//! Display adapters and displays.

use domxml::devices::{GraphicsKind, OnOff, VideoBackend, VideoModelKind, YesNo};
use domxml::tuning::MemorySource;

use super::Guest;
use crate::caps::Flag;
use crate::error::{Error, Result};

/// What each adapter needs of QEMU.
const MODELS: &[(VideoModelKind, Flag)] = &[
    (VideoModelKind::Vga, Flag::Vga),
    (VideoModelKind::Cirrus, Flag::CirrusVga),
    (VideoModelKind::Vmvga, Flag::VmwareSvga),
    (VideoModelKind::Qxl, Flag::Qxl),
    (VideoModelKind::Virtio, Flag::VirtioGpu),
    (VideoModelKind::Bochs, Flag::BochsDisplay),
    (VideoModelKind::Ramfb, Flag::Ramfb),
];

/// Adapters of other hypervisors.
const FOREIGN: &[VideoModelKind] = &[
    VideoModelKind::Xen,
    VideoModelKind::Vbox,
    VideoModelKind::Parallels,
    VideoModelKind::Gop,
];

pub(super) fn models(guest: &Guest<'_>) -> Result<()> {
    let kinds = guest
        .def
        .devices
        .videos
        .iter()
        .filter_map(|v| v.model.as_ref())
        .map(|m| m.kind);
    let lacks = |kind: &VideoModelKind| {
        let flag = MODELS.iter().find(|(k, _)| k == kind).map(|(_, f)| *f);
        FOREIGN.contains(kind) || flag.is_some_and(|f| !guest.caps.has(f))
    };
    kinds.into_iter().find(lacks).map_or(Ok(()), |kind| {
        Err(Error::unsupported(format!(
            "domain configuration does not support video model '{}'",
            kind.as_str()
        )))
    })
}

pub(super) fn acceleration(guest: &Guest<'_>) -> Result<()> {
    // A helper of its own renders what is behind vhost-user.
    let own =
        |v: &&domxml::devices::Video| v.driver.as_ref().and_then(|d| d.name) != Some(VideoBackend::Vhostuser);
    let models = guest
        .def
        .devices
        .videos
        .iter()
        .filter(own)
        .filter_map(|v| v.model.as_ref());
    let wanted = |m: &&domxml::devices::VideoModel| {
        m.acceleration.as_ref().and_then(|a| a.accel3d) == Some(YesNo::Yes)
    };
    let able = guest.caps.has(Flag::VirtioGpuVirgl)
        || guest.caps.has(Flag::VirtioVgaGl) && guest.caps.has(Flag::VirtioGpuGlPci);
    if !able && models.into_iter().any(|m| wanted(&m)) {
        return Err(Error::unsupported(
            "3d acceleration is not supported by this QEMU binary",
        ));
    }
    Ok(())
}

/// Adapters that work beside another one.
const SECONDARY: &[VideoModelKind] = &[VideoModelKind::Qxl, VideoModelKind::Virtio, VideoModelKind::Ramfb];
/// Adapters with several outlets.
const MANY_HEADS: &[VideoModelKind] = &[VideoModelKind::Qxl, VideoModelKind::Virtio];

pub(super) fn options(guest: &Guest<'_>) -> Result<()> {
    let videos = &guest.def.devices.videos;
    for (at, video) in videos.iter().enumerate() {
        let Some(model) = &video.model else { continue };
        let kind = model.kind.as_str();
        if model.kind == VideoModelKind::None && videos.len() > 1 {
            return Err(Error::conflicting(
                "a 'none' video type must be the only video device defined for the domain",
            ));
        }
        if at > 0 && !SECONDARY.contains(&model.kind) {
            return Err(Error::unsupported(format!(
                "video type '{kind}' is only valid as primary video device"
            )));
        }
        let vhost = video.driver.as_ref().and_then(|d| d.name) == Some(VideoBackend::Vhostuser);
        if vhost && model.kind != VideoModelKind::Virtio {
            return Err(Error::conflicting(
                "'vhostuser' driver is only supported with 'virtio' device",
            ));
        }
        let memory = [
            ("ram", model.ram),
            ("vram64", model.vram64),
            ("vgamem", model.vgamem),
        ];
        if let Some((name, _)) = memory
            .iter()
            .find(|(_, v)| v.is_some() && model.kind != VideoModelKind::Qxl)
        {
            return Err(Error::conflicting(format!(
                "{name} attribute only supported for video type qxl"
            )));
        }
        if model.heads.is_some_and(|h| h > 1) && !MANY_HEADS.contains(&model.kind) {
            return Err(Error::unsupported(format!(
                "video type '{kind}' doesn't support multiple 'heads'"
            )));
        }
        let source = guest.def.memory_backing.as_ref().and_then(|m| m.source);
        if model.blob == Some(OnOff::On) && source != Some(MemorySource::Memfd) {
            return Err(Error::unsupported(
                "'blob' support for virtio-gpu devices requires a memfd memory backend",
            ));
        }
    }
    Ok(())
}

/// Longest password of VNC.
const VNC_PASSWORD: usize = 8;

pub(super) fn passwords(guest: &Guest<'_>) -> Result<()> {
    let vnc = guest
        .def
        .devices
        .graphics
        .iter()
        .filter(|g| g.kind == GraphicsKind::Vnc);
    let lengths = vnc.filter_map(|g| g.passwd.as_ref()).map(String::len);
    lengths
        .into_iter()
        .find(|n| *n > VNC_PASSWORD)
        .map_or(Ok(()), |n| {
            Err(Error::unsupported(format!(
                "VNC password is {n} characters long, only {VNC_PASSWORD} permitted"
            )))
        })
}

pub(super) fn addresses(guest: &Guest<'_>) -> Result<()> {
    let ramfb =
        |v: &domxml::devices::Video| v.model.as_ref().is_some_and(|m| m.kind == VideoModelKind::Ramfb);
    if guest
        .def
        .devices
        .videos
        .iter()
        .any(|v| ramfb(v) && v.info.address.is_some())
    {
        return Err(Error::conflicting("address not supported for video type ramfb"));
    }
    Ok(())
}

/// What each display needs of QEMU.
const GRAPHICS: &[(GraphicsKind, Flag)] = &[
    (GraphicsKind::Sdl, Flag::Sdl),
    (GraphicsKind::Vnc, Flag::Vnc),
    (GraphicsKind::Spice, Flag::Spice),
    (GraphicsKind::EglHeadless, Flag::EglHeadless),
    (GraphicsKind::Dbus, Flag::DisplayDbus),
];

pub(super) fn graphics(guest: &Guest<'_>) -> Result<()> {
    let kinds = guest.def.devices.graphics.iter().map(|g| g.kind);
    let lacks = |kind: &GraphicsKind| {
        GRAPHICS
            .iter()
            .find(|(k, _)| k == kind)
            .is_none_or(|(_, flag)| !guest.caps.has(*flag))
    };
    kinds.into_iter().find(lacks).map_or(Ok(()), |kind| {
        Err(Error::unsupported(format!(
            "{} graphics are not supported with this QEMU",
            kind.as_str()
        )))
    })
}
