//! The CPU as `/proc/cpuinfo` describes the first of them.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::identity::arch;
use crate::root::Root;

const CPUINFO: &str = "proc/cpuinfo";

/// libvirt's names of vendors, by the CPU's own.
const VENDORS: [(&str, &str); 3] = [
    ("GenuineIntel", "Intel"),
    ("AuthenticAMD", "AMD"),
    ("HygonGenuine", "Hygon"),
];

/// The first CPU's own words. Fields that the architecture does not have are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuIdentity {
    /// As uname tells: "x86_64".
    pub arch: String,
    /// libvirt's name of the vendor, or the CPU's own word when libvirt has none.
    pub vendor: Option<String>,
    /// The marketing name.
    pub model_name: Option<String>,
    /// Family of the signature.
    pub family: Option<u32>,
    /// Model of the signature.
    pub model: Option<u32>,
    /// Stepping of the signature.
    pub stepping: Option<u32>,
    /// Revision of the microcode.
    pub microcode: Option<u32>,
    /// Bits of a physical address.
    pub physical_bits: Option<u32>,
    /// Frequency of the first CPU in MHz, rounded down; 0 when not told.
    pub mhz: u32,
    /// The kernel's names of the features ("pni", "lahf_lm"), which are not libvirt's.
    pub flags: BTreeSet<String>,
}

/// Reads the first CPU's description.
///
/// # Errors
/// When `/proc/cpuinfo` cannot be read.
pub fn cpu_identity(root: &Root) -> Result<CpuIdentity> {
    let text = root.text(CPUINFO)?;
    let first = text.trim_start().split("\n\n").next().unwrap_or_default();
    let get = |name: &str| field(first, name);
    let number = |name: &str| get(name)?.parse().ok();
    Ok(CpuIdentity {
        arch: arch(root)?,
        vendor: get("vendor_id").map(vendor),
        model_name: get("model name").map(str::to_owned),
        family: number("cpu family"),
        model: number("model"),
        stepping: number("stepping"),
        microcode: get("microcode").and_then(hexadecimal),
        physical_bits: get("address sizes").and_then(physical_bits),
        mhz: get("cpu MHz").and_then(whole).unwrap_or(0),
        flags: get("flags")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    })
}

/// The frequency of the first CPU in MHz at this moment; 0 when unknown.
///
/// # Errors
/// When `/proc/cpuinfo` cannot be read.
pub fn frequency(root: &Root) -> Result<u32> {
    // The first CPU is in the first page, and the kernel makes no more than is read.
    let text = root.head(CPUINFO)?;
    let first = text.trim_start().split("\n\n").next().unwrap_or_default();
    Ok(field(first, "cpu MHz").and_then(whole).unwrap_or(0))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

pub(crate) fn vendor(word: &str) -> String {
    let known = VENDORS.iter().find(|(own, _)| *own == word);
    known.map_or(word, |(_, name)| name).to_owned()
}

/// Whether libvirt has a name of its own for the vendor, and this is it.
pub(crate) fn is_vendor(name: &str) -> bool {
    VENDORS.iter().any(|(_, known)| *known == name)
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

// "48 bits physical, 48 bits virtual"
fn physical_bits(text: &str) -> Option<u32> {
    text.split(" bits physical").next()?.parse().ok()
}

// "2596.120"
fn whole(text: &str) -> Option<u32> {
    text.split('.').next()?.parse().ok()
}
