//! What an x86 CPU says about itself: the words of CPUID, and the registers that hold features.
//!
//! The CPUs of a host can differ, on a hybrid one they do; what a guest may rely on is what all of them have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cpu::vendor;
use crate::cpu_models::CpuModels;
use crate::root::Root;

/// Where in CPUID features are, besides the leaves of vendor and signature.
// table
const LEAVES: [(u32, u32); 20] = [
    (0, 0),
    (1, 0),
    (6, 0),
    (7, 0),
    (7, 1),
    (7, 2),
    (0xd, 1),
    (0xf, 1),
    (0x12, 0),
    (0x12, 1),
    (0x14, 0),
    (0x24, 0),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0007, 0),
    (0x8000_0008, 0),
    (0x8000_000a, 0),
    (0x8000_001f, 0),
    (0x8000_0021, 0),
    (0x8000_0022, 0),
];

/// Where in ebx of leaf 1 the CPU's own number is.
const APIC_ID: u32 = 0xff00_0000;

/// Registers that hold features: IA32_CORE_CAPABILITIES and IA32_ARCH_CAPABILITIES.
pub const FEATURE_MSRS: [u32; 2] = [0xcf, 0x10a];

/// The CPU's words: of CPUID by leaf and subleaf (eax, ebx, ecx, edx), of registers by index. What is absent is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuData {
    /// Words of CPUID.
    pub cpuid: BTreeMap<(u32, u32), [u32; 4]>,
    /// Registers.
    pub msrs: BTreeMap<u32, u64>,
}

/// Where a feature's bit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In CPUID.
    Cpuid {
        /// Leaf and subleaf.
        leaf: (u32, u32),
        /// 0 to 3: eax, ebx, ecx, edx.
        register: usize,
        /// 0 to 31.
        bit: u32,
    },
    /// In a register.
    Msr {
        /// The register's number.
        index: u32,
        /// 0 to 63.
        bit: u32,
    },
}

/// Family, model and stepping, put together from their parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSignature {
    /// Family.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

impl CpuData {
    /// Asks the CPU that this runs on, which the caller knows by its number and stays on. Registers are read through the kernel's `msr` driver where it is there: without
    /// it the features that they hold are missing, and it is the caller's to ask KVM for them and add them. Empty on
    /// other architectures than x86-64.
    pub fn of_this_cpu(root: &Root, number: u32) -> Self {
        let mut data = Self {
            cpuid: cpuid(),
            msrs: BTreeMap::new(),
        };
        let device = File::open(root.path(&format!("dev/cpu/{number}/msr"))).ok();
        for index in FEATURE_MSRS {
            let mut bytes = [0; 8];
            let read = |device: &File| device.read_exact_at(&mut bytes, u64::from(index)).ok();
            if device.as_ref().and_then(read).is_some() {
                data.msrs.insert(index, u64::from_ne_bytes(bytes));
            }
        }
        data
    }

    /// What all CPUs have: of words that hold features only the bits that every one has set, of others the first CPU's,
    /// without the number that tells one CPU from another. Empty if there are none.
    pub fn in_common(cpus: &[Self]) -> Self {
        let Some((first, others)) = cpus.split_first() else {
            return Self::default();
        };
        let mut data = first.clone();
        if let Some([_, word, ..]) = data.cpuid.get_mut(&(1, 0)) {
            *word &= !APIC_ID;
        }
        for (leaf, register) in feature_words() {
            if let Some(word) = data
                .cpuid
                .get_mut(&leaf)
                .and_then(|words| words.get_mut(register))
            {
                *word = others
                    .iter()
                    .fold(*word, |common, other| common & other.word(leaf, register));
            }
        }
        data.msrs
            .retain(|index, _| others.iter().all(|other| other.msrs.contains_key(index)));
        for (index, value) in &mut data.msrs {
            *value = others
                .iter()
                .filter_map(|other| other.msrs.get(index))
                .fold(*value, |common, other| common & other);
        }
        data
    }

    fn word(&self, leaf: (u32, u32), register: usize) -> u32 {
        self.cpuid
            .get(&leaf)
            .and_then(|words| words.get(register))
            .copied()
            .unwrap_or(0)
    }

    /// Whether the bit is set.
    pub fn has(&self, place: Place) -> bool {
        match place {
            Place::Cpuid { leaf, register, bit } => self
                .cpuid
                .get(&leaf)
                .and_then(|words| words.get(register))
                .is_some_and(|word| word >> bit & 1 == 1),
            Place::Msr { index, bit } => self.msrs.get(&index).is_some_and(|value| value >> bit & 1 == 1),
        }
    }

    /// Clears the bit.
    pub fn clear(&mut self, place: Place) {
        match place {
            Place::Cpuid { leaf, register, bit } => {
                if let Some(word) = self
                    .cpuid
                    .get_mut(&leaf)
                    .and_then(|words| words.get_mut(register))
                {
                    *word &= !(1 << bit);
                }
            }
            Place::Msr { index, bit } => {
                if let Some(value) = self.msrs.get_mut(&index) {
                    *value &= !(1 << bit);
                }
            }
        }
    }

    /// libvirt's name of the vendor, the CPU's own word for one that it has none for.
    pub fn vendor(&self) -> Option<String> {
        let [_, b, c, d] = self.cpuid.get(&(0, 0))?;
        let bytes: Vec<u8> = [b, d, c]
            .into_iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        String::from_utf8(bytes).ok().map(|word| vendor(&word))
    }

    /// The signature.
    pub fn signature(&self) -> Option<CpuSignature> {
        let [word, ..] = *self.cpuid.get(&(1, 0))?;
        let part = |shift: u32, bits: u32| word >> shift & ((1 << bits) - 1);
        Some(CpuSignature {
            family: part(20, 8) + part(8, 4),
            model: part(16, 4) << 4 | part(4, 4),
            stepping: part(0, 4),
        })
    }
}

/// Leaf and register of the words that hold features.
fn feature_words() -> BTreeSet<((u32, u32), usize)> {
    let places = CpuModels::x86().features.iter().map(|feature| feature.place);
    let words = places.filter_map(|place| match place {
        Place::Cpuid { leaf, register, .. } => Some((leaf, register)),
        Place::Msr { .. } => None,
    });
    words.collect()
}

#[cfg(target_arch = "x86_64")]
fn cpuid() -> BTreeMap<(u32, u32), [u32; 4]> {
    use std::arch::x86_64::__cpuid_count;
    // a leaf beyond the last answers what the last does
    let last = |leaf: u32| __cpuid_count(leaf & 0x8000_0000, 0).eax;
    let known = LEAVES.into_iter().filter(|(leaf, _)| *leaf <= last(*leaf));
    known
        .map(|(leaf, sub)| {
            let words = __cpuid_count(leaf, sub);
            ((leaf, sub), [words.eax, words.ebx, words.ecx, words.edx])
        })
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid() -> BTreeMap<(u32, u32), [u32; 4]> {
    BTreeMap::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vendor, signature with the CPU's number, features, and a word that is not of features.
    fn cpu(signature: u32, number: u32, features: u32, msr: Option<u64>) -> CpuData {
        let vendor = [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69];
        let words = [
            ((0, 0), vendor),
            ((1, 0), [signature, number << 24 | 0x0800, features, 0x0f]),
            ((7, 0), [2, features, 0, 0]),
        ];
        CpuData {
            cpuid: words.into(),
            msrs: msr.map(|value| (0x10a, value)).into_iter().collect(),
        }
    }

    #[test]
    fn what_cpus_have_in_common_is_less_than_what_one_has() {
        let (fast, slow) = (
            cpu(0x000b_0671, 0, 0b1110, Some(0b11)),
            cpu(0x000b_06a2, 16, 0b0111, Some(0b10)),
        );
        let common = CpuData::in_common(&[fast.clone(), slow.clone()]);
        assert_eq!(common, cpu(0x000b_0671, 0, 0b0110, Some(0b10)));
        assert_eq!(common.vendor().as_deref(), Some("Intel"));
        assert_eq!(
            CpuData::in_common(&[cpu(0x000b_0671, 9, 0b1110, None), slow]),
            cpu(0x000b_0671, 0, 0b0110, None)
        );
        assert_eq!(CpuData::in_common(std::slice::from_ref(&fast)), fast);
        assert_eq!(CpuData::in_common(&[]), CpuData::default());
    }

    #[test]
    fn a_leaf_that_one_lacks_has_no_features() {
        let (all, mut less) = (cpu(1, 0, 0b1111, None), cpu(1, 1, 0b1111, None));
        less.cpuid.remove(&(7, 0));
        let common = CpuData::in_common(&[all.clone(), less.clone()]);
        assert_eq!(common.cpuid.get(&(7, 0)), Some(&[2, 0, 0, 0]));
        assert_eq!(CpuData::in_common(&[less, all]).cpuid.get(&(7, 0)), None);
    }
}
