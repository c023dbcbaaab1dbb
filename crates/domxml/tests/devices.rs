//! Devices as the reference prints them are read and written without a difference.
//!
//! `data/devices/inactive`, `live` and `status` hold fragments by family, in the form their
//! folder is named after; `whole` holds lists of a running guest.

use std::path::{Path, PathBuf};

use domxml::devices::{Device, Devices, DiskBus, Family, StorageKind};
use xmlform::{Document, Error, FormatFlags, ParseFlags, Writer, Xml, XmlChoice};

const LIVE: (ParseFlags, FormatFlags) = (ParseFlags::NONE, FormatFlags::SECURE);
const STATUS_PARSE: ParseFlags = ParseFlags::STATUS
    .with(ParseFlags::ACTUAL_NET)
    .with(ParseFlags::PCI_ORIG_STATES);
const STATUS_FORMAT: FormatFlags = FormatFlags::STATUS
    .with(FormatFlags::SECURE)
    .with(FormatFlags::ACTUAL_NET)
    .with(FormatFlags::PCI_ORIG_STATES);

type Failure = Box<dyn std::error::Error>;

fn files(folder: &str) -> Result<Vec<PathBuf>, Failure> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/devices");
    let entries = std::fs::read_dir(data.join(folder))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    Ok(paths?)
}

/// Cuts a file at the elements that begin in its first column.
fn fragments(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in text.lines() {
        match all.last_mut() {
            Some(last) if line.starts_with(' ') || line.starts_with("</") => {
                last.push_str(line);
                last.push('\n');
            }
            _ => all.push(format!("{line}\n")),
        }
    }
    all
}

fn rewritten(text: &str, parse: ParseFlags, format: FormatFlags) -> Result<String, Error> {
    let document = Document::parse(text, &[], parse)?;
    let mut writer = Writer::new(format);
    match Device::read_choice(document.root())? {
        Some(device) => device.as_ref().write(&mut writer),
        None => return Err(Error::invalid("not a device")),
    }
    Ok(writer.finish())
}

fn check(folder: &str, (parse, format): (ParseFlags, FormatFlags)) -> Result<(), Failure> {
    let mut seen = 0;
    for path in files(folder)? {
        for fragment in fragments(&std::fs::read_to_string(&path)?) {
            let got = rewritten(&fragment, parse, format);
            assert_eq!(got.as_ref(), Ok(&fragment), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "{folder} holds fragments, found {seen}");
    Ok(())
}

#[test]
fn inactive_devices_are_written_as_they_were_read() -> Result<(), Failure> {
    let format = FormatFlags::INACTIVE | FormatFlags::SECURE;
    check("inactive", (ParseFlags::INACTIVE, format))
}

#[test]
fn live_devices_are_written_as_they_were_read() -> Result<(), Failure> {
    check("live", LIVE)
}

#[test]
fn status_devices_are_written_as_they_were_read() -> Result<(), Failure> {
    check("status", (STATUS_PARSE, STATUS_FORMAT))
}

#[test]
fn whole_lists_keep_the_order_of_families() -> Result<(), Failure> {
    for path in files("whole")? {
        let text = std::fs::read_to_string(&path)?;
        let document = Document::parse(&text, &[], LIVE.0)?;
        let mut writer = Writer::new(LIVE.1);
        writer.element("devices", &Devices::read(document.root())?);
        assert_eq!(writer.finish(), text, "{}", path.display());
    }
    Ok(())
}

fn devices(text: &str, flags: ParseFlags) -> Result<Devices, Error> {
    let text = format!("<devices>{text}</devices>");
    let document = Document::parse(&text, &[], flags)?;
    Devices::read(document.root())
}

const DISK: &str = "<disk type='block'><source dev='/dev/x' index='3'/>\
    <target dev='sda' bus='scsi'/><alias name='scsi0-0-0-0'/></disk>";

#[test]
fn the_inactive_form_has_no_made_up_alias_and_no_node_number() -> Result<(), Error> {
    let live = devices(DISK, ParseFlags::NONE)?;
    let inactive = devices(DISK, ParseFlags::INACTIVE)?;
    let node = |list: &Devices| list.disks[0].source.as_ref().and_then(|s| s.index);
    assert_eq!(live.disks[0].info.alias.as_deref(), Some("scsi0-0-0-0"));
    assert_eq!(node(&live), Some(3));
    assert_eq!(inactive.disks[0].info.alias, None);
    assert_eq!(node(&inactive), None);
    Ok(())
}

#[test]
fn every_device_that_has_shared_parts_is_visited_in_output_order() -> Result<(), Error> {
    let mut list = devices(
        "<graphics type='vnc'/><memballoon model='virtio'/><hub type='usb'/><disk><target dev='a'/></disk>",
        ParseFlags::NONE,
    )?;
    let mut seen = Vec::new();
    list.for_each_info(|family, info| {
        info.alias = Some(format!("{}0", family.name()));
        seen.push(family);
    });
    assert_eq!(seen, [Family::Disk, Family::Hub, Family::Memballoon]);
    assert_eq!(list.disks[0].info.alias.as_deref(), Some("disk0"));
    assert_eq!(list.disks[0].kind, StorageKind::File);
    assert_eq!(list.iter().count(), 4);
    Ok(())
}

fn running(form: &str) -> Result<String, Failure> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/devices/running");
    Ok(std::fs::read_to_string(data.join(form).with_extension("xml"))?)
}

fn text_of(list: &Devices, format: FormatFlags) -> String {
    let mut writer = Writer::new(format);
    writer.element("devices", list);
    writer.finish()
}

#[test]
fn the_status_of_a_guest_shows_as_its_live_and_its_inactive_form() -> Result<(), Failure> {
    let text = running("status")?;
    let document = Document::parse(&text, &[], STATUS_PARSE)?;
    let status = Devices::read(document.root())?;

    let mut live = status.clone();
    live.show_actual();
    assert_eq!(text_of(&live, LIVE.1), running("live")?);

    let mut inactive = status;
    for backing in inactive.disks.iter_mut().filter_map(|disk| disk.backing.as_mut()) {
        backing.detected = true;
    }
    inactive.drop_runtime();
    let format = FormatFlags::INACTIVE | FormatFlags::SECURE;
    assert_eq!(text_of(&inactive, format), running("inactive")?);
    Ok(())
}

#[test]
fn what_a_kind_does_not_know_is_dropped_on_reading() -> Result<(), Error> {
    let list = devices(
        "<disk type='block'><source file='/a' dev='/b' protocol='nbd'/><target dev='a' tray='closed'/>\
           <iotune><total_bytes_sec>0</total_bytes_sec></iotune></disk>\
         <interface type='bridge' managed='yes'><source bridge='b' network='n'/><ip address='::1'/></interface>\
         <serial type='tcp'><source host='h' service='1' path='/x'/></serial>\
         <channel type='udp'><source mode='connect' service='2'/><source mode='bind' service='1'/></channel>\
         <graphics type='sdl' port='5' keymap='de'/>\
         <redirfilter><usbdev class='-1' version='-1' allow='no'/></redirfilter>",
        ParseFlags::INACTIVE,
    )?;
    let mut writer = Writer::new(FormatFlags::INACTIVE);
    writer.element("devices", &list);
    let expected = "<devices>\n  <disk type='block' device='disk'>\n    <source dev='/b'/>\n    <target dev='a'/>\n  </disk>\n  \
        <interface type='bridge'>\n    <source bridge='b'/>\n    <ip address='::1' family='ipv6'/>\n  </interface>\n  \
        <serial type='tcp'>\n    <source mode='connect' host='h' service='1'/>\n    <protocol type='raw'/>\n  </serial>\n  \
        <channel type='udp'>\n    <source mode='bind' service='1'/>\n    <source mode='connect' service='2'/>\n  </channel>\n  \
        <graphics type='sdl'/>\n  <redirfilter>\n    <usbdev allow='no'/>\n  </redirfilter>\n</devices>\n";
    assert_eq!(writer.finish(), expected);
    Ok(())
}

#[test]
fn what_says_no_more_than_its_absence_is_left_out() -> Result<(), Error> {
    let form = (ParseFlags::INACTIVE, FormatFlags::INACTIVE);
    let memory = |source: &str, base: &str| {
        format!(
            "<memory model='virtio-mem'>\n{source}  <target>\n    <size unit='KiB'>4</size>\n{base}  </target>\n</memory>\n"
        )
    };
    let nothing = memory(
        "  <source>\n    <pagesize unit='KiB'>0</pagesize>\n  </source>\n",
        "    <address base='0x0'/>\n",
    );
    // table: what a client writes, what is kept.
    for (given, kept) in [
        (nothing, memory("", "")),
        (
            "<shmem name='s'><size unit='M'>0</size></shmem>".to_owned(),
            "<shmem name='s'/>\n".to_owned(),
        ),
        (
            "<shmem name='s'><server/></shmem>".to_owned(),
            "<shmem name='s'>\n  <server/>\n</shmem>\n".to_owned(),
        ),
        (
            "<interface type='user'><bandwidth><inbound peak='5'/><outbound average='2'/></bandwidth></interface>"
                .to_owned(),
            "<interface type='user'>\n  <bandwidth>\n    <outbound average='2'/>\n  </bandwidth>\n</interface>\n"
                .to_owned(),
        ),
        (
            "<interface type='user'><bandwidth><inbound average='0'/></bandwidth></interface>".to_owned(),
            "<interface type='user'/>\n".to_owned(),
        ),
        (
            "<interface type='client'><source address='h' port='-1'/></interface>".to_owned(),
            "<interface type='client'>\n  <source address='h' port='-1'/>\n</interface>\n".to_owned(),
        ),
        (
            "<hostdev mode='subsystem' type='scsi'><source protocol='iscsi' name='n'><address bus='0' target='0' unit='0'/>\
             <host name='h' port='0'/></source></hostdev>"
                .to_owned(),
            "<hostdev mode='subsystem' type='scsi'>\n  <source protocol='iscsi' name='n'>\n    <host name='h'/>\n  \
             </source>\n</hostdev>\n"
                .to_owned(),
        ),
        (
            "<interface type='user'><portForward proto='tcp'><range start='0'/><range start='22'/></portForward>\
             <coalesce><rx><frames max='0'/></rx></coalesce></interface>"
                .to_owned(),
            "<interface type='user'>\n  <portForward proto='tcp'>\n    <range start='22'/>\n  </portForward>\n</interface>\n"
                .to_owned(),
        ),
        (
            "<hub type='usb'><alias/><alias name='ua-a'/></hub>".to_owned(),
            "<hub type='usb'>\n  <alias name='ua-a'/>\n</hub>\n".to_owned(),
        ),
    ] {
        assert_eq!(rewritten(&given, form.0, form.1)?, kept, "{given}");
    }
    let unnamed = devices("<hub type='usb'><alias name=''/></hub>", ParseFlags::NONE)?;
    assert_eq!(unnamed.hubs[0].info.alias, None);
    Ok(())
}

#[test]
fn words_outside_their_table_are_refused() {
    for (text, says) in [
        ("<disk type='tape'/>", "'tape'"),
        ("<controller/>", "'type'"),
        ("<disk><target dev='a' bus='isa'/></disk>", "'isa'"),
        ("<hub type='usb'><address type='moon'/></hub>", "'moon'"),
        (
            "<hub type='usb'><address type='usb' bus='0' port='1.2.3.4.5'/></hub>",
            "'1.2.3.4.5'",
        ),
        ("<input type='mouse'><boot order='first'/></input>", "'first'"),
    ] {
        let error = devices(text, ParseFlags::NONE).err();
        let message = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(says), "{text}: {message}");
    }
    assert_eq!("scsi".parse(), Ok(DiskBus::Scsi));
}
