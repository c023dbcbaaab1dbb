//! Inside `src/ops/`, a wing calls only those below it: the second level of the layers.
//!
//! Whoever reads one wing need not know those above it, and the siblings that change a guest (`start`, `device`) and
//! the one that only asks (`inspect`) do not know each other.

use crate::Finding;
use crate::circles::names;
use crate::source::{Source, Sources};

/// A wing and the wings that it may name.
// table: the lowest first
const WINGS: &[(&str, &str)] = &[
    ("operation", ""),
    ("host", ""),
    ("document", "host"),
    ("holdings", "document host operation"),
    ("tuning", "holdings document host operation"),
    ("run", "tuning holdings document host operation"),
    ("graph", "run tuning holdings document host operation"),
    ("inspect", "graph run tuning holdings document host operation"),
    ("saves", "graph run tuning holdings document host operation"),
    ("device", "graph run tuning holdings document host operation"),
    (
        "moments",
        "saves graph run tuning holdings document host operation",
    ),
    ("checkpoints", "graph run tuning holdings document host operation"),
    ("blockjobs", "graph run tuning holdings document host operation"),
    (
        "backups",
        "checkpoints blockjobs graph run tuning holdings document host operation",
    ),
    (
        "recover",
        "supervise moments backups checkpoints blockjobs device saves graph run tuning holdings document host operation",
    ),
    (
        "supervise",
        "recover blockjobs saves graph run tuning holdings document host operation",
    ),
    (
        "start",
        "supervise recover moments saves graph run tuning holdings document host operation",
    ),
    (
        "change",
        "start supervise recover moments blockjobs saves graph run tuning holdings document host operation",
    ),
];

pub(crate) fn check(sources: &Sources) -> Vec<Finding> {
    let files: Vec<&Source> = sources.rust().filter(|s| s.path.starts_with("src/")).collect();
    check_files(&files)
}

fn check_files(files: &[&Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, inside, named) in names("src", files) {
        let Some(wing) = inside.get(1).filter(|_| inside[0] == "ops") else {
            continue;
        };
        let mut finding = |text| {
            findings.push(Finding {
                place: file.clone(),
                line: 1,
                text,
            });
        };
        let Some((_, below)) = WINGS.iter().find(|(name, _)| name == wing) else {
            finding(format!(
                "ops::{wing} has no place among the wings (xtask/src/wings.rs)"
            ));
            continue;
        };
        for path in named.iter().filter(|path| path.len() > 1 && path[0] == "ops") {
            let other = path[1].as_str();
            let is_wing = WINGS.iter().any(|(name, _)| *name == other);
            if is_wing && other != wing && !below.split(' ').any(|name| name == other) {
                finding(format!("ops::{wing} must not know {}", path.join("::")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, code: &str) -> Vec<String> {
        let source = Source::new(path, code);
        check_files(&[&source]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_wing_that_knows_one_above_it_is_found_in_every_form() {
        for code in [
            "use crate::ops::start::reserve;",
            "use crate::{error::Error, ops::{Driver, start::{self, reserve}}};",
            "fn f() { crate::ops::start::go() }",
        ] {
            assert!(!findings("src/ops/host/a.rs", code).is_empty(), "{code}");
        }
        assert!(!findings("src/ops/start/a.rs", "use crate::ops::device;").is_empty());
        assert!(!findings("src/ops/attic/a.rs", "").is_empty());
    }

    #[test]
    fn a_wing_may_know_itself_those_below_and_what_all_share() {
        let code = "use crate::ops::{Driver, host::clock, run::guest}; use super::b;";
        assert!(findings("src/ops/run/a.rs", code).is_empty());
        assert!(findings("src/api/a.rs", "use crate::ops::change;").is_empty());
    }
}
