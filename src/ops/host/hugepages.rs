//! Where the host's huge pages are mounted, and of which size they are.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{HUGETLBFS_MAGIC, statfs};

use crate::error::{Error, Result};

/// Mounts of huge pages by the size of a page, KiB: those that `named` says, or those of the host whose files are below
/// `root`; pages of the host's default size first. Blocks.
///
/// # Errors
/// A place that is named is no such mount.
pub(crate) fn mounts(root: &Path, named: Option<&[PathBuf]>) -> Result<Vec<(u64, PathBuf)>> {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let mut found: Vec<_> = match named {
        Some(named) => named.iter().map(|place| mount(place)).collect::<Result<_>>()?,
        // One that was unmounted meanwhile is none.
        None => mounted(&read("proc/mounts"))
            .iter()
            .flat_map(|place| mount(place))
            .collect(),
    };
    let default = default_kib(&read("proc/meminfo"));
    // The order stays but for that one.
    found.sort_by_key(|(kib, _)| Some(*kib) != default);
    Ok(found)
}

fn mount(place: &Path) -> Result<(u64, PathBuf)> {
    let shown = place.display();
    let told = statfs(place).map_err(|error| {
        Error::system(
            format_args!("cannot look at huge pages at '{shown}'"),
            error.into(),
        )
    })?;
    if told.filesystem_type() != HUGETLBFS_MAGIC {
        return Err(Error::internal(format!("not a hugetlbfs mount: '{shown}'")));
    }
    let size = u64::try_from(told.block_size()).unwrap_or(0);
    Ok((size / 1024, place.to_owned()))
}

fn mounted(mounts: &str) -> Vec<PathBuf> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let places = fields.filter(|fields| fields.get(2) == Some(&"hugetlbfs"));
    places
        .filter_map(|fields| Some(unescaped(fields.get(1)?).into()))
        .collect()
}

/// The kernel writes blanks and backslashes of paths in octal.
fn unescaped(path: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let replaced = |path: String, (code, character)| path.replace(code, character);
    codes.into_iter().fold(path.to_owned(), replaced)
}

fn default_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("Hugepagesize:"));
    line?.trim().trim_end_matches(" kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_understood() {
        let mounts = "proc /proc proc rw 0 0\nhugetlbfs /dev/huge\\040pages hugetlbfs rw,pagesize=2M 0 0\n\
                      none /mnt tmpfs rw 0 0\nhugetlbfs /dev/hugepages1G hugetlbfs rw,pagesize=1024M 0 0\n";
        let wanted: Vec<PathBuf> = vec!["/dev/huge pages".into(), "/dev/hugepages1G".into()];
        assert_eq!(mounted(mounts), wanted);
        assert_eq!(
            default_kib("MemTotal: 1 kB\nHugepagesize:       2048 kB\n"),
            Some(2048)
        );
        assert_eq!(default_kib(""), None);
    }

    #[test]
    fn a_place_that_is_named_and_has_no_huge_pages_is_refused() {
        let error = mounts(Path::new("/"), Some(&["/proc".into()])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "internal error: not a hugetlbfs mount: '/proc'"
        );
        assert_eq!(mounts(Path::new("/"), Some(&[])).unwrap(), []);
    }
}
