//! Firmware tables made by hand, each with the document that libvirt 11.3.0 makes of what dmidecode 3.4 prints for it:
//! `machine` is as they usually are, `odd` has what should not be in them, `numbers` goes through the words for
//! numbers, `legacy` has the older entry point.
//!
//! Tables are `== PATH` lines, each followed by the file's bytes in hexadecimal.

#![expect(clippy::unwrap_used, reason = "it is how a test fails")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use hostinfo::{Root, sysinfo};

fn data_file(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/smbios")
        .join(file)
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: String = hexadecimal.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn files(host: &str) -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(data_file(&format!("{host}.tables"))).unwrap();
    let parts = text
        .split("== ")
        .skip(1)
        .map(|part| part.split_once('\n').unwrap());
    parts
        .map(|(path, content)| (path.to_owned(), bytes(content)))
        .collect()
}

fn unpack(files: &[(String, Vec<u8>)]) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    let root = Root::at(dir.path());
    (dir, root)
}

fn document(root: &Root) -> String {
    let told = sysinfo(root).unwrap().unwrap();
    let mut out = "<sysinfo type='smbios'>\n".to_owned();
    for table in &told.tables {
        writeln!(out, "  <{}>", table.element).unwrap();
        for (name, value) in &table.entries {
            writeln!(out, "    <entry name='{name}'>{}</entry>", escaped(value)).unwrap();
        }
        writeln!(out, "  </{}>", table.element).unwrap();
    }
    if !told.oem_strings.is_empty() {
        out += "  <oemStrings>\n";
        for value in &told.oem_strings {
            writeln!(out, "    <entry>{}</entry>", escaped(value)).unwrap();
        }
        out += "  </oemStrings>\n";
    }
    out + "</sysinfo>\n"
}

fn escaped(value: &str) -> String {
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&apos;")
        .replace('"', "&quot;")
}

fn check(host: &str) {
    let (_dir, root) = unpack(&files(host));
    let reference = fs::read_to_string(data_file(&format!("{host}.xml"))).unwrap();
    let got = document(&root);
    assert!(
        got == reference,
        "{}",
        testkit::golden::difference(&reference, &got)
    );
}

#[test]
fn a_machine_is_told_of_as_libvirt_does() {
    check("machine");
}

#[test]
fn odd_strings_and_a_broken_structure_are_told_of_as_libvirt_does() {
    check("odd");
}

#[test]
fn numbers_have_the_words_that_libvirt_shows() {
    check("numbers");
}

#[test]
fn tables_with_the_older_entry_point_are_told_of_as_libvirt_does() {
    check("legacy");
}

#[test]
fn without_tables_or_with_a_wrong_entry_point_there_is_nothing() {
    let all = files("machine");
    for kept in [&all[..0], &all[..1], &all[1..]] {
        let (_dir, root) = unpack(kept);
        assert_eq!(sysinfo(&root).unwrap(), None);
    }
    let mut wrong = all;
    wrong[0].1[7] ^= 1;
    let (_dir, root) = unpack(&wrong);
    assert_eq!(sysinfo(&root).unwrap(), None);
}

#[test]
fn a_table_cut_anywhere_is_read_up_to_there() {
    let all = files("machine");
    let whole = sysinfo(&unpack(&all).1).unwrap();
    let lengths = (0..all[1].1.len()).step_by(7);
    for length in lengths {
        let mut cut = all.clone();
        cut[1].1.truncate(length);
        let (_dir, root) = unpack(&cut);
        let told = sysinfo(&root).unwrap().unwrap();
        assert!(told.tables.len() <= whole.as_ref().map_or(0, |whole| whole.tables.len()));
    }
}
