//! A host's files as a kernel or firmware gone wrong could show them: everything is read, nothing panics.
//!
//! The input is files one after another: a byte that picks the path, two bytes of length, the content.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use hostinfo::{HostFacts, Pool, Resize, Root};
use libfuzzer_sys::fuzz_target;

/// What a tree can hold. Others of the kind are read by the same code.
const FILES: &[&str] = &[
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/stat",
    "proc/self/auxv",
    "proc/sys/kernel/hostname",
    "proc/sys/kernel/arch",
    "etc/hosts",
    "etc/machine-id",
    "sys/firmware/dmi/tables/smbios_entry_point",
    "sys/firmware/dmi/tables/DMI",
    "sys/devices/virtual/dmi/id/product_uuid",
    "sys/power/state",
    "sys/kernel/mm/ksm/pages_to_scan",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
    "sys/devices/system/cpu/present",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/cpu0/topology/physical_package_id",
    "sys/devices/system/cpu/cpu0/topology/die_id",
    "sys/devices/system/cpu/cpu0/topology/cluster_id",
    "sys/devices/system/cpu/cpu0/topology/core_id",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "sys/devices/system/cpu/cpu1/topology/physical_package_id",
    "sys/devices/system/cpu/cpu1/topology/core_id",
    "sys/devices/system/cpu/cpu0/cache/index2/id",
    "sys/devices/system/cpu/cpu0/cache/index2/level",
    "sys/devices/system/cpu/cpu0/cache/index2/type",
    "sys/devices/system/cpu/cpu0/cache/index2/size",
    "sys/devices/system/cpu/cpu0/cache/index2/shared_cpu_list",
    "sys/devices/system/node/node0/meminfo",
    "sys/devices/system/node/node0/distance",
    "sys/devices/system/node/node0/cpu0/uevent",
    "sys/devices/system/node/node1/meminfo",
    "sys/devices/system/node/node1/cpu1/uevent",
    "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
];

static DIR: LazyLock<Option<tempdir::Dir>> = LazyLock::new(tempdir::Dir::new);

fuzz_target!(|input: &[u8]| {
    let Some(dir) = DIR.as_ref() else { return };
    dir.fill(input);
    let root = Root::at(dir.path());
    let _ = HostFacts::read(&root);
    let _ = hostinfo::cpu_times(&root, None);
    let _ = hostinfo::cpu_times(&root, Some(0));
    let _ = hostinfo::memory_stats(&root);
    let _ = hostinfo::cell_memory_stats(&root, 0);
    let _ = hostinfo::pages(&root);
    let _ = hostinfo::ksm(&root);
    let _ = hostinfo::kernel(&root);
    let _ = hostinfo::hostname(&root);
    let _ = hostinfo::machine_id(&root);
    let _ = hostinfo::sleep_states(&root);
    let _ = hostinfo::resize_pool(
        &root,
        Pool {
            node: None,
            page_size: 2048,
        },
        Resize::By(1),
    );
    if let Ok(Some(told)) = hostinfo::sysinfo(&root) {
        // A memory device of 23 bytes has at most some 400 in words; a string stands for at most seven values.
        let values = told.tables.iter().flat_map(|table| &table.entries);
        let size: usize = values.map(|(_, value)| value.len()).sum();
        assert!(size <= 64 * (input.len() + 1), "{size} bytes of {}", input.len());
        assert!(told.oem_strings.len() <= 4096);
    }
});

/// One directory for all inputs: its files are written anew for each.
mod tempdir {
    use super::*;

    pub struct Dir(std::path::PathBuf);

    impl Dir {
        pub fn new() -> Option<Self> {
            let memory = Path::new("/dev/shm");
            let base = if memory.is_dir() {
                memory.to_owned()
            } else {
                std::env::temp_dir()
            };
            let dir = base.join(format!("host_tree.{}", std::process::id()));
            fs::create_dir_all(&dir).ok().map(|()| Self(dir))
        }

        pub fn path(&self) -> &Path {
            &self.0
        }

        /// Holds what the input says and nothing else.
        pub fn fill(&self, mut input: &[u8]) {
            let _ = fs::remove_dir_all(&self.0);
            while let [which, low, high, rest @ ..] = input {
                let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
                let (content, behind) = rest.split_at(length);
                let file = self.0.join(FILES[usize::from(*which) % FILES.len()]);
                if let Some(parent) = file.parent() {
                    let _ = fs::create_dir_all(parent);
                }
                let _ = fs::write(file, content);
                input = behind;
            }
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
