//! Forms of values: words, numbers as C reads them, UUIDs, MAC addresses.

use crate::Bitmap;
use crate::number::integer;

/// What a value has to be.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Anything.
    Any,
    /// One of the words.
    Word(&'static [&'static str]),
    /// A number without sign of 32 bits; base 0 goes by the number's prefix.
    U32(u32),
    /// A number without sign of 64 bits.
    U64(u32),
    /// A number of 32 bits.
    I32(u32),
    /// A number of 32 bits, not below 0.
    Natural(u32),
    /// A number of 64 bits.
    I64(u32),
    /// 32 bits, of which a negative number counts from the top.
    Wrapped32,
    /// 64 bits, of which a negative number counts from the top.
    Wrapped64,
    /// 32 hexadecimal digits with hyphens or blanks between pairs.
    Uuid,
    /// Numbers and ranges of them.
    Set,
    /// What a function takes.
    Like(fn(&str) -> bool),
}

const UNSIGNED: &str = "Expected non-negative integer value";
const SIGNED: &str = "Expected integer value";

impl Form {
    /// Whether a value has the form.
    ///
    /// # Errors
    /// What was expected, for the end of the reader's usual words.
    pub(super) fn check(self, value: &str) -> Result<(), &'static str> {
        let fits = |fits: bool, expected| if fits { Ok(()) } else { Err(expected) };
        let between = |base, least: i128, most: i128| {
            integer(value, base).is_some_and(|number| (least..=most).contains(&number))
        };
        let whole = |base, most: i128| between(base, 0, most) && !value.contains('-');
        match self {
            Self::Any => Ok(()),
            Self::Word(words) => fits(words.contains(&value), ""),
            Self::U32(base) => fits(whole(base, u32::MAX.into()), UNSIGNED),
            Self::U64(base) => fits(whole(base, u64::MAX.into()), UNSIGNED),
            Self::I32(base) => fits(between(base, i32::MIN.into(), i32::MAX.into()), SIGNED),
            Self::I64(base) => fits(between(base, i64::MIN.into(), i64::MAX.into()), SIGNED),
            Self::Natural(base) => {
                Self::I32(base).check(value)?;
                fits(between(base, 0, i32::MAX.into()), "Expected non-negative value")
            }
            Self::Wrapped32 => fits(between(10, -i128::from(u32::MAX), u32::MAX.into()), UNSIGNED),
            Self::Wrapped64 => fits(between(10, -i128::from(u64::MAX), u64::MAX.into()), UNSIGNED),
            Self::Uuid => fits(is_uuid(value), "Expected UUID"),
            Self::Set => fits(is_set(value), ""),
            Self::Like(like) => fits(like(value), ""),
        }
    }
}

/// Numbers of a set are below this.
const SET_LIMIT: u32 = 16_384;

fn is_set(list: &str) -> bool {
    let set = list.parse::<Bitmap>();
    set.is_ok_and(|set| set.last().is_none_or(|last| last < SET_LIMIT))
}

/// A number without sign that a rule has found to be one; 0 otherwise.
pub(super) fn unsigned(s: Option<&str>, base: u32) -> u64 {
    let number = s.and_then(|s| integer(s, base));
    number.and_then(|n| u64::try_from(n).ok()).unwrap_or_default()
}

/// Whether it is 32 hexadecimal digits, with hyphens and blanks between pairs.
pub(super) fn is_uuid(s: &str) -> bool {
    canonical_uuid(s).is_some()
}

/// The digits of a UUID, which may have hyphens and blanks between pairs of digits, and blanks around it.
pub(super) fn canonical_uuid(s: &str) -> Option<String> {
    let s = s.trim_matches(|c: char| c.is_ascii_whitespace());
    let mut digits = String::with_capacity(32);
    for c in s.chars() {
        match c {
            '-' | ' ' if digits.len().is_multiple_of(2) => {}
            c if c.is_ascii_hexdigit() => digits.push(c.to_ascii_lowercase()),
            _ => return None,
        }
    }
    (digits.len() == 32).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_may_have_hyphens_between_pairs() {
        let plain = "0123456789abcdef0123456789ABCDEF";
        assert!(is_uuid(plain) && is_uuid(" 01-23-45-67-89ab cdef01-23456789abcdef\n"));
        for wrong in ["", "0123", &plain[1..], &format!("0-{}", &plain[1..]), "g"] {
            assert!(!is_uuid(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn negative_numbers_are_told_apart_where_libvirt_does() {
        assert_eq!(Form::Natural(10).check("-1"), Err("Expected non-negative value"));
        assert_eq!(Form::Natural(10).check("x"), Err(SIGNED));
        assert_eq!(Form::U32(10).check("-0"), Err(UNSIGNED));
        assert_eq!(Form::U32(10).check("4294967296"), Err(UNSIGNED));
        assert_eq!(Form::Wrapped32.check("-1"), Ok(()));
    }
}
