//! Replies without what no rule reads, for recordings that tests replay.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::flag::RULES;
use super::replies::{Exchange, Replies, Run};
use super::rule::Rule;
use super::schema::Schema;

/// Lists of objects, by command, and what is read of an object.
const READ: &[(&str, &[&str])] = &[
    ("qom-list-types", &["name"]),
    ("qom-list-properties", &["name"]),
    ("device-list-properties", &["name", "default-value"]),
    ("query-command-line-options", &["option", "parameters"]),
];

impl Replies {
    /// Drops what no table reads; what is derived from the rest is the same.
    pub fn compact(&mut self) {
        self.runs.iter_mut().for_each(compact);
    }
}

fn compact(run: &mut Run) {
    let kept = schema(run);
    for Exchange { execute, reply, .. } in &mut run.exchanges {
        let Some(list) = reply.get_mut("return").and_then(Value::as_array_mut) else {
            continue;
        };
        if let (true, Some(kept)) = (execute == "query-qmp-schema", &kept) {
            list.clone_from(kept);
        }
        let Some((_, read)) = READ.iter().find(|(command, _)| command == execute) else {
            continue;
        };
        list.iter_mut().for_each(|entry| keep(entry, read));
        let options = list
            .iter_mut()
            .filter_map(|entry| entry.get_mut("parameters")?.as_array_mut());
        options.flatten().for_each(|parameter| keep(parameter, &["name"]));
    }
}

fn keep(entry: &mut Value, read: &[&str]) {
    if let Some(object) = entry.as_object_mut() {
        object.retain(|key, _| read.contains(&key.as_str()));
    }
}

/// Names of all commands, and the whole of what a path goes through.
fn schema(run: &Run) -> Option<Vec<Value>> {
    let entities = run.reply("query-qmp-schema")?.as_array()?;
    let schema = Schema::new(entities);
    let mut seen = HashSet::new();
    for path in RULES.iter().flat_map(|(_, rules)| *rules).flat_map(paths) {
        schema.walk(path, &mut |entity| {
            seen.insert(std::ptr::from_ref(entity));
        });
    }
    let named = |entity: &Value| {
        let is_command = entity.get("meta-type")?.as_str()? == "command";
        let keys = ["name", "meta-type"].into_iter();
        is_command.then(|| {
            Value::Object(
                keys.filter_map(|key| Some((key.to_owned(), entity.get(key)?.clone())))
                    .collect::<Map<_, _>>(),
            )
        })
    };
    let kept = entities.iter().filter_map(|entity| {
        if seen.contains(&std::ptr::from_ref(entity)) {
            Some(entity.clone())
        } else {
            named(entity)
        }
    });
    Some(kept.collect())
}

fn paths(rule: &'static Rule) -> &'static [&'static str] {
    match rule {
        Rule::Schema(path) => std::slice::from_ref(path),
        Rule::SchemaAll(paths) => paths,
        _ => &[],
    }
}
