//! Types of texts, after XML Schema's.

use super::regex::Regex;

/// A type, and what is asked of its values beside.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Datatype {
    kind: Kind,
    patterns: Vec<Regex>,
    lengths: (Option<usize>, Option<usize>),
    numbers: (Option<i128>, Option<i128>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any text.
    Text,
    /// Whole numbers within bounds.
    Whole(i128, i128),
    Double,
    /// A name without colon.
    Name,
    /// `2026-11-29T23:00:00`, with a part of a second and a zone if need be.
    DateTime,
}

/// Whole numbers by the names of their types.
// table
const WHOLE: &[(&str, i128, i128)] = &[
    ("integer", i128::MIN, i128::MAX),
    ("positiveInteger", 1, i128::MAX),
    ("nonNegativeInteger", 0, i128::MAX),
    ("long", i64::MIN as i128, i64::MAX as i128),
    ("int", i32::MIN as i128, i32::MAX as i128),
    ("short", i16::MIN as i128, i16::MAX as i128),
    ("byte", i8::MIN as i128, i8::MAX as i128),
    ("unsignedLong", 0, u64::MAX as i128),
    ("unsignedInt", 0, u32::MAX as i128),
    ("unsignedShort", 0, u16::MAX as i128),
    ("unsignedByte", 0, u8::MAX as i128),
];

impl Datatype {
    /// A type by its name, with its parameters.
    ///
    /// # Errors
    /// Either is not known.
    pub(super) fn new<'p>(
        name: &str,
        params: impl Iterator<Item = (&'p str, &'p str)>,
    ) -> Result<Self, String> {
        let whole = WHOLE.iter().find(|(known, ..)| *known == name);
        let kind = match (name, whole) {
            (_, Some((_, least, most))) => Kind::Whole(*least, *most),
            ("string" | "token" | "anyURI", _) => Kind::Text,
            ("double", _) => Kind::Double,
            ("NCName", _) => Kind::Name,
            ("dateTime", _) => Kind::DateTime,
            _ => return Err(format!("the type '{name}' is not known")),
        };
        let mut new = Self {
            kind,
            patterns: Vec::new(),
            lengths: (None, None),
            numbers: (None, None),
        };
        for (name, value) in params {
            let wrong = || format!("the parameter {name}='{value}' is not understood");
            let length = || value.trim().parse::<usize>().map_err(|_| wrong());
            let number = || value.trim().parse::<i128>().map_err(|_| wrong());
            match name {
                "pattern" => new.patterns.push(Regex::new(value)?),
                "minLength" => new.lengths.0 = Some(length()?),
                "maxLength" => new.lengths.1 = Some(length()?),
                "length" => new.lengths = (Some(length()?), Some(length()?)),
                "minInclusive" => new.numbers.0 = Some(number()?),
                "maxInclusive" => new.numbers.1 = Some(number()?),
                _ => return Err(wrong()),
            }
        }
        Ok(new)
    }

    /// Whether a text is one of the type.
    pub(super) fn fits(&self, text: &str) -> bool {
        let characters = text.chars().count();
        let (shortest, longest) = self.lengths;
        self.is_of_kind(text)
            && shortest.is_none_or(|least| characters >= least)
            && longest.is_none_or(|most| characters <= most)
            && self.patterns.iter().all(|pattern| pattern.fits(text))
    }

    fn is_of_kind(&self, text: &str) -> bool {
        let trimmed = text.trim();
        let (least, most) = self.numbers;
        match self.kind {
            Kind::Text => true,
            Kind::Whole(lowest, highest) => whole(trimmed).is_some_and(|number| {
                (lowest..=highest).contains(&number)
                    && least.is_none_or(|least| number >= least)
                    && most.is_none_or(|most| number <= most)
            }),
            Kind::Double => {
                matches!(trimmed, "INF" | "-INF" | "NaN")
                    || trimmed.parse::<f64>().is_ok() && trimmed.bytes().any(|b| b.is_ascii_digit())
            }
            Kind::Name => is_name(trimmed),
            Kind::DateTime => is_date_time(trimmed),
        }
    }
}

/// A whole number; one that is too long to be read is as large as any.
fn whole(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let large = if text.starts_with('-') {
        i128::MIN
    } else {
        i128::MAX
    };
    Some(text.parse().unwrap_or(large))
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    first && characters.all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once('T') else {
        return false;
    };
    let numbers = |text: &str, separator, lengths: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        parts.len() == lengths.len()
            && parts
                .iter()
                .zip(lengths)
                .all(|(part, length)| part.len() == *length && part.bytes().all(|b| b.is_ascii_digit()))
    };
    let zone = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    numbers(date, '-', &[4, 2, 2])
        && numbers(time, ':', &[2, 2, 2])
        && !fraction.is_empty()
        && fraction.bytes().all(|b| b.is_ascii_digit())
        && (matches!(zone, "" | "Z") || numbers(zone.trim_start_matches(['+', '-']), ':', &[2, 2]))
}
