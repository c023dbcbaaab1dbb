//! What the guest shows and plays: `<graphics>`, `<video>`, `<sound>`, `<audio>`.
// table: one line a rule, in the order in which libvirt reads

use xmlform::Node;

use super::form::Form;
use super::info::INFO;
use super::rule::{Checked, Rule, Rules, When, attr, domain, given, number, on, word, yes};
use super::storage::VIRTIO;
use crate::Error;
use crate::devices as model;
use Rule::{Check, Child, Each, If, Part};

/// `<graphics>`.
pub(super) const GRAPHICS: Rules = &[
    word("type", model::GraphicsKind::WORDS).needed(),
    If(
        LISTENING,
        &[
            Each("listen", &[word("type", model::ListenKind::WORDS).needed()]),
            Check(listens),
        ],
    ),
    If(When::Is("type", &["vnc"]), VNC),
    If(When::Is("type", &["sdl"]), &[yes("fullscreen"), Child("gl", GL)]),
    If(
        When::Is("type", &["rdp"]),
        &[
            given(
                "port",
                Form::I32(10),
                domain("internal error: cannot parse rdp port {}"),
            ),
            Part(PASSWORD),
        ],
    ),
    If(When::Is("type", &["desktop"]), &[yes("fullscreen")]),
    If(When::Is("type", &["spice"]), SPICE),
    If(
        When::Is("type", &["dbus"]),
        &[yes("p2p"), Child("gl", GL), Child("audio", AUDIO_ID)],
    ),
];

const LISTENING: When = When::Is("type", &["vnc", "spice", "rdp"]);

fn listens(node: Node<'_>) -> Checked {
    for (at, listen) in node.children_named("listen").enumerate() {
        let kind = listen.attr("type").unwrap_or_default();
        let value = |name| listen.attr(name).filter(|v| !v.is_empty());
        if at == 0 {
            let same = |name, of: &str| {
                let (outer, inner) = (node.attr(of)?, listen.attr(name)?);
                (outer != inner).then_some((outer, inner))
            };
            let clash = match kind {
                "address" => same("address", "listen").map(|(o, i)| ("listen", "address", o, i)),
                "socket" => same("socket", "socket").map(|(o, i)| ("socket", "socket", o, i)),
                _ => None,
            };
            if let Some((outer_name, name, outer, inner)) = clash {
                return Err(Error::unsupported(format!(
                    "graphics '{outer_name}' attribute '{outer}' must match '{name}' attribute of first listen element \
                     (found '{inner}')"
                )));
            }
        }
        for name in ["network", "socket"] {
            if value(name).is_some() && kind != name {
                return Err(Error::xml(format!(
                    "'{name}' attribute is valid only for listen type '{name}'"
                )));
            }
        }
    }
    Ok(())
}

const PASSWORD: Rules = &[If(
    When::Given("passwd"),
    &[
        given(
            "passwdValidTo",
            Form::Like(is_time),
            domain("internal error: cannot parse password validity time '{}', expect YYYY-MM-DDTHH:MM:SS"),
        ),
        given(
            "connected",
            Form::Word(model::OnPasswordChange::WORDS),
            domain("unsupported configuration: unknown connected value {}"),
        ),
    ],
)];

/// Whether it is a time: six numbers of any width with their marks between them.
fn is_time(time: &str) -> bool {
    let mut rest = time;
    for mark in ['-', '-', 'T', ':', ':'] {
        match rest.split_once(mark) {
            Some((number, after)) if is_digits(number) => rest = after,
            _ => return false,
        }
    }
    is_digits(rest)
}

fn is_digits(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

const VNC: Rules = &[
    given(
        "port",
        Form::I32(10),
        domain("internal error: cannot parse vnc port {}"),
    ),
    attr("websocket", Form::I32(10)),
    word(
        "sharePolicy",
        &["default", "allow-exclusive", "force-shared", "ignore"],
    ),
    yes("powerControl"),
    Child("audio", AUDIO_ID),
    Part(PASSWORD),
    If(
        When::Given("passwd"),
        &[given(
            "connected",
            Form::Word(&["keep"]),
            domain("unsupported configuration: VNC supports connected='keep' only"),
        )],
    ),
];

const AUDIO_ID: Rules = &[number("id").needed().positive()];
const GL: Rules = &[yes("enable").needed()];

const SPICE: Rules = &[
    attr("port", Form::I32(10)),
    attr("tlsPort", Form::I32(10)),
    yes("autoport"),
    word("defaultMode", model::SpiceChannelMode::WORDS),
    Part(PASSWORD),
    Part(SPICE_OPTIONS),
];

/// Options of SPICE: each once, whatever their order in the document.
const SPICE_OPTIONS: Rules = &[
    Each(
        "channel",
        &[
            word("name", model::SpiceChannelName::WORDS).needed(),
            word("mode", model::SpiceChannelMode::WORDS).needed(),
        ],
    ),
    Child(
        "image",
        &[word("compression", model::ImageCompression::WORDS).needed()],
    ),
    Child(
        "jpeg",
        &[word("compression", model::WanCompression::WORDS).needed()],
    ),
    Child(
        "zlib",
        &[word("compression", model::WanCompression::WORDS).needed()],
    ),
    Child("playback", &[on("compression").needed()]),
    Child("streaming", &[word("mode", model::StreamingMode::WORDS).needed()]),
    Child("clipboard", &[yes("copypaste").needed()]),
    Child("filetransfer", &[yes("enable").needed()]),
    Child("gl", GL),
    Child("mouse", &[word("mode", model::MouseMode::WORDS).needed()]),
];

/// `<sound>`.
pub(super) const SOUND: Rules = &[
    Child("driver", VIRTIO),
    word("model", model::SoundModel::WORDS).needed(),
    If(
        When::Is("model", &["ich6", "ich9"]),
        &[Each("codec", &[Check(codec)])],
    ),
    If(When::Is("model", &["usb"]), &[yes("multichannel")]),
    If(When::Is("model", &["virtio"]), &[number("streams").positive()]),
    Child("audio", AUDIO_ID),
    Part(INFO),
];

fn codec(node: Node<'_>) -> Checked {
    let kind = node.attr("type");
    match kind.is_some_and(|kind| model::CodecKind::WORDS.contains(&kind)) {
        true => Ok(()),
        false => {
            let said = domain("unsupported configuration: unknown codec type '{}'");
            Err(said.of(kind.unwrap_or("(null)")))
        }
    }
}

/// `<audio>`.
pub(super) const AUDIO: Rules = &[
    word("type", model::AudioKind::WORDS).needed(),
    number("id").needed().positive(),
    number("timerPeriod").positive(),
    Child("input", STREAM),
    Child("output", STREAM),
    If(
        When::Is("type", &["coreaudio"]),
        &streams(&[number("bufferCount")]),
    ),
    If(When::Is("type", &["jack"]), &streams(&[yes("exactName")])),
    If(
        When::Is("type", &["oss"]),
        &[
            yes("tryMMap"),
            yes("exclusive"),
            attr("dspPolicy", Form::I32(10)),
            given(
                "dspPolicy",
                Form::Like(|policy| !policy.trim_start().starts_with('-')),
                domain("XML error: cannot parse 'dspPolicy' value '{}'"),
            ),
            Part(&streams(&[yes("tryPoll"), number("bufferCount")])),
        ],
    ),
    If(When::Is("type", &["pulseaudio"]), &streams(&[number("latency")])),
    If(
        When::Is("type", &["sdl"]),
        &[
            word("driver", model::SdlAudioDriver::WORDS),
            Part(&streams(&[number("bufferCount")])),
        ],
    ),
    If(
        When::Is("type", &["pipewire"]),
        &streams(&[number("latency").positive()]),
    ),
];

/// Rules of both directions.
const fn streams(rules: Rules) -> [Rule; 2] {
    [Child("input", rules), Child("output", rules)]
}

const STREAM: Rules = &[
    yes("mixingEngine"),
    yes("fixedSettings"),
    If(
        When::Is("fixedSettings", &["yes"]),
        &[Check(|node| match node.attr("mixingEngine") {
            Some("yes") => Ok(()),
            _ => {
                let said = "unsupported configuration: fixed audio settings requires mixing engine";
                Err(domain(said).of(""))
            }
        })],
    ),
    number("voices").positive(),
    number("bufferLength").positive(),
    Check(
        |node| match node.child("settings").is_some() && node.attr("fixedSettings") != Some("yes") {
            true => {
                let said = "unsupported configuration: audio settings specified without fixed settings flag";
                Err(domain(said).of(""))
            }
            false => Ok(()),
        },
    ),
    Child(
        "settings",
        &[
            number("frequency").positive(),
            number("channels").positive(),
            word("format", model::SampleFormat::WORDS),
        ],
    ),
];

/// `<video>`.
pub(super) const VIDEO: Rules = &[
    Child(
        "model",
        &[
            Child(
                "acceleration",
                &[
                    yes("accel3d"),
                    yes("accel2d"),
                    Check(|node| {
                        let any = ["rendernode", "accel3d", "accel2d"]
                            .iter()
                            .any(|n| node.attr(n).is_some());
                        match any {
                            true => Ok(()),
                            false => {
                                let said = "unsupported configuration: missing values for acceleration";
                                Err(domain(said).of(""))
                            }
                        }
                    }),
                ],
            ),
            Child("resolution", &[number("x").needed(), number("y").needed()]),
            word("type", model::VideoModelKind::WORDS),
            number("ram"),
            number("vram"),
            number("vram64"),
            number("vgamem"),
            number("heads"),
            on("blob"),
        ],
    ),
    Child("driver", &[word("name", &["qemu", "vhostuser"]), Part(VIRTIO)]),
    Part(INFO),
];
