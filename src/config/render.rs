//! The shipped configuration files, written out of the tables.
//!
//! Each key is shown commented out with its default, or with an example where it has none.

use std::fmt::Write as _;

use super::key::{Default, Key, Support, Table};

/// The text of the table's file as it is shipped in `conf/`.
#[must_use]
pub fn render(table: &Table) -> String {
    let mut text = String::new();
    comment(&mut text, table.about);
    text.push_str("#\n");
    comment(
        &mut text,
        "Every setting is optional. What is commented out shows the default, or an example where\nthere is none.",
    );
    for section in table.sections {
        let _ = write!(text, "\n\n## {}\n", section.title);
        for key in section.keys {
            text.push('\n');
            render_key(&mut text, key);
        }
    }
    text
}

fn render_key(text: &mut String, key: &Key) {
    comment(text, key.doc);
    comment(text, &format!("Expected: {}.", key.kind.expected()));
    match key.support {
        Support::Live | Support::Obsolete => {}
        Support::Restart => comment(text, "A change needs a restart of the daemon."),
        Support::Planned => comment(text, "Not honoured yet."),
    }
    let _ = match key.default {
        Default::Unset(example) => {
            writeln!(text, "# No default. Example:\n#{} = {example}", key.name)
        }
        default => writeln!(text, "#{} = {}", key.name, literal(default)),
    };
}

fn literal(default: Default) -> String {
    match default {
        Default::Flag(flag) => u8::from(flag).to_string(),
        Default::Number(number) => number.to_string(),
        Default::Text(value) | Default::Unset(value) => format!("\"{value}\""),
        Default::List([]) => "[]".to_owned(),
        Default::List(items) => format!("[ \"{}\" ]", items.join("\", \"")),
    }
}

fn comment(text: &mut String, words: &str) {
    for line in words.lines() {
        let _ = writeln!(text, "# {line}");
    }
}
