//! What the types do not say: forms of values, and what goes with what, as a table.

use xmlform::Node;

use super::form::Form;

/// One demand on the elements of a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// Name of the element, after those of the elements around it as far as they matter.
    place: &'static str,
    when: When,
    demand: Demand,
}

/// Of which elements of the place it is demanded.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// The attribute is one of the words.
    Is(&'static str, &'static [&'static str]),
    /// The attribute is none of the words, or absent.
    Not(&'static str, &'static [&'static str]),
    /// It has such a child.
    Has(&'static str),
}

#[derive(Debug, Clone, Copy)]
enum Demand {
    /// The attribute has the form, if it is there.
    Attr(&'static str, Form),
    /// The text has the form.
    Text(Form),
    /// The attribute must be there.
    Needs(&'static str),
    /// The attribute must not be there.
    Bars(&'static str),
    /// The child must be there.
    NeedsChild(&'static str),
    /// The child must not be there.
    BarsChild(&'static str),
}

use Demand::{Attr, Bars, BarsChild, Needs, NeedsChild, Text};
use Form::{CpuSet, Letters, Line, Load, Mac, Number, OneOf, Path, Positive, Uuid};
use When::{Always, Has, Is, Not};

const PCI: When = Is("type", &["pci"]);
const NO_LUN: When = Not("device", &["lun"]);
const NO_SCSI: When = Not("type", &["scsi"]);

macro_rules! rules {
    ($($place:literal $when:expr => $demand:expr;)+) => {
        /// Every demand.
        pub(super) const RULES: &[Rule] = &[$(Rule {
            place: $place,
            when: $when,
            demand: $demand,
        }),+];
    };
}

rules! {
    "domain" Always => NeedsChild("name");
    "domain/name" Always => Text(Line);
    "domain/uuid" Always => Text(Uuid);
    "domain/title" Always => Text(Line);
    "os/kernel" Always => Text(Path);
    "os/initrd" Always => Text(Path);
    "sysinfo/bios" Always => NeedsChild("entry");
    "sysinfo/baseBoard" Always => NeedsChild("entry");
    "cpu/feature" Always => Needs("policy");
    "cpu/model" Always => Attr("vendor_id", Letters(12));
    "cpu/topology" Always => Attr("sockets", Positive);
    "cpu/topology" Always => Attr("dies", Positive);
    "cpu/topology" Always => Attr("clusters", Positive);
    "cpu/topology" Always => Attr("cores", Positive);
    "cpu/topology" Always => Attr("threads", Positive);
    "domain/vcpu" Always => Attr("cpuset", CpuSet);
    "cputune/vcpupin" Always => Attr("cpuset", CpuSet);
    "cputune/emulatorpin" Always => Attr("cpuset", CpuSet);
    "cputune/iothreadpin" Always => Attr("cpuset", CpuSet);
    "numatune/memory" Always => Attr("nodeset", CpuSet);
    "numatune/memnode" Always => Attr("nodeset", CpuSet);
    "numatune/memory" Is("placement", &["auto"]) => Bars("nodeset");
    "devices/emulator" Always => Text(Path);
    "disk" Is("device", &["lun"]) => Attr("type", OneOf(&["block", "network", "volume"]));
    "disk" NO_LUN => Bars("rawio");
    "disk" NO_LUN => Bars("sgio");
    "disk" Has("iotune") => BarsChild("throttlefilters");
    "disk/auth/secret" Always => Needs("type");
    "disk/source" Always => Attr("file", Path);
    "disk/source" Is("protocol", &[
        "nbd", "sheepdog", "gluster", "iscsi", "ssh", "http", "https", "ftp", "ftps", "tftp", "vxhs",
        "nfs",
    ]) => NeedsChild("host");
    "disk/encryption" Has("cipher") => NeedsChild("ivgen");
    "disk/source/encryption" Has("cipher") => NeedsChild("ivgen");
    "source/seclabel" Is("relabel", &["yes"]) => NeedsChild("label");
    "source/seclabel" Is("relabel", &["no"]) => BarsChild("label");
    "hostdev" NO_SCSI => Bars("rawio");
    "hostdev" NO_SCSI => Bars("sgio");
    "devices/serial" Always => Needs("type");
    "devices/parallel" Always => Needs("type");
    "devices/channel" Always => Needs("type");
    "interface/mac" Always => Attr("address", Mac);
    "graphics/listen" Is("type", &["network"]) => Needs("network");
    "rom" Always => Attr("file", Path);
    "boot" Always => Attr("loadparm", Load(8));
    "address" PCI => Attr("domain", Number(4, 0xffff));
    "address" PCI => Attr("bus", Number(2, 0xff));
    "address" PCI => Attr("slot", Number(2, 0x1f));
    "address" PCI => Attr("function", Number(1, 7));
    "address" Is("type", &["spapr-vio"]) => Attr("reg", Number(8, 0xffff_ffff));
}

impl Rule {
    /// Whether the element is in the place and the condition holds.
    pub(super) fn is_for(&self, node: Node<'_>) -> bool {
        let mut at = Some(node);
        let mut names = self.place.rsplit('/');
        let there = names.all(|name| {
            let same = at.is_some_and(|n| n.qualified_name() == name);
            at = at.and_then(Node::parent);
            same
        });
        there
            && match self.when {
                Always => true,
                Is(name, words) => node.attr(name).is_some_and(|v| words.contains(&v)),
                Not(name, words) => node.attr(name).is_none_or(|v| !words.contains(&v)),
                Has(name) => node.child(name).is_some(),
            }
    }

    /// Checks an element that it is for.
    ///
    /// # Errors
    /// What is wrong, to go behind the element's path.
    pub(super) fn check(&self, node: Node<'_>) -> Result<(), String> {
        match self.demand {
            Attr(name, form) => match node.attr(name) {
                Some(value) if !form.fits(value) => {
                    Err(format!("/@{name} is '{value}', not {}", form.expected()))
                }
                _ => Ok(()),
            },
            Text(form) if !form.fits(node.text()) => {
                Err(format!(" is '{}', not {}", node.text(), form.expected()))
            }
            Text(_) => Ok(()),
            Needs(name) if node.attr(name).is_none() => Err(format!("/@{name} is missing")),
            Bars(name) if node.attr(name).is_some() => Err(format!("/@{name} does not go with the rest")),
            NeedsChild(name) if node.child(name).is_none() => Err(format!("/{name} is missing")),
            BarsChild(name) if node.child(name).is_some() => {
                Err(format!("/{name} does not go with the rest"))
            }
            Needs(_) | Bars(_) | NeedsChild(_) | BarsChild(_) => Ok(()),
        }
    }
}
