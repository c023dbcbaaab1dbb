//! Forms of values that the types take more widely.

/// A form.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// At least one character, on one line.
    Line,
    /// 32 hexadecimal digits, or with hyphens in their places.
    Uuid,
    /// Six pairs of hexadecimal digits; no group address.
    Mac,
    /// A path from the root.
    Path,
    /// Hexadecimal with or without prefix in so many digits, or decimal; at most the number.
    Number(usize, u64),
    /// Numbers and ranges of them, with commas; `^` takes out.
    CpuSet,
    /// Letters, digits, dots and spaces, at most so many.
    Load(usize),
    /// So many characters, no comma among them.
    Letters(usize),
    /// A decimal number, not 0.
    Positive,
    /// One of the words.
    OneOf(&'static [&'static str]),
}

impl Form {
    /// What is expected, for an error.
    pub(super) fn expected(self) -> String {
        match self {
            Self::Line => "text on one line".to_owned(),
            Self::Uuid => "a UUID".to_owned(),
            Self::Mac => "the MAC address of one card".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::CpuSet => "numbers and ranges".to_owned(),
            Self::Number(_, most) => format!("a number of at most {most:#x}"),
            Self::Load(most) => format!("1 to {most} letters, digits, dots and spaces"),
            Self::Letters(length) => format!("{length} characters without comma"),
            Self::Positive => "a number, not 0".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
        }
    }

    pub(super) fn fits(self, s: &str) -> bool {
        match self {
            Self::Line => !s.is_empty() && !s.contains('\n'),
            Self::Uuid => is_uuid(s),
            Self::Mac => is_mac(s),
            Self::Path => is_path(s),
            Self::CpuSet => s.split(',').all(is_range),
            Self::Number(digits, most) => is_number(s, digits, most),
            Self::Load(most) => {
                let known = |c: char| c.is_ascii_alphanumeric() || c == '.' || c.is_whitespace();
                (1..=most).contains(&s.chars().count()) && s.chars().all(known)
            }
            Self::Letters(length) => s.chars().count() == length && !s.contains(','),
            Self::Positive => s.trim_start_matches('0').parse::<u64>().is_ok(),
            Self::OneOf(words) => words.contains(&s),
        }
    }
}

fn is_hex(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_uuid(s: &str) -> bool {
    let parts: Vec<&str> = s.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|p| p.len()).collect();
    (lengths == [32] || lengths == [8, 4, 4, 4, 12]) && parts.iter().all(|p| is_hex(p))
}

fn is_mac(s: &str) -> bool {
    let parts: Vec<&str> = s.split(':').collect();
    let pairs = parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && is_hex(p));
    let first = parts.first().and_then(|p| u8::from_str_radix(p, 16).ok());
    pairs && first.is_some_and(|b| b & 1 == 0)
}

/// From the root, or from a drive's letter.
fn is_path(s: &str) -> bool {
    let rest = match s.strip_prefix('/') {
        Some(rest) => rest,
        None => s
            .strip_prefix(|c: char| c.is_ascii_alphabetic())
            .and_then(|r| r.strip_prefix(":\\"))
            .unwrap_or_default(),
    };
    !rest.is_empty()
}

fn is_range(s: &str) -> bool {
    let decimal = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    match s.strip_prefix('^') {
        Some(out) => decimal(out),
        None => s.split('-').count() <= 2 && s.split('-').all(decimal),
    }
}

fn is_number(s: &str, digits: usize, most: u64) -> bool {
    let hex = s.strip_prefix("0x").unwrap_or(s);
    let as_hex = is_hex(hex) && hex.len() <= digits && u64::from_str_radix(hex, 16).is_ok_and(|n| n <= most);
    let decimal = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    as_hex || decimal && s.parse::<u64>().is_ok_and(|n| n <= most)
}
