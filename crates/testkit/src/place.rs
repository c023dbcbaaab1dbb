//! Where things are: the repository, cargo's target directory, the scripts, programs fetched by
//! `scripts/install-deps.sh`.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Cargo's target directory, `CARGO_TARGET_DIR` or the repository's `target`.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => repository().join(dir),
        None => repository().join("target"),
    }
}

/// A script of `scripts/` by its file name.
pub fn script(name: &str) -> PathBuf {
    repository().join("scripts").join(name)
}

/// A program of the name, among those fetched beside (`target/tools/bin`) or in `PATH` and the system
/// administrator's directories; `None` when it is nowhere.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(target().join("tools/bin"))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/usr/bin", "/usr/libexec"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
