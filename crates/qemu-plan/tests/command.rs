//! Command lines that libvirt 11.3.0 makes of documents it has kept: a compact set in `data/argv`, and the
//! whole corpus when `DOMAIN_CORPUS` names its directory. `BLESS=1` rewrites the lines kept.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, and figures for whoever runs them"
)]

mod argv;

use std::collections::BTreeMap;
use std::path::Path;

use argv::{Case, Outcome};

#[test]
fn kept_documents_become_recorded_command_lines() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/argv");
    let mut wrong = Vec::new();
    let cases = argv::golden(&dir);
    for case in &cases {
        match argv::run(case) {
            Outcome::Equal => {}
            Outcome::Different(_) if std::env::var_os("BLESS").is_some() => argv::bless(&dir, case),
            other => wrong.push(format!("{}: {other}", case.name)),
        }
    }
    assert!(!cases.is_empty(), "no cases in {}", dir.display());
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// One line a document that can be kept: the document, a tab, and what a native conversion of libvirt's says of it.
const NATIVE: &str = include_str!("data/native.tsv");

#[test]
fn what_only_a_start_refuses_is_refused_in_libvirts_words() {
    let mut wrong = Vec::new();
    for line in NATIVE.lines() {
        let (document, theirs) = line.split_once('\t').unwrap();
        let ours = argv::answer(document);
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
    let cases = argv::corpus(Path::new(&dir));
    count(
        "documents that libvirt kept",
        &cases,
        argv::run,
        "DOMAIN_CORPUS_REPORT",
    );
    count(
        "documents as they were submitted",
        &cases,
        argv::run_submitted,
        "DOMAIN_CORPUS_SUBMITTED_REPORT",
    );
}

/// Prints figures by tier; what differs goes to the file that a variable names.
fn count(what: &str, cases: &[Case], run: fn(&Case) -> Outcome, report_to: &str) {
    let mut figures: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut report = String::new();
    for case in cases {
        let outcome = run(case);
        let column = match &outcome {
            Outcome::Equal => 0,
            Outcome::Different(_) => 1,
            Outcome::Refused(_) => 2,
        };
        for key in [format!("tier {}", case.tier), "all".to_owned()] {
            figures.entry(key).or_default()[column] += 1;
        }
        if column != 0 {
            report.push_str(&format!("== {} (tier {})\n{outcome}\n", case.name, case.tier));
        }
    }
    println!("{what}:\n            equal  different  refused");
    for (key, [equal, different, refused]) in figures {
        println!("{key:>10} {equal:>6} {different:>10} {refused:>8}");
    }
    if let Some(path) = std::env::var_os(report_to) {
        std::fs::write(path, report).unwrap();
    }
}

/// Whatever a document says, the answer is a line or an error.
#[test]
fn documents_that_libvirt_refuses_do_not_panic() {
    let Some(dir) = std::env::var_os("DOMAIN_CORPUS") else {
        return;
    };
    for input in argv::inputs(Path::new(&dir)) {
        argv::survive(&input);
    }
}

#[test]
fn the_line_of_a_start_names_descriptors() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/start");
    let mut wrong = Vec::new();
    for case in argv::golden(&dir) {
        match argv::run_start(&case) {
            Outcome::Equal => {}
            other => wrong.push(format!("{}: {other}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cases_are_told_apart() {
    let case = Case {
        name: "x".into(),
        tier: 1,
        input: String::new(),
        define: String::new(),
        argv: vec!["a".into()],
    };
    assert!(!matches!(argv::run(&case), Outcome::Equal));
}

#[test]
fn a_device_that_is_plugged_in_is_that_of_the_command_line() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/argv");
    let mut seen = 0;
    for case in argv::golden(&dir) {
        seen += argv::plug_all(&case);
    }
    assert!(seen > 300, "only {seen} devices");
}

#[test]
fn nodes_numbered_beforehand_have_the_names_of_a_start() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/argv");
    for case in argv::golden(&dir) {
        let outcome = argv::run_numbered(&case);
        assert!(matches!(outcome, Outcome::Equal), "{}: {outcome}", case.name);
    }
}
