//! What the guest may use of the host: CPUs, threads, weights, limits, and the placement of its memory.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::{Form, unsigned};
use super::rule::{
    Checked, Rule, Rules, When, Words, attr, domain, given, named, number, of, own_text, text, told, word,
    yes,
};
use super::size::{LONG, kib};
use crate::Bitmap;
use Rule::{Check, Child, Each, If, Most, Part};

/// What is said of a list that is none.
pub(super) const BAD_SET: Words = of(Area::None, "invalid argument: Failed to parse bitmap '{}'");

/// Whether a list that is well-formed has a member; what is no list is told otherwise.
pub(super) fn is_not_empty(list: &str) -> bool {
    list.parse::<Bitmap>().map_or(true, |set| !set.is_empty())
}

const EMPTY_CPUSET: Words = domain("unsupported configuration: Invalid value of 'cpuset': {}");
const EMPTY_NODESET: Words = domain("unsupported configuration: Invalid value of 'nodeset': {}");

const CPUSET: Rules = &[
    given("cpuset", Form::Set, BAD_SET),
    given("cpuset", Form::Like(is_not_empty), EMPTY_CPUSET),
];

const NODESET: Rules = &[
    given("nodeset", Form::Set, BAD_SET),
    given("nodeset", Form::Like(is_not_empty), EMPTY_NODESET),
];

/// The guest's document that an element is in. It may stand in another one, a snapshot's say.
pub(super) fn root(node: Node<'_>) -> Node<'_> {
    let mut up = std::iter::successors(Some(node), |at| at.parent());
    let is_guest = |at: &Node<'_>| at.parent().is_none() || at.is("domain") || at.is("inactiveDomain");
    up.find(is_guest).unwrap_or(node)
}

/// The most CPUs that the document says.
pub(super) fn vcpus(node: Node<'_>) -> u64 {
    match root(node).child("vcpu") {
        Some(vcpu) => crate::number::integer(vcpu.text(), 10).map_or(0, |n| u64::from(n as u32)),
        None => 1,
    }
}

/// The numbers of the I/O threads that the document has, the ones that are given by themselves included.
pub(super) fn iothreads(node: Node<'_>) -> Bitmap {
    let root = root(node);
    let count = root.child("iothreads").map(Node::text);
    // More threads than a document can name by themselves make no difference here.
    let count = unsigned(count, 10).min(1 << 16);
    let listed = root.child("iothreadids").into_iter();
    let listed = listed.flat_map(|ids| ids.children_named("iothread"));
    let mut known: Bitmap = listed
        .filter_map(|t| u32::try_from(unsigned(t.attr("id"), 10)).ok())
        .collect();
    let mut next = 1;
    while (known.len() as u64) < count {
        known.insert(next);
        next += 1;
    }
    known
}

/// A device of `<blkiotune>`.
pub(super) const BLKIO_DEVICE: Rules = &[
    told(
        "path",
        domain("unsupported configuration: missing per-device path"),
    ),
    text(
        "weight",
        Form::Wrapped32,
        domain("unsupported configuration: could not parse weight {}"),
    ),
    text(
        "read_bytes_sec",
        Form::Wrapped64,
        domain("unsupported configuration: could not parse read bytes sec {}"),
    ),
    text(
        "write_bytes_sec",
        Form::Wrapped64,
        domain("unsupported configuration: could not parse write bytes sec {}"),
    ),
    text(
        "read_iops_sec",
        Form::Wrapped32,
        domain("unsupported configuration: could not parse read iops sec {}"),
    ),
    text(
        "write_iops_sec",
        Form::Wrapped32,
        domain("unsupported configuration: could not parse write iops sec {}"),
    ),
];

/// A limit of so many KiB means none.
const UNLIMITED: u64 = LONG - 1023;

const fn limit(name: &'static str, path: &'static str) -> Rule {
    Rule::Size(kib(name, path).up_to(UNLIMITED))
}

/// `<memtune>`.
pub(super) const MEMTUNE: Rules = &[Child(
    "memtune",
    &[
        limit("hard_limit", "./memtune/hard_limit[1]"),
        limit("soft_limit", "./memtune/soft_limit[1]"),
        Rule::Size(kib("min_guarantee", "./memtune/min_guarantee[1]")),
        limit("swap_hard_limit", "./memtune/swap_hard_limit[1]"),
    ],
)];

/// `<vcpu>` and `<vcpus>`.
pub(super) const VCPUS: Rules = &[
    Child(
        "vcpu",
        &[
            own_text(
                Form::Wrapped32,
                domain("XML error: maximum vcpus count must be an integer"),
            ),
            number("current"),
            word("placement", crate::tuning::Placement::WORDS),
            If(When::Usual("placement", &["static"]), CPUSET),
        ],
    ),
    Child("vcpus", &[Each("vcpu", VCPU)]),
    Check(current_vcpus),
];

const VCPU: Rules = &[
    number("id").needed(),
    Check(|node| match unsigned(node.attr("id"), 10) < vcpus(node) {
        true => Ok(()),
        false => {
            let said = domain("XML error: vcpu id '{}' is out of range of maximum vcpu count");
            Err(said.of(node.attr("id").unwrap_or_default()))
        }
    }),
    yes("enabled").needed(),
    yes("hotpluggable"),
    number("order"),
];

fn current_vcpus(node: Node<'_>) -> Checked {
    let listed = node
        .child("vcpus")
        .is_some_and(|list| list.child("vcpu").is_some());
    let current = node.child("vcpu").and_then(|vcpu| vcpu.attr("current"));
    match !listed && unsigned(current, 10) > vcpus(node) {
        true => {
            let said =
                "unsupported configuration: maximum vCPU count must not be less than current vCPU count";
            Err(domain(said).of(""))
        }
        false => Ok(()),
    }
}

const THREAD_POOL: Rules = &[
    attr("thread_pool_min", Form::Natural(10)),
    attr("thread_pool_max", Form::Natural(10)),
];

/// I/O threads.
pub(super) const IOTHREADS: Rules = &[
    text(
        "iothreads",
        Form::U32(10),
        domain("XML error: invalid iothreads count '{}'"),
    ),
    Child("defaultiothread", THREAD_POOL),
    Rule::Merged(
        "iothreadids",
        &[Each(
            "iothread",
            &[
                number("id").needed().positive(),
                Check(iothread_is_the_first),
                Part(THREAD_POOL),
                Child(
                    "poll",
                    &[
                        attr("max", Form::U64(10)),
                        attr("grow", Form::U64(10)),
                        attr("shrink", Form::U64(10)),
                    ],
                ),
            ],
        )],
    ),
];

/// `<cputune>`.
pub(super) const CPUTUNE: Rules = &[Rule::Merged(
    "cputune",
    &[
        text(
            "shares",
            Form::U64(10),
            domain("XML error: can't parse cputune shares value"),
        ),
        text(
            "period",
            Form::U64(10),
            domain("XML error: can't parse cputune period value"),
        ),
        text(
            "quota",
            Form::I64(10),
            domain("XML error: can't parse cputune quota value"),
        ),
        text(
            "global_period",
            Form::U64(10),
            domain("XML error: can't parse cputune global period value"),
        ),
        text(
            "global_quota",
            Form::I64(10),
            domain("XML error: can't parse cputune global quota value"),
        ),
        text(
            "emulator_period",
            Form::U64(10),
            domain("XML error: can't parse cputune emulator period value"),
        ),
        text(
            "emulator_quota",
            Form::I64(10),
            domain("XML error: can't parse cputune emulator quota value"),
        ),
        text(
            "iothread_period",
            Form::U64(10),
            domain("XML error: can't parse cputune iothread period value"),
        ),
        text(
            "iothread_quota",
            Form::I64(10),
            domain("XML error: can't parse cputune iothread quota value"),
        ),
        Each("vcpupin", VCPUPIN),
        Most(
            1,
            "emulatorpin",
            domain("XML error: only one emulatorpin is supported"),
        ),
        Child(
            "emulatorpin",
            &[
                named("cpuset", domain("internal error: missing cpuset for emulatorpin")),
                Part(CPUSET),
            ],
        ),
        Each("iothreadpin", IOTHREADPIN),
        Each("vcpusched", SCHED),
        Each("iothreadsched", SCHED),
        Most(
            1,
            "emulatorsched",
            domain("XML error: only one emulatorsched is supported"),
        ),
        Child("emulatorsched", SCHEDULER),
        Part(super::resctrl::RESCTRL),
    ],
)];

/// Most siblings that an element is compared with: reading takes no more time than a document's length allows.
const COMPARED: usize = 512;

/// The earlier siblings of a name, as far as they are compared.
pub(super) fn earlier<'d>(node: Node<'d>, name: &'static str) -> impl Iterator<Item = Node<'d>> {
    before(node.parent().into_iter(), node, name)
}

/// The earlier siblings of a name where its parent and those beside it of the same name count as one.
pub(super) fn earlier_in_all<'d>(node: Node<'d>, name: &'static str) -> impl Iterator<Item = Node<'d>> {
    let around = node.parent();
    let outer = around.and_then(Node::parent);
    let all = around.zip(outer).into_iter();
    let all = all.flat_map(|(around, outer)| outer.children_named(around.name()));
    before(all, node, name)
}

fn before<'d>(
    around: impl Iterator<Item = Node<'d>>,
    node: Node<'d>,
    name: &'static str,
) -> impl Iterator<Item = Node<'d>> {
    let all = around.flat_map(move |around| around.children_named(name));
    all.take(COMPARED).take_while(move |other| !other.is_same(node))
}

const VCPUPIN: Rules = &[
    number("vcpu").needed(),
    If(
        // A pin of a CPU that there is not is left out.
        When::Case(|node| unsigned(node.attr("vcpu"), 10) < vcpus(node)),
        &[
            named("cpuset", domain("internal error: missing cpuset for vcpupin")),
            Part(CPUSET),
            Check(|node| {
                let said = domain("internal error: duplicate vcpupin for vcpu '{}'");
                super::rule::first_of(node, "vcpupin", "vcpu", said)
            }),
        ],
    ),
];

const IOTHREADPIN: Rules = &[
    number("iothread").needed().positive(),
    Check(|node| {
        let id = unsigned(node.attr("iothread"), 10) as u32;
        match iothreads(node).contains(id) {
            true => Ok(()),
            false => {
                Err(domain("unsupported configuration: Cannot find 'iothread' : {}").of(&id.to_string()))
            }
        }
    }),
    named("cpuset", domain("internal error: missing cpuset for iothreadpin")),
    Part(CPUSET),
    Check(|node| {
        let said = domain("internal error: duplicate iothreadpin for same iothread '{}'");
        super::rule::first_of(node, "iothreadpin", "iothread", said)
    }),
];

const SCHEDULER: Rules = &[
    word("scheduler", crate::tuning::Scheduler::WORDS).needed(),
    If(
        When::Is("scheduler", &["fifo", "rr"]),
        &[attr("priority", Form::I32(10)).needed()],
    ),
];

/// `<vcpusched>` and `<iothreadsched>`.
const SCHED: Rules = &[Check(scheduled), Part(SCHEDULER), Check(scheduled_are_there)];

/// The attribute with the numbers of who gets the scheduler.
fn whose(node: Node<'_>) -> &'static str {
    match node.name() {
        "vcpusched" => "vcpus",
        _ => "iothreads",
    }
}

fn scheduled(node: Node<'_>) -> Checked {
    let name = whose(node);
    let Some(list) = node.attr(name) else {
        let said = format!("Missing attribute '{name}' in element '{}'", node.name());
        return Err(crate::Error::xml(said));
    };
    if Form::Set.check(list).is_err() {
        return Err(BAD_SET.of(list));
    }
    match is_not_empty(list) {
        true => Ok(()),
        false => {
            let said = format!("'{name}' scheduler bitmap '{list}' is empty");
            Err(crate::Error::unsupported(said))
        }
    }
}

fn scheduled_are_there(node: Node<'_>) -> Checked {
    let name = whose(node);
    let set = |of: Node<'_>| {
        of.attr(name)
            .and_then(|list| list.parse::<Bitmap>().ok())
            .unwrap_or_default()
    };
    let own = set(node);
    let sched = if name == "vcpus" {
        "vcpusched"
    } else {
        "iothreadsched"
    };
    let threads = iothreads(node);
    let most = vcpus(node);
    let before: Vec<Bitmap> = earlier_in_all(node, sched).map(set).collect();
    for id in own.iter() {
        let (there, said) = match name {
            "vcpus" => (
                u64::from(id) < most,
                "unsupported configuration: vCPU '{}' is not present in domain definition",
            ),
            _ => (
                threads.contains(id),
                "unsupported configuration: Cannot find 'iothread' : {}",
            ),
        };
        if !there {
            return Err(domain(said).of(&id.to_string()));
        }
        if before.iter().any(|set| set.contains(id)) {
            let said = format!("'{sched}' attributes '{name}' must not overlap");
            return Err(crate::Error::new(crate::Kind::XmlDetail, said));
        }
    }
    Ok(())
}

const MODES: Form = Form::Word(crate::tuning::NumaMode::WORDS);

/// `<numatune>`.
pub(super) const NUMATUNE: Rules = &[
    Most(1, "numatune", domain("XML error: only one numatune is supported")),
    Child(
        "numatune",
        &[
            Child(
                "memory",
                &[
                    given(
                        "mode",
                        MODES,
                        domain("unsupported configuration: Unsupported NUMA memory tuning mode '{}'"),
                    ),
                    given(
                        "placement",
                        Form::Word(&["default", "static", "auto"]),
                        domain("unsupported configuration: Unsupported NUMA memory placement mode '{}'"),
                    ),
                    Part(NODESET),
                    Check(static_has_nodes),
                ],
            ),
            Each("memnode", MEMNODE),
        ],
    ),
];

/// Whether the guest's memory is placed by advice.
fn placed_by_advice(memory: Node<'_>) -> bool {
    let vcpu = root(memory).child("vcpu").and_then(|vcpu| vcpu.attr("placement"));
    match memory.attr("placement") {
        Some("auto") => true,
        Some("static") => false,
        _ => memory.attr("nodeset").is_none() && vcpu == Some("auto"),
    }
}

fn static_has_nodes(memory: Node<'_>) -> Checked {
    let said = ["mode", "placement"]
        .iter()
        .any(|name| memory.attr(name).is_some());
    if !said || placed_by_advice(memory) || memory.attr("nodeset").is_some() {
        return Ok(());
    }
    let said =
        "unsupported configuration: nodeset for NUMA memory tuning must be set if 'placement' is 'static'";
    Err(domain(said).of(""))
}

const MEMNODE: Rules = &[
    Check(memnode_may_be),
    number("cellid").needed(),
    Check(memnode_has_cell),
    Check(memnode_is_the_first),
    word("mode", crate::tuning::NumaMode::WORDS),
    named(
        "nodeset",
        domain("XML error: Missing required nodeset attribute in memnode element"),
    ),
    Part(NODESET),
];

/// How many cells the guest has.
pub(super) fn cells(node: Node<'_>) -> u64 {
    let numa = root(node).child("cpu").and_then(|cpu| cpu.child("numa"));
    numa.map_or(0, |numa| numa.children_named("cell").count() as u64)
}

fn memnode_may_be(node: Node<'_>) -> Checked {
    let memory = node.parent().and_then(|tune| tune.child("memory"));
    if memory.is_some_and(placed_by_advice) {
        let said =
            "unsupported configuration: Per-node binding is not compatible with automatic NUMA placement.";
        return Err(domain(said).of(""));
    }
    match cells(node) {
        0 => Err(domain("XML error: Element 'memnode' is invalid without any guest NUMA cells").of("")),
        _ => Ok(()),
    }
}

fn memnode_has_cell(node: Node<'_>) -> Checked {
    let id = unsigned(node.attr("cellid"), 10);
    if id >= cells(node) {
        let said =
            "XML error: Argument 'cellid' in memnode element must correspond to existing guest's NUMA cell";
        return Err(domain(said).of(""));
    }
    Ok(())
}

fn iothread_is_the_first(node: Node<'_>) -> Checked {
    let id = |node: Node<'_>| unsigned(node.attr("id"), 10);
    match earlier_in_all(node, "iothread").any(|other| id(other) == id(node)) {
        true => Err(domain("XML error: duplicate iothread id '{}' found").of(&id(node).to_string())),
        false => Ok(()),
    }
}

fn memnode_is_the_first(node: Node<'_>) -> Checked {
    let id = |node: Node<'_>| unsigned(node.attr("cellid"), 10);
    match earlier(node, "memnode").any(|other| id(other) == id(node)) {
        true => {
            let said = domain("XML error: Multiple memnode elements with cellid {}");
            Err(said.of(&id(node).to_string()))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use xmlform::{Document, ParseFlags};

    use super::*;

    #[test]
    fn threads_without_a_number_get_the_lowest_free_one() {
        for (text, threads) in [
            ("<d><iothreads>2</iothreads></d>", "1-2"),
            (
                "<d><iothreads>3</iothreads><iothreadids><iothread id='2'/></iothreadids></d>",
                "1-3",
            ),
            ("<d><iothreadids><iothread id='7'/></iothreadids></d>", "7"),
            ("<d/>", ""),
        ] {
            let document = Document::parse(text, &[], ParseFlags::NONE).unwrap();
            assert_eq!(iothreads(document.root()).to_string(), threads, "{text}");
        }
    }
}
