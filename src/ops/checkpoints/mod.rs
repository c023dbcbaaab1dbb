//! Checkpoints of guests: points in time since which the blocks that are written are recorded, for backups.
//!
//! A guest's view has the tree of its checkpoints; their documents are in files. What records the writes are dirty bitmaps
//! of the checkpoint's name in the images of its disks, in every image of a chain that was written to since. They are made
//! by [`create`], by one transaction of QEMU's, and go by [`delete`]. Bitmaps overlap: each records from its checkpoint on,
//! so none is merged when one goes. [`document`] shows a checkpoint, also with what was written since.

pub mod create;
pub mod delete;
pub mod document;
pub(crate) mod resolve;

use domxml::{devices::Disk, moment::Checkpoint};
use qemu_plan::block::Chain;

pub(crate) use crate::ops::document::batch::Change;
use crate::{
    domain::{View, snapshots::Entry},
    error::{Area, Code, Error, Result},
    ops::{Driver, document::batch},
};

/// A guest's checkpoint of a name.
///
/// # Errors
/// `NoDomainCheckpoint`.
pub fn find<'a>(view: &'a View, name: &str) -> Result<&'a Entry> {
    view.checkpoints.get(name).ok_or_else(|| {
        let said = format!("no domain checkpoint with matching name '{name}'");
        Error::new(Code::NoDomainCheckpoint, said)
    })
}

/// An error about the documents of checkpoints.
fn refused(code: Code, said: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(code, said).in_area(Area::Checkpoint)
}

/// The document of a checkpoint.
///
/// # Errors
/// `NoDomainCheckpoint`; its file can't be read.
pub(crate) async fn read(driver: &Driver, view: &View, name: &str) -> Result<Checkpoint> {
    batch::read(driver, view, find(view, name)?).await
}

/// The topmost nodes of a disk's images, the top one first.
pub(crate) fn nodes_of(disk: &Disk) -> Vec<String> {
    Chain::of(disk).top_nodes()
}

/// A change of a guest's checkpoints that is being put together.
pub(crate) type Batch = batch::Batch<Checkpoint>;
