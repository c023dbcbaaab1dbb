//! Capabilities derived from recorded replies are those that libvirt reports for the same binary.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use qemu_plan::caps::{Accel, Caps, Flag, FlagSet, Replies, Run, probe};

const REPLIES: &str = include_str!("data/caps/replies-10.0.2-x86_64.json");
const REPORTED: &str = include_str!("data/caps/flags-10.0.2-x86_64.txt");

fn replies() -> Replies {
    serde_json::from_str(REPLIES).unwrap()
}

#[test]
fn derived_flags_are_those_that_libvirt_reports_in_its_order() {
    let caps = Caps::derive(&replies()).unwrap();
    let derived: Vec<&str> = caps.flags().iter().map(Flag::name).collect();
    let reported: Vec<&str> = REPORTED.lines().collect();
    assert_eq!(derived, reported);
}

#[test]
fn flag_names_round_trip_and_unknown_ones_are_left_out() {
    for flag in Flag::ALL {
        assert_eq!(Flag::from_name(flag.name()), Some(*flag));
    }
    let set = FlagSet::from_names(["kvm", "no-such-flag", "VGA"]);
    assert_eq!(set.iter().collect::<Vec<_>>(), [Flag::Kvm, Flag::Vga]);
}

#[test]
fn machine_aliases_lead_to_canonical_names() {
    let caps = Caps::derive(&replies()).unwrap();
    assert_eq!(caps.arch(), "x86_64");
    assert_eq!(caps.version(), 10_000_002);
    assert_eq!(caps.default_machine(Accel::Tcg).unwrap().name, "pc-i440fx-10.0");
    let q35 = caps.machine(Accel::Kvm, "q35").unwrap();
    assert_eq!(
        (q35.name.as_str(), q35.max_cpus, q35.deprecated),
        ("pc-q35-10.0", 4096, false)
    );
    assert_eq!(q35.default_cpu.as_deref(), Some("qemu64-x86_64-cpu"));
    assert!(caps.machine(Accel::Kvm, "none").is_none());
}

#[test]
fn cpu_models_say_what_keeps_them_from_running() {
    let caps = Caps::derive(&replies()).unwrap();
    assert_eq!(
        caps.cpu(Accel::Kvm, "host").unwrap().blockers.as_deref(),
        Some(&[][..])
    );
    assert!(
        caps.cpu(Accel::Tcg, "Haswell")
            .unwrap()
            .blockers
            .as_ref()
            .is_some_and(|b| !b.is_empty())
    );
    let host = &caps.accel(Accel::Kvm).unwrap().host.properties;
    assert!(host.iter().any(|p| p.name == "invtsc" && !p.migratable));
}

#[test]
fn the_queries_of_a_probe_are_those_recorded() {
    let all = replies();
    let sent = |run: &Run| -> Vec<_> {
        let mut v: Vec<_> = run
            .exchanges
            .iter()
            .filter(|e| e.execute != "qmp_capabilities")
            .collect();
        v.sort_by_key(|e| format!("{}{:?}", e.execute, e.arguments));
        v.iter()
            .map(|e| format!("{} {:?}", e.execute, e.arguments))
            .collect()
    };
    let basics: Vec<_> = all.runs[0].exchanges.iter().take(6).cloned().collect();
    let so_far = Run { exchanges: basics };
    let stages = [probe::Stage::Basics, probe::Stage::Schema, probe::Stage::Details];
    let mut planned: Vec<_> = stages
        .into_iter()
        .flat_map(|stage| probe::queries(stage, &so_far))
        .collect();
    assert!(probe::needs_tcg_run(&so_far) && !probe::needs_tcg_run(&all.runs[1]));
    planned.sort_by_key(|q| format!("{}{:?}", q.execute, q.arguments));
    let planned: Vec<_> = planned
        .iter()
        .map(|q| format!("{} {:?}", q.execute, q.arguments))
        .collect();
    assert_eq!(planned, sent(&all.runs[0]));
}

#[test]
fn replies_without_a_schema_are_an_error() {
    let mut broken = replies();
    broken.runs[0]
        .exchanges
        .retain(|e| e.execute != "query-qmp-schema");
    assert!(Caps::derive(&broken).is_err());
    assert!(Caps::derive(&Replies::default()).is_err());
}
