//! The contract in `proto/`: all of it documented and in one style, and a checked-in picture of its surface that every
//! change is held against.
//!
//! `BLESS=1` draws the picture anew. A change that breaks a client that was built before is a finding; `BLESS=breaking`
//! draws it all the same, for as long as the version is not published.

mod breaking;
mod style;
mod surface;

use std::path::Path;

use anyhow::{Context, Result};
use prost_types::FileDescriptorSet;

use crate::Finding;

/// Folder of the files of the contract.
const FOLDER: &str = "proto/virtqemud/v1";
/// The picture of its surface.
const GOLDEN: &str = "proto/virtqemud.v1.txt";

pub(crate) fn check(repository: &Path) -> Result<Vec<Finding>> {
    let set = read(repository)?;
    let mut findings = style::check(&set);
    findings.extend(golden(repository, &surface::of(&set))?);
    Ok(findings)
}

/// The files of the contract, with their comments.
fn read(repository: &Path) -> Result<FileDescriptorSet> {
    let entries = std::fs::read_dir(repository.join(FOLDER)).context(FOLDER)?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry?.path());
    }
    files.sort();
    let mut compiler = protox::Compiler::new([repository.join("proto")])?;
    compiler.include_source_info(true).include_imports(false);
    compiler.open_files(files)?;
    let mut set = compiler.file_descriptor_set();
    set.file.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(set)
}

fn golden(repository: &Path, now: &str) -> Result<Vec<Finding>> {
    let path = repository.join(GOLDEN);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    if before == now {
        return Ok(Vec::new());
    }
    let broken = breaking::changes(&before, now);
    let bless = std::env::var("BLESS").unwrap_or_default();
    if bless == "breaking" || bless == "1" && broken.is_empty() {
        std::fs::write(&path, now).context(GOLDEN)?;
        return Ok(Vec::new());
    }
    let finding = |text| Finding {
        place: GOLDEN.to_owned(),
        line: 1,
        text,
    };
    if broken.is_empty() {
        let text = "the contract has changed compatibly; BLESS=1 cargo xtask check".to_owned();
        return Ok(vec![finding(text)]);
    }
    Ok(broken.into_iter().map(finding).collect())
}
