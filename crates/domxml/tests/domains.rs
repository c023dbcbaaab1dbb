//! Documents as libvirt 11.3.0 keeps them come out unchanged.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::Path;

use domxml::{Domain, FormatFlags, ParseFlags};

/// Every document of a file, with the name in the comment before it.
fn documents(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_inclusive("\n</domain>\n").filter_map(|part| {
        let (name, document) = part.split_once(" -->\n")?;
        Some((name.trim_start_matches("<!-- "), document))
    })
}

/// The first line that differs.
fn difference(expected: &str, got: &str) -> String {
    let mut lines = expected.lines().zip(got.lines());
    match lines.find(|(a, b)| a != b) {
        Some((a, b)) => format!("{a:?} became {b:?}"),
        None => "one is longer".to_owned(),
    }
}

fn check(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap();
    let mut count = 0;
    for (name, document) in documents(&text) {
        let domain = Domain::parse(document, ParseFlags::NONE).unwrap_or_else(|e| panic!("{name}: {e}"));
        let again = domain.format(FormatFlags::SECURE);
        assert!(again == document, "{name}: {}", difference(document, &again));
        count += 1;
    }
    count
}

#[test]
fn every_document_comes_out_unchanged() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/domains");
    let files = std::fs::read_dir(data).unwrap();
    let count: usize = files.map(|f| check(&f.unwrap().path())).sum();
    assert!(count > 370, "{count}");
}

#[test]
fn secrets_and_what_only_a_running_guest_has_are_left_out() {
    let text = "<domain type='kvm' id='7'><name>x</name><devices><disk type='file'>\
                <alias name='d0'/></disk><graphics type='vnc' passwd='p'/></devices></domain>";
    let domain = Domain::parse(text, ParseFlags::NONE).unwrap();
    let live = domain.format(FormatFlags::NONE);
    assert!(live.contains("id='7'") && live.contains("d0") && !live.contains("passwd"));
    let inactive = domain.format(FormatFlags::INACTIVE | FormatFlags::SECURE);
    assert!(!inactive.contains("id=") && !inactive.contains("d0") && inactive.contains("passwd"));
    let read = Domain::parse(text, ParseFlags::INACTIVE).unwrap();
    assert_eq!(read.id, None);
}

#[test]
fn values_that_libvirt_overlooks_are_overlooked() {
    let text = "<domain type='qemu'><memory></memory><maxMemory slots=''>1</maxMemory>\
                <blkiotune><weight>x</weight></blkiotune><clock offset='' adjustment='x'/>\
                <os><smbios mode=''/></os></domain>";
    let domain = Domain::parse(text, ParseFlags::NONE).unwrap();
    assert_eq!((domain.memory, domain.max_memory.unwrap().slots), (None, None));
    assert_eq!(domain.clock.unwrap().adjustment, None);
    assert_eq!((domain.blkiotune.unwrap().weight, domain.os.smbios), (None, None));
}

#[test]
fn repeated_groups_count_as_one_and_repeated_values_once() {
    let text = "<domain type='qemu'><name>a</name><name>b</name>\
                <os><kernel>/a</kernel><boot dev='network'/></os>\
                <os firmware='efi'><kernel>/b</kernel><cmdline>z</cmdline><boot dev='hd'/></os>\
                <features><acpi/></features><features><pae/></features>\
                <cpu mode='maximum'/><cpu mode='custom'/>\
                <devices><input type='tablet'/></devices><devices><input type='mouse'/></devices>\
                </domain>";
    let domain = Domain::parse(text, ParseFlags::NONE).unwrap();
    let features = domain.features.unwrap();
    assert_eq!((domain.name.as_str(), domain.devices.inputs.len()), ("a", 2));
    assert_eq!((features.acpi, features.pae), (true, true));
    assert_eq!(
        (domain.os.boot.len(), domain.os.kernel.as_deref()),
        (2, Some("/a"))
    );
    assert_eq!(domain.os.firmware.map(|f| f.as_str()), Some("efi"));
    assert_eq!(
        domain.cpu.and_then(|c| c.mode).map(|m| m.as_str()),
        Some("maximum")
    );
}

#[test]
fn an_empty_namespace_is_not_declared() {
    let text = "<domain type='kvm'><qemu:capabilities \
                xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'/></domain>";
    let domain = Domain::parse(text, ParseFlags::NONE).unwrap();
    assert!(!domain.format(FormatFlags::NONE).contains("qemu"));
}

#[test]
fn a_prefix_of_ones_own_means_the_same_namespace() {
    let text = "<domain type='kvm' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
                <q:commandline><q:arg value='-S'/></q:commandline><qemu:commandline/></domain>";
    let domain = Domain::parse(text, ParseFlags::NONE).unwrap();
    assert_eq!(domain.qemu.commandline.unwrap().args[0].value, "-S");
}
