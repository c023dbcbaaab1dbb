//! Sizes with a unit, UUIDs, and where they are spelled otherwise than numbers usually are.

use uuid::Uuid;
use xmlform::codec::Codec;
use xmlform::{Area, Error, ErrorKind, Expected, Node, Value, Writer, Xml};

/// Units and their bytes; the first of equals is the one written.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("byte", 1),
    ("bytes", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("p", 1 << 50),
    ("pib", 1 << 50),
    ("e", 1 << 60),
    ("eib", 1 << 60),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("eb", 1_000_000_000_000_000_000),
];

/// Bytes of a unit; none of a name that is no unit.
pub(crate) fn unit_bytes(unit: &str) -> Option<u64> {
    let mut units = UNITS.iter();
    let found = units.find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    Some(found.1)
}

/// What sizes are written in, largest first.
const PRETTY: &[(&str, u64)] = &[
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Bytes of a number with a unit.
///
/// # Errors
/// An unknown unit, or more bytes than a number holds.
pub fn scale(value: u64, unit: &str) -> Result<u64, Error> {
    let Some(bytes) = unit_bytes(unit) else {
        let message = format!("unknown suffix '{unit}'");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    value.checked_mul(bytes).ok_or_else(|| {
        let message = format!("value too large: {value}{unit}");
        Error::new(ErrorKind::Overflow, message)
    })
}

/// The number and unit that say so many bytes exactly, with the largest unit possible.
#[must_use]
pub fn pretty(bytes: u64) -> (u64, &'static str) {
    let mut units = PRETTY.iter();
    let fits = |(_, size): &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(*size);
    units
        .find(fits)
        .map_or((bytes, "B"), |(name, size)| (bytes / size, *name))
}

/// A size in KiB: `<x unit='KiB'>N</x>`, read in any unit and rounded up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kib(pub u64);

impl Kib {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1024)
    }
}

impl Xml for Kib {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let unit = node.attr("unit").filter(|unit| !unit.is_empty()).unwrap_or("KiB");
        let bytes = scale(number(node)?, unit)?;
        Ok(Self(bytes.div_ceil(1024)))
    }
    fn write_attrs(&self, w: &mut Writer) {
        w.attr_str("unit", "KiB");
    }
    fn write_content(&self, w: &mut Writer) {
        w.text::<xmlform::codec::Plain, u64>(&self.0);
    }
}

/// A size in bytes, read in MiB unless it says otherwise, written with the largest unit that divides it:
/// `<x unit='MiB'>N</x>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrettyBytes(pub u64);

impl Xml for PrettyBytes {
    fn read(node: Node<'_>) -> Result<Self, Error> {
        let unit = node.attr("unit").filter(|unit| !unit.is_empty()).unwrap_or("MiB");
        scale(number(node)?, unit).map(Self)
    }
    fn write_attrs(&self, w: &mut Writer) {
        w.attr_str("unit", pretty(self.0).1);
    }
    fn write_content(&self, w: &mut Writer) {
        w.text::<xmlform::codec::Plain, u64>(&pretty(self.0).0);
    }
}

fn number(node: Node<'_>) -> Result<u64, Error> {
    let text = node.text();
    <u64 as Value>::parse(text.trim()).map_err(|_| {
        let name = node.name();
        Error::invalid(format!(
            "Invalid value '{text}' for element or attribute './{name}[1]'"
        ))
        .in_area(Area::Xml)
    })
}

/// Declares sizes that are a pair of attributes: the number's name, bytes a step, unit written.
macro_rules! scaled_attrs {
    ($($(#[$doc:meta])* $name:ident = $attr:literal $step:literal $unit:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(pub u64);

        impl xmlform::Xml for $name {
            fn read(node: xmlform::Node<'_>) -> Result<Self, xmlform::Error> {
                $crate::units::read_scaled(node, $attr, $unit).map(|b| Self(b.div_ceil($step)))
            }
            fn write_attrs(&self, w: &mut xmlform::Writer) {
                w.attr::<xmlform::codec::Plain, u64>($attr, &self.0);
                w.attr_str("unit", $unit);
            }
            fn write_content(&self, _: &mut xmlform::Writer) {}
        }
    )+};
}
pub(crate) use scaled_attrs;

/// Bytes of a number in an attribute, with `unit` beside it.
pub(crate) fn read_scaled(node: Node<'_>, name: &str, unit: &str) -> Result<u64, Error> {
    let text = node.attr(name).unwrap_or_default();
    if text.is_empty() {
        let message = format!("missing element or attribute './@{name}'");
        return Err(Error::invalid(message).in_area(Area::Xml));
    }
    let value = <u64 as Value>::parse(text).map_err(|_| {
        let message = format!("Invalid value '{text}' for element or attribute './@{name}'");
        Error::invalid(message).in_area(Area::Xml)
    })?;
    // A part of a cache is in its usual unit, whatever one is named.
    let named = node
        .attr("unit")
        .filter(|unit| !unit.is_empty() && !matches!(node.name(), "size" | "line"));
    scale(value, named.unwrap_or(unit))
}

/// Hexadecimal, also where no prefix says so; written with one and at least so many digits.
pub enum Base16<const DIGITS: usize> {}

impl<const DIGITS: usize, T: TryFrom<u64> + Copy + Into<u64>> Codec<T> for Base16<DIGITS> {
    fn parse(s: &str) -> Result<T, Expected> {
        let digits = s.trim_start().trim_start_matches("0x");
        let number = u64::from_str_radix(digits, 16).ok();
        let fits = number.and_then(|n| T::try_from(n).ok());
        fits.ok_or(Expected("Expected hexadecimal number"))
    }
    fn write(value: &T, w: &mut Writer) {
        <xmlform::codec::Hex<DIGITS> as Codec<T>>::write(value, w);
    }
}

/// A number that libvirt writes as if it had a sign.
pub enum Signed {}

impl Codec<u32> for Signed {
    fn parse(s: &str) -> Result<u32, Expected> {
        let signed = || s.trim_start().parse::<i32>().ok();
        let number = <xmlform::codec::Auto as Codec<u32>>::parse(s).ok();
        let number = number.or_else(|| signed().map(i32::cast_unsigned));
        number.ok_or(Expected("Expected non-negative integer value"))
    }
    fn write(value: &u32, w: &mut Writer) {
        w.push(&value.cast_signed().to_string());
    }
}

/// A UUID with hyphens; read without them too.
pub enum Hyphenated {}

impl Codec<Uuid> for Hyphenated {
    const WRONG: &'static str = "internal error: malformed uuid element";
    fn parse(s: &str) -> Result<Uuid, Expected> {
        let hex: String = s.trim().chars().filter(|c| *c != '-').collect();
        Uuid::try_parse(&hex).map_err(|_| Expected("Expected UUID"))
    }
    fn write(value: &Uuid, w: &mut Writer) {
        w.push(value.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_the_largest_exact_unit() {
        for (bytes, expected) in [
            (0, (0, "B")),
            (1000, (1000, "B")),
            (1 << 20, (1, "MiB")),
            (3 << 29, (1536, "MiB")),
        ] {
            assert_eq!(pretty(bytes), expected);
        }
    }

    #[test]
    fn units_scale_or_are_refused() {
        assert_eq!(scale(2, "KB").unwrap(), 2000);
        assert_eq!(scale(2, "k").unwrap(), 2048);
        assert_eq!(scale(1, "zz").unwrap_err().message, "unknown suffix 'zz'");
        assert_eq!(scale(u64::MAX, "KiB").unwrap_err().kind, ErrorKind::Overflow);
    }
}
