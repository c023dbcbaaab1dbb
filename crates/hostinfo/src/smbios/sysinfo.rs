//! The values that libvirt tells of, by its names, in its order.

use super::names::{FORM_FACTORS, MEMORY_TYPES, PROCESSOR_STATES, PROCESSOR_TYPES, memory_details, word};
use super::processor::{family_name, signature};
use super::table::{self, Structure, Version};
use crate::error::Result;
use crate::root::Root;

/// What the firmware says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sysinfo {
    /// In libvirt's order: `bios`, `system`, `baseBoard` (several), `chassis`, `processor` (several), `memory_device`
    /// (several; empty sockets left out). None without an entry.
    pub tables: Vec<SysinfoTable>,
    /// Strings of the manufacturer's own.
    pub oem_strings: Vec<String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysinfoTable {
    /// libvirt's name of it.
    pub element: &'static str,
    /// Names and values. None is empty.
    pub entries: Vec<(&'static str, String)>,
}

/// Reads the tables; `None` where the firmware has none, or they are not for this user.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn sysinfo(root: &Root) -> Result<Option<Sysinfo>> {
    Ok(table::read(root)?.map(|(version, bytes)| describe(version, &bytes)))
}

/// How many structures of a type are told of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    One,
    All,
}

type Value = fn(&Structure<'_>, Version) -> Option<String>;

struct Kind {
    number: u8,
    element: &'static str,
    told: Number,
    entries: &'static [(&'static str, Value)],
}

const OEM_STRINGS: u8 = 11;
/// A structure can claim 255 of them and have none; a machine has a few dozen.
const OEM_STRINGS_MAX: usize = 4096;

/// The value is the string whose number is at the offset.
macro_rules! string {
    ($at:literal) => {
        |structure, _| structure.string($at)
    };
    // in a structure of at least that length
    ($at:literal in $length:literal) => {
        |structure, _| structure.string($at).filter(|_| structure.reaches($length))
    };
}

const KINDS: &[Kind] = &[
    Kind {
        number: 0,
        element: "bios",
        told: Number::One,
        entries: &[
            ("vendor", string!(0x04 in 0x12)),
            ("version", string!(0x05 in 0x12)),
            ("date", string!(0x08 in 0x12)),
            ("release", |structure, _| bios_release(structure)),
        ],
    },
    Kind {
        number: 1,
        element: "system",
        told: Number::One,
        entries: &[
            ("manufacturer", string!(0x04 in 0x08)),
            ("product", string!(0x05 in 0x08)),
            ("version", string!(0x06 in 0x08)),
            ("serial", string!(0x07 in 0x08)),
            ("uuid", uuid),
            ("sku", string!(0x19 in 0x1b)),
            ("family", string!(0x1a in 0x1b)),
        ],
    },
    Kind {
        number: 2,
        element: "baseBoard",
        told: Number::All,
        entries: &[
            ("manufacturer", string!(0x04 in 0x08)),
            ("product", string!(0x05 in 0x08)),
            ("version", string!(0x06 in 0x08)),
            ("serial", string!(0x07 in 0x08)),
            ("asset", string!(0x08)),
            ("location", string!(0x0a in 0x0e)),
        ],
    },
    Kind {
        number: 3,
        element: "chassis",
        told: Number::One,
        entries: &[
            ("manufacturer", string!(0x04 in 0x09)),
            ("version", string!(0x06 in 0x09)),
            ("serial", string!(0x07 in 0x09)),
            ("asset", string!(0x08)),
            ("sku", |structure, _| chassis_sku(structure)),
        ],
    },
    Kind {
        number: 4,
        element: "processor",
        told: Number::All,
        entries: &[
            ("socket_destination", string!(0x04 in 0x1a)),
            ("type", |structure, _| {
                full_processor(structure)?
                    .byte(5)
                    .map(|code| word(PROCESSOR_TYPES, code).to_owned())
            }),
            ("family", |structure, version| {
                family_name(full_processor(structure)?, version)
            }),
            ("manufacturer", string!(0x07 in 0x1a)),
            ("signature", |structure, _| signature(full_processor(structure)?)),
            ("version", string!(0x10 in 0x1a)),
            ("external_clock", |structure, _| {
                full_processor(structure)?.word(0x12).map(megahertz)
            }),
            ("max_speed", |structure, _| {
                full_processor(structure)?.word(0x14).map(megahertz)
            }),
            ("status", |structure, _| {
                full_processor(structure)?.byte(0x18).map(status)
            }),
            ("serial_number", string!(0x20 in 0x23)),
            ("part_number", string!(0x22)),
        ],
    },
    Kind {
        number: 17,
        element: "memory_device",
        told: Number::All,
        entries: &[
            ("size", |structure, _| {
                full_memory(structure).and_then(memory_size)
            }),
            ("form_factor", |structure, _| {
                full_memory(structure)?
                    .byte(0x0e)
                    .map(|code| word(FORM_FACTORS, code).to_owned())
            }),
            ("locator", string!(0x10 in 0x15)),
            ("bank_locator", string!(0x11 in 0x15)),
            ("type", |structure, _| {
                full_memory(structure)?
                    .byte(0x12)
                    .map(|code| word(MEMORY_TYPES, code).to_owned())
            }),
            ("type_detail", |structure, _| {
                full_memory(structure)?.word(0x13).map(memory_details)
            }),
            ("speed", |structure, _| memory_speed(structure)),
            ("manufacturer", string!(0x17 in 0x1b)),
            ("serial_number", string!(0x18 in 0x1b)),
            ("part_number", string!(0x1a)),
        ],
    },
];

fn describe(version: Version, bytes: &[u8]) -> Sysinfo {
    let all = table::structures(bytes);
    let tables = KINDS.iter().flat_map(|kind| {
        let own = all
            .iter()
            .filter(|structure| structure.kind == kind.number && !is_empty_socket(structure));
        let filled = own
            .map(|structure| kind.table(structure, version))
            .filter(|table| !table.entries.is_empty());
        filled.take(if kind.told == Number::One { 1 } else { usize::MAX })
    });
    let own = all.iter().filter(|structure| structure.kind == OEM_STRINGS);
    let strings = own
        .flat_map(|structure| (1..=structure.byte(4).unwrap_or(0)).map(|number| structure.numbered(number)));
    Sysinfo {
        tables: tables.collect(),
        oem_strings: strings.filter_map(told).take(OEM_STRINGS_MAX).collect(),
    }
}

impl Kind {
    fn table(&self, structure: &Structure<'_>, version: Version) -> SysinfoTable {
        let entries = self
            .entries
            .iter()
            .filter_map(|(name, value)| Some((*name, told(value(structure, version)?)?)));
        SysinfoTable {
            element: self.element,
            entries: entries.collect(),
        }
    }
}

/// What is left of a value without blanks at its end; an empty one is none.
fn told(mut value: String) -> Option<String> {
    value.truncate(value.trim_end().len());
    (!value.is_empty()).then_some(value)
}

fn bios_release(structure: &Structure<'_>) -> Option<String> {
    let [major, minor] = structure.bytes(0x14).filter(|_| structure.reaches(0x18))?;
    (major != 0xff && minor != 0xff).then(|| format!("{major}.{minor}"))
}

fn uuid(structure: &Structure<'_>, version: Version) -> Option<String> {
    let mut bytes: [u8; 16] = structure.bytes(0x08).filter(|_| structure.reaches(0x19))?;
    if bytes.iter().all(|byte| *byte == 0xff) {
        return Some("Not Present".to_owned());
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Some("Not Settable".to_owned());
    }
    if version >= (2, 6) {
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
    }
    let hexadecimal = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(
        [
            &bytes[..4],
            &bytes[4..6],
            &bytes[6..8],
            &bytes[8..10],
            &bytes[10..],
        ]
        .map(hexadecimal)
        .join("-"),
    )
}

// behind a list of parts, of which the structure tells number and size
fn chassis_sku(structure: &Structure<'_>) -> Option<String> {
    let parts = usize::from(structure.byte(0x13)?) * usize::from(structure.byte(0x14)?);
    structure.string(0x15 + parts)
}

// dmidecode tells of all of this or of nothing
fn full_processor<'a, 'b>(structure: &'a Structure<'b>) -> Option<&'a Structure<'b>> {
    structure.reaches(0x1a).then_some(structure)
}

fn full_memory<'a, 'b>(structure: &'a Structure<'b>) -> Option<&'a Structure<'b>> {
    structure.reaches(0x15).then_some(structure)
}

fn megahertz(number: u16) -> String {
    if number == 0 {
        "Unknown".to_owned()
    } else {
        format!("{number} MHz")
    }
}

fn status(byte: u8) -> String {
    if byte & 0x40 == 0 {
        return "Unpopulated".to_owned();
    }
    let state = PROCESSOR_STATES
        .get(usize::from(byte & 7))
        .copied()
        .unwrap_or_default();
    format!("Populated, {state}")
}

fn is_empty_socket(structure: &Structure<'_>) -> bool {
    structure.kind == 17 && structure.word(0x0c) == Some(0)
}

fn memory_size(structure: &Structure<'_>) -> Option<String> {
    Some(match structure.word(0x0c)? {
        0xffff => "Unknown".to_owned(),
        0x7fff if structure.reaches(0x20) => large_size(structure.dword(0x1c)? & 0x7fff_ffff),
        size if size & 0x8000 != 0 => small_size((size & 0x7fff).into(), &["kB", "MB"]),
        size => small_size(size.into(), &["MB", "GB"]),
    })
}

// in the larger unit only if it is whole
fn small_size(size: u32, [small, large]: &[&str; 2]) -> String {
    if size >= 1 << 10 && size.is_multiple_of(1 << 10) {
        format!("{} {large}", size >> 10)
    } else {
        format!("{size} {small}")
    }
}

fn large_size(megabytes: u32) -> String {
    if megabytes & 0x3ff != 0 {
        format!("{megabytes} MB")
    } else if megabytes & 0xf_fc00 != 0 {
        format!("{} GB", megabytes >> 10)
    } else {
        format!("{} TB", megabytes >> 20)
    }
}

fn memory_speed(structure: &Structure<'_>) -> Option<String> {
    Some(match structure.word(0x15)? {
        0 => "Unknown".to_owned(),
        0xffff => structure
            .dword(0x54)
            .map_or_else(|| "Unknown".to_owned(), |speed| format!("{speed} MT/s")),
        speed => format!("{speed} MT/s"),
    })
}
