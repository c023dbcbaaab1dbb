//! Where each field of a guest's document takes effect: no field is read and forgotten.
//!
//! The fields are taken from domxml's source, all that `Domain` leads to; `data/fields.txt` names for each what comes of it,
//! and the file in which that is. A field without a line, a line without a field, and a file that does not name the field
//! fail. A field whose type has fields needs no line: those have theirs.
//!
//! | word | what comes of the field |
//! |---|---|
//! | `argv` | QEMU's command line |
//! | `live` | monitor commands, or how a running guest is changed |
//! | `host` | what the daemon does on the host, helpers and other daemons included |
//! | `refused` | it decides only whether a document or a start is refused |
//! | `document` | it decides only what the document becomes |
//! | `kept` | nothing, as with libvirt; the line says why |
//! | `gap` | nothing, other than with libvirt; the line says what is missing |

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const EFFECTS: &[&str] = &["argv", "live", "host", "refused", "document"];

/// Types that have no fields of their own.
const PLAIN: &[&str] = &[
    "static", "str", "Option", "Vec", "Box", "String", "bool", "u8", "u16", "u32", "u64", "i32", "i64",
    "f64", "usize", "Uuid", "Bitmap", "RawXml", "Rest",
];

/// Files of types that are no guest's document.
const OTHERS: &[&str] = &["capabilities.rs", "domcaps.rs", "node_device.rs", "ports.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What the source says of types.
#[derive(Default)]
struct Types {
    /// Fields of structs, and what the variants of enums hold: name and type.
    fields: BTreeMap<String, Vec<(String, String)>>,
    /// Names of types that are made by macros and are words or numbers.
    plain: BTreeSet<String>,
}

impl Types {
    fn read(dir: &Path) -> Self {
        let mut types = Self::default();
        let mut open = vec![dir.to_owned()];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if !OTHERS.iter().any(|name| path.ends_with(name)) {
                types.scan(&fs::read_to_string(path).unwrap());
            }
        }
        types
    }

    /// One file, as rustfmt leaves it.
    fn scan(&mut self, text: &str) {
        let mut current: Option<String> = None;
        for line in text.lines() {
            let inner = line.strip_prefix("    ").filter(|rest| !rest.starts_with(' '));
            if let Some(name) = line
                .strip_prefix("pub struct ")
                .or(line.strip_prefix("pub enum "))
            {
                let name = word(name);
                self.fields.entry(name.clone()).or_default();
                current = line.ends_with('{').then_some(name);
            } else if line.starts_with('}') {
                current = None;
            } else if let (Some(name), Some(inner)) = (&current, inner) {
                let of_type = self.fields.entry(name.clone()).or_default();
                if let Some((field, kind)) = inner.trim_start_matches("pub ").split_once(": ") {
                    if inner.starts_with("pub ") {
                        of_type.push((field.trim_start_matches("r#").to_owned(), kind.to_owned()));
                    }
                } else if let Some((variant, kind)) = inner.split_once('(')
                    && !inner.starts_with(['#', '/'])
                {
                    of_type.push((variant.to_owned(), kind.to_owned()));
                }
            } else if let Some(inner) = inner.filter(|rest| rest.starts_with(char::is_uppercase)) {
                // Of `words!` and `scaled_attrs!`.
                if inner.contains(" {") || inner.contains(" = \"") {
                    self.plain.insert(word(inner));
                }
            } else if let Some((field, rest)) = inner.and_then(|rest| rest.split_once(": "))
                && rest.contains("> = \"")
            {
                // The table of devices.
                let devices = self
                    .fields
                    .entry("Devices".to_owned())
                    .or_insert_with(|| vec![("emulator".to_owned(), "Option<String>".to_owned())]);
                devices.push((
                    field.to_owned(),
                    rest.split(" = ").next().unwrap_or_default().to_owned(),
                ));
            }
        }
    }

    /// The fields without fields of all types that a type leads to, as `Type.field`.
    fn leaves(&self, root: &str) -> BTreeSet<String> {
        let mut open = vec![root.to_owned()];
        let mut seen = BTreeSet::new();
        let mut leaves = BTreeSet::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            for (field, kind) in &self.fields[&name] {
                let mut plain = true;
                for part in kind.split(|c: char| !c.is_alphanumeric() && c != '_') {
                    if self.fields.get(part).is_some_and(|fields| !fields.is_empty()) {
                        plain = false;
                        open.push(part.to_owned());
                    } else {
                        let known = part.is_empty()
                            || kind.contains(&format!("{part}::"))
                            || PLAIN.contains(&part)
                            || self.plain.contains(part)
                            || self.fields.contains_key(part);
                        assert!(
                            known,
                            "{name}.{field}: the type {part} is not found in the source"
                        );
                    }
                }
                if plain && field.starts_with(|c: char| c.is_lowercase()) {
                    leaves.insert(format!("{name}.{field}"));
                }
            }
        }
        leaves
    }
}

fn word(text: &str) -> String {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Whether a file's code uses something of this name.
fn uses(file: &str, field: &str) -> bool {
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.any(|word| word == field)
}

#[test]
fn every_field_takes_effect_somewhere_or_is_known_to_be_kept_only() {
    let types = Types::read(&root().join("crates/domxml/src"));
    let fields = types.leaves("Domain");
    assert!(fields.len() > 800, "only {} fields are found", fields.len());
    let table =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fields.txt")).unwrap();
    let mut wrong = Vec::new();
    let mut told = BTreeSet::new();
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut parts = line.splitn(3, ' ');
        let (name, effect, rest) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let field = name.split_once('.').map_or("", |(_, field)| field);
        if !told.insert(name.to_owned()) {
            wrong.push(format!("{name} has two lines"));
        } else if !fields.contains(name) {
            wrong.push(format!("{name} is no field"));
        } else if matches!(effect, "kept" | "gap") {
            if rest.split_whitespace().count() < 3 {
                wrong.push(format!("{name}: why nothing comes of it is not said"));
            }
        } else if !EFFECTS.contains(&effect) {
            wrong.push(format!("{name}: '{effect}' is no effect"));
        } else if !uses(rest, field) {
            wrong.push(format!("{name}: {rest} does not name it"));
        }
    }
    wrong.extend(
        fields
            .difference(&told)
            .map(|field| format!("{field} has no line")),
    );
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn fields_of_all_kinds_of_types_are_found() {
    let types = Types::read(&root().join("crates/domxml/src"));
    let fields = types.leaves("Domain");
    for field in [
        "Domain.name",
        "Devices.emulator",
        "DiskDriver.cache",
        "DeviceInfo.alias",
        "Sev.policy",
        "Interface.script",
        "InterconnectLatency.value",
        "Argument.value",
    ] {
        assert!(fields.contains(field), "{field}");
    }
}
