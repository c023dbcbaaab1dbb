//! A guest about to be started: its document complete, its images found.

use std::sync::Arc;

/// A guest about to be started: its document complete, its images found.
pub(crate) struct Prepared {
    /// The document of the run.
    pub(crate) document: Box<domxml::Domain>,
    pub(crate) caps: Arc<qemu_plan::caps::Caps>,
    pub(crate) id: i32,
    /// "ID-NAME".
    pub(crate) short_name: String,
    /// The next number of a block node.
    pub(crate) next_node: u32,
    /// Optional images that are missing: the disk's alias, the path, and whether the drive is there without it.
    pub(crate) missing: Vec<(String, String, bool)>,
    /// The CPU as the stored configuration has it.
    pub(crate) cpu: Option<domxml::cpu::Cpu>,
    /// The document before anything was chosen for the run, where scripts of the administrator are told of it.
    pub(crate) planned: Option<Box<domxml::Domain>>,
}
