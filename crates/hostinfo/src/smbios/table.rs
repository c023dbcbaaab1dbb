//! The tables as the firmware lays them out: structures of a fixed part and strings, one after another.

use crate::error::Result;
use crate::root::Root;

const TABLES: &str = "sys/firmware/dmi/tables/DMI";
const ENTRY_POINT: &str = "sys/firmware/dmi/tables/smbios_entry_point";

/// No table is larger: that many structures are an age of work and no machine's.
const LIMIT: usize = 4 << 20;
/// What is kept of a structure: a machine of thousands of processors has fewer.
const STRUCTURES_MAX: usize = 65_536;

/// The type that ends a table.
const END: u8 = 127;
/// Type, length and handle.
const HEADER: usize = 4;

/// The version of the tables' form, such as (3, 2).
pub(super) type Version = (u8, u8);

/// One structure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Structure<'a> {
    /// What it describes.
    pub(super) kind: u8,
    // with its header, so that offsets are the specification's
    fixed: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Structure<'a> {
    /// Whether it is so long that the offset is in it.
    pub(super) fn reaches(&self, end: usize) -> bool {
        self.fixed.len() >= end
    }

    /// A byte of the fixed part.
    pub(super) fn byte(&self, at: usize) -> Option<u8> {
        self.fixed.get(at).copied()
    }

    /// A word of the fixed part.
    pub(super) fn word(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    /// A double word of the fixed part.
    pub(super) fn dword(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    /// Bytes of the fixed part.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.fixed.get(at..)?.first_chunk().copied()
    }

    /// The string whose number is at the offset.
    pub(super) fn string(&self, at: usize) -> Option<String> {
        self.byte(at).map(|number| self.numbered(number))
    }

    /// The string of a number: 1 is the first, 0 is none. What is not printable becomes a dot.
    pub(super) fn numbered(&self, number: u8) -> String {
        let Some(index) = usize::from(number).checked_sub(1) else {
            return "Not Specified".to_owned();
        };
        let all = self
            .strings
            .split(|byte| *byte == 0)
            .take_while(|string| !string.is_empty());
        match all.into_iter().nth(index) {
            Some(string) => string
                .iter()
                .map(|byte| {
                    if (0x20..0x7f).contains(byte) {
                        char::from(*byte)
                    } else {
                        '.'
                    }
                })
                .collect(),
            None => "<BAD INDEX>".to_owned(),
        }
    }
}

/// The files of the tables: their version and the bytes; `None` where there are none, or none for this user.
pub(super) fn read(root: &Root) -> Result<Option<(Version, Vec<u8>)>> {
    let (entry, tables) = (root.optional_bytes(ENTRY_POINT)?, root.optional_bytes(TABLES)?);
    let version = entry.as_deref().and_then(version);
    Ok(version.zip(tables).map(|(version, mut tables)| {
        tables.truncate(LIMIT);
        (version, tables)
    }))
}

/// The version that an entry point names, if it is one: its bytes sum up to zero.
fn version(entry: &[u8]) -> Option<Version> {
    let sums_up = |length: u8| {
        let part = entry.get(..usize::from(length))?;
        (part.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0).then_some(())
    };
    match entry {
        [b'_', b'S', b'M', b'3', b'_', _, length, major, minor, ..] => {
            sums_up(*length).map(|()| (*major, *minor))
        }
        [b'_', b'S', b'M', b'_', _, length, major, minor, ..] => {
            sums_up(*length).map(|()| mended((*major, *minor)))
        }
        _ => None,
    }
}

/// Some firmware writes versions that never were.
fn mended(version: Version) -> Version {
    match version {
        (2, 0x1f | 0x21) => (2, 3),
        (2, 0x33) => (2, 6),
        other => other,
    }
}

/// The structures up to the end of the table, or up to the first that is broken.
pub(super) fn structures(tables: &[u8]) -> Vec<Structure<'_>> {
    let mut found = Vec::new();
    let mut rest = tables;
    while let Some((structure, behind)) = first(rest)
        && structure.kind != END
        && found.len() < STRUCTURES_MAX
    {
        found.push(structure);
        rest = behind;
    }
    found
}

// the strings end with an empty one, which stands alone where there are none
fn first(bytes: &[u8]) -> Option<(Structure<'_>, &[u8])> {
    let [kind, length, ..] = *bytes else { return None };
    let length = usize::from(length);
    let (fixed, behind) = bytes.split_at_checked(length).filter(|_| length >= HEADER)?;
    let end = behind.windows(2).position(|pair| pair == [0, 0])? + 2;
    let (strings, rest) = behind.split_at_checked(end)?;
    Some((Structure { kind, fixed, strings }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_point_that_does_not_sum_up_is_none() {
        let mut entry = *b"_SM3_\0\x18\x03\x02\0\x01\0aaaaaaaaaaaa";
        assert_eq!(version(&entry), None);
        entry[5] = 0_u8.wrapping_sub(entry.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
        assert_eq!(version(&entry), Some((3, 2)));
        assert_eq!(version(&entry[..20]), None);
        assert_eq!(version(b"_SM_"), None);
    }

    #[test]
    fn a_table_ends_where_it_is_broken() {
        let kinds = |bytes: &[u8]| {
            structures(bytes)
                .iter()
                .map(|structure| structure.kind)
                .collect::<Vec<_>>()
        };
        let whole = b"\x01\x05\0\0\x01one\0\0\x0b\x05\0\0\x01\0\0\x7f\x04\0\0\0\0\x02\x04\0\0\0\0";
        assert_eq!(kinds(whole), [1, 11]);
        assert_eq!(kinds(&whole[..14]), [1]);
        assert_eq!(kinds(&whole[..9]), [0; 0]);
        assert_eq!(kinds(b"\x01\x03\0\0\0"), [0; 0]);
    }

    #[test]
    fn strings_are_counted_from_one_and_made_printable() {
        let bytes = b"\x01\x07\0\0\x01\0\x03caf\xc3\0two\0\0";
        let structure = structures(bytes)[0];
        assert_eq!(structure.string(4).as_deref(), Some("caf."));
        assert_eq!(structure.string(5).as_deref(), Some("Not Specified"));
        assert_eq!(structure.string(6).as_deref(), Some("<BAD INDEX>"));
        assert_eq!(structure.string(7), None);
        assert_eq!(structure.numbered(2), "two");
    }
}
