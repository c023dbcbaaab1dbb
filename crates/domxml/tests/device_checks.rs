//! What no host could honour is refused with libvirt's kind and words.

use domxml::devices::Devices;
use domxml::{Error, Kind};
use xmlform::{Document, ParseFlags, Xml};

const INTERNAL: Kind = Kind::Internal;
const UNSUPPORTED: Kind = Kind::Unsupported;

const REFUSED: &[(&str, Kind, &str)] = &[
    (
        "<serial type='unix'/>",
        INTERNAL,
        "Missing source path attribute for char device",
    ),
    (
        "<rng model='virtio'><backend model='egd' type='unix'><source mode='connect'/></backend></rng>",
        INTERNAL,
        "Missing source path attribute for char device",
    ),
    (
        "<smartcard mode='passthrough' type='unix'><source mode='bind'/></smartcard>",
        INTERNAL,
        "Missing source path attribute for char device",
    ),
    (
        "<channel type='tcp'><source mode='connect' service='1'/></channel>",
        INTERNAL,
        "Missing source host attribute for char device",
    ),
    (
        "<channel type='tcp'><source mode='connect' host='h'/></channel>",
        INTERNAL,
        "Missing source service attribute for char device",
    ),
    (
        "<channel type='udp'><source mode='bind' service='1'/></channel>",
        INTERNAL,
        "Missing source service attribute for char device",
    ),
    (
        "<channel type='tcp'><source host='a' service='1'/><source host='b' service='2'/></channel>",
        Kind::Xml,
        "only one source element is allowed for character device",
    ),
    (
        "<serial type='unix'><source mode='bind' path='/s'><reconnect enabled='yes'/></source></serial>",
        INTERNAL,
        "chardev reconnect is possible only for connect mode",
    ),
    (
        "<serial type='unix'><source mode='connect' path='/s'><reconnect enabled='yes' timeout='0'/></source></serial>",
        Kind::InvalidArg,
        "chardev reconnect source timeout cannot be '0'",
    ),
    (
        "<graphics type='vnc'><listen type='network'/></graphics>",
        Kind::Xml,
        "'network' attribute is required for listen type 'network'",
    ),
    (
        "<disk type='file' device='lun'><source file='/a'/><target dev='sda'/></disk>",
        UNSUPPORTED,
        "disk device='lun' is only valid for block type disk source",
    ),
    (
        "<disk><auth username='u'/><source file='/a'><auth username='u'/></source><target dev='sda'/></disk>",
        UNSUPPORTED,
        "an <auth> definition already found for disk source",
    ),
    (
        "<disk><encryption format='luks'/><source file='/a'><encryption format='luks'/></source><target dev='a'/></disk>",
        UNSUPPORTED,
        "an <encryption> definition already found for disk source",
    ),
    (
        "<disk><source file='/a'><encryption format='luks'><cipher name='aes'/></encryption></source><target dev='a'/></disk>",
        UNSUPPORTED,
        "supplying <cipher> for domain disk definition is unnecessary",
    ),
    (
        "<disk type='network'><source protocol='iscsi'><auth username='u'><secret type='ceph' usage='x'/></auth></source><target dev='a'/></disk>",
        UNSUPPORTED,
        "invalid secret type 'ceph'",
    ),
    (
        "<disk><source file='/a'><seclabel model='selinux' relabel='yes'/></source><target dev='a'/></disk>",
        Kind::Xml,
        "Cannot specify relabel if label is missing. model=selinux",
    ),
    (
        "<hostdev type='scsi_host' rawio='yes'><source protocol='vhost' wwpn='naa.5'/></hostdev>",
        Kind::Xml,
        "rawio is only supported for scsi host device",
    ),
    (
        "<hostdev type='usb'><source><address bus='1' device='2'/></source></hostdev>\
      <hostdev type='usb'><source><address bus='1' device='2'/></source></hostdev>",
        Kind::Xml,
        "Hostdev already exists in the domain configuration",
    ),
];

const ACCEPTED: &[&str] = &[
    "<channel type='unix'><source mode='bind'/><target type='virtio' name='a'/></channel>",
    "<channel type='udp'><source mode='connect' service='1'/></channel>",
    "<disk><source file='/a'><seclabel model='selinux'/></source><target dev='a'/></disk>",
    "<hostdev type='usb'><source><address bus='1' device='2'/></source></hostdev>\
     <hostdev type='usb'><source><address bus='1' device='3'/></source></hostdev>",
];

fn check(text: &str) -> Result<(), Error> {
    let text = format!("<devices>{text}</devices>");
    let document = Document::parse(&text, &[], ParseFlags::INACTIVE)?;
    Devices::read(document.root())?.check()
}

#[test]
fn refusals_have_libvirts_kind_and_words() {
    for (text, kind, message) in REFUSED {
        assert_eq!(check(text), Err(Error::new(*kind, *message)), "{text}");
    }
}

#[test]
fn what_is_close_to_a_refusal_but_right_passes() {
    for text in ACCEPTED {
        assert_eq!(check(text), Ok(()), "{text}");
    }
}
