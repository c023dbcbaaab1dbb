//! Making a snapshot.
//!
//! ```text
//!  read the document ─▶ job ─▶ copy the guest's documents ─▶ choose and check every disk ─▶ a trial ends here
//!   internal, running:  CPUs stop ─▶ QEMU's job ─▶ CPUs go on ─▶ recorded
//!   internal, off:      qemu-img, one image after the other   ─▶ recorded
//! ```
//!
//! What has been put into images is taken away again if a later step fails, also by a daemon that comes after a kill.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use domxml::{
    SaveCookie,
    devices::SnapshotMode,
    moment::{Given, Snapshot, check_name},
    status::AsyncJob,
};
use qmp::commands;

use super::{
    choose::{self, Found, Guest as Known, Kind, Wanted},
    delete::images_of,
    external::{self, Beside},
    images::{self, Deed},
    internal,
    memory::Memory,
    records, redefine, without_block_jobs,
};
use crate::{
    domain::{
        Condition, Domain, Effects, RunState, View,
        intents::Intent,
        jobs::{Long, Want},
        long_job::{Kind as JobKind, Outcome},
    },
    error::{Area, Code, Error, Result},
    ops::{
        Conditions, Driver,
        document::{copy, plan, schema},
        graph::{self, lookup},
        holdings::nvram,
        host::identity::Identity,
        operation::{Ask, Context, Operation},
        run::{
            agent,
            cause::Cause,
            cpus,
            guest::Guest,
            long_job::{LongJob, What},
            stop,
        },
        saves::save::end_with_undo,
    },
};

/// Longest document, bytes.
const XML_MAX: usize = 8 << 20;

/// How a snapshot is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// The document tells of a snapshot that is there already.
    pub redefine: bool,
    /// And the guest's present state follows from it.
    pub current: bool,
    /// Nothing is recorded of it.
    pub no_metadata: bool,
    /// The guest ends when it is made.
    pub halt: bool,
    /// Without memory.
    pub disk_only: bool,
    /// In images that are there already.
    pub reuse: bool,
    /// The guest's filesystems are frozen meanwhile.
    pub quiesce: bool,
    /// The guest goes on while its memory is written.
    pub live: bool,
    /// The document is checked against the schema.
    pub validate: bool,
}

impl How {
    /// libvirt's flags.
    pub(crate) fn flags(self) -> u32 {
        let bits = [
            (self.redefine, 1),
            (self.current, 2),
            (self.no_metadata, 4),
            (self.halt, 8),
            (self.disk_only, 16),
            (self.reuse, 32),
            (self.quiesce, 64),
            (self.live, 256),
            (self.validate, 512),
        ];
        bits.into_iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
    }
}

/// Makes a snapshot, or records one. Answers the guest and the snapshot's name.
///
/// # Errors
/// What is wrong with the document, what can't be made so, what QEMU or qemu-img fail at. Nothing is left of it then.
pub async fn create(
    driver: &Arc<Driver>,
    domain: &Domain,
    (document, how): (String, How),
    conditions: &Conditions,
) -> Result<(Arc<View>, String)> {
    let view = domain.view();
    if how.halt && view.config.is_none() {
        return Err(Error::invalid("cannot halt after transient domain snapshot"));
    }
    let mut snapshot = read(&view, document.clone(), how).await?;
    let ask = Ask {
        kind: if how.redefine {
            "redefine-snapshot"
        } else {
            "create-snapshot"
        },
        job: Want::Long(Long::Snapshot),
        conditions,
    };
    if how.redefine {
        let operation = Operation::begin(driver, domain, ask).await?;
        let name = snapshot.moment.name.clone();
        let view = redefine::redefine(driver, operation, snapshot, how).await?;
        return Ok((view, name));
    }
    check_state(&view, &snapshot, how)?;
    let operation = Operation::begin(driver, domain, ask).await?;
    if operation.view().active() != view.active() {
        // It started or ended while others were waited for.
        snapshot = read(&operation.view(), document, how).await?;
        check_state(&operation.view(), &snapshot, how)?;
    }
    let name = snapshot.moment.name.clone();
    let prepared = prepare(driver, &operation.view(), snapshot, how).await?;
    if operation.is_trial() {
        let view = operation.view();
        if let Some(memory) = prepared.beside.memory.transpose()? {
            memory.may_make().await?;
        }
        if view.active() && !how.reuse {
            external::may_make(&prepared.snapshot.disks).await?;
        }
        return Ok((view, name));
    }
    let view = operation
        .carry_out(move |context| Box::pin(carry_out(context, prepared, how)))
        .await?;
    Ok((view, name))
}

/// Checks that such a snapshot can be made of a guest in its state.
fn check_state(view: &View, snapshot: &Snapshot, how: How) -> Result<()> {
    let live_memory = view.active() && snapshot.memory.mode == Some(SnapshotMode::External);
    if how.live && !live_memory {
        let said = "live snapshot creation is supported only during full system snapshots";
        return Err(Error::new(Code::OperationUnsupported, said));
    }
    Known::of(view).check_state()
}

/// Reads a client's document.
async fn read(view: &View, document: String, how: How) -> Result<Snapshot> {
    if document.len() > XML_MAX {
        return Err(Error::argument(format!(
            "the document has {} bytes; the most is {XML_MAX}",
            document.len()
        )));
    }
    if how.validate {
        schema::check_other(&document, schema::Other::Snapshot).await?;
    }
    let given = Given {
        redefine: how.redefine,
        offline: how.disk_only || !view.active(),
    };
    let read = move || Ok(Snapshot::given(&document, given)?);
    let mut snapshot = crate::blocking::file("reading the document of a snapshot", read).await?;
    if !how.redefine {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        snapshot.moment.created = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if snapshot.moment.name.is_empty() {
            snapshot.moment.name = now.as_secs().to_string();
        }
    }
    if !how.no_metadata {
        check_name(&snapshot.moment.name, "snapshot")?;
    }
    Ok(snapshot)
}

/// A snapshot that can be made.
struct Prepared {
    snapshot: Snapshot,
    /// The run that it is of, if the guest runs.
    run: Option<i32>,
    /// The images that it is put into by qemu-img.
    images: Vec<PathBuf>,
    /// The firmware's variables, which are one of them and have to be made first.
    variables: Option<nvram::Copy>,
    kind: Kind,
    /// What an external one has beside its overlays.
    beside: Beside,
}

/// Completes the snapshot with what the guest is, and checks everything.
async fn prepare(driver: &Arc<Driver>, view: &View, mut snapshot: Snapshot, how: How) -> Result<Prepared> {
    let known = Known::of(view);
    let (domain, inactive) = documents(driver, view).await?;
    let wanted = Wanted {
        disk_only: how.disk_only,
        reuse: how.reuse,
    };
    let chosen = move || {
        let is_file = |path: &str| Path::new(path).is_file();
        let kind = choose::choose(&mut snapshot, &domain, (known, wanted), &is_file)?;
        snapshot.moment.domain = Some(domain);
        snapshot.inactive = inactive;
        Ok((snapshot, kind))
    };
    let (mut snapshot, kind) = crate::blocking::file("looking at the guest's images", chosen).await?;
    let (images, manual) = check_disks(view, &mut snapshot, how).await?;
    if kind == Kind::External && !known.active && !view.checkpoints.is_empty() {
        let said = "support for offline external snapshots while checkpoint exists was not yet implemented";
        return Err(Error::new(Code::OperationUnsupported, said));
    }
    let name = &snapshot.moment.name;
    if view.snapshots.get(name).is_some() {
        let said = format!("domain moment {name} already exists");
        return Err(Error::new(Code::OperationFailed, said).in_area(Area::Domain));
    }
    let has_memory = snapshot.memory.mode == Some(SnapshotMode::External);
    if known.active && kind == Kind::Internal {
        without_block_jobs(view)?;
    }
    if known.active && (kind == Kind::Internal || has_memory) {
        snapshot.cookie = cookie(view);
    }
    let memory = match has_memory && known.active {
        true => {
            let guest = driver.guests.of(view)?;
            let runs = known.state == RunState::Running;
            let cookie = snapshot.cookie.as_ref();
            Some(Memory::plan(driver, (view, &guest), &snapshot, cookie, runs).await)
        }
        false => None,
    };
    if how.quiesce {
        agent::available(view)?;
    }
    for (image, _) in &images {
        no_namesake(image.clone(), name).await?;
    }
    snapshot.moment.parent = view.snapshots.current().map(|current| current.name.to_string());
    let mut images: Vec<_> = images.into_iter().map(|(image, _)| image).collect();
    let mut variables = None;
    if known.active {
        images.clear();
    } else if !images.is_empty() {
        variables = missing_variables(driver, &snapshot).await?;
        images.extend(variables.as_ref().map(|copy| copy.path.clone()));
    }
    Ok(Prepared {
        images,
        variables,
        snapshot,
        run: known.active.then(|| view.id()),
        kind,
        beside: Beside { manual, memory },
    })
}

/// The firmware's variables that are to be made, so that they have a part of an internal snapshot.
async fn missing_variables(driver: &Driver, snapshot: &Snapshot) -> Result<Option<nvram::Copy>> {
    let Some(document) = snapshot.moment.domain.clone() else {
        return Ok(None);
    };
    if snapshot_nvram(&document).is_none() {
        return Ok(None);
    }
    let identity = Identity::of_guest(&driver.config(), &document)?;
    let look = move || nvram::missing(&document, identity, false);
    crate::blocking::file("looking at the firmware's variables", look).await
}

/// The guest's document as the snapshot keeps it, and its stored one beside that if it runs.
async fn documents(
    driver: &Arc<Driver>,
    view: &View,
) -> Result<(Box<domxml::Domain>, Option<Box<domxml::Domain>>)> {
    let stored = match &view.config {
        Some(config) => Some(Box::new(domxml::Domain::clone(&*config.domain()?))),
        None => None,
    };
    if !view.active() {
        let missing = || Error::internal("the domain has no document");
        return Ok((stored.ok_or_else(missing)?, None));
    }
    Ok((copy::of_next_start(driver, view).await?, stored))
}

/// Checks each disk. Answers the images that get an internal part, with their disks' names, and whether somebody else makes
/// a part of the snapshot.
async fn check_disks(
    view: &View,
    snapshot: &mut Snapshot,
    how: How,
) -> Result<(Vec<(PathBuf, String)>, bool)> {
    let domain = snapshot.moment.domain.take();
    let document = domain
        .as_deref()
        .ok_or_else(|| Error::internal("missing domain in snapshot"))?;
    let (active, state) = (view.active(), snapshot.state);
    let (mut found, mut images) = (Found::default(), Vec::new());
    for part in &mut snapshot.disks {
        let disk = graph::disk(document, &part.name)?;
        if part.mode != Some(SnapshotMode::No) {
            check_free(view, &part.name)?;
        }
        match part.mode {
            Some(SnapshotMode::Internal) => {
                choose::check_internal(disk, state, active)?;
                images.extend(choose::image_path(disk).map(|path| (path, part.name.clone())));
            }
            Some(SnapshotMode::External) => {
                external::check(disk, part, active)?;
                external::look(part, how.reuse).await?;
            }
            _ => {}
        }
        found.add(disk, part);
    }
    found.check(snapshot)?;
    let internal = !images.is_empty();
    if active && internal {
        choose::check_nvram(document)?;
    } else if let Some(nvram) = qcow2_nvram(document).filter(|_| internal) {
        images.push((nvram, "nvram".to_owned()));
    }
    snapshot.moment.domain = domain;
    Ok((images, found.manual))
}

/// The file of a guest's firmware variables, if it can have snapshots.
fn snapshot_nvram(document: &domxml::Domain) -> Option<PathBuf> {
    let nvram = document.os.nvram.as_ref()?;
    let is_qcow2 = nvram.format.as_deref() == Some("qcow2");
    plan::nvram_path(document).filter(|_| is_qcow2)
}

/// The same, if it is there.
pub(crate) fn qcow2_nvram(document: &domxml::Domain) -> Option<PathBuf> {
    snapshot_nvram(document).filter(|path| path.exists())
}

/// Refuses a disk that is at work.
fn check_free(view: &View, target: &str) -> Result<()> {
    match &view.run {
        Some(run) => lookup::check_free(view, graph::disk(&run.document.domain, target)?),
        None => Ok(()),
    }
}

/// Refuses a name that a snapshot in an image has already: one that nothing is recorded of.
async fn no_namesake(image: PathBuf, name: &str) -> Result<()> {
    let shown = image.display().to_string();
    match images::find(image, name).await? {
        Some(_) => Err(Error::new(
            Code::OperationFailed,
            format!(
                "the image '{shown}' has an internal snapshot '{name}' already, of which nothing is recorded"
            ),
        )),
        None => Ok(()),
    }
}

/// What a start from the memory must know.
fn cookie(view: &View) -> Option<SaveCookie> {
    let document = &view.run.as_ref()?.document.domain;
    Some(SaveCookie {
        cpu: copy::cpu_of_run(document),
        slirp_helper: copy::user_networks_go_along(document),
        ..SaveCookie::default()
    })
}

async fn carry_out(context: Arc<Context>, prepared: Prepared, how: How) -> Result<Arc<View>> {
    let Prepared {
        snapshot,
        images,
        variables,
        run,
        kind,
        beside,
    } = prepared;
    let view = context.view();
    if view.active().then(|| view.id()) != run {
        // What was prepared is of a run that has ended since.
        return Err(Error::not_running());
    }
    match (kind, run.is_some()) {
        (Kind::External, true) => return Box::pin(external::running(context, snapshot, how, beside)).await,
        (Kind::External, false) => return external::off(context, snapshot, how).await,
        (Kind::Internal, true) => return running(context, snapshot, how).await,
        (Kind::Internal, false) => {}
    }
    let name = snapshot.moment.name.clone();
    context
        .intend_off(Intent::CreateSnapshot {
            name: name.clone(),
            nodes: Vec::new(),
            images: images
                .iter()
                .map(|image| image.to_string_lossy().into_owned())
                .collect(),
            resume: false,
        })
        .await?;
    if let Some(copy) = variables {
        let path = copy.path.clone();
        let make = crate::blocking::file("making the firmware's variables", move || copy.make());
        let unmake = external::remove(path);
        context.step("the firmware's variables", make, unmake).await?;
    }
    for image in images {
        let (again, tag) = ([image.clone()], name.clone());
        {
            // Also where qemu-img is killed when the image has it.
            let what = "a snapshot in an image";
            let mut undo = context.steps(what).await?;
            undo.push(what, async move { images::take_back(&tag, &again).await });
        }
        images::carry_out(Deed::Create, &name, &image).await?;
    }
    record(&context, snapshot, how).await
}

/// Has QEMU make the snapshot while the CPUs stand.
async fn running(context: Arc<Context>, snapshot: Snapshot, how: How) -> Result<Arc<View>> {
    let driver = context.driver();
    let view = context.view();
    let guest = driver.guests.of(&view)?;
    let name = snapshot.moment.name.clone();
    let place = internal::place_of_new(&snapshot, &view.running()?.document.domain)?;
    let images = images_of(&snapshot);
    may_move(&guest).await?;
    let runs = view.condition.state() == RunState::Running;
    context
        .intend(Intent::CreateSnapshot {
            name: name.clone(),
            nodes: place.devices.clone(),
            images: images
                .iter()
                .map(|image| image.to_string_lossy().into_owned())
                .collect(),
            resume: runs,
        })
        .await?;
    let job = LongJob::begin(&context, long_job(how)).await?;
    end_with_undo(&context, &job).await?;
    if runs {
        stop_cpus(&context, &guest, Condition::PAUSED_SAVE).await?;
    }
    let (again, tag, where_to) = (Arc::clone(&guest), name.clone(), place.clone());
    context
        .step(
            "the snapshot in the images",
            internal::save(&guest, &name, place),
            async move {
                match internal::take_back(&again, &tag, where_to).await {
                    Err(error) if again.ended_with(&error).await => images::take_back(&tag, &images).await,
                    result => result,
                }
            },
        )
        .await?;
    if runs && !how.halt {
        resume_cpus(driver, &guest).await?;
    }
    let leave = |view: &mut View| {
        LongJob::leave(view);
        Ok(())
    };
    record_with(&context, snapshot, how, leave).await?;
    job.end(Outcome::Completed, None).await;
    if !how.halt {
        return Ok(context.view());
    }
    guest.end_because(Cause::FromSnapshot);
    stop::terminate(driver, &guest, stop::Patience::Usual).await?;
    Ok(context.view())
}

/// The job that a snapshot of a running guest is.
pub(crate) fn long_job(how: How) -> What {
    What {
        kind: JobKind::Snapshot,
        word: AsyncJob::Snapshot,
        name: "snapshot",
        flags: how.flags(),
        uncancellable: None,
    }
}

/// Stops the CPUs, and lets them run again if a later step fails.
pub(crate) async fn stop_cpus(context: &Context, guest: &Arc<Guest>, condition: Condition) -> Result<()> {
    guest.expect_pause(condition);
    let stop = async { guest.execute(commands::Stop {}).await.map(drop) };
    let (driver, again) = (Arc::clone(context.driver()), Arc::clone(guest));
    context
        .step(
            "the CPUs",
            stop,
            async move { resume_cpus(&driver, &again).await },
        )
        .await
}

/// Lets the CPUs run, unless the guest has ended. QEMU's own event tells of it.
pub(crate) async fn resume_cpus(driver: &Driver, guest: &Guest) -> Result<()> {
    if guest.process()?.has_exited() {
        return Ok(());
    }
    let cont = async { guest.execute(commands::Cont {}).await.map(drop) };
    match cpus::run_cpus(driver, guest, cont).await {
        Err(error) if guest.ended_with(&error).await => Ok(()),
        result => result,
    }
}

/// Refuses a guest whose memory can't be written.
///
/// # Errors
/// `OperationInvalid` with QEMU's reasons.
pub(crate) async fn may_move(guest: &Guest) -> Result<()> {
    let answer = guest.execute(commands::QueryMigrate {}).await?;
    let reasons = answer
        .get("blocked-reasons")
        .and_then(serde_json::Value::as_array);
    let reasons: Vec<_> = reasons
        .into_iter()
        .flatten()
        .filter_map(|reason| reason.as_str())
        .collect();
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "cannot migrate domain: {}",
            reasons.join("; ")
        ))),
    }
}

/// Records the snapshot, which the guest's state follows from now.
async fn record(context: &Context, snapshot: Snapshot, how: How) -> Result<Arc<View>> {
    record_with(context, snapshot, how, |_| Ok(())).await
}

/// The same with a change of the guest's documents.
///
/// # Errors
/// The files can't be written.
pub(crate) async fn record_with(
    context: &Context,
    snapshot: Snapshot,
    how: How,
    also: impl FnOnce(&mut View) -> Result<()> + Send + 'static,
) -> Result<Arc<View>> {
    let change = match how.no_metadata {
        true => None,
        false => {
            let view = context.view();
            let mut batch = records::Batch::of(context.driver(), &view);
            let name = snapshot.moment.name.clone();
            batch.put(snapshot);
            batch.make_current(&name);
            if let Some(former) = view.snapshots.current().filter(|former| former.external) {
                // Their images are of the new one's past now.
                batch.edit(&former.name).await?.revert_disks.clear();
            }
            Some(batch.finish().await?)
        }
    };
    let commit = move |view: &mut View| {
        also(view)?;
        if let Some(change) = change {
            change.apply(view)?;
        }
        Ok(Effects::none())
    };
    context.commit_with(commit).await
}
