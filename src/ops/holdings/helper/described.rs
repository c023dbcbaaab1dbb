//! Programs that serve devices beside QEMU, and describe themselves in files (docs/interop/vhost-user.json of QEMU).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::{
    error::{Area, Error, Result, os_text},
    ops::host::programs,
};

/// Where they are described; the first description of a name counts.
// table
const DESCRIPTIONS: &[&str] = &["/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user"];
/// Exit status of a child that could not become the program.
const EXEC_FAILED: i32 = 127;

/// What a program says of itself, or a description of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Description {
    #[serde(rename = "type")]
    kind: String,
    binary: PathBuf,
    pub(super) features: Vec<String>,
}

/// The first program of a kind (`fs` shares directories, `gpu` draws screens) that says that it has what is needed. May
/// block on files.
///
/// # Errors
/// One could not be asked.
pub(super) fn find(kind: &str, fits: impl Fn(&Description) -> bool) -> Result<Option<PathBuf>> {
    find_in(DESCRIPTIONS.iter().map(Path::new), kind, fits)
}

fn find_in<'a>(
    directories: impl Iterator<Item = &'a Path>,
    kind: &str,
    fits: impl Fn(&Description) -> bool,
) -> Result<Option<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in directories {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let entries: Vec<_> = entries.map(|entry| entry.path()).collect();
        let known = |path: &PathBuf| files.iter().any(|file| file.file_name() == path.file_name());
        let new: Vec<_> = entries.into_iter().filter(|path| !known(path)).collect();
        files.extend(new);
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let read = |path: &PathBuf| -> Option<Description> { serde_json::from_slice(&fs::read(path).ok()?).ok() };
    for described in files.iter().filter_map(read) {
        if described.kind != kind || !described.binary.is_file() {
            continue;
        }
        if fits(&ask(&described.binary)?) {
            return Ok(Some(described.binary));
        }
    }
    Ok(None)
}

/// What a program says of itself. May block.
///
/// # Errors
/// It can't be run, fails, or says what is no description.
pub(super) fn ask(program: &Path) -> Result<Description> {
    let failed = |why: String| {
        let text = format!("Child process ({} --print-capabilities) {why}", program.display());
        Error::internal(text).in_area(Area::None)
    };
    if !program.is_absolute() && programs::find(&program.to_string_lossy(), &[]).is_none() {
        let missing = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        let text = format!("Cannot find '{}' in path", program.display());
        return Err(Error::system(text, missing).in_area(Area::None));
    }
    let output = Command::new(program)
        .arg("--print-capabilities")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| {
        let why = os_text(&error);
        let (status, path) = (EXEC_FAILED, program.display());
        failed(format!(
            "unexpected exit status {status}: libvirt:  error : cannot execute binary {path}: {why}\n"
        ))
    })?;
    if let Some(status) = output.status.code().filter(|status| *status != 0) {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!(
            "unexpected exit status {status}: {}",
            said.trim().chars().take(200).collect::<String>()
        )));
    }
    let unreadable = |_| {
        let text = format!("unable to parse json capabilities '{}'", program.display());
        Error::internal(text)
    };
    serde_json::from_slice(&output.stdout).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_description_that_fits_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (own, usual) = (dir.path().join("own"), dir.path().join("usual"));
        let describe = |place: &Path, name: &str, kind: &str, features: &str| {
            fs::create_dir_all(place).unwrap();
            let program = place.join(format!("{name}.sh"));
            let said = format!("{{\"type\":\"{kind}\",\"features\":[{features}]}}");
            fs::write(&program, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let binary = program.to_string_lossy().into_owned();
            let text = format!("{{\"type\":\"{kind}\",\"binary\":\"{binary}\"}}");
            fs::write(place.join(format!("{name}.json")), text).unwrap();
            program
        };
        let plain = describe(&own, "50-gpu", "gpu", "");
        describe(&usual, "50-gpu", "gpu", "\"virgl\"");
        let virgl = describe(&usual, "60-gpu", "gpu", "\"virgl\"");
        describe(&usual, "10-fs", "fs", "");
        let found = |feature: &str| {
            let has = |d: &Description| feature.is_empty() || d.features.iter().any(|f| f == feature);
            find_in([own.as_path(), usual.as_path()].into_iter(), "gpu", has).unwrap()
        };
        assert_eq!(found(""), Some(plain));
        assert_eq!(found("virgl"), Some(virgl));
        assert_eq!(found("render-node"), None);
    }
}
