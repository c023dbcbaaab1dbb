//! Capabilities of QEMUs that are older, newer or built otherwise: the recorded replies without what such a one has not.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use qemu_plan::caps::{Accel, Caps, Exchange, Flag, Replies, Run, probe};
use serde_json::{Value, json};

const REPLIES: &str = include_str!("data/caps/replies-10.0.2-x86_64.json");
const RULES: &str = include_str!("data/caps/rules.tsv");

/// A flag, what sets it, and the versions of QEMU that have it not.
struct Known {
    name: &'static str,
    rules: Vec<Vec<&'static str>>,
    missing: Vec<&'static str>,
}

fn known() -> Vec<Known> {
    let parse = |line: &'static str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let rules = columns[1]
            .split(" | ")
            .map(|rule| rule.split(' ').filter(|word| !word.starts_with('!')).collect());
        Known {
            name: columns[0],
            rules: rules.collect(),
            missing: columns[2].split_whitespace().collect(),
        }
    };
    RULES.lines().skip(1).map(parse).collect()
}

fn replies() -> Replies {
    static PARSED: LazyLock<Replies> = LazyLock::new(|| serde_json::from_str(REPLIES).unwrap());
    PARSED.clone()
}

fn names(caps: &Caps) -> BTreeSet<&'static str> {
    caps.flags().iter().map(Flag::name).collect()
}

fn answers<'a>(run: &'a mut Run, command: &str) -> impl Iterator<Item = &'a mut Exchange> {
    run.exchanges.iter_mut().filter(move |e| e.execute == command)
}

/// Takes out of a list what has `value` under `key`, or is it.
fn take(list: &mut Value, key: &str, value: &str) {
    if let Some(list) = list.as_array_mut() {
        list.retain(|e| e.get(key).unwrap_or(e).as_str() != Some(value));
    }
}

fn take_answer(run: &mut Run, command: &str, key: &str, value: &str) {
    answers(run, command).for_each(|e| take(&mut e.reply["return"], key, value));
}

fn take_property(run: &mut Run, command: &str, ty: &str, prop: &str) {
    let of = |e: &&mut Exchange| e.arguments.as_ref().is_some_and(|a| a["typename"] == ty);
    answers(run, command)
        .filter(of)
        .for_each(|e| take(&mut e.reply["return"], "name", prop));
}

/// Takes out the last step of a path through the schema.
fn take_path(run: &mut Run, path: &str) {
    let schema = answers(run, "query-qmp-schema").next().unwrap();
    let entities = schema.reply["return"].as_array_mut().unwrap();
    let mut steps = path.split('/').peekable();
    let mut here = steps.next().unwrap().to_owned();
    while let Some(step) = steps.next() {
        let Some(at) = entities.iter().position(|e| e["name"] == *here) else {
            return;
        };
        if let Some(of) = entities[at]["element-type"].as_str().map(str::to_owned) {
            here = of;
        }
        let at = entities.iter().position(|e| e["name"] == *here).unwrap();
        let (list, key, name) = match step.split_at(1) {
            ("+", case) => ("variants", "case", case),
            ("$", feature) => ("features", "", feature),
            ("^", value) => ("members", "name", value),
            _ => ("members", "name", step),
        };
        if steps.peek().is_none() {
            take(&mut entities[at][list], key, name);
            take(&mut entities[at]["values"], "", name);
            return;
        }
        let found = |e: &&Value| e[key] == name;
        let next = entities[at][list]
            .as_array()
            .and_then(|l| l.iter().find(found))
            .map_or(&entities[at][step], |e| &e["type"]);
        let Some(next) = next.as_str() else { return };
        here = next.to_owned();
    }
}

fn without(run: &mut Run, rule: &[&str]) {
    match rule {
        ["query-kvm"] => take_kvm(run),
        ["command", name] => {
            answers(run, "query-qmp-schema").for_each(|e| take(&mut e.reply["return"], "name", name))
        }
        ["schema", path] | ["schema-all", path, ..] => take_path(run, path),
        ["qom-type", name] => take_answer(run, "qom-list-types", "name", name),
        ["device-prop" | "device-prop-off", ty, prop] => {
            take_property(run, "device-list-properties", ty, prop)
        }
        ["object-prop", ty, prop] => take_property(run, "qom-list-properties", ty, prop),
        ["machine-prop", ty, prop] => {
            take_property(run, "qom-list-properties", &format!("{ty}-machine"), prop)
        }
        ["cmdline-option", name] => take_answer(run, "query-command-line-options", "option", name),
        ["cmdline-option", name, param] => {
            let options = answers(run, "query-command-line-options").next().unwrap().reply["return"]
                .as_array_mut()
                .unwrap();
            options
                .iter_mut()
                .filter(|o| o["option"] == *name)
                .for_each(|o| take(&mut o["parameters"], "name", param));
        }
        ["migrate-capability", name] => take_answer(run, "query-migrate-capabilities", "capability", name),
        ["tpm-model", name] => take_answer(run, "query-tpm-models", "", name),
        ["tpm-type", name] => take_answer(run, "query-tpm-types", "", name),
        ["cpu-definition", name] => take_answer(run, "query-cpu-definitions", "name", name),
        _ => {}
    }
}

fn take_kvm(run: &mut Run) {
    answers(run, "query-kvm").for_each(|e| e.reply = json!({"return": {"present": true, "enabled": false}}));
}

#[test]
fn what_a_qemu_has_not_clears_the_flag_and_no_other() {
    let all = names(&Caps::derive(&replies()).unwrap());
    let mut cleared = 0;
    for known in known().iter().filter(|known| all.contains(known.name)) {
        let mut replies = replies();
        known
            .rules
            .iter()
            .for_each(|rule| without(&mut replies.runs[0], rule));
        let now = names(&Caps::derive(&replies).unwrap());
        let gone: Vec<_> = all.difference(&now).copied().collect();
        // The same thing sets several: a type its own properties' too.
        assert!(
            gone.contains(&known.name) || known.rules[0][0] == "flag",
            "{}: {gone:?}",
            known.name
        );
        assert!(gone.len() <= 4 && now.is_subset(&all), "{}: {gone:?}", known.name);
        cleared += 1;
    }
    assert_eq!(cleared, all.len());
}

#[test]
fn older_versions_have_what_they_are_known_to_have() {
    let all = names(&Caps::derive(&replies()).unwrap());
    for version in [
        "6.2", "7.0", "7.1", "7.2", "8.0", "8.1", "8.2", "9.0", "9.1", "9.2",
    ] {
        let (major, minor) = version.split_once('.').unwrap();
        let mut replies = replies();
        let number = json!({"major": major.parse::<u32>().unwrap(), "minor": minor.parse::<u32>().unwrap(), "micro": 0});
        answers(&mut replies.runs[0], "query-version")
            .for_each(|e| e.reply["return"]["qemu"] = number.clone());
        let absent: Vec<Known> = known()
            .into_iter()
            .filter(|k| k.missing.contains(&version))
            .collect();
        absent
            .iter()
            .flat_map(|known| &known.rules)
            .for_each(|rule| without(&mut replies.runs[0], rule));
        let caps = Caps::derive(&replies).unwrap();
        let absent: BTreeSet<_> = absent.iter().map(|known| known.name).collect();
        assert_eq!(
            names(&caps),
            all.difference(&absent).copied().collect(),
            "{version}"
        );
        assert!(
            caps.version() < 10_000_000 && caps.default_machine(Accel::Tcg).is_some(),
            "{version}"
        );
    }
}

#[test]
fn a_binary_without_an_accelerator_answers_for_tcg_in_its_only_run() {
    let mut replies = replies();
    take_kvm(&mut replies.runs[0]);
    assert!(!probe::needs_tcg_run(&replies.runs[0]));
    replies.runs.truncate(1);
    let caps = Caps::derive(&replies).unwrap();
    assert!(caps.accel(Accel::Kvm).is_none() && caps.accel(Accel::Tcg).is_some() && !caps.has(Flag::Kvm));
    assert_eq!(caps.preferred_accel(), Accel::Tcg);
}

#[test]
fn a_binary_without_tcg_is_not_asked_for_it() {
    let mut replies = replies();
    without(&mut replies.runs[0], &["qom-type", "tcg-accel"]);
    assert!(!probe::needs_tcg_run(&replies.runs[0]));
    let caps = Caps::derive(&replies).unwrap();
    assert!(caps.accel(Accel::Kvm).is_some() && caps.accel(Accel::Tcg).is_none());
}

#[test]
fn what_a_newer_qemu_adds_is_no_matter() {
    let mut replies = replies();
    let run = &mut replies.runs[0];
    let number = json!({"major": 11, "minor": 1, "micro": 50, "pico": "x"});
    answers(run, "query-version").for_each(|e| e.reply["return"]["qemu"] = number.clone());
    let odd = json!([{"name": "brand-new", "meta-type": "unheard-of", "members": 7}, {"name": 3}, [], null]);
    for command in [
        "query-qmp-schema",
        "qom-list-types",
        "query-machines",
        "query-cpu-definitions",
        "query-migrate-capabilities",
    ] {
        let all = answers(run, command).map(|e| e.reply["return"].as_array_mut().unwrap());
        all.for_each(|list| list.extend(odd.as_array().unwrap().iter().cloned()));
    }
    run.exchanges.push(Exchange {
        execute: "query-brand-new".to_owned(),
        arguments: None,
        reply: json!({"return": 1}),
    });
    let caps = Caps::derive(&replies).unwrap();
    assert_eq!(caps.version(), 11_001_050);
    assert_eq!(names(&caps), names(&Caps::derive(&self::replies()).unwrap()));
}

/// Each answer refused, empty or of another type, one at a time and all together: an error or capabilities, no panic.
#[test]
fn answers_of_any_type_are_taken() {
    let odd = [
        json!({"error": {"class": "CommandNotFound", "desc": "x"}}),
        json!({}),
        json!({"return": {}}),
        json!({"return": [[], {}, 1]}),
    ];
    for reply in &odd {
        for at in 0..replies().runs[0].exchanges.len() {
            let mut replies = replies();
            replies.runs[0].exchanges[at].reply = reply.clone();
            let essential = ["query-version", "query-target", "query-qmp-schema"];
            let execute = replies.runs[0].exchanges[at].execute.clone();
            let list_of_odd = execute == "query-qmp-schema" && reply["return"].is_array();
            assert_eq!(
                Caps::derive(&replies).is_err(),
                essential.contains(&&*execute) && !list_of_odd,
                "{execute}: {reply}"
            );
        }
        let mut replies = replies();
        replies
            .runs
            .iter_mut()
            .flat_map(|run| &mut run.exchanges)
            .for_each(|e| e.reply = reply.clone());
        Caps::derive(&replies).unwrap_err();
    }
}
