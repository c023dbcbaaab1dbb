//! Paths through `query-qmp-schema`.
//!
//! A path is `command/arg-type|ret-type/member/...`, where `+X` selects variant X of a union or alternate,
//! `^X` a value of an enum and `$X` a feature of the entity reached.

use std::collections::HashMap;

use serde_json::Value;

/// The entities of a schema by name.
pub(super) struct Schema<'a>(HashMap<&'a str, &'a Value>);

impl<'a> Schema<'a> {
    pub(super) fn new(entities: &'a [Value]) -> Self {
        Self(
            entities
                .iter()
                .filter_map(|e| Some((e.get("name")?.as_str()?, e)))
                .collect(),
        )
    }

    pub(super) fn has_command(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_some_and(|e| str_of(e, "meta-type") == Some("command"))
    }

    /// Whether a path exists.
    pub(super) fn has(&self, path: &str) -> bool {
        self.walk(path, &mut |_| {})
    }

    /// Whether a path exists; `passed` is told the entities on it. Bounded by the path's own length.
    pub(super) fn walk(&self, path: &str, passed: &mut dyn FnMut(&'a Value)) -> bool {
        let mut steps = path.split('/');
        let Some(mut here) = steps.next().and_then(|name| self.0.get(name).copied()) else {
            return false;
        };
        passed(here);
        for step in steps {
            passed(self.element(here));
            match self.step(here, step) {
                Reached::Entity(next) => {
                    here = next;
                    passed(here);
                }
                Reached::Leaf => return true,
                Reached::Nothing => return false,
            }
        }
        true
    }

    fn step(&self, here: &'a Value, step: &str) -> Reached<'a> {
        let here = self.element(here);
        if let Some(feature) = step.strip_prefix('$') {
            return Reached::leaf_if(has_str(here, "features", feature));
        }
        if let Some(value) = step.strip_prefix('^') {
            return Reached::leaf_if(has_str(here, "values", value) || has_named(here, "members", value));
        }
        let next = match step.strip_prefix('+') {
            Some(case) => find(here, "variants", "case", case).and_then(|v| str_of(v, "type")),
            None if step == "arg-type" || step == "ret-type" => str_of(here, step),
            None => find(here, "members", "name", step).and_then(|m| str_of(m, "type")),
        };
        match next {
            None => Reached::Nothing,
            Some(name) => self.0.get(name).map_or(Reached::Leaf, |e| Reached::Entity(e)),
        }
    }

    /// What an array holds, or the entity itself.
    fn element(&self, entity: &'a Value) -> &'a Value {
        str_of(entity, "element-type")
            .and_then(|name| self.0.get(name).copied())
            .unwrap_or(entity)
    }
}

enum Reached<'a> {
    Entity(&'a Value),
    Leaf,
    Nothing,
}

impl Reached<'_> {
    const fn leaf_if(found: bool) -> Self {
        if found { Self::Leaf } else { Self::Nothing }
    }
}

fn str_of<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

fn find<'a>(value: &'a Value, list: &str, key: &str, wanted: &str) -> Option<&'a Value> {
    value
        .get(list)?
        .as_array()?
        .iter()
        .find(|e| str_of(e, key) == Some(wanted))
}

fn has_str(value: &Value, list: &str, wanted: &str) -> bool {
    value
        .get(list)
        .and_then(Value::as_array)
        .is_some_and(|l| l.iter().any(|e| e.as_str() == Some(wanted)))
}

fn has_named(value: &Value, list: &str, wanted: &str) -> bool {
    find(value, list, "name", wanted).is_some()
}
