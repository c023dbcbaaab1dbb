//! Pools of huge pages, of the host or of a NUMA node: `virsh allocpages`.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::memory::{HUGE, usual_page};
use crate::node::NODES;
use crate::root::Root;

/// A pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Of this NUMA node; `None`: of the host, which spreads over its nodes.
    pub node: Option<u32>,
    /// Of pages of so many KiB.
    pub page_size: u64,
}

/// How many pages it is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// So many more.
    By(u64),
    /// So many.
    To(u64),
}

/// Why a pool has another size than asked for.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Pages of the usual size are in no pool.
    #[error("system pages pool can't be modified")]
    UsualPages,
    /// There are no pages of that size there.
    #[error("page size {0} is not available")]
    NoSuchPages(u64),
    /// The number of pages is not to be counted.
    #[error("invalid number '{text}' in '{path}'")]
    NoNumber {
        /// What is there.
        text: String,
        /// Where.
        path: PathBuf,
    },
    /// The sum is too large.
    #[error("number of pages {0} is too large")]
    TooMany(u64),
    /// The kernel has no more memory in one piece, or does not free what is in use.
    #[error("Unable to allocate {wanted} pages. Allocated only {got}")]
    Short {
        /// As asked for.
        wanted: u64,
        /// As it is now.
        got: u64,
    },
    /// The kernel refuses.
    #[error("cannot resize the pool {path}")]
    System {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Resizes a pool. What the kernel could do of it stays done.
///
/// # Errors
/// See [`Refusal`].
pub fn resize_pool(root: &Root, pool: Pool, resize: Resize) -> Result<(), Refusal> {
    let Pool { node, page_size } = pool;
    if page_size == usual_page(root) {
        return Err(Refusal::UsualPages);
    }
    let dir = node.map_or_else(|| HUGE.to_owned(), |node| format!("{NODES}/node{node}/hugepages"));
    let path = root.path(&format!("{dir}/hugepages-{page_size}kB/nr_hugepages"));
    if !path.exists() {
        return Err(Refusal::NoSuchPages(page_size));
    }
    let system = |source| Refusal::System {
        path: path.clone(),
        source,
    };
    let count = || {
        let text = fs::read_to_string(&path).map_err(system)?;
        text.trim().parse::<u64>().map_err(|_| Refusal::NoNumber {
            text: text.clone(),
            path: path.clone(),
        })
    };
    let now = count()?;
    let wanted = match resize {
        Resize::By(more) => now.checked_add(more).ok_or(Refusal::TooMany(more))?,
        Resize::To(wanted) => wanted,
    };
    if wanted == now {
        return Ok(());
    }
    fs::write(&path, wanted.to_string()).map_err(system)?;
    match count()? {
        got if got == wanted => Ok(()),
        got => Err(Refusal::Short { wanted, got }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_NODE: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
    const OF_HOST: &str = "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";

    fn host() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        for file in [OF_NODE, OF_HOST] {
            let path = root.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "3\n").unwrap();
        }
        (dir, root)
    }

    fn pages(root: &Root, file: &str) -> String {
        fs::read_to_string(root.path(file)).unwrap()
    }

    #[test]
    fn a_pool_grows_by_or_to_a_number_of_pages() {
        let (_dir, root) = host();
        let node = Pool {
            node: Some(1),
            page_size: 2048,
        };
        resize_pool(&root, node, Resize::By(4)).unwrap();
        assert_eq!(pages(&root, OF_NODE), "7");
        resize_pool(&root, node, Resize::To(2)).unwrap();
        assert_eq!(
            (pages(&root, OF_NODE), pages(&root, OF_HOST)),
            ("2".into(), "3\n".into())
        );
        resize_pool(
            &root,
            Pool {
                node: None,
                page_size: 1_048_576,
            },
            Resize::To(9),
        )
        .unwrap();
        assert_eq!(
            (pages(&root, OF_NODE), pages(&root, OF_HOST)),
            ("2".into(), "9".into())
        );
    }

    #[test]
    fn what_is_no_pool_is_refused_by_name() {
        let (_dir, root) = host();
        let refused = |node, page_size, by| {
            resize_pool(&root, Pool { node, page_size }, Resize::By(by))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refused(Some(1), 4, 1), "system pages pool can't be modified");
        assert_eq!(refused(Some(1), 5, 1), "page size 5 is not available");
        assert_eq!(refused(Some(0), 2048, 1), "page size 2048 is not available");
        assert_eq!(
            refused(Some(1), 2048, u64::MAX),
            format!("number of pages {} is too large", u64::MAX)
        );
        fs::write(root.path(OF_NODE), "x\n").unwrap();
        assert!(refused(Some(1), 2048, 1).starts_with("invalid number 'x\n' in '"));
    }

    #[test]
    fn a_kernel_that_gives_less_is_told_of() {
        let (_dir, root) = host();
        // a number of the kernel's that is not what is written: 0 stands for its default
        let file = root.path(OF_NODE);
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/proc/self/timerslack_ns", &file).unwrap();
        let error = resize_pool(
            &root,
            Pool {
                node: Some(1),
                page_size: 2048,
            },
            Resize::To(0),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "Unable to allocate 0 pages. Allocated only 50000"
        );
    }
}
