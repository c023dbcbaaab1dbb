//! What lists and statistics show of a document, kept beside it so that nobody parses for it.

use domxml::{
    Domain,
    devices::{DiskDevice, StorageFormat, StorageKind},
    tuning::MemoryTune,
};

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
    pub os_type: Box<str>,
    /// The title, if there is one.
    pub title: Option<Box<str>>,
    /// The description, if there is one.
    pub description: Option<Box<str>>,
    /// Limits of memory.
    pub memory_tuning: Option<MemoryTune>,
    /// Disks, in their order.
    pub disks: Box<[DiskFacts]>,
}

/// What a document says of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// Target's name.
    pub target: Box<str>,
    /// Its local file or block device, if it has one.
    pub path: Option<Box<str>>,
    /// Format of the image.
    pub format: StorageFormat,
    /// What the guest takes it for.
    pub device: DiskDevice,
}

impl Facts {
    /// The facts of a document.
    pub fn of(document: &Domain) -> Self {
        let memory_kib = document.memory.map_or(0, |m| m.size.0);
        let max_vcpus = document.vcpu.as_ref().map_or(1, |v| v.count);
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        Self {
            memory_kib,
            current_memory_kib: document.current_memory.map_or(memory_kib, |m| m.0),
            vcpus: document
                .vcpu
                .as_ref()
                .and_then(|v| v.current)
                .unwrap_or(max_vcpus),
            max_vcpus,
            os_type: document
                .os
                .kind
                .as_ref()
                .map_or("hvm", |t| t.value.as_str())
                .into(),
            title: text(&document.title),
            description: text(&document.description),
            memory_tuning: document.memtune,
            disks: document.devices.disks.iter().map(DiskFacts::of).collect(),
        }
    }
}

impl DiskFacts {
    fn of(disk: &domxml::devices::Disk) -> Self {
        let source = disk.source.as_ref();
        let path = match disk.kind {
            StorageKind::File => source.and_then(|s| s.file.as_deref()),
            StorageKind::Block => source.and_then(|s| s.dev.as_deref()),
            _ => None,
        };
        Self {
            target: disk.target.dev.as_str().into(),
            path: path.map(Into::into),
            format: disk
                .driver
                .as_ref()
                .and_then(|d| d.kind)
                .unwrap_or(StorageFormat::Raw),
            device: disk.device,
        }
    }
}
