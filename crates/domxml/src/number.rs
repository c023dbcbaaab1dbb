//! Numbers as C reads them, which is how libvirt does.

/// A number as C's `strtol` reads it, if nothing follows: blanks before it, a sign, and with base 16 or 0 a prefix.
pub(crate) fn integer(s: &str, base: u32) -> Option<i128> {
    let s = s.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, s) = match s.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, s.strip_prefix('+').unwrap_or(s)),
    };
    let hex = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X"));
    let (digits, base) = match (base, hex) {
        (0 | 16, Some(digits)) => (digits, 16),
        (0, None) if s.len() > 1 && s.starts_with('0') => (s, 8),
        (0, None) => (s, 10),
        (base, _) => (s, base),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, base, number) in [
            ("12", 10, Some(12)),
            (" +12", 10, Some(12)),
            ("-3", 10, Some(-3)),
            ("", 10, None),
            ("12 ", 10, None),
            ("+-1", 10, None),
            ("0x1f", 10, None),
            ("0x1f", 0, Some(31)),
            ("0X1f", 16, Some(31)),
            ("1f", 16, Some(31)),
            ("0x", 16, None),
            ("017", 0, Some(15)),
            ("08", 0, None),
            ("1_0", 10, None),
        ] {
            assert_eq!(integer(text, base), number, "{text:?} in base {base}");
        }
    }
}
