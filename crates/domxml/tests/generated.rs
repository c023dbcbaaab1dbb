//! Whatever is in a document: what is written can be read, and nothing panics.

use domxml::clock::{Adjustment, Clock, ClockOffset, Timer, TimerName};
use domxml::cpu::{Cell, CellMemory, Cpu, CpuFeature, FeaturePolicy, Numa};
use domxml::domain::Memory;
use domxml::tuning::{CpuTune, Scheduler, SchedulerChoice, Vcpu, VcpuPin, VcpuSched};
use domxml::units::Kib;
use domxml::{Bitmap, Domain, FormatFlags, ParseFlags, StatusDocument};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const DOCUMENTS: &[&str] = &[
    include_str!("data/domains/all-elements.xml"),
    include_str!("data/domains/iothreads.xml"),
    include_str!("data/domains/tpm.xml"),
];
const STATUS: &str = include_str!("data/status/paused.xml");

/// Text that XML can hold and that is not changed by reading.
fn words() -> impl Strategy<Value = String> {
    "[ -~äß→😀]{0,12}[a-z<>&'\"]"
}

fn bitmap() -> impl Strategy<Value = Bitmap> {
    btree_set(0_u32..300, 1..20).prop_map(|set| set.into_iter().collect())
}

fn timer() -> impl Strategy<Value = Timer> {
    (select(TimerName::ALL), option::of(any::<u64>())).prop_map(|(name, frequency)| Timer {
        name,
        frequency,
        ..Timer::default()
    })
}

fn clock() -> impl Strategy<Value = Clock> {
    let adjustment = prop_oneof![
        Just(Adjustment::Reset),
        any::<i64>().prop_map(Adjustment::Seconds)
    ];
    let parts = (
        select(ClockOffset::ALL),
        option::of(adjustment),
        vec(timer(), 0..4),
    );
    parts.prop_map(|(offset, adjustment, timers)| Clock {
        offset,
        adjustment,
        timers,
        ..Clock::default()
    })
}

fn cpu() -> impl Strategy<Value = Cpu> {
    let feature = (option::of(select(FeaturePolicy::ALL)), words())
        .prop_map(|(policy, name)| CpuFeature { policy, name });
    let cell = (option::of(bitmap()), 0_u64..1 << 40).prop_map(|(cpus, kib)| Cell {
        cpus,
        memory: CellMemory(kib),
        ..Cell::default()
    });
    (vec(feature, 1..5), vec(cell, 1..4), option::of(words())).prop_map(|(features, cells, vendor)| Cpu {
        features,
        vendor,
        numa: Some(Numa {
            cells,
            interconnects: None,
        }),
        ..Cpu::default()
    })
}

fn cputune() -> impl Strategy<Value = CpuTune> {
    let pin = (any::<u32>(), bitmap()).prop_map(|(vcpu, cpuset)| VcpuPin { vcpu, cpuset });
    let choice = (select(Scheduler::ALL), option::of(any::<i32>()))
        .prop_map(|(scheduler, priority)| SchedulerChoice { scheduler, priority });
    let sched = (bitmap(), choice).prop_map(|(vcpus, choice)| VcpuSched { vcpus, choice });
    (
        any::<u64>(),
        option::of(any::<i64>()),
        vec(pin, 0..4),
        vec(sched, 0..3),
    )
        .prop_map(|(shares, quota, vcpupin, vcpusched)| CpuTune {
            shares: Some(shares),
            quota,
            vcpupin,
            vcpusched,
            ..CpuTune::default()
        })
}

fn domain() -> impl Strategy<Value = Domain> {
    let texts = (
        words(),
        option::of(words()),
        option::of(words()),
        option::of(words()),
    );
    let parts = (texts, 0_u64..1 << 50, bitmap(), clock(), cpu(), cputune());
    parts.prop_map(
        |((name, title, description, cmdline), kib, cpuset, clock, cpu, cputune)| {
            let mut domain = Domain {
                name,
                title,
                description,
                memory: Some(Memory {
                    dump_core: None,
                    size: Kib(kib),
                }),
                vcpu: Some(Vcpu {
                    cpuset: Some(cpuset),
                    count: 3,
                    ..Vcpu::default()
                }),
                clock: Some(clock),
                cpu: Some(cpu),
                cputune: Some(cputune),
                ..Domain::default()
            };
            domain.os.cmdline = cmdline;
            domain
        },
    )
}

/// One change of a text: at a place, so many characters are replaced.
fn edits() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    let pieces = select(vec![
        "",
        "<",
        ">",
        "/",
        "'",
        "&",
        "&amp;",
        "=",
        "<!--",
        "]]>",
        "<a>",
        "</a>",
        "<a/>",
        "-1",
        "99999999999999999999",
        "xmlns:qemu='x'",
        "\n",
        "ü",
        "\u{1}",
        "<![CDATA[",
        "<?x?>",
    ]);
    vec(
        (any::<usize>(), 0_usize..30, pieces.prop_map(str::to_owned)),
        1..5,
    )
}

fn edited(text: &str, edits: &[(usize, usize, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, remove, insert) in edits {
        let at = at % (chars.len() + 1);
        let end = (at + remove).min(chars.len());
        chars.splice(at..end, insert.chars());
    }
    chars.into_iter().collect()
}

/// What was read is written in a form that stays as it is.
fn check_stable(text: &str) {
    let Ok(domain) = Domain::parse(text, ParseFlags::NONE) else {
        return;
    };
    let once = domain.format(FormatFlags::SECURE);
    let again = Domain::parse(&once, ParseFlags::NONE).map(|d| d.format(FormatFlags::SECURE));
    assert_eq!(again.as_ref(), Ok(&once));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(domain in domain()) {
        let text = domain.format(FormatFlags::SECURE);
        prop_assert_eq!(Domain::parse(&text, ParseFlags::NONE), Ok(domain), "{}", text);
    }

    #[test]
    fn damaged_documents_are_refused_or_stable(
        which in select(DOCUMENTS), edits in edits(),
    ) {
        let first = which.split_inclusive("\n</domain>\n").next().unwrap_or_default();
        check_stable(&edited(first, &edits));
    }

    #[test]
    fn damaged_status_files_do_not_panic(edits in edits()) {
        if let Ok(status) = StatusDocument::parse(&edited(STATUS, &edits)) {
            prop_assert!(StatusDocument::parse(&status.format()).is_ok());
        }
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in "\\PC{0,80}", tail in "[<>/a-z='&;! \\-\\[\\]?]{0,60}") {
        check_stable(&text);
        check_stable(&tail);
        check_stable(&format!("<domain type='qemu'>{tail}</domain>"));
    }
}
