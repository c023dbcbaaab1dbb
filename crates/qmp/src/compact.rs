//! Answers as they are shown to users: JSON without the blanks that QEMU puts between its words.

/// The same text without blanks outside of strings.
#[must_use]
pub fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let mut kept = String::with_capacity(json.len());
    for letter in json.chars() {
        if in_string {
            in_string = escaped || letter != '"';
            escaped = letter == '\\' && !escaped;
        } else if letter.is_ascii_whitespace() {
            continue;
        } else {
            in_string = letter == '"';
        }
        kept.push(letter);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_words_goes() {
        let table = [
            (
                r#"{"return": {"a b": [1, true]}, "id": "x"}"#,
                r#"{"return":{"a b":[1,true]},"id":"x"}"#,
            ),
            (
                r#"{"a": "\\", "b": "\" c\\\" d"}"#,
                r#"{"a":"\\","b":"\" c\\\" d"}"#,
            ),
            ("[ ]\r\n", "[]"),
            ("", ""),
        ];
        for (json, expected) in table {
            assert_eq!(compact(json), expected);
        }
    }
}
