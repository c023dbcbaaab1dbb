//! Display adapters and displays.

use domxml::devices::{GraphicsKind, VideoBackend, VideoModelKind, YesNo};

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
    let own = |v: &&domxml::devices::Video| {
        v.driver.as_ref().and_then(|d| d.name) != Some(VideoBackend::Vhostuser)
    };
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

pub(super) fn addresses(guest: &Guest<'_>) -> Result<()> {
    let ramfb = |v: &domxml::devices::Video| {
        v.model
            .as_ref()
            .is_some_and(|m| m.kind == VideoModelKind::Ramfb)
    };
    if guest
        .def
        .devices
        .videos
        .iter()
        .any(|v| ramfb(v) && v.info.address.is_some())
    {
        return Err(Error::conflicting(
            "address not supported for video type ramfb",
        ));
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
