//! External snapshots: the images stay as they are, and new ones on top of them are written to.
//!
//! Of a running guest QEMU puts all overlays on in one transaction. From there it writes to them, whatever becomes of us:
//! the note says how the disks look then, and the next daemon has the documents follow if QEMU did it, or takes the
//! new images away if not. Of a guest that is off, qemu-img makes the images and its configuration names them.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::{
    devices::{Device, Disk, DiskDevice, SnapshotMode, StorageFormat, StorageKind},
    moment::{Snapshot, SnapshotDisk},
    status,
};
use qemu_plan::block::{self, Chain, Layer};
use qmp::commands;
use serde_json::{Value, json};

use super::{
    choose::{self, check_local},
    create::{How, long_job, record_with, resume_cpus, stop_cpus},
    images as files,
    memory::Memory,
};
use crate::{
    domain::{Condition, Edit, RunState, View, intents::Intent, long_job::Outcome},
    error::{Code, Error, Result},
    ops::{
        Driver,
        graph::{
            self,
            bitmaps::Bitmaps,
            images::{self, Fresh, Planned},
            lookup,
        },
        holdings::storage::chain::local_path,
        host::files::{may_make as may_make_file, remove_image},
        operation::{self, Context},
        run::{agent::Turn, cause::Cause, guest::Guest, long_job::LongJob, stop},
        saves::save::end_with_undo,
    },
};

fn config(text: String) -> Error {
    Error::new(Code::ConfigUnsupported, text)
}

/// Completes and checks one disk of an external snapshot.
///
/// # Errors
/// No overlay can be put on it as the document wants it.
pub(crate) fn check(disk: &Disk, part: &mut SnapshotDisk, active: bool) -> Result<()> {
    let target = &disk.target.dev;
    let format = *part.format.get_or_insert(StorageFormat::Qcow2);
    if !matches!(format, StorageFormat::Qcow2 | StorageFormat::Qed) {
        return Err(config(format!(
            "external snapshot format for disk {target} is unsupported: {}",
            format.as_str()
        )));
    }
    if part.metadata_cache.is_some() && format != StorageFormat::Qcow2 {
        return Err(config(
            "metadata cache max size control is supported only with qcow2 images".to_owned(),
        ));
    }
    if !active {
        check_local("external inactive", disk.kind, disk.source.as_ref())?;
        return check_local("external inactive", part.kind, part.source.as_ref());
    }
    if disk.device == DiskDevice::Lun {
        return Err(config(
            "external active snapshots are not supported on scsi passthrough devices".to_owned(),
        ));
    }
    lookup::check_supported(disk)?;
    match part.kind {
        StorageKind::File | StorageKind::Block | StorageKind::Network => {}
        other => {
            return Err(Error::internal(format!(
                "external active snapshots are not supported on '{}' disks",
                other.as_str()
            )));
        }
    }
    if disk.shareable && !disk.readonly {
        return Err(config(format!(
            "shared access for disk '{target}' requires use of supported storage format"
        )));
    }
    Ok(())
}

/// Refuses, for a trial, what the making of a running guest's new images would fail at.
///
/// # Errors
/// A file can't be at its place.
pub(crate) async fn may_make(disks: &[SnapshotDisk]) -> Result<()> {
    for part in disks {
        let is_new = part.mode == Some(SnapshotMode::External) && part.kind == StorageKind::File;
        let path = local_path(part.kind, part.source.as_ref()).filter(|_| is_new);
        if let Some(path) = path {
            may_make_file(&path, images::NOT_MADE.replace("{}", &path.to_string_lossy())).await?;
        }
    }
    Ok(())
}

/// Looks at the place of a new image.
///
/// # Errors
/// Something is there that must not be, or nothing that must.
pub(crate) async fn look(part: &SnapshotDisk, reuse: bool) -> Result<()> {
    let Some(path) = local_path(part.kind, part.source.as_ref()) else {
        return Ok(());
    };
    let (target, kind) = (part.name.clone(), part.kind);
    let look = move || look_at(&path, (&target, kind), reuse);
    crate::blocking::file("looking at the place of an image", look).await
}

fn look_at(path: &Path, (target, kind): (&str, StorageKind), reuse: bool) -> Result<()> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::system(
                format_args!("unable to stat for disk {target}: {shown}"),
                error,
            ));
        }
        Err(error) if reuse => {
            return Err(Error::system(
                format_args!("missing existing file for disk {target}: {shown}"),
                error,
            ));
        }
        Err(_) if kind == StorageKind::Block => {
            let said = format!("block device snapshot target '{shown}' doesn't exist");
            return Err(Error::new(Code::OperationUnsupported, said));
        }
        Err(_) => return Ok(()),
    };
    if found.file_type().is_block_device() != (kind == StorageKind::Block) {
        return Err(config(format!(
            "mismatch between configured type for snapshot disk '{target}' and the type of existing file '{shown}'"
        )));
    }
    if !reuse && found.is_file() && found.len() > 0 {
        return Err(config(format!(
            "external snapshot file for disk {target} already exists and is not a block device: {shown}"
        )));
    }
    Ok(())
}

/// A disk with another image on top of those it has.
pub(crate) fn with_overlay(disk: &Disk, part: &SnapshotDisk) -> Disk {
    let mut chain = Chain::of(disk);
    chain.layers.insert(0, layer(part));
    let mut after = disk.clone();
    chain.put(&mut after);
    after
}

/// The image of a part.
pub(crate) fn layer(part: &SnapshotDisk) -> Layer {
    Layer {
        kind: part.kind,
        format: part.format,
        cache: part.metadata_cache.clone(),
        source: part.source.clone().unwrap_or_default(),
        index: None,
        detected: false,
    }
}

/// An overlay for a disk of a running guest.
struct Overlay {
    /// The disk with it.
    after: Disk,
    /// Its nodes.
    planned: Planned,
    /// How it is made, if it is.
    fresh: Option<Fresh>,
    /// The node that it goes on.
    below: String,
}

impl Overlay {
    /// What of the transaction it is.
    fn actions(&self, bitmaps: &Bitmaps) -> Vec<Value> {
        let overlay = self.planned.node();
        let mut actions = bitmaps.for_overlay(&self.below, &overlay);
        actions.push(json!({
            "type": "blockdev-snapshot",
            "data": { "node": self.below, "overlay": overlay },
        }));
        actions
    }
}

/// Plans the overlays of a snapshot. Answers the next free number of a node as well.
async fn plan(
    driver: &Arc<Driver>,
    (view, guest): (&View, &Guest),
    (snapshot, reuse): (&Snapshot, bool),
) -> Result<(Vec<Overlay>, Bitmaps, u32)> {
    let run = view.running()?;
    let nodes = guest
        .execute(commands::QueryNamedBlockNodes { flat: true })
        .await?;
    let mut next = graph::next_number(run, guest);
    let mut overlays = Vec::new();
    for part in parts_of(snapshot) {
        let disk = graph::disk(&run.document.domain, &part.name)?;
        let chain = Chain::of(disk);
        let top = chain
            .layers
            .first()
            .ok_or_else(|| Error::internal(format!("the disk '{}' has no image", part.name)))?;
        let below = top.node().map(str::to_owned);
        let mut fresh = None;
        if !reuse {
            let mut like = Fresh::like(below.as_deref(), &nodes)?;
            like.cluster = like.cluster.filter(|_| part.format == Some(StorageFormat::Qcow2));
            let path = top.path().ok_or_else(|| {
                let said =
                    "snapshots over images that are not on the host need an image that is made already";
                Error::new(Code::OperationUnsupported, said)
            })?;
            like.backing = Some((path, top.format.unwrap_or(StorageFormat::Raw)));
            fresh = Some(like);
        }
        let mut after = with_overlay(disk, part);
        next = block::number_disk(&mut after, next);
        guest.gave_nodes(next);
        block::name_disk(&mut after)?;
        let mut alone = after.clone();
        let own = Chain {
            layers: Chain::of(&after).layers.into_iter().take(1).collect(),
            ended: true,
            end_is_given: true,
        };
        own.put(&mut alone);
        let planned = images::plan(driver, guest, alone).await?;
        overlays.push(Overlay {
            after,
            planned,
            fresh,
            below: below.unwrap_or_default(),
        });
    }
    Ok((overlays, Bitmaps::of(nodes), next))
}

/// The parts of a snapshot that are in images of their own.
pub(crate) fn parts_of(snapshot: &Snapshot) -> impl Iterator<Item = &SnapshotDisk> {
    snapshot
        .disks
        .iter()
        .filter(|part| part.mode == Some(SnapshotMode::External))
}

/// What an external snapshot of a running guest has beside its overlays.
pub(crate) struct Beside {
    /// Somebody else makes a part.
    pub(crate) manual: bool,
    /// The guest's memory. What stands in the way of writing it is told once the CPUs stand, as libvirt does.
    pub(crate) memory: Option<Result<Memory>>,
}

/// Makes an external snapshot of a running guest: of its disks, and of its memory.
///
/// # Errors
/// An image can't be made; what QEMU or the agent refuse; somebody has cancelled it. Nothing is left of it then.
pub(crate) async fn running(
    context: Arc<Context>,
    snapshot: Snapshot,
    how: How,
    beside: Beside,
) -> Result<Arc<View>> {
    let driver = Arc::clone(context.driver());
    let view = context.view();
    let guest = driver.guests.of(&view)?;
    let (overlays, bitmaps, next) = plan(&driver, (&view, &guest), (&snapshot, how.reuse)).await?;
    let Beside { manual, memory } = beside;
    let runs = view.condition.state() == RunState::Running;
    let note = Noted {
        resume: runs && (manual || memory.is_some()),
        goes_on: runs && !manual && memory.is_some(),
        memory: memory.iter().flatten().find_map(Memory::new_file),
    };
    let goes_on = note.goes_on;
    let noted = intent(&snapshot, &overlays, how, note);
    context.intend(noted.clone()).await?;
    let job = LongJob::begin(&context, long_job(how)).await?;
    end_with_undo(&context, &job).await?;
    if runs && (manual || memory.is_some() && !how.live) {
        stop_cpus(&context, &guest, Condition::PAUSED_SNAPSHOT).await?;
    }
    let written = match memory.transpose()? {
        Some(memory) => {
            if goes_on && how.live {
                let (driver, guest) = (Arc::clone(&driver), Arc::clone(&guest));
                let mut steps = context.steps("memory").await?;
                steps.push("the CPUs", async move { resume_cpus(&driver, &guest).await });
            }
            Some(memory.write(&context, &guest, &job).await?)
        }
        None => None,
    };
    let frozen = match how.quiesce {
        true => Some(freeze(&driver, &context).await?),
        false => None,
    };
    let put_on = put_on(&context, &guest, (&overlays, &bitmaps), noted.handed()).await;
    let thawed = match frozen {
        Some(turn) => turn.ask("guest-fsfreeze-thaw", json!({})).await.map(drop),
        None => Ok(()),
    };
    put_on?;
    let disks: Vec<_> = overlays.into_iter().map(|overlay| overlay.after).collect();
    let parts = snapshot.disks.clone();
    let follow = documents_after(disks, parts, view.config.is_some());
    let resumed = match goes_on && !how.halt {
        true => resume_cpus(&driver, &guest).await,
        false => Ok(()),
    };
    let recorded = record_with(&context, snapshot, how, move |view| {
        follow(view)?;
        graph::took_numbers(view, next);
        LongJob::leave(view);
        Ok(())
    })
    .await;
    let outcome = match &recorded {
        Ok(_) => Outcome::Completed,
        Err(_) => Outcome::Failed,
    };
    job.end(outcome, written).await;
    let view = recorded?;
    thawed.and(resumed)?;
    if how.halt {
        guest.end_because(Cause::FromSnapshot);
        stop::terminate(&driver, &guest, stop::Patience::Usual).await?;
        return Ok(context.view());
    }
    Ok(view)
}

/// What a note tells of a snapshot beside its overlays.
struct Noted {
    resume: bool,
    goes_on: bool,
    memory: Option<PathBuf>,
}

fn intent(snapshot: &Snapshot, overlays: &[Overlay], how: How, noted: Noted) -> Intent {
    let note = |overlay: &Overlay| Device::Disk(Box::new(overlay.after.clone())).format(status::FORMAT);
    let made = overlays.iter().filter(|overlay| overlay.fresh.is_some());
    Intent::SnapshotDisks {
        snapshot: (!how.no_metadata).then(|| snapshot.format_file(true)),
        disks: overlays.iter().map(note).collect(),
        nodes: overlays
            .iter()
            .rev()
            .flat_map(|overlay| overlay.planned.nodes())
            .collect(),
        files: made
            .filter_map(|overlay| overlay.planned.new_file())
            .chain(noted.memory)
            .collect(),
        resume: noted.resume,
        goes_on: noted.goes_on,
        handed: false,
    }
}

/// Puts overlays on the disks of a guest whose CPUs stand, and that nobody was told of yet. Answers the disks with them.
///
/// # Errors
/// An image can't be made; what QEMU refuses. Nothing is left of it then.
pub(crate) async fn on_loaded(context: &Context, guest: &Arc<Guest>, parts: &Snapshot) -> Result<Vec<Disk>> {
    let (driver, view) = (context.driver(), context.view());
    let (overlays, bitmaps, _) = plan(driver, (&view, guest), (parts, false)).await?;
    let put_on = open_and_put_on(context, guest, &overlays, &bitmaps).await;
    let undo = context.take_undo().await;
    if let Err(error) = put_on {
        let failed = undo.unwind().await;
        return Err(operation::with_failed(error, &failed));
    }
    // From here on they go with the run.
    let mut undo = undo;
    undo.forget();
    Ok(overlays.into_iter().map(|overlay| overlay.after).collect())
}

/// Has the agent freeze the guest's filesystems.
async fn freeze(driver: &Arc<Driver>, context: &Context) -> Result<Turn> {
    let turn = Turn::take(driver, context.domain()).await?;
    turn.ask("guest-fsfreeze-freeze", json!({})).await?;
    Ok(turn)
}

/// Gives QEMU the images and puts them on, all at once.
async fn open_and_put_on(
    context: &Context,
    guest: &Arc<Guest>,
    overlays: &[Overlay],
    bitmaps: &Bitmaps,
) -> Result<()> {
    open(context, guest, overlays).await?;
    transact(context, guest, overlays, bitmaps).await
}

async fn open(context: &Context, guest: &Arc<Guest>, overlays: &[Overlay]) -> Result<()> {
    for overlay in overlays {
        let wish = (images::NOT_MADE, overlay.fresh.clone());
        overlay.planned.open(context, guest, wish).await?;
    }
    Ok(())
}

async fn transact(
    context: &Context,
    guest: &Arc<Guest>,
    overlays: &[Overlay],
    bitmaps: &Bitmaps,
) -> Result<()> {
    if overlays.is_empty() {
        return Ok(());
    }
    let actions = overlays
        .iter()
        .flat_map(|overlay| overlay.actions(bitmaps))
        .collect();
    context.enter("the new images");
    guest.execute(commands::Transaction { actions }).await.map(drop)
}

/// The same; once QEMU writes to them they stay. If it ended before it answered they stay, too: on top of the others they hold
/// what the disks held, whether it had written to them or not.
async fn put_on(
    context: &Context,
    guest: &Arc<Guest>,
    (overlays, bitmaps): (&[Overlay], &Bitmaps),
    handed: Intent,
) -> Result<()> {
    open(context, guest, overlays).await?;
    context.intend(handed).await?;
    let done = transact(context, guest, overlays, bitmaps).await;
    let unknown = done.as_ref().err().is_some_and(Error::is_unknown);
    if done.is_ok() || unknown {
        // QEMU writes to them, or may: they must not go. If the documents can't follow now they do when it is asked again.
        let mut undo = context.steps("the new images").await?;
        undo.forget();
        undo.push("the images that QEMU writes to now", async {
            Err(Error::internal(
                "the documents follow when the guest is reached again",
            ))
        });
    }
    match done {
        Err(error) if unknown && guest.ended_with(&error).await => Ok(()),
        done => done,
    }
}

/// The documents after overlays were put on.
fn following(disks: Vec<Disk>, parts: Vec<SnapshotDisk>, stored: bool) -> Edit {
    let all = disks.clone();
    let edit = Edit::live(move |document| {
        for after in &all {
            let disk = graph::disk_mut(document, &after.target.dev)?;
            Chain::of(after).put(disk);
        }
        Ok(())
    });
    match stored {
        true => edit.and(following_stored(disks, parts)),
        false => edit,
    }
}

/// The change of the documents that there are by then: the guest may have ended.
pub(crate) fn documents_after(
    disks: Vec<Disk>,
    parts: Vec<SnapshotDisk>,
    stored: bool,
) -> impl FnOnce(&mut View) -> Result<()> + Send + 'static {
    let both = following(disks.clone(), parts.clone(), stored);
    let alone = following_stored(disks, parts);
    move |view| match (view.active(), stored) {
        (true, _) => both.apply(view),
        (false, true) => alone.apply(view),
        (false, false) => Ok(()),
    }
}

/// The stored one alone.
fn following_stored(disks: Vec<Disk>, parts: Vec<SnapshotDisk>) -> Edit {
    Edit::stored(move |document| {
        for after in &disks {
            let target = &after.target.dev;
            let Some(part) = parts.iter().find(|part| part.name == *target) else {
                continue;
            };
            let Ok(disk) = graph::disk_mut(document, target) else {
                continue;
            };
            let (new, old) = (Chain::of(after), Chain::of(disk));
            let same = match (new.layers.get(1), old.layers.first()) {
                (Some(below), Some(top)) => below.is_same_place(top),
                _ => false,
            };
            if same {
                *disk = with_overlay(disk, part);
            }
        }
        Ok(())
    })
}

/// Makes an external snapshot of a guest that is off.
///
/// # Errors
/// An image can't be made. Nothing is left of it then.
pub(crate) async fn off(context: Arc<Context>, snapshot: Snapshot, how: How) -> Result<Arc<View>> {
    let view = context.view();
    let stored = view
        .config
        .as_ref()
        .ok_or_else(|| Error::internal("the domain has no document"))?;
    let document = stored.domain()?;
    let parts: Vec<_> = parts_of(&snapshot).cloned().collect();
    make_images(&context, &document, &parts, (&snapshot.moment.name, how.reuse)).await?;
    let reuse = how.reuse;
    let edit = Edit::stored(move |document| {
        for part in &parts {
            let disk = graph::disk_mut(document, &part.name)?;
            *disk = with_overlay(disk, part);
            if reuse {
                disk.backing = None;
            }
        }
        Ok(())
    });
    record_with(&context, snapshot, how, move |view| edit.apply(view)).await
}

/// The files of images that are not there yet.
pub(crate) fn new_files(parts: &[SnapshotDisk]) -> Vec<PathBuf> {
    let paths = parts
        .iter()
        .filter_map(|part| local_path(part.kind, part.source.as_ref()));
    paths.filter(|path| !path.exists()).collect()
}

/// Has qemu-img make images on top of a document's; they go if the operation fails.
pub(crate) async fn make_images(
    context: &Context,
    document: &domxml::Domain,
    parts: &[SnapshotDisk],
    (name, reuse): (&str, bool),
) -> Result<()> {
    let new = new_files(parts);
    context
        .intend_off(Intent::SnapshotImages {
            name: name.to_owned(),
            files: if reuse { Vec::new() } else { new },
        })
        .await?;
    match reuse {
        true => Ok(()),
        false => create_images(context, document, parts).await,
    }
}

/// The same, within an operation that has noted it.
///
/// # Errors
/// What qemu-img fails at.
pub(crate) async fn create_images(
    context: &Context,
    document: &domxml::Domain,
    parts: &[SnapshotDisk],
) -> Result<()> {
    for part in parts {
        let disk = graph::disk(document, &part.name)?;
        let path = local_path(part.kind, part.source.as_ref());
        let (Some(below), Some(path)) = (choose::image_path(disk), path) else {
            continue;
        };
        let format = disk.driver.as_ref().and_then(|driver| driver.kind);
        let format = format.unwrap_or(StorageFormat::Raw).as_str();
        // A comma ends an option, unless it is doubled.
        let below = below.to_string_lossy().replace(',', ",,");
        let made = part.format.unwrap_or(StorageFormat::Qcow2).as_str();
        let args = vec![
            "create".to_owned(),
            "-f".to_owned(),
            made.to_owned(),
            "-o".to_owned(),
            format!("backing_fmt={format},backing_file={below}"),
            path.to_string_lossy().into_owned(),
        ];
        // What it has made of it when it is killed goes as well.
        if !path.exists() {
            let mut undo = context.steps("an image").await?;
            undo.push("an image", remove(path));
        }
        files::qemu_img(args).await?;
    }
    Ok(())
}

/// Removes an image; a device that has been one stays.
pub(crate) async fn remove(path: PathBuf) -> Result<()> {
    let work = move || remove_image(&path);
    crate::blocking::file("removing an image", work).await
}
