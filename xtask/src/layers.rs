//! Inside `src/`, a layer calls only below it, and `domain` and `qemu` do not know each other.

use crate::Finding;
use crate::source::{Source, Sources};

/// A module of the root crate and what it may name by `crate::`. `lib` and `main` may name all.
// table
const LAYERS: &[(&str, &str)] = &[
    ("daemon", "access api ops domain qemu options admin BELOW"),
    ("service", "daemon api access ops domain qemu admin BELOW"),
    ("api", "access ops domain admin BELOW"),
    ("access", "ops domain BELOW"),
    ("ops", "domain qemu BELOW"),
    ("domain", "BELOW"),
    ("qemu", "config paths blocking tasks error version"),
    ("admin", "BELOW"),
    ("options", "config paths error version"),
    ("peers", "config paths blocking tasks error version"),
    ("hooks", "blocking error"),
    ("logging", "config paths blocking error version"),
    ("events", "paths blocking error pb"),
    ("config", "paths blocking error"),
    ("blocking", "tasks error"),
    ("tasks", ""),
    ("error", "pb"),
    ("paths", ""),
    ("pb", ""),
    ("version", ""),
];

/// What all but the lowest may name.
const BELOW: &str = "peers hooks logging events config blocking tasks error paths pb version";

pub(crate) fn check(sources: &Sources) -> Vec<Finding> {
    sources.rust().flat_map(check_file).collect()
}

fn check_file(source: &Source) -> Vec<Finding> {
    let Some(module) = module(&source.path) else {
        return Vec::new();
    };
    let finding = |line, text| Finding {
        place: source.path.clone(),
        line,
        text,
    };
    let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![finding(
            1,
            format!("module {module} has no place in the layers (xtask/src/layers.rs)"),
        )];
    };
    let mut findings = Vec::new();
    for (line, name) in named(&source.code) {
        let is_module = LAYERS.iter().any(|(layer, _)| *layer == name);
        let mut allowed = below.split(' ').flat_map(|word| match word {
            "BELOW" => BELOW.split(' '),
            word => word.split(' '),
        });
        if is_module && name != module && !allowed.any(|allowed| allowed == name) {
            findings.push(finding(line, format!("{module} must not know {name}")));
        }
    }
    findings
}

/// The top module a file of `src/` belongs to; none for the roots.
fn module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let top = inside.split('/').next()?;
    let name = top.strip_suffix(".rs").unwrap_or(top);
    (!matches!(name, "lib" | "main")).then_some(name)
}

/// Every name that follows `crate::`, also those in braces, with its line.
fn named(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + word.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(firsts(group).into_iter().map(|name| (line, name))),
            None => found.push((line, identifier(rest))),
        }
    }
    found
}

/// The first names of the paths in a `use` group, up to its closing brace.
fn firsts(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let (mut depth, mut begins) = (0_usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                names.push(identifier(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check_file(&Source::new(path, text))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_call_upwards_or_sideways_is_found_in_every_form() {
        let up = "src/domain/view.rs:2: domain must not know ops";
        for text in [
            "//! x\nuse crate::ops::start;",
            "//! x\nuse crate::{error::Error, ops::{a, b}};",
            "//! x\nlet x = crate::ops::start();",
        ] {
            assert_eq!(findings("src/domain/view.rs", text), [up], "{text}");
        }
        assert_eq!(findings("src/qemu/caps.rs", "use crate::domain::View;").len(), 1);
    }

    #[test]
    fn calls_below_and_within_and_words_in_comments_are_fine() {
        for text in [
            "use crate::{domain, qemu::caps};",
            "// crate::api\nuse crate::ops::stage;",
        ] {
            assert!(findings("src/ops/start.rs", text).is_empty(), "{text}");
        }
        assert!(findings("src/main.rs", "use crate::daemon;").is_empty());
    }

    #[test]
    fn a_module_that_is_in_no_layer_is_found() {
        assert_eq!(findings("src/util.rs", "").len(), 1);
    }
}
