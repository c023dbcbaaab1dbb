//! Merging of memory pages of the same content by the kernel (KSM): `virsh node-memory-tune`.
//!
//! A kernel without it has no directory, older ones lack single files: what is not there is absent.

use std::fs;
use std::io;

use crate::error::Result;
use crate::root::Root;

const DIR: &str = "sys/kernel/mm/ksm";

/// Settings and counters, as the kernel names them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub struct Ksm {
    pub pages_to_scan: Option<u32>,
    pub sleep_millisecs: Option<u32>,
    pub pages_shared: Option<u64>,
    pub pages_sharing: Option<u64>,
    pub pages_unshared: Option<u64>,
    pub pages_volatile: Option<u64>,
    pub full_scans: Option<u64>,
    /// Absent without NUMA.
    pub merge_across_nodes: Option<u32>,
}

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KsmSetting {
    /// How many pages are looked at in one go.
    PagesToScan,
    /// How long it pauses then.
    SleepMillisecs,
    /// Whether pages of different NUMA nodes are merged: 0 or 1. The kernel refuses while any are.
    MergeAcrossNodes,
}

impl KsmSetting {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PagesToScan => "pages_to_scan",
            Self::SleepMillisecs => "sleep_millisecs",
            Self::MergeAcrossNodes => "merge_across_nodes",
        }
    }
}

/// What the kernel says.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn ksm(root: &Root) -> Result<Ksm> {
    let file = |name: &str| format!("{DIR}/{name}");
    let counter = |name: &str| root.number(&file(name));
    let setting = |setting: KsmSetting| root.number(&file(setting.name()));
    Ok(Ksm {
        pages_to_scan: setting(KsmSetting::PagesToScan)?,
        sleep_millisecs: setting(KsmSetting::SleepMillisecs)?,
        pages_shared: counter("pages_shared")?,
        pages_sharing: counter("pages_sharing")?,
        pages_unshared: counter("pages_unshared")?,
        pages_volatile: counter("pages_volatile")?,
        full_scans: counter("full_scans")?,
        merge_across_nodes: setting(KsmSetting::MergeAcrossNodes)?,
    })
}

/// Whether this kernel has the setting.
pub fn has_ksm_setting(root: &Root, setting: KsmSetting) -> bool {
    root.path(&format!("{DIR}/{}", setting.name())).exists()
}

/// Sets one.
///
/// # Errors
/// The kernel's, for a value that it does not take or not now.
pub fn set_ksm(root: &Root, setting: KsmSetting, value: u32) -> io::Result<()> {
    fs::write(root.path(&format!("{DIR}/{}", setting.name())), value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_and_what_the_kernel_lacks_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        assert_eq!(ksm(&root).unwrap(), Ksm::default());
        assert!(!has_ksm_setting(&root, KsmSetting::SleepMillisecs));
        fs::create_dir_all(root.path(DIR)).unwrap();
        fs::write(root.path("sys/kernel/mm/ksm/sleep_millisecs"), "20\n").unwrap();
        fs::write(root.path("sys/kernel/mm/ksm/full_scans"), "7\n").unwrap();
        fs::write(root.path("sys/kernel/mm/ksm/pages_shared"), "many\n").unwrap();
        set_ksm(&root, KsmSetting::SleepMillisecs, 35).unwrap();
        let expected = Ksm {
            sleep_millisecs: Some(35),
            full_scans: Some(7),
            ..Ksm::default()
        };
        assert_eq!(ksm(&root).unwrap(), expected);
    }
}
