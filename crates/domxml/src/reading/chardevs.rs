//! Character devices: `<serial>`, `<parallel>`, `<console>`, `<channel>`, `<smartcard>`, `<redirdev>`, and the host's side
//! that they share.
// table: one line a rule, in the order in which libvirt reads

use std::net::IpAddr;

use xmlform::{Area, Node};

use super::form::Form;
use super::info::{BOOT_INFO, INFO, USB_ADDRESS_ONLY};
use super::rule::{
    Checked, Rule, Rules, When, Words, domain, given, maybe, named, number, of, on, text, word, yes,
};
use super::storage::{RECONNECT, SECLABELS};
use crate::devices as model;
use crate::{Error, Kind};
use Rule::{Check, Child, Each, If, Most, Part};

/// Kinds of the host's side.
pub(super) const KINDS: &[&str] = model::ChardevKind::WORDS;

/// The host's side, of an element that says its type.
pub(super) const SOURCES: Rules = &[
    Check(|node| {
        let udp = node.attr("type") == Some("udp");
        let most = if udp { 2 } else { 1 };
        match node.children_named("source").nth(most) {
            None => Ok(()),
            Some(_) if udp => {
                Err(domain("XML error: only two source elements are allowed for character device").of(""))
            }
            Some(_) => {
                Err(domain("XML error: only one source element is allowed for character device").of(""))
            }
        }
    }),
    If(When::Is("type", &["file"]), &[Each("source", &[on("append")])]),
    If(
        When::Is("type", &["unix"]),
        &[Each(
            "source",
            &[word("mode", MODES), Child("reconnect", RECONNECT)],
        )],
    ),
    If(
        When::Is("type", &["udp"]),
        &[Each("source", &[word("mode", MODES)])],
    ),
    If(
        When::Is("type", &["tcp"]),
        &[Each(
            "source",
            &[word("mode", MODES), yes("tls"), Child("reconnect", RECONNECT)],
        )],
    ),
    If(
        When::Is("type", &["qemu-vdagent"]),
        &[Each(
            "source",
            &[
                Child("clipboard", &[yes("copypaste").needed()]),
                Child("mouse", &[word("mode", model::MouseMode::WORDS).needed()]),
            ],
        )],
    ),
    If(
        When::Case(|node| ["serial", "parallel", "console", "channel"].contains(&node.name())),
        &[Each("source", SECLABELS)],
    ),
    Most(
        1,
        "log",
        domain("XML error: only one log element is allowed for character device"),
    ),
    Child("log", &[on("append")]),
    Most(
        1,
        "protocol",
        domain("XML error: only one protocol element is allowed for character device"),
    ),
    If(
        When::Is("type", &["tcp"]),
        &[Child("protocol", &[word("type", model::ChardevProtocol::WORDS)])],
    ),
];

/// A socket that says its own type, of an emulator that somebody else runs.
pub(super) const SOCKET: Rules = &[If(
    When::Is("type", &["unix", "udp", "tcp"]),
    &[word("mode", MODES)],
)];

const MODES: &[&str] = model::ChardevMode::WORDS;

const KIND: Rules = &[given(
    "type",
    Form::Word(KINDS),
    domain("unsupported configuration: unknown type presented to host for character device: {}"),
)];

const TARGET_KIND: Words =
    domain("unsupported configuration: unknown target type '{}' specified for character device");

/// `-1` asks for a port to be chosen.
const PORT: Rules = &[given(
    "port",
    Form::Wrapped32,
    domain("XML error: Invalid port number: {}"),
)];

/// What only a channel of kind virtio may be.
fn spicevmc(node: Node<'_>) -> Checked {
    if node.attr("type") != Some("spicevmc") {
        return Ok(());
    }
    let target = node
        .child("target")
        .and_then(|t| t.attr("type"))
        .unwrap_or_default();
    match (node.name(), target) {
        ("channel", "virtio") | ("serial", "usb-serial") | ("console", "xen") => Ok(()),
        _ => {
            let said = "unsupported configuration: spicevmc device type only supports virtio";
            Err(domain(said).of(""))
        }
    }
}

/// `<serial>`.
pub(super) const SERIAL: Rules = &[
    Part(KIND),
    Child(
        "target",
        &[
            given(
                "type",
                Form::Like(|kind| kind == "none" || model::SerialTargetKind::WORDS.contains(&kind)),
                TARGET_KIND,
            ),
            Child(
                "model",
                &[maybe(
                    "name",
                    Form::Like(|name| name == "none" || model::SerialModel::WORDS.contains(&name)),
                    domain(
                        "unsupported configuration: unknown target model '{}' specified for character device",
                    ),
                )],
            ),
            Part(PORT),
        ],
    ),
    Part(SOURCES),
    Check(spicevmc),
    Part(INFO),
    If(
        When::Case(|node| {
            node.child("target")
                .is_some_and(|t| t.attr("type") == Some("usb-serial"))
        }),
        &[Child(
            "address",
            &[given(
                "type",
                Form::Word(&["usb"]),
                domain("unsupported configuration: usb-serial requires address of usb type"),
            )],
        )],
    ),
];

/// `<parallel>`.
pub(super) const PARALLEL: Rules = &[
    Part(KIND),
    Child("target", PORT),
    Part(SOURCES),
    Check(spicevmc),
    Part(INFO),
];

/// `<console>`.
pub(super) const CONSOLE: Rules = &[
    Part(KIND),
    Child(
        "target",
        &[
            given(
                "type",
                Form::Like(|kind| kind == "none" || model::ConsoleTargetKind::WORDS.contains(&kind)),
                TARGET_KIND,
            ),
            Part(PORT),
        ],
    ),
    Part(SOURCES),
    Check(spicevmc),
    Part(INFO),
];

/// `<channel>`.
pub(super) const CHANNEL: Rules = &[
    Part(KIND),
    Check(|node| match node.child("target") {
        Some(_) => Ok(()),
        None => Err(domain("XML error: target type must be specified for channel device").of("")),
    }),
    Child(
        "target",
        &[
            named("type", TARGET_KIND),
            given(
                "type",
                Form::Like(|kind| kind == "none" || model::ChannelTargetKind::WORDS.contains(&kind)),
                TARGET_KIND,
            ),
            If(
                When::Is("type", &["guestfwd"]),
                &[Check(forwarded), number("port").needed()],
            ),
        ],
    ),
    Part(SOURCES),
    Check(spicevmc),
    Part(INFO),
];

fn forwarded(target: Node<'_>) -> Checked {
    let Some(address) = target.attr("address") else {
        return Err(domain("XML error: guestfwd channel does not define a target address").of(""));
    };
    match crate::inet::numeric_address(address) {
        Some(IpAddr::V4(_)) => Ok(()),
        Some(IpAddr::V6(_)) => {
            let said = "unsupported configuration: guestfwd channel only supports IPv4 addresses";
            Err(domain(said).of(""))
        }
        None => {
            let said = format!("Cannot parse socket address '{address}': Name or service not known");
            Err(Error::new(Kind::System, said).in_area(Area::None))
        }
    }
}

/// Certificates that a smart card of the host's database has.
const CERTIFICATES: usize = 3;

/// `<smartcard>`.
pub(super) const SMARTCARD: Rules = &[
    word("mode", model::SmartcardMode::WORDS).needed(),
    If(
        When::Is("mode", &["host-certificates"]),
        &[
            Check(|node| match node.children_named("certificate").count() {
                CERTIFICATES => Ok(()),
                _ => Err(domain("XML error: host-certificates mode needs exactly three certificates").of("")),
            }),
            Check(
                |node| match node.child("database").is_some_and(|d| d.text().is_empty()) {
                    true => {
                        let said = "internal error: <database> of a smartcard must not be empty";
                        Err(of(Area::None, said).of(""))
                    }
                    false => Ok(()),
                },
            ),
            text(
                "database",
                Form::Like(|path| path.starts_with('/')),
                domain("XML error: expecting absolute path: {}"),
            ),
        ],
    ),
    If(
        When::Is("mode", &["passthrough"]),
        &[
            named(
                "type",
                domain("XML error: passthrough mode requires a character device type attribute"),
            ),
            Part(KIND),
            Part(SOURCES),
        ],
    ),
    Part(INFO),
];

/// `<redirdev>`.
pub(super) const REDIRDEV: Rules = &[
    given(
        "bus",
        Form::Word(&["usb"]),
        domain("unsupported configuration: unknown redirdev bus '{}'"),
    ),
    named("type", domain("internal error: missing type in redirdev")),
    given(
        "type",
        Form::Word(KINDS),
        domain("unsupported configuration: unknown redirdev character device type '{}'"),
    ),
    Part(SOURCES),
    Part(BOOT_INFO),
    Part(USB_ADDRESS_ONLY),
];
