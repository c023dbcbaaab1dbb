//! Files of at most 770 lines, functions of at most 75, tests of at most 155, since they hold their inputs. A comment
//! line that begins with `// table` exempts: a file when it stands anywhere in it outside functions, a function when it
//! stands in or right above it.

use crate::Finding;
use crate::source::{Source, Sources, is_table_mark};

const FILE: usize = 770;
const FUNCTION: usize = 75;
const TEST: usize = 155;
const LONG_FUNCTION: usize = 50;

pub(crate) fn check(sources: &Sources) -> Vec<Finding> {
    sources.rust().flat_map(check_file).collect()
}

/// What one would like otherwise but no rule forbids: functions over 40 lines, parameters of type bool.
pub(crate) fn notes(sources: &Sources) -> Vec<Finding> {
    let mut notes = Vec::new();
    for source in sources.rust() {
        for Function {
            name,
            line,
            lines,
            table,
            test,
            has_bool,
        } in functions(source)
        {
            let mut note = |text| {
                notes.push(Finding {
                    place: source.path.clone(),
                    line,
                    text,
                })
            };
            if lines > LONG_FUNCTION && !table && !test {
                note(format!("fn {name} has {lines} lines"));
            }
            if has_bool {
                note(format!("fn {name} takes a bool"));
            }
        }
    }
    notes
}

fn check_file(source: &Source) -> Vec<Finding> {
    let finding = |line, text| Finding {
        place: source.path.clone(),
        line,
        text,
    };
    let mut findings = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE && !source.is_table() {
        findings.push(finding(1, format!("{lines} lines, more than {FILE}")));
    }
    for function in functions(source) {
        let most = if function.test { TEST } else { FUNCTION };
        if function.lines > most && !function.table {
            let text = format!(
                "fn {} has {} lines, more than {most}",
                function.name, function.lines
            );
            findings.push(finding(function.line, text));
        }
    }
    findings
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
    table: bool,
    test: bool,
    has_bool: bool,
}

/// The functions with a body, those in macros included.
fn functions(source: &Source) -> Vec<Function<'_>> {
    let code = &source.code;
    let texts: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' {
            continue;
        }
        let name = code[at + 3..]
            .split(['(', '<', ' ', '\n'])
            .next()
            .unwrap_or_default();
        let Some(end) = body_end(&code[at..]) else {
            continue;
        };
        let line = code[..at].matches('\n').count() + 1;
        let lines = code[at..at + end].matches('\n').count() + 1;
        let span = texts.iter().skip(line.saturating_sub(2)).take(lines + 1);
        let table = span.into_iter().any(|line| is_table_mark(line));
        let has_bool = takes_bool(&code[at..at + end]);
        found.push(Function {
            test: is_test(&texts, line),
            has_bool,
            name,
            line,
            lines,
            table,
        });
    }
    found
}

/// Whether the attributes above a line make it a test.
fn is_test(texts: &[&str], line: usize) -> bool {
    let above = texts[..line.saturating_sub(1).min(texts.len())].iter().rev();
    let mut attributes = above
        .map(|line| line.trim())
        .take_while(|line| line.starts_with("#["));
    attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

/// Whether one of the parameters of the function at the beginning is a bool.
fn takes_bool(code: &str) -> bool {
    let head = code.split('{').next().unwrap_or_default();
    let parameters = head.rsplit_once("->").map_or(head, |(parameters, _)| parameters);
    parameters.contains(": bool")
}

/// Where the body of the function at the beginning ends; none for a declaration.
fn body_end(code: &str) -> Option<usize> {
    let (mut round, mut curly) = (0_usize, 0_usize);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round = round.checked_sub(1)?,
            ';' if round == 0 && curly == 0 => return None,
            '{' => curly += 1,
            '}' => {
                curly = curly.checked_sub(1)?;
                if curly == 0 && round == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize, mark: &str) -> Source {
        let body = "    x();\n".repeat(lines - 2);
        Source::new(
            "src/a.rs",
            &format!("{mark}\nfn long(a: [u8; 3]) -> u8 {{\n{body}}}\n"),
        )
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_brace() {
        assert!(check_file(&function(FUNCTION, "")).is_empty());
        let findings = check_file(&function(FUNCTION + 1, ""));
        assert_eq!(
            findings[0].to_string(),
            "src/a.rs:2: fn long has 76 lines, more than 75"
        );
    }

    #[test]
    fn a_table_may_be_long() {
        assert!(check_file(&function(FUNCTION + 1, "// table: one line a thing")).is_empty());
        assert!(
            check_file(&Source::new(
                "src/a.rs",
                &format!("// table\n{}", "x;\n".repeat(FILE + 1))
            ))
            .is_empty()
        );
        assert_eq!(
            check_file(&Source::new("src/a.rs", &"x;\n".repeat(FILE + 1))).len(),
            1
        );
    }

    #[test]
    fn a_bool_is_noted_as_a_parameter_and_not_as_a_result() {
        assert!(takes_bool("fn a(b: u8, c: bool) -> u8 {}"));
        assert!(!takes_bool("fn a(b: u8) -> bool { let x: bool = y; x }"));
    }

    #[test]
    fn a_declaration_or_a_type_of_function_is_none() {
        let source = Source::new(
            "src/a.rs",
            "trait T { fn a(&self) -> [u8; 2]; }\ntype F = fn (u8);\n",
        );
        assert!(functions(&source).is_empty());
    }
}
