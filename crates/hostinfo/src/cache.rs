//! CPU caches of level 2 and up, for a capabilities document.

use std::collections::BTreeMap;

use crate::cpulist::{CpuSet, parse_cpu_list};
use crate::error::Result;
use crate::node::{CPUS, cpu_map};
use crate::root::Root;

/// Level 1 is not told of.
const LOWEST: u32 = 2;

/// A cache that some CPUs share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bank {
    /// The kernel's number, unique in a level.
    pub id: u32,
    /// 2 or more.
    pub level: u32,
    /// What it holds.
    pub kind: BankKind,
    /// Size in KiB.
    pub size: u64,
    /// CPUs that share it.
    pub cpus: CpuSet,
}

/// What a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BankKind {
    /// Both, "both" to libvirt.
    Unified,
    /// Code.
    Code,
    /// Data.
    Data,
}

impl BankKind {
    /// libvirt's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unified => "both",
            Self::Code => "code",
            Self::Data => "data",
        }
    }

    fn from_kernel(word: &str) -> Option<Self> {
        match word.trim() {
            "Unified" => Some(Self::Unified),
            "Instruction" => Some(Self::Code),
            "Data" => Some(Self::Data),
            _ => None,
        }
    }
}

/// Reads the caches of the CPUs that are online, by level, kind and number. One that lacks a number, as some virtual
/// machines' do, is left out.
///
/// # Errors
/// When the kernel's files cannot be read.
pub fn caches(root: &Root) -> Result<Vec<Bank>> {
    let mut banks = BTreeMap::new();
    for cpu in cpu_map(root)?.online {
        let dir = format!("{CPUS}/cpu{cpu}/cache");
        for index in root.numbered(&dir, "index")? {
            if let Some(bank) = bank(root, &format!("{dir}/index{index}"))? {
                banks.entry((bank.level, bank.kind, bank.id)).or_insert(bank);
            }
        }
    }
    Ok(banks.into_values().collect())
}

fn bank(root: &Root, dir: &str) -> Result<Option<Bank>> {
    let level = root
        .number(&format!("{dir}/level"))?
        .filter(|level| *level >= LOWEST);
    let id = root.number(&format!("{dir}/id"))?;
    let kind = root
        .optional(&format!("{dir}/type"))?
        .as_deref()
        .and_then(BankKind::from_kernel);
    let size = root
        .optional(&format!("{dir}/size"))?
        .as_deref()
        .and_then(kibibytes);
    let cpus = root
        .optional(&format!("{dir}/shared_cpu_list"))?
        .as_deref()
        .and_then(parse_cpu_list);
    Ok((|| {
        Some(Bank {
            id: id?,
            level: level?,
            kind: kind?,
            size: size?,
            cpus: cpus?,
        })
    })())
}

// "1024K"
fn kibibytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "K" => Some(number),
        "M" => number.checked_mul(1 << 10),
        "G" => number.checked_mul(1 << 20),
        "" => Some(number >> 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_kibibytes_whatever_the_unit() {
        for (text, size) in [
            ("1024K\n", Some(1024)),
            ("32M", Some(32768)),
            ("4096", Some(4)),
            ("4Q", None),
            ("", None),
        ] {
            assert_eq!(kibibytes(text), size, "{text:?}");
        }
    }
}
