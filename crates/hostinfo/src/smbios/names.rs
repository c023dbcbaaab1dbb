//! Words for numbers of the tables, as dmidecode has them.

const OUT_OF_SPEC: &str = "<OUT OF SPEC>";

/// Words for numbers from 1 on.
type Words = &'static [&'static str];

pub(super) const PROCESSOR_TYPES: Words = &[
    "Other",
    "Unknown",
    "Central Processor",
    "Math Processor",
    "DSP Processor",
    "Video Processor",
];

/// From 0 on.
pub(super) const PROCESSOR_STATES: Words = &[
    "Unknown",
    "Enabled",
    "Disabled By User",
    "Disabled By BIOS",
    "Idle",
    OUT_OF_SPEC,
    OUT_OF_SPEC,
    "Other",
];

pub(super) const FORM_FACTORS: Words = &[
    "Other",
    "Unknown",
    "SIMM",
    "SIP",
    "Chip",
    "DIP",
    "ZIP",
    "Proprietary Card",
    "DIMM",
    "TSOP",
    "Row Of Chips",
    "RIMM",
    "SODIMM",
    "SRIMM",
    "FB-DIMM",
    "Die",
];

pub(super) const MEMORY_TYPES: Words = &[
    "Other",
    "Unknown",
    "DRAM",
    "EDRAM",
    "VRAM",
    "SRAM",
    "RAM",
    "ROM",
    "Flash",
    "EEPROM",
    "FEPROM",
    "EPROM",
    "CDRAM",
    "3DRAM",
    "SDRAM",
    "SGRAM",
    "RDRAM",
    "DDR",
    "DDR2",
    "DDR2 FB-DIMM",
    "Reserved",
    "Reserved",
    "Reserved",
    "DDR3",
    "FBD2",
    "DDR4",
    "LPDDR",
    "LPDDR2",
    "LPDDR3",
    "LPDDR4",
    "Logical non-volatile device",
    "HBM",
    "HBM2",
    "DDR5",
    "LPDDR5",
];

/// By bit, from 1 on.
const MEMORY_DETAILS: Words = &[
    "Other",
    "Unknown",
    "Fast-paged",
    "Static Column",
    "Pseudo-static",
    "RAMBus",
    "Synchronous",
    "CMOS",
    "EDO",
    "Window DRAM",
    "Cache DRAM",
    "Non-Volatile",
    "Registered (Buffered)",
    "Unbuffered (Unregistered)",
    "LRDIMM",
];

/// The word for a number from 1 on.
pub(super) fn word(words: Words, number: u8) -> &'static str {
    usize::from(number)
        .checked_sub(1)
        .and_then(|index| words.get(index))
        .unwrap_or(&OUT_OF_SPEC)
}

/// The words for the bits, "None" for none.
pub(super) fn memory_details(bits: u16) -> String {
    let set = MEMORY_DETAILS
        .iter()
        .zip(1..)
        .filter(|(_, bit)| bits >> bit & 1 == 1);
    let words: Vec<&str> = set.map(|(word, _)| *word).collect();
    if words.is_empty() {
        "None".to_owned()
    } else {
        words.join(" ")
    }
}

/// The name of a processor's family.
pub(super) fn family(code: u16) -> &'static str {
    let lines = include_str!("../../data/smbios-families.tsv").lines();
    let named = |line: &'static str| {
        let (number, name) = line.split_once('\t')?;
        (u16::from_str_radix(number, 16) == Ok(code)).then_some(name)
    };
    lines.into_iter().find_map(named).unwrap_or(OUT_OF_SPEC)
}
