//! The root below which everything is read: `/` in the daemon, a recorded tree in tests.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// No file read here is longer: `/proc/cpuinfo` takes two KiB a CPU.
const LIMIT: u64 = 16 << 20;

/// Most files of the kernel's are shorter.
const USUAL: usize = 8 << 10;

/// A directory that holds `proc`, `sys` and `etc`.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Default for Root {
    /// The running system.
    fn default() -> Self {
        Self::at("/")
    }
}

impl Root {
    /// A tree at the directory.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The full path of a file in the tree.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A file's text, at most 16 MiB, invalid UTF-8 replaced; `None` when it is not there or is not for reading
    /// (some of sysfs is for root only).
    pub(crate) fn optional(&self, path: &str) -> Result<Option<String>> {
        Ok(self
            .optional_bytes(path)?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A file's bytes, with the same limit and exceptions.
    pub(crate) fn optional_bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.bytes(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Read { source, .. }) if is_absence(source.kind()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file's text; it must be there.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        self.bytes(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The beginning of a file's text, as much as most have: one read.
    pub(crate) fn head(&self, path: &str) -> Result<String> {
        let full = self.path(path);
        let mut bytes = [0; USUAL];
        let read = File::open(&full).and_then(|mut file| file.read(&mut bytes));
        let length = read.map_err(|source| Error::Read { path: full, source })?;
        Ok(String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned())
    }

    /// A file's number, `None` when the file is not there or holds something else.
    pub(crate) fn number<T: FromStr>(&self, path: &str) -> Result<Option<T>> {
        Ok(self.optional(path)?.and_then(|text| text.trim().parse().ok()))
    }

    /// Names in a directory, sorted; none when it is not there.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>> {
        let full = self.path(path);
        let entries = match fs::read_dir(&full) {
            Ok(entries) => entries,
            Err(error) if is_absence(error.kind()) => return Ok(Vec::new()),
            Err(source) => return Err(Error::Read { path: full, source }),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The numbers in a directory's names of the form `PREFIXnumber`, ascending.
    pub(crate) fn numbered(&self, path: &str, prefix: &str) -> Result<Vec<u32>> {
        let names = self.names(path)?;
        let rest = names.iter().filter_map(|name| name.strip_prefix(prefix));
        let mut numbers: Vec<u32> = rest.filter_map(|number| number.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let full = self.path(path);
        read(&full).map_err(|source| Error::Read { path: full, source })
    }

    pub(crate) fn unparsed(&self, path: &str, what: &'static str) -> Error {
        Error::Parse {
            path: self.path(path),
            what,
        }
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    // Without room the first read would be a small one, and the kernel makes most of its files anew for the first.
    let mut bytes = Vec::with_capacity(USUAL);
    File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_absence(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
    )
}
