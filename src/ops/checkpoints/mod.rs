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

use std::{collections::BTreeMap, sync::Arc};

use domxml::{devices::Disk, moment::Checkpoint};
use qemu_plan::block::Chain;

use crate::{
    domain::{
        View,
        snapshots::{Entry, Snapshots},
        store::{Store, snapshots::MOST},
    },
    error::{Area, Code, Error, Result},
    ops::Driver,
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
    let entry = find(view, name)?;
    let mut document = driver
        .registry
        .store()
        .read_checkpoint(&view.name, &entry.name)
        .await?;
    // What lists show counts: the files need not go together.
    document.moment.parent = entry.parent.as_deref().map(str::to_owned);
    Ok(document)
}

/// The topmost nodes of a disk's images, the top one first.
pub(crate) fn nodes_of(disk: &Disk) -> Vec<String> {
    Chain::of(disk).top_nodes()
}

/// A change of a guest's checkpoints that is being put together.
pub(crate) struct Batch {
    store: Store,
    guest: Arc<str>,
    base: Arc<Snapshots>,
    after: Snapshots,
    changed: BTreeMap<String, Checkpoint>,
}

/// A change of a guest's checkpoints, ready to be committed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    base: Arc<Snapshots>,
    after: Arc<Snapshots>,
}

impl Batch {
    /// Nothing is changed yet.
    pub(crate) fn of(driver: &Driver, view: &View) -> Self {
        Self {
            store: driver.registry.store().clone(),
            guest: Arc::clone(&view.name),
            base: Arc::clone(&view.checkpoints),
            after: Snapshots::clone(&view.checkpoints),
            changed: BTreeMap::new(),
        }
    }

    /// A new document, or another in the place of one.
    pub(crate) fn put(&mut self, document: Checkpoint) {
        self.after.put(Entry::of(document.summary()));
        self.changed.insert(document.moment.name.clone(), document);
    }

    /// What is written from now on is recorded since this one.
    pub(crate) fn make_current(&mut self, name: &str) {
        self.after.set_current(Some(name));
    }

    /// Takes a checkpoint away: those after it come after the one before it, which is current if this one was.
    ///
    /// # Errors
    /// A file of those that change can't be read.
    pub(crate) async fn remove(&mut self, name: &str) -> Result<()> {
        let Some(entry) = self.after.get(name).cloned() else {
            return Ok(());
        };
        let children: Vec<_> = self
            .after
            .children(name)
            .map(|child| child.name.clone())
            .collect();
        for child in children {
            let mut document = match self.changed.remove(&*child) {
                Some(document) => document,
                None => self.store.read_checkpoint(&self.guest, &child).await?,
            };
            document.moment.parent = entry.parent.as_deref().map(str::to_owned);
            self.put(document);
        }
        if self.after.current().is_some_and(|current| *current.name == *name) {
            self.after.set_current(entry.parent.as_deref());
        }
        self.after.remove(name);
        self.changed.remove(name);
        Ok(())
    }

    /// Writes the documents that differ, in memory as yet.
    ///
    /// # Errors
    /// There would be too many.
    pub(crate) fn finish(mut self) -> Result<Change> {
        if self.after.len() > MOST {
            return Err(refused(
                Code::OperationFailed,
                format!("a guest has at most {MOST} checkpoints"),
            ));
        }
        for document in self.changed.values() {
            let mut entry = Entry::of(document.summary());
            entry.draft = Some(document.format_file().into());
            self.after.put(entry);
        }
        Ok(Change {
            base: self.base,
            after: Arc::new(self.after),
        })
    }
}

impl Change {
    /// Applies the change to a view.
    ///
    /// # Errors
    /// `Internal` if another change came between: who holds the guest's job makes them alone.
    pub(crate) fn apply(self, view: &mut View) -> Result<()> {
        if !Arc::ptr_eq(&view.checkpoints, &self.base) {
            return Err(Error::internal("the guest's checkpoints were changed meanwhile"));
        }
        view.checkpoints = self.after;
        Ok(())
    }
}
