//! No import circle of more than four files: the modules of a crate are a graph of what they name, and whoever
//! reads one file must not have to read twenty.
//!
//! Read are `use` lines and paths from `crate`, `super` and `self`; a name that a module passes on (`pub use`) leads
//! to the module that has it. A module may name what is defined in the folder it lies in (`super::Type`): that is
//! not counted. The hard thing is that this is text and not meaning: what a macro or a glob hides is not seen.

use std::collections::{BTreeMap, BTreeSet};

use crate::Finding;
use crate::source::{Source, Sources};

/// The largest circle that is left alone.
const LARGEST: usize = 4;

/// Names from a crate's root, `["ops", "start"]`; the root itself is empty.
pub(crate) type Path = Vec<String>;

/// A module: where its file is, and what its code says.
#[derive(Debug, Default)]
struct Module {
    file: String,
    /// Names that it brings in, and what they stand for.
    brought: BTreeMap<String, Brought>,
    /// All that it names in this crate.
    named: BTreeSet<Path>,
}

/// What a name stands for that a `use` brings in.
#[derive(Debug)]
struct Brought {
    path: Path,
    /// By `pub use`; by a plain one it is there for the module and what lies below it alone.
    passed_on: bool,
}

pub(crate) fn check(sources: &Sources) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources.rust() {
        if let Some(root) = crate_root(&source.path) {
            crates.entry(root).or_default().push(source);
        }
    }
    crates
        .iter()
        .flat_map(|(root, files)| check_crate(root, files))
        .collect()
}

/// The modules of a crate: the file, the module's path, and all that it names in the crate.
pub(crate) fn names(root: &str, files: &[&Source]) -> Vec<(String, Path, BTreeSet<Path>)> {
    let modules = read(root, files).into_iter();
    modules
        .map(|(path, module)| (module.file, path, module.named))
        .collect()
}

/// `crates/x/src` of `crates/x/src/a/b.rs`; none for tests, examples and build scripts.
fn crate_root(path: &str) -> Option<&str> {
    let at = match path.strip_prefix("src/") {
        Some(_) => 0,
        None => path.find("/src/")? + 1,
    };
    Some(&path[..at + "src".len()])
}

fn check_crate(root: &str, files: &[&Source]) -> Vec<Finding> {
    let modules = read(root, files);
    let graph = graph(&modules);
    let mut findings = Vec::new();
    for circle in circles(&graph) {
        if circle.len() > LARGEST {
            let names: Vec<_> = circle.iter().map(|path| path.join("::")).collect();
            findings.push(Finding {
                place: circle
                    .first()
                    .and_then(|first| modules.get(*first))
                    .map_or_else(String::new, |module| module.file.clone()),
                line: 1,
                text: format!(
                    "{} modules import each other, {LARGEST} may: {}",
                    circle.len(),
                    names.join(", ")
                ),
            });
        }
    }
    findings
}

fn read(root: &str, files: &[&Source]) -> BTreeMap<Path, Module> {
    let names = |source: &Source| {
        let inside = source
            .path
            .strip_prefix(root)?
            .strip_prefix('/')?
            .strip_suffix(".rs")?;
        let mut names: Path = inside.split('/').map(str::to_owned).collect();
        if names
            .iter()
            .any(|name| matches!(name.as_str(), "tests" | "test" | "fixture" | "fixtures"))
        {
            return None;
        }
        if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            names.pop();
        }
        Some(names)
    };
    let paths: Vec<_> = files
        .iter()
        .filter_map(|source| Some((names(source)?, *source)))
        .collect();
    let known: BTreeSet<&Path> = paths.iter().map(|(path, _)| path).collect();
    let mut modules: BTreeMap<Path, Module> = BTreeMap::new();
    for (path, source) in &paths {
        // `lib.rs` and `main.rs` are one module to us
        let module = modules.entry(path.clone()).or_default();
        module.file.clone_from(&source.path);
        let here = Place { path, known: &known };
        here.read(&source.code, module);
    }
    modules
}

/// Where a path is read, which says what it means.
struct Place<'a> {
    path: &'a Path,
    known: &'a BTreeSet<&'a Path>,
}

impl Place<'_> {
    fn read(&self, code: &str, module: &mut Module) {
        let code = without_tests(code);
        for (at, _) in code.match_indices("use ") {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let passed_on = code[..at].trim_end().ends_with("pub") || code[..at].trim_end().ends_with(')');
            let tree = code[at + "use ".len()..].split(';').next().unwrap_or_default();
            for (parts, name) in flatten(&[], tree) {
                if let Some(path) = self.absolute(&parts) {
                    module.named.insert(path.clone());
                    module.brought.insert(name, Brought { path, passed_on });
                }
            }
        }
        for path in paths(code) {
            module.named.extend(self.absolute(&path));
        }
    }

    /// From the crate's root; none for a path that leads to another crate.
    fn absolute(&self, parts: &[String]) -> Option<Path> {
        let (first, rest) = parts.split_first()?;
        let mut base = self.path.clone();
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => {
                base.extend_from_slice(rest);
                Some(base)
            }
            "super" => {
                base.pop()?;
                let ups = rest.iter().take_while(|part| *part == "super").count();
                base.truncate(base.len().saturating_sub(ups));
                base.extend_from_slice(&rest[ups..]);
                Some(base)
            }
            child => {
                base.push(child.to_owned());
                let known = self.known.contains(&base);
                base.extend_from_slice(rest);
                known.then_some(base)
            }
        }
    }
}

/// Modules of unit tests end a file.
fn without_tests(code: &str) -> &str {
    match code.find("#[cfg(test)]\nmod ") {
        Some(at) if code[at..].contains('{') => &code[..at],
        _ => code,
    }
}

/// The paths of a `use` tree, each with the name it brings in.
fn flatten(base: &[String], tree: &str) -> Vec<(Path, String)> {
    let mut found = Vec::new();
    for item in split(tree) {
        let (item, renamed) = match item.split_once(" as ") {
            Some((path, name)) if !path.contains('{') => (path, Some(name.trim().to_owned())),
            _ => (item, None),
        };
        let (head, group) = match item.split_once('{') {
            Some((head, group)) => (head, group.rsplit_once('}').map(|(group, _)| group)),
            None => (item, None),
        };
        let mut path = base.to_vec();
        path.extend(
            head.split("::")
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned),
        );
        match group {
            Some(group) => found.extend(flatten(&path, group)),
            None => {
                if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                    path.pop();
                }
                let name = renamed.or_else(|| path.last().cloned()).unwrap_or_default();
                found.push((path, name));
            }
        }
    }
    found
}

/// At the commas that lie outside of braces.
fn split(tree: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut items) = (0_usize, 0, Vec::new());
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                items.push(&tree[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    items.push(&tree[begin..]);
    items.retain(|item| !item.trim().is_empty());
    items
}

/// Every path of at least two names.
fn paths(code: &str) -> Vec<Path> {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c: char| !word(c))
        .filter(|text| text.contains("::"))
        .map(|text| {
            text.split("::")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .collect()
}

/// Which module names something of which others.
fn graph(modules: &BTreeMap<Path, Module>) -> BTreeMap<&Path, BTreeSet<&Path>> {
    modules
        .iter()
        .map(|(path, module)| {
            let names = module.named.iter();
            let mut targets: BTreeSet<_> = names
                .filter_map(|target| resolve(modules, path, target))
                .collect();
            // what lies in the same folder's root is common to the folder
            targets.retain(|target| !path.starts_with(target));
            (path, targets)
        })
        .collect()
}

/// The module that has what `path` names when read in the module `reader`, through all that pass it on.
fn resolve<'a>(modules: &'a BTreeMap<Path, Module>, reader: &Path, path: &Path) -> Option<&'a Path> {
    let mut path = path.clone();
    // who passes names on in a ring does not compile
    for _ in 0..16 {
        let length = (0..=path.len())
            .rev()
            .find(|length| modules.contains_key(&path[..*length]))?;
        let (at, module) = modules.get_key_value(&path[..length])?;
        let name = path.get(length).and_then(|name| module.brought.get(name));
        let Some(brought) = name.filter(|name| name.passed_on || reader.starts_with(at)) else {
            return Some(at);
        };
        let mut next = brought.path.clone();
        next.extend_from_slice(&path[length + 1..]);
        path = next;
    }
    None
}

/// All circles of a graph: sets in which each reaches each other, larger than one, each in order.
fn circles<'a>(graph: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> Vec<Vec<&'a Path>> {
    let reached: BTreeMap<_, _> = graph.keys().map(|path| (*path, reach(graph, path))).collect();
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for (path, reaches) in &reached {
        if done.contains(path) {
            continue;
        }
        let circle: Vec<_> = reaches
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(path)))
            .collect();
        done.extend(circle.iter().copied());
        if circle.len() > 1 {
            found.push(circle);
        }
    }
    found
}

/// All that can be reached from a module, in one step or more.
fn reach<'a>(graph: &BTreeMap<&'a Path, BTreeSet<&'a Path>>, from: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Path> = graph.get(from).into_iter().flatten().copied().collect();
    while let Some(path) = open.pop() {
        if reached.insert(path) {
            open.extend(graph.get(path).into_iter().flatten().copied());
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        check(&Sources(sources)).iter().map(ToString::to_string).collect()
    }

    /// Modules that each name the next, the last the first.
    fn ring(root: &str, size: usize, line: fn(usize) -> String) -> Vec<(String, String)> {
        (0..size)
            .map(|at| (format!("{root}/m{at}.rs"), line((at + 1) % size)))
            .collect()
    }

    fn of_ring(root: &str, size: usize, line: fn(usize) -> String) -> Vec<String> {
        let files = ring(root, size, line);
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        found(&files)
    }

    #[test]
    fn a_circle_of_five_is_found_in_every_form_of_naming_and_one_of_four_is_not() {
        let forms: [fn(usize) -> String; 5] = [
            |next| format!("use crate::m{next}::Thing;"),
            |next| format!("use super::m{next}::{{self, Thing}};"),
            |next| format!("use crate::{{m{next}::Thing as Other, error::Error}};"),
            |next| format!("pub(crate) use crate::m{next};"),
            |next| format!("fn f() {{ crate::m{next}::g() }}"),
        ];
        for form in forms {
            assert!(of_ring("crates/x/src", 4, form).is_empty(), "{}", form(0));
            assert_eq!(
                of_ring("crates/x/src", 5, form),
                ["crates/x/src/m0.rs:1: 5 modules import each other, 4 may: m0, m1, m2, m3, m4"],
                "{}",
                form(0)
            );
        }
    }

    #[test]
    fn a_name_that_is_passed_on_leads_to_the_module_that_has_it() {
        let files = [
            (
                "crates/x/src/a/mod.rs",
                "pub use one::One; pub use two::Two; mod one; mod two;",
            ),
            ("crates/x/src/a/one.rs", "use crate::b::Three;"),
            ("crates/x/src/a/two.rs", ""),
            (
                "crates/x/src/b/mod.rs",
                "mod three; pub use three::Three as Three; pub use crate::c::Four;",
            ),
            ("crates/x/src/b/three.rs", "use crate::b::Four;"),
            ("crates/x/src/c.rs", "use crate::d::Five;"),
            ("crates/x/src/d.rs", "use crate::e::Six;"),
            ("crates/x/src/e.rs", "use crate::a::One;"),
        ];
        assert_eq!(
            found(&files),
            ["crates/x/src/a/one.rs:1: 5 modules import each other, 4 may: a::one, b::three, c, d, e"]
        );
        let mut other = files;
        other[7].1 = "use crate::a::Two;";
        assert!(found(&other).is_empty());
    }

    #[test]
    fn comments_tests_other_crates_and_the_root_of_a_folder_do_not_count() {
        for form in [
            (|next| format!("// use crate::m{next}::Thing;")) as fn(usize) -> String,
            |next| format!("#[cfg(test)]\nmod tests {{ use crate::m{next}::Thing; }}"),
            |next| format!("use m{next}::Thing;"),
            |next| format!("use super::Thing; fn m{next}() {{}}"),
        ] {
            assert!(of_ring("crates/x/src", 6, form).is_empty(), "{}", form(0));
        }
        assert!(of_ring("crates/x/tests", 6, |next| format!("use crate::m{next}::Thing;")).is_empty());
    }

    #[test]
    fn a_folder_that_calls_its_files_is_in_their_circle() {
        let files = [
            (
                "crates/x/src/a/mod.rs",
                "mod one; mod two; pub fn f() { one::g(); two::g(); }",
            ),
            ("crates/x/src/a/one.rs", "use crate::b::f;"),
            ("crates/x/src/a/two.rs", "use crate::c::f;"),
            ("crates/x/src/b.rs", "use crate::a::f;"),
            ("crates/x/src/c.rs", "use crate::a::f;"),
        ];
        assert_eq!(found(&files).len(), 1);
    }
}
