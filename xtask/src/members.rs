//! What the members of the workspace may depend on: a leaf that must not know tokio, or QMP, cannot.

use crate::Finding;
use crate::source::{Source, Sources};

/// A member and all that its `[dependencies]` may hold. The root package may hold everything but `testkit`.
// table
const MEMBERS: &[(&str, &[&str])] = &[
    ("xmlform", &["quick-xml", "thiserror", "xmlform-derive"]),
    ("xmlform-derive", &["proc-macro2", "quote", "syn"]),
    ("domxml", &["xmlform", "thiserror", "uuid"]),
    (
        "qemu-plan",
        &["domxml", "hostinfo", "serde", "serde_json", "thiserror", "uuid"],
    ),
    ("wire", &["unixfd", "tokio", "thiserror"]),
    (
        "qmp",
        &["unixfd", "tokio", "serde", "serde_json", "thiserror", "tracing"],
    ),
    ("hostinfo", &["thiserror"]),
    ("confine", &["nix", "unixfd", "thiserror"]),
    (
        "unixfd",
        &[
            "libc",
            "netlink-packet-core",
            "netlink-packet-route",
            "nix",
            "tokio",
            "thiserror",
        ],
    ),
    (
        "client",
        &[
            "unixfd",
            "prost",
            "prost-types",
            "tokio",
            "tokio-stream",
            "tonic",
            "tonic-prost",
            "tonic-types",
            "tower",
            "hyper-util",
        ],
    ),
    (
        "compat",
        &[
            "virtqemud-client",
            "wire",
            "unixfd",
            "bytes",
            "futures-util",
            "http",
            "prost",
            "prost-types",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tokio-stream",
            "tokio-util",
            "tonic",
            "tonic-prost",
            "tonic-types",
            "tower",
            "tracing",
            "uuid",
        ],
    ),
    (
        "testkit",
        &[
            "anyhow",
            "nix",
            "serde",
            "serde_json",
            "tempfile",
            "tokio",
            "unixfd",
        ],
    ),
    ("xtask", &["anyhow", "prost-types", "protox"]),
];

pub(crate) fn check(sources: &Sources) -> Vec<Finding> {
    let manifests = sources
        .0
        .iter()
        .filter(|source| source.path.ends_with("Cargo.toml"));
    manifests
        .filter(|source| !source.path.starts_with("fuzz/"))
        .flat_map(check_manifest)
        .collect()
}

fn check_manifest(source: &Source) -> Vec<Finding> {
    let finding = |line, text| Finding {
        place: source.path.clone(),
        line,
        text,
    };
    let dir = source.path.trim_end_matches("Cargo.toml").trim_end_matches('/');
    let name = dir.rsplit('/').next().unwrap_or(dir);
    let allowed = MEMBERS
        .iter()
        .find(|(member, _)| *member == name)
        .map(|(_, allowed)| *allowed);
    if !name.is_empty() && allowed.is_none() {
        return vec![finding(
            1,
            format!("member {name} is in no table (xtask/src/members.rs)"),
        )];
    }
    let mut findings = Vec::new();
    for (line, dependency) in dependencies(&source.text) {
        let forbidden = match allowed {
            Some(allowed) => !allowed.contains(&dependency),
            None => dependency == "testkit",
        };
        if forbidden {
            findings.push(finding(
                line,
                format!(
                    "{} must not use {dependency}",
                    if dir.is_empty() { "the root" } else { name }
                ),
            ));
        }
    }
    findings
}

/// The keys of `[dependencies]`, also in the form `[dependencies.x]`.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for (at, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            found.extend(section.strip_prefix("dependencies.").map(|name| (at + 1, name)));
        } else if section == "dependencies" && line.contains('=') && !line.starts_with('#') {
            let end = line.find(['.', '=', ' ']).unwrap_or(line.len());
            found.push((at + 1, line[..end].trim_matches('"')));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_table_allows_may_be_used() {
        let manifest = "[dependencies]\nthiserror.workspace = true\ntokio = { workspace = true }\n[dev-dependencies]\nserde = \"1\"\n";
        let findings = check_manifest(&Source::new("crates/hostinfo/Cargo.toml", manifest));
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].to_string(),
            "crates/hostinfo/Cargo.toml:3: hostinfo must not use tokio"
        );
    }

    #[test]
    fn the_root_may_use_all_but_what_is_for_tests() {
        let manifest = "[dependencies]\ntokio.workspace = true\ntestkit.workspace = true\n";
        let findings = check_manifest(&Source::new("Cargo.toml", manifest));
        assert_eq!(findings.len(), 1);
    }
}
