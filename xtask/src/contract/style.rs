//! The style of the contract: everything is documented, enums have an unspecified zero and prefixed words, and times are
//! `google.protobuf.Duration` and `Timestamp`.

use std::collections::HashMap;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

use crate::Finding;

/// Numbers of the fields of descriptors, of which paths are made.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const FIELDS: i32 = 2;
const NESTED: i32 = 3;
const NESTED_ENUMS: i32 = 4;
const ONEOFS: i32 = 8;
const VALUES: i32 = 2;
const METHODS: i32 = 2;

/// Ends of names that say a unit of time, which a type should.
const UNITS: &[&str] = &[
    "_ns",
    "_us",
    "_ms",
    "_seconds",
    "_secs",
    "_nanoseconds",
    "_milliseconds",
    "_minutes",
];
/// Messages that say nothing of what was done.
const EMPTY: &str = ".google.protobuf.Empty";

pub(super) fn check(set: &FileDescriptorSet) -> Vec<Finding> {
    set.file
        .iter()
        .flat_map(|file| Checked::of(file).run(file))
        .collect()
}

/// One file on its way.
struct Checked {
    place: String,
    /// Line and whether there is a comment, by path.
    places: HashMap<Vec<i32>, (usize, bool)>,
    findings: Vec<Finding>,
}

impl Checked {
    fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let places = locations.map(|location| {
            let line = location.span.first().and_then(|line| usize::try_from(*line).ok());
            let documented = !location.leading_comments().trim().is_empty();
            (
                location.path.clone(),
                (line.map_or(1, |line| line + 1), documented),
            )
        });
        Self {
            place: format!("proto/{}", file.name()),
            places: places.collect(),
            findings: Vec::new(),
        }
    }

    fn run(mut self, file: &FileDescriptorProto) -> Vec<Finding> {
        for (at, it) in numbered(&file.service) {
            self.service(&[SERVICES, at], it);
        }
        for (at, it) in numbered(&file.enum_type) {
            self.r#enum(&[ENUMS, at], it);
        }
        for (at, it) in numbered(&file.message_type) {
            self.message(&[MESSAGES, at], it);
        }
        self.findings
    }

    fn find(&mut self, path: &[i32], text: String) {
        let line = self.places.get(path).map_or(1, |(line, _)| *line);
        self.findings.push(Finding {
            place: self.place.clone(),
            line,
            text,
        });
    }

    fn documented(&mut self, path: &[i32], name: &str) {
        if !self.places.get(path).is_some_and(|(_, documented)| *documented) {
            self.find(path, format!("{name} is not documented"));
        }
    }

    fn service(&mut self, path: &[i32], it: &ServiceDescriptorProto) {
        self.documented(path, it.name());
        for (at, method) in numbered(&it.method) {
            let path = below(path, METHODS, at);
            self.documented(&path, method.name());
            if method.output_type() == EMPTY || method.input_type() == EMPTY {
                self.find(
                    &path,
                    format!("{} has an empty message of Google's", method.name()),
                );
            }
        }
    }

    fn r#enum(&mut self, path: &[i32], it: &EnumDescriptorProto) {
        self.documented(path, it.name());
        let prefix = prefix(it.name());
        for (at, value) in numbered(&it.value) {
            let (path, name) = (below(path, VALUES, at), value.name());
            self.documented(&path, name);
            if !name.starts_with(&prefix) {
                self.find(&path, format!("{name} does not begin with {prefix}"));
            }
            if (value.number() == 0) != (name == format!("{prefix}UNSPECIFIED")) {
                self.find(
                    &path,
                    format!("{name}: zero is {prefix}UNSPECIFIED and nothing else"),
                );
            }
        }
    }

    fn message(&mut self, path: &[i32], it: &DescriptorProto) {
        if it.options.as_ref().is_some_and(|options| options.map_entry()) {
            return;
        }
        self.documented(path, it.name());
        for (at, field) in numbered(&it.field) {
            let (path, name) = (below(path, FIELDS, at), field.name());
            self.documented(&path, &format!("{}.{name}", it.name()));
            if UNITS.iter().any(|unit| name.ends_with(unit)) {
                self.find(&path, format!("{name}: a time is a Duration or a Timestamp"));
            }
            if field.type_name() == EMPTY {
                self.find(&path, format!("{name} is an empty message of Google's"));
            }
        }
        for (at, oneof) in numbered(&it.oneof_decl) {
            // The compiler makes one of each optional field.
            if !oneof.name().starts_with('_') {
                self.documented(&below(path, ONEOFS, at), oneof.name());
            }
        }
        for (at, inner) in numbered(&it.enum_type) {
            self.r#enum(&below(path, NESTED_ENUMS, at), inner);
        }
        for (at, inner) in numbered(&it.nested_type) {
            self.message(&below(path, NESTED, at), inner);
        }
    }
}

fn numbered<T>(items: &[T]) -> impl Iterator<Item = (i32, &T)> {
    (0..).zip(items)
}

fn below(path: &[i32], kind: i32, at: i32) -> Vec<i32> {
    [path, &[kind, at]].concat()
}

/// What the values of an enum begin with: `PowerMode` gives `POWER_MODE_`.
fn prefix(name: &str) -> String {
    let mut prefix = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix + "_"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let dir = std::env::temp_dir().join(format!("xtask-style-{}-{}", std::process::id(), text.len()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("a.proto"), format!("syntax = \"proto3\";\n{text}")).unwrap();
        let mut compiler = protox::Compiler::new([&dir]).unwrap();
        compiler.include_source_info(true);
        compiler.open_file("a.proto").unwrap();
        let set = compiler.file_descriptor_set();
        std::fs::remove_dir_all(&dir).unwrap();
        check(&set).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn everything_is_documented() {
        let bare = "message A {\n  string b = 1;\n  oneof c {\n    bool d = 2;\n  }\n}\nenum E {\n  E_UNSPECIFIED = 0;\n}\nservice S {\n  rpc R(A) returns (A);\n}\n";
        let mut found = findings(bare);
        found.sort();
        let names = ["A", "A.b", "A.d", "E", "E_UNSPECIFIED", "R", "S", "c"];
        assert_eq!(found, names.map(|name| format!("{name} is not documented")));
        let told = "// A.\nmessage A {\n  // B.\n  optional string b = 1;\n  // C.\n  map<string, string> c = 2;\n}\n";
        assert!(findings(told).is_empty(), "{:?}", findings(told));
    }

    #[test]
    fn zero_is_unspecified_and_words_have_their_prefix() {
        let found =
            findings("// E.\nenum PowerMode {\n  // A.\n  POWER_MODE_ON = 0;\n  // B.\n  OFF = 1;\n}\n");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn times_are_types() {
        let found = findings("// A.\nmessage A {\n  // B.\n  uint64 wait_ns = 1;\n}\n");
        assert_eq!(found, ["wait_ns: a time is a Duration or a Timestamp"]);
    }
}
