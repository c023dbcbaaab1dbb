//! Spellings of numbers that only some devices use.

use xmlform::codec::Codec;
use xmlform::{Expected, Writer};

/// A file mode: octal, four digits.
pub enum Octal4 {}

/// Hexadecimal in capitals with at least so many digits; -1 stands for any.
pub enum UpperHex<const DIGITS: usize> {}

impl Codec<u32> for Octal4 {
    fn parse(s: &str) -> Result<u32, Expected> {
        match u32::from_str_radix(s, 8) {
            Ok(mode) if mode <= 0o777 => Ok(mode),
            _ => Err(Expected("Expected an octal file mode")),
        }
    }

    fn write(value: &u32, w: &mut Writer) {
        w.push(&format!("{value:04o}"));
    }
}

impl<const DIGITS: usize> Codec<i32> for UpperHex<DIGITS> {
    fn parse(s: &str) -> Result<i32, Expected> {
        const EXPECTED: Expected = Expected("Expected integer value");
        if s.trim() == "-1" {
            return Ok(-1);
        }
        let number = <xmlform::codec::Auto as Codec<u32>>::parse(s).map_err(|_| EXPECTED)?;
        i32::try_from(number).map_err(|_| EXPECTED)
    }

    fn write(value: &i32, w: &mut Writer) {
        w.push(&format!("0x{value:0DIGITS$X}"));
    }
}

/// Hexadecimal even without its prefix; written with it and at least so many digits.
pub enum HexWord<const DIGITS: usize> {}

impl<const DIGITS: usize, T: TryFrom<u64> + Copy + Into<u64>> Codec<T> for HexWord<DIGITS> {
    fn parse(s: &str) -> Result<T, Expected> {
        const EXPECTED: Expected = Expected("Expected non-negative integer value");
        let digits = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X")).unwrap_or(s);
        let number = u64::from_str_radix(digits, 16).map_err(|_| EXPECTED)?;
        T::try_from(number).map_err(|_| EXPECTED)
    }

    fn write(value: &T, w: &mut Writer) {
        w.hex((*value).into(), DIGITS);
    }
}

/// Text without the blanks around it, for elements that have children or text.
pub enum Trimmed {}

impl Codec<String> for Trimmed {
    fn parse(s: &str) -> Result<String, Expected> {
        Ok(s.trim().to_owned())
    }

    fn write(value: &String, w: &mut Writer) {
        w.escape(value);
    }
}
