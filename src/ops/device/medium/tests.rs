//! What may change of a drive, and which block nodes it has.

use domxml::devices::Device;
use xmlform::{Document as XmlDocument, ParseFlags, XmlChoice};

use crate::ops::device::medium::*;

fn disk(xml: &str) -> Result<Disk> {
    match crate::ops::device::read(xml)? {
        Device::Disk(disk) => Ok(*disk),
        other => panic!("{other:?}"),
    }
}

const DRIVE: &str = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/a.iso' index='2'/><backingStore/>
    <target dev='sda' bus='sata'/><readonly/><alias name='sata0-0-0'/><address type='drive' controller='0' bus='0' target='0' unit='0'/></disk>";

fn live(xml: &str) -> Disk {
    let document = XmlDocument::parse(xml, &[], ParseFlags::NONE).unwrap();
    match Device::read_choice(document.root()).unwrap() {
        Some(Device::Disk(disk)) => *disk,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_medium_may_change() {
    let old = live(DRIVE);
    // What the new document says, and the field that libvirt names.
    let cases = [
        (
            "<disk type='file' device='cdrom'><source file='/b.iso'/><target dev='sda' bus='sata'/></disk>",
            None,
        ),
        (
            "<disk type='file' device='cdrom'><target dev='sda'/></disk>",
            None,
        ),
        (
            "<disk type='file' device='cdrom'><target dev='sda' bus='ide'/></disk>",
            Some("bus"),
        ),
        (
            "<disk type='file' device='disk'><target dev='sda' bus='sata'/></disk>",
            Some("device"),
        ),
        (
            "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><serial>x</serial></disk>",
            Some("serial"),
        ),
        (
            "<disk type='file' device='cdrom'><driver cache='none'/><target dev='sda' bus='sata'/></disk>",
            Some("cache"),
        ),
    ];
    for (xml, field) in cases {
        let refused = only_the_medium(&old, &disk(xml).unwrap())
            .err()
            .map(|e| e.message.into_owned());
        assert_eq!(
            refused,
            field.map(|f| format!("cannot modify field '{f}' of the disk")),
            "{xml}"
        );
    }
}

#[test]
fn a_drive_is_emptied_and_filled_and_keeps_all_else() {
    let old = live(DRIVE);
    let empty = with_medium(
        &old,
        &disk("<disk type='file' device='cdrom'><target dev='sda'/></disk>").unwrap(),
    );
    assert!(is_empty(&empty) && nodes(&empty).unwrap().is_empty() && !same_medium(&old, &empty));
    assert_eq!(empty.info, old.info);
    let mut other = with_medium(
        &empty,
        &disk("<disk type='file' device='cdrom'><source file='/b.iso'/><target dev='sda'/></disk>").unwrap(),
    );
    assert_eq!(block::number_disk(&mut other, 4), 5);
    let names: Vec<_> = nodes(&other).unwrap().iter().map(name_of).collect();
    assert_eq!(names, ["libvirt-4-storage"]);
    assert_eq!(nodes(&other).unwrap()[0]["read-only"], true);
}

#[test]
fn the_same_medium_keeps_its_nodes() {
    let old = live(DRIVE);
    let wanted =
        disk("<disk type='file' device='cdrom'><source file='/a.iso' startupPolicy='optional'/><target dev='sda'/></disk>").unwrap();
    let new = with_medium(&old, &wanted);
    assert!(same_medium(&old, &new));
    let kept = keeping_nodes(&old, new);
    let source = kept.source.unwrap();
    assert_eq!((source.index, source.startup_policy.is_some()), (Some(2), true));
}
