//! What varies from one recording to the next, and the comparison of what is left.

use serde_json::Value;

use super::{Case, Outcome};

/// Turns every digit of a descriptor's number into one 9.
pub(crate) fn mask_fds(tokens: &[String]) -> Vec<String> {
    let mask = |token: &String| {
        let mut text = token.clone();
        for key in ["fd=", r#""fd":""#, r#""fds":""#] {
            let Some(from) = text.find(key).map(|at| at + key.len()) else {
                continue;
            };
            let end = text[from..].find([',', '"']).map_or(text.len(), |end| from + end);
            let count = text[from..end].split(':').count();
            text.replace_range(from..end, &vec!["9"; count].join(":"));
        }
        text
    };
    tokens.iter().map(mask).collect()
}

pub(crate) fn compare(ours: &[String], theirs: &[String]) -> Outcome {
    let Some(at) = (0..ours.len().max(theirs.len())).find(|i| ours.get(*i) != theirs.get(*i)) else {
        return Outcome::Equal;
    };
    let show = |tokens: &[String]| {
        let from = at.saturating_sub(1);
        tokens
            .iter()
            .skip(from)
            .take(4)
            .cloned()
            .collect::<Vec<_>>()
            .join("  ")
    };
    Outcome::Different(format!("- {}\n+ {}", show(theirs), show(ours)))
}

/// Replaces what varies: descriptors, encrypted secrets, PATH, the time of a guest with its own
/// clock, and identities that the submitted document does not have.
pub(crate) fn mask(tokens: &[String], case: &Case) -> Vec<String> {
    let variable = case.input.contains("offset='variable'") || case.input.contains("offset=\"variable\"");
    let known = case.input.to_ascii_lowercase();
    let mut out: Vec<String> = Vec::new();
    for token in tokens {
        let json = if token.starts_with('{') {
            serde_json::from_str::<Value>(token).ok()
        } else {
            None
        };
        let mut text = match json {
            Some(value) => mask_json(value).to_string(),
            None if token.starts_with("PATH=") => "PATH=@".to_owned(),
            None if variable && out.last().is_some_and(|last| last == "-rtc") => mask_time(token),
            None => token.clone(),
        };
        for identity in identities(&text) {
            if !known.contains(&identity.to_ascii_lowercase())
                && !known.replace('-', "").contains(&identity.replace('-', ""))
            {
                text = text.replace(&identity, "@");
            }
        }
        out.push(text);
    }
    out
}

fn mask_json(value: Value) -> Value {
    let Value::Object(mut map) = value else {
        return value;
    };
    let secret = map.contains_key("keyid");
    for (key, value) in &mut map {
        let masked = matches!(key.as_str(), "fd" | "fds" | "vhostfds")
            || (secret && matches!(key.as_str(), "data" | "iv"));
        if masked {
            *value = "@".into();
        }
    }
    Value::Object(map)
}

fn mask_time(token: &str) -> String {
    token
        .split(',')
        .map(|part| if part.starts_with("base=") { "base=@" } else { part })
        .collect::<Vec<_>>()
        .join(",")
}

/// UUIDs and MAC addresses in a text.
fn identities(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-' || c == ':';
    text.split(|c| !is_part(c))
        .filter(|word| {
            let uuid = word.len() == 36 && word.matches('-').count() == 4;
            let mac = word.len() == 17 && word.matches(':').count() == 5;
            uuid || mac
        })
        .map(str::to_owned)
        .collect()
}

/// Splits a line as a POSIX shell would.
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if !quoted => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
