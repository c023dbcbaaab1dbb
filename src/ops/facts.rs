//! Numbers that follow from a document: what lists and statistics show of a guest.

use domxml::Domain;

/// What a document says of a guest's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Memory at start with all memory devices, KiB.
    pub memory_kib: u64,
    /// Memory that the balloon leaves, KiB.
    pub current_memory_kib: u64,
    /// CPUs online at start.
    pub vcpus: u32,
    /// Most CPUs.
    pub max_vcpus: u32,
    /// "hvm".
    pub os_type: String,
}

/// The facts of a document.
pub fn of(document: &Domain) -> Facts {
    let memory_kib = document.memory.map_or(0, |m| m.size.0);
    let max_vcpus = document.vcpu.as_ref().map_or(1, |v| v.count);
    let vcpus = document.vcpu.as_ref().and_then(|v| v.current).unwrap_or(max_vcpus);
    Facts {
        memory_kib,
        current_memory_kib: document.current_memory.map_or(memory_kib, |m| m.0),
        vcpus,
        max_vcpus,
        os_type: document.os.kind.as_ref().map_or_else(|| "hvm".to_owned(), |t| t.value.clone()),
    }
}
