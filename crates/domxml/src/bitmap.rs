//! Sets of small numbers, spelled `0-3,^2,8`: CPUs, NUMA nodes.

use std::fmt;
use std::str::FromStr;

use xmlform::{Expected, Value, Writer};

/// Largest number a set may have, to bound memory; libvirt's own limits are lower where they matter.
const LARGEST: u32 = 1 << 20;
/// Most ranges a set may have.
const MOST_RANGES: usize = 1 << 14;

/// A set of numbers, kept as sorted ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Bitmap {
    ranges: Vec<(u32, u32)>,
}

impl Bitmap {
    /// The set of all numbers from `first` to `last`.
    #[must_use]
    pub fn range(first: u32, last: u32) -> Self {
        let mut set = Self::default();
        set.insert_range(first, last);
        set
    }

    /// Adds one number.
    pub fn insert(&mut self, n: u32) {
        self.insert_range(n, n);
    }

    /// Adds all numbers from `first` to `last`.
    pub fn insert_range(&mut self, first: u32, last: u32) {
        if first > last {
            return;
        }
        // Ranges that overlap the new one or touch it become one with it.
        let start = self.ranges.partition_point(|r| r.1 < first.saturating_sub(1));
        let end = self.ranges.partition_point(|r| r.0 <= last.saturating_add(1));
        let merged = match self.ranges.get(start..end) {
            Some([one]) => (first.min(one.0), last.max(one.1)),
            Some([from, .., to]) => (first.min(from.0), last.max(to.1)),
            _ => (first, last),
        };
        self.ranges.splice(start..end.max(start), [merged]);
    }

    /// Takes one number out.
    pub fn remove(&mut self, n: u32) {
        let at = self.ranges.partition_point(|r| r.1 < n);
        let Some(&(first, last)) = self.ranges.get(at) else {
            return;
        };
        if n < first {
            return;
        }
        let left = (n > first).then(|| (first, n - 1));
        let right = (n < last).then(|| (n + 1, last));
        self.ranges.splice(at..=at, left.into_iter().chain(right));
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, n: u32) -> bool {
        let at = self.ranges.partition_point(|r| r.1 < n);
        self.ranges.get(at).is_some_and(|r| r.0 <= n)
    }

    /// Whether no number is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|r| (r.1 - r.0) as usize + 1).sum()
    }

    /// The largest number of the set.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.ranges.last().map(|r| r.1)
    }

    /// All numbers in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|r| r.0..=r.1)
    }

    /// Whether a number is in both sets.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let hit = |a: &(u32, u32)| other.ranges.iter().any(|b| a.0 <= b.1 && b.0 <= a.1);
        self.ranges.iter().any(hit)
    }
}

impl FromIterator<u32> for Bitmap {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|n| set.insert(n));
        set
    }
}

impl fmt::Display for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Bitmap {
    type Err = Expected;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut set = Self::default();
        // One comma may follow.
        let list = s.trim_end();
        let list = list.strip_suffix(',').unwrap_or(list);
        for part in list.split(',') {
            let part = part.trim();
            if let Some(out) = part.strip_prefix('^') {
                set.remove(number(out)?);
            } else if let Some((first, last)) = part.split_once('-') {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(WRONG);
                }
                set.insert_range(first, last);
            } else {
                set.insert(number(part)?);
            }
            if set.ranges.len() > MOST_RANGES {
                return Err(WRONG);
            }
        }
        Ok(set)
    }
}

impl Value for Bitmap {
    const WRONG: &'static str = "invalid argument: Failed to parse bitmap '{}'";
    fn parse(s: &str) -> Result<Self, Expected> {
        s.parse()
    }
    fn write(&self, w: &mut Writer) {
        w.push(&self.to_string());
    }
}

const WRONG: Expected = Expected("");

fn number(s: &str) -> Result<u32, Expected> {
    let s = s.trim();
    if !s.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(WRONG);
    }
    let n = s.parse().map_err(|_| WRONG)?;
    if n > LARGEST { Err(WRONG) } else { Ok(n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_normalised() {
        for (text, expected) in [
            ("0,1,2,3", "0-3"),
            ("3,0-1", "0-1,3"),
            ("0-7,^3", "0-2,4-7"),
            ("0-3,2-9,11", "0-9,11"),
            ("5-5", "5"),
            (" 1 , 2 ", "1-2"),
            ("1, ", "1"),
        ] {
            let set: Bitmap = text.parse().unwrap();
            assert_eq!(set.to_string(), expected);
            assert!(set.iter().all(|n| set.contains(n)));
            assert_eq!(set.iter().count(), set.len());
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "aaa", "3-1", ",", "1,,", "+1", "-1", "99999999"] {
            assert!(text.parse::<Bitmap>().is_err(), "{text}");
        }
    }
}
