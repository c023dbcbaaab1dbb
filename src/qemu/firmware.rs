//! The host's firmware, as descriptors in QEMU's interchange format tell of it.
//!
//! `ops` asks for the list when a document is completed and when capabilities are told. Files of the same name in a later
//! directory replace those of an earlier one, an empty one takes it away; the order is that of the names. What was read
//! is kept until a directory changes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
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

#[derive(Debug, Default)]
struct Last {
    stamps: Vec<Option<SystemTime>>,
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
        Self { dirs, last: Mutex::default() }
    }

    /// What was last read.
    pub fn known(&self) -> Arc<Vec<Firmware>> {
        Arc::clone(&self.last.lock().unwrap_or_else(PoisonError::into_inner).list)
    }

    /// What there is now; reads files if a directory has changed. May block on them.
    pub fn read(&self) -> Arc<Vec<Firmware>> {
        let stamps: Vec<_> = self.dirs.iter().map(|dir| fs::metadata(dir).and_then(|m| m.modified()).ok()).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.stamps != stamps {
            *last = Last { stamps, list: Arc::new(read_all(&self.dirs)) };
        }
        Arc::clone(&last.list)
    }
}

fn read_all(dirs: &[PathBuf]) -> Vec<Firmware> {
    let mut files = BTreeMap::new();
    for dir in dirs {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX);
        let named = entries.map(|e| (e.file_name(), e.path())).filter(|(name, _)| is_descriptor(&name.to_string_lossy()));
        files.extend(named);
    }
    files.into_values().filter_map(|path| read_one(&path)).collect()
}

fn is_descriptor(name: &str) -> bool {
    !name.starts_with('.') && name.ends_with(".json")
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

    #[tokio::test]
    async fn later_directories_replace_and_take_away_and_names_give_the_order() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |dir: &tempfile::TempDir, name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put(&one, "60-c.json", &descriptor("c"));
        put(&one, "40-a.json", &descriptor("a"));
        put(&one, "50-b.json", &descriptor("b"));
        put(&one, "10-not.txt", &descriptor("not"));
        put(&one, "20-bad.json", "{");
        put(&two, "40-a.json", "");
        put(&two, "50-b.json", &descriptor("other b"));
        let store = FirmwareStore::of(vec![one.path().to_owned(), two.path().to_owned(), one.path().join("absent")]);
        assert!(store.known().is_empty());
        assert_eq!(files(&store), ["other b", "c"]);
        let first = store.read();
        assert!(Arc::ptr_eq(&first, &store.read()), "nothing changed, nothing is read");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        put(&two, "70-d.json", &descriptor("d"));
        assert_eq!(files(&store), ["other b", "c", "d"]);
        assert_eq!(store.known().len(), 3);
    }
}
