//! Scalars: what an attribute or a text holds.

use crate::Writer;

/// A scalar, in an attribute or in an element's text.
pub trait Value: Sized {
    /// The error for a wrong value, when it is not the usual one: see [`crate::Error::worded`].
    const WRONG: &'static str = "";
    /// Reads the value from unescaped text.
    ///
    /// # Errors
    /// What the text should have been.
    fn parse(s: &str) -> Result<Self, Expected>;
    /// Writes the value, escaped.
    fn write(&self, w: &mut Writer);
}

/// What a scalar should have been, as the end of an error message; empty when any word of a
/// fixed list would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected(pub &'static str);

const UNSIGNED: Expected = Expected("Expected non-negative integer value");
const SIGNED: Expected = Expected("Expected integer value");

/// Looks a word up in a table of words that stands beside a table of values.
///
/// # Errors
/// When it is not in the table.
pub fn word<T: Copy>(s: &str, all: &[T], words: &[&str]) -> Result<T, Expected> {
    let found = words.iter().position(|w| *w == s).and_then(|i| all.get(i));
    found.copied().ok_or(Expected(""))
}

impl Value for String {
    fn parse(s: &str) -> Result<Self, Expected> {
        Ok(s.to_owned())
    }
    fn write(&self, w: &mut Writer) {
        w.escape(self);
    }
}

impl Value for bool {
    fn parse(s: &str) -> Result<Self, Expected> {
        word(s, &[true, false], &["yes", "no"])
    }
    fn write(&self, w: &mut Writer) {
        w.push(if *self { "yes" } else { "no" });
    }
}

macro_rules! unsigned {
    ($($t:ty)*) => {$(
        impl Value for $t {
            fn parse(s: &str) -> Result<Self, Expected> {
                let n = parse_unsigned(s, 10).ok_or(UNSIGNED)?;
                Self::try_from(n).map_err(|_| UNSIGNED)
            }
            fn write(&self, w: &mut Writer) {
                w.number(u64::from(*self));
            }
        }
    )*};
}
unsigned!(u8 u16 u32 u64);

macro_rules! signed {
    ($($t:ty)*) => {$(
        impl Value for $t {
            fn parse(s: &str) -> Result<Self, Expected> {
                let n = parse_signed(s).ok_or(SIGNED)?;
                Self::try_from(n).map_err(|_| SIGNED)
            }
            fn write(&self, w: &mut Writer) {
                if *self < 0 {
                    w.push("-");
                }
                w.number(i64::from(*self).unsigned_abs());
            }
        }
    )*};
}
signed!(i8 i16 i32 i64);

/// Reads a number as C's strtoull does with the given base: leading space, `+`, and with base
/// 0 or 16 the prefix `0x`, with base 0 octal after a leading `0`. A sign or a rest is refused.
pub(crate) fn parse_unsigned(s: &str, base: u32) -> Option<u64> {
    let s = s.trim_start();
    let s = s.strip_prefix('+').unwrap_or(s);
    let (digits, base) = match (base, s.strip_prefix("0x").or(s.strip_prefix("0X"))) {
        (0 | 16, Some(hex)) => (hex, 16),
        (0, None) if s.len() > 1 && s.starts_with('0') => (s, 8),
        (0, None) => (s, 10),
        (base, _) => (s, base),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, base).ok()
}

/// Reads a decimal number with an optional sign.
fn parse_signed(s: &str) -> Option<i64> {
    s.trim_start().parse().ok()
}
