//! What validation refuses, and that it refuses nothing that libvirt 11.3.0 itself writes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::Path;

use domxml::{Domain, Grammar};

/// Written by libvirt, but not valid by its own schema either.
const INVALID: &[&str] = &[
    "disk-network-iscsi-zero-hosts-invalid",
    "pci-rom-disabled-invalid",
];

#[test]
fn documents_as_libvirt_keeps_them_are_valid() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/domains");
    let mut count = 0;
    for file in std::fs::read_dir(data).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for part in text.split_inclusive("\n</domain>\n") {
            let (name, document) = part.split_once(" -->\n").unwrap();
            let name = name.trim_start_matches("<!-- ");
            let valid = Domain::check_schema(document);
            let known = INVALID.iter().any(|n| name.starts_with(n));
            assert_eq!(valid.is_err(), known, "{name}: {valid:?}");
            count += 1;
        }
    }
    assert!(count > 370, "{count}");
}

/// libvirt's own schema, where it is installed.
fn installed() -> Option<Grammar> {
    let directory = Path::new("/usr/share/libvirt/schemas");
    if !directory.join("domain.rng").is_file() {
        return None;
    }
    let mut read = |name: &str| std::fs::read_to_string(directory.join(name)).map_err(|e| e.to_string());
    Some(Grammar::load("domain.rng", &mut read).unwrap())
}

#[test]
fn libvirts_schema_says_of_them_what_it_says_to_libvirt() {
    let Some(grammar) = installed() else { return };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/domains");
    for file in std::fs::read_dir(data).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for part in text.split_inclusive("\n</domain>\n") {
            let (name, document) = part.split_once(" -->\n").unwrap();
            let name = name.trim_start_matches("<!-- ");
            let valid = Domain::check_grammar(document, &grammar);
            let known = INVALID.iter().any(|n| name.starts_with(n));
            assert_eq!(valid.is_err(), known, "{name}: {valid:?}");
        }
    }
    for (inside, devices, place) in [
        ("<cpu><numa/></cpu>", "", "/domain/cpu/numa"),
        (
            "<seclabel type='dynamic' model='dac' relabel='no'/>",
            "",
            "/domain/seclabel",
        ),
        ("<features><fly/></features>", "", "/domain/features/fly"),
        (
            "",
            "<disk type='file'><source file='/a'/></disk>",
            "/domain/devices/disk",
        ),
        (
            "",
            "<disk type='network' device='cdrom'><target dev='hda'/></disk>",
            "/domain/devices/disk",
        ),
        (
            "",
            "<hostdev mode='subsystem' type='pci'><source/></hostdev>",
            "/domain/devices/hostdev",
        ),
    ] {
        let error = Domain::check_grammar(&guest("", inside, devices), &grammar).unwrap_err();
        assert!(
            error.message.starts_with(place),
            "{inside}{devices}: {}",
            error.message
        );
    }
    // What the schema leaves open is for the reader.
    let channel = "<channel type='unix'><source mode=''/><target type='virtio' name='a'/></channel>";
    assert_eq!(Domain::check_grammar(&guest("", "", channel), &grammar), Ok(()));
}

/// A valid guest, with places where something is put in.
fn guest(root: &str, inside: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'{root}><name>x</name>{inside}<memory>1</memory>\
         <os><type>hvm</type></os><devices>{devices}</devices></domain>"
    )
}

const URI: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

#[test]
fn what_is_allowed_beside_the_usual_is_accepted() {
    let metadata = "<metadata><a:b xmlns:a='urn:a' c='d'><e>f</e></a:b></metadata>";
    let own_prefix = format!("<q:commandline xmlns:q='{URI}'><q:arg value='-S'/></q:commandline>");
    let unprefixed = format!("<commandline xmlns='{URI}'><arg value='-S'/></commandline>");
    let others = "<lxc:namespace xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>\
                  <lxc:sharenet type='netns' value='red'/></lxc:namespace>";
    let text = guest(" id='3'", metadata, "<disk type='file'><target dev='a'/></disk>");
    assert_eq!(Domain::check_schema(&text), Ok(()));
    for inside in [&own_prefix, &unprefixed, others] {
        assert_eq!(Domain::check_schema(&guest("", inside, "")), Ok(()), "{inside}");
    }
}

#[test]
fn what_does_not_fit_is_named_by_its_path() {
    let ns = " xmlns:q='urn:q'";
    for (root, inside, devices, message) in [
        (" foo='1'", "", "", "/domain/@foo is not known there"),
        ("", "<foo><bar/></foo>", "", "/domain/foo is not known there"),
        ("", "<name>y</name>", "", "/domain/name[2] is not known there"),
        (
            "",
            "<features>a</features>",
            "",
            "/domain/features/text() is not known there",
        ),
        (
            "",
            "<features><acpi a='b'/></features>",
            "",
            "/domain/features/acpi/@a is not known there",
        ),
        (ns, "<q:foo/>", "", "/domain/q:foo is not known there"),
        (
            "",
            "<foo xmlns='urn:q'/>",
            "",
            "/domain/foo is of an unknown namespace",
        ),
        (" xmlns='urn:q'", "", "", "/domain is of an unknown namespace"),
        (
            "",
            "",
            "<disk type='file'/><disk type='file' foo='1'/>",
            "/domain/devices/disk[2]/@foo is not known there",
        ),
        (
            "",
            "",
            "<disk type='file'><target dev='a'/><target dev='b'/></disk>",
            "/domain/devices/disk/target[2] is not known there",
        ),
        ("", "<uuid>1</uuid>", "", "/domain/uuid is '1', not a UUID"),
        ("", "<uuid></uuid>", "", "/domain/uuid is '', not a UUID"),
        (
            "",
            "<title></title>",
            "",
            "/domain/title is '', not text on one line",
        ),
        (
            "",
            "<vcpu placement='x'>1</vcpu>",
            "",
            "Invalid value for attribute 'placement' in element 'vcpu': 'x'.",
        ),
        (
            "",
            "",
            "<interface type='user'><mac address='01:02:03:04:05:06'/></interface>",
            "/domain/devices/interface/mac/@address is '01:02:03:04:05:06', not the MAC address of one card",
        ),
        ("", "", "<serial/>", "/domain/devices/serial/@type is missing"),
        (
            "",
            "",
            "<disk type='file' device='lun'/>",
            "/domain/devices/disk/@type is 'file', not one of block, network, volume",
        ),
    ] {
        let text = guest(root, inside, devices);
        let error = Domain::check_schema(&text).unwrap_err();
        assert_eq!(
            (error.kind.number(), error.message.as_str()),
            (92, message),
            "{text}"
        );
    }
}

#[test]
fn what_makes_no_sense_though_its_form_is_right_is_for_the_reader() {
    let text = guest("", "<vcpu cpuset='3-1'>1</vcpu>", "");
    assert_eq!(Domain::check_schema(&text), Ok(()));
    assert!(Domain::parse(&text, domxml::ParseFlags::NONE).is_err());
}

#[test]
fn what_is_no_domain_is_told_as_ever() {
    let number = |text| Domain::check_schema(text).unwrap_err().kind.number();
    assert_eq!((number("<domain>"), number("<foo/>")), (35, 27));
}

#[test]
fn a_value_of_a_wrong_form_fits_no_schema() {
    let disk = |inside: &str| format!("<disk type='file'><target dev='a'/>{inside}</disk>");
    for (inside, devices) in [
        ("<currentMemory unit='furlong'>1</currentMemory>", String::new()),
        ("<vcpu cpuset='x'>1</vcpu>", String::new()),
        ("", disk("<boot order='0'/>")),
        (
            "",
            disk("<address type='ccw' cssid='0xff' ssid='0x4' devno='0x1'/>"),
        ),
        ("", "<controller type='usb' model='nosuch'/>".to_owned()),
    ] {
        let said = Domain::check_schema(&guest("", inside, &devices));
        let refused = said.as_ref().is_err_and(|error| error.kind.number() == 92);
        assert!(refused, "{inside}{devices}: {said:?}");
    }
    // What does not go together is told in its own words.
    let twice = disk("<boot order='1'/>") + "<disk type='file'><target dev='a'/><boot order='1'/></disk>";
    assert_eq!(Domain::check_schema(&guest("", "", &twice)), Ok(()));
}
