//! How a scalar is spelled, where that is not its type's usual way (`format = "..."`).
//!
//! | format | read | written |
//! |---|---|---|
//! | `hex` | base by prefix | `0x1f` |
//! | `hex2`, `hex4`, ... | base by prefix | `0x1f`, `0x001f`: at least so many digits |
//! | `auto` | base by prefix | decimal |
//! | `yesno`, `onoff` | the two words | the two words |

use crate::value::parse_unsigned;
use crate::{Expected, Value, Writer, word};

/// A way to spell values of `T`.
pub trait Codec<T> {
    /// The error for a wrong value, when it is not the usual one: see [`crate::Error::worded`].
    const WRONG: &'static str = "";
    /// Reads the value from unescaped text.
    ///
    /// # Errors
    /// What the text should have been.
    fn parse(s: &str) -> Result<T, Expected>;
    /// Writes the value, escaped.
    fn write(value: &T, w: &mut Writer);
}

/// The type's usual way.
pub enum Plain {}
/// Hexadecimal with a prefix and at least so many digits.
pub enum Hex<const DIGITS: usize> {}
/// Decimal; read with any prefix.
pub enum Auto {}
/// `yes` and `no`.
pub enum YesNo {}
/// `on` and `off`.
pub enum OnOff {}

const UNSIGNED: Expected = Expected("Expected non-negative integer value");

impl<T: Value> Codec<T> for Plain {
    const WRONG: &'static str = T::WRONG;
    fn parse(s: &str) -> Result<T, Expected> {
        T::parse(s)
    }
    fn write(value: &T, w: &mut Writer) {
        value.write(w);
    }
}

impl<const DIGITS: usize, T: TryFrom<u64> + Copy + Into<u64>> Codec<T> for Hex<DIGITS> {
    fn parse(s: &str) -> Result<T, Expected> {
        let n = parse_unsigned(s, 0).ok_or(UNSIGNED)?;
        T::try_from(n).map_err(|_| UNSIGNED)
    }
    fn write(value: &T, w: &mut Writer) {
        w.hex((*value).into(), DIGITS);
    }
}

impl<T: TryFrom<u64> + Copy + Into<u64>> Codec<T> for Auto {
    fn parse(s: &str) -> Result<T, Expected> {
        let n = parse_unsigned(s, 0).ok_or(UNSIGNED)?;
        T::try_from(n).map_err(|_| UNSIGNED)
    }
    fn write(value: &T, w: &mut Writer) {
        w.number((*value).into());
    }
}

impl Codec<bool> for YesNo {
    fn parse(s: &str) -> Result<bool, Expected> {
        word(s, &[true, false], &["yes", "no"])
    }
    fn write(value: &bool, w: &mut Writer) {
        w.push(if *value { "yes" } else { "no" });
    }
}

impl Codec<bool> for OnOff {
    fn parse(s: &str) -> Result<bool, Expected> {
        word(s, &[true, false], &["on", "off"])
    }
    fn write(value: &bool, w: &mut Writer) {
        w.push(if *value { "on" } else { "off" });
    }
}
