//! Programs of the host that guests need, or that are asked about it: where they are.

use std::path::{Path, PathBuf};

/// The program of that name in the directories of `PATH`, then in `more`; a name that is a path is taken as it is. What is
/// found is absolute. May block on files.
pub(crate) fn find(program: &str, more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(more.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(program))
        .chain([Path::new(program).to_owned()])
        .find(|file| file.is_absolute() && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_name_and_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let (file, name) = (dir.path().join("vq-only-here"), "vq-only-here");
        std::fs::write(&file, "").unwrap();
        assert_eq!(find(name, &[]), None);
        assert_eq!(find(name, &[dir.path().to_str().unwrap()]), Some(file.clone()));
        assert_eq!(find(file.to_str().unwrap(), &[]), Some(file));
        assert!(find("sh", &[]).is_some_and(|sh| sh.is_absolute()));
        assert_eq!((find("/vq/absent", &[]), find("", &[])), (None, None));
    }
}
