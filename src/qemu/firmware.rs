//! The host's firmware, as descriptors in QEMU's interchange format tell of it.
//!
//! `ops` asks for the list when a document is completed and when capabilities are told. Files of the same name in a later
//! directory replace those of an earlier one, an empty one takes it away; the order is that of the names, whatever they
//! end in. What can't be read or understood is left out. What was read is kept until a file comes, goes or changes.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, DirEntry, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use qemu_plan::postparse::Firmware;

/// Of the host's packages, then of its administrator.
const SYSTEM: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];
/// Below a user's directory for configuration.
const USERS: &str = "qemu/firmware";
/// Largest descriptor, bytes; usual ones have 2 KB.
const FILE_MAX: u64 = 1 << 20;
/// Most descriptors of a directory.
const FILES_MAX: usize = 1000;

/// The descriptors of a host. One a daemon.
#[derive(Debug)]
pub struct FirmwareStore {
    dirs: Vec<PathBuf>,
    last: Mutex<Last>,
}

/// What shows that a file is another: number, size, and times of its change.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// Files by name.
type Found = BTreeMap<OsString, (PathBuf, Stamp)>;

#[derive(Debug, Default)]
struct Last {
    found: Found,
    list: Arc<Vec<Firmware>>,
}

impl FirmwareStore {
    /// Of the host, and of the user whose directory for configuration is given.
    #[must_use]
    pub fn new(user: Option<&Path>) -> Self {
        let own = user.map(|dir| dir.join(USERS));
        Self::of(SYSTEM.iter().map(PathBuf::from).chain(own).collect())
    }

    fn of(dirs: Vec<PathBuf>) -> Self {
        Self {
            dirs,
            last: Mutex::default(),
        }
    }

    /// What was last read.
    pub fn known(&self) -> Arc<Vec<Firmware>> {
        Arc::clone(&self.last.lock().unwrap_or_else(PoisonError::into_inner).list)
    }

    /// What there is now; reads files if one has changed. May block on them.
    pub fn read(&self) -> Arc<Vec<Firmware>> {
        let found = find(&self.dirs);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.found != found {
            let list = Arc::new(found.values().filter_map(|(path, _)| read_one(path)).collect());
            *last = Last { found, list };
        }
        Arc::clone(&last.list)
    }
}

fn find(dirs: &[PathBuf]) -> Found {
    let mut found = BTreeMap::new();
    for dir in dirs {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX);
        found.extend(entries.filter_map(|entry| Some((entry.file_name(), (entry.path(), stamp(&entry)?)))));
    }
    found
}

/// Of a regular file that is not hidden; others are not looked at.
fn stamp(entry: &DirEntry) -> Option<Stamp> {
    if entry.file_name().as_encoded_bytes().starts_with(b".") {
        return None;
    }
    let path = entry.path();
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Some((
            meta.ino(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        )),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "a firmware descriptor can't be looked at");
            None
        }
    }
}

fn read_one(path: &Path) -> Option<Firmware> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
    if let Err(error) = read {
        tracing::warn!(path = %path.display(), %error, "a firmware descriptor can't be read");
        return None;
    }
    if text.is_empty() {
        return None;
    }
    let firmware = Firmware::parse(&text);
    if firmware.is_none() {
        tracing::warn!(path = %path.display(), "a firmware descriptor is not understood");
    }
    firmware
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn descriptor(file: &str) -> String {
        format!(
            r#"{{"interface-types": ["uefi"], "mapping": {{"device": "flash", "executable": {{"filename": "{file}", "format": "raw"}},
            "nvram-template": {{"filename": "/vars", "format": "raw"}}}}, "targets": [{{"architecture": "x86_64", "machines": ["pc-q35-*"]}}],
            "features": ["requires-smm"], "tags": []}}"#
        )
    }

    fn files(store: &FirmwareStore) -> Vec<String> {
        store.read().iter().map(|f| f.executable().to_owned()).collect()
    }

    #[test]
    fn later_directories_replace_and_take_away_and_names_give_the_order() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put =
            |dir: &tempfile::TempDir, name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put(&one, "60-c.json", &descriptor("c"));
        put(&one, "40-a.json", &descriptor("a"));
        put(&one, "50-b.json", &descriptor("b"));
        put(&one, "70-d", &descriptor("d"));
        put(&one, ".10-hidden.json", &descriptor("hidden"));
        put(&one, "20-bad.json", "{");
        put(
            &one,
            "21-large.json",
            &format!("{}{}", " ".repeat(2 << 20), descriptor("large")),
        );
        fs::write(one.path().join("22-odd.json"), [0xff, 0xfe]).unwrap();
        fs::create_dir(one.path().join("30-dir.json")).unwrap();
        symlink("/nonexistent", one.path().join("31-dangling.json")).unwrap();
        put(&two, "40-a.json", "");
        put(&two, "50-b.json", &descriptor("other b"));
        // What is no file takes nothing away.
        symlink("/dev/null", two.path().join("60-c.json")).unwrap();
        let store = FirmwareStore::of(vec![
            one.path().to_owned(),
            two.path().to_owned(),
            one.path().join("absent"),
        ]);
        assert!(store.known().is_empty());
        assert_eq!(files(&store), ["other b", "c", "d"]);
        assert_eq!(store.known().len(), 3);
    }

    #[test]
    fn what_changes_is_read_again_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("a", &descriptor("a"));
        let store = FirmwareStore::of(vec![dir.path().to_owned()]);
        let first = store.read();
        assert!(
            Arc::ptr_eq(&first, &store.read()),
            "nothing changed, nothing is read"
        );
        put("b", &descriptor("b"));
        assert_eq!(files(&store), ["a", "b"]);
        // In place: the directory does not change.
        put("a", &descriptor("another"));
        assert_eq!(files(&store), ["another", "b"]);
        fs::remove_file(dir.path().join("b")).unwrap();
        assert_eq!(files(&store), ["another"]);
    }
}
