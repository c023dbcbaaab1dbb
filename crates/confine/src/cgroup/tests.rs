//! Groups in made trees, as the kernel would show them.

use std::{fs, path::Path};

use super::*;

/// A tree as a kernel would have it: the files are there before anybody makes the directories' own.
struct Tree(tempfile::TempDir);

impl Tree {
    /// With the mounts in `mounts`: place, kind, options.
    fn new(mounts: &[(&str, &str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        let lines: String = mounts
            .iter()
            .map(|(place, kind, options)| format!("{kind} /{place} {kind} rw,{options} 0 0\n"))
            .collect();
        tree.put("proc/mounts", &lines);
        for (place, _, _) in mounts {
            fs::create_dir_all(tree.0.path().join(place)).unwrap();
        }
        tree
    }
    fn put(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.0.path().join(file)).unwrap_or_else(|error| format!("{file}: {error}"))
    }
    fn has(&self, directory: &str) -> bool {
        self.0.path().join(directory).is_dir()
    }
    fn host(&self) -> Host {
        Host::detect(self.0.path()).unwrap()
    }
    fn root(&self) -> &Path {
        self.0.path()
    }
}

const V1: &[(&str, &str, &str)] = &[
    ("cg/systemd", "cgroup", "name=systemd"),
    ("cg/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
    ("cg/cpuset", "cgroup", "cpuset"),
    ("cg/memory", "cgroup", "memory"),
];
const V2: &[(&str, &str, &str)] = &[("cg", "cgroup2", "nsdelegate")];
const GUEST: &str = "machine/qemu-1-demo.libvirt-qemu";

fn v1() -> Tree {
    let tree = Tree::new(V1);
    for at in ["cg/cpuset", "cg/cpuset/machine", &format!("cg/cpuset/{GUEST}")] {
        tree.put(&format!("{at}/cpuset.cpus"), "0-3");
        tree.put(&format!("{at}/cpuset.mems"), "0");
        tree.put(&format!("{at}/cpuset.memory_migrate"), "1");
    }
    tree
}

fn v2() -> Tree {
    let tree = Tree::new(V2);
    tree.put("cg/cgroup.controllers", "cpuset cpu io memory pids\n");
    for at in ["cg", "cg/machine", &format!("cg/{GUEST}")] {
        tree.put(&format!("{at}/cgroup.subtree_control"), "");
    }
    tree
}

fn guest(tree: &Tree) -> Group {
    Group::of_guest(&tree.host(), "/machine", "qemu-1-demo")
}

#[test]
fn each_controller_is_with_the_version_that_has_it() {
    let first = guest(&v1());
    let with: Vec<_> = Controller::ALL
        .into_iter()
        .filter(|c| first.has(*c))
        .map(Controller::name)
        .collect();
    assert_eq!(with, ["cpu", "cpuacct", "cpuset", "memory"]);
    let mut mounts = V1.to_vec();
    mounts.push(("cg/unified", "cgroup2", ""));
    let both = Tree::new(&mounts);
    assert_eq!(both.host().backend(Controller::Cpu), Some(Backend::V1));
    assert_eq!(
        both.host().backend(Controller::CpuAcct),
        Some(Backend::V2),
        "each group of version 2 counts"
    );
    assert_eq!(v2().host().backend(Controller::Blkio), Some(Backend::V2));
    assert!(!Tree::new(&[("sys", "sysfs", "")]).host().is_any());
}

#[test]
fn controllers_that_are_not_wanted_are_left_alone() {
    let group = Group::of_guest(&v1().host().only(&["cpu".to_owned()]), "/machine", "qemu-1-demo");
    assert!(group.has(Controller::Cpu) && !group.has(Controller::Memory) && !group.has(Controller::CpuAcct));
}

#[test]
fn a_guest_is_found_by_its_process() {
    let tree = v1();
    let at = |lines: &str| {
        tree.put("proc/7/cgroup", lines);
        Group::of_process(&tree.host(), 7).unwrap()
    };
    assert_eq!(at("4:memory:/user\n2:cpu,cpuacct:/\n0::/\n"), None, "no guest's");
    let found =
        at("4:memory:/machine/qemu-1-demo.libvirt-qemu\n2:cpu,cpuacct:/machine/qemu-1-demo.libvirt-qemu/emulator\n0::/x\n").unwrap();
    assert!(found.has(Controller::Memory) && found.has(Controller::Cpu) && !found.has(Controller::CpuSet));
    let root = tree
        .root()
        .join("cg/cpu,cpuacct/machine/qemu-1-demo.libvirt-qemu");
    assert_eq!(
        found.directory(Controller::Cpu),
        Some((Backend::V1, root.as_path()))
    );
    let scope = at("2:cpu,cpuacct:/machine.slice/machine-qemu\\x2d1\\x2ddemo.scope/libvirt/vcpu0\n").unwrap();
    let place = tree
        .root()
        .join("cg/cpu,cpuacct/machine.slice/machine-qemu\\x2d1\\x2ddemo.scope/libvirt");
    assert_eq!(
        scope.directory(Controller::Cpu),
        Some((Backend::V1, place.as_path()))
    );
    assert!(Group::of_process(&tree.host(), 8).is_err());
}

#[test]
fn version_1_is_made_and_tuned_by_its_files() {
    let tree = v1();
    let group = guest(&tree);
    group.make(true).unwrap();
    assert!(tree.has(&format!("cg/memory/{GUEST}")) && !tree.has(&format!("cg/systemd/{GUEST}")));
    let cpu = format!("cg/cpu,cpuacct/{GUEST}");
    for (file, text) in [
        ("cpu.shares", "1024\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("cpu.cfs_quota_us", "-1\n"),
        ("tasks", ""),
    ] {
        tree.put(&format!("{cpu}/{file}"), text);
    }
    assert_eq!(
        (group.shares().unwrap(), group.bandwidth().unwrap()),
        (
            1024,
            Bandwidth {
                period: 100_000,
                quota: -1
            }
        )
    );
    group.set_shares(300).unwrap();
    group.set_bandwidth(Some(50_000), Some(20_000)).unwrap();
    let shown = ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"]
        .map(|file| tree.get(&format!("{cpu}/{file}")));
    assert_eq!(shown, ["300", "50000", "20000"]);
    tree.put(&format!("{cpu}/cpuacct.usage"), "5000000000\n");
    tree.put(&format!("{cpu}/cpuacct.usage_percpu"), "3000000000 2000000000 \n");
    tree.put(&format!("{cpu}/cpuacct.stat"), "user 300\nsystem 200\n");
    assert_eq!(group.cpu_times().unwrap().total, 5_000_000_000);
    assert_eq!(
        group.cpu_time_by_cpu().unwrap(),
        Some(vec![3_000_000_000, 2_000_000_000])
    );
}

#[test]
fn limits_of_memory_are_kib_and_none_is_none() {
    let (first, second) = (v1(), v2());
    let of = [
        (&first, format!("cg/memory/{GUEST}/memory.limit_in_bytes"), "-1"),
        (&second, format!("cg/{GUEST}/memory.max"), "max"),
    ];
    for (tree, file, none) in of {
        tree.put(&file, "");
        let group = guest(tree);
        group.set_memory_limit(MemoryLimit::Hard, 4).unwrap();
        assert_eq!(tree.get(&file), "4096");
        assert_eq!(group.memory_limit(MemoryLimit::Hard).unwrap(), 4);
        group.set_memory_limit(MemoryLimit::Hard, UNLIMITED_KIB).unwrap();
        assert_eq!(tree.get(&file), none);
    }
    for kernel in ["9223372036854771712\n", "9223372036854710272\n"] {
        first.put(&format!("cg/memory/{GUEST}/memory.limit_in_bytes"), kernel);
        assert_eq!(
            guest(&first).memory_limit(MemoryLimit::Hard).unwrap(),
            UNLIMITED_KIB
        );
    }
}

#[test]
fn version_2_gives_its_controllers_downwards() {
    let tree = v2();
    let group = guest(&tree);
    group.make(true).unwrap();
    for at in ["cg", "cg/machine"] {
        assert_eq!(
            tree.get(&format!("{at}/cgroup.subtree_control")),
            "+io",
            "the last of those written"
        );
    }
    let part = group.part(Part::Vcpu(0));
    tree.put(&format!("cg/{GUEST}/vcpu0/cgroup.type"), "domain\n");
    tree.put(&format!("cg/{GUEST}/cgroup.subtree_control"), "");
    part.make_part().unwrap();
    assert_eq!(tree.get(&format!("cg/{GUEST}/vcpu0/cgroup.type")), "threaded");
    assert_eq!(
        tree.get(&format!("cg/{GUEST}/cgroup.subtree_control")),
        "+cpuset",
        "threads have no part of memory and disks"
    );
}

#[test]
fn version_2_is_tuned_by_its_files() {
    let tree = v2();
    let group = guest(&tree);
    let put = |file: &str, text: &str| tree.put(&format!("cg/{GUEST}/{file}"), text);
    let get = |file: &str| tree.get(&format!("cg/{GUEST}/{file}"));
    put("cpu.max", "max 100000\n");
    assert_eq!(
        group.bandwidth().unwrap(),
        Bandwidth {
            period: 100_000,
            quota: -1
        }
    );
    group.set_bandwidth(None, Some(20_000)).unwrap();
    assert_eq!(get("cpu.max"), "20000 100000");
    group.set_bandwidth(Some(50_000), Some(-1)).unwrap();
    assert_eq!(get("cpu.max"), "max 50000");
    put(
        "cpu.stat",
        "usage_usec 7\nuser_usec 5\nsystem_usec 2\nnr_periods 0\n",
    );
    assert_eq!(
        group.cpu_times().unwrap(),
        CpuTimes {
            total: 7000,
            user: 5000,
            system: 2000
        }
    );
    assert_eq!(group.cpu_time_by_cpu().unwrap(), None);
    assert_eq!(
        group.block_weight().unwrap(),
        None,
        "this scheduler has no weights"
    );
    put("io.weight", "default 100\n8:0 50\n");
    assert_eq!(group.block_weight().unwrap(), Some(100));
    assert!(group.set_block_weight(300).unwrap());
    assert_eq!(get("io.weight"), "default 300");
    put("io.max", "");
    group.set_block_limit((8, 16), BlockLimit::WriteBytes, 0).unwrap();
    assert_eq!(get("io.max"), "8:16 wbps=max");
}

#[test]
fn a_group_is_removed_with_those_in_it_and_once_more_without_harm() {
    let tree = v1();
    fs::remove_dir_all(tree.root().join(format!("cg/cpuset/{GUEST}"))).unwrap();
    let group = guest(&tree);
    fs::create_dir_all(tree.root().join(format!("cg/memory/{GUEST}/vcpu0"))).unwrap();
    group.remove().unwrap();
    assert!(!tree.has(&format!("cg/memory/{GUEST}")) && tree.has("cg/memory/machine"));
    group.remove().unwrap();
}

#[test]
fn what_the_kernel_refuses_is_told_with_the_file() {
    let error = guest(&v1()).set_shares(5).unwrap_err();
    assert!(
        error.what.starts_with("Unable to write to '") && error.what.ends_with("cpu.shares'"),
        "{error}"
    );
}

#[test]
fn a_group_that_a_former_run_left_is_made_anew() {
    let tree = Tree::new(V1);
    fs::create_dir_all(tree.root().join(format!("cg/memory/{GUEST}/emulator"))).unwrap();
    // As one in use, which can't be removed.
    tree.put(&format!("cg/cpu,cpuacct/{GUEST}/vcpu0/tasks"), "7");
    let group = Group::of_guest(
        &tree.host().only(&["cpu".to_owned(), "memory".to_owned()]),
        "/machine",
        "qemu-1-demo",
    );
    group.make(true).unwrap();
    assert!(tree.has(&format!("cg/memory/{GUEST}")) && !tree.has(&format!("cg/memory/{GUEST}/emulator")));
    assert!(tree.has(&format!("cg/cpu,cpuacct/{GUEST}/vcpu0")));
}

#[test]
fn in_a_unit_of_systemds_a_guest_has_a_group_of_its_own() {
    const UNIT: &str = "machine.slice/machine-qemu\\x2d1\\x2ddemo.scope";
    let tree = v2();
    let own = format!("cg/{UNIT}/libvirt");
    tree.put(&format!("cg/{UNIT}/cgroup.subtree_control"), "");
    tree.put(&format!("{own}/cgroup.procs"), "");
    tree.put("proc/7/cgroup", &format!("0::/{UNIT}\n"));
    let unit = Group::of_process(&tree.host(), 7).unwrap().unwrap();
    let nested = unit.nest(7).unwrap();
    assert_eq!(tree.get(&format!("{own}/cgroup.procs")), "7");
    assert_eq!(tree.get(&format!("cg/{UNIT}/cgroup.subtree_control")), "+io");
    let directory = tree.root().join(&own);
    assert_eq!(
        nested.directory(Controller::Cpu),
        Some((Backend::V2, directory.as_path()))
    );
    // Found again, by either daemon, whichever thread is asked.
    tree.put("proc/7/cgroup", &format!("0::/{UNIT}/libvirt/emulator\n"));
    let found = Group::of_process(&tree.host(), 7).unwrap().unwrap();
    assert_eq!(found, nested);
    assert_eq!(found.nest(7).unwrap(), nested);
}

#[test]
fn with_version_1_it_has_one_for_each_controller() {
    const UNIT: &str = "machine.slice/machine-qemu\\x2d1\\x2ddemo.scope";
    let tree = v1();
    let lines = format!("3:memory:/{UNIT}\n2:cpu,cpuacct:/{UNIT}\n1:name=systemd:/{UNIT}\n");
    tree.put("proc/7/cgroup", &lines);
    for mount in ["memory", "cpu,cpuacct"] {
        tree.put(&format!("cg/{mount}/{UNIT}/libvirt/tasks"), "");
    }
    let unit = Group::of_process(&tree.host(), 7).unwrap().unwrap();
    let nested = unit.nest(7).unwrap();
    for mount in ["memory", "cpu,cpuacct"] {
        assert_eq!(tree.get(&format!("cg/{mount}/{UNIT}/libvirt/tasks")), "7");
    }
    tree.put("proc/7/cgroup", &lines.replace(".scope", ".scope/libvirt"));
    assert_eq!(Group::of_process(&tree.host(), 7).unwrap().unwrap(), nested);
}
