//! The documents of a guest's snapshots, read when they are needed, and changes of several of them in one commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use domxml::moment::Snapshot;

use super::find;
use crate::{
    domain::{
        View,
        snapshots::{Entry, Snapshots},
        store::{Store, snapshots::MOST},
    },
    error::{Code, Error, Result},
    ops::Driver,
};

/// The document of a snapshot.
///
/// # Errors
/// `NoDomainSnapshot`; its file can't be read.
pub async fn document(driver: &Driver, view: &View, name: &str) -> Result<Snapshot> {
    let store = driver.registry.store();
    let mut document = store.read_snapshot(&view.name, &find(view, name)?.name).await?;
    // What lists show counts: the files need not go together.
    let parent = find(view, name)?.parent.as_deref();
    document.moment.parent = parent.map(str::to_owned);
    Ok(document)
}

/// The document of a snapshot as clients are shown it.
///
/// # Errors
/// As [`document`].
pub async fn text(driver: &Driver, view: &View, name: &str, secure: bool) -> Result<String> {
    Ok(document(driver, view, name).await?.format(secure))
}

/// A change of a guest's snapshots that is being put together.
pub(crate) struct Batch {
    store: Store,
    guest: Arc<str>,
    base: Arc<Snapshots>,
    after: Snapshots,
    changed: BTreeMap<String, Snapshot>,
}

/// A change of a guest's snapshots, ready to be committed.
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
            base: Arc::clone(&view.snapshots),
            after: Snapshots::clone(&view.snapshots),
            changed: BTreeMap::new(),
        }
    }

    /// A document, to be changed.
    ///
    /// # Errors
    /// Its file can't be read.
    pub(crate) async fn edit(&mut self, name: &str) -> Result<&mut Snapshot> {
        if !self.changed.contains_key(name) {
            let mut document = self.store.read_snapshot(&self.guest, name).await?;
            let parent = self.after.get(name).and_then(|entry| entry.parent.as_deref());
            document.moment.parent = parent.map(str::to_owned);
            self.changed.insert(name.to_owned(), document);
        }
        Ok(self.changed.entry(name.to_owned()).or_default())
    }

    /// A new document, or another in the place of one.
    pub(crate) fn put(&mut self, document: Snapshot) {
        self.after.put(Entry::of(document.summary(false)));
        self.changed.insert(document.moment.name.clone(), document);
    }

    /// Takes a snapshot away: those after it come after the one before it, which is current if this one was.
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
            let parent = entry.parent.as_deref().map(str::to_owned);
            self.edit(&child).await?.moment.parent = parent;
            if let Some(mut moved) = self.after.get(&child).cloned() {
                moved.parent.clone_from(&entry.parent);
                self.after.put(moved);
            }
        }
        if self.after.current().is_some_and(|current| *current.name == *name) {
            self.after.set_current(entry.parent.as_deref());
        }
        self.after.remove(name);
        self.changed.remove(name);
        Ok(())
    }

    /// The guest's present state follows from this one.
    pub(crate) fn make_current(&mut self, name: &str) {
        self.after.set_current(Some(name));
    }

    /// Writes the documents that differ, in memory as yet.
    ///
    /// # Errors
    /// A file of those that change can't be read; there would be too many.
    pub(crate) async fn finish(mut self) -> Result<Change> {
        if self.after.len() > MOST {
            return Err(Error::new(
                Code::OperationFailed,
                format!("a guest has at most {MOST} snapshots"),
            ));
        }
        let current = |tree: &Snapshots| tree.current().map(|entry| entry.name.to_string());
        let (before, after) = (current(&self.base), current(&self.after));
        if before != after {
            let marked: BTreeSet<_> = before.into_iter().chain(after.clone()).collect();
            for name in marked {
                if self.after.get(&name).is_some() {
                    self.edit(&name).await?;
                }
            }
        }
        for (name, document) in &self.changed {
            let is_current = after.as_deref() == Some(name);
            let mut entry = Entry::of(document.summary(is_current));
            entry.draft = Some(document.format_file(is_current).into());
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
        if !Arc::ptr_eq(&view.snapshots, &self.base) {
            return Err(Error::internal("the guest's snapshots were changed meanwhile"));
        }
        view.snapshots = self.after;
        Ok(())
    }
}
