//! What all devices share: boot order, option ROM, ACPI index, address.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::{Form, unsigned};
use super::rule::{Checked, Rule, Rules, When, attr, domain, given, number, of, on, word, yes};
use crate::Error;
use Rule::{Check, Child, If};

/// What devices share.
pub(super) const INFO: Rules = &[
    Child("master", &[number("startport")]),
    Child("acpi", &[number("index").positive()]),
    Child("address", ADDRESS),
];

/// What devices share that the guest can boot from.
pub(super) const BOOT_INFO: Rules = &[
    Child("master", &[number("startport")]),
    Child("boot", BOOT),
    Child("acpi", &[number("index").positive()]),
    Child("address", ADDRESS),
];

/// What devices share that have an option ROM.
pub(super) const ROM_INFO: Rules = &[
    Child("master", &[number("startport")]),
    Child("boot", BOOT),
    Child("rom", ROM),
    Child("acpi", &[number("index").positive()]),
    Child("address", ADDRESS),
];

const BOOT: Rules = &[
    number("order").needed().positive(),
    given(
        "loadparm",
        Form::Like(|load| (1..=8).contains(&load.len())),
        domain("internal error: loadparm value '{}' must be between 1 and 8 characters"),
    ),
    Check(|node| {
        let load = node.attr("loadparm").unwrap_or_default();
        match load
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '.' || c == ' ')
        {
            true => Ok(()),
            false => {
                let said = "internal error: invalid loadparm value '{}', expecting chars in set of [a-zA-Z0-9.] and \
                            blank spaces";
                Err(domain(said).of(&load.to_ascii_uppercase()))
            }
        }
    }),
];

const ROM: Rules = &[
    yes("enabled"),
    on("bar"),
    Check(|node| {
        let tuned = node.attr("bar").or_else(|| node.attr("file")).is_some();
        match node.attr("enabled") == Some("no") && tuned {
            true => {
                let said = "unsupported configuration: ROM tuning is not supported when ROM is disabled";
                Err(domain(said).of(""))
            }
            false => Ok(()),
        }
    }),
];

const ADDRESS: Rules = &[
    word(
        "type",
        &[
            "pci",
            "drive",
            "virtio-serial",
            "ccid",
            "usb",
            "spapr-vio",
            "virtio-s390",
            "ccw",
            "virtio-mmio",
            "isa",
            "dimm",
            "unassigned",
        ],
    )
    .needed(),
    If(When::Is("type", &["pci"]), PCI_ADDRESS),
    If(
        When::Is("type", &["drive"]),
        &[
            number("controller"),
            number("bus"),
            number("target"),
            number("unit"),
        ],
    ),
    If(
        When::Is("type", &["virtio-serial"]),
        &[number("controller"), number("bus"), number("port")],
    ),
    If(
        When::Is("type", &["ccid"]),
        &[number("controller"), number("slot")],
    ),
    If(When::Is("type", &["usb"]), &[Check(usb_port), number("bus")]),
    If(When::Is("type", &["spapr-vio"]), &[attr("reg", Form::U64(16))]),
    If(
        When::Is("type", &["ccw"]),
        &[
            attr("cssid", Form::U32(0)),
            attr("ssid", Form::U32(0)),
            attr("devno", Form::U32(0)),
            Check(ccw_place),
        ],
    ),
    If(
        When::Is("type", &["isa"]),
        &[attr("iobase", Form::U32(16)), attr("irq", Form::U32(16))],
    ),
    If(
        When::Is("type", &["virtio-s390"]),
        &[Check(|_| {
            Err(domain("XML error: virtio-s390 bus doesn't have an address").of(""))
        })],
    ),
    If(
        When::Is("type", &["dimm"]),
        &[number("slot").needed(), attr("base", Form::U64(16))],
    ),
];

/// A place on a PCI bus, of the guest or the host.
pub(super) const PCI_ADDRESS: Rules = &[
    attr("domain", Form::U32(0)),
    attr("bus", Form::U32(0)),
    attr("slot", Form::U32(0)),
    attr("function", Form::U32(0)),
    on("multifunction"),
    Check(pci_place),
    Child("zpci", &[attr("uid", Form::U32(0)), attr("fid", Form::U32(0))]),
];

/// Parts of a PCI address and their largest values.
const PCI_PARTS: [(&str, u64, &str); 3] = [
    ("bus", 0xff, "0xFF"),
    ("slot", 0x1f, "0x1F"),
    ("function", 7, "7"),
];

fn pci_place(node: Node<'_>) -> Checked {
    let part = |name| unsigned(node.attr(name), 0);
    // An empty address asks for one to be chosen.
    if ["domain", "bus", "slot"].iter().all(|name| part(name) == 0) {
        return Ok(());
    }
    let wrong = PCI_PARTS.iter().find(|(name, most, _)| part(name) > *most);
    let Some((name, _, most)) = wrong else {
        return Ok(());
    };
    let value = part(name);
    let shown = match *name {
        "function" => format!("function={value:#x}"),
        name => format!("{name}='{value:#x}'"),
    };
    let said = format!("Invalid PCI address {shown}, must be <= {most}");
    Err(Error::xml(said).in_area(Area::None))
}

fn usb_port(node: Node<'_>) -> Checked {
    let Some(port) = node.attr("port") else {
        return Ok(());
    };
    let steps: Vec<&str> = port.split('.').collect();
    let is_step = |step: &&str| Form::U32(10).check(step).is_ok();
    match steps.len() <= 4 && steps.iter().all(is_step) {
        true => Ok(()),
        false => {
            let said = "internal error: Cannot parse <address> 'port' attribute";
            Err(of(Area::Device, said).of(""))
        }
    }
}

fn ccw_place(node: Node<'_>) -> Checked {
    let parts = ["cssid", "ssid", "devno"].map(|name| node.attr(name));
    let given = parts.iter().flatten().count();
    if given == 0 {
        return Ok(());
    }
    let said = |text: String| Err(Error::internal(text).in_area(Area::Device));
    let [cssid, ssid, devno] = parts.map(|part| unsigned(part, 0));
    if cssid > 0xfe || ssid > 3 || devno > 0xffff {
        return said(format!(
            "Invalid specification for virtio ccw address: cssid='{cssid:#x}' ssid='{ssid:#x}' devno='0x{devno:04x}'"
        ));
    }
    match given == parts.len() {
        true => Ok(()),
        false => said("Invalid partial specification for virtio ccw address".to_owned()),
    }
}

/// An address, if there is one, is on the USB bus.
pub(super) const USB_ADDRESS_ONLY: Rules = &[Child(
    "address",
    &[given(
        "type",
        Form::Word(&["usb"]),
        domain("XML error: Invalid address for a USB device"),
    )],
)];
