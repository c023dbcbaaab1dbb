//! Starting a guest.
//!
//! ```text
//!  Prepared ──▶ Reserved ──▶ Spawned ──▶ Ready
//!  document     directories   process     monitor answers,
//!  complete,    sockets, fds, held, told  state read, CPUs
//!  checked      ports, owner  on disk     let run, told
//! ```
//!
//! Each stage pushes its undo. The process is told on disk while it is still held back from becoming QEMU: if the daemon
//! dies before, it ends by itself; if after, the next daemon finds it in its status file, not finished, and ends it.
//! A start is told to nobody before it has succeeded; one that fails later than QEMU answers tells that the host ended QEMU.

mod advice;
mod attempt;
mod cpu;
mod label;
mod live;
pub(crate) mod merge;
mod prepare;
mod reserve;
pub mod restore;
mod taint;
mod threads;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use self::{attempt::Attempt, prepare::prepare, restore::Source};
use crate::{
    domain::{
        Condition, Domain, Effects, GONE, Stored, View,
        jobs::{Kind, Long, Want},
    },
    error::{Error, Result},
    ops::{
        Conditions, Driver,
        document::plan,
        host::identity::Identity,
        moments::back::Back,
        operation::{self, Ask, Context, Operation, undo::Undo},
        recover::run_over,
        run::{hooks, stop},
        saves::image::New,
    },
};

/// How to start.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Leave the CPUs stopped.
    pub paused: bool,
    /// Begin with fresh firmware variables.
    pub reset_nvram: bool,
    /// Remove an image of a managed save and boot.
    pub force_boot: bool,
    /// Read an image past the page cache.
    pub bypass_cache: bool,
    /// The session that the run ends with.
    pub session: Option<Arc<str>>,
    /// The snapshot that it goes on from.
    pub(crate) back: Option<Arc<Back>>,
    /// The image that the guest goes on from.
    pub(crate) source: Option<Arc<Source>>,
    /// Its images are merged and nothing else: it stays in its start, and nobody is told of it.
    pub(crate) merges: bool,
}

/// Starts a guest that is defined: from the image of its managed save, if it has one.
///
/// # Errors
/// `OperationInvalid` if it runs; what is wrong with its document, its files, or QEMU. Nothing is left of it then.
pub async fn start(
    driver: &Arc<Driver>,
    domain: &Domain,
    how: How,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let startable = |view: &View| {
        conditions.check(view)?;
        match (view.active(), &view.config) {
            (true, _) => Err(Error::invalid("domain is already running")),
            (false, Some(config)) => Ok(Arc::clone(config)),
            (false, None) => Err(Error::invalid("domain has no configuration to start from")),
        }
    };
    let view = domain.view();
    let config = match startable(&view) {
        // A run that a daemon has found which began a moment ago may be over.
        Err(_) if is_found(driver, &view) => startable(&domain.job(Want::Plain(Kind::Query)).await?.view())?,
        known => known?,
    };
    if conditions.trial {
        Box::pin(prepare(driver, copy(&config)?)).await?;
        return Ok(domain.view());
    }
    let operation = begin(driver, domain, conditions).await?;
    let view = operation.view();
    let config = startable(&view)?;
    let mut how = how;
    let document = match restore::managed(driver, &view, &how).await? {
        Some((source, document)) => {
            how.source = Some(source);
            document
        }
        None => copy(&config)?,
    };
    operation
        .carry_out(|context| carrying_out(context, document, Some(config), how))
        .await
}

/// Whether a guest runs, as its files say, and nobody has been to it yet.
fn is_found(driver: &Driver, view: &View) -> bool {
    view.run.as_ref().is_some_and(|run| !run.starting) && driver.guests.of(view).is_err()
}

/// Begins the operation. It needs no intent: the status file of a run that is not ready is one.
async fn begin(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<Operation> {
    let ask = Ask {
        kind: "start",
        job: Want::Long(Long::Start),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    run_over::before_images_change(driver, domain).await?;
    Ok(operation)
}

/// The guest's memory is in an image: started beside it, the guest would later be set back to a state that its disks are
/// past.
fn is_saved(view: &View) -> Error {
    let text = format!(
        "domain '{}' has a managed save image: start it from there, or remove the image with managedsave-remove",
        view.name
    );
    Error::invalid(text)
}

/// A copy of a stored document, to become a run's.
fn copy(config: &Stored) -> Result<Box<domxml::Domain>> {
    Ok(Box::new(domxml::Domain::clone(&*config.domain()?)))
}

/// Starts a guest from a snapshot, in an operation that is under way.
///
/// # Errors
/// What is wrong with the document, its files, or QEMU. The guest does not run then.
pub(crate) async fn from_snapshot(
    context: Arc<Context>,
    document: Box<domxml::Domain>,
    how: How,
) -> Result<Arc<View>> {
    let config = how.back.as_ref().and_then(|back| back.config.clone());
    carry_out(context, document, config, how).await
}

/// Begins a guest's firmware variables afresh.
///
/// # Errors
/// There is no template for them, or a file can't be written.
pub(crate) async fn renew_nvram(driver: &Driver, document: &domxml::Domain) -> Result<()> {
    if document.os.nvram.is_none() {
        return Ok(());
    }
    let renew = reserve::prepare_nvram(document, Identity::of_guest(&driver.config(), document)?, true);
    crate::blocking::file("writing the firmware's variables", renew).await
}

/// Checks that a guest could be started with a document.
///
/// # Errors
/// What is wrong with it, or with its images.
pub(crate) async fn trial(driver: &Arc<Driver>, document: Box<domxml::Domain>) -> Result<()> {
    prepare(driver, document).await.map(drop)
}

/// Starts a guest from a document that is not stored.
///
/// # Errors
/// As [`start`], and who has its name or UUID.
pub async fn create(
    driver: &Arc<Driver>,
    xml: String,
    validate: bool,
    how: How,
    conditions: &Conditions,
) -> Result<Arc<View>> {
    let planned = plan::from_text(driver, xml, validate).await?;
    let (uuid, name) = plan::identity(&planned.domain)?;
    if conditions.trial {
        let holder = driver.registry.holder(uuid, &name)?;
        creatable(&holder)?;
        Box::pin(prepare(driver, planned.domain)).await?;
        return Ok(Arc::new(View::new(uuid, name.into(), 0)));
    }
    loop {
        let domain = driver.registry.claim(uuid, &name)?;
        let (owned, document, how) = (Arc::clone(driver), planned.domain.clone(), how.clone());
        let attempt = Box::pin(async move { create_claimed(&owned, domain, document, how).await });
        match driver.tracked(attempt).await {
            // Another start of this guest has just failed, and it left: it is a new one now.
            Err(error) if error.reason == Some(GONE) => {}
            other => return other,
        }
    }
}

async fn create_claimed(
    driver: &Arc<Driver>,
    domain: Domain,
    document: Box<domxml::Domain>,
    how: How,
) -> Result<Arc<View>> {
    let attempt = async {
        let operation = begin(driver, &domain, &Conditions::default()).await?;
        let view = operation.view();
        creatable(&view)?;
        // A stored guest that is created keeps its configuration and runs with this document.
        let config = view.config.clone();
        operation
            .carry_out(|context| carrying_out(context, document, config, how))
            .await
    };
    let result = attempt.await;
    if result.is_err() {
        // A handle that never became a guest leaves the registry with its next commit.
        let _ = domain.commit(|_| Ok(Effects::none())).await;
    }
    result
}

/// Whether a guest can be created that may be there already.
fn creatable(view: &View) -> Result<()> {
    if view.active() {
        let text = format!("domain '{}' is already active", view.name);
        return Err(Error::invalid(text).in_area(crate::error::Area::Domain));
    }
    match view.managed_save {
        true => Err(is_saved(view)),
        false => Ok(()),
    }
}

/// The start, ready to be carried out; its type is short, as that of what is in it is not.
fn carrying_out(
    context: Arc<Context>,
    document: Box<domxml::Domain>,
    config: Option<Arc<Stored>>,
    how: How,
) -> BoxFuture<'static, Result<Arc<View>>> {
    Box::pin(carry_out(context, document, config, how))
}

/// All stages, and all of them undone if one fails.
async fn carry_out(
    context: Arc<Context>,
    document: Box<domxml::Domain>,
    config: Option<Arc<Stored>>,
    how: How,
) -> Result<Arc<View>> {
    let driver = context.driver();
    if how.force_boot {
        boot_afresh(&context).await?;
    }
    let (mut undo, mut scripts) = (Undo::default(), hooks::Begun::default());
    let view = context.view();
    let image = driver.registry.store().managed_save_path(&view.name);
    if how.source.is_none() && view.managed_save && !New::exists(&image).await? {
        // It was put aside. One beside which the guest goes back to a snapshot stays.
        let gone = |view: &mut View| {
            view.managed_save = false;
            Ok(Effects::none())
        };
        context.commit_with(gone).await?;
    }
    let _shown = restore::ShownJob::of(&context, &how);
    let session = how.session.clone();
    let attempt = Attempt {
        driver,
        context: &context,
        config,
        how,
    };
    let result = Box::pin(attempt.stages(document, &mut undo, &mut scripts)).await;
    match result {
        Ok(view) => {
            tracing::info!(guest = %view.name, id = view.id(), "started");
            if session.is_some_and(|s| !driver.sessions.is_open(&s)) {
                let (how, anyway) = (stop::How::default(), Conditions::default());
                stop::power_off(driver, context.domain(), how, &anyway).await?;
            }
            Ok(view)
        }
        Err(error) => {
            scripts.stopped(driver).await;
            let failed = undo.unwind().await;
            scripts.released(driver).await;
            note_failure(&context).await;
            Err(operation::with_failed(error, &failed))
        }
    }
}

/// Removes the image of a managed save, which nobody will go on from.
async fn boot_afresh(context: &Context) -> Result<()> {
    let view = context.view();
    if !view.managed_save {
        return Ok(());
    }
    context
        .driver()
        .registry
        .store()
        .remove_managed_save(&view.name)
        .await?;
    let gone = |view: &mut View| {
        view.managed_save = false;
        Ok(Effects::none())
    };
    context.commit_with(gone).await.map(drop)
}

/// A stored guest whose start failed is shut off for that reason.
async fn note_failure(context: &Context) {
    let change = |view: &mut View| {
        if view.run.is_none() {
            view.condition = Condition::SHUTOFF_FAILED;
        }
        Ok(Effects::none())
    };
    // A guest that has gone needs no note.
    let _ = context.commit_with(change).await;
}
