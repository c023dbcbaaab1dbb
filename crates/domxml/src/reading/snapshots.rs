//! Parts of the documents of snapshots.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::Form;
use super::rule::{Checked, Rule, Rules, Words, given, named, of, word};
use super::storage::{FORMATS, KINDS, SOURCE_BY_TYPE};
use Rule::{Check, Child, Part};

/// Words of the reader of snapshots.
const fn snapshot(text: &'static str) -> Words {
    of(Area::Snapshot, text)
}

/// Where a part of a snapshot may be.
const MODES: &[&str] = &["no", "internal", "external", "manual"];

/// `<memory>`.
pub(super) const MEMORY: Rules = &[word("snapshot", MODES)];

/// `<disk>`.
pub(super) const DISK: Rules = &[
    named(
        "name",
        snapshot("internal error: missing name from disk snapshot element"),
    ),
    word("snapshot", MODES),
    word("type", KINDS),
    Check(kind),
    Part(SOURCE_BY_TYPE),
    Child(
        "driver",
        &[given(
            "type",
            Form::Word(FORMATS),
            snapshot("unsupported configuration: unknown disk snapshot driver '{}'"),
        )],
    ),
    Check(path),
];

fn kind(node: Node<'_>) -> Checked {
    match node.attr("type") {
        Some(kind @ ("volume" | "dir")) => {
            Err(snapshot("XML error: unsupported disk snapshot type '{}'").of(kind))
        }
        _ => Ok(()),
    }
}

fn path(node: Node<'_>) -> Checked {
    let name = match node.attr("type") {
        None | Some("file") => "file",
        Some("block") => "dev",
        _ => return Ok(()),
    };
    let path = node.child("source").and_then(|source| source.attr(name));
    match path {
        Some(path) if !path.starts_with('/') => {
            Err(snapshot("XML error: disk snapshot image path '{}' must be absolute").of(path))
        }
        _ => Ok(()),
    }
}
