//! What an x86 CPU says about itself: the words of CPUID, and the registers that hold features.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cpu::vendor;
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
    /// Asks the CPU that this runs on. Registers are read through the kernel's `msr` driver where it is there: without
    /// it the features that they hold are missing, and it is the caller's to ask KVM for them and add them. Empty on
    /// other architectures than x86-64.
    pub fn of_this_cpu(root: &Root) -> Self {
        let mut data = Self { cpuid: cpuid(), msrs: BTreeMap::new() };
        let device = File::open(root.path("dev/cpu/0/msr")).ok();
        for index in FEATURE_MSRS {
            let mut bytes = [0; 8];
            let read = |device: &File| device.read_exact_at(&mut bytes, u64::from(index)).ok();
            if device.as_ref().and_then(read).is_some() {
                data.msrs.insert(index, u64::from_ne_bytes(bytes));
            }
        }
        data
    }

    /// Whether the bit is set.
    pub fn has(&self, place: Place) -> bool {
        match place {
            Place::Cpuid { leaf, register, bit } => {
                self.cpuid.get(&leaf).and_then(|words| words.get(register)).is_some_and(|word| word >> bit & 1 == 1)
            }
            Place::Msr { index, bit } => self.msrs.get(&index).is_some_and(|value| value >> bit & 1 == 1),
        }
    }

    /// Clears the bit.
    pub fn clear(&mut self, place: Place) {
        match place {
            Place::Cpuid { leaf, register, bit } => {
                if let Some(word) = self.cpuid.get_mut(&leaf).and_then(|words| words.get_mut(register)) {
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
        let bytes: Vec<u8> = [b, d, c].into_iter().flat_map(|word| word.to_le_bytes()).collect();
        String::from_utf8(bytes).ok().map(|word| vendor(&word))
    }

    /// The signature.
    pub fn signature(&self) -> Option<CpuSignature> {
        let [word, ..] = *self.cpuid.get(&(1, 0))?;
        let part = |shift: u32, bits: u32| word >> shift & ((1 << bits) - 1);
        Some(CpuSignature { family: part(20, 8) + part(8, 4), model: part(16, 4) << 4 | part(4, 4), stepping: part(0, 4) })
    }
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
