//! `cargo xtask`: checks the rules of this repository that a tool can check and neither compiler nor clippy do.
//!
//!     cargo xtask check     layers, import circles, dependencies of members, heads of modules, lengths, forbidden words,
//!                           the contract; BLESS=1 draws the picture of the contract's surface anew;
//!                           with --notes also functions over 40 lines and parameters of type bool
//!     cargo xtask goldens   runs the tests that compare with golden files (they have `golden` in their names)
//!     cargo xtask record-caps BINARY [OUT]   asks a QEMU as the daemon does; OUT: what tests of capabilities replay
//!
//! Every rule is a function from the sources to a list of findings; nothing is built for `check`.

mod circles;
mod contract;
mod layers;
mod length;
mod members;
mod source;
mod wings;
mod words;

use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use source::Sources;

/// A broken rule and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    line: usize,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place, self.line, self.text)
    }
}

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    let done = match task.as_str() {
        "check" => check(),
        "goldens" => goldens(),
        "record-caps" => record_caps(),
        _ => Err(anyhow::anyhow!(
            "cargo xtask check [--notes] | goldens | record-caps BINARY [OUT]"
        )),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn check() -> Result<bool> {
    let sources = Sources::read(repository())?;
    let mut findings = layers::check(&sources);
    findings.extend(circles::check(&sources));
    findings.extend(members::check(&sources));
    findings.extend(length::check(&sources));
    findings.extend(wings::check(&sources));
    findings.extend(words::check(&sources, repository()));
    findings.extend(contract::check(repository())?);
    findings.sort_by(|a, b| (&a.place, a.line).cmp(&(&b.place, b.line)));
    for finding in &findings {
        say(&finding.to_string());
    }
    let notes = length::notes(&sources);
    if std::env::args().any(|arg| arg == "--notes") {
        notes.iter().for_each(|note| say(&format!("note: {note}")));
    }
    let files = sources.rust().count();
    let (findings_count, notes_count) = (findings.len(), notes.len());
    say(&format!(
        "xtask: {files} files, {findings_count} findings, {notes_count} notes (--notes)"
    ));
    Ok(findings.is_empty())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
}

/// Paths are the caller's: the program runs where we do.
fn record_caps() -> Result<bool> {
    let manifest = repository().join("Cargo.toml");
    let mut command = cargo();
    command
        .args(["run", "--quiet", "--example", "record-caps", "--manifest-path"])
        .arg(manifest)
        .arg("--");
    Ok(command
        .args(std::env::args_os().skip(2))
        .status()
        .context("cargo run")?
        .success())
}

fn goldens() -> Result<bool> {
    let status = cargo()
        .args(["test", "--workspace", "--quiet", "golden"])
        .current_dir(repository())
        .env_remove("BLESS")
        .status()
        .context("cargo test")?;
    Ok(status.success())
}

#[expect(clippy::print_stdout, reason = "what the tool is for")]
fn say(text: &str) {
    println!("{text}");
}
