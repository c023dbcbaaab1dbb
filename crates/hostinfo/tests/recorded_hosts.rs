//! Hosts recorded as trees of files, each with what libvirt 11.3.0 said about it: `vm` is a small virtual machine,
//! `numa` and `irregular` were composed and laid over the kernel's files for libvirt to read (two nodes with threads
//! and huge pages; an uneven host with a CPU offline, no numbers of dies and caches). So were `desktop` (one socket),
//! `server` (two sockets of two dies each, four nodes), `hybrid` (cores with two threads, and cores in clusters),
//! `parked` (threads and a core offline), `expander` (a node without memory, one without CPUs, a gap in the numbers) and
//! `lopsided` (unlike nodes, no huge pages).
//!
//! `vm.cpuid` and `vm.cpu` are its CPU's words and libvirt's for it: the model, then the features beside.
//!
//! A tree is `== PATH` lines, each followed by the file's text. A reference is `## COMMAND` lines, each followed by
//! virsh's output, from `capabilities` only the elements made of this crate's facts.

#![expect(clippy::unwrap_used, clippy::panic, reason = "it is how a test fails")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use hostinfo::{
    Cell, CellCpu, CpuData, CpuIdentity, CpuModels, HostFacts, MemoryStats, PageCount, Place, Root,
    cell_memory_stats, cell_pages, cells, cpu_map, format_cpu_list, hostname, memory_stats, node_info,
};

fn data_file(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(file)
}

fn unpack(host: &str) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(data_file(&format!("{host}.tree"))).unwrap();
    for part in text.split("== ").skip(1) {
        let (path, content) = part.split_once('\n').unwrap();
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    let root = Root::at(dir.path());
    (dir, root)
}

#[test]
fn a_small_virtual_machine_is_told_of_as_libvirt_does() {
    check("vm");
}

#[test]
fn a_numa_host_with_threads_and_huge_pages_is_told_of_as_libvirt_does() {
    check("numa");
}

#[test]
fn an_uneven_host_with_a_cpu_offline_is_told_of_as_libvirt_does() {
    check("irregular");
}

#[test]
fn a_desktop_of_one_socket_is_told_of_as_libvirt_does() {
    check("desktop");
}

#[test]
fn a_server_with_several_dies_and_distances_is_told_of_as_libvirt_does() {
    check("server");
}

#[test]
fn a_hybrid_host_with_clusters_is_told_of_as_libvirt_does() {
    check("hybrid");
}

#[test]
fn a_host_with_threads_and_cores_offline_is_told_of_as_libvirt_does() {
    check("parked");
}

#[test]
fn cells_without_memory_or_cpus_are_told_of_as_libvirt_does() {
    check("expander");
}

#[test]
fn a_host_of_unlike_cells_is_told_of_as_libvirt_does() {
    check("lopsided");
}

#[test]
fn the_running_host_can_be_read() {
    let facts = HostFacts::read(&Root::default()).unwrap();
    let cpus: usize = facts.cells.iter().map(|cell| cell.cpus.len()).sum();
    assert_eq!(facts.node.cpus as usize, cpus);
    assert!(facts.node.memory > 0 && facts.node.memory <= memory_stats(&Root::default()).unwrap().total);
}

#[test]
fn a_tree_without_the_kernels_files_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let error = node_info(&Root::at(dir.path())).unwrap_err();
    assert!(error.to_string().ends_with("proc/cpuinfo"), "{error}");
}

fn check(host: &str) {
    let (_dir, root) = unpack(host);
    let reference = fs::read_to_string(data_file(&format!("{host}.reference"))).unwrap();
    let mut got = String::new();
    for command in reference.lines().filter_map(|line| line.strip_prefix("## ")) {
        writeln!(got, "## {command}\n{}", answer(&root, command).trim_end()).unwrap();
    }
    assert!(
        got == reference,
        "{}",
        testkit::golden::difference(&reference, &got)
    );
}

fn answer(root: &Root, command: &str) -> String {
    match command {
        "hostname" => hostname(root).unwrap(),
        "nodeinfo" => nodeinfo(root),
        "nodecpumap" => nodecpumap(root),
        "freepages --all" => freepages(root),
        "nodememstats" => memory(&memory_stats(root).unwrap()),
        "nodememstats 0" => memory(&cell_memory_stats(root, 0).unwrap()),
        "capabilities" => capabilities(&HostFacts::read(root).unwrap()),
        other => panic!("{other}"),
    }
}

fn nodeinfo(root: &Root) -> String {
    let info = node_info(root).unwrap();
    format!(
        "CPU model: {}\nCPU(s): {}\nCPU frequency: {} MHz\nCPU socket(s): {}\nCore(s) per socket: {}
Thread(s) per core: {}\nNUMA cell(s): {}\nMemory size: {} KiB",
        info.model, info.cpus, info.mhz, info.sockets, info.cores, info.threads, info.nodes, info.memory
    )
}

fn nodecpumap(root: &Root) -> String {
    let map = cpu_map(root).unwrap();
    let last = *map.present.last().unwrap();
    let marks: String = (0..=last)
        .map(|cpu| if map.online.contains(&cpu) { 'y' } else { '-' })
        .collect();
    let (present, online) = (map.present.len(), map.online.len());
    format!("CPUs present: {present}\nCPUs online: {online}\nCPU map: {marks}")
}

fn freepages(root: &Root) -> String {
    let mut out = String::new();
    for cell in cells(root).unwrap() {
        writeln!(out, "Node {}:", cell.id).unwrap();
        for PageCount { size, free, .. } in cell_pages(root, cell.id).unwrap() {
            writeln!(out, "{size}KiB: {free}").unwrap();
        }
    }
    out
}

fn memory(stats: &MemoryStats) -> String {
    let mut out = format!("total: {} KiB\nfree: {} KiB\n", stats.total, stats.free);
    for (name, value) in [("buffers", stats.buffers), ("cached", stats.cached)] {
        if let Some(value) = value {
            writeln!(out, "{name}: {value} KiB").unwrap();
        }
    }
    out
}

fn capabilities(facts: &HostFacts) -> String {
    let mut out = cpu(facts, &facts.cpu);
    let support = if facts.iommu { "yes" } else { "no" };
    writeln!(out, "<iommu support='{support}'/>").unwrap();
    for one in &facts.cells {
        cell(&mut out, one);
    }
    for bank in &facts.caches {
        let whole = bank.size % 1024 == 0;
        let (size, unit) = if whole {
            (bank.size / 1024, "MiB")
        } else {
            (bank.size, "KiB")
        };
        let cpus = format_cpu_list(&bank.cpus);
        let (id, level, kind) = (bank.id, bank.level, bank.kind.name());
        writeln!(
            out,
            "<bank id='{id}' level='{level}' type='{kind}' size='{size}' unit='{unit}' cpus='{cpus}'/>"
        )
        .unwrap();
    }
    out
}

fn cpu(facts: &HostFacts, cpu: &CpuIdentity) -> String {
    let (arch, vendor) = (&cpu.arch, cpu.vendor.as_deref().unwrap());
    let (microcode, bits) = (cpu.microcode.unwrap(), cpu.physical_bits.unwrap());
    let (family, model, stepping) = (cpu.family.unwrap(), cpu.model.unwrap(), cpu.stepping.unwrap());
    let node = &facts.node;
    let mut out = format!(
        "<arch>{arch}</arch>\n<vendor>{vendor}</vendor>\n<microcode version='{microcode}'/>
<signature family='{family}' model='{model}' stepping='{stepping}'/>
<topology sockets='{}' dies='1' clusters='1' cores='{}' threads='{}'/>
<maxphysaddr mode='emulate' bits='{bits}'/>\n",
        node.sockets, node.cores, node.threads
    );
    for size in &facts.page_sizes {
        writeln!(out, "<pages unit='KiB' size='{size}'/>").unwrap();
    }
    out
}

fn cell(out: &mut String, cell: &Cell) {
    writeln!(out, "<cell id='{}'>", cell.id).unwrap();
    if cell.memory > 0 {
        writeln!(out, "<memory unit='KiB'>{}</memory>", cell.memory).unwrap();
    }
    for PageCount { size, total, .. } in &cell.pages {
        writeln!(out, "<pages unit='KiB' size='{size}'>{total}</pages>").unwrap();
    }
    for distance in &cell.distances {
        writeln!(
            out,
            "<sibling id='{}' value='{}'/>",
            distance.cell, distance.value
        )
        .unwrap();
    }
    for CellCpu {
        id,
        socket,
        die,
        cluster,
        core,
        siblings,
    } in &cell.cpus
    {
        let siblings = format_cpu_list(siblings);
        writeln!(out, "<cpu id='{id}' socket_id='{socket}' die_id='{die}' cluster_id='{cluster}' core_id='{core}' siblings='{siblings}'/>")
            .unwrap();
    }
}

#[test]
fn the_cpu_of_the_virtual_machine_is_described_as_libvirt_does() {
    let data = recorded_cpu(&fs::read_to_string(data_file("vm.cpuid")).unwrap());
    check_cpu("vm.cpu", &data);
}

#[test]
fn the_cpu_of_a_server_with_that_signature_and_these_features_is_described_as_libvirt_does() {
    // its words were not recorded: they follow from the description
    let reference = fs::read_to_string(data_file("server.cpu")).unwrap();
    let (model, beside) = reference.split_once('\n').unwrap();
    let tables = CpuModels::x86();
    let own = tables.model(model).unwrap().features.iter().copied();
    let beside = beside.lines().map(|name| tables.feature(name).unwrap());
    let mut data = recorded_cpu("0 0 1f 756e6547 6c65746e 49656e69\n1 0 a0671 0 0 0");
    for number in own.chain(beside) {
        match tables.features[number].place {
            Place::Cpuid { leaf, register, bit } => data.cpuid.entry(leaf).or_default()[register] |= 1 << bit,
            Place::Msr { index, bit } => *data.msrs.entry(index).or_default() |= 1 << bit,
        }
    }
    assert_eq!(data.signature().unwrap().model, 167);
    check_cpu("server.cpu", &data);
}

fn check_cpu(file: &str, data: &CpuData) {
    let host = CpuModels::x86().describe_host(data).unwrap();
    let mut got = format!("{}\n", host.model);
    for name in host.features {
        writeln!(got, "{name}").unwrap();
    }
    let reference = fs::read_to_string(data_file(file)).unwrap();
    assert!(
        got == reference,
        "{}",
        testkit::golden::difference(&reference, &got)
    );
}

// "LEAF SUBLEAF EAX EBX ECX EDX" or "msr INDEX VALUE", all hexadecimal
fn recorded_cpu(text: &str) -> CpuData {
    let mut data = CpuData::default();
    let number = |word: &str| u64::from_str_radix(word, 16).unwrap();
    for line in text.lines() {
        if let Some((index, value)) = line.strip_prefix("msr ").and_then(|msr| msr.split_once(' ')) {
            let index = u32::try_from(number(index)).unwrap();
            data.msrs.insert(index, number(value));
            continue;
        }
        let words: Vec<u32> = line
            .split(' ')
            .map(|word| number(word).try_into().unwrap())
            .collect();
        data.cpuid
            .insert((words[0], words[1]), words[2..].try_into().unwrap());
    }
    data
}
