//! A cheap look at whether anything has come or gone that [`crate::HostFacts`] tell of: CPUs, memory, huge pages,
//! microcode, IOMMU groups. A few small reads, where the facts take hundreds.

use std::os::unix::fs::MetadataExt;

use crate::error::Result;
use crate::memory::{HUGE, cell_memory_stats, huge_sizes, memory_stats};
use crate::node::{CPUS, NODES};
use crate::root::Root;

const IOMMU_GROUPS: &str = "sys/kernel/iommu_groups";

/// Where to look. Good for as long as the prints stay the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landmarks {
    files: Vec<String>,
    nodes: Vec<u32>,
}

/// What there was to see. Two that are equal mean that the facts between them are, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Print {
    texts: Vec<Option<String>>,
    /// Totals in KiB, from where the facts have them: the NUMA nodes' files, which can follow a change of the host's
    /// memory later than `/proc/meminfo`, or without it.
    memory: Vec<u64>,
    groups: Option<u64>,
}

impl Landmarks {
    /// Finds them.
    ///
    /// # Errors
    /// When a directory of the kernel's is there and cannot be read.
    pub fn of(root: &Root) -> Result<Self> {
        let mut files = vec![
            format!("{CPUS}/online"),
            format!("{CPUS}/present"),
            format!("{NODES}/online"),
            format!("{CPUS}/cpu0/microcode/version"),
        ];
        let nodes = root.numbered(NODES, "node")?;
        let mut pools = vec![HUGE.to_owned()];
        pools.extend(nodes.iter().map(|node| format!("{NODES}/node{node}/hugepages")));
        for pool in pools {
            files.extend(
                huge_sizes(root, &pool)?
                    .into_iter()
                    .map(|size| format!("{pool}/hugepages-{size}kB/nr_hugepages")),
            );
        }
        Ok(Self { files, nodes })
    }

    /// Looks at them.
    ///
    /// # Errors
    /// When the kernel's files are missing or not understood.
    pub fn print(&self, root: &Root) -> Result<Print> {
        Ok(Print {
            texts: self
                .files
                .iter()
                .map(|file| root.optional(file))
                .collect::<Result<_>>()?,
            memory: self.memory(root)?,
            // A link a group.
            groups: std::fs::metadata(root.path(IOMMU_GROUPS))
                .ok()
                .map(|meta| meta.nlink()),
        })
    }

    fn memory(&self, root: &Root) -> Result<Vec<u64>> {
        if self.nodes.is_empty() {
            return Ok(vec![memory_stats(root)?.total]);
        }
        self.nodes
            .iter()
            .map(|node| Ok(cell_memory_stats(root, *node)?.total))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn write(&self, file: &str, text: &str) {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn root(&self) -> Root {
            Root::at(self.0.path())
        }
    }

    #[test]
    fn what_comes_or_goes_changes_the_print_and_nothing_else_does() {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\n");
        tree.write("sys/devices/system/cpu/online", "0-3\n");
        let root = tree.root();
        let landmarks = Landmarks::of(&root).unwrap();
        let mut last = landmarks.print(&root).unwrap();
        tree.write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 9 kB\n");
        assert_eq!(landmarks.print(&root).unwrap(), last);
        for (file, text) in [
            ("proc/meminfo", "MemTotal: 2000 kB\nMemFree: 9 kB\n"),
            ("sys/devices/system/cpu/online", "0-2\n"),
            ("sys/devices/system/node/online", "0-1\n"),
            ("sys/devices/system/cpu/cpu0/microcode/version", "0x2\n"),
        ] {
            tree.write(file, text);
            let now = landmarks.print(&root).unwrap();
            assert_ne!(now, last, "{file}");
            last = now;
        }
        fs::create_dir_all(tree.0.path().join("sys/kernel/iommu_groups/0")).unwrap();
        assert_ne!(landmarks.print(&root).unwrap(), last);
    }

    #[test]
    fn where_there_are_nodes_their_own_files_count() {
        const NODE: &str = "sys/devices/system/node/node0";
        let tree = Tree(tempfile::tempdir().unwrap());
        let pool = format!("{NODE}/hugepages/hugepages-2048kB/nr_hugepages");
        tree.write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\n");
        tree.write(
            &format!("{NODE}/meminfo"),
            "Node 0 MemTotal: 900 kB\nNode 0 MemFree: 8 kB\n",
        );
        tree.write(&pool, "0\n");
        let root = tree.root();
        let landmarks = Landmarks::of(&root).unwrap();
        let mut last = landmarks.print(&root).unwrap();
        tree.write("proc/meminfo", "MemTotal: 2000 kB\nMemFree: 9 kB\n");
        assert_eq!(landmarks.print(&root).unwrap(), last, "no fact is from there");
        for (file, text) in [
            (
                format!("{NODE}/meminfo"),
                "Node 0 MemTotal: 1900 kB\nNode 0 MemFree: 8 kB\n",
            ),
            (pool, "5\n"),
        ] {
            tree.write(&file, text);
            let now = landmarks.print(&root).unwrap();
            assert_ne!(now, last, "{file}");
            last = now;
        }
    }
}
