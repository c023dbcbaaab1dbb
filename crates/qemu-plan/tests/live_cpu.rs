//! CPUs of guests that libvirt 11.3.0 had started: what it was asked for, what QEMU 10.0.2 was told and said, and what
//! libvirt wrote into the live document (`data/live-cpu.json`).

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;

use domxml::cpu::Cpu;
use domxml::{Domain, FormatFlags, ParseFlags};
use qemu_plan::command::{ConfirmedCpu, Keyval, live_cpu};
use serde_json::Value;

fn line(text: &str) -> Keyval {
    let mut parts = text.split(',');
    let mut line = Keyval::implied(parts.next().unwrap());
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        line.set(key, value);
    }
    line
}

fn cpu(text: &str) -> Cpu {
    let document = format!("<domain type='qemu'><name>a</name><os><type>hvm</type></os>{text}</domain>");
    Domain::parse(&document, ParseFlags::INACTIVE)
        .unwrap()
        .cpu
        .unwrap()
}

fn cases() -> Vec<Value> {
    serde_json::from_str(include_str!("data/live-cpu.json")).unwrap()
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap()
}

#[test]
fn a_started_guest_has_the_cpu_that_qemu_confirms() {
    for case in cases() {
        let original = cpu(text(&case, "original"));
        let names = |key: &str| -> BTreeSet<String> {
            let names = case[key].as_array().unwrap().iter();
            names.map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        let confirmed = ConfirmedCpu {
            enabled: names("enabled"),
            unavailable: names("unavailable"),
        };
        let live = live_cpu(&original, &line(text(&case, "line")), &confirmed);
        let live = live.map_or(original, |live| live.cpu);
        assert_eq!(
            live.document(FormatFlags::NONE).trim(),
            text(&case, "live").trim(),
            "{}",
            text(&case, "name")
        );
    }
}

#[test]
fn what_was_asked_for_and_not_given_is_told() {
    let original = cpu("<cpu mode='custom' match='exact'><model>Nehalem</model></cpu>");
    let confirmed = ConfirmedCpu {
        enabled: BTreeSet::from(["f16c".to_owned()]),
        unavailable: BTreeSet::new(),
    };
    let live = live_cpu(&original, &line("Nehalem,aes=on,hv-relaxed=on"), &confirmed).unwrap();
    assert!(
        live.missing.contains(&"aes") && live.missing.contains(&"sse4.2"),
        "{:?}",
        live.missing
    );
    assert_eq!(live.extra, ["f16c"]);
}
