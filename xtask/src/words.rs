//! Heads of modules, and words that must not be in the sources.

use std::path::Path;

use crate::Finding;
use crate::source::{Source, Sources};

/// The one member that may say `unsafe`.
const UNSAFE_MAY: &str = "crates/unixfd/";

/// Files that say by their names what they are for.
const HEADLESS: [&str; 2] = ["/tests.rs", "build.rs"];

/// Directories in which anybody's checkout may lie, and which a source may well name.
const COMMON: [&str; 12] = [
    "tmp", "home", "root", "var", "usr", "opt", "srv", "mnt", "etc", "run", "media", "builds",
];

pub(crate) fn check(sources: &Sources, root: &Path) -> Vec<Finding> {
    let mut findings: Vec<Finding> = sources.rust().flat_map(check_rust).collect();
    if let Some(place) = machine_path(root) {
        let named = sources
            .0
            .iter()
            .flat_map(|source| find(source, &source.text, &place));
        findings.extend(named.map(|(place, line)| Finding {
            place,
            line,
            text: "names a path of this machine".to_owned(),
        }));
    }
    findings
}

fn check_rust(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let needs_head = !HEADLESS.iter().any(|name| source.path.ends_with(name));
    if needs_head && !source.text.trim_start().starts_with("//!") {
        findings.push(Finding {
            place: source.path.clone(),
            line: 1,
            text: "has no `//!` head that says what it is for".to_owned(),
        });
    }
    let words = [
        ("#[ignore", "a test that is ignored tells nothing"),
        ("unsafe", "unsafe code belongs into unixfd"),
    ];
    for (word, text) in words {
        if word == "unsafe" && source.path.starts_with(UNSAFE_MAY) {
            continue;
        }
        let found = find(source, &source.code, word);
        findings.extend(found.into_iter().map(|(place, line)| Finding {
            place,
            line,
            text: text.to_owned(),
        }));
    }
    findings
}

/// Lines with the word, not as a part of a longer one.
fn find(source: &Source, text: &str, word: &str) -> Vec<(String, usize)> {
    let has = |line: &&str| {
        line.match_indices(word).any(|(at, _)| {
            // a dot before a slash: a relative path
            let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "_.".contains(c));
            let (before, after) = (
                line[..at].chars().next_back(),
                line[at + word.len()..].chars().next(),
            );
            !joins(before) && (!joins(after) || word.ends_with('/') || word.starts_with('#'))
        })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| has(line));
    lines.map(|(at, _)| (source.path.clone(), at + 1)).collect()
}

/// The first directory of the repository's path, if it is of this machine only.
fn machine_path(root: &Path) -> Option<String> {
    let first = root.components().nth(1)?.as_os_str().to_str()?;
    (!COMMON.contains(&first)).then(|| format!("/{first}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_words_are_found_in_code_only() {
        let text = "//! Never unsafe.\n#[ignore = \"slow\"]\nfn f() { unsafe { g() } }\nlet unsafe_ish = \"unsafe\";\n";
        let findings = check_rust(&Source::new("src/a.rs", text));
        assert_eq!(findings.iter().map(|f| f.line).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(check_rust(&Source::new("crates/unixfd/src/a.rs", text)).len(), 1);
    }

    #[test]
    fn a_module_without_a_head_is_found() {
        assert_eq!(check_rust(&Source::new("src/a.rs", "use std::fs;\n")).len(), 1);
    }

    #[test]
    fn a_path_of_this_machine_is_found_and_a_systems_is_not() {
        assert_eq!(machine_path(Path::new("/machine/x/y")).unwrap(), "/machine/");
        assert_eq!(machine_path(Path::new("/home/x/y")), None);
        let source = Source::new(
            "a.sh",
            "cd /machine/x\ncd /usr/share/machine/x\ncd ../machine/x\n",
        );
        assert_eq!(find(&source, &source.text, "/machine/").len(), 1);
    }
}
