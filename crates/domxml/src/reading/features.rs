//! `<features>`: what the machine has that is not a device. Here what is unknown is refused.
// table: one line a rule, in the order in which libvirt reads

use xmlform::Node;

use super::form::{Form, unsigned};
use super::rule::{Checked, Rule, Rules, When, attr, check, domain, on, word, yes};
use super::size::{bytes, kib};
use crate::features as model;
use crate::{Error, Kind};
use Rule::{Check, If, Part, Size};

/// `<features>`: each child in the order of the document, then what depends on several.
pub(super) const FEATURES: Rules = &[Rule::All(&[Check(feature)])];

const STATE: Rules = &[on("state")];
const NEEDED_STATE: Rules = &[on("state").needed()];

/// What is known, and the rules of each.
const KNOWN: &[(&str, Rules)] = &[
    ("acpi", &[]),
    ("apic", &[on("eoi")]),
    ("pae", &[]),
    ("hap", STATE),
    ("viridian", &[]),
    ("privnet", &[]),
    ("hyperv", HYPERV),
    ("kvm", &[Rule::All(&[Check(kvm)])]),
    ("pvspinlock", STATE),
    ("capabilities", CAPABILITIES),
    ("pmu", STATE),
    ("vmport", STATE),
    ("gic", &[word("version", &["host", "2", "3"])]),
    ("smm", SMM),
    ("ioapic", &[word("driver", model::IoapicDriver::WORDS)]),
    ("hpt", HPT),
    ("vmcoreinfo", STATE),
    ("htm", NEEDED_STATE),
    ("nested-hv", NEEDED_STATE),
    ("msrs", &[word("unknown", model::MsrsUnknown::WORDS).needed()]),
    ("ccf-assist", NEEDED_STATE),
    ("xen", &[Rule::All(&[Check(xen)])]),
    ("cfpc", &[word("value", model::Cfpc::WORDS)]),
    ("sbbc", &[word("value", model::Sbbc::WORDS)]),
    ("ibs", &[word("value", model::Ibs::WORDS)]),
    ("tcg", &[Size(kib("tb-cache", "./tb-cache"))]),
    ("async-teardown", &[yes("enabled")]),
    ("ras", NEEDED_STATE),
    ("ps2", NEEDED_STATE),
    ("aia", &[word("value", model::AiaMode::WORDS)]),
];

fn rules_of(known: &[(&str, Rules)], name: &str) -> Option<Rules> {
    let found = known.iter().find(|(known, _)| *known == name);
    found.map(|(_, rules)| *rules)
}

/// Checks a child by its name, which must be known.
fn known(node: Node<'_>, known: &[(&str, Rules)], unknown: &'static str) -> Checked {
    match rules_of(known, node.name()) {
        Some(rules) => check(node, rules),
        None => Err(domain(unknown).of(node.name())),
    }
}

fn feature(node: Node<'_>) -> Checked {
    known(node, KNOWN, "unsupported configuration: unexpected feature '{}'")
}

const HYPERV: Rules = &[
    word("mode", model::HypervMode::WORDS),
    // What the host has is taken whole: the list is not looked at.
    If(
        When::Usual("mode", &["custom"]),
        &[Rule::All(&[Check(enlightenment)])],
    ),
];

const ENLIGHTENMENTS: &[(&str, Rules)] = &[
    ("relaxed", NEEDED_STATE),
    ("vapic", NEEDED_STATE),
    (
        "spinlocks",
        &[
            Part(NEEDED_STATE),
            If(IS_ON, &[attr("retries", Form::U32(0)).needed(), Check(retries)]),
        ],
    ),
    ("vpindex", NEEDED_STATE),
    ("runtime", NEEDED_STATE),
    ("synic", NEEDED_STATE),
    (
        "stimer",
        &[Part(NEEDED_STATE), If(IS_ON, &[Rule::All(&[Check(stimer)])])],
    ),
    ("reset", NEEDED_STATE),
    ("vendor_id", &[Part(NEEDED_STATE), If(IS_ON, &[Check(vendor_id)])]),
    ("frequencies", NEEDED_STATE),
    ("reenlightenment", NEEDED_STATE),
    (
        "tlbflush",
        &[Part(NEEDED_STATE), If(IS_ON, &[Rule::All(&[Check(tlbflush)])])],
    ),
    ("ipi", NEEDED_STATE),
    ("evmcs", NEEDED_STATE),
    ("avic", NEEDED_STATE),
    ("emsr_bitmap", NEEDED_STATE),
    ("xmm_input", NEEDED_STATE),
];

const IS_ON: When = When::Is("state", &["on"]);

fn enlightenment(node: Node<'_>) -> Checked {
    let unknown = "unsupported configuration: unsupported HyperV Enlightenment feature: {}";
    known(node, ENLIGHTENMENTS, unknown)
}

fn tlbflush(node: Node<'_>) -> Checked {
    let unknown = "unsupported configuration: unsupported Hyper-V tlbflush feature: {}";
    known(
        node,
        &[("direct", NEEDED_STATE), ("extended", NEEDED_STATE)],
        unknown,
    )
}

fn stimer(node: Node<'_>) -> Checked {
    let unknown = "unsupported configuration: unsupported Hyper-V stimer feature: {}";
    known(node, &[("direct", NEEDED_STATE)], unknown)
}

/// Fewest retries of a spinlock.
const RETRIES_LEAST: u64 = 4095;

fn retries(node: Node<'_>) -> Checked {
    match unsigned(node.attr("retries"), 0) >= RETRIES_LEAST {
        true => Ok(()),
        false => Err(domain("XML error: HyperV spinlock retry count must be at least 4095").of("")),
    }
}

/// Longest name of a vendor, bytes.
const VENDOR_MOST: usize = 12;

fn vendor_id(node: Node<'_>) -> Checked {
    let said = |text: &'static str| Err(domain(text).of(""));
    match node.attr("value") {
        None => said("XML error: missing 'value' attribute for HyperV feature 'vendor_id'"),
        Some(value) if value.len() > VENDOR_MOST => {
            said("XML error: HyperV vendor_id value must not be more than 12 characters.")
        }
        Some(value) if value.contains(',') => said("XML error: HyperV vendor_id value is invalid"),
        Some(_) => Ok(()),
    }
}

const KVM: &[(&str, Rules)] = &[
    ("hidden", NEEDED_STATE),
    ("hint-dedicated", NEEDED_STATE),
    ("poll-control", NEEDED_STATE),
    ("pv-ipi", NEEDED_STATE),
    (
        "dirty-ring",
        &[
            Part(NEEDED_STATE),
            If(IS_ON, &[attr("size", Form::U32(0)).needed(), Check(dirty_ring)]),
        ],
    ),
];

fn kvm(node: Node<'_>) -> Checked {
    known(
        node,
        KVM,
        "unsupported configuration: unsupported KVM feature: {}",
    )
}

fn dirty_ring(node: Node<'_>) -> Checked {
    let size = unsigned(node.attr("size"), 0);
    match size.is_power_of_two() && (1024..=65_536).contains(&size) {
        true => Ok(()),
        false => Err(domain("XML error: dirty ring must be power of 2 and ranges [1024, 65536]").of("")),
    }
}

const XEN: &[(&str, Rules)] = &[
    ("e820_host", NEEDED_STATE),
    (
        "passthrough",
        &[
            Part(NEEDED_STATE),
            If(IS_ON, &[word("mode", &["sync_pt", "share_pt"])]),
        ],
    ),
];

fn xen(node: Node<'_>) -> Checked {
    known(
        node,
        XEN,
        "unsupported configuration: unsupported Xen feature: {}",
    )
}

const CAPABILITIES: Rules = &[
    word("policy", model::CapabilitiesPolicy::WORDS),
    Rule::All(&[Check(capability), Part(STATE)]),
];

/// Capabilities of processes, by the kernel's names.
const CAPABILITY_NAMES: &[&str] = &[
    "audit_control",
    "audit_write",
    "block_suspend",
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "ipc_lock",
    "ipc_owner",
    "kill",
    "lease",
    "linux_immutable",
    "mac_admin",
    "mac_override",
    "mknod",
    "net_admin",
    "net_bind_service",
    "net_broadcast",
    "net_raw",
    "setgid",
    "setfcap",
    "setpcap",
    "setuid",
    "sys_admin",
    "sys_boot",
    "sys_chroot",
    "sys_module",
    "sys_nice",
    "sys_pacct",
    "sys_ptrace",
    "sys_rawio",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "syslog",
    "wake_alarm",
];

fn capability(node: Node<'_>) -> Checked {
    match CAPABILITY_NAMES.contains(&node.name()) {
        true => Ok(()),
        false => Err(domain("unsupported configuration: unexpected capability feature '{}'").of(node.name())),
    }
}

const SMM: Rules = &[
    on("state"),
    If(
        When::Usual("state", &["on"]),
        &[Size(
            bytes("tseg", "string(./features/smm/tseg)").in_units_of(1 << 20),
        )],
    ),
];

const HPT: Rules = &[
    word("resizing", model::HptResizing::WORDS),
    Check(|node| {
        kib("maxpagesize", "")
            .check(node)
            .map(drop)
            .map_err(|_| hpt_size())
    }),
];

fn hpt_size() -> Error {
    Error::new(Kind::Unsupported, "Unable to parse HPT maxpagesize setting")
}
