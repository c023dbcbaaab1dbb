//! Where the host's huge pages are mounted, and of which size they are.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{HUGETLBFS_MAGIC, statfs};

use crate::{config::QemuConfig, ops::Driver};

/// Mounts of huge pages by the size of a page, KiB; pages of the host's default size first.
pub(crate) fn mounts(driver: &Driver, config: &QemuConfig) -> Vec<(u64, PathBuf)> {
    let read = |file: &str| std::fs::read_to_string(driver.host.root.join(file)).unwrap_or_default();
    let places = match &config.paths.hugetlbfs {
        Some(named) => named.clone(),
        None => mounted(&read("proc/mounts")),
    };
    let mut found: Vec<_> = places
        .into_iter()
        .filter_map(|place| Some((page_kib(&place)?, place)))
        .collect();
    let default = default_kib(&read("proc/meminfo"));
    // The order stays but for that one.
    found.sort_by_key(|(kib, _)| Some(*kib) != default);
    found
}

fn mounted(mounts: &str) -> Vec<PathBuf> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let places = fields.filter(|fields| fields.get(2) == Some(&"hugetlbfs"));
    // The kernel writes a space so.
    places
        .filter_map(|fields| Some(fields.get(1)?.replace("\\040", " ").into()))
        .collect()
}

fn page_kib(place: &Path) -> Option<u64> {
    let told = statfs(place).ok()?;
    let size = u64::try_from(told.block_size()).ok()?;
    (told.filesystem_type() == HUGETLBFS_MAGIC).then_some(size / 1024)
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
        assert_eq!(page_kib(Path::new("/proc")), None, "no huge pages there");
    }
}
