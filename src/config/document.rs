//! A configuration file that was read and checked against its table.
//!
//! What is wrong with a value is an error that names file, line and key; what is merely unknown or
//! without effect is a [`Notice`] for the log. Lookups fall back to the table's defaults.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::key::{self, Default, Key, Support, Table};
use super::syntax::{self, SyntaxError, Value};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{}: cannot read the configuration: {reason}", file.display())]
    Unreadable {
        /// File.
        file: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// It is not in the format.
    #[error("{}:{}: {}", file.display(), reason.line, reason.problem)]
    Syntax {
        /// File.
        file: PathBuf,
        /// Where and why.
        reason: SyntaxError,
    },
    /// A key has a value that it may not have.
    #[error("{}:{line}: {key}: expected {expected}", file.display())]
    Value {
        /// File.
        file: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Key.
        key: String,
        /// What is allowed.
        expected: String,
    },
    /// Values that are fine alone do not go together, or mean something on this host that is not there.
    #[error("{}: {key}: {problem}", file.display())]
    Meaning {
        /// File.
        file: PathBuf,
        /// Key at which to look.
        key: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Something in a file that is odd but no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Line, counted from 1.
    pub line: usize,
    /// Key.
    pub key: String,
    /// What is odd.
    pub about: String,
}

/// What differs between two readings of one file.
#[derive(Debug, Clone, PartialEq, Eq, std::default::Default)]
pub struct Changes {
    /// Changed keys that a reload applies.
    pub live: Vec<&'static str>,
    /// Changed keys that wait for the next start of the daemon.
    pub restart: Vec<&'static str>,
}

/// A file's settings, all of them allowed by its table.
#[derive(Debug)]
pub struct Document {
    table: &'static Table,
    file: PathBuf,
    settings: BTreeMap<&'static str, Value>,
    notices: Vec<Notice>,
}

impl Document {
    /// Reads `file`. A file that does not exist counts as empty unless it is required.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(table: &'static Table, file: &Path, presence: Presence) -> Result<Self, Error> {
        let unreadable = |reason| Error::Unreadable {
            file: file.to_owned(),
            reason,
        };
        match std::fs::read(file) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes)
                    .map_err(|_| unreadable(io::Error::other("it is not UTF-8 text")))?;
                Self::from_text(table, file, &text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && presence == Presence::Optional => {
                Self::from_text(table, file, "")
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Checks settings that were read from `file`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_text(table: &'static Table, file: &Path, text: &str) -> Result<Self, Error> {
        let entries = syntax::parse(text).map_err(|reason| Error::Syntax {
            file: file.to_owned(),
            reason,
        })?;
        let mut document = Self {
            table,
            file: file.to_owned(),
            settings: BTreeMap::new(),
            notices: Vec::new(),
        };
        for entry in entries {
            document.add(entry)?;
        }
        Ok(document)
    }

    /// What is odd about the file.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether the file sets the key.
    #[must_use]
    pub fn sets(&self, name: &str) -> bool {
        self.settings.contains_key(name)
    }

    /// What differs from `older`, by what a reload can do about it.
    #[must_use]
    pub fn changes_since(&self, older: &Self) -> Changes {
        let mut changes = Changes::default();
        for key in self.table.keys() {
            if self.settings.get(key.name) == older.settings.get(key.name) {
                continue;
            }
            match key.support {
                Support::Live => changes.live.push(key.name),
                Support::Restart => changes.restart.push(key.name),
                Support::Planned | Support::Obsolete => {}
            }
        }
        changes
    }

    /// An error about the meaning of a key's value.
    pub(super) fn meaning(&self, key: &'static str, problem: impl Into<String>) -> Error {
        Error::Meaning {
            file: self.file.clone(),
            key,
            problem: problem.into(),
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.optional_number(name).is_some_and(|number| number != 0)
    }

    /// The number of a key; keys without a default count as 0.
    pub(super) fn number(&self, name: &str) -> i64 {
        self.optional_number(name).unwrap_or(0)
    }

    /// The number of a key as another integer; its range in the table makes it fit.
    pub(super) fn count<T: TryFrom<i64> + std::default::Default>(&self, name: &str) -> T {
        T::try_from(self.number(name)).unwrap_or_default()
    }

    pub(super) fn optional_count<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        T::try_from(self.optional_number(name)?).ok()
    }

    pub(super) fn optional_number(&self, name: &str) -> Option<i64> {
        match (self.settings.get(name), self.default(name)) {
            (Some(Value::Number(number)), _) => Some(*number),
            (Some(_), _) => None,
            (None, Some(Default::Number(number))) => Some(number),
            (None, Some(Default::Flag(flag))) => Some(i64::from(flag)),
            (None, _) => None,
        }
    }

    /// The string of a key; keys without a default give `None`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match (self.settings.get(name), self.default(name)) {
            (Some(Value::Text(text)), _) => Some(text),
            (None, Some(Default::Text(text))) => Some(text),
            _ => None,
        }
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub(super) fn mode(&self, name: &str) -> u32 {
        self.text(name).and_then(key::mode).unwrap_or(0o700)
    }

    /// The strings of a key; one string counts as a list of it.
    pub(super) fn list(&self, name: &str) -> Option<Vec<String>> {
        match (self.settings.get(name), self.default(name)) {
            (Some(Value::List(items)), _) => Some(items.iter().filter_map(text_of).collect()),
            (Some(Value::Text(text)), _) => Some(vec![text.clone()]),
            (None, Some(Default::List(items))) => Some(items.iter().map(|item| (*item).to_owned()).collect()),
            (None, Some(Default::Text(text))) => Some(vec![text.to_owned()]),
            _ => None,
        }
    }

    fn default(&self, name: &str) -> Option<Default> {
        let key = self.table.key(name);
        debug_assert!(key.is_some(), "{}: no key {name} in the table", self.table.file);
        key.map(|key| key.default)
    }

    fn add(&mut self, entry: syntax::Entry) -> Result<(), Error> {
        let Some(key) = self.table.key(&entry.name) else {
            let about = match self.table.foreign(&entry.name) {
                Some(owner) => format!("ignored: it is a setting of {owner}"),
                None => "ignored: there is no such key".to_owned(),
            };
            self.notices.push(Notice {
                line: entry.line,
                key: entry.name,
                about,
            });
            return Ok(());
        };
        if !key.kind.allows(&entry.value) {
            return Err(Error::Value {
                file: self.file.clone(),
                line: entry.line,
                key: entry.name,
                expected: key.kind.expected(),
            });
        }
        if let Some(about) = self.oddity(key) {
            self.notices.push(Notice {
                line: entry.line,
                key: entry.name,
                about: about.to_owned(),
            });
        }
        self.settings.entry(key.name).or_insert(entry.value);
        Ok(())
    }

    fn oddity(&self, key: &Key) -> Option<&'static str> {
        if self.settings.contains_key(key.name) {
            return Some("ignored: it is set above already, and the first setting counts");
        }
        match key.support {
            Support::Live | Support::Restart => None,
            Support::Planned => Some("known, but without an effect yet"),
            Support::Obsolete => Some("accepted, but there is nothing left for it to do"),
        }
    }
}

/// Whether a file must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It may be missing.
    Optional,
    /// The administrator named it.
    Required,
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(_) | Value::List(_) => None,
    }
}
