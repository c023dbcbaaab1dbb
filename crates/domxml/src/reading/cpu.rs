//! `<cpu>`: model, topology, caches, features, cells.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::{Form, unsigned};
use super::rule::{
    Checked, Rule, Rules, When, Words, attr, domain, filled, given, maybe, number, of, on, word, yes,
};
use super::size::{Size, bytes, bytes_attr, kib_attr};
use super::tuning::{BAD_SET, cells, earlier, vcpus};
use crate::{Bitmap, Error};
use Rule::{Check, Child, Each, If, Most, Part};

/// Words of the CPU's reader.
const fn cpu(text: &'static str) -> Words {
    of(Area::Cpu, text)
}

/// Bytes of a vendor's word in CPUID.
const VENDOR_ID: usize = 12;

/// `<cpu>`.
pub(super) const CPU: Rules = &[
    given(
        "mode",
        Form::Word(crate::cpu::CpuMode::WORDS),
        cpu("unsupported configuration: Invalid mode attribute '{}'"),
    ),
    on("migratable"),
    If(
        When::Given("migratable"),
        &[Check(|node| match node.attr("mode") {
            Some("host-passthrough" | "maximum") => Ok(()),
            _ => {
                let said = "unsupported configuration: Attribute migratable is only allowed for 'host-passthrough' / \
                            'maximum' CPU mode";
                Err(cpu(said).of(""))
            }
        })],
    ),
    word("match", crate::cpu::CpuMatch::WORDS),
    word("check", &["default", "none", "partial", "full"]),
    on("deprecated_features"),
    If(
        When::Usual("mode", &["custom", "host-model"]),
        &[Child("model", MODEL)],
    ),
    Check(
        |node| match node.child("vendor").is_some_and(|v| !v.text().is_empty()) && !has_model(node) {
            true => Err(cpu("XML error: CPU vendor specified without CPU model").of("")),
            false => Ok(()),
        },
    ),
    Child(
        "topology",
        &[
            number("sockets").needed().positive(),
            number("dies").positive(),
            number("clusters").positive(),
            number("cores").needed().positive(),
            number("threads").needed().positive(),
        ],
    ),
    If(
        When::Usual("mode", &["custom"]),
        &[Check(|node| {
            match node.child("feature").is_some() && !has_model(node) {
                true => Err(cpu("XML error: Non-empty feature list specified without CPU model").of("")),
                false => Ok(()),
            }
        })],
    ),
    Each("feature", FEATURE),
    Check(|node| {
        let names = node.children_named("feature").filter_map(|f| f.attr("name"));
        super::rule::once(names, cpu("XML error: CPU feature '{}' specified more than once"))
    }),
    Most(
        1,
        "cache",
        cpu("XML error: at most one CPU cache element may be specified"),
    ),
    Child("cache", CACHE),
    Child("maxphysaddr", MAXPHYSADDR),
    Child("numa", NUMA),
];

fn has_model(node: Node<'_>) -> bool {
    node.child("model").is_some_and(|model| !model.text().is_empty())
}

const MODEL: Rules = &[
    maybe(
        "fallback",
        Form::Word(crate::cpu::CpuFallback::WORDS),
        cpu("unsupported configuration: Invalid fallback attribute"),
    ),
    maybe(
        "vendor_id",
        Form::Like(|id| id.len() == VENDOR_ID),
        cpu("XML error: vendor_id must be exactly 12 characters long"),
    ),
    maybe(
        "vendor_id",
        Form::Like(|id| !id.contains(',')),
        cpu("XML error: vendor id is invalid"),
    ),
];

const FEATURE: Rules = &[
    given(
        "policy",
        Form::Word(crate::cpu::FeaturePolicy::WORDS),
        cpu("unsupported configuration: Invalid CPU feature policy"),
    ),
    filled("name", cpu("XML error: Invalid CPU feature name")),
];

const CACHE: Rules = &[
    attr("level", Form::Natural(10)),
    given(
        "level",
        Form::Like(|level| (1..=3).contains(&unsigned(Some(level), 10))),
        cpu("XML error: invalid CPU cache level, must be in range [1,3]"),
    ),
    word("mode", crate::cpu::CpuCacheMode::WORDS).needed(),
];

const MAXPHYSADDR: Rules = &[
    word("mode", crate::cpu::MaxPhysAddrMode::WORDS).needed(),
    attr("bits", Form::Natural(10)),
    number("limit").positive(),
    If(
        When::Given("limit"),
        &[Check(|node| match node.attr("mode") {
            Some("passthrough") => Ok(()),
            _ => {
                let said = "unsupported configuration: attribute 'limit' is only supported for maxphysaddr mode \
                            'passthrough'";
                Err(cpu(said).of(""))
            }
        })],
    ),
];

const NUMA: Rules = &[
    Check(|node| match node.child("cell") {
        Some(_) => Ok(()),
        None => Err(domain("XML error: NUMA topology defined without NUMA cells").of("")),
    }),
    Each("cell", CELL),
    Child("interconnects", INTERCONNECTS),
];

const CELL_MEMORY: Size = kib_attr("memory", "./@memory");

const CELL: Rules = &[
    number("id"),
    Check(cell_is_in_its_place),
    given("cpus", Form::Set, BAD_SET),
    Check(cell_shares_no_cpu),
    Rule::Size(CELL_MEMORY),
    word("memAccess", crate::cpu::MemAccess::WORDS),
    yes("discard"),
    Child(
        "distances",
        &[
            Check(|node| match node.child("sibling") {
                Some(_) => Ok(()),
                None => Err(domain("XML error: NUMA distances defined without siblings").of("")),
            }),
            Each("sibling", SIBLING),
        ],
    ),
    Each(
        "cache",
        &[
            number("level").needed().positive(),
            word("associativity", crate::cpu::CacheAssociativity::WORDS).needed(),
            word("policy", crate::cpu::CachePolicy::WORDS).needed(),
            Check(|node| part_size(node, "size", kib_attr("value", "./size/@value").fixed())),
            Check(|node| part_size(node, "line", bytes_attr("value", "./line/@value").fixed())),
        ],
    ),
];

/// A size that stands in a child, which must be there.
fn part_size(node: Node<'_>, name: &str, size: Size) -> Checked {
    match node.child(name) {
        Some(child) => size.check(child).map(drop),
        None => bytes("", "")
            .needed()
            .check(node)
            .map(drop)
            .map_err(|error| crate::Error {
                message: error.message.replace("''", &format!("'./{name}/@value'")),
                ..error
            }),
    }
}

/// The number of a cell: its place when it says none.
fn cell_id(node: Node<'_>) -> u64 {
    match node.attr("id") {
        Some(id) => unsigned(Some(id), 10),
        None => earlier(node, "cell").count() as u64,
    }
}

fn cell_is_in_its_place(node: Node<'_>) -> Checked {
    let id = cell_id(node);
    if id >= cells(node) {
        let said = "XML error: Exactly one 'cell' element per guest NUMA cell allowed, non-contiguous ranges or ranges \
                    not starting from 0 are not allowed";
        return Err(domain(said).of(""));
    }
    // A cell without memory can't be told from one that was not read yet.
    let known = |other: Node<'_>| cell_id(other) == id && !matches!(CELL_MEMORY.check(other), Ok(Some(0)));
    match earlier(node, "cell").any(known) {
        true => Err(domain("XML error: Duplicate NUMA cell info for cell id '{}'").of(&id.to_string())),
        false => Ok(()),
    }
}

fn cpus_of(node: Node<'_>) -> Bitmap {
    node.attr("cpus")
        .and_then(|list| list.parse().ok())
        .unwrap_or_default()
}

fn cell_shares_no_cpu(node: Node<'_>) -> Checked {
    let (id, own) = (cell_id(node), cpus_of(node));
    let clash = earlier(node, "cell").find(|other| cpus_of(*other).overlaps(&own));
    match clash.map(cell_id) {
        Some(other) => {
            let said = format!("NUMA cells {id} and {other} have overlapping vCPU ids");
            Err(Error::unsupported(said))
        }
        None => Ok(()),
    }
}

const SIBLING: Rules = &[
    number("id").needed(),
    Check(sibling_is_a_cell),
    number("value").needed(),
    Check(distance),
];

/// The cell that a sibling's distance is from.
fn from_cell(sibling: Node<'_>) -> u64 {
    let cell = sibling.parent().and_then(Node::parent);
    cell.map(cell_id).unwrap_or_default()
}

fn sibling_is_a_cell(node: Node<'_>) -> Checked {
    let id = unsigned(node.attr("id"), 10);
    if id < cells(node) {
        return Ok(());
    }
    let cell = from_cell(node);
    Err(Error::xml(format!(
        "'sibling_id {id}' does not refer to a valid cell within NUMA 'cell id {cell}'"
    )))
}

/// Distance of a cell to itself, and of the farthest.
const LOCAL: u64 = 10;
const FARTHEST: u64 = 255;

fn distance(node: Node<'_>) -> Checked {
    let (id, value) = (unsigned(node.attr("id"), 10), unsigned(node.attr("value"), 10));
    let cell = from_cell(node);
    if (LOCAL..=FARTHEST).contains(&value) && (id == cell) == (value == LOCAL) {
        return Ok(());
    }
    Err(Error::xml(format!(
        "'value {value}' is invalid for 'sibling id {id}' under NUMA 'cell id {cell}'"
    )))
}

const INTERCONNECTS: Rules = &[Rule::All(&[
    If(
        When::Case(|node| node.name() == "latency"),
        &[attr("value", Form::U64(10)).needed(), Part(INTERCONNECT)],
    ),
    If(
        When::Case(|node| node.name() == "bandwidth"),
        &[Rule::Size(kib_attr("value", "./@value")), Part(INTERCONNECT)],
    ),
])];

const INTERCONNECT: Rules = &[
    number("initiator").needed(),
    number("target").needed(),
    number("cache"),
    word("type", crate::cpu::AccessType::WORDS).needed(),
];

/// The cells have no more CPUs than the guest.
pub(super) fn cells_and_vcpus(root: Node<'_>) -> Checked {
    let numa = root.child("cpu").and_then(|cpu| cpu.child("numa"));
    let all: Vec<Bitmap> = numa
        .into_iter()
        .flat_map(|numa| numa.children_named("cell"))
        .map(cpus_of)
        .collect();
    let most = vcpus(root);
    if all.iter().map(Bitmap::len).sum::<usize>() as u64 > most {
        return Err(domain("internal error: Number of CPUs in <numa> exceeds the <vcpu> count").of(""));
    }
    // Without any cell the last CPU of them counts as 0.
    let last = all.iter().filter_map(Bitmap::last).max().unwrap_or_default();
    match u64::from(last) >= most {
        true => Err(domain("internal error: CPU IDs in <numa> exceed the <vcpu> count").of("")),
        false => Ok(()),
    }
}
