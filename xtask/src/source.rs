//! The repository's files as the rules see them. Rust comes twice: as it is, and with comments, strings and
//! characters blanked, so that a rule about code does not meet words.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Files with a rule for them, by the ends of their names.
const KINDS: [&str; 7] = [".rs", ".toml", ".sh", ".md", ".proto", ".ci/run", ".py"];

/// One file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Below the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
    /// As long as `text`, line by line; empty for what is not Rust.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") {
            blank(text)
        } else {
            String::new()
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    /// Whether a comment exempts it from the rules of length: a line that begins with `// table`.
    pub(crate) fn is_table(&self) -> bool {
        self.text.lines().any(is_table_mark)
    }
}

pub(crate) fn is_table_mark(line: &str) -> bool {
    line.trim_start()
        .strip_prefix("// table")
        .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// All files of the repository that are tracked or could be.
#[derive(Debug)]
pub(crate) struct Sources(pub(crate) Vec<Source>);

impl Sources {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let list = Command::new("git")
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "--deduplicate",
            ])
            .current_dir(root)
            .output()
            .context("git ls-files")?;
        ensure!(
            list.status.success(),
            "git ls-files: {}",
            String::from_utf8_lossy(&list.stderr)
        );
        let list = String::from_utf8(list.stdout)?;
        let wanted = list
            .lines()
            .filter(|path| KINDS.iter().any(|kind| path.ends_with(kind)));
        // a file may have been removed and not yet committed
        let files = wanted.filter_map(|path| Some((path, fs::read_to_string(root.join(path)).ok()?)));
        Ok(Self(files.map(|(path, text)| Source::new(path, &text)).collect()))
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().filter(|source| source.path.ends_with(".rs"))
    }
}

/// Rust with comments, strings and characters replaced by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let length = blank_length(rest, before);
        if length == 0 {
            out.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
        before = next;
    }
    out
}

/// Length of what is to be blanked at the beginning of `rest`, 0 for code.
fn blank_length(rest: &str, before: char) -> usize {
    let in_word = before.is_alphanumeric() || before == '_';
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return comment_length(rest);
    }
    if rest.starts_with('"') {
        return string_length(rest);
    }
    if rest.starts_with('\'') {
        return char_length(rest);
    }
    if !in_word && let Some(length) = raw_length(rest) {
        return length;
    }
    0
}

fn comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character's length; 0 for a lifetime.
fn char_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => chars
            .next()
            .filter(|(_, c)| *c == '\'')
            .map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The length of `r"…"`, `br#"…"#` and their kin.
fn raw_length(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].chars().take_while(|c| *c == '#').count();
    let body = prefix.len() + hashes;
    if !rest[body..].starts_with('"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let found = rest[body + 1..].find(&end)?;
    Some(body + 1 + found + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_strings_and_characters_are_blanked_and_code_stays() {
        for (text, code) in [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("un\"safe", x)"#, "f(          , x)"),
            ("f(r#\"a\"b\"#, x)", "f(        , x)"),
            ("f('\"', '\\'', 'x')", "f(   ,     ,    )"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("for x in bar\"\"", "for x in bar  "),
        ] {
            assert_eq!(blank(text), code, "{text}");
        }
    }

    #[test]
    fn only_a_comment_that_begins_with_the_word_marks_a_table() {
        assert!(is_table_mark("    // table: one line a flag"));
        assert!(!is_table_mark("// tables are exempt"));
        assert!(!is_table_mark("let x = 1; // table"));
    }
}
