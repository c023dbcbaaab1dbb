//! Documents that libvirt 11.3.0 was given, and what it keeps of each: a compact set in `data/define`, and the whole
//! corpus when `DOMAIN_CORPUS` names its directory. `BLESS=1` rewrites the documents kept.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "shared with other tests")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use support::{Outcome, run};

#[test]
fn recorded_documents_become_what_libvirt_keeps() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/define");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in support::cases(&dir) {
        seen += 1;
        match run(&case) {
            Outcome::Equal => {}
            Outcome::Different(_) if std::env::var_os("BLESS").is_some() => support::bless(&case),
            other => wrong.push(format!("{}: {other:?}", case.name)),
        }
        if !support::is_stable(&case) {
            wrong.push(format!("{}: changes when it is defined again", case.name));
        }
    }
    assert!(seen > 0, "no cases in {}", dir.display());
    assert!(
        wrong.is_empty(),
        "{} of {seen}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// One line a document: the document, a tab, and libvirt's code, domain and message.
const REFUSALS: &str = include_str!("data/refusals.tsv");

#[test]
fn wrong_documents_are_refused_in_libvirts_words() {
    let mut wrong = Vec::new();
    for line in REFUSALS.lines() {
        let (document, theirs) = line.split_once('\t').unwrap();
        let ours = match support::define_as(document, false, qemu_plan::address::Age::New) {
            Ok(_) => "accepted".to_owned(),
            Err((code, area, message)) => format!("{code} {} {message}", area.unwrap_or(0)),
        };
        if ours != theirs {
            wrong.push(format!("{document}\n ours: {ours}\n libvirt: {theirs}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_whole_corpus_is_survived_and_counted() {
    let Some(dir) = std::env::var_os("DOMAIN_CORPUS") else {
        return;
    };
    let mut figures: BTreeMap<String, [usize; 5]> = BTreeMap::new();
    let mut report = String::new();
    let mut unstable = Vec::new();
    for case in support::cases(Path::new(&dir)) {
        let outcome = run(&case);
        let index = match &outcome {
            Outcome::Equal => 0,
            Outcome::Different(_) => 1,
            Outcome::Refused(_) => 2,
            Outcome::Accepted(_) => 3,
            Outcome::OtherError { .. } => 4,
        };
        for key in [format!("tier {}", case.tier), "all".to_owned()] {
            figures.entry(key).or_default()[index] += 1;
        }
        if !support::is_stable(&case) {
            unstable.push(case.name.clone());
        }
        if index != 0 {
            report.push_str(&format!("== {} (tier {})\n{outcome:?}\n", case.name, case.tier));
        }
    }
    println!("            equal  different  refused  accepted  other error");
    for (key, [equal, different, refused, accepted, other]) in figures {
        println!("{key:>10} {equal:>6} {different:>10} {refused:>8} {accepted:>9} {other:>12}");
    }
    println!(
        "{} change when defined again: {}",
        unstable.len(),
        unstable.join(" ")
    );
    if let Some(path) = std::env::var_os("DOMAIN_CORPUS_REPORT") {
        std::fs::write(path, report).unwrap();
    }
}

/// One a line: a small document, and what libvirt keeps of it, without what is made up.
const COMPLETED: &str = include_str!("data/completed.jsonl");

/// Text without made-up identities and the directories of a daemon.
fn plain(text: &str) -> String {
    let mut out = Vec::new();
    for line in text.trim().lines() {
        let line = match (line.find("<uuid>"), line.find("52:54:00:")) {
            (Some(at), _) => format!("{}<uuid/>", &line[..at]),
            (_, Some(at)) => format!("{}MAC{}", &line[..at], &line[at + "52:54:00:00:00:00".len()..]),
            _ => line.to_owned(),
        };
        out.push(
            line.replace("/var/lib/libvirt", "DIR")
                .replace("/run/libvirt", "DIR"),
        );
    }
    out.join("\n")
}

#[test]
fn small_documents_become_what_libvirt_keeps() {
    let mut wrong = Vec::new();
    for line in COMPLETED.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let (document, kept) = (case["document"].as_str().unwrap(), case["kept"].as_str().unwrap());
        let ours = support::define_as(document, false, qemu_plan::address::Age::New);
        match ours {
            Ok(ours) if plain(&ours) == kept => {}
            other => wrong.push(format!("{document}\n ours: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
