//! `<sound>` and `<audio>`: cards the guest sees, and where their sound goes.

use domxml::devices::audio::{Audio, AudioKind, AudioStream, Codec, CodecKind, Sound, SoundModel};
use domxml::devices::common::YesNo;

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::props::Props;
use crate::{Error, Result};

/// Id of an audio device.
pub fn audiodev_id(id: Option<u32>) -> String {
    format!("audio{}", id.unwrap_or(1))
}

/// The audio device of a card or display: the one it names, or the first.
///
/// # Errors
/// When there is none.
pub fn find<'a>(cx: Context<'a>, id: Option<u32>) -> Result<&'a Audio> {
    let audios = &cx.def.devices.audios;
    let found = match id.filter(|id| *id != 0) {
        None => audios.first(),
        Some(id) => audios.iter().find(|audio| audio.id == Some(id)),
    };
    found.ok_or_else(|| match id {
        Some(id) => Error::internal_qemu(format!("unable to find audio backend for sound device '{id}'")),
        None => Error::internal_qemu("no audio backend"),
    })
}

/// QEMU's name of an audio back end.
fn driver(kind: AudioKind) -> &'static str {
    match kind {
        AudioKind::Pulseaudio => "pa",
        AudioKind::File => "wav",
        other => other.as_str(),
    }
}

/// Properties of `-audiodev`.
pub fn audiodev(audio: &Audio) -> Props {
    let mut props = Props::new();
    props
        .set("id", audiodev_id(audio.id))
        .set("driver", driver(audio.kind))
        .opt("timer-period", audio.timer_period.filter(|period| *period != 0));
    match audio.kind {
        AudioKind::Oss => {
            props
                .opt("try-mmap", yes(audio.try_mmap))
                .opt("exclusive", yes(audio.exclusive))
                .opt("dsp-policy", audio.dsp_policy);
        }
        AudioKind::Pulseaudio => {
            props.opt("server", audio.server_name.clone());
        }
        AudioKind::File => {
            props.opt("path", audio.path.clone());
        }
        _ => {}
    }
    for (key, stream) in [("in", &audio.input), ("out", &audio.output)] {
        let stream = stream.as_ref().map(|stream| stream_props(audio.kind, stream));
        props.opt(key, stream.filter(|stream| !stream.is_empty()));
    }
    props
}

fn stream_props(kind: AudioKind, stream: &AudioStream) -> Props {
    let settings = stream.settings.clone().unwrap_or_default();
    let mut props = Props::new();
    props
        .opt("mixing-engine", yes(stream.mixing_engine))
        .opt("fixed-settings", yes(stream.fixed_settings))
        .opt("voices", nonzero(stream.voices))
        .opt("buffer-length", nonzero(stream.buffer_length))
        .opt("frequency", nonzero(settings.frequency))
        .opt("channels", nonzero(settings.channels))
        .opt("format", settings.format.map(|format| format.as_str()));
    match kind {
        AudioKind::Alsa => {
            props.opt("dev", stream.dev.clone());
        }
        AudioKind::Coreaudio | AudioKind::Sdl => {
            props.opt("buffer-count", nonzero(stream.buffer_count));
        }
        AudioKind::Jack => {
            props
                .opt("server-name", stream.server_name.clone())
                .opt("client-name", stream.client_name.clone())
                .opt("connect-ports", stream.connect_ports.clone())
                .opt("exact-name", yes(stream.exact_name));
        }
        AudioKind::Oss => {
            props
                .opt("dev", stream.dev.clone())
                .opt("buffer-count", nonzero(stream.buffer_count))
                .opt("try-poll", yes(stream.try_poll));
        }
        AudioKind::Pulseaudio | AudioKind::Pipewire => {
            props
                .opt("name", stream.name.clone())
                .opt("stream-name", stream.stream_name.clone())
                .opt("latency", nonzero(stream.latency));
        }
        AudioKind::None | AudioKind::Spice | AudioKind::File | AudioKind::Dbus => {}
    }
    props
}

fn yes(value: Option<YesNo>) -> Option<bool> {
    value.map(YesNo::is_yes)
}

fn nonzero(value: Option<u32>) -> Option<u32> {
    value.filter(|value| *value != 0)
}

/// Environment of audio back ends.
pub fn put_env(audio: &Audio, line: &mut CommandLine) {
    match audio.kind {
        AudioKind::Sdl => line.opt_env("SDL_AUDIODRIVER", audio.driver.map(|driver| driver.as_str())),
        AudioKind::Pipewire => line.opt_env("PIPEWIRE_RUNTIME_DIR", audio.runtime_dir.as_deref()),
        _ => {}
    }
}

/// Cards, and QEMU's names of them. `pcspk` is part of the machine.
const CARDS: [(SoundModel, &str); 8] = [
    (SoundModel::Es1370, "ES1370"),
    (SoundModel::Ac97, "AC97"),
    (SoundModel::Sb16, "sb16"),
    (SoundModel::Usb, "usb-audio"),
    (SoundModel::Ich6, "intel-hda"),
    (SoundModel::Ich7, "intel-hda"),
    (SoundModel::Ich9, "ich9-intel-hda"),
    (SoundModel::Virtio, "virtio-sound"),
];

/// Appends a sound card and its codecs.
///
/// # Errors
/// When QEMU has no such card.
pub fn build_sound(cx: Context<'_>, sound: &Sound, line: &mut CommandLine) -> Result<()> {
    let Some(props) = sound_props(cx, sound)? else {
        return Ok(());
    };
    line.device(props);
    for codec in codec_props(cx, sound)? {
        line.device(codec);
    }
    Ok(())
}

/// Front end of a sound card; `None` for the one that is part of the machine.
///
/// # Errors
/// When its audio device or bus is not there.
pub fn sound_props(cx: Context<'_>, sound: &Sound) -> Result<Option<Props>> {
    let Some((_, driver)) = CARDS.into_iter().find(|(model, _)| *model == sound.model) else {
        return Ok(None);
    };
    let mut props = if sound.model == SoundModel::Virtio {
        let options = sound.driver.as_ref().map(|driver| &driver.virtio);
        address::virtio(driver, &sound.info, Virtio::options(options))?
    } else {
        Props::driver(driver)
    };
    props.set("id", alias(&sound.info)?);
    if !has_codecs(sound.model) {
        props.set("audiodev", audiodev_id(find(cx, sound.audio)?.id));
    }
    match sound.model {
        SoundModel::Usb => {
            props.opt("multi", yes(sound.multichannel));
        }
        SoundModel::Virtio => {
            props.opt("streams", nonzero(sound.streams));
        }
        _ => {}
    }
    address::put(cx, &sound.info, &mut props)?;
    Ok(Some(props))
}

fn has_codecs(model: SoundModel) -> bool {
    matches!(model, SoundModel::Ich6 | SoundModel::Ich7 | SoundModel::Ich9)
}

/// Codecs of an HDA card; a card without any gets one.
///
/// # Errors
/// When its audio device is not there.
pub fn codec_props(cx: Context<'_>, sound: &Sound) -> Result<Vec<Props>> {
    if !has_codecs(sound.model) {
        return Ok(Vec::new());
    }
    let default = [Codec {
        kind: CodecKind::Duplex,
    }];
    let codecs = if sound.codecs.is_empty() {
        default.as_slice()
    } else {
        &sound.codecs
    };
    let card = alias(&sound.info)?;
    let audiodev = audiodev_id(find(cx, sound.audio)?.id);
    let codec = |(number, codec): (usize, &Codec)| {
        Props::driver(format!("hda-{}", codec.kind.as_str()))
            .with("id", format!("{card}-codec{number}"))
            .with("bus", format!("{card}.0"))
            .with("cad", number)
            .with("audiodev", audiodev.clone())
    };
    Ok(codecs.iter().enumerate().map(codec).collect())
}
