//! Every refusal of libvirt 11.3.0 at define that concerns this crate (`data/rules.tsv`: part, place, code and domain,
//! text, and `built` or why it is not built here): the texts of those that are built stand in the sources.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::Path;

const RULES: &str = include_str!("data/rules.tsv");

fn sources(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// The texts in quotes, cut at what is filled in.
fn literals(code: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut rest = code;
    while let Some(begin) = rest.find('"') {
        let is_char = rest[..begin].ends_with('\'') && rest[begin..].starts_with("\"'");
        rest = &rest[begin + 1..];
        if is_char {
            continue;
        }
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { break };
        all.push(pieces(&rest[..end].replace("\\\"", "\"")));
        rest = &rest[end + 1..];
    }
    all
}

fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut inside = false;
    for c in text.chars() {
        match c {
            '{' => inside = true,
            '}' => {
                inside = false;
                pieces.push(String::new());
            }
            c if !inside => pieces.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    pieces
}

/// Whether a text is what a literal becomes with something filled in.
fn says(pieces: &[String], text: &str) -> bool {
    let (first, last) = (pieces.first().unwrap(), pieces.last().unwrap());
    if pieces.len() == 1 {
        return first == text;
    }
    let Some(mut rest) = text.strip_prefix(first.as_str()) else {
        return false;
    };
    for piece in &pieces[1..pieces.len() - 1] {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

#[test]
fn every_rule_is_built_or_says_why_not() {
    let mut code = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let long = |pieces: &Vec<String>| pieces.iter().map(String::len).sum::<usize>() > 6;
    let literals: Vec<_> = literals(&code).into_iter().filter(long).collect();
    let mut missing = Vec::new();
    for line in RULES.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [_, place, _, text, state] = columns[..] else {
            panic!("{line}");
        };
        let filled = text.replace("%s", "X");
        let built = text == "%s" || literals.iter().any(|pieces| says(pieces, &filled));
        if state.is_empty() || state == "built" && !built {
            missing.push(format!("{place}: {text}"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
