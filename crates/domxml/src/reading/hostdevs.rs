//! `<hostdev>`, and the host's device behind an interface.
// table: one line a rule, in the order in which libvirt reads

use xmlform::Node;

use super::devices::usb_is_on;
use super::form::Form;
use super::info::{PCI_ADDRESS, ROM_INFO};
use super::rule::{
    Checked, Rule, Rules, When, attr, check, domain, filled, given, named, on, told, word, yes,
};
use super::storage::{AUTH, HOST};
use crate::Error;
use crate::devices as model;
use Rule::{Check, Child, Each, If, Need, Part};

/// `<hostdev>`.
pub(super) const HOSTDEV: Rules = &[
    word("mode", model::HostdevMode::WORDS),
    If(
        When::Usual("mode", &["subsystem"]),
        &[
            word("type", &["usb", "pci", "scsi", "scsi_host", "mdev"]).needed(),
            Part(SUBSYSTEM),
        ],
    ),
    If(When::Is("mode", &["capabilities"]), CAPABILITIES),
    Part(ROM_INFO),
    If(
        When::Is("type", &["usb"]),
        &[Check(|node| {
            usb_is_on(node, "Can't add host USB device: USB is disabled in this host")
        })],
    ),
    Child("teaming", super::interfaces::TEAMING),
];

const SUBSYSTEM: Rules = &[
    Need(
        "source",
        domain("XML error: Missing <source> element in hostdev device"),
        &[],
    ),
    If(
        When::Case(|node| node.attr("type") != Some("usb")),
        &[Child(
            "source",
            &[Check(|node| match node.attr("startupPolicy") {
                Some(_) => {
                    let said =
                        "unsupported configuration: Setting startupPolicy is only allowed for USB devices";
                    Err(domain(said).of(""))
                }
                None => Ok(()),
            })],
        )],
    ),
    word("sgio", model::SgIo::WORDS),
    Check(|node| only_scsi(node, "sgio")),
    yes("rawio"),
    Check(|node| only_scsi(node, "rawio")),
    Check(model_fits),
    If(
        When::Is("type", &["scsi_host"]),
        &[word(
            "model",
            &[
                "default",
                "virtio",
                "virtio-transitional",
                "virtio-non-transitional",
            ],
        )],
    ),
    If(
        When::Is("type", &["mdev"]),
        &[
            word("model", &["vfio-pci", "vfio-ccw", "vfio-ap"]).needed(),
            on("display"),
            on("ramfb"),
        ],
    ),
    If(When::Is("type", &["pci"]), &[on("display"), on("ramfb")]),
    If(When::Is("type", &["pci"]), PCI),
    If(When::Is("type", &["usb"]), &[Child("source", USB)]),
    If(When::Is("type", &["scsi"]), &[Child("source", SCSI)]),
    If(When::Is("type", &["scsi_host"]), &[Child("source", VHOST)]),
    If(When::Is("type", &["mdev"]), &[Child("source", MDEV)]),
];

fn only_scsi(node: Node<'_>, name: &str) -> Checked {
    match node.attr(name).is_some() && node.attr("type") != Some("scsi") {
        true => Err(Error::xml(format!(
            "{name} is only supported for scsi host device"
        ))),
        false => Ok(()),
    }
}

fn model_fits(node: Node<'_>) -> Checked {
    let kind = node.attr("type").unwrap_or_default();
    match node.attr("model").is_some() && !matches!(kind, "mdev" | "scsi_host") {
        true => {
            let said = domain("XML error: 'model' attribute in <hostdev> is only supported when type='{}'");
            Err(said.of(kind))
        }
        false => Ok(()),
    }
}

const PCI: Rules = &[
    Child("source", &[yes("writeFiltering"), Child("address", PCI_ADDRESS)]),
    Child("driver", &[word("name", model::HostdevDriverName::WORDS)]),
];

const USB: Rules = &[
    word("startupPolicy", model::StartupPolicy::WORDS),
    yes("autoAddress"),
    word("guestReset", model::GuestReset::WORDS),
    Child(
        "vendor",
        &[
            attr("id", Form::U32(0)).needed().positive(),
            Check(|node| beside(node, "product", "internal error: missing product")),
        ],
    ),
    Child(
        "product",
        &[
            attr("id", Form::U32(0)).needed(),
            Check(|node| beside(node, "vendor", "internal error: missing vendor")),
        ],
    ),
    Child(
        "address",
        &[
            attr("bus", Form::U32(0)).needed(),
            attr("device", Form::U32(0)).needed(),
        ],
    ),
];

fn beside(node: Node<'_>, name: &str, said: &'static str) -> Checked {
    match node.parent().and_then(|p| p.child(name)) {
        Some(_) => Ok(()),
        None => Err(domain(said).of("")),
    }
}

const SCSI: Rules = &[
    word("protocol", &["adapter", "iscsi"]),
    If(
        When::Usual("protocol", &["adapter"]),
        &[
            Need(
                "address",
                domain("XML error: 'address' must be specified for scsi hostdev source"),
                &[
                    attr("bus", Form::U32(0)).needed(),
                    attr("target", Form::U32(0)).needed(),
                    attr("unit", Form::U64(0)).needed(),
                ],
            ),
            Need(
                "adapter",
                domain("XML error: 'adapter' name must be specified for scsi hostdev source"),
                &[filled(
                    "name",
                    domain("XML error: 'adapter' name must be specified for scsi hostdev source"),
                )],
            ),
        ],
    ),
    If(When::Is("protocol", &["iscsi"]), ISCSI),
];

const ISCSI: Rules = &[
    named(
        "name",
        domain("XML error: missing iSCSI hostdev source path name"),
    ),
    Each("host", HOST),
    Check(|node| match node.children_named("host").count() {
        1 => Ok(()),
        0 => Err(domain("XML error: missing the host address for the iSCSI hostdev").of("")),
        _ => {
            let said = "XML error: only one source host address may be specified for the iSCSI hostdev";
            Err(domain(said).of(""))
        }
    }),
    Child("auth", &[Part(AUTH), Child("secret", &[Check(iscsi_secret)])]),
];

fn iscsi_secret(node: Node<'_>) -> Checked {
    let kind = node.attr("type").unwrap_or("(null)");
    match kind {
        "iscsi" => Ok(()),
        "none" | "volume" | "ceph" | "tls" | "vtpm" => {
            Err(domain("internal error: hostdev invalid secret type '{}'").of(kind))
        }
        _ => Err(domain("unsupported configuration: invalid secret type {}").of(kind)),
    }
}

/// Digits behind `naa.`.
const WWPN_DIGITS: usize = 16;

const VHOST: Rules = &[
    word("protocol", &["vhost"]).needed(),
    named(
        "wwpn",
        domain("XML error: missing vhost-scsi hostdev source wwpn"),
    ),
    given(
        "wwpn",
        Form::Like(|name| {
            let digits = name.strip_prefix("naa.").unwrap_or_default();
            digits.len() == WWPN_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
        }),
        domain("XML error: malformed 'wwpn' value"),
    ),
];

const MDEV: Rules = &[Need(
    "address",
    domain("unsupported configuration: Missing <address> element"),
    &[
        named(
            "uuid",
            domain("unsupported configuration: Missing 'uuid' attribute for element <address>"),
        ),
        given(
            "uuid",
            Form::Uuid,
            domain("internal error: Cannot parse uuid attribute of element <address>"),
        ),
    ],
)];

const CAPABILITIES: Rules = &[
    word("type", &["storage", "misc", "net"]).needed(),
    Need(
        "source",
        domain("XML error: Missing <source> element in hostdev device"),
        &[],
    ),
    If(
        When::Is("type", &["storage"]),
        &[Child(
            "source",
            &[told(
                "block",
                domain("XML error: Missing <block> element in hostdev storage device"),
            )],
        )],
    ),
    If(
        When::Is("type", &["misc"]),
        &[Child(
            "source",
            &[told(
                "char",
                domain("XML error: Missing <char> element in hostdev character device"),
            )],
        )],
    ),
    If(
        When::Is("type", &["net"]),
        &[
            Child(
                "source",
                &[told(
                    "interface",
                    domain("XML error: Missing <interface> element in hostdev net device"),
                )],
            ),
            Each(
                "route",
                &[
                    Part(super::interfaces::ROUTE),
                    Check(|node| super::interfaces::route(node, "Domain hostdev device")),
                ],
            ),
        ],
    ),
];

/// The host's device behind an interface.
pub(super) const OF_INTERFACE: Rules = &[Check(of_interface)];

fn of_interface(node: Node<'_>) -> Checked {
    let source = node.child("source");
    let address = source.and_then(|s| s.child("address"));
    let usb = source.is_some_and(|s| s.child("vendor").is_some());
    let kind = match address.and_then(|a| a.attr("type")) {
        None if usb => "usb",
        Some(kind) if ["usb", "pci", "scsi", "scsi_host", "mdev"].contains(&kind) => kind,
        other => {
            let said = domain("unsupported configuration: unknown host device source address type '{}'");
            return Err(said.of(other.filter(|kind| !kind.is_empty()).unwrap_or("(null)")));
        }
    };
    match kind {
        "pci" => check(node, PCI),
        "usb" => check(node, &[Child("source", USB)]),
        _ => Ok(()),
    }
}
