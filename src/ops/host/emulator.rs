//! Which QEMU binary a call is about, and whether its caller may have it run.
//!
//! Used by everything that takes an emulator's path from a client. To ask a binary is to execute it: a caller who may
//! only read names none but those that the host's own search finds, and gets those.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use crate::{
    error::{Code, Error, Result},
    ops::{Driver, host::arch},
};

/// Of the host's own architecture, where distributions put it that do not use QEMU's name.
const NATIVE: &str = "/usr/libexec/qemu-kvm";
/// Searched after the daemon's path.
const LAST_RESORT: &str = "/usr/bin";

/// Which binaries a caller may have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runnable {
    /// Those that the host's own search finds.
    Found,
    /// Any.
    Any,
}

/// What a caller says of the emulator; empty: the host's best.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its path.
    pub path: &'a str,
    /// The architecture of its guests.
    pub arch: &'a str,
}

/// The emulator that is meant. What only may be found comes back with the path that it is found at.
///
/// # Errors
/// `OperationDenied` for a path that the caller may not have run, whether something is there or not;
/// `ConfigUnsupported` if none is named and there is none.
pub async fn emulator_for(driver: &Driver, named: Named<'_>, runnable: Runnable) -> Result<String> {
    if named.path.is_empty() {
        let arch = if named.arch.is_empty() {
            &driver.host.arch
        } else {
            named.arch
        };
        let missing = || {
            Error::new(
                Code::ConfigUnsupported,
                format!("unable to find any emulator to serve '{arch}' architecture"),
            )
        };
        return default_emulator(driver, arch).ok_or_else(missing);
    }
    if runnable == Runnable::Any {
        return Ok(named.path.to_owned());
    }
    let (path, found) = (PathBuf::from(named.path), emulators(driver));
    let same = crate::blocking::file("looking for an emulator", move || {
        Ok(found_as(&path, found.iter().map(|(_, path)| path.clone())))
    })
    .await?;
    same.ok_or_else(|| {
        let message = format!(
            "read only access: '{}' is none of the emulators that this host finds by itself",
            named.path
        );
        Error::new(Code::OperationDenied, message).because("EMULATOR_NOT_FOUND_BY_HOST")
    })
}

/// The emulator for guests of an architecture that name none: the first on the daemon's path.
pub fn default_emulator(driver: &Driver, arch: &str) -> Option<String> {
    emulators(driver)
        .iter()
        .find(|(own, _)| *own == arch)
        .map(|(_, path)| path.clone())
}

/// All emulators that the host's own search finds: architecture and path, in libvirt's order.
pub(crate) fn emulators(driver: &Driver) -> Arc<Emulators> {
    search(&driver.host.arch)
}

/// Architectures and paths.
pub(crate) type Emulators = Vec<(&'static str, String)>;

/// What was found, and what the directories were like then: while no name in them has come or gone, it stands.
#[derive(Default)]
struct Searched {
    dirs: Vec<Option<(u64, u64, i64, i64)>>,
    found: Arc<Emulators>,
}

fn search(host: &str) -> Arc<Emulators> {
    static LAST: LazyLock<Mutex<Searched>> = LazyLock::new(Mutex::default);
    let (paths, native) = (path_dirs(), Path::new(NATIVE));
    let all = paths.iter().map(PathBuf::as_path).chain(native.parent());
    let dirs = all
        .map(|dir| {
            fs::metadata(dir)
                .ok()
                .map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec()))
        })
        .collect();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.dirs != dirs || !last.found.iter().all(|(_, path)| is_program(Path::new(path))) {
        let look = |arch: &'static str| Some((arch, look_for(arch, host, &paths)?));
        let found = arch::ARCHES.iter().filter_map(|(arch, _)| look(arch)).collect();
        *last = Searched {
            dirs,
            found: Arc::new(found),
        };
    }
    Arc::clone(&last.found)
}

/// Where emulators are looked for, in order.
fn path_dirs() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([LAST_RESORT.into()])
        .filter(|dir| dir.is_absolute())
        .collect()
}

fn look_for(arch: &str, host: &str, dirs: &[PathBuf]) -> Option<String> {
    let name = match arch {
        "i686" => "qemu-system-i386".to_owned(),
        other => format!("qemu-system-{other}"),
    };
    let native = (arch == host).then(|| PathBuf::from(NATIVE));
    let found = dirs
        .iter()
        .map(|dir| dir.join(&name))
        .chain(native)
        .find(|path| is_program(path))?;
    found.into_os_string().into_string().ok()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Which of `found` is the file that is asked for. Its own path is given, since who asks may own the other one, and
/// make it point to something else the next moment.
fn found_as(asked: &Path, found: impl Iterator<Item = String>) -> Option<String> {
    let mut found = found.peekable();
    found.peek()?;
    let file = asked
        .is_absolute()
        .then(|| fs::canonicalize(asked).ok())
        .flatten()?;
    found.find(|path| fs::canonicalize(path).is_ok_and(|known| known == file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn other_spellings_are_the_binary_that_is_found_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let known = at("qemu").to_str().unwrap().to_owned();
        fs::write(&known, "").unwrap();
        fs::copy(&known, at("copy")).unwrap();
        symlink(&known, at("link")).unwrap();
        symlink(at("copy"), at("other")).unwrap();
        let answer = |asked: &Path| found_as(asked, [known.clone()].into_iter());
        for asked in ["qemu", "link", "./qemu", "../link"] {
            let asked = if asked.starts_with("..") {
                at("sub").join(asked)
            } else {
                at(asked)
            };
            fs::create_dir_all(at("sub")).unwrap();
            assert_eq!(answer(&asked).as_ref(), Some(&known), "{}", asked.display());
        }
        for asked in ["copy", "other", "absent", "", "sub"] {
            assert_eq!(answer(&at(asked)), None, "{asked}");
        }
        assert_eq!(
            answer(Path::new("qemu")),
            None,
            "not relative to whatever the daemon's directory is"
        );
    }

    #[test]
    fn what_cannot_be_run_is_not_found() {
        assert!(
            !is_program(Path::new("/usr/bin"))
                && !is_program(Path::new("/etc/passwd"))
                && is_program(Path::new("/bin/sh"))
        );
    }
}
