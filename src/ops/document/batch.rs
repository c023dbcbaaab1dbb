//! Changes of several documents of a guest's snapshots, or of its checkpoints, in one commit.
//!
//! A view has their tree; the documents are in files, read when they are needed. A [`Batch`] gathers what is to change and
//! becomes a [`Change`], which a commit applies as a whole: the files follow ([`crate::domain::store`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
};

use domxml::moment::{Checkpoint, Moment, Snapshot, Summary};

use crate::{
    domain::{
        View,
        snapshots::{Entry, Snapshots},
        store::{
            Store,
            snapshots::{MOST, Of},
        },
    },
    error::{Area, Code, Error, Result},
    ops::Driver,
};

/// A document that a guest has some of, in a tree.
pub(crate) trait Recorded: Default + Send + Sync {
    /// Which of a guest's trees they are in.
    const OF: Of;

    /// What every point in time has.
    fn moment(&self) -> &Moment;
    /// The same, to be changed.
    fn moment_mut(&mut self) -> &mut Moment;
    /// What lists show of it.
    fn listed(&self, current: bool) -> Summary;
    /// What its file has below the comment.
    fn file(&self, current: bool) -> String;
    /// Reads the file of one of a guest's.
    ///
    /// # Errors
    /// It can't be read.
    fn read(store: &Store, guest: &str, name: &str) -> impl Future<Output = Result<Self>> + Send;
}

impl Recorded for Snapshot {
    const OF: Of = Of::Snapshots;

    fn moment(&self) -> &Moment {
        &self.moment
    }
    fn moment_mut(&mut self) -> &mut Moment {
        &mut self.moment
    }
    fn listed(&self, current: bool) -> Summary {
        self.summary(current)
    }
    fn file(&self, current: bool) -> String {
        self.format_file(current)
    }
    fn read(store: &Store, guest: &str, name: &str) -> impl Future<Output = Result<Self>> + Send {
        store.read_snapshot(guest, name)
    }
}

impl Recorded for Checkpoint {
    const OF: Of = Of::Checkpoints;

    fn moment(&self) -> &Moment {
        &self.moment
    }
    fn moment_mut(&mut self) -> &mut Moment {
        &mut self.moment
    }
    fn listed(&self, _: bool) -> Summary {
        self.summary()
    }
    fn file(&self, _: bool) -> String {
        self.format_file()
    }
    fn read(store: &Store, guest: &str, name: &str) -> impl Future<Output = Result<Self>> + Send {
        store.read_checkpoint(guest, name)
    }
}

/// The document of an entry of a guest's tree.
///
/// # Errors
/// Its file can't be read.
pub(crate) async fn read<D: Recorded>(driver: &Driver, view: &View, entry: &Entry) -> Result<D> {
    let mut document = D::read(driver.registry.store(), &view.name, &entry.name).await?;
    // What lists show counts: the files need not go together.
    document.moment_mut().parent = entry.parent.as_deref().map(str::to_owned);
    Ok(document)
}

/// Refuses a parent that is not there or would come after it.
///
/// # Errors
/// `InvalidArg`, in libvirt's words.
pub(crate) fn check_descent(tree: &Snapshots, moment: &Moment) -> Result<()> {
    let name = &moment.name;
    let wrong = |text: String| Err(Error::argument(text).in_area(Area::Domain));
    let Some(parent) = &moment.parent else {
        return Ok(());
    };
    if parent == name {
        return wrong(format!("cannot set moment {name} as its own parent"));
    }
    if tree.get(parent).is_none() {
        return wrong(format!("parent {parent} for moment {name} not found"));
    }
    if tree.ancestors(parent).any(|above| *above.name == **name) {
        return wrong(format!("parent {parent} would create cycle to {name}"));
    }
    Ok(())
}

/// A change that is being put together.
pub(crate) struct Batch<D> {
    store: Store,
    guest: Arc<str>,
    base: Arc<Snapshots>,
    after: Snapshots,
    changed: BTreeMap<String, D>,
}

/// A change that is ready to be committed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    of: Of,
    base: Arc<Snapshots>,
    after: Arc<Snapshots>,
}

impl<D: Recorded> Batch<D> {
    /// Nothing is changed yet.
    pub(crate) fn of(driver: &Driver, view: &View) -> Self {
        let tree = D::OF.tree(view);
        Self {
            store: driver.registry.store().clone(),
            guest: Arc::clone(&view.name),
            base: Arc::clone(tree),
            after: Snapshots::clone(tree),
            changed: BTreeMap::new(),
        }
    }

    /// A document, to be changed.
    ///
    /// # Errors
    /// Its file can't be read.
    pub(crate) async fn edit(&mut self, name: &str) -> Result<&mut D> {
        if !self.changed.contains_key(name) {
            let mut document = D::read(&self.store, &self.guest, name).await?;
            let parent = self.after.get(name).and_then(|entry| entry.parent.as_deref());
            document.moment_mut().parent = parent.map(str::to_owned);
            self.changed.insert(name.to_owned(), document);
        }
        Ok(self.changed.entry(name.to_owned()).or_default())
    }

    /// A new document, or another in the place of one.
    pub(crate) fn put(&mut self, document: D) {
        self.after.put(Entry::of(document.listed(false)));
        self.changed.insert(document.moment().name.clone(), document);
    }

    /// Takes one away: those after it come after the one before it, which is current if this one was.
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
            self.edit(&child).await?.moment_mut().parent = parent;
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
                format!("a guest has at most {MOST} {}s", D::OF.word()),
            ));
        }
        let current = |tree: &Snapshots| tree.current().map(|entry| entry.name.to_string());
        let (before, after) = (current(&self.base), current(&self.after));
        if before != after && D::OF.files_say_current() {
            let marked: BTreeSet<_> = before.into_iter().chain(after.clone()).collect();
            for name in marked {
                if self.after.get(&name).is_some() {
                    self.edit(&name).await?;
                }
            }
        }
        for (name, document) in &self.changed {
            let is_current = after.as_deref() == Some(name);
            let mut entry = Entry::of(document.listed(is_current));
            entry.draft = Some(document.file(is_current).into());
            self.after.put(entry);
        }
        Ok(Change {
            of: D::OF,
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
        let tree = self.of.tree_mut(view);
        if !Arc::ptr_eq(tree, &self.base) {
            let said = format!("the guest's {}s were changed meanwhile", self.of.word());
            return Err(Error::internal(said));
        }
        *tree = self.after;
        Ok(())
    }
}
