//! `<sound>`, the card the guest sees, and `<audio>`, where the sound goes.

use xmlform::Xml;

use super::common::{VirtioDriver, YesNo, words};
use super::info::DeviceInfo;

words! {
    /// Sound card.
    SoundModel {
        Sb16 "sb16", Es1370 "es1370", Pcspk "pcspk", Ac97 "ac97", Ich6 "ich6", Ich9 "ich9",
        Usb "usb", Ich7 "ich7", Virtio "virtio",
    }
    /// Codec of an HDA card.
    CodecKind { Duplex "duplex", Micro "micro", Output "output" }
    /// Audio back end.
    AudioKind {
        None "none", Alsa "alsa", Coreaudio "coreaudio", Jack "jack", Oss "oss",
        Pulseaudio "pulseaudio", Sdl "sdl", Spice "spice", File "file", Dbus "dbus",
        Pipewire "pipewire",
    }
    /// Driver below SDL.
    SdlAudioDriver { Esd "esd", Alsa "alsa", Arts "arts", Pulseaudio "pulseaudio" }
    /// Sample format.
    SampleFormat {
        S8 "s8", U8 "u8", S16 "s16", U16 "u16", S32 "s32", U32 "u32", F32 "f32",
    }
}

/// A sound card.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Sound {
    #[xml(attr)]
    pub model: SoundModel,
    #[xml(attr)]
    pub multichannel: Option<YesNo>,
    /// Streams of a virtio card.
    #[xml(attr)]
    pub streams: Option<u32>,
    #[xml(children = "codec")]
    pub codecs: Vec<Codec>,
    /// Audio device the card plays on.
    #[xml(attr = "id", wrap = "audio")]
    pub audio: Option<u32>,
    #[xml(flatten)]
    pub info: DeviceInfo,
    #[xml(child)]
    pub driver: Option<VirtioDriver>,
}

/// `<codec>`.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Codec {
    #[xml(attr = "type")]
    pub kind: CodecKind,
}

/// An audio back end. Which fields count follows from [`AudioKind`].
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Audio {
    /// Number, from 1; chosen when absent.
    #[xml(attr)]
    pub id: Option<u32>,
    #[xml(attr = "type")]
    pub kind: AudioKind,
    /// Microseconds.
    #[xml(attr = "timerPeriod")]
    pub timer_period: Option<u32>,
    #[xml(attr = "serverName")]
    pub server_name: Option<String>,
    #[xml(attr = "runtimeDir")]
    pub runtime_dir: Option<String>,
    #[xml(attr)]
    pub path: Option<String>,
    #[xml(attr = "tryMMap")]
    pub try_mmap: Option<YesNo>,
    #[xml(attr)]
    pub exclusive: Option<YesNo>,
    #[xml(attr = "dspPolicy")]
    pub dsp_policy: Option<i32>,
    #[xml(attr)]
    pub driver: Option<SdlAudioDriver>,
    #[xml(child)]
    pub input: Option<AudioStream>,
    #[xml(child)]
    pub output: Option<AudioStream>,
}

/// One direction of an audio back end.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct AudioStream {
    #[xml(attr = "mixingEngine")]
    pub mixing_engine: Option<YesNo>,
    #[xml(attr = "fixedSettings")]
    pub fixed_settings: Option<YesNo>,
    #[xml(attr)]
    pub voices: Option<u32>,
    /// Microseconds.
    #[xml(attr = "bufferLength")]
    pub buffer_length: Option<u32>,
    #[xml(attr)]
    pub dev: Option<String>,
    #[xml(attr)]
    pub name: Option<String>,
    #[xml(attr = "streamName")]
    pub stream_name: Option<String>,
    /// Microseconds.
    #[xml(attr)]
    pub latency: Option<u32>,
    #[xml(attr = "serverName")]
    pub server_name: Option<String>,
    #[xml(attr = "clientName")]
    pub client_name: Option<String>,
    #[xml(attr = "connectPorts")]
    pub connect_ports: Option<String>,
    #[xml(attr = "exactName")]
    pub exact_name: Option<YesNo>,
    #[xml(attr = "bufferCount")]
    pub buffer_count: Option<u32>,
    #[xml(attr = "tryPoll")]
    pub try_poll: Option<YesNo>,
    #[xml(child, keep_empty)]
    pub settings: Option<AudioSettings>,
}

/// Fixed settings of a stream.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct AudioSettings {
    /// Hertz.
    #[xml(attr)]
    pub frequency: Option<u32>,
    #[xml(attr)]
    pub channels: Option<u32>,
    #[xml(attr)]
    pub format: Option<SampleFormat>,
}
