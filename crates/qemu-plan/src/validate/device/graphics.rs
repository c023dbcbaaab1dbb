//! Displays, and the audio that goes with them.

use domxml::devices::{
    Audio, AudioKind, CodecKind, Graphics, GraphicsKind, Listen, ListenKind, Sound, SoundModel, YesNo,
};

use super::super::Guest;
use super::super::rule::{check, rules};
use crate::caps::Flag;
use crate::error::Result;

/// What each display needs of QEMU; those not named need something else.
// table
const DISPLAYS: &[(GraphicsKind, Flag)] = &[
    (GraphicsKind::Sdl, Flag::Sdl),
    (GraphicsKind::Vnc, Flag::Vnc),
    (GraphicsKind::Spice, Flag::Spice),
    (GraphicsKind::EglHeadless, Flag::EglHeadless),
    (GraphicsKind::Dbus, Flag::DisplayDbus),
];

/// Longest password that VNC knows, bytes.
const VNC_PASSWORD: usize = 8;

/// What no hypervisor takes.
pub(super) fn generic(guest: &Guest<'_>, display: &Graphics) -> Result<()> {
    check(GENERIC, guest, display)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, display: &Graphics) -> Result<()> {
    check(QEMU, guest, display)
}

pub(super) fn audio_generic(guest: &Guest<'_>, audio: &Audio) -> Result<()> {
    check(AUDIO_GENERIC, guest, audio)
}

pub(super) fn audio_qemu(guest: &Guest<'_>, audio: &Audio) -> Result<()> {
    check(AUDIO_QEMU, guest, audio)
}

pub(super) fn sound_generic(guest: &Guest<'_>, sound: &Sound) -> Result<()> {
    check(SOUND_GENERIC, guest, sound)
}

pub(super) fn sound_qemu(guest: &Guest<'_>, sound: &Sound) -> Result<()> {
    check(SOUND_QEMU, guest, sound)
}

rules! {
    /// What no hypervisor takes.
    GENERIC(guest, display: Graphics) {
        xml "'network' attribute is required for listen type 'network'"
            if listens(display).iter().any(|l| l.kind == ListenKind::Network && l.network.is_none());
        conflicting "listen type 'socket' is not available for graphics type '{}'" (display.kind.as_str())
            if display.kind == GraphicsKind::Rdp
                && listens(display).iter().any(|l| l.kind == ListenKind::Socket);
        conflicting "listen type 'none' is not available for graphics type '{}'" (display.kind.as_str())
            if display.kind == GraphicsKind::Rdp
                && listens(display).iter().any(|l| l.kind == ListenKind::None);
        xml "no audio device with ID {}" (display.audio.unwrap_or_default())
            if display.kind == GraphicsKind::Vnc && unknown(guest, display.audio);
        xml "D-Bus p2p with an address is not supported"
            if display.kind == GraphicsKind::Dbus && display.p2p == Some(YesNo::Yes)
                && display.address.is_some();
    }
}

rules! {
    /// What QEMU does not take.
    QEMU(guest, display: Graphics) {
        unsupported "{} graphics are not supported with this QEMU" (display.kind.as_str())
            if !DISPLAYS.iter().any(|(k, flag)| *k == display.kind && guest.caps.has(*flag));
        unsupported "graphics type 'egl-headless' is only supported with one of: 'vnc', 'spice' graphics types"
            if headless(guest) && !matches!(display.kind, GraphicsKind::EglHeadless | GraphicsKind::Vnc | GraphicsKind::Spice);
        unsupported "multiple OpenGL displays are not supported by QEMU"
            if headless(guest) && display.kind == GraphicsKind::Spice && renders(display);
        unsupported "This QEMU doesn't support OpenGL rendernode with egl-headless graphics type"
            if display.kind == GraphicsKind::EglHeadless && render_node(display)
                && !guest.caps.has(Flag::EglHeadlessRendernode);
        unsupported "This QEMU doesn't support spice OpenGL"
            if display.kind == GraphicsKind::Spice && renders(display) && !guest.caps.has(Flag::SpiceGl);
        unsupported "This QEMU doesn't support spice OpenGL rendernode"
            if display.kind == GraphicsKind::Spice && renders(display) && render_node(display)
                && !guest.caps.has(Flag::SpiceRendernode);
        unsupported "VNC power control is not available"
            if display.kind == GraphicsKind::Vnc && display.power_control.is_some()
                && !guest.caps.has(Flag::VncPowerControl);
        unsupported "VNC password is {} characters long, only {} permitted"
            (display.passwd.as_deref().unwrap_or_default().len(), VNC_PASSWORD)
            if display.kind == GraphicsKind::Vnc
                && display.passwd.as_deref().is_some_and(|p| p.len() > VNC_PASSWORD);
        unsupported "The associated audio is not of 'dbus' kind."
            if display.kind == GraphicsKind::Dbus && display.audio.is_some_and(|id| {
                guest.def.devices.audios.iter().any(|a| a.id == Some(id) && a.kind != AudioKind::Dbus)
            });
        unsupported "RDP doesn't support 'replaceUser'"
            if display.kind == GraphicsKind::Rdp && display.replace_user == Some(YesNo::Yes);
        unsupported "RDP doesn't support 'multiUser'"
            if display.kind == GraphicsKind::Rdp && display.multi_user == Some(YesNo::Yes);
        unsupported "RDP password expiration isn't supported"
            if display.kind == GraphicsKind::Rdp && display.passwd_valid_to.is_some();
    }
}

rules! {
    /// One number, one device.
    AUDIO_GENERIC(guest, audio: Audio) {
        xml "audio ID {} is used multiple times" (audio.id.unwrap_or_default())
            if guest.def.devices.audios.iter().filter(|a| a.id == audio.id).count() > 1;
    }
}

rules! {
    /// Audio that a display carries.
    AUDIO_QEMU(guest, audio: Audio) {
        unsupported "Spice audio is not supported without spice graphics"
            if audio.kind == AudioKind::Spice
                && !guest.def.devices.graphics.iter().any(|g| g.kind == GraphicsKind::Spice);
        unsupported "D-Bus audio is not supported with this QEMU"
            if audio.kind == AudioKind::Dbus && !guest.caps.has(Flag::DisplayDbus);
    }
}

rules! {
    /// A sound card plays on something.
    SOUND_GENERIC(guest, sound: Sound) {
        xml "no audio device with ID {}" (sound.audio.unwrap_or_default()) if unknown(guest, sound.audio);
    }
}

rules! {
    /// Sound cards that this QEMU has not.
    SOUND_QEMU(guest, sound: Sound) {
        internal_qemu "sound card model '{}' is not supported by qemu" (sound.model.as_str())
            if sound.model == SoundModel::Ich7;
        unsupported "usb-audio controller is not supported by this QEMU binary"
            if sound.model == SoundModel::Usb && !guest.caps.has(Flag::UsbAudio);
        unsupported "The ich9-intel-hda audio controller is not supported in this QEMU binary"
            if sound.model == SoundModel::Ich9 && !guest.caps.has(Flag::Ich9IntelHda);
        unsupported "virtio-sound controller is not supported in this QEMU binary"
            if sound.model == SoundModel::Virtio && !guest.caps.has(Flag::VirtioSound);
        unsupported "{} not supported in this QEMU binary" (missing_codec(guest, sound).unwrap_or_default())
            if missing_codec(guest, sound).is_some();
    }
}

fn listens(display: &Graphics) -> &[Listen] {
    match display.kind {
        GraphicsKind::Vnc | GraphicsKind::Spice | GraphicsKind::Rdp => &display.listens,
        _ => &[],
    }
}

fn unknown(guest: &Guest<'_>, audio: Option<u32>) -> bool {
    audio.is_some_and(|id| id > 0 && !guest.def.devices.audios.iter().any(|a| a.id == Some(id)))
}

fn headless(guest: &Guest<'_>) -> bool {
    guest
        .def
        .devices
        .graphics
        .iter()
        .any(|g| g.kind == GraphicsKind::EglHeadless)
}

fn renders(display: &Graphics) -> bool {
    display
        .gl
        .as_ref()
        .is_some_and(|gl| gl.enable == Some(YesNo::Yes))
}

fn render_node(display: &Graphics) -> bool {
    display.gl.as_ref().is_some_and(|gl| gl.rendernode.is_some())
}

fn missing_codec(guest: &Guest<'_>, sound: &Sound) -> Option<&'static str> {
    const CODECS: &[(CodecKind, Flag, &str)] = &[
        (CodecKind::Duplex, Flag::HdaDuplex, "hda-duplex"),
        (CodecKind::Micro, Flag::HdaMicro, "hda-micro"),
        (CodecKind::Output, Flag::HdaOutput, "hda-output"),
    ];
    if !matches!(sound.model, SoundModel::Ich6 | SoundModel::Ich9) {
        return None;
    }
    let wanted = |kind: CodecKind| sound.codecs.iter().any(|c| c.kind == kind);
    let lacks = |(kind, flag, _): &&(CodecKind, Flag, &str)| wanted(*kind) && !guest.caps.has(*flag);
    CODECS.iter().find(lacks).map(|(.., name)| *name)
}
