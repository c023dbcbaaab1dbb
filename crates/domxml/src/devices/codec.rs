//! Spellings of numbers that only some devices use.

use xmlform::codec::Codec;
use xmlform::{Expected, Writer};

/// A file mode: octal, four digits.
pub enum Octal4 {}

/// Hexadecimal in capitals with at least so many digits; -1 stands for any.
pub enum UpperHex<const DIGITS: usize> {}

impl Codec<u32> for Octal4 {
    fn parse(s: &str) -> Result<u32, Expected> {
        let mode = crate::number::integer(s, 8).and_then(|mode| u32::try_from(mode).ok());
        match mode {
            Some(mode) if mode <= 0o777 => Ok(mode),
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
        let number = crate::number::integer(s, 16).filter(|_| !s.contains('-'));
        let number = number.and_then(|n| u64::try_from(n).ok()).ok_or(EXPECTED)?;
        T::try_from(number).map_err(|_| EXPECTED)
    }

    fn write(value: &T, w: &mut Writer) {
        w.hex((*value).into(), DIGITS);
    }
}

/// The format of an image; `aio`, which Xen had, is raw.
pub enum DriverFormat {}

impl Codec<super::StorageFormat> for DriverFormat {
    fn parse(s: &str) -> Result<super::StorageFormat, Expected> {
        match s {
            "aio" => Ok(super::StorageFormat::Raw),
            _ => <xmlform::codec::Plain as Codec<super::StorageFormat>>::parse(s),
        }
    }

    fn write(value: &super::StorageFormat, w: &mut Writer) {
        w.push(value.as_str());
    }
}

/// A number of which a negative one counts from the top.
pub enum Wrapped {}

macro_rules! wrapped {
    ($($t:ty)*) => {$(
        impl Codec<$t> for Wrapped {
            fn parse(s: &str) -> Result<$t, Expected> {
                const EXPECTED: Expected = Expected("Expected non-negative integer value");
                let number = crate::number::integer(s, 10).ok_or(EXPECTED)?;
                let top = i128::from(<$t>::MAX);
                let number = if number < 0 { number + top + 1 } else { number };
                <$t>::try_from(number).map_err(|_| EXPECTED)
            }

            fn write(value: &$t, w: &mut Writer) {
                w.number(u64::from(*value));
            }
        }
    )*};
}
wrapped!(u32 u64);

/// Text of elements that have children or text: what only lays children out is none.
pub enum NotBlank {}

impl Codec<String> for NotBlank {
    fn parse(s: &str) -> Result<String, Expected> {
        let blank = s.trim().is_empty();
        Ok(if blank { String::new() } else { s.to_owned() })
    }

    fn write(value: &String, w: &mut Writer) {
        w.escape(value);
    }
}
