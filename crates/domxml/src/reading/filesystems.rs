//! `<filesystem>`.
// table: one line a rule, in the order in which libvirt reads

use xmlform::Node;

use super::form::{Form, unsigned};
use super::info::BOOT_INFO;
use super::rule::{Checked, Rule, Rules, When, Words, attr, domain, given, maybe, on, word};
use super::size::bytes;
use super::storage::{FORMATS, VIRTIO};
use crate::devices as model;
use crate::units::unit_bytes;
use crate::{Error, Kind};
use Rule::{Check, Child, Each, If, Part, Size};

/// `<filesystem>`.
pub(super) const FILESYSTEM: Rules = &[
    word(
        "type",
        &["mount", "block", "file", "template", "ram", "bind", "volume"],
    ),
    word("accessmode", &["", "passthrough", "mapped", "squash"]),
    attr("fmode", Form::U32(8)),
    Check(|node| mode(node, "fmode")),
    attr("dmode", Form::U32(8)),
    Check(|node| mode(node, "dmode")),
    word("model", model::VirtioModel::WORDS),
    word("multidevs", &["default", "remap", "forbid", "warn"]),
    Size(bytes("space_hard_limit", "./space_hard_limit[1]")),
    Size(bytes("space_soft_limit", "./space_soft_limit[1]")),
    Child("driver", DRIVER),
    If(
        When::Case(is_virtiofs),
        &[
            Child(
                "driver",
                &[maybe(
                    "queue",
                    Form::Wrapped64,
                    domain("XML error: cannot parse queue size '{}' for virtiofs"),
                )],
            ),
            Child("binary", BINARY),
            Child("idmap", &[Each("uid", ID_RANGE), Each("gid", ID_RANGE)]),
        ],
    ),
    Check(source),
    If(
        When::Is("type", &["volume"]),
        &[Child("source", super::storage::VOLUME)],
    ),
    Part(BOOT_INFO),
];

fn is_virtiofs(node: Node<'_>) -> bool {
    node.child("driver")
        .is_some_and(|driver| driver.attr("type") == Some("virtiofs"))
}

const DRIVER: Rules = &[
    word(
        "type",
        &[
            "default", "path", "handle", "loop", "nbd", "ploop", "virtiofs", "mtp",
        ],
    ),
    word("wrpolicy", &["default", "immediate"]),
    given(
        "format",
        Form::Like(|format| FORMATS.contains(&format)),
        domain("unsupported configuration: unknown driver format value '{}'"),
    ),
    Part(VIRTIO),
];

const BINARY: Rules = &[
    Child(
        "thread_pool",
        &[maybe(
            "size",
            Form::I32(10),
            domain("XML error: cannot parse thread pool size '{}' for virtiofs"),
        )],
    ),
    Child(
        "openfiles",
        &[maybe(
            "max",
            Form::Wrapped64,
            domain("XML error: cannot parse openfiles '{}' for virtiofs"),
        )],
    ),
    on("xattr"),
    Child("lock", &[on("posix"), on("flock")]),
    Child("cache", &[word("mode", &["none", "always"])]),
    Child("sandbox", &[word("mode", &["namespace", "chroot"])]),
];

/// Largest mode of a file.
const MODE_MOST: u64 = 0o777;

fn mode(node: Node<'_>, name: &str) -> Checked {
    let mode = unsigned(node.attr(name), 8);
    match mode <= MODE_MOST {
        true => Ok(()),
        false => Err(Error::xml(format!("invalid {name}: '0{mode:o}'"))),
    }
}

const BAD_RANGE: Words = domain("XML error: invalid idmap start/target/count settings");

/// A range of users or groups.
pub(super) const ID_RANGE: Rules = &[
    maybe("start", Form::U32(10), BAD_RANGE).or(BAD_RANGE),
    maybe("target", Form::U32(10), BAD_RANGE).or(BAD_RANGE),
    maybe("count", Form::U32(10), BAD_RANGE).or(BAD_RANGE),
];

/// Where the files are: which attribute says so depends on the type.
fn source(node: Node<'_>) -> Checked {
    let source = node.child("source");
    let value = |name| source.and_then(|s| s.attr(name));
    let name = match node.attr("type").unwrap_or("mount") {
        "mount" | "bind" => "dir",
        "file" => "file",
        "block" => "dev",
        "template" => "name",
        "ram" => return usage(value("usage"), value("units")),
        _ => return Ok(()),
    };
    if value(name).or_else(|| value("socket")).is_some() {
        return Ok(());
    }
    let target = node.child("target").and_then(|t| t.attr("dir"));
    let said = match target {
        Some(target) => format!("missing source information for device {target}"),
        None => "missing source information for device".to_owned(),
    };
    Err(Error::new(Kind::NoSource, said))
}

fn usage(usage: Option<&str>, units: Option<&str>) -> Checked {
    match usage {
        None => Err(domain("XML error: missing 'usage' attribute for RAM filesystem").of("")),
        Some(usage) if Form::Wrapped64.check(usage).is_err() => {
            Err(domain("XML error: cannot parse usage '{}' for RAM filesystem").of(usage))
        }
        Some(usage) => {
            let number = crate::number::integer(usage, 10).unwrap_or_default();
            let top = i128::from(u64::MAX);
            let number = if number < 0 { number + top + 1 } else { number };
            let units = units.filter(|units| !units.is_empty());
            let bytes = match units {
                Some(name) => unit_bytes(name)
                    .ok_or_else(|| Error::new(Kind::InvalidArg, format!("unknown suffix '{name}'")))?,
                None => 1024,
            };
            match number > top / i128::from(bytes) {
                true => {
                    let said = format!("value too large: {number}{}", units.unwrap_or_default());
                    Err(Error::new(Kind::Overflow, said))
                }
                false => Ok(()),
            }
        }
    }
}
