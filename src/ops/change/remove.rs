//! Removing snapshots of a guest.
//!
//! ```text
//!  checks ─▶ a trial ends here
//!  internal: QEMU's job or qemu-img ─▶ forgotten
//!  external: note ─▶ mark in the one before ─▶ (off: a QEMU whose CPUs stand) ─▶ overlays merged ─▶ forgotten
//! ```
//!
//! What an overlay was merged into does not come back, so a removal that a killed daemon leaves is gone on with by the
//! next one: the note outlives the run, and whatever was merged by then is found merged.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use domxml::{moment::Snapshot, status::AsyncJob};
use qemu_plan::block::Layer;

use crate::{
    domain::{
        Domain, Effects, View,
        intents::{Intent, Note},
        jobs::{Long, Want},
        long_job::{Kind, Outcome},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        blockjobs::merge::{self, Merge},
        holdings::storage::{chain, descriptors::Handed},
        host::identity::file_user,
        moments::{
            delete::{self, How},
            external, find, images,
            overlays::{self, After, Overlay, Rebase, Standing},
            records,
        },
        operation::{Ask, Context, Operation},
        recover::run_over,
        run::{
            cause::Cause,
            guest::Guest,
            long_job::{LongJob, What},
            stop,
        },
        start,
    },
};

/// Removes snapshots of a guest.
///
/// # Errors
/// `NoDomainSnapshot`, what can't be removed, what QEMU fails at.
pub async fn delete(
    driver: &Arc<Driver>,
    domain: &Domain,
    (name, how): (String, How),
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let ask = Ask {
        kind: "delete-snapshot",
        job: Want::Long(Long::Snapshot),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    if !how.metadata_only {
        run_over::before_images_change(driver, domain).await?;
    }
    let view = operation.view();
    let entry = find(&view, &name)?;
    let targets = delete::targets(&view, entry, how);
    let mut removal = None;
    if !how.metadata_only {
        delete::check_kinds(&view, entry, how)?;
        for target in &targets {
            if find(&view, target)?.external {
                removal = Some(Removal::plan(driver, &view, target, was_begun(driver, &view, target)).await?);
            } else {
                delete::check_images(&view, &records::document(driver, &view, target).await?)?;
            }
        }
    }
    if operation.is_trial() {
        return Ok(view);
    }
    let work = |context: Arc<Context>| async move {
        let last = targets.len().saturating_sub(1);
        for (at, target) in targets.iter().enumerate() {
            context.progress(at as u64, targets.len() as u64);
            match removal.take_if(|removal| removal.snapshot.moment.name == *target) {
                Some(removal) => removal.complete(&context).await?,
                None => delete::remove(&context, target, how.metadata_only).await?,
            }
            tracing::debug!(snapshot = target, left = last - at, "removed");
        }
        Ok(context.view())
    };
    operation.carry_out(|context| Box::pin(work(context))).await
}

/// Whether a note is left of the removal of a snapshot that could not be gone on with.
fn was_begun(driver: &Driver, view: &View, name: &str) -> bool {
    let notes = driver.registry.store().intents().of(view.uuid, Note::OFF);
    let mut intents = notes.iter().map(|note| &note.intent);
    intents.any(|intent| matches!(intent, Intent::DeleteSnapshot { name: of } if *of == *name))
}

/// Goes on with the removal of an external snapshot that a killed daemon had begun.
///
/// # Errors
/// As [`delete`].
pub(crate) async fn go_on(driver: &Arc<Driver>, domain: &Domain, name: &str) -> Result<()> {
    let conditions = Conditions::default();
    let ask = Ask {
        kind: "delete-snapshot",
        job: Want::Long(Long::Snapshot),
        conditions: &conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    if view.snapshots.get(name).is_none() {
        return Ok(());
    }
    let removal = Removal::plan(driver, &view, name, true).await?;
    operation
        .carry_out(|context| Box::pin(async move { removal.carry_out(&context).await }))
        .await
}

/// The removal of an external snapshot.
struct Removal {
    snapshot: Snapshot,
    is_current: bool,
    overlays: Vec<Overlay>,
    /// The QEMU that merged for a guest that is off has ended.
    has_ended: AtomicBool,
}

impl Removal {
    /// Finds out what is to be done, and refuses what must not. With `begun`, a daemon that was killed had checked it, and
    /// overlays that are in no chain any more were merged.
    async fn plan(driver: &Arc<Driver>, view: &View, name: &str, begun: bool) -> Result<Self> {
        let tree = &view.snapshots;
        let snapshot = records::document(driver, view, name).await?;
        let is_current = tree.current().is_some_and(|current| *current.name == *name);
        let mut children = tree.children(name);
        let child = children.next();
        let standing = match child.is_none() && !is_current {
            true => Standing::Left,
            false => Standing::InUse,
        };
        let guest = whole_document(driver, view).await?;
        let is_there = |path: &str| !begun && Path::new(path).exists();
        let overlays = overlays::merged(&snapshot, &guest, standing, &is_there)?;
        let parent = snapshot.moment.parent.as_deref().and_then(|name| tree.get(name));
        let internal = |role: &str| {
            let said =
                format!("deleting external snapshot that has internal snapshot as {role} not supported");
            Err(Error::new(Code::OperationUnsupported, said))
        };
        if !overlays.is_empty() && parent.is_some_and(|parent| !parent.external) {
            return internal("parent");
        }
        if !overlays.is_empty() && child.is_some_and(|child| !child.external) {
            // It is in the overlay, and would go with it.
            return internal("child");
        }
        if !view.active() && overlays.iter().any(|overlay| overlay.at.is_some()) {
            if view.managed_save {
                return Err(Error::invalid(format!(
                    "domain '{}' has a managed save image, which has these images: start it from there, or remove the image with managedsave-remove",
                    view.name
                )));
            }
            let config = view.config.as_ref().ok_or_else(Error::not_running)?;
            let document = Box::new(domxml::Domain::clone(&*config.domain()?));
            start::trial(driver, document).await?;
        }
        Ok(Self {
            snapshot,
            is_current,
            overlays,
            has_ended: AtomicBool::new(false),
        })
    }

    fn merges(overlays: &[Overlay]) -> Vec<Merge> {
        let left = overlays.iter().filter_map(|overlay| {
            Some(Merge {
                target: overlay.target.clone(),
                at: overlay.at?,
            })
        });
        left.collect()
    }

    /// Removes it. A QEMU that ends in the midst of that leaves what was merged by then: the rest is merged while the guest
    /// is off.
    async fn complete(self, context: &Arc<Context>) -> Result<()> {
        let driver = context.driver();
        let guest = driver.guests.of(&context.view()).ok();
        let Err(error) = self.carry_out(context).await else {
            return Ok(());
        };
        let has_ended = match &guest {
            Some(guest) => guest.ended_with(&error).await,
            None => self.has_ended.load(Ordering::Acquire),
        };
        if !has_ended {
            return Err(error);
        }
        let name = &self.snapshot.moment.name;
        tracing::warn!(snapshot = name, %error, "QEMU has ended while a snapshot was removed; that is gone on with");
        if let Some(guest) = guest {
            stop::ended(driver, &guest).await;
        }
        // What was to be undone has ended with QEMU.
        context.take_undo().await.forget();
        let left = Self::plan(driver, &context.view(), name, true).await?;
        left.carry_out(context).await
    }

    async fn carry_out(&self, context: &Arc<Context>) -> Result<()> {
        let name = self.snapshot.moment.name.clone();
        context.intend_off(Intent::DeleteSnapshot { name }).await?;
        if !Self::merges(&self.overlays).is_empty() {
            self.mark(context).await?;
            let rebases = self.rebases(context).await?;
            match context.view().active() {
                true => self.merge(context, rebases).await?,
                false => self.merge_off(context, rebases).await?,
            }
        }
        context.enter("what is recorded");
        let mut others = self.others(context).await?;
        let mut changed = Vec::new();
        for other in &mut others {
            if overlays::take_out(other, &self.overlays) {
                changed.push(other.moment.name.clone());
            }
        }
        self.remove_files(context, &others).await?;
        self.forget(context, others, changed).await
    }

    /// Says in the snapshot before it that its images are being written to.
    async fn mark(&self, context: &Context) -> Result<()> {
        let view = context.view();
        let Some(parent) = &self.snapshot.moment.parent else {
            return Ok(());
        };
        let mut copy = records::document(context.driver(), &view, parent).await?;
        if !overlays::mark(&mut copy, &self.overlays, true) {
            return Ok(());
        }
        let mut batch = records::Batch::of(context.driver(), &view);
        overlays::mark(batch.edit(parent).await?, &self.overlays, true);
        let change = batch.finish().await?;
        context
            .commit_with(move |view| {
                change.apply(view)?;
                Ok(Effects::none())
            })
            .await
            .map(drop)
    }

    /// Merges in a QEMU that runs for it alone, and never lets its CPUs run.
    async fn merge_off(&self, context: &Arc<Context>, rebases: Vec<Rebase>) -> Result<()> {
        let driver = context.driver();
        let view = start::merge::to_merge(Arc::clone(context)).await?;
        let guest = driver.guests.of(&view)?;
        let merged = self.merge(context, rebases).await;
        if let Err(error) = &merged {
            self.has_ended
                .store(guest.ended_with(error).await, Ordering::Release);
        }
        guest.end_because(Cause::Shutdown);
        let ended = stop::terminate(driver, &guest, stop::Patience::Usual).await;
        merged.and(ended)
    }

    /// Merges the overlays in the guest's QEMU.
    async fn merge(&self, context: &Arc<Context>, rebases: Vec<Rebase>) -> Result<()> {
        let guest: Arc<Guest> = context.driver().guests.of(&context.view())?;
        let what = What {
            kind: Kind::SnapshotDelete,
            word: AsyncJob::Snapshot,
            name: "snapshot",
            flags: 0,
            uncancellable: None,
        };
        let job = LongJob::begin_removal(context, what).await?;
        let merges = Self::merges(&self.overlays);
        let rebase = rebase(rebases);
        let result = Box::pin(merge::merge(context, &guest, (&job, &merges), rebase)).await;
        let outcome = match &result {
            Ok(()) => Outcome::Completed,
            Err(_) if context.is_cancelled() => Outcome::Cancelled,
            Err(_) => Outcome::Failed,
        };
        job.end(outcome, None).await;
        result
    }

    /// The documents of all other snapshots.
    async fn others(&self, context: &Context) -> Result<Vec<Snapshot>> {
        let view = context.view();
        let mut others = Vec::new();
        for entry in view.snapshots.iter() {
            if *entry.name != *self.snapshot.moment.name {
                others.push(records::document(context.driver(), &view, &entry.name).await?);
            }
        }
        Ok(others)
    }

    /// Images beside the guest's own that are on top of overlays which go.
    async fn rebases(&self, context: &Context) -> Result<Vec<Rebase>> {
        let driver = context.driver();
        let documents = documents_of(&self.others(context).await?);
        let documents = whole(driver, documents).await?;
        let guest = whole_document(driver, &context.view()).await?;
        let documents: Vec<_> = documents.iter().collect();
        Ok(overlays::rebased(&self.overlays, &guest, &documents))
    }

    /// Removes the files that are of use to this snapshot alone.
    async fn remove_files(&self, context: &Context, others: &[Snapshot]) -> Result<()> {
        let (driver, view) = (context.driver(), context.view());
        if let Some(file) = &self.snapshot.memory.file {
            external::remove(PathBuf::from(file)).await?;
        }
        let is_external = |name: &str| view.snapshots.get(name).is_some_and(|entry| entry.external);
        let parent = self.snapshot.moment.parent.as_deref();
        let left = match self.overlays.is_empty() {
            true => overlays::left_images(&self.snapshot, parent.is_some_and(is_external)),
            // A daemon that was killed may have left them.
            false => overlays::files_of_merged(&self.overlays),
        };
        if left.is_empty() {
            return Ok(());
        }
        let used = files_in_use(driver, &view, others).await?;
        for file in left.iter().filter(|file| !used.contains(*file)) {
            external::remove(file.clone()).await?;
        }
        Ok(())
    }

    /// Takes it out of what is recorded.
    async fn forget(&self, context: &Context, others: Vec<Snapshot>, changed: Vec<String>) -> Result<()> {
        let (driver, view) = (context.driver(), context.view());
        let name = &self.snapshot.moment.name;
        let mut batch = records::Batch::of(driver, &view);
        batch.remove(name).await?;
        for other in changed {
            overlays::take_out(batch.edit(&other).await?, &self.overlays);
        }
        if let Some(parent) = &self.snapshot.moment.parent {
            let guest = match self.is_current {
                true => Some(whole_document(driver, &view).await?),
                false => None,
            };
            let is_child = |other: &&Snapshot| {
                let of = other.moment.parent.as_deref();
                of == Some(parent) || of == Some(name)
            };
            let children: Vec<_> = others.iter().filter(is_child).collect();
            let only_child = match children.as_slice() {
                [only] => Some(*only),
                _ => None,
            };
            let after = After {
                only_child,
                has_children: !children.is_empty(),
                guest: guest.as_deref().filter(|_| !self.overlays.is_empty()),
            };
            let is_there = |path: &str| Path::new(path).exists();
            let follow = |parent: &mut Snapshot| {
                let unmarked = overlays::mark(parent, &self.overlays, false);
                overlays::follow(parent, after, &is_there) | unmarked
            };
            let copy = others.iter().find(|other| other.moment.name == *parent);
            if copy.is_some_and(|copy| follow(&mut copy.clone())) {
                follow(batch.edit(parent).await?);
            }
        }
        let change = batch.finish().await?;
        context
            .commit_with(move |view| {
                change.apply(view)?;
                Ok(Effects::none())
            })
            .await
            .map(drop)
    }
}

/// Has images name others as those below them.
async fn rebase(rebases: Vec<Rebase>) -> Result<()> {
    let format = |layer: &Layer| layer.format.map_or("raw", |format| format.as_str()).to_owned();
    for Rebase { image, below } in &rebases {
        let (Some(path), Some(base)) = (image.path(), below.path()) else {
            continue;
        };
        let words = [
            "rebase",
            "-u",
            "-F",
            &format(below),
            "-f",
            &format(image),
            "-b",
            &base,
            &path,
        ];
        images::qemu_img(words.map(str::to_owned).to_vec()).await?;
    }
    Ok(())
}

/// The documents of snapshots.
pub(super) fn documents_of(snapshots: &[Snapshot]) -> Vec<domxml::Domain> {
    let documents = snapshots
        .iter()
        .flat_map(|snapshot| [&snapshot.moment.domain, &snapshot.inactive]);
    documents
        .flatten()
        .map(|document| domxml::Domain::clone(document))
        .collect()
}

/// Follows the chains of documents as far as their images are there.
async fn whole(driver: &Driver, mut documents: Vec<domxml::Domain>) -> Result<Vec<domxml::Domain>> {
    let as_user = file_user(&driver.config())?;
    crate::blocking::file("following the chains of images", move || {
        for disk in documents
            .iter_mut()
            .flat_map(|document| &mut document.devices.disks)
        {
            let mut followed = disk.clone();
            if chain::follow(&mut followed, &as_user, &Handed::default()).is_ok() {
                *disk = followed;
            }
        }
        Ok(documents)
    })
    .await
}

/// The guest's document with whole chains: the run's, or the stored one.
pub(super) async fn whole_document(driver: &Driver, view: &View) -> Result<Box<domxml::Domain>> {
    let current = view.current().ok_or_else(Error::not_running)?;
    let document = domxml::Domain::clone(&*current.domain()?);
    if view.active() {
        return Ok(Box::new(document));
    }
    let mut documents = whole(driver, vec![document]).await?;
    Ok(Box::new(documents.remove(0)))
}

/// The files of all images that the guest, its stored configuration or one of these snapshots has in a chain.
pub(super) async fn files_in_use(
    driver: &Driver,
    view: &View,
    snapshots: &[Snapshot],
) -> Result<BTreeSet<PathBuf>> {
    let mut documents = documents_of(snapshots);
    if let Some(run) = &view.run {
        documents.push(domxml::Domain::clone(&run.document.domain));
    }
    if let Some(config) = &view.config {
        documents.push(domxml::Domain::clone(&*config.domain()?));
    }
    let documents = whole(driver, documents).await?;
    Ok(overlays::files_of(&documents))
}
