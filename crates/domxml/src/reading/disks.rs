//! `<disk>` and `<throttlegroups>`.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Node, ParseFlags};

use super::form::Form;
use super::info::BOOT_INFO;
use super::rule::{Checked, Rule, Rules, When, domain, filled, given, maybe, number, on, word, yes};
use super::storage::{self, FORMATS, IOTHREAD_MAP, KINDS, METADATA_CACHE, VIRTIO};
use crate::{Error, tuning::THROTTLES};
use Rule::{Check, Child, Each, If, Need, Part};

/// The numbers of a throttle are numbers.
fn throttle(node: Node<'_>, whose: &str) -> Checked {
    let wrong = |name: &&&str| {
        let value = node.child(name).map_or("", Node::text);
        !value.is_empty() && Form::U64(10).check(value).is_err()
    };
    match THROTTLES.iter().find(wrong) {
        Some(name) => Err(Error::xml(format!("{whose} field '{name}' must be an integer"))),
        None => Ok(()),
    }
}

/// `<throttlegroups>`.
pub(super) const THROTTLE_GROUPS: Rules = &[Rule::Merged(
    "throttlegroups",
    &[
        Each(
            "throttlegroup",
            &[
                Check(|node| throttle(node, "throttle group")),
                super::rule::told("group_name", domain("XML error: missing group name")),
            ],
        ),
        Check(|node| {
            let names = node
                .children_named("throttlegroup")
                .filter_map(|g| g.child("group_name"));
            super::rule::once(
                names.map(Node::text),
                domain("XML error: duplicate group name '{}' found"),
            )
        }),
    ],
)];

/// `<disk>`.
pub(super) const DISK: Rules = &[
    word("type", KINDS),
    If(
        When::Case(|node| !node.flags().has(ParseFlags::INACTIVE)),
        &[Child("source", NUMBERED)],
    ),
    Part(storage::SOURCE_BY_TYPE),
    Check(|node| only_once(node, "auth")),
    Child("auth", storage::AUTH),
    Check(|node| only_once(node, "encryption")),
    Child("encryption", storage::ENCRYPTION),
    Child("backingStore", storage::BACKING),
    Child("iotune", &[Check(|node| throttle(node, "disk iotune"))]),
    word("device", crate::devices::DiskDevice::WORDS),
    word(
        "model",
        &[
            "default",
            "virtio",
            "virtio-transitional",
            "virtio-non-transitional",
        ],
    ),
    word("snapshot", &["no", "internal", "external", "manual"]),
    yes("rawio"),
    word("sgio", crate::devices::SgIo::WORDS),
    Child(
        "source",
        &[word("startupPolicy", crate::devices::StartupPolicy::WORDS)],
    ),
    Child(
        "target",
        &[
            word("bus", crate::devices::DiskBus::WORDS),
            word("tray", crate::devices::Tray::WORDS),
            on("removable"),
            number("rotation_rate"),
        ],
    ),
    Child(
        "geometry",
        &[
            number("cyls"),
            number("heads"),
            number("secs"),
            word("trans", &["none", "auto", "lba"]),
        ],
    ),
    Child(
        "blockio",
        &[
            number("logical_block_size"),
            number("physical_block_size"),
            number("discard_granularity"),
        ],
    ),
    Child("driver", DRIVER),
    Child("transient", &[yes("shareBacking")]),
    Child(
        "throttlefilters",
        &[Check(|node| {
            let names = node
                .children_named("throttlefilter")
                .filter_map(|f| f.attr("group"));
            super::rule::once(names, domain("XML error: duplicate filter name '{}' found"))
        })],
    ),
    Part(BOOT_INFO),
    // What a job makes is read of a running guest only.
    If(
        When::Case(|node| !node.flags().has(ParseFlags::INACTIVE)),
        &[Child("mirror", MIRROR)],
    ),
    Check(|node| {
        let unnamed = node.child("target").and_then(|target| target.attr("dev")) == Some("");
        match (unnamed, node.child("address"), node.attr("device")) {
            (false, ..) => Ok(()),
            (true, None, _) => {
                Err(domain("XML error: Unknown disk name '{}' and no address specified").of(""))
            }
            (true, _, Some("floppy")) => Err(domain("internal error: Invalid floppy device name: {}").of("")),
            (true, ..) => Err(domain("internal error: Invalid harddisk device name: {}").of("")),
        }
    }),
];

/// The number that a running guest's image has.
const NUMBERED: Rules = &[given(
    "index",
    Form::U32(10),
    domain("XML error: invalid disk index '{}'"),
)];

/// The copy that a job makes, with its source in it, or as the attributes that were there before.
const MIRROR: Rules = &[
    maybe(
        "job",
        Form::Word(&["copy", "active-commit"]),
        domain("unsupported configuration: unknown mirror job type '{}'"),
    ),
    If(
        When::Given("type"),
        &[
            Need("source", domain("XML error: mirror requires source element"), &[]),
            Part(storage::CHAINED_TYPE),
            Part(storage::CHAINED_FORMAT),
            Part(storage::SOURCE_BY_TYPE),
        ],
    ),
    If(
        When::Case(|node| node.attr("type").is_none()),
        &[
            filled("file", domain("XML error: mirror requires file name")),
            maybe("format", Form::Word(FORMATS), storage::NO_FORMAT),
        ],
    ),
    maybe(
        "ready",
        Form::Word(&["yes", "abort", "pivot"]),
        domain("XML error: unknown mirror ready state {}"),
    ),
];

/// A definition is in the disk or in its source.
fn only_once(node: Node<'_>, name: &str) -> Checked {
    let inside = node
        .child("source")
        .is_some_and(|source| source.child(name).is_some());
    match inside && node.child(name).is_some() {
        true => Err(Error::unsupported(format!(
            "an <{name}> definition already found for disk source"
        ))),
        false => Ok(()),
    }
}

const DRIVER: Rules = &[
    Part(VIRTIO),
    word("cache", crate::devices::CacheMode::WORDS),
    word("error_policy", &["stop", "report", "ignore", "enospace"]),
    word("rerror_policy", &["stop", "report", "ignore", "enospace"]),
    given(
        "rerror_policy",
        Form::Like(|policy| policy != "enospace"),
        domain("unsupported configuration: Invalid disk read error policy: '{}'"),
    ),
    word("io", &["native", "threads", "io_uring"]),
    on("ioeventfd"),
    on("event_idx"),
    on("copy_on_read"),
    word("discard", &["unmap", "ignore"]),
    number("iothread").positive(),
    Child("iothreads", IOTHREAD_MAP),
    word("detect_zeroes", &["off", "on", "unmap"]),
    number("queues"),
    number("queue_size"),
    on("discard_no_unref"),
    given(
        "type",
        Form::Like(|kind| kind == "aio" || FORMATS.contains(&kind)),
        domain("unsupported configuration: unknown driver format value '{}'"),
    ),
    Child("metadata_cache", &[Rule::Size(METADATA_CACHE)]),
];
