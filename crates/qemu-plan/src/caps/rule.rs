//! How a flag follows from the replies: the kinds of rule, and their evaluation.

use super::flag::{Flag, FlagSet, RULES};
use super::replies::Run;
use super::schema::Schema;

/// One thing in the replies that sets a flag.
#[derive(Debug)]
pub(super) enum Rule {
    /// `query-kvm` says present and enabled.
    Kvm,
    /// `query-qmp-schema` lists the command.
    Command(&'static str),
    /// The path exists in `query-qmp-schema` (see [`Schema::has`]).
    Schema(&'static str),
    /// All of the paths exist.
    SchemaAll(&'static [&'static str]),
    /// `qom-list-types` has the type.
    Type(&'static str),
    /// A device type has the property.
    DeviceProp(&'static str, &'static str),
    /// A device type has the property, and it is off unless asked for.
    DevicePropOff(&'static str, &'static str),
    /// An object type has the property.
    ObjectProp(&'static str, &'static str),
    /// A machine type has the property.
    MachineProp(&'static str, &'static str),
    /// `query-command-line-options` has the option.
    Opt(&'static str),
    /// The option has the parameter.
    OptParam(&'static str, &'static str),
    /// A migration capability.
    Migrate(&'static str),
    /// A TPM front end.
    TpmModel(&'static str),
    /// A TPM back end.
    TpmType(&'static str),
    /// A CPU model.
    Cpu(&'static str),
    /// Another flag, earlier in the table, is set.
    Implied(Flag),
    /// The guest architecture is one of these.
    Arch(&'static [&'static str]),
}

/// Flags that a failed query takes back.
const REFUTED_BY_ERROR: &[(Flag, &str)] = &[
    (Flag::SevGuest, "query-sev-capabilities"),
    (Flag::SevSnpGuest, "query-sev-capabilities"),
    (Flag::SgxEpc, "query-sgx-capabilities"),
];

/// All flags that a probe run sets; `None` without a schema.
pub(super) fn derive(run: &Run) -> Option<FlagSet> {
    let schema = Schema::new(run.reply("query-qmp-schema")?.as_array()?);
    let mut set = FlagSet::default();
    for (flag, rules) in RULES {
        if rules.iter().any(|r| r.holds(run, &schema, &set)) {
            set.set(*flag);
        }
    }
    for (flag, query) in REFUTED_BY_ERROR {
        if run.failed(query) {
            set.clear(*flag);
        }
    }
    Some(set)
}

impl Rule {
    fn holds(&self, run: &Run, schema: &Schema<'_>, set: &FlagSet) -> bool {
        match *self {
            Self::Kvm => run.kvm_enabled(),
            Self::Command(name) => schema.has_command(name),
            Self::Schema(path) => schema.has(path),
            Self::SchemaAll(paths) => paths.iter().all(|p| schema.has(p)),
            Self::Type(name) => run.lists("qom-list-types", "name", name),
            Self::DeviceProp(ty, prop) => run.property("device-list-properties", ty, prop).is_some(),
            Self::DevicePropOff(ty, prop) => run
                .property("device-list-properties", ty, prop)
                .is_some_and(|p| p.get("default-value").and_then(serde_json::Value::as_bool) == Some(false)),
            Self::ObjectProp(ty, prop) => run.property("qom-list-properties", ty, prop).is_some(),
            Self::MachineProp(ty, prop) => run
                .property("qom-list-properties", &format!("{ty}-machine"), prop)
                .is_some(),
            Self::Opt(name) => run.option(name).is_some(),
            Self::OptParam(name, param) => run.option_has(name, param),
            Self::Migrate(name) => run.lists("query-migrate-capabilities", "capability", name),
            Self::TpmModel(name) => run.names("query-tpm-models", name),
            Self::TpmType(name) => run.names("query-tpm-types", name),
            Self::Cpu(name) => run.lists("query-cpu-definitions", "name", name),
            Self::Implied(flag) => set.has(flag),
            Self::Arch(arches) => run.target().is_some_and(|a| arches.contains(&a)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// What sets a flag in libvirt, one line a flag in its order.
    const KNOWN: &str = include_str!("../../tests/data/caps/rules.tsv");

    fn words(rule: &Rule) -> String {
        match *rule {
            Rule::Kvm => "query-kvm".to_owned(),
            Rule::Command(name) => format!("command {name}"),
            Rule::Schema(path) => format!("schema {path}"),
            Rule::SchemaAll(paths) => format!("schema-all {}", paths.join(" ")),
            Rule::Type(name) => format!("qom-type {name}"),
            Rule::DeviceProp(ty, prop) => format!("device-prop {ty} {prop}"),
            Rule::DevicePropOff(ty, prop) => format!("device-prop-off {ty} {prop}"),
            Rule::ObjectProp(ty, prop) => format!("object-prop {ty} {prop}"),
            Rule::MachineProp(ty, prop) => format!("machine-prop {ty} {prop}"),
            Rule::Opt(name) => format!("cmdline-option {name}"),
            Rule::OptParam(name, param) => format!("cmdline-option {name} {param}"),
            Rule::Migrate(name) => format!("migrate-capability {name}"),
            Rule::TpmModel(name) => format!("tpm-model {name}"),
            Rule::TpmType(name) => format!("tpm-type {name}"),
            Rule::Cpu(name) => format!("cpu-definition {name}"),
            Rule::Implied(flag) => format!("flag {}", flag.name()),
            Rule::Arch(arches) => format!("arch {}", arches.join(" ")),
        }
    }

    fn line(flag: Flag, rules: &[Rule]) -> String {
        let mut all: Vec<String> = rules.iter().map(words).collect();
        if let Some((_, query)) = REFUTED_BY_ERROR.iter().find(|(refuted, _)| *refuted == flag) {
            all.iter_mut().for_each(|rule| write!(rule, " !{query}").unwrap());
        }
        all.sort();
        format!("{}: {}", flag.name(), all.join(" | "))
    }

    #[test]
    fn every_flag_is_set_by_what_sets_it_in_libvirt() {
        let ours: Vec<String> = RULES.iter().map(|(flag, rules)| line(*flag, rules)).collect();
        let known = KNOWN.lines().skip(1).map(|line| {
            let mut columns = line.split('\t');
            let (name, rules) = (columns.next().unwrap(), columns.next().unwrap());
            // That one is of another system.
            let mut rules: Vec<&str> = rules.split(" | ").filter(|rule| *rule != "host").collect();
            rules.sort();
            format!("{name}: {}", rules.join(" | "))
        });
        let known: Vec<String> = known.collect();
        assert_eq!(known.len(), 239);
        let differing: Vec<_> = ours
            .iter()
            .zip(&known)
            .filter(|(ours, known)| ours != known)
            .collect();
        assert!(
            differing.is_empty() && ours.len() == known.len(),
            "{differing:#?}"
        );
    }
}
