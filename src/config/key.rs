//! What a configuration key is: its type, what it may hold, its default, and what becomes of it.
//!
//! The tables of keys are made of these; a value from a file is checked here and nowhere else.

use super::syntax::Value;

/// One configuration file: all that it may contain.
#[derive(Debug)]
pub struct Table {
    /// File name, without a directory.
    pub file: &'static str,
    /// What the file is for; the head of the shipped file.
    pub about: &'static str,
    /// Its keys, grouped as the shipped file shows them.
    pub sections: &'static [Section],
    /// Keys of libvirt that mean nothing to this daemon, and whom to tell instead.
    pub foreign: &'static [(&'static str, &'static str)],
}

/// Keys that belong together.
#[derive(Debug)]
pub struct Section {
    /// Heading.
    pub title: &'static str,
    /// Keys.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// What holds when the file does not set it.
    pub default: Default,
    /// What the daemon does with it.
    pub support: Support,
    /// What it does, for the shipped file.
    pub doc: &'static str,
}

/// Type of a key and the values it may have.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// 0 or 1.
    Flag,
    /// A whole number, both ends included.
    Number(i64, i64),
    /// Any string.
    Text,
    /// An absolute path; "" where the key says so.
    Path,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An octal file mode in a string.
    Mode,
    /// A UUID, not of one digit only.
    Uuid,
    /// A number, or a word that stands for none.
    NumberOrWord(i64, i64, &'static str),
    /// A list of strings.
    List,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// A list of strings, or one string.
    ListOrText,
}

/// What holds when a key is not set.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// A flag.
    Flag(bool),
    /// A number.
    Number(i64),
    /// A string.
    Text(&'static str),
    /// A list.
    List(&'static [&'static str]),
    /// Nothing: the feature is off or decided elsewhere. The string is an example, written as in a file.
    Unset(&'static str),
}

/// What the daemon does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Honoured; a reload applies it, to guests when they start next.
    Live,
    /// Honoured; read when the daemon starts.
    Restart,
    /// Known and checked, without an effect yet.
    Planned,
    /// Accepted for the sake of old files; there is nothing left for it to do.
    Obsolete,
}

/// Shortest way to write a key in a table.
pub(super) const fn key(
    name: &'static str,
    kind: Kind,
    default: Default,
    support: Support,
    doc: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        support,
        doc,
    }
}

impl Table {
    /// All keys, in the order of the shipped file.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.sections.iter().flat_map(|section| section.keys)
    }

    /// The key of that name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// Whom a key belongs to that is libvirt's but not this daemon's.
    #[must_use]
    pub fn foreign(&self, name: &str) -> Option<&'static str> {
        self.foreign
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, owner)| *owner)
    }
}

impl Kind {
    /// Whether a value of a file is one that the key may have.
    #[must_use]
    pub fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Flag, Value::Number(n)) => matches!(n, 0 | 1),
            (Self::Number(min, max) | Self::NumberOrWord(min, max, _), Value::Number(n)) => {
                (min..=max).contains(n)
            }
            (Self::NumberOrWord(_, _, word), Value::Text(text)) => text == word,
            (Self::Text | Self::ListOrText, Value::Text(_)) => true,
            (Self::Path, Value::Text(text)) => text.is_empty() || text.starts_with('/'),
            (Self::Word(words), Value::Text(text)) => words.contains(&text.as_str()),
            (Self::Mode, Value::Text(text)) => mode(text).is_some(),
            (Self::Uuid, Value::Text(text)) => uuid(text).is_some(),
            (Self::List | Self::ListOrText, Value::List(items)) => items.iter().all(is_text),
            (Self::Words(words), Value::List(items)) => items
                .iter()
                .all(|item| matches!(item, Value::Text(text) if words.contains(&text.as_str()))),
            _ => false,
        }
    }

    /// What the key may have, to end "expected ...".
    #[must_use]
    pub fn expected(self) -> String {
        match self {
            Self::Flag => "0 or 1".to_owned(),
            Self::Number(min, max) => format!("a whole number from {min} to {max}"),
            Self::Text => "a string in quotes".to_owned(),
            Self::Path => "an absolute path in quotes".to_owned(),
            Self::Word(words) => format!("one of {}", quoted(words)),
            Self::Mode => "an octal file mode in quotes, such as \"0770\"".to_owned(),
            Self::Uuid => "a UUID in quotes, its digits not all equal".to_owned(),
            Self::NumberOrWord(min, max, word) => {
                format!("a whole number from {min} to {max}, or \"{word}\"")
            }
            Self::List => "a list of strings in brackets".to_owned(),
            Self::Words(words) => format!("a list in brackets of {}", quoted(words)),
            Self::ListOrText => "a string in quotes, or a list of strings in brackets".to_owned(),
        }
    }
}

/// A file mode from its octal digits.
pub(super) fn mode(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= 0o777)
}

/// A UUID that can tell hosts apart.
pub(super) fn uuid(text: &str) -> Option<uuid::Uuid> {
    let uuid = uuid::Uuid::parse_str(text).ok()?;
    let digits = uuid.simple().to_string();
    let first = digits.chars().next()?;
    (!digits.chars().all(|digit| digit == first)).then_some(uuid)
}

fn is_text(value: &Value) -> bool {
    matches!(value, Value::Text(_))
}

fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(", ")
}
