//! Which changes of the contract's surface break a client that was built before: after buf's rules of the category FILE.
//!
//! Things may be added. What was there stays, under its name and number and of its type; a field or a value goes only if
//! its number and its name are reserved.

use std::collections::BTreeMap;

/// What is below one head: item ("field 3") to the rest of its line ("alias string").
type Parts<'a> = BTreeMap<&'a str, &'a str>;

/// The breaking changes between two surfaces, in words.
pub(super) fn changes(before: &str, now: &str) -> Vec<String> {
    let (before, now) = (parse(before), parse(now));
    let mut broken = Vec::new();
    for (head, parts) in &before {
        let Some(left) = now.get(head) else {
            broken.push(format!("{head} is gone"));
            continue;
        };
        for (item, what) in parts {
            broken.extend(change(head, item, what, left));
        }
    }
    broken
}

/// Heads and what is below each.
fn parse(text: &str) -> BTreeMap<&str, Parts<'_>> {
    let mut heads = BTreeMap::new();
    let mut head = "";
    for line in text.lines() {
        match line.strip_prefix("  ") {
            None => {
                head = line;
                heads.entry(head).or_insert_with(Parts::new);
            }
            Some(part) => {
                let (item, what) = part.split_once(": ").unwrap_or((part, ""));
                heads.entry(head).or_insert_with(Parts::new).insert(item, what);
            }
        }
    }
    heads
}

fn change(head: &str, item: &str, what: &str, left: &Parts<'_>) -> Option<String> {
    match left.get(item) {
        Some(now) if *now == what => None,
        Some(now) => Some(format!("{head}: {item} was '{what}' and is '{now}'")),
        None if is_reserved(item, what, left) => None,
        None => Some(format!("{head}: {item} '{what}' is gone")),
    }
}

/// Whether the number and the name of a field or value that is gone are both kept from being used again.
fn is_reserved(item: &str, what: &str, left: &Parts<'_>) -> bool {
    let number = item
        .strip_prefix("field ")
        .or_else(|| item.strip_prefix("value "));
    let name = what.split(' ').next().unwrap_or_default();
    let kept = |what: &str| left.contains_key(format!("reserved {what}").as_str());
    number.is_some_and(kept) && kept(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "service S\n  rpc Get: A -> B\nenum E\n  value 0: E_UNSPECIFIED\n  value 1: E_ONE\nmessage A\n  field 1: name string\n  field 2: kind E\n  reserved 3\n";

    fn with(old: &str, new: &str) -> Vec<String> {
        assert!(BEFORE.contains(old));
        changes(BEFORE, &BEFORE.replace(old, new))
    }

    #[test]
    fn things_may_be_added() {
        assert!(with("service S\n", "service S\n  rpc Put: A -> B\n").is_empty());
        assert!(with("enum E\n", "enum E\n  value 2: E_TWO\n").is_empty());
        assert!(
            with(
                "message A\n",
                "message C\nmessage A\n  field 9: more repeated string\n"
            )
            .is_empty()
        );
        assert!(changes("", BEFORE).is_empty());
    }

    #[test]
    fn what_was_there_stays_as_it_was() {
        // table: what is changed, to what
        for (old, new) in [
            ("  rpc Get: A -> B\n", ""),
            ("Get: A -> B", "Get: A -> stream B"),
            ("Get: A -> B", "Get: C -> B"),
            ("value 1: E_ONE", "value 1: E_UNO"),
            ("  value 1: E_ONE\n", ""),
            ("name string", "name bytes"),
            ("name string", "title string"),
            ("name string", "name repeated string"),
            ("name string", "name string in which"),
            ("  field 1: name string\n", ""),
            ("  field 1: name string\n", "  reserved 1\n"),
            ("  reserved 3\n", ""),
            ("enum E\n  value 0: E_UNSPECIFIED\n  value 1: E_ONE\n", ""),
        ] {
            assert_eq!(with(old, new).len(), 1, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn a_field_goes_when_number_and_name_are_reserved() {
        assert!(with("  field 1: name string\n", "  reserved 1\n  reserved name\n").is_empty());
        assert!(with("  value 1: E_ONE\n", "  reserved 1\n  reserved E_ONE\n").is_empty());
    }
}
