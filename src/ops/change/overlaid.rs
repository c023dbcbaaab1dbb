//! Going back to an external snapshot: the images that it had get new overlays, and those that the guest leaves go.
//!
//! ```text
//!  checks: images, memory, places of the overlays ─▶ a note ─▶ the run ends
//!     with memory:  a new QEMU loads it, CPUs standing ─▶ overlays put on ─▶ CPUs run ─▶ told
//!     without:      overlays by qemu-img ─▶ told, or a cold start
//!  ─▶ overlays that were the guest's alone are removed
//! ```
//!
//! What is recorded of the snapshot names the new overlays: as its own if nothing follows from it, else beside them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use domxml::{
    Domain as Document,
    devices::{SnapshotMode, StorageKind},
    moment::{Snapshot, SnapshotDisk},
};
use qemu_plan::block::Chain;

use super::{
    remove::files_in_use,
    revert::{How, Planned, has_memory, set_going, startable},
};
use crate::{
    domain::{Domain, Stored, View},
    error::{Code, Error, Result},
    ops::{
        Driver,
        document::{abi, plan as documents},
        graph,
        holdings::storage::{chain, descriptors::Handed},
        host::identity::file_user,
        moments::{
            align,
            back::Back,
            choose::Kind,
            external::{self, new_files, parts_of, with_overlay},
            overlays, records,
        },
        operation::Context,
        saves::image::Image,
        start::restore::Source,
    },
};

/// What a return to an external snapshot has to do with overlays.
pub(super) struct Overlaid {
    /// The snapshot's document of the guest, without them.
    document: Box<Document>,
    parts: Vec<SnapshotDisk>,
    made: Vec<PathBuf>,
    left: Vec<PathBuf>,
    memory: Option<Arc<Source>>,
}

impl Overlaid {
    /// The images that are made, and those that the guest leaves.
    pub(super) fn files(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        (self.made.clone(), self.left.clone())
    }
}

/// Refuses a snapshot on whose images no overlays can be put.
///
/// # Errors
/// `OperationUnsupported`, in libvirt's words.
pub(super) fn check(snapshot: &Snapshot) -> Result<()> {
    let document = snapshot.moment.domain.as_deref();
    let mut disks = document.into_iter().flat_map(|document| &document.devices.disks);
    match disks.find(|disk| disk.kind != StorageKind::File) {
        Some(disk) => Err(Error::new(
            Code::OperationUnsupported,
            format!(
                "source disk for '{}' is not a regular file, reverting to snapshot is not supported",
                disk.target.dev
            ),
        )),
        None => Ok(()),
    }
}

/// Plans a return, and looks at everything that it needs while the guest still runs.
pub(super) async fn plan(
    driver: &Arc<Driver>,
    view: &View,
    snapshot: Snapshot,
    (document, inactive): (Box<Document>, Box<Document>),
    how: How,
) -> Result<Planned> {
    let memory = has_memory(snapshot.state);
    check_marks(driver, view, &snapshot).await?;
    let overlaying = parts(driver, &document, memory).await?;
    let source = match memory {
        true => Some(memory_of(driver, &snapshot, &document).await?),
        false => None,
    };
    let config = on_top(&inactive, &document, &overlaying)?;
    // With memory the guest is started on the images as they were, else on their overlays.
    let start_from = match memory {
        true => document.clone(),
        false => Box::new(on_top(&document, &document, &overlaying)?),
    };
    let start_from = match memory {
        true => startable(driver, view, start_from).await?,
        // The overlays are not there yet.
        false if how.running || how.paused => {
            startable(driver, view, document.clone()).await?;
            documents::complete(driver, start_from, qemu_plan::address::Age::Known)
                .await?
                .domain
        }
        false => start_from,
    };
    let (change, left) = recorded(driver, view, &snapshot, &overlaying).await?;
    let mut overlays = Snapshot {
        disks: overlaying.clone(),
        ..Snapshot::default()
    };
    overlays.moment.name.clone_from(&snapshot.moment.name);
    let back = Back {
        memory: memory.then_some(Kind::External),
        overlays: memory.then_some(overlays),
        change,
        config: view.config.as_ref().map(|_| Stored::new(&config)),
        snapshot,
    };
    let overlaid = Overlaid {
        document,
        made: new_files(&overlaying),
        parts: overlaying,
        left,
        memory: source,
    };
    Ok(Planned {
        back,
        document: start_from,
        overlaid: Some(overlaid),
    })
}

/// Refuses a snapshot whose images another one was being merged into: it is gone, in truth.
async fn check_marks(driver: &Arc<Driver>, view: &View, snapshot: &Snapshot) -> Result<()> {
    let Some(parent) = &snapshot.moment.parent else {
        return Ok(());
    };
    let parent = records::document(driver, view, parent).await?;
    match parent.disks.iter().find(|part| part.deleting) {
        Some(part) => Err(Error::invalid(format!(
            "snapshot disk '{}' was target of not completed snapshot delete",
            part.name
        ))),
        None => Ok(()),
    }
}

/// The overlays: one on every disk that the guest had then and may write to. They are named after the moment.
async fn parts(driver: &Arc<Driver>, document: &Document, memory: bool) -> Result<Vec<SnapshotDisk>> {
    let as_user = file_user(&driver.config())?;
    let copy = document.clone();
    let aligned = crate::blocking::file("looking at the guest's images", move || {
        // Each image of each chain is there.
        chain::follow_all(&mut copy.clone(), &as_user, &Handed::default())?;
        chain::open_all(&copy, &as_user)?;
        let is_file = |path: &str| Path::new(path).is_file();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut wanted = Snapshot::default();
        // Names that are taken are another return's, of the same second.
        for second in now.as_secs().. {
            wanted = Snapshot::default();
            wanted.moment.name = second.to_string();
            align::align(&mut wanted, &copy.devices.disks, SnapshotMode::External, &is_file)?;
            let mut paths = parts_of(&wanted).filter_map(SnapshotDisk::path);
            if !paths.any(|path| Path::new(path).exists()) {
                break;
            }
        }
        Ok(wanted)
    })
    .await?;
    let mut overlaying = Vec::new();
    for mut part in parts_of(&aligned).cloned() {
        let disk = graph::disk(document, &part.name)?;
        external::check(disk, &mut part, memory)?;
        external::look(&part, false).await?;
        overlaying.push(part);
    }
    Ok(overlaying)
}

/// The file of a snapshot's memory, if it is the guest's.
async fn memory_of(driver: &Arc<Driver>, snapshot: &Snapshot, document: &Document) -> Result<Arc<Source>> {
    let file = snapshot.memory.file.as_deref();
    let file = file.ok_or_else(|| {
        let name = &snapshot.moment.name;
        Error::new(
            Code::OperationFailed,
            format!("the memory of snapshot '{name}' is not in a file"),
        )
    })?;
    let image = Image::open(Path::new(file)).await?;
    let age = qemu_plan::address::Age::Known;
    let own = documents::complete(driver, image.document()?, age).await?.domain;
    let given = documents::complete(driver, Box::new(document.clone()), age)
        .await?
        .domain;
    let mut own = own;
    own.name.clone_from(&given.name);
    abi::check(&given, &own)?;
    Ok(Source::of_snapshot(image))
}

/// A document with the overlays on the images that `then` has.
fn on_top(document: &Document, then: &Document, parts: &[SnapshotDisk]) -> Result<Document> {
    let mut document = document.clone();
    for part in parts {
        let before = graph::disk(then, &part.name)?;
        let Ok(disk) = graph::disk_mut(&mut document, &part.name) else {
            continue;
        };
        Chain::of(&with_overlay(before, part)).put(disk);
    }
    Ok(document)
}

/// What is recorded afterwards, and the overlays that the guest leaves.
async fn recorded(
    driver: &Arc<Driver>,
    view: &View,
    snapshot: &Snapshot,
    parts: &[SnapshotDisk],
) -> Result<(records::Change, Vec<PathBuf>)> {
    let name = &snapshot.moment.name;
    let tree = &view.snapshots;
    let mut batch = records::Batch::of(driver, view);
    let mut left = Vec::new();
    if let Some(current) = tree.current().filter(|current| current.external) {
        let current = batch.edit(&current.name).await?;
        left = overlays::in_use_of(current);
        current.revert_disks.clear();
    }
    let own = batch.edit(name).await?;
    if tree.children(name).next().is_some() {
        own.revert_disks = parts.to_vec();
    } else {
        own.revert_disks.clear();
        for part in parts {
            overlays::put_part(&mut own.disks, part.clone());
        }
    }
    batch.make_current(name);
    Ok((batch.finish().await?, left))
}

/// Makes the overlays, and sets the guest going.
pub(super) async fn go_back(
    context: &Arc<Context>,
    planned: Planned,
    overlaid: Overlaid,
    how: How,
) -> Result<Arc<View>> {
    let Planned { back, document, .. } = planned;
    if overlaid.memory.is_none() {
        external::create_images(context, &overlaid.document, &overlaid.parts).await?;
    }
    set_going(context, (back, document), overlaid.memory, how).await
}

/// Whether the stored configuration names all of the overlays that were made.
///
/// # Errors
/// It can't be read.
pub(super) fn is_on(view: &View, made: &[PathBuf]) -> Result<bool> {
    let Some(config) = view.config.as_ref().filter(|_| !made.is_empty()) else {
        return Ok(false);
    };
    let named = overlays::files_of([&*config.domain()?]);
    Ok(made.iter().all(|file| named.contains(file)))
}

/// Removes images that neither the guest nor a snapshot has in a chain.
///
/// # Errors
/// A document can't be read; a file can't be removed.
pub(super) async fn remove_unused(driver: &Arc<Driver>, domain: &Domain, files: Vec<PathBuf>) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let view = domain.view();
    let mut all = Vec::new();
    for entry in view.snapshots.iter() {
        all.push(records::document(driver, &view, &entry.name).await?);
    }
    let used = files_in_use(driver, &view, &all).await?;
    for file in files.iter().filter(|file| !used.contains(*file)) {
        external::remove(file.clone()).await?;
    }
    Ok(())
}
